"""Slices of a batch by rows: the part of a replica, of a shard, of an accumulated gradient."""

import tensorflow as tf

from trainer.data.pipeline import Batch


def part_of(batch: Batch, part: int | tf.Tensor, parts: int) -> Batch:
    """Returns part number `part`, from 0, of `parts` parts of a batch, as even as possible.

    Of n rows these are [n * part / parts, n * (part + 1) / parts): the bounds of
    `placement.bounds`.
    """
    if parts == 1:
        return batch
    return tf.nest.map_structure(lambda values: _slice(values, part, parts), batch)


def _slice(values: tf.Tensor, part: int | tf.Tensor, parts: int) -> tf.Tensor:
    if values.shape[0] is not None and values.shape[0] % parts == 0:
        # The size does not depend on `part`: inside a program of XLA the number of a replica is not
        # known, and XLA compiles no array of unknown size.
        size = values.shape[0] // parts
        return tf.slice(
            values,
            [part * size] + [0] * (values.shape.rank - 1),
            [size] + [-1] * (values.shape.rank - 1),
        )
    rows = tf.shape(values)[0]
    return values[rows * part // parts : rows * (part + 1) // parts]
