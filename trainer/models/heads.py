"""Heads of networks: from the states of an encoder to the outputs of a task.

`Pooled` has one output for each row, `PerStep` one for each step, `Decoder` one for each step of a
second sequence.

Poolings make one vector of the states of a row. They see its steps and not its padding. In all of
them, hidden is [batch, time, units]; lengths is int32 [batch], the steps of each row, or None if
every row fills the array. A row of length 0 gives zero, the state before any step.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from trainer.flags.run import Model
from trainer.models import recurrent
from trainer.models.noise import Noise, drop


@dataclasses.dataclass(frozen=True)
class Pooled:
    """One output for each row: pooling over time, dropout, a dense layer."""

    settings: Model
    seed: int
    recurrence: recurrent.Recurrence | None = None  # It has no layers of its own.

    def __call__(
        self,
        weights: Mapping[str, tf.Tensor],
        states: tf.Tensor,
        lengths: tf.Tensor,
        noise: Noise | None = None,
        targets: Any = None,
    ) -> tf.Tensor:
        """Returns the scores of the classes: [batch, classes].

        weights: {logical name: tensor}; states: [batch, time, width], those of an `Encoder` with
        the same settings; lengths: int32 [batch], steps of each row that count; noise: turns
        dropout on; targets: not used.
        """
        pooled = self._pool(states, lengths)
        pooled = drop(pooled, "logits", noise, rate=self.settings.dropout, seed=self.seed)
        return tf.matmul(pooled, weights["logits/kernel"]) + weights["logits/bias"]

    def _pool(self, states, lengths):
        at_the_end = ends if self.settings.bidirectional else last
        pool = {"last": at_the_end, "max": maximum, "mean": mean}[self.settings.pooling]
        return pool(states, lengths)


class StepOutputs(NamedTuple):
    """The scores of each step, not multiplied yet: `states` times the weights, plus `bias`.

    Of a large vocabulary they would not fit into memory all at once (`vocabulary`).

    states: [batch, time, width]. weights: [outputs, width], or [width, outputs] if `transposed`.
    bias: [outputs].
    """

    states: tf.Tensor
    weights: tf.Tensor
    bias: tf.Tensor
    transposed: bool

    def scores(self) -> tf.Tensor:
        """Returns the scores of all steps: [batch, time, outputs]."""
        return tf.matmul(self.states, self.weights, transpose_b=not self.transposed) + self.bias


@dataclasses.dataclass(frozen=True)
class PerStep:
    """One output for each step: dropout, then a dense layer or the embedding turned round.

    Press and Wolf, Using the Output Embedding to Improve Language Models, 2017: the weights of the
    embedding serve the output too. If the widths differ, a projection comes between.
    """

    settings: Model
    seed: int
    recurrence: recurrent.Recurrence | None = None  # It has no layers of its own.

    def __call__(
        self,
        weights: Mapping[str, tf.Tensor],
        states: tf.Tensor,
        lengths: tf.Tensor,
        noise: Noise | None = None,
        targets: Any = None,
    ) -> StepOutputs:
        """Returns the outputs of each step; the arguments are those of `Pooled`."""
        states = drop(
            states,
            "logits",
            noise,
            rate=self.settings.dropout,
            seed=self.seed,
            all_steps=self.settings.variational_dropout,
        )
        if not self.settings.tied_embedding:
            return StepOutputs(states, weights["logits/kernel"], weights["logits/bias"], True)
        if "projection/kernel" in weights:
            states = tf.matmul(states, weights["projection/kernel"])
        return StepOutputs(states, weights["embedding/embeddings"], weights["logits/bias"], False)


def last(hidden: tf.Tensor, lengths: tf.Tensor | None = None) -> tf.Tensor:
    """Returns the state after the last step of each row: [batch, units]."""
    if lengths is None:
        return hidden[:, -1]
    is_last = tf.range(tf.shape(hidden)[1]) == lengths[:, None] - 1
    return _over_time(tf.reduce_sum, tf.where(is_last[:, :, None], hidden, 0))


def ends(hidden: tf.Tensor, lengths: tf.Tensor | None = None) -> tf.Tensor:
    """Returns the state of each direction after its last step: [batch, 2 units].

    hidden: [batch, time, 2 units], what `recurrent.bidirectional` returns. The forward direction
    ends at length - 1, the backward direction at 0.
    """
    forward, backward = tf.split(hidden, 2, axis=-1)
    first = backward[:, 0] if lengths is None else tf.where(lengths[:, None] > 0, backward[:, 0], 0)
    return tf.concat([last(forward, lengths), first], axis=-1)


def maximum(hidden: tf.Tensor, lengths: tf.Tensor | None = None) -> tf.Tensor:
    """Returns the largest value of each unit over the steps of each row: [batch, units]."""
    if lengths is None:
        return _over_time(tf.reduce_max, hidden)
    highest = _over_time(
        tf.reduce_max, tf.where(_is_step(hidden, lengths), hidden, hidden.dtype.min)
    )
    return tf.where(lengths[:, None] > 0, highest, 0)


def mean(hidden: tf.Tensor, lengths: tf.Tensor | None = None) -> tf.Tensor:
    """Returns the mean of each unit over the steps of each row: [batch, units]."""
    wide = tf.cast(hidden, recurrent.sum_dtype(hidden.dtype))
    if lengths is None:
        return tf.cast(tf.reduce_mean(wide, axis=1), hidden.dtype)
    total = _over_time(tf.reduce_sum, tf.where(_is_step(hidden, lengths), wide, 0))
    return tf.cast(total / tf.cast(tf.maximum(lengths, 1), wide.dtype)[:, None], hidden.dtype)


def _over_time(reduce, values):
    """Returns [batch, units] of [batch, time, units].

    Without `keepdims` the gradient would compute shapes on a GPU, and the CPU would wait for them.
    """
    return tf.squeeze(reduce(values, axis=1, keepdims=True), axis=1)


def _is_step(hidden, lengths):
    return (tf.range(tf.shape(hidden)[1]) < lengths[:, None])[:, :, None]
