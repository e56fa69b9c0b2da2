"""Splits that a source names are checked before anything is written."""

import numpy as np
import pytest

from trainer.exit_codes import DataError, UsageError
from trainer.flags.prepare import Prepare
from trainer.prepare import given, rows, spool

SOURCE = rows.Source({"train": ["a"], "test": ["t", "u"]}, read=None)


def test_a_split_is_that_of_the_file_or_of_each_row_in_any_case():
    places, texts = [("a", 1), ("a", 2)], [b"", b""]
    assert given.splits_of(rows.Rows("test", places, texts, [])).tolist() == [2, 2]
    named = rows.Rows(None, places, texts, [], ["Train", " dev"])
    assert given.splits_of(named).tolist() == [0, 1]
    named.splits = ["train", "late"]
    with pytest.raises(DataError, match="a:2: the split is 'late', but it must be one of train"):
        given.splits_of(named)


def test_no_fraction_is_taken_of_a_split_that_is_given():
    given.check_fractions(SOURCE, Prepare(raw_data="a", validation_fraction=0.1))
    with pytest.raises(UsageError, match="--test_fraction=0.1: the test split is given already"):
        given.check_fractions(SOURCE, Prepare(raw_data="a", test_fraction=0.1))


def test_every_split_that_is_given_has_a_row(tmp_path):
    with spool.Spool(tmp_path / "spool") as read:
        read.add(np.zeros(1), lengths=np.ones(1), splits=np.zeros(1))
        with pytest.raises(DataError, match="t:1: no row for the test split in this file or in th"):
            given.check_rows(SOURCE, read)
