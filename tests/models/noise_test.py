"""Dropout at named places: the name is part of the key, and nothing is dropped without noise."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.models import dropout
from trainer.models.noise import Noise, drop


@pytest.fixture
def noise():
    return Noise(tf.constant([4, 9]), tf.constant(12, tf.int64))


# The CRC-32 of the names, as `gzip` computes it: they are in the bits of every run with dropout.
@pytest.mark.parametrize(
    "place, layer",
    [
        ("words", 0x717D1E8C),
        ("embedding", 0x485B55AE),
        ("rnn_1", 0xB07D6309),
        ("logits", 0xB63E2D7F),
    ],
)
def test_the_mask_of_a_place_has_the_crc_of_its_name_as_key(place, layer, noise):
    values = tf.reshape(tf.range(1.0, 41), [2, 5, 4])
    keys = {"seed": 3, "step": noise.step, "layer": layer, "rate": 0.4}
    mask = dropout.keep_mask((5, 4), noise.rows, **keys)
    dropped = drop(values, place, noise, rate=0.4, seed=3)
    np.testing.assert_array_equal(dropped, values * mask)
    assert 0 < np.count_nonzero(dropped) < 40


def test_a_mask_of_another_shape_drops_whole_steps(noise):
    values = tf.ones([2, 50, 4])
    dropped = drop(values, "words", noise, rate=0.5, seed=3, whole_steps=True).numpy()
    np.testing.assert_array_equal(dropped, np.broadcast_to(dropped[:, :, :1], dropped.shape))
    assert 0 < np.count_nonzero(dropped) < dropped.size


def test_a_mask_of_another_shape_drops_values_at_all_steps(noise):
    values = tf.ones([2, 5, 40])
    dropped = drop(values, "rnn_1", noise, rate=0.5, seed=3, all_steps=True).numpy()
    np.testing.assert_array_equal(dropped, np.broadcast_to(dropped[:, :1], dropped.shape))
    assert 0 < np.count_nonzero(dropped) < dropped.size


@pytest.mark.parametrize("shape", [{}, {"whole_steps": True}, {"all_steps": True}])
def test_a_mask_that_xla_compiles_by_itself_has_the_same_bits_and_the_same_gradient(noise, shape):
    values = tf.reshape(tf.range(1.0, 41), [2, 5, 4])
    found = []
    for each in (noise, noise._replace(compiled=True)):
        with tf.GradientTape() as tape:
            tape.watch(values)
            dropped = drop(values, "rnn_1", each, rate=0.4, seed=3, **shape)
        found.append((dropped.numpy(), tape.gradient(dropped, values).numpy()))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0][0], values * found[0][1])


def test_without_noise_or_with_rate_zero_the_values_stay(noise):
    values = tf.ones([2, 5])
    assert drop(values, "logits", None, rate=0.5, seed=3) is values
    assert drop(values, "logits", noise, rate=0.0, seed=3) is values
