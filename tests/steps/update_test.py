"""The update of a step against NumPy, and what float16 does to it."""

import numpy as np
import tensorflow as tf

from tests.steps import runs
from trainer.data.store import Split
from trainer.steps import packing
from trainer.steps.update import Update


def test_an_update_divides_by_the_count_and_adds_the_sums_to_those_of_the_epoch():
    """By hand, without a program: SGD at rate 1 moves a weight by minus its gradient."""
    made = runs.make(optimizer="sgd", momentum=0.0, learning_rate=1.0)
    update = Update(made.state, made.config.optimizer)
    before, generator = made.state.values(), np.random.default_rng(0)
    before["epoch/correct"] = tf.constant(5, tf.int64)
    summed = {
        name: generator.normal(size=weight.shape) for name, weight in made.network.weights.items()
    }
    packed = packing.pack(
        [tf.constant(each, tf.float64) for each in [*summed.values(), 30.0, 3.0, 4.0]]
    )
    after, row = update.after(before, packed, {})
    for name, gradient in summed.items():
        moved = before[f"model/{name}"] - after[f"model/{name}"]
        np.testing.assert_allclose(moved, gradient.ravel() / 4, rtol=1e-12)
    sums = {name: float(after[f"epoch/{name}"]) for name in ("loss_sum", "correct", "count")}
    assert sums == {"loss_sum": 30, "correct": 5 + 3, "count": 4}
    assert (int(before["step"]), int(after["step"])) == (0, 1)
    metrics = update.metrics(np.stack([row, row]), np.array([0.1, 0.2]))
    assert {name: column.tolist() for name, column in metrics.sums.items()} == {
        "loss_sum": [30, 30],
        "correct": [3, 3],
        "count": [4, 4],
    }
    np.testing.assert_allclose(metrics.gradient_norm, [runs.norm_of(summed) / 4] * 2, rtol=1e-12)
    assert metrics.input_seconds.tolist() == [0.1, 0.2]


def test_a_step_is_clipped_after_the_batch_is_added_up():
    made, batch, before, metrics, moved = runs.one_plain_step(clip_norm=0.05, shards=2)
    _, expected = runs.numpy_gradients(made, batch, before)
    assert runs.norm_of(expected) > 0.1
    # The norm that is reported is the one before clipping.
    np.testing.assert_allclose(metrics.gradient_norm, [runs.norm_of(expected)], rtol=1e-10)
    for name, gradient in expected.items():
        clipped = 0.05 / runs.norm_of(expected) * gradient
        np.testing.assert_allclose(moved[name], clipped, rtol=1e-9, atol=1e-14, err_msg=name)


