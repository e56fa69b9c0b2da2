"""The sides of rows, from numbered units to ids."""

import numpy as np
import pytest

from trainer.data import fields, store, text
from trainer.prepare import layout, sides, spool, vocabulary
from trainer.prepare.splits import DROPPED, TEST, TRAIN

ROWS = [[5], [5, 6, 6], [7], [], [6]]
SPLITS = [TRAIN, TEST, DROPPED, DROPPED, TRAIN]


def laid_out(lengths, opened=None):
    begins = np.ones(len(lengths), bool)
    opened = ~begins if opened is None else np.array(opened)
    return layout.Layout(np.array(lengths), np.array(SPLITS, np.int8), begins, opened, {})


def test_units_of_the_training_split_are_counted_and_ids_are_those_of_all_rows(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(spool, "_CHUNK", 3)
    lengths = list(map(len, ROWS))
    with sides.Side(vocabulary.Given("abcde"), tmp_path / "spool") as side:
        side.spool.add(np.concatenate(ROWS).astype(np.int32), lengths=np.array(lengths))
        found = laid_out(lengths, [False, True, False, False, False])
        assert side.counts(found).tolist() == [0, 0, 0, 0, 0, 1, 1, 0, 0]
        ids = np.arange(9) * 10
        pieces = list(side.tokens(found, ids))
        assert len(pieces) > 1
        of_rows, of_ids, tokens = map(np.concatenate, zip(*pieces))
        assert of_rows.tolist() == SPLITS
        # The second row was cut off another one, so it gets a start.
        assert tokens.tolist() == [50, 0, 50, 60, 60, 70, 60]
        assert of_ids.tolist() == [TRAIN, *[TEST] * 4, DROPPED, TRAIN]
    assert not list(tmp_path.iterdir())


def test_targets_are_written_with_their_texts(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "_CHUNK", 4)
    texts = ["é", "b bb", "dropped", "", "z\u2028"]
    lengths = list(map(len, ROWS))
    with sides.Targets(vocabulary.Given("abcde"), tmp_path / "spool") as targets:
        targets.add(
            np.concatenate(ROWS).astype(np.int32),
            np.array(lengths),
            [line.encode() for line in texts],
        )
        found = targets.layout(laid_out([9] * 5))
        assert found.lengths.tolist() == lengths
        written = {
            split: store.SplitWriter(
                tmp_path / store.SPLITS[split],
                np.array([1] * (2 if split == TRAIN else 1)),
                fields.TEXT,
                target_lengths=found.example_lengths(split),
            )
            for split in (TRAIN, TEST)
        }
        ids = np.array([text.UNKNOWN] * 6 + [4, 5, 6])
        assert targets.write(found, ids, written) == {"train": 1, "test": 1}
        for files in written.values():
            files.close()
    assert np.load(tmp_path / "train/target_tokens.npy").tolist() == [2, 4]
    assert np.load(tmp_path / "test/target_tokens.npy").tolist() == [2, 4, 4]
    assert np.load(tmp_path / "train/target_offsets.npy").tolist() == [0, 1, 2]
    lines = (tmp_path / "train/target_texts.txt").read_bytes().decode()
    assert lines == "é\nz\\u2028\n"
    assert (tmp_path / "test/target_texts.txt").read_text() == "b bb\n"


def test_a_pair_without_a_token_on_one_side_has_no_units():
    start = vocabulary.START_UNIT
    rows = [[[start, 5], [start], [start, 6, 7]], [[start, 8], [start, 9], [start]]]
    given = [(np.concatenate(side), np.array(list(map(len, side)))) for side in rows]
    found = sides.usable_pairs(0, *given)
    (units, lengths), (targets, target_lengths) = found.sides
    assert (found.empty, found.long) == (2, 0)
    assert units.tolist() == [start, 5] and lengths.tolist() == [2, 0, 0]
    assert targets.tolist() == [start, 8] and target_lengths.tolist() == [2, 0, 0]


@pytest.mark.parametrize(
    "longest, kept", [(0, [0, 1, 2]), (1, []), (2, [0]), (3, [0, 1]), (4, [0, 1, 2])]
)
def test_a_pair_that_is_longer_on_a_side_has_no_units(longest, kept):
    start = vocabulary.START_UNIT
    rows = [
        [[start, 5], [start, 6, 7], [start, 1, 1, 1, 1]],
        [[start, 8, 8], [start, 9, 9, 9], [start, 9]],
    ]
    given = [(np.concatenate(side), np.array(list(map(len, side)))) for side in rows]
    found = sides.usable_pairs(longest, *given)
    assert found.long == 3 - len(kept) and found.empty == 0
    for side, (units, lengths) in zip(rows, found.sides):
        assert units.tolist() == [unit for row in kept for unit in side[row]]
        assert np.flatnonzero(lengths).tolist() == kept


def test_unknown_ids_are_counted():
    assert sides.unknown_in(np.array([1, 2, 4, 2])) == 2
