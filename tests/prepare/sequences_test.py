"""Batches of sequences, and the check that every frame passes."""

import numpy as np
import pytest

from trainer.exit_codes import DataError
from trainer.prepare import sequences
from trainer.prepare.sequences import Checks, One, Sequences, batches


def batch(frames, lengths, first=0):
    places = [("f", first + i) for i in range(len(lengths))]
    return Sequences("train", places, np.asarray(frames), np.array(lengths), [None] * len(lengths))


def test_batches_end_at_their_size_and_where_the_shape_of_frames_changes(monkeypatch):
    monkeypatch.setattr(sequences, "BATCH_NUMBERS", 10)
    widths = [2, 2, 2, 3, 3]
    ones = [One(("f", i), np.full((2, width), i), i) for i, width in enumerate(widths)]
    found = list(batches(ones, "test"))
    assert [each.labels for each in found] == [(0, 1, 2), (3, 4)]
    assert found[0].frames[:, 0].tolist() == [0, 0, 1, 1, 2, 2] and found[0].splits is None
    assert found[1].lengths.tolist() == [2, 2] and found[1].split == "test"


def test_every_type_of_number_becomes_float32_and_minus_zero_zero():
    for dtype in (np.uint8, np.int64, np.float16, np.float64, ">f4", "<f4"):
        found = Checks("error").checked(batch(np.array([[0, 1], [2, 3]], dtype), [2]))
        assert found.dtype == np.float32 and found.tolist() == [[0, 1], [2, 3]]
    assert not np.signbit(Checks("error").checked(batch([[-0.0]], [1]))).any()
    with pytest.raises(DataError, match="f:0: the numbers are of type bool"):
        Checks("error").checked(batch([[True]], [1]))


def test_axes_of_a_frame_are_flattened_into_features():
    checks = Checks("error")
    found = checks.checked(batch(np.arange(12).reshape(2, 3, 2), [2]))
    assert found.shape == (2, 6) and checks.shape == (3, 2)
    with pytest.raises(DataError, match=r"f:7: frames of \[2, 3\] numbers, but those of f:0 are"):
        checks.checked(batch(np.zeros((1, 2, 3)), [1], first=7))


def test_the_place_of_a_missing_number_is_its_sequence_and_step():
    frames = np.zeros((5, 2))
    frames[3, 1] = np.nan
    with pytest.raises(DataError, match=r"f:1: step 1 \(from 0\), feature 'b' is missing"):
        Checks("error", ("a", "b")).checked(batch(frames, [2, 3]))


def test_a_missing_number_takes_none_of_another_sequence():
    frames = np.array([[1, 5], [np.nan, 6], [np.nan, 7], [3, np.nan], [np.nan, np.nan]])
    checks = Checks("previous")
    assert checks.checked(batch(frames, [2, 3])).tolist() == [
        [1, 5],
        [1, 6],
        [0, 7],
        [3, 7],
        [3, 7],
    ]
    assert checks.filled == 5
