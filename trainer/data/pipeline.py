"""batch(step): which examples a step sees and the padded arrays it gets, as a pure function of the
step.

Nothing here remembers where it is. tf.data only carries the arrays: a range of steps is mapped to
batches ahead of time.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from trainer import config as configuration
from trainer.data import order
from trainer.data.store import Split

# Most batches that are sorted by length together; also the unit in which the order is computed.
WINDOW_BATCHES = 64
# Padded lengths, each compiled once by XLA: fewer means more padding, more means more compiling.
LENGTHS = 6
GRAIN = 8  # Padded lengths are multiples of it.


class Batch(NamedTuple):
    """What a step needs of its rows.

    rows: int32 [batch], the row of the global batch; dropout is keyed by it.
    tokens: int32 [batch, length], 0 where padded.
    lengths: int32 [batch], tokens that count.
    labels: int32 [batch].
    """

    rows: np.ndarray
    tokens: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray


SIGNATURE = Batch(
    rows=tf.TensorSpec([None], tf.int32),
    tokens=tf.TensorSpec([None, None], tf.int32),
    lengths=tf.TensorSpec([None], tf.int32),
    labels=tf.TensorSpec([None], tf.int32),
)


def padded_lengths(lengths: np.ndarray, max_length: int, count: int = LENGTHS) -> np.ndarray:
    """The few lengths that batches are padded to: quantiles of the split's own lengths, rounded up
    to the grain.

    With lengths 1 .. 100, max_length 100 and count 4: [32 56 80 100].

    Args:
      lengths: int [examples], already cut to max_length.

    Returns:
      int64, increasing, at most `count` values; the last holds the longest example.
    """
    quantiles = np.quantile(lengths, np.arange(1, count + 1) / count, method="higher")
    rounded = -(-quantiles.astype(np.int64) // GRAIN) * GRAIN
    return np.unique(np.minimum(rounded, max_length))


def pad(
    split: Split, examples: np.ndarray, length: int, settings: configuration.Input
) -> np.ndarray:
    """Tokens of `examples`, cut and filled up with 0 to `length`: int32 [examples, length]."""
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


class _Source:
    """Lengths and padding of one split under one configuration of the input."""

    def __init__(self, split: Split, settings: configuration.Input):
        self.split = split
        self.settings = settings
        self.cut = np.minimum(np.diff(split.offsets), settings.max_length).astype(np.int32)
        pre = settings.padding == "pre"
        self.lengths = (
            np.array([settings.max_length])
            if pre
            else padded_lengths(self.cut, settings.max_length)
        )

    def padded_length(self, examples: np.ndarray) -> int:
        """The smallest of the padded lengths that holds each of `examples`."""
        if len(self.lengths) == 1:
            return int(self.lengths[0])
        return int(self.lengths[np.searchsorted(self.lengths, self.cut[examples].max())])

    def batch(self, examples: np.ndarray, length: int, first_row: int = 0) -> Batch:
        tokens = pad(self.split, examples, length, self.settings)
        # Padding in front counts as tokens: the published programs that use it mask nothing.
        lengths = (
            np.full(len(examples), length, np.int32)
            if self.settings.padding == "pre"
            else self.cut[examples]
        )
        rows = np.arange(first_row, first_row + len(examples), dtype=np.int32)
        return Batch(rows, tokens, lengths, np.asarray(self.split.labels[examples]))


class TrainingBatches:
    """The batch of every step of a run; steps are counted from 0 here.

    Row r of step s is the example at position s * batch_size + r of the order. With buckets, the
    positions of a window of `window` steps are sorted by length, cut into batches, and the batches
    put in a keyed order. A window is no longer than an epoch, or copies of an example, equally
    long, would meet in a batch.
    """

    def __init__(self, split: Split, settings: configuration.Input, seed: int):
        self.size = len(split)
        self.batch_size = settings.batch_size
        self.window = min(WINDOW_BATCHES, max(1, self.size // self.batch_size))
        self._seed = seed
        self._source = _Source(split, settings)
        self._bucket = settings.bucket and settings.padding == "post"
        self._examples_of = functools.lru_cache(maxsize=8)(self._window_examples)

    @property
    def lengths(self) -> np.ndarray:
        """The lengths that batches can have."""
        return self._source.lengths

    def examples(self, step: int) -> np.ndarray:
        """int64 [batch_size]: the examples of a step."""
        window, place = divmod(step, self.window)
        return self._examples_of(window)[place]

    def padded_length(self, step: int) -> int:
        """The length that a step's batch is padded to."""
        return self._source.padded_length(self.examples(step))

    def batch(self, step: int, first_row: int = 0, end_row: int | None = None) -> Batch:
        """Rows [first_row, end_row) of a step's global batch; padded like the whole batch, whoever
        asks for which rows.
        """
        examples = self.examples(step)
        return self._source.batch(
            examples[first_row:end_row], self._source.padded_length(examples), first_row
        )

    def dataset(self, first_step: int, rows: tuple[int, int | None] = (0, None)) -> tf.data.Dataset:
        """The batches from `first_step` on, without end, made ahead of time. `rows`: [first, end)
        of the global batch.
        """

        def load(step):
            arrays = tf.numpy_function(
                lambda step: tf.nest.flatten(self.batch(int(step), *rows)),
                [step],
                [spec.dtype for spec in tf.nest.flatten(SIGNATURE)],
            )
            return tf.nest.map_structure(
                lambda array, spec: tf.ensure_shape(array, spec.shape),
                tf.nest.pack_sequence_as(SIGNATURE, arrays),
                SIGNATURE,
            )

        return tf.data.Dataset.range(first_step, 2**62).map(load).prefetch(tf.data.AUTOTUNE)

    def stack(self, step: int, most: int) -> tuple[Batch, int]:
        """(the batches of the steps from `step` on that have one padded length, `most` at most, how
        many they are).

        Every array of the batch has an axis of `most` steps before its own; it is zero where there
        are fewer.
        """
        length, count = self.padded_length(step), 1
        while count < most and self.padded_length(step + count) == length:
            count += 1
        flat = self._source.batch(
            np.concatenate([self.examples(step + i) for i in range(count)]), length
        )
        flat = flat._replace(rows=flat.rows % self.batch_size)
        return tf.nest.map_structure(
            lambda values: _filled(values.reshape(count, self.batch_size, *values.shape[1:]), most),
            flat,
        ), count

    def stacks(self, first_step: int, most: int) -> tf.data.Dataset:
        """The batches from `first_step` on as (stack, count), without end, made ahead of time."""

        def made():
            step = first_step
            while True:
                stack, count = self.stack(step, most)
                yield stack, count
                step += count

        signature = tf.nest.map_structure(
            lambda spec: tf.TensorSpec([most, *spec.shape], spec.dtype), SIGNATURE
        )
        return tf.data.Dataset.from_generator(
            made, output_signature=(signature, tf.TensorSpec([], tf.int32))
        ).prefetch(2)

    def _window_examples(self, window: int) -> np.ndarray:
        first = window * self.window * self.batch_size
        positions = np.arange(first, first + self.window * self.batch_size)
        examples = order.examples_at(positions, self.size, self._seed)
        if self._bucket:
            examples = examples[np.argsort(self._source.cut[examples], kind="stable")]
        batches = examples.reshape(self.window, self.batch_size)
        if self._bucket:
            # Of three parts: none of the order's own.
            key = order.key(self._seed, window, WINDOW_BATCHES)
            batches = batches[order.permute(np.arange(self.window), self.window, key)]
        return batches


