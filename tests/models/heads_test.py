"""Pooling and the dense layer, row by row in NumPy: a head sees the steps of a row alone."""

import zlib

import numpy as np
import pytest
import tensorflow as tf

from trainer.flags.run import Model
from trainer.models import dropout, heads
from trainer.models.noise import Noise

POOLINGS = {
    "last": (heads.last, lambda steps: steps[-1]),
    "maximum": (heads.maximum, lambda steps: steps.max(axis=0)),
    "mean": (heads.mean, lambda steps: steps.mean(axis=0)),
    "ends": (heads.ends, lambda steps: np.concatenate([steps[-1, :2], steps[0, 2:]])),
}


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("jit", [False, True])
def test_pooling_sees_the_steps_of_a_row_and_no_padding(name, jit):
    pool, truth = POOLINGS[name]
    lengths = np.array([5, 2, 1, 0], "int32")
    # below zero, so that no zero of a mask is a maximum
    hidden = np.random.default_rng(0).normal(size=(4, 5, 4)) - 3
    padding = np.arange(5) >= lengths[:, None]
    hidden[padding] = np.nan

    @tf.function(jit_compile=jit)
    def pooled_and_gradient(hidden):
        with tf.GradientTape() as tape:
            tape.watch(hidden)
            pooled = pool(hidden, lengths)
            scalar = tf.reduce_sum(pooled)
        return pooled, tape.gradient(scalar, hidden)

    pooled, gradient = pooled_and_gradient(tf.constant(hidden))
    for row, length in enumerate(lengths):
        expected = truth(hidden[row, :length]) if length else np.zeros(4)
        np.testing.assert_allclose(pooled[row], expected, rtol=1e-12)
        np.testing.assert_allclose(
            np.sum(gradient[row], axis=0), np.ones(4) if length else np.zeros(4), rtol=1e-12
        )
    assert np.all(gradient.numpy()[padding] == 0)


@pytest.mark.parametrize("name", POOLINGS)
def test_pooling_without_lengths_takes_every_step(name):
    pool, truth = POOLINGS[name]
    hidden = np.random.default_rng(0).normal(size=(3, 5, 4))
    np.testing.assert_allclose(
        pool(tf.constant(hidden)), [truth(row) for row in hidden], rtol=1e-12
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", POOLINGS)
def test_pooling_works_in_half_precision(name, dtype):
    pooled = POOLINGS[name][0](tf.ones([2, 3, 4], dtype), tf.constant([3, 1]))
    assert pooled.dtype.name == dtype and np.all(tf.cast(pooled, tf.float32) == 1)


def pooled_head(pooling, bidirectional=False, **changes):
    return heads.Pooled(Model(pooling=pooling, bidirectional=bidirectional, **changes), seed=7)


@pytest.mark.parametrize(
    "pooling, bidirectional, name",
    [
        ("last", False, "last"),
        ("last", True, "ends"),
        ("max", False, "maximum"),
        ("max", True, "maximum"),
        ("mean", True, "mean"),
    ],
)
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_scores_are_the_dense_layer_of_pooled_and_dropped_states(
    pooling, bidirectional, name, rate
):
    rng = np.random.default_rng(0)
    states, lengths = rng.normal(size=(3, 5, 4)), np.array([5, 2, 1], "int32")
    weights = {"logits/kernel": rng.normal(size=(4, 2)), "logits/bias": rng.normal(size=2)}
    noise = Noise(tf.constant([8, 0, 3]), tf.constant(6, tf.int64))
    head = pooled_head(pooling, bidirectional, dropout=rate)
    scores = head(weights, tf.constant(states), tf.constant(lengths), noise)
    _, truth = POOLINGS[name]
    pooled = np.stack([truth(row[:length]) for row, length in zip(states, lengths)])
    keys = {"seed": 7, "step": 6, "layer": zlib.crc32(b"logits")}
    mask = dropout.keep_mask((4,), noise.rows, rate=rate, dtype=tf.float64, **keys)
    expected = (pooled * mask) @ weights["logits/kernel"] + weights["logits/bias"]
    np.testing.assert_allclose(scores, expected, rtol=1e-12)


# --- One output for each step ---------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, 0.4])
@pytest.mark.parametrize("tied, width", [(False, 4), (True, 4), (True, 6)], ids=str)
def test_scores_of_each_step_are_the_dense_layer_or_the_embedding_turned_round(tied, width, rate):
    rng = np.random.default_rng(0)
    states = rng.normal(size=(3, 5, 4))
    weights = {
        "embedding/embeddings": rng.normal(size=(7, width)),
        "logits/bias": rng.normal(size=7),
    }
    if not tied:
        weights["logits/kernel"] = rng.normal(size=(4, 7))
    elif width != 4:
        weights["projection/kernel"] = rng.normal(size=(4, width))
    settings = Model(tied_embedding=tied, embedding_size=width, dropout=rate)
    noise = Noise(tf.constant([8, 0, 3]), tf.constant(6, tf.int64))
    outputs = heads.PerStep(settings, seed=7)(weights, tf.constant(states), None, noise)
    keys = {"seed": 7, "step": 6, "layer": zlib.crc32(b"logits")}
    masks = dropout.keep_mask((5, 4), noise.rows, rate=rate, dtype=tf.float64, **keys).numpy()
    for row in range(3):
        for step in range(5):
            state = states[row, step] * masks[row, step]
            if not tied:
                expected = state @ weights["logits/kernel"]
            else:
                projected = state @ weights.get("projection/kernel", np.eye(4))
                expected = weights["embedding/embeddings"] @ projected
            np.testing.assert_allclose(
                outputs.scores()[row, step], expected + weights["logits/bias"], rtol=1e-12
            )


def test_without_noise_no_state_is_dropped_before_the_output():
    settings, states = Model(dropout=0.4), tf.ones([2, 3, 4])
    weights = {"logits/kernel": tf.ones([4, 2]), "logits/bias": tf.zeros([2])}
    outputs = heads.PerStep(settings, seed=7)(weights, states, None)
    np.testing.assert_array_equal(outputs.scores(), np.full((2, 3, 2), 4.0))
