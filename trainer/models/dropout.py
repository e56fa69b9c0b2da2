"""Dropout masks as a hash of their keys: (seed, step, row of the global batch, layer, place).

Each element hashes its keys by itself, and a mask depends on nothing else. So any split of the
batch over shards, replicas and workers, any padded length, and any device, compiled by XLA or not,
gives it the same bit.
"""

import functools
import operator
from collections.abc import Sequence

import tensorflow as tf

# The finalizer lowbias32 of C. Wellons, "Prospecting for Hash Functions"
# (nullprogram.com/blog/2018/07/31): pairs of a right shift and a multiplier. A search found those
# with the least bias from any bit of the input to any bit of the output.
_ROUNDS = ((16, 0x7FEB352D), (15, 0x846CA68B))
_LAST_SHIFT = 16
# any different numbers
_START_OF_OFFSETS, _START_OF_STRIDES, _START_OF_UNIFORM = 0x9E3779B9, 0x85EBCA6B, 0xC2B2AE35


def keep_mask(
    shape_after_rows: Sequence[int | tf.Tensor],
    rows: tf.Tensor,
    *,
    seed: int | tf.Tensor,
    step: int | tf.Tensor,
    layer: int | tf.Tensor,
    rate: float,
    dtype: tf.DType = tf.float32,
) -> tf.Tensor:
    """Returns the factor of each element: 0 with probability `rate`, else 1 / (1 - rate).

    It is [batch, *shape_after_rows].

    shape_after_rows: ints or int32 scalars, such as (time, units); an element's place is its index
    in that shape, so that a longer time only appends. rows: int32 [batch], positions in the global
    batch; seed, step, layer: integers below 2^63 (numbers or scalar tensors), layer being a number
    for this use in the network; rate: in [0, 1). For the gradient the mask is a constant.
    """
    # Two keys for each row: with one, all rows would be parts of a single sequence of 2^32 numbers
    # and would overlap.
    offset, stride = (
        _key(start, seed, step, layer, rows) for start in (_START_OF_OFFSETS, _START_OF_STRIDES)
    )
    # The product of numbers on the CPU: a GPU's would have to come back before the range is made.
    places = functools.reduce(operator.mul, shape_after_rows)
    place = tf.cast(tf.range(places), tf.uint32)
    hashed = _mix(tf.bitwise.bitwise_xor(place * (2 * stride + 1)[:, None], offset[:, None]))
    mask = tf.where(
        _fraction(hashed) < rate, tf.constant(0, dtype), tf.constant(1 / (1 - rate), dtype)
    )
    return tf.reshape(mask, [tf.shape(rows)[0], *shape_after_rows])


def uniform(*keys: int | tf.Tensor) -> tf.Tensor:
    """Returns a number in [0, 1) for its keys, as random as the masks: float32, 24 bits.

    keys: integers below 2^63 (numbers, scalars or vectors of one length); a vector if any key is.
    """
    return _fraction(_key(_START_OF_UNIFORM, *keys))


def _fraction(hashed: tf.Tensor) -> tf.Tensor:
    """Returns uint32 words as numbers in [0, 1).

    24 bits are exact in float32. Every device can compare float32; a GPU has no kernel that
    compares uint32.
    """
    return tf.cast(tf.bitwise.right_shift(hashed, _word(8)), tf.float32) * 2.0**-24


def _key(start: int, *integers: int | tf.Tensor) -> tf.Tensor:
    """Returns a hash of integers, one after the other: uint32, a vector if any of them is."""
    key = _word(start)
    for integer in integers:
        integer = tf.cast(integer, tf.int64)
        for half in (integer, tf.bitwise.right_shift(integer, tf.constant(32, tf.int64))):
            key = _mix(tf.bitwise.bitwise_xor(key, tf.cast(half & 0xFFFFFFFF, tf.uint32)))
    return key


def _mix(word: tf.Tensor) -> tf.Tensor:
    for shift, multiplier in _ROUNDS:
        word = tf.bitwise.bitwise_xor(word, tf.bitwise.right_shift(word, _word(shift))) * _word(
            multiplier
        )
    return tf.bitwise.bitwise_xor(word, tf.bitwise.right_shift(word, _word(_LAST_SHIFT)))


def _word(number: int) -> tf.Tensor:
    return tf.constant(number, tf.uint32)
