"""The padded batch of every step: a plan names the examples, this module pads and carries them.

tf.data only carries the arrays: it maps a range of steps to batches ahead of time.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from trainer import config as configuration
from trainer.data import plans
from trainer.data.store import Split


class Batch(NamedTuple):
    """What a step needs of its rows; NumPy arrays, tensors or their types.

    rows: int32 [batch], the row of the global batch; dropout is keyed by it.
    tokens: int32 [batch, length], 0 where padded.
    lengths: int32 [batch], tokens that count.
    labels: int32 [batch].
    """

    rows: Any
    tokens: Any
    lengths: Any
    labels: Any


SIGNATURE = Batch(
    rows=tf.TensorSpec([None], tf.int32),
    tokens=tf.TensorSpec([None, None], tf.int32),
    lengths=tf.TensorSpec([None], tf.int32),
    labels=tf.TensorSpec([None], tf.int32),
)


# --- Padding --------------------------------------------------------------------------------------


def pad(
    split: Split, examples: np.ndarray, length: int, settings: configuration.Input
) -> np.ndarray:
    """Returns the tokens of `examples`, cut and filled up with 0: int32 [examples, length]."""
    starts = split.offsets[examples]
    full = split.offsets[examples + 1] - starts
    kept = np.minimum(full, min(length, settings.max_length))
    if settings.truncate == "start":
        starts = starts + (full - kept)
    place = np.arange(length)[None, :]
    if settings.padding == "pre":
        place = place - (length - kept)[:, None]
    holds = (place >= 0) & (place < kept[:, None])
    tokens = np.zeros(holds.shape, np.int32)
    tokens[holds] = split.tokens[(starts[:, None] + place)[holds]]
    return tokens


def batch_of(
    split: Split,
    examples: np.ndarray,
    length: int,
    settings: configuration.Input,
    first_row: int = 0,
) -> Batch:
    """Returns the batch of `examples`, int64 [rows], padded to `length`; rows from `first_row`."""
    if settings.padding == "pre":
        # Padding in front counts as tokens: the published programs that use it mask nothing.
        lengths = np.full(len(examples), length, np.int32)
    else:
        full = split.offsets[examples + 1] - split.offsets[examples]
        lengths = np.minimum(full, settings.max_length).astype(np.int32)
    return Batch(
        rows=np.arange(first_row, first_row + len(examples), dtype=np.int32),
        tokens=pad(split, examples, length, settings),
        lengths=lengths,
        labels=np.asarray(split.labels[examples]),
    )


def loose_batch(split: Split, settings: configuration.Input) -> Batch:
    """Returns all examples of a small split in its own order, as one batch: for new texts."""
    length = plans.loose_length(split, settings)
    return batch_of(split, np.arange(len(split)), length, settings)


def blank(length: int, rows: int) -> Batch:
    """Returns a batch of padding, of `rows` rows: for its shape."""
    return Batch(
        tf.range(rows),
        tf.zeros([rows, length], tf.int32),
        tf.ones([rows], tf.int32),
        tf.zeros([rows], tf.int32),
    )


# --- Training -------------------------------------------------------------------------------------


class TrainingBatches:
    """The padded batch of every step of `plan`; steps are counted from 0 here."""

    def __init__(self, split: Split, settings: configuration.Input, plan: plans.ShuffledPlan):
        self.plan = plan
        self._split = split
        self._settings = settings

    def batch(self, step: int, first_row: int = 0, end_row: int | None = None) -> Batch:
        """Returns rows [first_row, end_row) of a step's global batch.

        They are padded like the whole batch, whichever rows are asked for.
        """
        examples = self.plan.examples(step)[first_row:end_row]
        length = self.plan.padded_length(step)
        return batch_of(self._split, examples, length, self._settings, first_row)

    def dataset(self, first_step: int, rows: tuple[int, int | None] = (0, None)) -> tf.data.Dataset:
        """Returns the batches from `first_step` on, without end, made ahead of time.

        rows: [first, end) of the global batch.
        """

        def load(step: tf.Tensor) -> Batch:
            arrays = tf.numpy_function(
                lambda step: tf.nest.flatten(self.batch(int(step), *rows)),
                [step],
                [spec.dtype for spec in tf.nest.flatten(SIGNATURE)],
                # A pure function of the step. If it had a state, tf.data would make no batch ahead
                # of time while TensorFlow must be deterministic, and a GPU would wait for each.
                stateful=False,
            )
            return tf.nest.map_structure(
                lambda array, spec: tf.ensure_shape(array, spec.shape),
                tf.nest.pack_sequence_as(SIGNATURE, arrays),
                SIGNATURE,
            )

        options = tf.data.Options()
        # One batch at a time: Python makes them, and threads of it would only disturb each other.
        options.experimental_optimization.map_parallelization = False
        steps = tf.data.Dataset.range(first_step, 2**62)
        return steps.map(load).prefetch(tf.data.AUTOTUNE).with_options(options)

    def stack(self, step: int, most: int, mixed: bool = False) -> tuple[Batch, int]:
        """Returns (the batches of the next steps, how many they are).

        They are the steps from `step` on, `most` at most. Every array of the batch has an axis of
        `most` steps before its own; it is zero beyond the steps that there are.

        mixed: all `most` steps, padded to the longest length of the plan; otherwise only as many as
          have one padded length.
        """
        length, count = self.plan.padded_length(step), 1
        if mixed:
            length, count = int(max(self.plan.lengths)), most
        while count < most and self.plan.padded_length(step + count) == length:
            count += 1
        size = self.plan.batch_size
        examples = np.concatenate([self.plan.examples(step + i) for i in range(count)])
        flat = batch_of(self._split, examples, length, self._settings)
        flat = flat._replace(rows=flat.rows % size)
        return tf.nest.map_structure(
            lambda values: _filled(values.reshape(count, size, *values.shape[1:]), most), flat
        ), count

    def stacks(self, first_step: int, most: int, mixed: bool = False) -> tf.data.Dataset:
        """Returns the batches from `first_step` on in stacks, without end, made ahead of time.

        An element: (batches, int32 [most] their padded lengths as numbers of `plan.lengths`, how
        many they are).
        """
        numbers = {int(length): number for number, length in enumerate(self.plan.lengths)}

        def made() -> Iterator[tuple[Batch, np.ndarray, int]]:
            step = first_step
            while True:
                stack, count = self.stack(step, most, mixed)
                lengths = [numbers[self.plan.padded_length(step + i)] for i in range(count)]
                yield stack, _filled(np.array(lengths, np.int32), most), count
                step += count

        signature = tf.nest.map_structure(
            lambda spec: tf.TensorSpec([most, *spec.shape], spec.dtype), SIGNATURE
        )
        return tf.data.Dataset.from_generator(
            made,
            output_signature=(
                signature,
                tf.TensorSpec([most], tf.int32),
                tf.TensorSpec([], tf.int32),
            ),
        ).prefetch(2)


def _filled(values: np.ndarray, count: int) -> np.ndarray:
    """Returns `values` with zeros after them, `count` entries in all."""
    return np.concatenate(
        [values, np.zeros((count - len(values), *values.shape[1:]), values.dtype)]
    )


# --- Evaluation -----------------------------------------------------------------------------------


class EvaluationBatches:
    """The padded batches of an evaluation: every example of a split once."""

    def __init__(self, split: Split, settings: configuration.Input, batch_size: int):
        self.plan = plans.EvaluationPlan(split, settings, batch_size)
        self._split = split
        self._settings = settings

    def __iter__(self) -> Iterator[tuple[Batch, np.ndarray, int]]:
        """Yields (batch, examples int64 [real], real): the first `real` rows count."""
        for examples, real, length in self.plan:
            batch = batch_of(self._split, examples, length, self._settings)
            yield batch, examples[:real], real
