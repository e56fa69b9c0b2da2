"""Turns labels (or tags) into class ids and checks each of them; errors name file and line."""

import re
from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np

from trainer.exit_codes import DataError
from trainer.prepare.rows import Place, at
from trainer.prepare.splits import SPLITS, TRAIN

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Classes:
    """Numbers labels in order of appearance; `ranked` maps the numbers to class ids."""

    def __init__(self, noun: str = "label", of: str = "row", flag: str = "label_column"):
        """
        Args:
          noun, of: how messages call a label, and what has it.
          flag: names the column of the labels.
        """
        self._noun, self._of, self._flag = noun, of, flag
        self._numbers: dict[str | int, int] = {}
        # (label, split): the first row that has the label in the split.
        self._first: dict[tuple[str | int, int], Place] = {}

    def add(
        self, labels: Sequence[str | int], given: Iterable[int], places: Iterable[Place]
    ) -> np.ndarray:
        """Returns the numbers of `labels`, int32 [labels].

        Args:
          given: the split of each.
          places: what an error names for each.

        Raises:
          DataError: a label is empty or unprintable, or a number among strings, or the reverse.
        """
        for label, split, place in zip(labels, given, places):
            if (label, split) not in self._first:
                self._check(label, place)
                self._numbers.setdefault(label, len(self._numbers))
                self._first[label, split] = place
        return np.fromiter(map(self._numbers.__getitem__, labels), np.int32, len(labels))

    def _check(self, label: str | int, place: Place) -> None:
        if self._first:
            (other, _), first = next(iter(self._first.items()))
            if type(other) is not type(label):
                raise DataError(
                    f"{at(place)}: the {self._noun} {label!r} is {_kind(label)}, but {other!r} at "
                    f"{at(first)} is {_kind(other)}. Write all {self._noun}s in one way."
                )
        if isinstance(label, str) and not label.strip():
            raise DataError(
                f"{at(place)}: the {self._noun} is empty. Every {self._of} needs one: fill it in, "
                "or remove the row."
            )
        if isinstance(label, str) and _UNPRINTABLE.search(label):
            raise DataError(
                f"{at(place)}: the {self._noun} {label!r} holds bad UTF-8 or a control character. "
                f"A {self._noun} is one printable line."
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
                    f"{at(place)}: the {self._noun} {label!r} of the {SPLITS[split]} split is in "
                    "no training row, so it cannot be learned. Correct it, remove these rows, or "
                    "add training rows."
                )
        names = sorted(self._numbers, key=_sort_key(self._numbers))
        if len(names) < 2:
            place = self._first[names[0], TRAIN]
            raise DataError(
                f"{at(place)}: every {self._of} has the {self._noun} {names[0]!r}; a classifier "
                f"needs at least two. Check --{self._flag} and the data."
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
