"""Arrays of NumPy become sequences; what does not fit is named."""

import numpy as np
import pytest

from tests.numeric_files import X, digits, rows
from trainer.exit_codes import DataError


@pytest.mark.parametrize(
    "shape, flag, frame, steps",
    [
        ((5, 3, 4), (), (4,), 3),
        ((5, 3, 4), (1,), (1,), 12),
        ((5, 12), (3, 2), (3, 2), 2),
        ((5, 6), (), (1,), 6),
        ((5, 2, 4, 3), (), (4, 3), 2),
        ((5, 2, 4, 3, 2), (), (4, 3, 2), 2),
    ],
)
def test_the_axes_after_the_time_are_a_frame_unless_a_flag_cuts_them(
    tmp_path, prepared, shape, flag, frame, steps
):
    x = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    np.savez(tmp_path / "raw.npz", x=x, y=np.arange(5) % 2)
    dataset = prepared("arrays", "raw.npz", frame_shape=flag)
    assert dataset.frame == frame and len(dataset.splits["train"].inputs) == 5 * steps
    assert (dataset.splits["train"].inputs.reshape(-1) == x.reshape(-1)).all()


def test_ragged_arrays_are_cut_by_their_lengths_and_values_may_be_several(tmp_path, prepared):
    x, lengths = np.arange(12.0).reshape(6, 2), [1, 3, 2]
    np.savez(tmp_path / "raw.npz", x=x, lengths=lengths, y=[[1.0, 5], [2, 5.5], [3, 7]])
    dataset = prepared("arrays", "raw.npz", task="regression")
    assert dataset.splits["train"].offsets.tolist() == [0, 1, 4, 6]
    assert rows(dataset)[1] == ([[2, 3], [4, 5], [6, 7]], [2, 5.5])
    assert dataset.values == ("y_0", "y_1")


def test_any_batch_size_writes_the_same_dataset(tmp_path, prepared, monkeypatch):
    x, y = digits(40, size=(5, 3))
    np.savez(tmp_path / "raw.npz", x=x, y=y)
    whole = prepared("arrays", "raw.npz", test_fraction=0.2)
    monkeypatch.setattr("trainer.prepare.arrays.BATCH_NUMBERS", 45)
    monkeypatch.setattr("trainer.prepare.spool._CHUNK", 31)
    pieces = prepared("arrays", "raw.npz", test_fraction=0.2, data_dir="pieces")
    assert whole.digest == pieces.digest
    np.savez(tmp_path / "ragged.npz", x=x.reshape(-1, 3), y=y, lengths=np.full(40, 5))
    ragged = prepared("arrays", "ragged.npz", test_fraction=0.2, data_dir="ragged")
    assert ragged.description["files"] == whole.description["files"]


WITH_NAN = np.where(X == 13, np.nan, X)


@pytest.mark.parametrize(
    "arrays, flags, message",
    [
        ({"x": WITH_NAN}, {}, "raw.npz:x:1: step 2 (from 0), feature 1 is missing (nan). Fill it"),
        (
            {"x": np.where(X == 13, np.inf, X)},
            {},
            "raw.npz:x:1: step 2 (from 0), feature 1 is inf, which must be",
        ),
        ({"x": X * 1e38}, {}, "which is too large for float32"),
        ({"x": X.astype(object)}, {}, "raw.npz:x: is an array of objects, which only pickle"),
        ({"y": np.array(list("abc"), object)}, {}, "raw.npz:y: is an array of objects"),
        ({"x": X > 3}, {}, "raw.npz:x: holds true and false (dtype bool). Write whole numbers"),
        ({"x": X + 1j}, {}, "raw.npz:x: holds complex numbers (dtype complex128)"),
        ({"x": X.astype(str)}, {}, "raw.npz:x: holds <U32, but frames are whole or real numbers"),
        ({"x": np.zeros(3, "f4,i4")}, {}, "raw.npz:x: has records with named fields"),
        ({"x": np.asfortranarray(X)}, {}, "stored column by column (Fortran order)"),
        ({"x": X[:2]}, {}, "raw.npz:y: [3], but raw.npz:x has 2 examples. Both must have the s"),
        ({"x": X[:, :0]}, {}, "raw.npz:x: has the shape [3, 0, 2], but frames are [examples, ti"),
        ({"x": X[0, :3, 0]}, {}, "raw.npz:x: has the shape [3], but frames are"),
        ({"lengths": [2, 2, 0]}, {}, "raw.npz:lengths:2: the length 0, but every sequence has a"),
        ({"lengths": [1, 1, 2]}, {}, "raw.npz:lengths: the lengths add up to 4, but raw.npz:x ha"),
        ({"lengths": [1.0, 1, 1]}, {}, "raw.npz:lengths: [3] of float64, but lengths are one wh"),
        ({}, {"frame_shape": (3,)}, "8 numbers for each example, but --frame_shape=3 needs a mu"),
        ({}, {"x_array": "data"}, "no array data, data_train or train_data; there are 'x', 'y'."),
        ({}, {"y_array": "z"}, "raw.npz: x has no z beside it; there are 'x', 'y'. Name the tar"),
        ({"x_train": X}, {}, "raw.npz: x and x_train are both the train split"),
        ({"y": [0.0, 1.0, 1.0]}, {}, "[3] of float64, but classes are one whole number or string"),
        ({"y": np.eye(3, dtype=int)}, {}, "of one-hot rows write the class (y.argmax(axis=1))"),
        ({"y": [0, 0, 0]}, {}, "every row has the label 0; a classifier needs at least two"),
        ({"y": list("abc")}, {"task": "regression"}, "but the values of a regression are numbers"),
        ({"y": [1, np.nan, 2]}, {"task": "regression"}, "raw.npz:y:1: the value 'nan' of 'y': mu"),
        ({"y": [2, 2, 2]}, {"task": "regression"}, "every training row has 2 as its 'y', so the"),
    ],
)
def test_bad_arrays_are_named(tmp_path, prepared, monkeypatch, arrays, flags, message):
    np.savez(tmp_path / "raw.npz", **{"x": X, "y": [0, 1, 1], **arrays})
    with pytest.raises(DataError) as refusal:
        prepared("arrays", "raw.npz", **flags)
    assert message in str(refusal.value).replace(f"{tmp_path}/", "")
