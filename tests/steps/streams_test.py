"""What streams carry from step to step, against NumPy and in any division of rows and steps."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tests import numpy_network
from tests.steps import runs
from trainer.steps.fused import Fused

make = functools.partial(runs.make, streams=True)
# A step of it moves no weight.
STILL = {"optimizer": "sgd", "momentum": 0.0, "learning_rate": 1e-300}


def losses_of(made, weights, tokens, carry=None):
    """Returns (the loss of each token after the first [rows, tokens], the carry after them)."""
    settings = made.config.model
    scores, after = numpy_network.step_scores(settings, weights, tokens[:, :-1], carry)
    log_p = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    return -np.take_along_axis(log_p, tokens[:, 1:, None], axis=-1)[..., 0], after


# --- Against NumPy --------------------------------------------------------------------------------

SHAPES = [
    {"cell": "simple_rnn"},
    {"cell": "lstm", "units": (4, 3)},
    {"cell": "gru", "tied_embedding": True},
    {"cell": "lstm", "tied_embedding": True, "units": (3,)},  # as wide as the embedding
    {"cell": "lstm", "units": (4, 3), "jit": "on"},
]


@pytest.mark.parametrize("flags", SHAPES, ids=str)
def test_chunks_cost_what_the_whole_text_costs_in_one_pass(flags):
    """Four chunks of eight tokens and one chunk of 32 have the same losses and the same end."""
    made = make(**STILL, **flags)
    assert made.batches.plan.epochs.end(1) >= 4
    places = made.batches.plan.examples(0)[:, None] + np.arange(4 * 8 + 1)
    text = runs.a_text().inputs
    costs, after = losses_of(made, runs.weights_of(made), text[places % len(text)])
    metrics = runs.run(made, 4)
    expected = costs.reshape(runs.BATCH, 4, 8).sum(axis=(0, 2))
    np.testing.assert_allclose(metrics.sums["loss_sum"], expected, rtol=1e-12)
    np.testing.assert_array_equal(metrics.sums["count"], [8 * runs.BATCH] * 4)
    assert runs.carry_of(made).keys() == after.keys()
    for name, rows in runs.carry_of(made).items():
        np.testing.assert_allclose(rows, after[name], rtol=1e-11, atol=1e-14, err_msg=name)


@pytest.mark.parametrize("flags", SHAPES[1:4], ids=str)
def test_steps_are_those_of_numpy_with_the_carry_as_a_constant(flags):
    """SGD at rate 1 subtracts the gradient; the state is what older weights made of the text."""
    made = make(optimizer="sgd", momentum=0.0, learning_rate=1.0, label_smoothing=0.1, **flags)
    weights = runs.weights_of(made)
    carry = {name: np.zeros_like(rows) for name, rows in runs.carry_of(made).items()}
    source = made.steps.source(made.batches, 0)
    for step in range(3):
        batch = made.batches.batch(step)
        loss, gradients = runs.numpy_gradients(made, batch, weights, 0.1, carry=carry)
        _, carry = numpy_network.step_scores(made.config.model, weights, batch.inputs, carry)
        metrics = made.steps.run(source, 1)
        np.testing.assert_allclose(metrics.sums["loss_sum"], [loss], rtol=1e-11)
        np.testing.assert_allclose(metrics.gradient_norm, [runs.norm_of(gradients)], rtol=1e-9)
        for name, gradient in gradients.items():
            moved = weights[name] - made.state.weights[name].numpy()
            np.testing.assert_allclose(moved, gradient, rtol=1e-8, atol=1e-13, err_msg=name)
            weights[name] = weights[name] - gradient
        for name, rows in runs.carry_of(made).items():
            np.testing.assert_allclose(rows, carry[name], rtol=1e-9, atol=1e-13, err_msg=name)


def test_the_next_token_is_learned():
    metrics = runs.run(make(cell="gru", learning_rate=0.03), 100)
    losses = metrics.sums["loss_sum"]
    assert losses[-10:].mean() < 0.7 * losses[:10].mean()
    assert metrics.sums["correct"][-10:].mean() > 2 * metrics.sums["correct"][:10].mean()


# --- Any division ---------------------------------------------------------------------------------


@functools.cache
def ten_steps(**flags):
    """Returns (metrics, snapshot) of ten steps; any division of the rows must agree with them."""
    made = make(**{"dropout": 0.3, "clip_norm": 0.5, **flags})
    return runs.run(made, 10), made.state.snapshot()


FEW = [
    {"accumulate": 3, "shards": 2},
    {"devices": 2, "shards": 2, "accumulate": 2},
    {"devices": 4, "device_type": "GPU"},
    {"device_type": "TPU", "accumulate": 2},
]
MORE = [{"devices": 2}, {"devices": 4}, {"shards": 2}, {"shards": 3}, {"accumulate": 2}]
TWO_LAYERS = {"cell": "lstm", "units": (4, 3), "tied_embedding": True}


@pytest.mark.parametrize(
    "model, division",
    [
        *(({}, division) for division in FEW),
        (TWO_LAYERS, {"devices": 2}),
        *(pytest.param({}, division, marks=pytest.mark.slow) for division in MORE),
        *(pytest.param(TWO_LAYERS, division, marks=pytest.mark.slow) for division in FEW + MORE),
    ],
    ids=str,
)
def test_any_division_of_the_streams_takes_the_same_steps_and_carries_the_same(model, division):
    (expected, whole), (metrics, ours) = ten_steps(**model), ten_steps(**model, **division)
    np.testing.assert_array_equal(metrics.sums["count"], expected.sums["count"])
    np.testing.assert_array_equal(metrics.sums["correct"], expected.sums["correct"])
    np.testing.assert_allclose(metrics.sums["loss_sum"], expected.sums["loss_sum"], rtol=1e-11)
    np.testing.assert_allclose(metrics.gradient_norm, expected.gradient_norm, rtol=1e-10)
    assert ours.keys() == whole.keys()
    for name, value in whole.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-8, atol=1e-11, err_msg=name)
    for name, rows in whole.items():
        if name.startswith("carry/"):
            assert rows.shape[0] == runs.BATCH and np.abs(rows).max() > 1e-3


@pytest.mark.parametrize("devices", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("device_type", ["CPU", "GPU"])
def test_every_replica_holds_what_all_streams_carry_bit_for_bit(devices, device_type):
    made = make(devices=devices, device_type=device_type, dropout=0.3, precision="float32")
    runs.run(made, 3)
    for name, variable in made.state.carry.items():
        copies = made.placement.strategy.experimental_local_results(variable)
        assert len(copies) == devices
        assert len({copy.numpy().tobytes() for copy in copies}) == 1, name


def test_fused_steps_are_those_of_separate_programs():
    flags = {"jit": "on", "dropout": 0.3, "tied_embedding": True}
    ours, expected = make(**flags, fuse="on"), make(**flags)
    assert isinstance(ours.steps, Fused) and not isinstance(expected.steps, Fused)
    metrics, theirs = runs.run(ours, 40), runs.run(expected, 40)
    np.testing.assert_allclose(metrics.sums["loss_sum"], theirs.sums["loss_sum"], rtol=1e-12)
    for name, rows in runs.carry_of(expected).items():
        np.testing.assert_allclose(runs.carry_of(ours)[name], rows, rtol=1e-10, atol=1e-14)


# --- Stops and resumes ----------------------------------------------------------------------------


def nine_steps(loops, **flags):
    """Returns (metrics, snapshot) of nine steps in loops of these lengths; None: new objects."""
    made, step, sums = make(dropout=0.4, ema=0.9, **flags), 0, []
    source = made.steps.source(made.batches, 0)
    for count in loops:
        if count is None:
            saved, made = made.state.snapshot(), make(dropout=0.4, ema=0.9, **flags)
            assert any(name.startswith("carry/") for name in saved)
            made.state.restore(saved, "the snapshot")
            source = made.steps.source(made.batches, step)
        else:
            metrics = made.steps.run(source, count)
            sums.append(np.stack([*metrics.sums.values(), metrics.gradient_norm]))
            step += count
    return np.concatenate(sums, axis=1), made.state.snapshot()


@pytest.mark.parametrize(
    "flags",
    [
        {"precision": "float32", "devices": 2},
        pytest.param({"precision": "float32", "jit": "on", "fuse": "on"}, marks=pytest.mark.slow),
        pytest.param({"precision": "float16", "cell": "gru"}, marks=pytest.mark.slow),
        {"precision": "bfloat16", "tied_embedding": True, "accumulate": 2},
    ],
    ids=str,
)
def test_neither_the_length_of_a_loop_nor_a_resume_changes_a_bit(flags):
    expected, whole = nine_steps((9,), **flags)
    metrics, ours = nine_steps((1, 3, None, 5), **flags)
    assert metrics.tobytes() == expected.tobytes()
    runs.assert_same_bits(ours, whole)


def test_without_what_was_carried_a_resume_would_be_another_run():
    """So the two tests above do test the carry."""
    made = make()
    runs.run(made, 3)
    saved, others = made.state.snapshot(), make()
    others.state.restore(saved, "the snapshot")
    for rows in others.state.carry.values():
        rows.assign(tf.zeros_like(rows))
    losses = [runs.run(each, 1, first=3).sums["loss_sum"][0] for each in (made, others)]
    assert abs(losses[0] - losses[1]) > 1e-6


@pytest.mark.parametrize("devices", [1, 2])
def test_an_epoch_begins_with_nothing_carried(devices):
    made = make(devices=devices, **STILL)
    runs.run(made, 2)
    assert all(np.abs(rows).max() > 0 for rows in runs.carry_of(made).values())
    made.state.begin_epoch()
    for variable in made.state.carry.values():
        for copy in made.placement.strategy.experimental_local_results(variable):
            assert not copy.numpy().any()
    batch = made.batches.batch(5)
    costs, _ = losses_of(
        made, runs.weights_of(made), np.concatenate([batch.inputs, batch.targets[:, -1:]], axis=1)
    )
    metrics = runs.run(made, 1, first=5)
    np.testing.assert_allclose(metrics.sums["loss_sum"], [costs.sum()], rtol=1e-12)


@pytest.mark.parametrize("flags", [{}, {"jit": "on", "fuse": "on"}, {"devices": 2}], ids=str)
def test_warming_up_carries_nothing(flags):
    made = make(**flags)
    runs.run(made, 2)
    before = made.state.snapshot()
    made.steps.warm_up(8, runs.BATCH)
    runs.assert_same_bits(made.state.snapshot(), before)


# --- Steps without an update ----------------------------------------------------------------------


def test_a_gradient_too_large_for_float16_makes_no_update_but_the_streams_go_on():
    made = make(precision="float16", learning_rate=1e-3)
    bias = made.state.weights["logits/bias"]
    bias.assign(np.where(np.arange(runs.VOCABULARY) == 0, 30.0, -30.0))  # 0 is in no text.
    before = runs.weights_of(made)
    exact = {name: weight.astype(np.float64) for name, weight in before.items()}
    source, carry, skipped = made.steps.source(made.batches, 0), None, 0
    while not (metrics := made.steps.run(source, 1)).gradient_norm[0]:
        assert np.isfinite(metrics.sums["loss_sum"]).all()
        runs.assert_same_bits(runs.weights_of(made), before)
        tokens = made.batches.batch(skipped).inputs
        _, carry = numpy_network.step_scores(made.config.model, exact, tokens, carry)
        for name, rows in runs.carry_of(made).items():
            np.testing.assert_allclose(rows, carry[name], atol=2e-3, err_msg=name)
        skipped += 1
    assert skipped >= 1
    assert made.state.scaling()["skipped_steps"] == skipped


@pytest.mark.parametrize("devices", [1, 2])
def test_on_a_gpu_a_step_that_is_not_finite_leaves_also_what_the_streams_carry(devices):
    """The run ends at that step, and nothing after it is saved: the state is that before it."""
    made = make(devices=devices, device_type="GPU", ema=0.9)
    source = made.steps.source(made.batches, 0)
    made.steps.run(source, 2)
    bias = made.state.weights["logits/bias"]
    bias.assign(np.where(np.arange(runs.VOCABULARY) == 1, np.nan, bias.numpy()))
    before = made.state.snapshot()
    metrics = made.steps.run(source, 3)
    assert not np.isfinite(metrics.sums["loss_sum"]).any() and len(metrics.gradient_norm) == 3
    runs.assert_same_bits(made.state.snapshot(), before)


@pytest.mark.parametrize("flags", [{}, {"jit": "on", "fuse": "on"}], ids=str)
def test_on_a_cpu_a_step_that_is_not_finite_is_the_last(flags):
    made = make(**flags)
    source = made.steps.source(made.batches, 0)
    made.steps.run(source, 2)
    bias = made.state.weights["logits/bias"]
    bias.assign(np.where(np.arange(runs.VOCABULARY) == 1, np.nan, bias.numpy()))
    assert len(made.steps.run(source, 5).gradient_norm) == 1
    assert made.state.step.numpy() == 3
