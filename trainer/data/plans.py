"""Which examples a step sees and the length they are padded to, as a pure function of the step.

A plan remembers no position. It needs NumPy only, so that a process without TensorFlow can count
epochs with it.
"""

import functools
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from trainer.data import epochs, fields, order, pairs
from trainer.data.epochs import Epochs
from trainer.data.store import Split
from trainer.exit_codes import UsageError
from trainer.flags.run import Input

# The most batches that are sorted by length together; also the unit in which the order is computed.
WINDOW_BATCHES = 64
# Of pairs: a batch at the edge of two of their shapes has the larger one, so edges must be rare.
PAIR_WINDOW_BATCHES = 512
# Padded lengths, each compiled once by XLA: fewer mean more padding, more mean more compiling.
LENGTHS = 6
GRAIN = 8  # Padded lengths are multiples of it.
# Evaluation reads a text in so many parts side by side, whatever the batch size and the number of
# workers: each part begins without what came before it, so the number is part of the metric.
EVALUATION_PARTS = 16
EVALUATION_CHUNK = 64  # Steps of an evaluation's chunk; it affects no metric.

# What a batch is padded to: the length of its rows, or (source, target) if they are pairs.
Length = int | tuple[int, int]


class Plan(Protocol):
    """The rows of every step of a run; steps are counted from 0 here.

    size: rows of an epoch. batch_size: rows of a step. lengths: the lengths that batches can have.
    rows_are: what the numbers of `examples` count, in words.
    """

    size: int
    batch_size: int
    epochs: Epochs
    rows_are: str

    @property
    def lengths(self) -> list[Length]: ...

    def examples(self, step: int) -> np.ndarray:
        """Returns what each row of a step is: int64 [batch_size]."""

    def padded_length(self, step: int) -> Length:
        """Returns the length that a step's batch is padded to."""


def training_plan(split: Split, order: str, settings: Input, seed: int) -> Plan:
    """Returns the plan for a dataset's `order` of examples, one of `fields.ORDERS`.

    Raises UsageError if the split is too short for it.
    """
    makes = {fields.SHUFFLED: ShuffledPlan, fields.STREAMS: StreamsPlan}
    return makes[order](split, settings, seed)


def cut_lengths(split: Split, max_length: int) -> np.ndarray:
    """Returns the tokens that count of each example: int32 [examples], at most `max_length`."""
    return np.minimum(np.diff(split.offsets), max_length).astype(np.int32)


