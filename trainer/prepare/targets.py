"""What differs between tasks in `prepare`: how a target is read, checked, ranked and written.

A `Recipe` says it all for one task; the story in `command` is the same for every one.
"""

import dataclasses
import itertools
import logging
from collections.abc import Callable
from typing import Protocol

import numpy as np

from trainer.data import fields
from trainer.exit_codes import DataError, UsageError
from trainer.flags.prepare import Prepare
from trainer.prepare import layout, rows, splits
from trainer.prepare.classes import Classes
from trainer.prepare.spool import Spool
from trainer.prepare.values import Values

log = logging.getLogger(__name__)

# A larger share of pairs with the same text on both sides is a warning.
MOST_EQUAL = 0.5


class Reader(Protocol):
    """Reads the targets of a source, batch by batch, and knows their classes at the end.

    values: how many a target of values has, else 0; known when a row was read.
    """

    values: int

    def add(self, batch: rows.Rows, given: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the arrays that the spool keeps; `given`: int8 [rows], the splits of the rows.

        The array with the name of `Target.array` has the number of each class, or the values, if
        there are any.
        """

    def ranked(self) -> list[str]:
        """Ranks the classes; returns their names by id, or nothing."""

    def written(self, answers: np.ndarray, split: int) -> np.ndarray:
        """Returns class ids or values from a part of that array; a row is written once."""

    def answers(self, spool: Spool) -> np.ndarray:
        """Returns what tells rows of equal text apart, int [rows]."""

    def check(self, found: layout.Layout, source: rows.Source) -> None:
        """Raises an error if a split cannot be learned from."""

    def described(self) -> dict:
        """Returns its part of dataset.json, when all rows are written."""


class _OfClasses:
    """What readers of classes have in common."""

    values = 0

    def __init__(self, classes: Classes):
        self._classes = classes

    def ranked(self) -> list[str]:
        names, self._ids = self._classes.ranked()
        return names

    def written(self, answers: np.ndarray, split: int) -> np.ndarray:
        return self._ids[answers]

    def check(self, found: layout.Layout, source: rows.Source) -> None:
        """Any row will do."""

    def described(self) -> dict:
        return {}


class Labels(_OfClasses):
    """A class for each row."""

    def __init__(self, config: Prepare):
        column = config.label_column if config.source in ("csv", "tsv") else ""
        flag = {"arrays": "y_array", "ts": "raw_data"}.get(config.source, "label_column")
        super().__init__(Classes(flag=flag, column=column, keep_odd=config.odd_labels == "keep"))

    def add(self, batch: rows.Rows, given: np.ndarray) -> dict[str, np.ndarray]:
        return {"labels": self._classes.add(batch.labels, given.tolist(), batch.label_places)}

    def answers(self, spool: Spool) -> np.ndarray:
        return spool.read("labels")


class Tags(_OfClasses):
    """A class for each token."""

    def __init__(self, config: Prepare):
        flag = "tag_column" if config.source == "conll" else "label_column"
        super().__init__(Classes("tag", "token", flag, keep_odd=config.odd_labels == "keep"))

    def add(self, batch: rows.Rows, given: np.ndarray) -> dict[str, np.ndarray]:
        counts = [len(tags) for tags in batch.labels]
        numbers = self._classes.add(
            list(itertools.chain.from_iterable(batch.labels)),
            np.repeat(given, counts).tolist(),
            (place for place, count in zip(batch.places, counts) for _ in range(count)),
        )
        of_rows = np.split(numbers, np.cumsum(counts)[:-1])
        return {
            "tags": numbers,
            "tag_keys": splits.keys((row.tobytes() for row in of_rows), seed=0)[:, 0],
        }

    def answers(self, spool: Spool) -> np.ndarray:
        return spool.read("tag_keys")


class _WithoutClasses:
    """What readers have in common of targets that are tokens."""

    values = 0

    def ranked(self) -> list[str]:
        return []

    def written(self, answers: np.ndarray, split: int) -> np.ndarray:
        return answers

    def described(self) -> dict:
        return {}


class TargetTexts(_WithoutClasses):
    """A text for each row, whose tokens are to be told."""

    def __init__(self, config: Prepare):
        flags = ("raw_data", "target_data")
        if config.source != "parallel":
            flags = ("text_column", "target_column")
        self._named = " and ".join(f"--{flag}={getattr(config, flag)}" for flag in flags)
        self._pairs = np.zeros(len(splits.SPLITS), np.int64)
        self._equal = np.zeros(len(splits.SPLITS), np.int64)

    def add(self, batch: rows.Rows, given: np.ndarray) -> dict[str, np.ndarray]:
        pairs = list(zip(batch.texts, batch.targets.texts))
        filled = np.array([bool(text.strip() and target.strip()) for text, target in pairs])
        equal = np.array([text == target for text, target in pairs])
        for counts, wanted in ((self._pairs, filled), (self._equal, filled & equal)):
            counts += np.bincount(given[wanted], minlength=len(counts))
        return {"target_keys": splits.keys(batch.targets.texts, seed=0)[:, 0]}

    def answers(self, spool: Spool) -> np.ndarray:
        return spool.read("target_keys")

    def check(self, found: layout.Layout, source: rows.Source) -> None:
        """Raises DataError if both sides of all pairs are equal; warns if they mostly are."""
        for name, pairs, equal in zip(splits.SPLITS, self._pairs, self._equal):
            if not equal:
                continue
            if equal == pairs:
                path = source.paths.get(name, source.paths["train"])[0]
                raise DataError(
                    f"{path}:1: the {name} split has {pairs} pairs, and both sides of all of them "
                    f"are equal, so there is nothing to translate. Check {self._named}."
                )
            if equal > MOST_EQUAL * pairs:
                log.warning(
                    "%s: both sides of %d of %d pairs are equal, so a model learns to repeat its "
                    "input; check %s",
                    name,
                    equal,
                    pairs,
                    self._named,
                )


class NextTokens(_WithoutClasses):
    """No target beside the text: the tokens themselves are to be told."""

    def __init__(self, config: Prepare):
        self._fractions = {
            splits.VALIDATION: config.validation_fraction,
            splits.TEST: config.test_fraction,
        }

    def add(self, batch: rows.Rows, given: np.ndarray) -> dict[str, np.ndarray]:
        return {}

    def answers(self, spool: Spool) -> np.ndarray:
        return np.zeros(spool.rows, np.int8)

    def check(self, found: layout.Layout, source: rows.Source) -> None:
        """Raises an error if a split has fewer than two tokens.

        Raises:
          UsageError: it is a fraction of a text that has enough of them.
          DataError: it was given.
        """
        tokens = [
            int(found.lengths[of_split].sum() - (found.begins & ~found.opened)[of_split].sum())
            for of_split in (found.splits == split for split in range(len(splits.SPLITS)))
        ]
        drawn = [split for split, fraction in self._fractions.items() if fraction]
        present = {*drawn, *found.splits[found.splits != splits.DROPPED].tolist(), splits.TRAIN}
        together = sum(tokens[split] for split in (splits.TRAIN, *drawn))
        for split in sorted(present):
            name = splits.SPLITS[split]
            if tokens[split] >= 2:
                continue
            if together >= 2 and (split in drawn or drawn and split == splits.TRAIN):
                flags = " and ".join(
                    f"--{splits.SPLITS[other]}_fraction={self._fractions[other]}"
                    for other in drawn
                    if split in (other, splits.TRAIN)
                )
                raise UsageError(
                    f"{flags}: the {name} split has {tokens[split]} of {together} tokens, but a "
                    "language model needs at least two in each split. Choose other fractions, or "
                    "bring more text."
                )
            path = source.paths.get(name, source.paths["train"])[0]
            raise DataError(
                f"{path}:1: the text of the {name} split has {tokens[split]} tokens, but a "
                "language model needs at least two, to tell one from the other. Bring more text, "
                "or check --tokenizer and the flag that names the data."
            )


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the examples of a task are made.

    Attributes:
      target: its kind.
      order: how steps meet the examples, one of `fields.ORDERS`.
      starts: whether an example begins with the start id.
      reader: reads the targets of a source.
      layout: rows of the spool -> examples of splits.
    """

    target: fields.Target
    order: str
    starts: bool
    reader: Callable[[Prepare], Reader]
    layout: Callable[[Spool, np.ndarray, Prepare], layout.Layout]

    def described(self, task: str) -> dict:
        """Returns what dataset.json says about the task; nothing in format 1, which has one."""
        if self.target is fields.LABEL:
            return {}
        return {
            "task": task,
            "input": {"kind": "tokens"},
            "target": self.target.kind,
            "order": self.order,
        }


# {(task, whether --lines is given): recipe}.
RECIPES = {
    ("classification", False): Recipe(fields.LABEL, fields.SHUFFLED, True, Labels, layout.shuffled),
    ("language_model", False): Recipe(
        fields.NEXT_TOKEN, fields.STREAMS, True, NextTokens, layout.streams
    ),
    ("language_model", True): Recipe(
        fields.NEXT_TOKEN, fields.SHUFFLED, True, NextTokens, layout.shuffled
    ),
    ("tagging", False): Recipe(fields.TAGS, fields.SHUFFLED, False, Tags, layout.sentences),
    ("regression", False): Recipe(fields.VALUES, fields.SHUFFLED, True, Values, layout.shuffled),
    ("translation", False): Recipe(fields.TEXT, fields.SHUFFLED, True, TargetTexts, layout.pairs),
}
