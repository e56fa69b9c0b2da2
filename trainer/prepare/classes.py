"""Turns labels into class ids and checks each of them; errors name file and line."""

import re
from collections.abc import Callable, Collection

import numpy as np

from trainer.exit_codes import DataError
from trainer.prepare.rows import Place, Rows, at
from trainer.prepare.splits import SPLITS, TRAIN

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Classes:
    """Numbers labels in order of appearance; `ranked` maps the numbers to class ids."""

    def __init__(self):
        self._numbers: dict[str | int, int] = {}
        # (label, split): the first row that has the label in the split.
        self._first: dict[tuple[str | int, int], Place] = {}

    def add(self, rows: Rows, given: np.ndarray) -> np.ndarray:
        """Returns the numbers of the labels of `rows`, int32 [rows].

        Args:
          given: int8 [rows], the splits of the rows.

        Raises:
          DataError: a label is empty or unprintable, or a number among strings, or the reverse.
        """
        for label, split, place in zip(rows.labels, given.tolist(), rows.places):
            if (label, split) not in self._first:
                self._check(label, place)
                self._numbers.setdefault(label, len(self._numbers))
                self._first[label, split] = place
        return np.fromiter(map(self._numbers.__getitem__, rows.labels), np.int32, len(rows))

    def _check(self, label: str | int, place: Place) -> None:
        if self._first:
            (other, _), first = next(iter(self._first.items()))
            if type(other) is not type(label):
                raise DataError(
                    f"{at(place)}: the label {label!r} is {_kind(label)}, but {other!r} at "
                    f"{at(first)} is {_kind(other)}. Write all labels in one way."
                )
        if isinstance(label, str) and not label.strip():
            raise DataError(
                f"{at(place)}: the label is empty. Every row needs one: fill it in, or remove the "
                "row."
            )
        if isinstance(label, str) and _UNPRINTABLE.search(label):
            raise DataError(
                f"{at(place)}: the label {label!r} holds bad UTF-8 or a control character. "
                "A label is one printable line."
            )

    def ranked(self) -> tuple[list[str], np.ndarray]:
        """Returns the labels by class id, and the class id of each number, int32 [classes].

        If all labels are whole numbers they are sorted as numbers, else by code point.

        Raises:
          DataError: a given split has a label that no training row has, or the training rows have
            fewer than two labels.
        """
        for (label, split), place in self._first.items():
            if (label, TRAIN) not in self._first:
                raise DataError(
                    f"{at(place)}: the label {label!r} of the {SPLITS[split]} split is in no "
                    "training row, so it cannot be learned. Correct it, remove these rows, or add "
                    "training rows."
                )
        names = sorted(self._numbers, key=_sort_key(self._numbers))
        if len(names) < 2:
            place = self._first[names[0], TRAIN]
            raise DataError(
                f"{at(place)}: every row has the label {names[0]!r}; a classifier needs at least "
                "two. Check --label_column and the data."
            )
        ids = np.empty(len(names), np.int32)
        ids[[self._numbers[name] for name in names]] = np.arange(len(names))
        return [str(name) for name in names], ids


def _kind(label: str | int) -> str:
    return "a number" if isinstance(label, int) else "a string"


def _sort_key(labels: Collection[str | int]) -> Callable[[str | int], tuple[int, str] | str]:
    if all(
        isinstance(label, int) or re.fullmatch(r"[+-]?[0-9]{1,4000}", label) for label in labels
    ):
        return lambda label: (int(label), str(label))
    return str
