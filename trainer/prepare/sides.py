"""A side of the rows: its texts as numbered units on disk, which become ids in later passes.

Most rows have one side, a text. Pairs have two: a text and its translation.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from trainer.data import store, text
from trainer.prepare import splits, vocabulary
from trainer.prepare.layout import Layout
from trainer.prepare.spool import Spool


class Side:
    """The units of one text of each row, in the order in which they were read."""

    def __init__(self, units: vocabulary.Units, folder: pathlib.Path):
        """`units`: numbers them; both sides have the same ones if they share a vocabulary."""
        self.units = units
        self.spool = Spool(folder)

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *problem) -> None:
        self.spool.__exit__(*problem)

    def counts(self, layout: Layout) -> np.ndarray:
        """Returns how often each unit occurs in the training split, int64 [units.size]."""
        counts = np.zeros(self.units.size, np.int64)
        for chunk, units in self.spool.chunks(layout.lengths):
            wanted = layout.splits[chunk] == splits.TRAIN
            counts += np.bincount(
                units[np.repeat(wanted, layout.lengths[chunk])], minlength=self.units.size
            )
        return counts

    def tokens(self, layout: Layout, ids: np.ndarray, *beside: str) -> Iterator[tuple]:
        """Returns the ids of all rows in pieces.

        Args:
          ids: the id of each unit.
          beside: names of arrays of the spool.

        Returns:
          (split of each row, split of each id, ids, the piece of each array `beside`).
        """
        for chunk, units, *numbers in self.spool.chunks(layout.lengths, *beside):
            lengths, opened = layout.lengths[chunk], layout.opened[chunk]
            if opened.any():
                starts = (np.cumsum(lengths) - lengths)[opened]
                units, lengths = np.insert(units, starts, vocabulary.START_UNIT), lengths + opened
            of_rows = layout.splits[chunk]
            yield of_rows, np.repeat(of_rows, lengths), ids[units], *numbers


class Targets(Side):
    """The units of the target texts, and the texts as they were read."""

    def __init__(self, units: vocabulary.Units, folder: pathlib.Path):
        super().__init__(units, folder)
        self._texts = Spool(folder.with_name(f"{folder.name}_texts"), np.uint8)

    def add(self, units: np.ndarray, lengths: np.ndarray, texts: Sequence[bytes]) -> None:
        """Appends rows: their units end to end, int32 [total], and their texts."""
        self.spool.add(units, lengths=lengths)
        content = np.frombuffer(b"".join(texts), np.uint8)
        self._texts.add(content, lengths=np.array(list(map(len, texts))))

    def layout(self, layout: Layout) -> Layout:
        """Returns the layout of the targets of rows with this layout."""
        return dataclasses.replace(layout, lengths=self.spool.read("lengths"))

    def write(
        self, layout: Layout, ids: np.ndarray, written: Mapping[int, store.SplitWriter]
    ) -> dict[str, int]:
        """Writes the targets of all rows.

        Args:
          layout: of the targets.
          ids: the id of each unit.
          written: {split: its writer}.

        Returns:
          {name of a split: how many tokens of its targets are unknown}.
        """
        unknown = dict.fromkeys((store.SPLITS[split] for split in written), 0)
        for _, of_units, tokens in self.tokens(layout, ids):
            for split, files in written.items():
                files.write_targets(tokens[of_units == split])
                unknown[store.SPLITS[split]] += unknown_in(tokens[of_units == split])
        lengths = self._texts.read("lengths")
        for chunk, content in self._texts.chunks(lengths):
            ends = np.cumsum(lengths[chunk]).tolist()
            texts = [content[begin:end].tobytes().decode() for begin, end in zip([0, *ends], ends)]
            for split, files in written.items():
                files.write_target_texts(itertools.compress(texts, layout.splits[chunk] == split))
        return unknown

    def __exit__(self, *problem) -> None:
        super().__exit__(*problem)
        self._texts.__exit__(*problem)


class Usable(NamedTuple):
    """The pairs that a model can learn from.

    sides: (units, lengths) of each side, of which other pairs have none. empty: pairs without a
    token on a side. long: pairs with too many.
    """

    sides: list[tuple[np.ndarray, np.ndarray]]
    empty: int
    long: int


def usable_pairs(longest: int, *sides: tuple[np.ndarray, np.ndarray]) -> Usable:
    """Returns the pairs that have a token on each side and at most `longest`, if it is not 0.

    sides: (units, lengths) with a start for each row, as `vocabulary.Words.finish` returns them.
    """
    tokens = np.stack([lengths - 1 for _, lengths in sides])
    empty = (tokens == 0).any(axis=0)
    long = (tokens > longest).any(axis=0) & ~empty & (longest > 0)
    kept = ~empty & ~long
    return Usable(
        [(units[np.repeat(kept, lengths)], lengths * kept) for units, lengths in sides],
        int(empty.sum()),
        int(long.sum()),
    )


def unknown_in(tokens: np.ndarray) -> int:
    """Returns how many of some ids are unknown."""
    return int((tokens == text.UNKNOWN).sum())