def pair_lengths(split: Split, max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the tokens that count of each source and of each target: two int32 [examples]."""
    targets = Split(split.targets, split.target_offsets)
    return cut_lengths(split, max_length), cut_lengths(targets, max_length)


def padded_lengths(lengths: np.ndarray, max_length: int, count: int = LENGTHS) -> np.ndarray:
    """Returns the few lengths that batches are padded to.

    They are quantiles of the split's own lengths, rounded up to the grain. With lengths 1 .. 100,
    max_length 100 and count 4: [32 56 80 100].

    Args:
      lengths: int [examples], already cut to max_length.

    Returns:
      int64, increasing, at most `count` values; the last holds the longest example.
    """
    quantiles = np.quantile(lengths, np.arange(1, count + 1) / count, method="higher")
    rounded = -(-quantiles.astype(np.int64) // GRAIN) * GRAIN
    return np.unique(np.minimum(rounded, max_length))


class Lengths:
    """The lengths of a split's examples and of its batches.

    size: tokens that count of each example, int32 [examples]; of a pair on both sides. sorting: int
    [examples], by which examples of about the same length come together. padded: the lengths that
    batches can have, increasing.
    """

    def __init__(self, split: Split, settings: Input):
        self.size = self.sorting = cut_lengths(split, settings.max_length)
        self.padded = (
            [settings.max_length]
            if settings.padding == "pre"
            else padded_lengths(self.size, settings.max_length).tolist()
        )

    def holding(self, examples: np.ndarray) -> Length:
        """Returns the smallest of the padded lengths that holds each of `examples`."""
        if len(self.padded) == 1:
            return self.padded[0]
        return self.padded[np.searchsorted(self.padded, self.size[examples].max())]


class PairLengths:
    """The lengths of a split's pairs and of its batches, with the attributes of `Lengths`."""

    def __init__(self, split: Split, settings: Input):
        sources, targets = sides = pair_lengths(split, settings.max_length)
        self.size = sources + targets
        self.padded = pairs.shapes(*sides, LENGTHS)
        self._number = pairs.first_holding(*sides, self.padded)
        # By shape, in it by target and source: neighbours at the edge of a shape are alike.
        self.sorting = np.ravel_multi_index(
            (self._number, targets, sources), (LENGTHS, targets.max() + 1, sources.max() + 1)
        )

    def holding(self, examples: np.ndarray) -> Length:
        """Returns the smallest of the padded lengths that holds each of `examples`."""
        return self.padded[self._number[examples].max()]


def lengths_of(split: Split, settings: Input) -> Lengths | PairLengths:
    """Returns the lengths of a split's examples, whether they are pairs or not."""
    return (Lengths if split.target_offsets is None else PairLengths)(split, settings)


class ShuffledPlan:
    """Every example once in each epoch, in a keyed order; steps are counted from 0 here.

    Row r of step s is the example at position s * batch_size + r of the order. With buckets, the
    positions of a window of `window` steps are sorted by length, cut into batches, and the batches
    put in a keyed order. A window is not longer than an epoch: else the copies of an example, which
    are equally long, would meet in a batch.
    """

    rows_are = "training examples"

    def __init__(self, split: Split, settings: Input, seed: int):
        self.size = len(split)
        self.batch_size = settings.batch_size
        self.epochs = Epochs(self.size, self.batch_size)
        windows = WINDOW_BATCHES if split.target_offsets is None else PAIR_WINDOW_BATCHES
        self.window = min(windows, max(1, self.size // self.batch_size))
        self._seed = seed
        self._lengths = lengths_of(split, settings)
        self._bucket = settings.bucket and settings.padding == "post"
        self._examples_of = functools.lru_cache(maxsize=8)(self._window_examples)

    @property
    def lengths(self) -> list[Length]:
        """The lengths that batches can have."""
        return self._lengths.padded

    def padding(self) -> float:
        """Returns the share of padding in the batches of the first epoch, in [0, 1)."""
        steps = range(-(-self.size // self.batch_size))
        held = sum(self._lengths.size[self.examples(step)].sum() for step in steps)
        shapes = np.array([self.padded_length(step) for step in steps])
        return float(1 - held / (shapes.sum() * self.batch_size))

    def examples(self, step: int) -> np.ndarray:
        """Returns the examples of a step: int64 [batch_size]."""
        window, place = divmod(step, self.window)
        return self._examples_of(window)[place]

    def padded_length(self, step: int) -> Length:
        """Returns the length that a step's batch is padded to."""
        return self._lengths.holding(self.examples(step))

    def _window_examples(self, window: int) -> np.ndarray:
        """Returns int64 [window, batch_size]: the examples of the steps of a window."""
        first = window * self.window * self.batch_size
        positions = np.arange(first, first + self.window * self.batch_size)
        examples = order.examples_at(positions, self.size, self._seed)
        if self._bucket:
            examples = examples[np.argsort(self._lengths.sorting[examples], kind="stable")]
        batches = examples.reshape(self.window, self.batch_size)
        if self._bucket:
            # Three parts, so it never equals a key of `order`, which has two.
            key = order.key(self._seed, window, WINDOW_BATCHES)
            batches = batches[order.permute(np.arange(self.window), self.window, key)]
        return batches


class StreamsPlan:
    """A text in `batch_size` streams, read in chunks of `max_length` tokens; steps from 0.

    All tokens of the split end to end make a circle. In each epoch it is turned by a keyed number
    of tokens and cut into `batch_size` equal parts; row r of step s reads chunk s % K of part r,
    where K is the number of whole chunks in a part. What is left of a part is not read in this
    epoch: the turn makes it another piece of the text each time.
    """

    rows_are = "tokens of the training text at which its rows begin"

    def __init__(self, split: Split, settings: Input, seed: int):
        self._tokens, self._chunk, self._seed = len(split.inputs), settings.max_length, seed
        self.batch_size = settings.batch_size
        self._part = self._tokens // self.batch_size
        self._chunks = epochs.chunks(self._tokens, settings)
        if not self._chunks:
            streams, fits = self._tokens // self._chunk, []
            if streams:
                fits.append(f"--batch_size={streams}")
            if self._part:
                fits.append(f"--max_length={self._part}")
            raise UsageError(
                f"--batch_size={self.batch_size} x --max_length={self._chunk} is "
                f"{self.batch_size * self._chunk} tokens, and the training text has only "
                f"{self._tokens}: every stream needs at least one chunk. "
                + (
                    f"Lower one of them: {' or '.join(fits)} is the most that fits."
                    if fits
                    else f"Lower both: --batch_size=1 --max_length={self._tokens} fits."
                )
            )
        self.size = self._chunks * self.batch_size
        self.epochs = Epochs(self.size, self.batch_size)

    @property
    def lengths(self) -> list[Length]:
        """The length that all batches have."""
        return [self._chunk]

    def examples(self, step: int) -> np.ndarray:
        """Returns the place of the first token of each row: int64 [batch_size]."""
        epoch, chunk = divmod(step, self._chunks)
        # Four parts, so it never equals another key of the order.
        turn = int(
            order.key(self._seed, epoch, self._tokens, self._chunk) % np.uint64(self._tokens)
        )
        begins = turn + np.arange(self.batch_size, dtype=np.int64) * self._part
        return (begins + chunk * self._chunk) % self._tokens

    def padded_length(self, step: int) -> int:
        """Returns the length of a step's batch."""
        return self._chunk


class StreamEvaluationPlan:
    """A text in EVALUATION_PARTS parts side by side, in chunks; each goes on where the last ended.

    Every token but the first is a target once. Parts differ by one token at most; a text of fewer
    tokens has parts without any.
    """

    batch_size = EVALUATION_PARTS

    def __init__(self, split: Split):
        edges = (len(split.inputs) - 1) * np.arange(EVALUATION_PARTS + 1) // EVALUATION_PARTS
        self._begins, self._ends = edges[:-1], edges[1:]
        longest = int((self._ends - self._begins).max())
        self._chunk = max(1, min(EVALUATION_CHUNK, longest))
        self._chunks = -(-longest // self._chunk)

    @property
    def lengths(self) -> list[Length]:
        """The length that all chunks have."""
        return [self._chunk]

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        """Yields (places of first tokens int64 [parts], steps that count int32 [parts], length)."""
        for chunk in range(self._chunks):
            starts = self._begins + chunk * self._chunk
            lengths = np.clip(self._ends - starts, 0, self._chunk).astype(np.int32)
            yield starts, lengths, self._chunk


class EvaluationPlan:
    """Every example of a split once, in order of length, `batch_size` rows at a time.

    All batches have the same number of rows, so that XLA compiles one shape per length: the last is
    filled up with copies of the shortest example.
    """

    def __init__(self, lengths: Lengths | PairLengths, batch_size: int):
        """
        Args:
          lengths: those of the split, `lengths_of` it.
        """
        self.batch_size = batch_size
        self._lengths = lengths

    @property
    def lengths(self) -> list[Length]:
        """The lengths that batches can have."""
        return self._lengths.padded

    def __iter__(self) -> Iterator[tuple[np.ndarray, int, Length]]:
        """Yields (examples int64 [batch_size], how many of them count, the padded length)."""
        by_length = np.argsort(self._lengths.sorting, kind="stable")
        for first in range(0, len(by_length), self.batch_size):
            examples = by_length[first : first + self.batch_size]
            missing = self.batch_size - len(examples)
            filled = np.concatenate([examples, np.full(missing, by_length[0])])
            yield filled, len(examples), self._lengths.holding(filled)


def loose_length(split: Split, settings: Input) -> int:
    """Returns the length for all examples of a small split in one batch: a power of two."""
    if settings.padding == "pre":
        return settings.max_length
    longest = int(cut_lengths(split, settings.max_length).max())
    return min(settings.max_length, max(2 * GRAIN, 2 ** (longest - 1).bit_length()))
