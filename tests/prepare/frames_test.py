"""From files of numbers to a dataset, as `prepare` is called."""

import pathlib

import numpy as np
import pytest

from tests.numeric_files import CSV, digits, rows
from trainer.exit_codes import DataError


@pytest.mark.parametrize("packed", [np.savez, np.savez_compressed, None])
def test_arrays_with_their_own_splits_are_read_from_an_archive_or_a_folder(
    tmp_path, prepared, packed
):
    names = {}
    for split, count in (("train", 7), ("test", 3)):
        names[f"x_{split}"], names[f"y_{split}"] = digits(count)
    if packed:
        packed(tmp_path / "raw.npz", **names)
    else:
        (tmp_path / "raw").mkdir()
        for name, array in names.items():
            np.save(tmp_path / "raw" / f"{name}.npy", array)
    dataset = prepared("arrays", "raw.npz" if packed else "raw")
    for split in ("train", "test"):
        part, x = dataset.splits[split], names[f"x_{split}"]
        assert (part.inputs == x.reshape(-1, 4)).all() and part.inputs.dtype == np.float32
        assert (np.diff(part.offsets) == 3).all() and (part.targets == names[f"y_{split}"]).all()
    mean = names["x_train"].reshape(-1, 4).mean(axis=0)
    np.testing.assert_allclose(dataset.normalise.mean, mean, rtol=1e-6)
    deviation = names["x_train"].reshape(-1, 4).std(axis=0)
    np.testing.assert_allclose(dataset.normalise.deviation, deviation, rtol=1e-6)
    assert (tmp_path / "d/dataset.json").exists() and not (tmp_path / "d/spool").exists()


def test_equal_sequences_are_in_one_split_and_removed_before_it_is_drawn(
    tmp_path, prepared, caplog
):
    x, y = digits(60)
    twice = np.concatenate([x, x[:10], x[:5]])
    labels = np.concatenate([y, y[:10], y[:5] + 1])
    np.savez(tmp_path / "raw.npz", x=twice, y=labels)
    dataset = prepared("arrays", "raw.npz", test_fraction=0.3, validation_fraction=0.2)
    counts = dataset.description["counts"]
    assert counts["duplicates_removed"] == 10 and counts["sequences_with_several_labels"] == 5
    of_split = {name: {str(row) for row, _ in rows(dataset, name)} for name in dataset.splits}
    assert len(set.union(*of_split.values())) == sum(map(len, of_split.values())) == 60
    assert "5 sequences occur with more than one label" in caplog.text
    np.savez(tmp_path / "test.npz", x=x[:2], y=y[:2])
    given = prepared("arrays", "raw.npz", test_data="test.npz", data_dir="given")
    assert given.description["counts"]["overlaps"] == {"train+test": 2}


@pytest.mark.parametrize("normalise", ["features", "together", "none"])
def test_frames_are_normalised_as_the_flag_says_and_constant_features_named(csv, caplog, normalise):
    content = CSV.replace("10,up", "20,up").replace("30,down", "20,down")
    dataset = csv(content, normalise=normalise)
    assert "1 of 2 features never change in the training split" in caplog.text
    assert "'force'" in caplog.text
    inputs = np.asarray(dataset.splits["train"].inputs)
    scale = dataset.normalise
    if normalise == "none":
        assert scale is None
    elif normalise == "together":
        np.testing.assert_allclose(scale.mean, [inputs.mean()] * 2, rtol=1e-6)
        np.testing.assert_allclose(scale.deviation, [inputs.std()] * 2, rtol=1e-6)
    else:
        assert scale.deviation[1] == 1 and scale.applied(inputs)[:, 1].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "missing, expected", [("zero", [0, 2, 0, 0, 0, 6]), ("previous", [0, 2, 2, 2, 0, 6])]
)
def test_missing_numbers_are_filled_within_their_sequence(
    tmp_path, prepared, caplog, missing, expected
):
    (tmp_path / "raw.ts").write_text("@classLabel true a b\n@data\n?,2,NaN,?:a\n?,6:b\n")
    dataset = prepared("ts", "raw.ts", missing=missing)
    assert dataset.splits["train"].inputs[:, 0].tolist() == expected
    assert dataset.description["counts"]["missing_filled"] == 4
    assert f"missing numbers filled in (--missing={missing}): 4" in caplog.text


def test_files_with_other_shapes_are_refused(tmp_path, prepared):
    for name, width in (("a", 2), ("b", 3)):
        np.savez(tmp_path / f"{name}.npz", x=np.zeros((3, 4, width)), y=[0, 1, 1])
    with pytest.raises(DataError, match=r"b.npz:x:0: frames of \[3\] numbers, but those of .*a.n"):
        prepared("arrays", "[ab].npz")


MNIST = pathlib.Path(__file__).resolve().parents[2] / "../shared/data/mnist/mnist.npz"


def test_mnist_of_keras_is_read_as_it_is(prepared):
    if not MNIST.exists():
        pytest.skip(f"no {MNIST}: the archive of Keras is not beside the repository")
    dataset = prepared("arrays", MNIST)
    with np.load(MNIST) as arrays:
        for split in ("train", "test"):
            x = arrays[f"x_{split}"]
            assert (dataset.splits[split].inputs == x.reshape(-1, 28)).all()
            assert (dataset.splits[split].targets == arrays[f"y_{split}"]).all()
