"""Sequences of numbers as a source gives them: in batches, and how each of them is checked.

A sequence has steps, and each step is a frame: numbers of one shape, the same in a whole dataset.
"""

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from trainer import shown
from trainer.data import store
from trainer.exit_codes import DataError, UsageError
from trainer.flags import numbers
from trainer.flags.prepare import Prepare
from trainer.prepare.rows import Label, Place, at

BATCH_NUMBERS = 1 << 20
BATCH_ROWS = 8192


class One(NamedTuple):
    """A sequence as a format reads it.

    frames: [steps, *shape of a frame], NaN for a missing number. label: as in `rows.Row`, or the
    values of a regression. split: value of the split column, if there is one. id: what tells it
    apart from the others of its file, if something does. steps: int [steps], the line of each step,
    if it has one.
    """

    place: Place
    frames: np.ndarray
    label: Label | Sequence[Any] = None
    split: str | None = None
    id: str | None = None
    steps: np.ndarray | None = None


@dataclasses.dataclass
class Sequences:
    """A batch of sequences; the other attributes are those of `rows.Rows`.

    frames: numbers of any type, [total steps, *shape of a frame], all sequences end to end.
    lengths: int64 [sequences], steps of each. steps: as in `One`. label_places: where the labels
    lie, unless it is where the sequences begin.
    """

    split: str | None
    places: Sequence[Place]
    frames: np.ndarray
    lengths: np.ndarray
    labels: Sequence[Label]
    splits: Sequence[str] | None = None
    ids: Sequence[str | None] | None = None
    steps: Sequence[np.ndarray | None] | None = None
    label_places: Sequence[Place] | None = None

    def __post_init__(self):
        if self.label_places is None:
            self.label_places = self.places

    def __len__(self) -> int:
        return len(self.lengths)


def batches(ones: Iterable[One], split: str | None) -> Iterator[Sequences]:
    """Returns sequences in batches of about BATCH_NUMBERS numbers and at most BATCH_ROWS rows.

    A batch ends before a sequence whose frames have another shape.
    """
    pending, size = [], 0
    for one in ones:
        if pending and one.frames.shape[1:] != pending[0].frames.shape[1:]:
            yield _joined(pending, split)
            pending, size = [], 0
        pending.append(one)
        size += one.frames.size
        if size >= BATCH_NUMBERS or len(pending) == BATCH_ROWS:
            yield _joined(pending, split)
            pending, size = [], 0
    if pending:
        yield _joined(pending, split)