def _filled(values: np.ndarray, count: int) -> np.ndarray:
    """`values` with zeros behind them, to `count` entries."""
    return np.concatenate(
        [values, np.zeros((count - len(values), *values.shape[1:]), values.dtype)]
    )


def blank(length: int, rows: int) -> Batch:
    """Returns a batch of padding, of `rows` rows: for its shape."""
    return Batch(
        tf.range(rows),
        tf.zeros([rows, length], tf.int32),
        tf.ones([rows], tf.int32),
        tf.zeros([rows], tf.int32),
    )


def loose_batch(split: Split, settings: configuration.Input) -> Batch:
    """All examples of a small split, in its own order, as one batch padded to a power of two: for
    texts that just came in.
    """
    source = _Source(split, settings)
    length = settings.max_length
    if settings.padding == "post":
        length = min(length, max(2 * GRAIN, 2 ** int(source.cut.max() - 1).bit_length()))
    return source.batch(np.arange(len(split)), length)


@dataclasses.dataclass(frozen=True)
class EvaluationBatches:
    """Every example of a split once, in order of length, `batch_size` rows at a time.

    All batches have the same number of rows, so that XLA compiles one shape per length: the last is
    filled up with copies of the shortest example, and comes with the number of rows that count.
    """

    split: Split
    settings: configuration.Input
    batch_size: int

    def lengths(self) -> list[int]:
        """The lengths that batches can have."""
        return _Source(self.split, self.settings).lengths.tolist()

    def __iter__(self) -> Iterator[tuple[Batch, np.ndarray, int]]:
        """Yields (batch, examples int64 [batch], rows that count)."""
        source = _Source(self.split, self.settings)
        by_length = np.argsort(source.cut, kind="stable")
        for first in range(0, len(by_length), self.batch_size):
            examples = by_length[first : first + self.batch_size]
            real = len(examples)
            filled = np.concatenate([examples, np.full(self.batch_size - real, by_length[0])])
            yield source.batch(filled, source.padded_length(filled)), examples, real
