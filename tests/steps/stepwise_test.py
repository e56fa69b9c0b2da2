"""Steps one after the other: what is compiled, and when."""

import numpy as np
import pytest

from tests.steps import runs


@pytest.mark.parametrize(
    "flags, gradients",
    [
        pytest.param({"devices": 1, "shards": 1}, 1, marks=pytest.mark.slow),
        pytest.param({"devices": 1, "shards": 3}, 2, marks=pytest.mark.slow),  # 14 rows: 4, 5 and 5
        ({"devices": 2, "shards": 1}, 2),  # a program for each device
    ],
)
def test_each_shape_is_compiled_once_and_before_it_is_needed(tmp_path, flags, gradients):
    found = runs.compiled(tmp_path, max_length=16, jit="on", **flags)
    assert found["lengths"] == [8, 16]
    assert runs.kinds(found["warm"]) == {"shard_gradient": 2 * gradients}
    updates = {"apply": flags["devices"]}
    assert runs.kinds(found["first"]) == {"shard_gradient": 2 * gradients, **updates}
    assert found["all"] == found["first"]


ALL_MASKS = {"cell": "lstm", "dropout": 0.3, "word_dropout": 0.2, "clip_norm": 0.5, "jit": "auto"}


@pytest.mark.parametrize("devices", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_the_step_of_a_gpu_is_that_of_a_cpu(devices):
    """With its own clock, rule for steps that are not finite, compiled update and masks."""
    expected, ours = (
        runs.make(**where, **ALL_MASKS)
        for where in ({}, {"devices": devices, "device_type": "GPU"})
    )
    metrics, found = runs.run(expected, 4), runs.run(ours, 4)
    np.testing.assert_allclose(found.sums["loss_sum"], metrics.sums["loss_sum"], rtol=1e-12)
    np.testing.assert_allclose(found.gradient_norm, metrics.gradient_norm, rtol=1e-12)
    for name, weight in runs.weights_of(expected).items():
        np.testing.assert_allclose(runs.weights_of(ours)[name], weight, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("precision", ["float32", pytest.param("float16", marks=pytest.mark.slow)])
def test_every_replica_holds_the_same_state_bit_for_bit(precision):
    made = runs.make(devices=3, dropout=0.3, ema=0.9, precision=precision)
    runs.run(made, 5)
    for name, variable in made.state.named().items():
        copies = [
            part.numpy() for part in made.placement.strategy.experimental_local_results(variable)
        ]
        assert len(copies) == 3 and len({copy.tobytes() for copy in copies}) == 1, name
    assert made.state.step.numpy() == 5


@pytest.mark.parametrize("devices", [1, 2])
def test_on_a_gpu_a_step_that_is_not_finite_is_in_the_metrics_and_leaves_the_state(devices):
    made = runs.make(devices=devices, device_type="GPU", ema=0.9)
    source = made.steps.source(made.batches, 0)
    made.steps.run(source, 2)
    bias = made.state.weights["logits/bias"]
    bias.assign(np.where(np.arange(runs.CLASSES) == 1, np.nan, bias.numpy()))
    before = made.state.snapshot()
    metrics = made.steps.run(source, 3)
    assert not np.isfinite(metrics.sums["loss_sum"]).any() and len(metrics.gradient_norm) == 3
    runs.assert_same_bits(made.state.snapshot(), before)
