"""Dropout masks: equal to a NumPy twin, the same bits everywhere, as good as independent coins."""

import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf

from trainer.models.dropout import keep_mask, uniform

KEYS = {"seed": 7, "step": 1000, "layer": 2}


def mask(shape, rows, rate=0.5, dtype=tf.float32, **changes):
    keys = KEYS | changes
    rows, step = tf.constant(rows, tf.int32), tf.constant(keys["step"], tf.int64)
    return keep_mask(
        shape, rows, seed=keys["seed"], step=step, layer=keys["layer"], rate=rate, dtype=dtype
    ).numpy()


@functools.cache
def kept(row_count=64, places=4096, rate=0.5, **changes):
    """Returns which elements are kept: bool [rows, places]."""
    return mask((places,), range(row_count), rate, **changes) > 0


def mix(word):
    word = (word ^ (word >> 16)) * 0x7FEB352D % 2**32
    word = (word ^ (word >> 15)) * 0x846CA68B % 2**32
    return word ^ (word >> 16)


def key(start, *integers):
    for integer in integers:
        start = mix(mix(start ^ integer % 2**32) ^ integer >> 32)
    return start


def numpy_mask(shape, rows, rate, seed, step, layer):
    """Returns the mask by its definition, one element at a time, in Python integers."""

    def factor(row, place):
        offset, stride = (key(start, seed, step, layer, row) for start in (0x9E3779B9, 0x85EBCA6B))
        hashed = mix((place * (2 * stride + 1)) % 2**32 ^ offset)
        return 0 if (hashed >> 8) / 2**24 < rate else 1 / (1 - rate)

    places = range(np.prod(shape))
    return np.reshape(
        [factor(row, place) for row, place in itertools.product(rows, places)], (len(rows), *shape)
    )


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5])
@pytest.mark.parametrize(
    "seed, step, layer", [(0, 0, 0), (3, 17, 1), (2**40 + 5, 2**33 + 1, 2**31)]
)
def test_the_mask_is_the_documented_hash(rate, seed, step, layer):
    truth = numpy_mask((3, 5), [0, 1, 130, 2**31 - 1], rate, seed, step, layer)
    ours = mask((3, 5), [0, 1, 130, 2**31 - 1], rate, seed=seed, step=step, layer=layer)
    np.testing.assert_allclose(ours, truth, rtol=1e-6)


def test_xla_makes_the_same_bits_for_unknown_batch_and_length():
    def masked(values, rows, step):
        shape = (tf.shape(values)[1], 8)
        return values * keep_mask(shape, rows, seed=7, step=step, layer=2, rate=0.3)

    signature = [
        tf.TensorSpec([None, None, 8]),
        tf.TensorSpec([None], tf.int32),
        tf.TensorSpec([], tf.int64),
    ]
    for jit, (batch, time) in itertools.product([False, True], [(5, 9), (2, 4)]):
        function = tf.function(masked, jit_compile=jit, input_signature=signature)
        values = function(tf.ones([batch, time, 8]), tf.range(batch), tf.constant(1000, tf.int64))
        np.testing.assert_array_equal(values, mask((time, 8), range(batch), 0.3))


