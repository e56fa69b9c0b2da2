"""Numbers that are written as text, and the ways in which a missing one is written."""

from collections.abc import Sequence

import numpy as np

from trainer import shown
from trainer.exit_codes import DataError
from trainer.prepare.rows import Place, at

# How files of data write a number that is not there, in small letters.
MISSING = {"", "?", "nan", "na", "n/a", "null", "none", "-nan", "<na>"}


def numbers(cells: Sequence[str], place: Place, where: str) -> np.ndarray:
    """Returns what `cells` say, float64 [cells]; NaN for a missing number.

    Args:
      where: which of the numbers of `place` a cell is; `{}` in it is the position of the cell.

    Raises:
      DataError: a cell is neither a number nor one of MISSING.
    """
    if not any("_" in cell for cell in cells):  # Which Python allows in a number.
        try:
            return np.fromiter(map(float, cells), np.float64, len(cells))
        except ValueError:
            pass
    found = np.empty(len(cells))
    for position, cell in enumerate(cells):
        number = parsed(cell)
        if number is None:
            raise DataError(
                f"{at(place)}: {where.format(position)} is {shown.value(cell, 60)}, which is no "
                "number. Correct it, or leave it empty if it is missing (--missing)."
            )
        found[position] = number
    return found


def parsed(cell: str) -> float | None:
    """Returns the number that a text says, NaN if it says that it is missing; else None."""
    if cell.strip().lower() in MISSING:
        return float("nan")
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None
