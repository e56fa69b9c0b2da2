"""The gradient of a step against NumPy, in any division of the batch and any precision."""

import numpy as np
import pytest
import tensorflow as tf

from tests import numpy_network
from tests.steps import runs
from trainer.devices.placement import Placement
from trainer.steps.gradient import Computed, Gradient
from trainer.steps.parts import part_of


@pytest.mark.parametrize(
    "flags",
    [
        {"jit": "on"},
        {"label_smoothing": 0.2, "class_weights": (0.5, 2.0, 1.0)},
        {"shards": 3, "accumulate": 2},
        {"devices": 2, "shards": 2},
        {"cell": "gru", "bidirectional": True, "pooling": "mean"},
        {"cell": "lstm", "padding": "pre", "one_hot": True},
        pytest.param(
            {"cell": "lstm", "units": (3, 2), "bidirectional": True, "devices": 2, "jit": "on"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_step_moves_by_the_gradient_of_the_mean_loss(flags):
    made, batch, before, metrics, moved = runs.one_plain_step(**flags)
    smoothing, class_weights = flags.get("label_smoothing", 0.0), flags.get("class_weights")
    loss_sum, expected = runs.numpy_gradients(made, batch, before, smoothing, class_weights)
    scores = numpy_network.logits(made.config.model, before, batch.inputs, batch.lengths)
    np.testing.assert_allclose(metrics.sums["loss_sum"], [loss_sum], rtol=1e-12)
    np.testing.assert_allclose(metrics.gradient_norm, [runs.norm_of(expected)], rtol=1e-10)
    assert metrics.sums["correct"].tolist() == [(scores.argmax(axis=1) == batch.targets).sum()]
    assert metrics.sums["count"].tolist() == [runs.BATCH]
    assert 0 <= metrics.input_seconds[0] < 60
    for name, gradient in expected.items():
        np.testing.assert_allclose(moved[name], gradient, rtol=1e-9, atol=1e-14, err_msg=name)


# Of the norm of a weight's gradient. Rounding errors of a format with p bits, 2^-p each, add up
# over steps and rows.
BOUNDS = {"float32": 2e-6, "bfloat16": 5e-2, "float16": 5e-3}


@pytest.mark.parametrize("precision, bound", BOUNDS.items())
@pytest.mark.parametrize(
    "cell, jit",
    [
        ("lstm", "off"),
        *(
            pytest.param(cell, "on", marks=pytest.mark.slow)
            for cell in ("simple_rnn", "lstm", "gru")
        ),
    ],
)
def test_gradients_in_each_precision_are_near_those_of_float64(precision, bound, cell, jit):
    made, batch, before, metrics, moved = runs.one_plain_step(
        precision=precision, cell=cell, jit=jit
    )
    loss_sum, expected = runs.numpy_gradients(made, batch, before)
    np.testing.assert_allclose(metrics.sums["loss_sum"], [loss_sum], rtol=bound)
    for name, gradient in expected.items():
        assert np.linalg.norm(moved[name] - gradient) < bound * np.linalg.norm(gradient) + 1e-7, (
            name
        )


# --- Streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "devices, device_type", [(2, "CPU"), (3, "CPU"), (4, "GPU"), (2, "TPU")], ids=str
)
def test_vectors_are_added_up_and_what_streams_carry_is_joined(devices, device_type):
    """Every replica gets all rows in the order of the batch, also if replicas have unequal ones."""
    made = runs.make(devices=devices, device_type=device_type, streams=True, cell="lstm")
    gradient, strategy = made.steps._gradient, made.placement.strategy
    whole = {
        name: np.random.default_rng(1).normal(size=(runs.BATCH, spec.shape[-1]))
        for name, spec in made.network.carried.items()
    }

    def of_replica():
        number = made.placement.local_replica()
        vector = tf.cast(tf.stack([number, 1]), tf.float64)
        return Computed(vector, (), part_of(whole, number, devices))

    @tf.function(autograph=False)
    def joined():
        if device_type == "TPU":
            return strategy.run(lambda: gradient.over_replicas(of_replica()))
        return gradient.over_workers(strategy.run(of_replica))

    whole = {name: tf.constant(rows) for name, rows in whole.items()}
    vectors, _, carry = joined()
    for vector in strategy.experimental_local_results(vectors):
        np.testing.assert_array_equal(vector, [sum(range(devices)), devices])
    assert list(carry) == list(whole)
    for name, rows in carry.items():
        for copy in strategy.experimental_local_results(rows):
            np.testing.assert_array_equal(copy, whole[name])


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_the_rows_of_several_workers_are_joined_in_the_same_sum(monkeypatch, workers):
    """What each worker adds, without the others: their sum is the vectors' and all rows."""
    made = runs.make(streams=True, cell="lstm")
    whole = {
        name: np.random.default_rng(1).normal(size=(runs.BATCH, spec.shape[-1]))
        for name, spec in made.network.carried.items()
    }
    monkeypatch.setattr(Placement, "local_replica", lambda self: tf.constant(0))
    total = 0
    for worker in range(workers):
        placement = Placement(made.placement.strategy, "CPU", ("CPU:0",), worker, workers)
        gradient = Gradient(made.network, placement, made.config, made.state.task, carries=True)
        first, end = placement.rows(runs.BATCH)
        own = {name: tf.constant(rows[first:end]) for name, rows in whole.items()}
        total += gradient._with_carry(tf.constant([1.0, worker], tf.float64), own)
    vector, carry = gradient._without_carry(total)
    np.testing.assert_array_equal(vector, [workers, sum(range(workers))])
    for name, rows in whole.items():
        np.testing.assert_array_equal(carry[name], rows)
