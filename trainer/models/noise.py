"""Dropout at the named places of a network.

A place is one use of dropout, such as "embedding" or "logits". Its name is part of the key of its
mask, so that no two places drop the same elements.
"""

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from trainer.models import dropout


class Noise(NamedTuple):
    """The keys of a step's masks: int32 [batch] rows of the global batch, int64 scalar step."""

    rows: tf.Tensor
    step: tf.Tensor


def drop(
    values: tf.Tensor,
    place: str,
    noise: Noise | None,
    *,
    rate: float,
    seed: int,
    shape_after_rows: Sequence[int | tf.Tensor] | None = None,
) -> tf.Tensor:
    """Returns `values` with dropout; `values` itself if `noise` is None or `rate` is 0.

    values: [batch, ...]; shape_after_rows: the shape of the mask without its batch axis, if it is
    smaller than that of the values. (time, 1) drops whole steps.
    """
    if noise is None or not rate:
        return values
    if shape_after_rows is None:
        shape_after_rows = tf.unstack(tf.shape(values))[1:]
    return values * dropout.keep_mask(
        shape_after_rows,
        noise.rows,
        seed=seed,
        step=noise.step,
        layer=zlib.crc32(place.encode()),
        rate=rate,
        dtype=values.dtype,
    )
