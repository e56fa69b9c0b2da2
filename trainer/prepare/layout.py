"""Which rows of the spool become which examples of which split.

Rows of their own are assigned by their hashes (`splits`). The rows of a text that is read as one
keep their order, and the text is cut by position: its end is the test split, what is before that
the validation split.
"""

import dataclasses
import logging

import numpy as np

from trainer.flags.prepare import Prepare
from trainer.prepare import splits
from trainer.prepare.spool import Spool

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Layout:
    """The rows of the spool in order; a row of a text may be cut in two.

    Attributes:
      lengths: int32 [rows], units of each row in the spool.
      splits: int8 [rows], index into SPLITS, or DROPPED.
      begins: bool [rows], whether an example begins with the row; else it continues the one before.
      opened: bool [rows], whether it begins one only because it was cut off there, so that its
        start is not in the spool.
      counts: what dataset.json says about duplicates and overlaps.
    """

    lengths: np.ndarray
    splits: np.ndarray
    begins: np.ndarray
    opened: np.ndarray
    counts: dict

    def example_lengths(self, split: int) -> np.ndarray:
        """Returns the units of each example of a split, int64 [examples]."""
        member = self.splits == split
        lengths = (self.lengths + self.opened)[member].astype(np.int64)
        return np.add.reduceat(lengths, np.flatnonzero(self.begins[member]))


def shuffled(spool: Spool, answers: np.ndarray, config: Prepare, noun: str = "texts") -> Layout:
    """Returns the layout of rows of which each is an example; duplicates are dropped.

    Args:
      answers: int [rows], what tells rows of equal text apart.
      noun: what messages and counts call the rows.

    Raises:
      UsageError: a fraction above 0 leaves its split or the training split empty.
    """
    layout, ambiguous = _assigned(spool, answers, config)
    drawn = bool(config.validation_fraction or config.test_fraction)
    if ambiguous and not drawn:
        log.warning("%d training %s occur with more than one label", ambiguous, noun)
    # Of splits that are drawn: a dataset keeps the digest that earlier versions gave it.
    several = {f"{noun}_with_several_labels": ambiguous if drawn else 0}
    return dataclasses.replace(layout, counts={**layout.counts, **several})


def _assigned(spool: Spool, answers: np.ndarray, config: Prepare) -> tuple[Layout, int]:
    """Returns the layout of `shuffled`, and how many training texts have more than one answer."""
    lengths, given = spool.read("lengths"), spool.read("splits")
    given[lengths == 0] = splits.DROPPED  # Only without the start id can a row be empty.
    assignment = splits.assign(
        spool.read("keys"), given, answers, config.validation_fraction, config.test_fraction
    )
    if assignment.repeated:
        log.info(
            "%d training rows repeat an earlier row; they stay, since no split is drawn",
            assignment.repeated,
        )
    layout = Layout(
        lengths,
        assignment.splits,
        begins=np.ones(spool.rows, bool),
        opened=np.zeros(spool.rows, bool),
        counts={"duplicates_removed": assignment.duplicates, "overlaps": assignment.overlaps},
    )
    return layout, assignment.ambiguous


def sentences(spool: Spool, answers: np.ndarray, config: Prepare) -> Layout:
    """Returns the layout of `shuffled` without the rows that have no token."""
    layout = shuffled(spool, answers, config)
    return dataclasses.replace(
        layout, counts={**layout.counts, "empty_sentences": int((layout.lengths == 0).sum())}
    )


def pairs(spool: Spool, answers: np.ndarray, config: Prepare) -> Layout:
    """Returns the layout of pairs of which each is an example; duplicates are dropped.

    So are pairs that were left out: they have no units in the spool. answers: uint64 [rows], a
    hash of each target.
    """
    layout, several = _assigned(spool, answers, config)
    counts = {**layout.counts, "texts_with_several_targets": several}
    return dataclasses.replace(layout, counts=counts)


def streams(spool: Spool, _: np.ndarray, config: Prepare) -> Layout:
    """Returns the layout of texts that are read as one; nothing is dropped."""
    layout = Layout(
        spool.read("lengths"),
        spool.read("splits"),
        spool.read("begins"),
        opened=np.zeros(spool.rows, bool),
        counts={},
    )
    total = int(layout.lengths[layout.splits == splits.TRAIN].sum(dtype=np.int64))
    end = total
    for split, fraction in (
        (splits.TEST, config.test_fraction),
        (splits.VALIDATION, config.validation_fraction),
    ):
        size = round(total * fraction)
        if size:
            end -= size
            layout = _cut(layout, end, split, total)
    return layout


def _cut(layout: Layout, position: int, split: int, total: int) -> Layout:
    """Returns `layout` with the training units from `position` on in `split`, and logs it.

    A document that is cut continues in `split` as a document of its own.
    """
    train = np.flatnonzero(layout.splits == splits.TRAIN)
    ends = np.cumsum(layout.lengths[train], dtype=np.int64)
    place = int(np.searchsorted(ends, position, side="right"))
    row, inside = int(train[place]), position - int(ends[place] - layout.lengths[train[place]])
    moved = layout.splits.copy()
    moved[train[place:]] = split
    document = np.flatnonzero(layout.begins[train[: place + 1]])
    if inside or not layout.begins[row]:
        begun = int(ends[document[-1] - 1]) if document[-1] else 0
        where = f"inside training document {len(document)}, after {position - begun} of its tokens"
    else:
        where = f"with training document {len(document)}"
    log.info(
        "%s: the last %d of %d training tokens; it begins %s",
        splits.SPLITS[split],
        int(ends[-1]) - position,
        total,
        where,
    )
    lengths, begins, opened = layout.lengths, layout.begins.copy(), layout.opened.copy()
    if inside:
        lengths = np.insert(lengths, row, inside)
        lengths[row + 1] -= inside
        moved = np.insert(moved, row, splits.TRAIN)
        begins, opened = np.insert(begins, row, begins[row]), np.insert(opened, row, opened[row])
        row += 1
        begins[row] = opened[row] = True
    elif not begins[row]:
        begins[row] = opened[row] = True
    return dataclasses.replace(layout, lengths=lengths, splits=moved, begins=begins, opened=opened)
