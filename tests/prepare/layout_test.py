"""Rows of the spool become examples of splits."""

import numpy as np
import pytest

from trainer.flags.prepare import Prepare
from trainer.prepare import layout, spool
from trainer.prepare.splits import DROPPED, TEST, TRAIN, VALIDATION


def streams(folder, lengths, begins, given=None, **fractions):
    with spool.Spool(folder / "spool") as rows:
        rows.add(
            np.zeros(sum(lengths), np.int32),
            lengths=np.array(lengths),
            begins=np.array(begins, bool),
            splits=np.full(len(lengths), TRAIN) if given is None else np.array(given),
        )
        return layout.streams(rows, np.zeros(0), Prepare(raw_data="x", **fractions))


@pytest.mark.parametrize(
    "fractions, lengths, splits, begins, opened",
    [
        ({}, [4, 6, 10], [0, 0, 0], [1, 0, 1], [0, 0, 0]),
        ({"test_fraction": 0.5}, [4, 6, 10], [0, 0, 2], [1, 0, 1], [0, 0, 0]),
        ({"test_fraction": 0.8}, [4, 6, 10], [0, 2, 2], [1, 1, 1], [0, 1, 0]),
        ({"test_fraction": 0.25}, [4, 6, 5, 5], [0, 0, 0, 2], [1, 0, 1, 1], [0, 0, 0, 1]),
        # Both cuts are in one row.
        (
            {"test_fraction": 0.1, "validation_fraction": 0.2},
            [4, 6, 4, 4, 2],
            [0, 0, 0, 1, 2],
            [1, 0, 1, 1, 1],
            [0, 0, 0, 1, 1],
        ),
    ],
)
def test_texts_are_cut_by_position(tmp_path, fractions, lengths, splits, begins, opened):
    found = streams(tmp_path, [4, 6, 10], [1, 0, 1], **fractions)
    assert found.lengths.tolist() == lengths and found.splits.tolist() == splits
    assert found.begins.tolist() == begins and found.opened.tolist() == opened


def test_an_example_is_as_long_as_its_rows_and_the_start_that_a_cut_gives_it(tmp_path):
    found = streams(tmp_path, [4, 6, 10], [1, 0, 1], test_fraction=0.7, validation_fraction=0.2)
    assert found.example_lengths(TRAIN).tolist() == [2]
    assert found.example_lengths(VALIDATION).tolist() == [1 + 2 + 2]
    assert found.example_lengths(TEST).tolist() == [1 + 4, 10]


def test_only_training_rows_are_cut(tmp_path):
    found = streams(tmp_path, [4, 8, 6], [1, 1, 1], [TRAIN, TEST, TRAIN], validation_fraction=0.8)
    assert found.splits.tolist() == [TRAIN, VALIDATION, TEST, VALIDATION]
    assert found.lengths.tolist() == [2, 2, 8, 6] and found.opened.tolist() == [0, 1, 0, 0]
    assert found.counts == {}


def test_pairs_without_units_are_left_out_and_those_that_repeat_both_sides_are_duplicates(tmp_path):
    with spool.Spool(tmp_path / "spool") as rows:
        rows.add(
            np.zeros(11, np.int32),
            lengths=np.array([2, 3, 0, 3, 3]),
            splits=np.full(5, TRAIN),
            keys=np.array([[2**63, 1], [1, 1], [2, 2], [1, 1], [1, 1]], np.uint64),
        )
        targets = np.array([7, 5, 5, 6, 5], np.uint64)
        settings = Prepare(raw_data="x", validation_fraction=0.1)
        found = layout.pairs(rows, targets, settings)
    assert found.splits.tolist() == [TRAIN, VALIDATION, DROPPED, VALIDATION, DROPPED]
    assert found.counts == {
        "duplicates_removed": 1,
        "overlaps": {},
        "texts_with_several_targets": 1,
    }


def test_each_row_is_an_example_if_rows_are_shuffled(tmp_path):
    with spool.Spool(tmp_path / "spool") as rows:
        rows.add(
            np.zeros(6, np.int32),
            lengths=np.array([1, 2, 3]),
            begins=np.ones(3, bool),
            splits=np.array([TRAIN, TEST, TRAIN]),
            keys=np.array([[1, 1], [1, 1], [2, 2]]),
        )
        found = layout.shuffled(rows, np.zeros(3, np.int8), Prepare(raw_data="x"))
    assert found.example_lengths(TRAIN).tolist() == [1, 3]
    assert found.counts["overlaps"] == {"train+test": 1} and not found.opened.any()