def _joined(ones: Sequence[One], split: str | None) -> Sequences:
    places, frames, labels, splits, ids, steps = zip(*ones)
    return Sequences(
        split,
        places,
        np.concatenate(frames),
        np.array(list(map(len, frames)), np.int64),
        labels,
        splits if split is None else None,
        ids,
        steps,
    )


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a source of numbers is read: what is the same for `prepare` and for `predict`.

    Attributes:
      source: --source.
      answers: what is read beside the frames: "labels", "values", or "" for nothing.
      columns: the names of the labels or values, if they are columns.
      features: the names of the features, if they are columns.
      split_column: the column of the split, if there is one.
      settings: the flags that the format takes, by name; dataset.json keeps them.
      missing: --missing.
      max_line_bytes, max_expansion: the flags.
    """

    source: str
    answers: str
    columns: tuple[str, ...]
    features: tuple[str, ...]
    split_column: str
    settings: Mapping[str, Any]
    missing: str
    max_line_bytes: int
    max_expansion: int

    @classmethod
    def of_flags(cls, config: Prepare) -> "Reading":
        """Returns how `prepare` reads."""
        return cls(
            config.source,
            "values" if config.task == "regression" else "labels",
            config.answer_columns,
            tuple(numbers.columns_in(config.feature_columns)),
            config.split_column,
            {name: getattr(config, name) for name in _SETTINGS[config.source]},
            config.missing,
            config.max_line_bytes,
            config.max_expansion,
        )

    @classmethod
    def of_dataset(
        cls, dataset: store.Dataset, changed: Mapping[str, Any], max_line_bytes: int
    ) -> "Reading":
        """Returns how new data is read for a model of `dataset`; `changed`: settings.

        Raises UsageError if `prepare` did not write the dataset.
        """
        described = dict(dataset.description["input"].get("reading", {}))
        if "source" not in described:
            raise UsageError(
                f"{dataset.folder}: its dataset.json does not say how the sequences were read, so "
                "new ones cannot be read in the same way. Prepare the dataset with `prepare`."
            )
        source, missing = described.pop("source"), described.pop("missing")
        expansion = next(
            field.default for field in dataclasses.fields(Prepare) if field.name == "max_expansion"
        )
        return cls(
            source,
            "",
            (),
            dataset.features,
            "",
            {**described, **changed},
            missing,
            max_line_bytes,
            expansion,
        )

    def with_settings(self, **settings: Any) -> "Reading":
        """Returns the same with other settings."""
        return dataclasses.replace(self, settings={**self.settings, **settings})

    def described(self) -> dict:
        """Returns the part of dataset.json by which `of_dataset` makes it again."""
        return {
            "source": self.source,
            "missing": self.missing,
            **{
                name: list(value) if isinstance(value, tuple) else value
                for name, value in self.settings.items()
            },
        }


# {source: the flags that say how its files are read}.
_SETTINGS = {
    "arrays": ("x_array", "y_array", "lengths_array", "frame_shape"),
    "ts": (),
    "csv": ("sequence_column", "time_column"),
    "folder": ("sample_rate", "window_ms", "hop_ms", "mel_bands"),
    "digits": ("x_array", "y_array", "lengths_array", "frame_shape"),  # As `predict` reads more.
}


@dataclasses.dataclass(frozen=True)
class Source:
    """Where sequences come from, and what is known before they are read.

    paths: {split: the files or folders that they come from}. read: returns the batches; it takes a
    function and calls it with the number of bytes of each piece that it reads.
    """

    paths: dict[str, list[str]]
    read: Callable[[Callable[[int], None]], Iterator[Sequences]]

    @property
    def size(self) -> int:
        """Bytes of all files; a file that several splits share counts once."""
        places = {path for paths in self.paths.values() for path in paths}
        files = (
            [entry.path for entry in os.scandir(place)] if os.path.isdir(place) else [place]
            for place in places
        )
        return sum(map(os.path.getsize, itertools.chain.from_iterable(files)))


class Checks:
    """Makes the frames of every batch float32 and finite, and all of one shape."""

    def __init__(
        self, missing: str, features: Sequence[str] = (), expected: tuple[int, ...] | None = None
    ):
        """
        Args:
          missing: --missing.
          features: the names of the features, if they have some.
          expected: the shape that frames must have; None: that of the first batch.
        """
        self._missing, self._features = missing, features
        self._expected, self._first = expected, None
        self.filled = 0  # Missing numbers.

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the frames."""
        return self._expected

    def checked(self, batch: Sequences) -> np.ndarray:
        """Returns the frames of a batch, float32 [total steps, features].

        Raises:
          DataError: another shape, a sequence without a step, a number that is missing (with
            --missing=error), not finite, or too large for float32.
        """
        self._check_shape(batch)
        if (empty := np.flatnonzero(batch.lengths == 0)).size:
            raise DataError(
                f"{at(batch.places[empty[0]])}: a sequence without a step. Every sequence needs "
                "one: remove it."
            )
        frames = batch.frames.reshape(len(batch.frames), -1)
        if frames.dtype.kind not in "iuf":
            raise DataError(
                f"{at(batch.places[0])}: the numbers are of type {frames.dtype}, but must be whole "
                "or real numbers. Convert them (.astype('float32'))."
            )
        with np.errstate(over="ignore"):
            found = frames.astype(np.float32)
        if frames.dtype.kind == "f" and not np.isfinite(found).all():
            self._mend(batch, frames, found)
        found += np.float32(0)  # -0 is 0, also to the hash of a sequence.
        return found

    def _check_shape(self, batch: Sequences) -> None:
        shape = batch.frames.shape[1:]
        if self._expected is None:
            self._expected, self._first = shape, batch.places[0]
        if shape == self._expected:
            return
        other = f"those of {at(self._first)} are" if self._first else "the model reads frames of"
        raise DataError(
            f"{at(batch.places[0])}: frames of {list(shape)} numbers, but {other} "
            f"{list(self._expected)}. All frames must have one shape: correct this file, or leave "
            "it out."
        )

    def _mend(self, batch: Sequences, frames: np.ndarray, found: np.ndarray) -> None:
        """Fills the missing numbers in `found`, the float32 of `frames`, or raises DataError."""
        missing = np.isnan(frames)
        if (wrong := ~np.isfinite(found) & ~missing).any():
            seen = frames[tuple(np.argwhere(wrong)[0])]
            if np.isinf(seen):
                rule, remedy = "must be finite", "Correct it, or write nan for a missing number"
            else:
                rule, remedy = "is too large for float32", "Scale the feature down"
            raise DataError(f"{self._place(batch, wrong)} is {seen}, which {rule}. {remedy}.")
        if self._missing == "error":
            raise DataError(
                f"{self._place(batch, missing)} is missing (nan). Fill it in, or use "
                "--missing=zero or --missing=previous."
            )
        self.filled += int(missing.sum())
        found[missing] = 0
        if self._missing == "previous":
            # For each number the last step at or before it, in its sequence, that has one.
            steps = np.arange(len(found))[:, None]
            begins = np.repeat(np.cumsum(batch.lengths) - batch.lengths, batch.lengths)[:, None]
            last = np.maximum.accumulate(np.where(missing, -1, steps), axis=0)
            last = np.where(last < begins, steps, last)  # None yet: it stays 0.
            found[:] = np.take_along_axis(found, last, axis=0)

    def _place(self, batch: Sequences, where: np.ndarray) -> str:
        """Returns the place of the first true entry of `where`, bool [total steps, features]."""
        step, feature = np.argwhere(where)[0]
        ends = np.cumsum(batch.lengths)
        row = int(np.searchsorted(ends, step, side="right"))
        inside = int(step - (ends[row] - batch.lengths[row]))
        name = f"feature {feature}"
        if self._features:
            name = f"feature {shown.value(self._features[feature], shown.NAME_CHARACTERS)}"
        place = batch.places[row]
        if batch.steps and batch.steps[row] is not None:
            place = (place[0], batch.steps[row][inside])
        return f"{at(place)}: step {inside} (from 0), {name}"
