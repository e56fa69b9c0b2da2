"""The splits that a source names itself: by its files, or by a value of each row."""

import numpy as np

from trainer import shown
from trainer.data import store
from trainer.exit_codes import DataError, UsageError
from trainer.flags.prepare import Prepare
from trainer.prepare import folders, rows
from trainer.prepare.spool import Spool


def check_fractions(source: rows.Source, config: Prepare) -> None:
    """Raises UsageError if a fraction asks for a split that the source brings."""
    for split in ("validation", "test"):
        fraction = getattr(config, f"{split}_fraction")
        if fraction and split in source.paths:
            raise UsageError(
                f"--{split}_fraction={fraction}: the {split} split is given already, and given "
                "splits stay whole. Leave the flag out."
            )


def check_rows(source: rows.Source, spool: Spool) -> None:
    """Raises DataError if the files of a split hold no row for it."""
    given, filled = spool.read("splits"), spool.read("lengths") > 0
    for split, paths in source.paths.items():
        found = given == store.SPLITS.index(split)
        if (found & filled).any():
            continue
        others = f" or in the {len(paths) - 1} files after it" if len(paths) > 1 else ""
        empty = ""
        if found.any():
            empty = f" (its {found.sum()} rows have no token, or are pairs that were left out)"
        raise DataError(
            f"{paths[0]}:1: no row for the {split} split in this file{others}{empty}. "
            "Check the flag that names the data."
        )


def splits_of(batch: rows.Rows) -> np.ndarray:
    """Returns the split that the source names for each row, int8 [rows].

    Raises DataError if a row names none of them.
    """
    if batch.splits is None:
        return np.full(len(batch), store.SPLITS.index(batch.split), np.int8)
    names = [name.strip().lower() for name in batch.splits]
    for given, name, place in zip(batch.splits, names, batch.places):
        if name not in folders.SPLIT_NAMES:
            raise DataError(
                f"{rows.at(place)}: the split is {shown.value(given)}, but it must be one of "
                f"{', '.join(folders.SPLIT_NAMES)}. Correct the row, or name another "
                "--split_column."
            )
    return np.array([store.SPLITS.index(folders.SPLIT_NAMES[name]) for name in names], np.int8)
