"""Assigns each row to a split, by its text and the seed alone.

Each text has a keyed 128-bit hash. Equal texts have equal hashes, so splits of our own never
overlap, and sorting the hashes finds duplicates and overlaps. The first 64 bits, read as a
fraction, choose the split, so every row stays in its split when the data grows.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterable

import numpy as np

from trainer.data.store import SPLITS
from trainer.exit_codes import UsageError

TRAIN, VALIDATION, TEST = range(len(SPLITS))
DROPPED = -1


def keys(contents: Iterable[bytes], seed: int) -> np.ndarray:
    """Returns the hash of each text (or of the bytes of its ids), uint64 [rows, 2]."""
    key = seed.to_bytes(16, "little")
    digests = b"".join(
        hashlib.blake2b(content, digest_size=16, key=key).digest() for content in contents
    )
    return np.frombuffer(digests, "<u8").reshape(-1, 2)


@dataclasses.dataclass(frozen=True)
class Assignment:
    """The split of every row.

    Attributes:
      splits: int8 [rows], index into SPLITS, or DROPPED for a duplicate.
      duplicates: rows dropped since an earlier row has the same text and label.
      repeated: training rows that repeat an earlier one and stay, since no split is drawn.
      ambiguous: training texts that have more than one label; if splits are drawn, all rows of such
        a text are in one split.
      overlaps: {"train+test": texts that occur in both, ...}, for splits that were given.
    """

    splits: np.ndarray
    duplicates: int
    repeated: int
    ambiguous: int
    overlaps: dict[str, int]


def assign(
    keys: np.ndarray, given: np.ndarray, labels: np.ndarray, validation: float, test: float
) -> Assignment:
    """Carves splits of our own out of the training rows; counts duplicates and overlaps.

    A text with two labels is kept once with each: the surnames that are English and Scottish must
    not all end in the class that is read first.

    Args:
      keys: uint64 [rows, 2].
      given: int8 [rows], the split that the source names; with a fraction above 0, TRAIN rows are
        divided.
      labels: int32 [rows].
      validation, test: fractions of the training rows to set aside.

    Raises:
      UsageError: a fraction above 0 leaves its split or the training split empty.
    """
    # lexsort is stable: rows with equal text and label stand in input order.
    order = np.lexsort((labels, keys[:, 1], keys[:, 0]))
    pool = order[given[order] == TRAIN]
    new_text = _differs(pool, keys[:, 0], keys[:, 1])
    new_row = new_text | _differs(pool, labels)
    repeated = int((~new_row).sum())
    ambiguous = int((np.bincount(np.cumsum(new_text)[new_row]) > 1).sum())
    splits, duplicates = given, 0
    if validation or test:
        splits = _carved(keys[:, 0], given, validation, test)
        splits[pool[~new_row]] = DROPPED
        repeated, duplicates = 0, repeated
        _check_filled(splits, validation, test)
    overlaps = _overlaps(keys, order, splits)
    return Assignment(splits, duplicates, repeated, ambiguous, overlaps)


def _differs(order: np.ndarray, *columns: np.ndarray) -> np.ndarray:
    """Returns whether each row of `order` differs from the row before it, bool [len(order)].

    A row differs if any of the columns does; the first row always does.
    """
    differs = np.zeros(len(order), bool)
    differs[:1] = True
    for column in columns:
        values = column[order]
        differs[1:] |= values[1:] != values[:-1]
    return differs


def _carved(hashes: np.ndarray, given: np.ndarray, validation: float, test: float) -> np.ndarray:
    """Returns `given` with the training rows divided by their hashes, uint64 [rows]."""
    share = hashes / 2.0**64
    splits = given.copy()
    splits[(given == TRAIN) & (share < validation + test)] = VALIDATION
    splits[(given == TRAIN) & (share < test)] = TEST
    return splits


def _check_filled(splits: np.ndarray, validation: float, test: float) -> None:
    for split, flag, fraction in (
        (VALIDATION, "validation_fraction", validation),
        (TEST, "test_fraction", test),
    ):
        if fraction and not (splits == split).any():
            raise UsageError(
                f"--{flag}={fraction}: leaves the {SPLITS[split]} split empty: there are only "
                f"{(splits != DROPPED).sum()} different rows. Raise it, or bring more data."
            )
    if not (splits == TRAIN).any():
        raise UsageError(
            f"--validation_fraction={validation} and --test_fraction={test}: leave nothing to "
            "train on. Lower them."
        )


def _overlaps(keys: np.ndarray, order: np.ndarray, splits: np.ndarray) -> dict[str, int]:
    """Returns how many different texts occur in each pair of splits."""
    order = order[splits[order] != DROPPED]
    starts = np.flatnonzero(_differs(order, keys[:, 0], keys[:, 1]))
    members = np.bitwise_or.reduceat(1 << splits[order].astype(np.uint8), starts)
    found = {}
    for one, other in itertools.combinations(range(len(SPLITS)), 2):
        both = 1 << one | 1 << other
        if texts := int(((members & both) == both).sum()):
            found[f"{SPLITS[one]}+{SPLITS[other]}"] = texts
    return found
