"""From files of numbers to a dataset, as `prepare` is called, and back in for `predict`."""

import itertools
import pathlib

import numpy as np
import pytest

from tests.numeric_files import CSV, TS, X, digits, rows, save_wav, tone
from trainer import config
from trainer.exit_codes import DataError, UsageError
from trainer.prepare import frames


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
    assert f"4 missing numbers filled in (--missing={missing})" in caplog.text


def test_files_with_other_shapes_are_refused(tmp_path, prepared):
    for name, width in (("a", 2), ("b", 3)):
        np.savez(tmp_path / f"{name}.npz", x=np.zeros((3, 4, width)), y=[0, 1, 1])
    with pytest.raises(DataError, match=r"b.npz:x:0: frames of \[3\] numbers, but those of .*a.n"):
        prepared("arrays", "[ab].npz")


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"source": "folder", "tokenizer": "words"}, "--tokenizer=words: recordings have no use"),
        ({"source": "folder", "task": "language_model"}, "of which a model learns --task=classi"),
        ({"source": "folder", "normalise": "none", "raw_data": "texts"}, "--normalise=none: texts"),
    ],
)
def test_flags_that_do_not_fit_what_lies_in_folders_are_refused(tmp_path, prepared, flags, message):
    for name in ("a", "b"):
        save_wav(tmp_path / f"raw/{name}/1.wav", tone(300))
        (tmp_path / f"texts/{name}").mkdir(parents=True)
        (tmp_path / f"texts/{name}/1.txt").write_text(f"text {name}")
    with pytest.raises(UsageError, match=message):
        prepared(**{"raw_data": "raw", **flags})


def new(dataset, path, **flags):
    """Returns what `predict --input` reads: [(frames, id)]."""
    settings = config.Predict(input=str(path), **flags)
    found = list(frames.unanswered(settings, dataset))
    assert [each.number for each in found] == list(range(len(found)))
    return [(each.frames.tolist(), each.id) for each in found]


def test_new_data_is_read_as_the_dataset_was_without_labels(tmp_path, prepared, csv):
    dataset = csv(time_column="t", missing="zero")
    (tmp_path / "new.csv").write_text("force,speed,t,run\n1,,2,u\n3,4,1,u\n")
    assert new(dataset, tmp_path / "new.csv") == [([[4, 3], [0, 1]], "u")]

    (tmp_path / "two.ts").write_text(TS)
    dataset = prepared("ts", "two.ts", data_dir="ts")
    (tmp_path / "new.ts").write_text("@data\n1:2\n")
    assert new(dataset, tmp_path / "new.ts", source="ts") == [([[1, 2]], None)]
    assert len(new(dataset, tmp_path / "two.ts")) == 2

    np.savez(tmp_path / "raw.npz", x_train=X, y_train=[0, 1, 1], x_test=X[:1], y_test=[1])
    dataset = prepared("arrays", "raw.npz", frame_shape=(1,), data_dir="arrays")
    np.savez(tmp_path / "new.npz", x=X[1:])
    flags = {"source": "arrays"}
    assert new(dataset, tmp_path / "new.npz", **flags)[0][0] == X[1].reshape(-1, 1).tolist()
    assert len(new(dataset, tmp_path / "raw.npz", x_array="x_test", **flags)) == 1

    for name in ("a", "b"):
        save_wav(tmp_path / f"raw/{name}/1.wav", tone(300))
    dataset = prepared("folder", "raw", data_dir="wav")
    part = dataset.splits["train"]
    assert new(dataset, tmp_path / "raw/a/1.wav")[0][1] == "1.wav"
    assert new(dataset, tmp_path / "raw", source="folder") == [
        (part.inputs[begin:end].tolist(), f"{name}/1.wav")
        for name, (begin, end) in zip("ab", itertools.pairwise(part.offsets))
    ]


def test_new_data_of_another_form_is_refused(tmp_path, prepared):
    np.savez(tmp_path / "raw.npz", x=X.reshape(-1, 2), lengths=[4, 4, 4], y=[0, 1, 1])
    dataset = prepared("arrays", "raw.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros((8, 3)), lengths=[4, 4])
    np.savez(tmp_path / "fixed.npz", x=X)
    for name, flags, message in (
        ("other.npz", {}, r"frames of \[3\] numbers, but the model reads frames of \[2\]"),
        ("fixed.npz", {}, "no array lengths; there are 'x'. The model was trained on sequences"),
        ("raw.npz", {"x_array": "z"}, "no array z; there are 'lengths', 'x', 'y'"),
    ):
        with pytest.raises(DataError, match=message):
            new(dataset, tmp_path / name, **flags)
    for flags, message in (
        ({"source": "csv"}, "--source=csv: the model's dataset was read with --source=arrays"),
        ({"source": "csv", "id_column": "t", "format": "jsonl"}, "--source=csv: the model's dat"),
    ):
        with pytest.raises(UsageError, match=message):
            new(dataset, tmp_path / "raw.npz", **flags)
    with pytest.raises(UsageError, match="--input is empty"):
        list(frames.unanswered(config.Predict(), dataset))


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