def test_any_split_of_the_batch_sees_the_same_mask():
    whole = mask((6, 4), range(12))
    for cuts in ([6], [1, 2, 11], [3, 6, 9]):
        parts = [mask((6, 4), rows) for rows in np.split(np.arange(12), cuts)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_longer_padding_only_appends():
    np.testing.assert_array_equal(mask((20, 4), range(3))[:, :7], mask((7, 4), range(3)))


def test_the_bits_do_not_depend_on_the_dtype():
    masks = [
        mask((50,), range(4), dtype=dtype)
        for dtype in (tf.float64, tf.float32, tf.bfloat16, tf.float16)
    ]
    for other in masks[1:]:
        np.testing.assert_array_equal(other.astype("float64"), masks[0])


def test_the_gradient_is_the_mask_of_the_forward_pass():
    @tf.function(jit_compile=True)
    def dropped_and_gradient(values, step):
        with tf.GradientTape() as tape:
            tape.watch(values)
            dropped = values * keep_mask((40,), tf.range(3), seed=7, step=step, layer=2, rate=0.5)
        return dropped, tape.gradient(dropped, values)

    dropped, gradient = dropped_and_gradient(tf.ones([3, 40]), tf.constant(1000, tf.int64))
    np.testing.assert_array_equal(gradient, dropped)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_the_share_dropped_is_the_rate_in_each_mask_and_over_all(rate):
    dropped = ~kept(rate=rate)
    deviation = np.sqrt(rate * (1 - rate))
    per_row = (dropped.mean(axis=1) - rate) / deviation * np.sqrt(dropped.shape[1])
    assert abs(dropped.mean() - rate) / deviation * np.sqrt(dropped.size) < 4
    # Not farther from coins than chance allows, and not more even than they are.
    assert np.abs(per_row).max() < 5 and 0.6 < per_row.std() < 1.4
    np.testing.assert_allclose(mask((4096,), range(64), rate).mean(), 1, atol=0.02)


def assert_independent(first, second, rate=0.5):
    """Asserts that two masks agree, row by row, as often as coins do: chi-square over the rows."""
    correlation = ((first != 0) - (1 - rate)) * ((second != 0) - (1 - rate)) / (rate * (1 - rate))
    chi_square = np.sum(correlation.mean(axis=-1) ** 2 * correlation.shape[-1])
    rows = correlation.shape[0]
    assert abs(chi_square - rows) < 5 * np.sqrt(2 * rows)


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize(
    "changes",
    [
        {"step": 1001},
        {"step": 1000 + 2**32},
        {"seed": 8},
        {"seed": 7 + 2**32},
        {"layer": 3},
        {"seed": 1000, "step": 7},
    ],
)
def test_masks_of_other_steps_seeds_and_layers_are_independent(changes, rate):
    assert_independent(kept(rate=rate), kept(rate=rate, **changes), rate)


@pytest.mark.parametrize("distance", [1, 2, 3, 4, 7, 8, 16, 32, 63])
def test_masks_of_rows_are_independent(distance):
    assert_independent(kept()[:-distance], kept()[distance:])


@pytest.mark.parametrize("distance", [1, 2, 3, 5, 8, 16, 32, 64, 100, 128, 256, 512, 1024, 2048])
def test_places_within_a_row_are_independent(distance):
    assert_independent(kept()[:, :-distance], kept()[:, distance:])


def test_no_two_rows_of_many_steps_have_the_same_mask():
    masks = np.concatenate([kept(64, 64, step=step) for step in range(100)])
    assert len(np.unique(masks, axis=0)) == len(masks)


@pytest.mark.parametrize("jit", [False, True])
def test_a_uniform_number_is_the_documented_hash_of_its_keys(jit):
    function = tf.function(uniform, jit_compile=jit)
    seed, position, rows = 2**40 + 5, 17, [0, 1, 2**31 - 1]
    numbers = function(tf.constant(seed, tf.int64), tf.constant(position), tf.constant(rows))
    truth = [(key(0xC2B2AE35, seed, position, row) >> 8) / 2**24 for row in rows]
    np.testing.assert_array_equal(numbers, truth)


def test_uniform_numbers_of_rows_and_of_positions_are_spread_evenly():
    for numbers in (uniform(7, 3, tf.range(64_000)), uniform(7, tf.range(64_000), 3)):
        counts, _ = np.histogram(numbers, bins=64, range=(0, 1))
        assert counts.sum() == 64_000
        assert abs(np.sum((counts - 1000) ** 2 / 1000) - 63) < 5 * np.sqrt(2 * 63)
        followers = np.corrcoef(numbers[:-1], numbers[1:])[0, 1]
        assert abs(followers) < 5 / np.sqrt(64_000)
