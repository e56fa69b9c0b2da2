"""What both ways to run train steps must do, and which of them a run gets."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tests.steps import runs
from trainer.steps.fused import Fused
from trainer.steps.stepwise import Stepwise

# --- Replicas, shards, parts ----------------------------------------------------------------------


@functools.cache
def hundred_steps(**flags):
    """Returns (metrics, weights) of 100 steps with dropout; any split must agree with them."""
    made = runs.make(**{"dropout": 0.3, "clip_norm": 0.5, "jit": "on", **flags})
    return runs.run(made, 100), runs.weights_of(made)


SPLITS = [
    {"devices": 2, "shards": 2, "accumulate": 2},
    pytest.param({"devices": 4}, marks=pytest.mark.slow),
    {"fuse": "on"},
    pytest.param({"devices": 2}, marks=pytest.mark.slow),
    pytest.param({"shards": 3}, marks=pytest.mark.slow),
    pytest.param({"accumulate": 3}, marks=pytest.mark.slow),
    pytest.param({"devices": 4, "shards": 3}, marks=pytest.mark.slow),
    pytest.param({"shards": 2, "accumulate": 3}, marks=pytest.mark.slow),
    pytest.param({"devices": 2, "accumulate": 3, "jit": "off"}, marks=pytest.mark.slow),
    pytest.param(
        {"devices": 4, "cell": "lstm", "bidirectional": True, "pooling": "max"},
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize("split", SPLITS)
def test_any_split_of_the_batch_takes_the_same_hundred_steps(split):
    """In float64, another order of additions differs in the last digits only.

    A gradient that is summed twice, or another mask of dropout, differs more.
    """
    whole = {
        name: value
        for name, value in split.items()
        if name not in ("devices", "shards", "accumulate", "fuse")
    }
    (expected, weights), (metrics, ours) = hundred_steps(**whole), hundred_steps(**split)
    np.testing.assert_array_equal(metrics.sums["count"], np.full(100, runs.BATCH))
    np.testing.assert_array_equal(metrics.sums["correct"], expected.sums["correct"])
    np.testing.assert_allclose(metrics.sums["loss_sum"], expected.sums["loss_sum"], rtol=1e-9)
    np.testing.assert_allclose(metrics.gradient_norm, expected.gradient_norm, rtol=1e-9)
    for name, weight in weights.items():
        np.testing.assert_allclose(ours[name], weight, rtol=1e-7, atol=1e-9, err_msg=name)
    losses = metrics.sums["loss_sum"]
    assert losses[-20:].mean() < 0.8 * losses[:20].mean()  # and they train


@pytest.mark.parametrize(
    "split, jit",
    [
        pytest.param({"devices": 2}, "off", marks=pytest.mark.slow),
        pytest.param({"devices": 4, "shards": 2}, "on", marks=pytest.mark.slow),
    ],
)
def test_in_float32_a_hundred_losses_agree_to_four_digits(split, jit):
    expected, metrics = (
        hundred_steps(precision="float32", jit=jit, **changes)[0] for changes in ({}, split)
    )
    np.testing.assert_allclose(metrics.sums["loss_sum"], expected.sums["loss_sum"], rtol=1e-4)


# --- Loops, stops and resumes ---------------------------------------------------------------------


@functools.cache
def twelve_steps(loops, precision, jit, fuse):
    """Returns (metrics joined, state) of 12 steps with dropout, run in loops of these lengths.

    None saves, and continues with new objects.
    """
    flags = {
        "dropout": 0.4,
        "ema": 0.9,
        "precision": precision,
        "clip_norm": 1.0,
        "jit": jit,
        "fuse": fuse,
        # Batches of two lengths are in stacks of their own.
        "max_length": 16 if fuse == "on" else 8,
    }
    made, step, metrics = runs.make(**flags), 0, []
    iterator = made.steps.source(made.batches, 0)
    for count in loops:
        if count is None:
            saved, made = made.state.snapshot(), runs.make(**flags)
            made.state.restore(saved, "the snapshot")
            iterator = made.steps.source(made.batches, step)
        else:
            metrics.append(made.steps.run(iterator, count)._replace(input_seconds=()))
            step += count
    joined = tf.nest.map_structure(lambda *parts: np.concatenate(parts), *metrics)
    return np.stack(tf.nest.flatten(joined)), made.state.snapshot()


@pytest.mark.parametrize(
    "loops, kind",
    [
        ((1, 1, 1, 1, 1, None, 7), ("float32", "on", "off")),
        ((1, 1, 1, 1, 1, None, 7), ("float32", "on", "on")),
        ((1, 3, None, 8), ("float16", "off", "off")),  # the scale falls in the first steps
        pytest.param((1, 3, None, 8), ("float16", "on", "off"), marks=pytest.mark.slow),
        pytest.param((1, 3, None, 8), ("float16", "on", "on"), marks=pytest.mark.slow),
    ],
)
def test_neither_the_length_of_a_loop_nor_a_resume_changes_a_bit(loops, kind):
    (expected, whole), (metrics, ours) = twelve_steps((12,), *kind), twelve_steps(loops, *kind)
    assert metrics.tobytes() == expected.tobytes()
    runs.assert_same_bits(ours, whole)
    assert ours["step"] == 12


def test_warming_up_and_a_loop_of_no_steps_change_no_state_and_take_no_batch():
    made = runs.make(dropout=0.4, ema=0.9)
    before, source = made.state.snapshot(), made.steps.source(made.batches, 0)
    made.steps.warm_up(8, runs.BATCH)
    assert len(made.steps.run(source, 0).gradient_norm) == 0
    runs.assert_same_bits(made.state.snapshot(), before)
    assert next(source).targets.numpy().tolist() == made.batches.batch(0).targets.tolist()


@pytest.mark.parametrize("fuse", ["off", "on"])
def test_a_loop_ends_with_the_first_step_that_is_not_finite(fuse):
    made = runs.make(precision="float32", fuse=fuse, jit=fuse)
    iterator = made.steps.source(made.batches, 0)
    made.steps.run(iterator, 3)
    weight = made.state.weights["logits/bias"]
    weight.assign(np.where(np.arange(runs.CLASSES) == 1, np.nan, weight.numpy()))
    metrics = made.steps.run(iterator, 10)
    assert len(metrics.sums["loss_sum"]) == 1 and not np.isfinite(metrics.sums["loss_sum"][0])
    assert made.state.step.numpy() == 4
    if fuse == "off":
        # No batch is lost.
        assert next(iterator).targets.numpy().tolist() == made.batches.batch(4).targets.tolist()


def test_a_gradient_that_is_not_finite_ends_a_loop_though_the_loss_is():
    """1e25 overflows when the norm squares it; so does a gradient of Inf."""
    made = runs.make(
        precision="float32", optimizer="sgd", learning_rate=1e-3, one_hot=True, cell="simple_rnn"
    )
    for name in ("rnn_0/kernel", "rnn_0/recurrent_kernel"):
        weight = made.state.weights[name]
        weight.assign(np.zeros(weight.shape))  # tanh stays where its slope is 1
    made.state.weights["logits/kernel"].assign(np.full((4, runs.CLASSES), 1e25) * [1, -1, 0])
    metrics = runs.run(made, 5)
    assert len(metrics.sums["loss_sum"]) == 1
    assert np.isfinite(metrics.sums["loss_sum"][0]) and not np.isfinite(metrics.gradient_norm[0])


@pytest.mark.parametrize(
    "flags, kind",
    [
        ({"fuse": "on", "jit": "on"}, Fused),
        ({"fuse": "off", "jit": "on"}, Stepwise),
        ({"fuse": "on", "jit": "off"}, Stepwise),  # Keras' layers, which are not compiled
        # A run that continues on more devices.
        ({"fuse": "on", "jit": "on", "devices": 2}, Stepwise),
    ],
)
def test_steps_are_fused_on_one_device_if_xla_compiles_them(flags, kind):
    assert type(runs.make(**flags).steps) is kind
