"""Slices of a batch by rows: the part of a replica, of a shard, of an accumulated gradient."""

from typing import TypeVar

import tensorflow as tf

Rows = TypeVar("Rows")  # Nested tensors with an axis of rows in common, such as a `Batch`.


def part_of(batch: Rows, part: int | tf.Tensor, parts: int, axis: int = 0) -> Rows:
    """Returns part number `part`, from 0, of `parts` parts of a batch, as even as possible.

    Of n rows these are [n * part / parts, n * (part + 1) / parts): the bounds of
    `placement.bounds`. axis: the one of the rows; 1 in a stack of batches, whose rows must be a
    multiple of `parts`.
    """
    if parts == 1:
        return batch
    return tf.nest.map_structure(lambda values: _slice(values, part, parts, axis), batch)


def _slice(values: tf.Tensor, part: int | tf.Tensor, parts: int, axis: int) -> tf.Tensor:
    if values.shape[axis] is not None and values.shape[axis] % parts == 0:
        # The size does not depend on `part`: inside a program of XLA the number of a replica is not
        # known, and XLA compiles no array of unknown size.
        size, after = values.shape[axis] // parts, values.shape.rank - axis - 1
        return tf.slice(
            values, [0] * axis + [part * size] + [0] * after, [-1] * axis + [size] + [-1] * after
        )
    rows = tf.shape(values)[0]
    return values[rows * part // parts : rows * (part + 1) // parts]


def put_part(whole: Rows, rows: Rows, part: int | tf.Tensor, parts: int) -> Rows:
    """Returns `whole` with `rows` in the place of `part_of(whole, part, parts)`."""

    def put(values: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
        first = tf.shape(values)[0] * part // parts
        places = first + tf.range(tf.shape(new)[0])
        return tf.tensor_scatter_nd_update(values, places[:, None], new)

    return tf.nest.map_structure(put, whole, rows)
