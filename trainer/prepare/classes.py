"""Turns labels (or tags) into class ids and checks each of them; errors name file and line.

A label is taken without the white space around it, visible or not, and in Unicode's form NFC: a
space or a letter in two pieces that nobody sees must not make a second class.
"""

import logging
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import numpy as np

from trainer import shown
from trainer.exit_codes import DataError
from trainer.prepare.rows import Place, at
from trainer.prepare.splits import SPLITS, TRAIN

log = logging.getLogger(__name__)

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# Zero-width characters, the soft hyphen and marks of direction: as invisible as a space.
_INVISIBLE = "\u00ad\u200b-\u200f\u2060\ufeff"
_EDGES = re.compile(rf"^[\s{_INVISIBLE}]+|[\s{_INVISIBLE}]+$")
_NUMBER = re.compile(r"([+-]?)0*([0-9]*)(?:\.([0-9]*?)0*)?")
# How spreadsheets, databases and Python write a value that is not there, in small letters.
_MISSING = set(
    "nan <nan> n/a #n/a <na> null none #null! #ref! #value! #div/0! #name? #num!".split()
)
# From so many on, classes of a single example are no coincidence.
_MANY = 20


def tidied(label: str) -> str:
    """Returns a label without white space and invisible characters around it, in form NFC."""
    return _EDGES.sub("", unicodedata.normalize("NFC", label))