def test_three_steps_of_adam_are_those_of_numpy():
    """Gradients from the equations, the update from Kingma and Ba: nothing of ours in between."""
    made = runs.make(warmup_steps=2, ema=0.5)
    weights = runs.weights_of(made)
    m, v, average = (
        {name: np.zeros_like(weight) for name, weight in weights.items()} for _ in range(3)
    )
    for t in range(1, 4):
        _, gradients = runs.numpy_gradients(made, made.batches.batch(t - 1), weights)
        rate = 0.01 * min(1, t / 2)
        for name, g in gradients.items():
            m[name], v[name] = 0.9 * m[name] + 0.1 * g, 0.999 * v[name] + 0.001 * g * g
            correction = np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            weights[name] = weights[name] - rate * correction * m[name] / (np.sqrt(v[name]) + 1e-7)
            average[name] = weights[name] if t == 1 else 0.5 * (average[name] + weights[name])
    runs.run(made, 3)
    found = made.state.snapshot()
    for name in weights:
        np.testing.assert_allclose(found[f"model/{name}"], weights[name], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(found[f"optimizer/{name}/m"], m[name], rtol=1e-8, atol=1e-13)
        np.testing.assert_allclose(found[f"optimizer/{name}/v"], v[name], rtol=1e-8, atol=1e-16)
        np.testing.assert_allclose(
            found[f"optimizer/{name}/average"], average[name], rtol=1e-9, atol=1e-12
        )


def test_the_sums_of_an_epoch_are_those_of_its_steps():
    made = runs.make()
    runs.run(made, 3)
    made.state.begin_epoch()
    metrics = runs.run(made, 4, first=3)
    sums = {name: total.numpy() for name, total in made.state.epoch.items()}
    assert sums == {
        "loss_sum": metrics.sums["loss_sum"].sum(),
        "correct": metrics.sums["correct"].sum(),
        "count": 4 * runs.BATCH,
    }


# --- float16 --------------------------------------------------------------------------------------


def test_a_gradient_too_large_for_float16_makes_no_update_and_halves_the_scale():
    """At the largest scale every wrong row adds 2^15 to one gradient: two overflow 65504."""
    made = runs.make(precision="float16", learning_rate=1e-3)
    bias = made.state.weights["logits/bias"]
    bias.assign(np.array([-30.0, -30.0, 30.0]))
    assert (made.batches.batch(0).targets != 2).sum() >= 3
    iterator, scales = made.steps.source(made.batches, 0), []
    before = runs.weights_of(made)
    while not (metrics := made.steps.run(iterator, 1)).gradient_norm[0]:
        runs.assert_same_bits(runs.weights_of(made), before)
        assert made.state.optimizer.iteration.numpy() == 0
        assert np.isfinite(metrics.sums["loss_sum"]).all()
        scales.append(made.state.scaling()["loss_scale"])
    assert scales == [2.0**14, 2.0**13, 2.0**12, 2.0**11][: len(scales)] and len(scales) >= 1
    skipped = len(scales)
    assert made.state.scaling() == {"loss_scale": scales[-1], "skipped_steps": skipped}
    assert (made.state.step.numpy(), made.state.optimizer.iteration.numpy()) == (skipped + 1, 1)
    assert any(
        before[name].tobytes() != weight.tobytes() for name, weight in runs.weights_of(made).items()
    )


def test_small_gradients_survive_float16_because_the_loss_is_scaled():
    """Rows that are right except for e^-12, 6e-6 each.

    float16 has few digits for that, and none below 6e-8.
    """
    made = runs.make(precision="float16", optimizer="sgd", momentum=0.0, learning_rate=1e6)
    made.state.weights["logits/bias"].assign(np.array([12.0, 0.0, 0.0]))
    split = runs.a_split()
    split = Split(split.inputs, split.offsets, np.zeros_like(split.targets))
    right = runs.batches_of(split, made.config.input)
    before = runs.weights_of(made)
    made.steps.run(iter(right.dataset(0)), 1)
    _, expected = runs.numpy_gradients(made, right.batch(0), before)
    for name in ("rnn_0/kernel", "embedding/embeddings", "logits/kernel"):
        moved = (before[name].astype(np.float64) - made.state.weights[name].numpy()) / 1e6
        assert np.linalg.norm(moved - expected[name]) < 0.02 * np.linalg.norm(expected[name]), name


def test_a_gradient_that_overflows_at_every_scale_is_divergence():
    made = runs.make(precision="float16")
    made.state.weights["rnn_0/kernel"].assign(np.full((3, 4), 60_000.0))
    made.state.weights["logits/kernel"].assign(np.full((4, runs.CLASSES), 60_000.0) * [1, -1, 0])
    made.state.weights["embedding/embeddings"].assign(np.zeros((runs.VOCABULARY, 3)))
    before = runs.weights_of(made)
    metrics = runs.run(made, 40)
    assert len(metrics.gradient_norm) == 16  # 2^15 ... 2^0
    np.testing.assert_array_equal(metrics.gradient_norm[:-1], 0)
    assert not np.isfinite(metrics.gradient_norm[-1])
    assert np.isfinite(metrics.sums["loss_sum"]).all()
    runs.assert_same_bits(runs.weights_of(made), before)
