"""Dropout at the named places of a network.

A place is one use of dropout, such as "embedding" or "logits". Its name is part of the key of its
mask, so that no two places drop the same elements.
"""

import zlib
from typing import NamedTuple

import tensorflow as tf

from trainer.models import dropout


class Noise(NamedTuple):
    """The keys of a step's masks: int32 [batch] rows of the global batch, int64 scalar step.

    compiled: whether XLA compiles each mask by itself. It does on a GPU, beside layers that it does
    not compile: there a mask would be a hundred small kernels.
    """

    rows: tf.Tensor
    step: tf.Tensor
    compiled: bool = False


def drop(
    values: tf.Tensor,
    place: str,
    noise: Noise | None,
    *,
    rate: float,
    seed: int,
    whole_steps: bool = False,
    all_steps: bool = False,
) -> tf.Tensor:
    """Returns `values` with dropout; `values` itself if `noise` is None or `rate` is 0.

    values: [batch, ...], with one of the flags [batch, time, width]. whole_steps: a step is dropped
    or kept whole. all_steps: a value is dropped or kept at all steps of its row.
    """
    if noise is None or not rate:
        return values
    mask = _compiled_mask if noise.compiled else _mask
    return values * mask(
        tf.stop_gradient(values), noise.rows, noise.step, place, rate, seed, whole_steps, all_steps
    )


def _mask(
    values: tf.Tensor,
    rows: tf.Tensor,
    step: tf.Tensor,
    place: str,
    rate: float,
    seed: int,
    whole_steps: bool,
    all_steps: bool,
) -> tf.Tensor:
    """Returns the mask for values of the shape and type of `values`."""
    shape = tf.unstack(tf.shape(values))[1:]
    if whole_steps:
        shape = [shape[0], 1]
    elif all_steps:
        shape = [1, shape[1]]
    return dropout.keep_mask(
        shape,
        rows,
        seed=seed,
        step=step,
        layer=zlib.crc32(place.encode()),
        rate=rate,
        dtype=values.dtype,
    )


_compiled_mask = tf.function(_mask, autograph=False, jit_compile=True)
