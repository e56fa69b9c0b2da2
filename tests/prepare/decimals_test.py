"""Numbers as they are written in files."""

import numpy as np
import pytest

from trainer.exit_codes import DataError
from trainer.prepare import decimals


def test_numbers_and_missing_ones_are_read_in_every_form():
    cells = ["1", " -2.5 ", "1e3", ".5", "", "?", "NaN", "n/a", "inf"]
    expected = [1, -2.5, 1000, 0.5, np.nan, np.nan, np.nan, np.nan, np.inf]
    np.testing.assert_equal(decimals.numbers(cells, ("f", 1), "{}"), expected)
    assert decimals.numbers([], ("f", 1), "{}").shape == (0,)


@pytest.mark.parametrize("cell", ["x", "1,5", "0x1", "1_000", "1 2", "--1"])
def test_anything_else_is_refused_with_its_place(cell):
    with pytest.raises(DataError, match=f"f:3: cell 1 is '{cell}', which is no number. Correct"):
        decimals.numbers(["1", cell], ("f", 3), "cell {}")