class Classes:
    """Numbers labels in order of appearance; `ranked` maps the numbers to class ids."""

    def __init__(
        self,
        noun: str = "label",
        of: str = "row",
        flag: str = "label_column",
        column: str = "",
        keep_odd: bool = False,
    ):
        """
        Args:
          noun, of: how messages call a label, and what has it.
          flag: names the column of the labels.
          column: its name in a header line, which is no label; "" if there is none.
          keep_odd: whether labels that probably are mistakes (`--odd_labels`) only warn.
        """
        self._noun, self._of, self._flag = noun, of, flag
        self._column, self._keep_odd = column, keep_odd
        self._numbers: dict[str | int, int] = {}
        # The number of each label as it was read; several may be one label.
        self._as_read: dict[str | int, int] = {}
        self._seen: set[tuple[str | int, int]] = set()
        # (label, split): the first row that has the label in the split.
        self._first: dict[tuple[str | int, int], Place] = {}
        self._counts = np.zeros(0, np.int64)  # Rows of each number.

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
        for read, split, place in zip(labels, given, places):
            if (read, split) not in self._seen:
                self._seen.add((read, split))
                label = tidied(read) if isinstance(read, str) else read
                self._check(label, place)
                self._as_read[read] = self._numbers.setdefault(label, len(self._numbers))
                self._first.setdefault((label, split), place)
        numbers = np.fromiter(map(self._as_read.__getitem__, labels), np.int32, len(labels))
        counts = np.bincount(numbers, minlength=len(self._numbers))
        counts[: len(self._counts)] += self._counts
        self._counts = counts
        return numbers

    def _check(self, label: str | int, place: Place) -> None:
        if self._first:
            (other, _), first = next(iter(self._first.items()))
            if type(other) is not type(label):
                raise DataError(
                    f"{at(place)}: the {self._noun} {shown.value(label)} is {_kind(label)}, but "
                    f"{shown.value(other)} at {at(first)} is {_kind(other)}. Write all "
                    f"{self._noun}s in one way."
                )
        if label == "":
            raise DataError(
                f"{at(place)}: the {self._noun} is empty. Every {self._of} needs one: fill it in, "
                "or remove the row."
            )
        if isinstance(label, str) and _UNPRINTABLE.search(label):
            raise DataError(
                f"{at(place)}: the {self._noun} {shown.value(label)} holds bad UTF-8 or a control "
                f"character. A {self._noun} is one printable line."
            )

    def ranked(self) -> tuple[list[str], np.ndarray]:
        """Returns the labels by class id, and the class id of each number, int32 [classes].

        If all labels are whole numbers they are sorted as numbers, else by code point.

        Raises:
          DataError: labels probably are mistakes, a given split has a label that no training row
            has, or the training rows have fewer than two labels.
        """
        places = self._places()
        for problem in self._odd(places):
            if not self._keep_odd:
                raise DataError(problem)
            log.warning("%s (--odd_labels=keep)", problem)
        for (label, split), place in self._first.items():
            if (label, TRAIN) not in self._first:
                raise DataError(
                    f"{at(place)}: the {self._noun} {shown.value(label)} of the {SPLITS[split]} "
                    "split is in no training row, so it cannot be learned. Correct it, remove "
                    "these rows, or add training rows."
                )
        names = sorted(self._numbers, key=_sort_key(self._numbers))
        if len(names) < 2:
            raise DataError(
                f"{at(places[names[0]])}: every {self._of} has the {self._noun} "
                f"{shown.value(names[0])}; a classifier needs at least two. Check --{self._flag} "
                "and the data."
            )
        self._warn_of_single_examples(places)
        ids = np.empty(len(names), np.int32)
        ids[[self._numbers[name] for name in names]] = np.arange(len(names))
        return [str(name) for name in names], ids

    def _places(self) -> dict[str | int, Place]:
        """Returns the first place of each label, whatever its split."""
        places = {}
        for (label, _), place in self._first.items():
            places.setdefault(label, place)
        return places

    def _odd(self, places: dict[str | int, Place]) -> Iterator[str]:
        """Returns a message for each reason to believe that labels are not meant so."""
        allowed = "use --odd_labels=keep if it is meant so"
        words = [label for label in places if isinstance(label, str)]
        for label in words:
            if self._column and label.casefold() == tidied(self._column).casefold():
                yield (
                    f"{at(places[label])}: the {self._noun} {shown.value(label)} is the name of "
                    "its column: this is probably a header line among the rows, as when files "
                    f"are joined. Remove the line, or {allowed}."
                )
        missing = [label for label in words if label.casefold() in _MISSING or label == "NA"]
        if missing:
            yield (
                f"{at(places[missing[0]])}: a {self._noun} that stands for a missing value: "
                f"{_listed(missing, places)}. Fill in or remove these rows, or {allowed}."
            )
        groups = {}
        for label in words:
            groups.setdefault(_alike(label), []).append(label)
        twice = [group for group in groups.values() if len(group) > 1]
        if twice:
            listed = "; ".join(_listed(group, places) for group in twice[: shown.NAMES])
            more = len(twice) - shown.NAMES
            yield (
                f"{at(places[twice[0][1]])}: {self._noun}s that differ only in case, in how a "
                f"number is written or in white space: {listed}"
                f"{f' and {more} more' if more > 0 else ''}. Write each in one way, or {allowed}."
            )
        if len(places) >= _MANY and (self._counts == 1).all():
            label, place = next(iter(places.items()))
            yield (
                f"{at(place)}: each of the {len(places)} {self._of}s has a {self._noun} of its "
                f"own, such as {shown.value(label)}: that is an id or a text, nothing that can be "
                f"learned. Name another column with --{self._flag}, or {allowed}."
            )

    def _warn_of_single_examples(self, places: dict[str | int, Place]) -> None:
        single = [label for label in places if self._counts[self._numbers[label]] == 1]
        if 2 * len(single) > len(places) > 2:
            log.warning(
                "%d of %d %ss have a single example, such as %s: they cannot be learned and "
                "measured. Check --%s",
                len(single),
                len(places),
                self._noun,
                _listed(single[:3], places),
                self._flag,
            )


def _kind(label: str | int) -> str:
    return "a number" if isinstance(label, int) else "a string"


def _listed(labels: Sequence[str | int], places: dict[str | int, Place]) -> str:
    """Returns labels with the first place of each, at most 20."""
    listed = ", ".join(
        f"{shown.value(label, shown.NAME_CHARACTERS)} ({at(places[label])})"
        for label in labels[: shown.NAMES]
    )
    more = len(labels) - shown.NAMES
    return f"{listed} and {more:,} more" if more > 0 else listed


def _alike(label: str) -> str:
    """Returns what is equal for labels that differ only in case, as numbers or in white space."""
    number = _NUMBER.fullmatch(label)
    if number and any(character.isdigit() for character in label):
        sign, whole, fraction = number.groups("")
        sign = "-" if sign == "-" and (whole or fraction) else ""
        return f"{sign}{whole or 0}.{fraction}"
    return " ".join(re.sub(f"[{_INVISIBLE}]", "", label).casefold().split())


def _sort_key(labels: Collection[str | int]) -> Callable[[str | int], tuple[int, str] | str]:
    if all(
        isinstance(label, int) or re.fullmatch(r"[+-]?[0-9]{1,4000}", label) for label in labels
    ):
        return lambda label: (int(label), str(label))
    return str
