"""New data is read as the dataset of a model was."""

import dataclasses
import itertools

import numpy as np
import pytest

from tests.numeric_files import TS, X, save_wav, tone
from trainer.exit_codes import DataError, UsageError
from trainer.flags.use import Predict
from trainer.prepare import new_frames


def new(dataset, path, **flags):
    """Returns what `predict --input` reads: [(frames, id)]."""
    settings = Predict(input=str(path), **flags)
    found = list(new_frames.unanswered(settings, dataset))
    return [(each.frames.tolist(), each.id) for each in found]


def test_new_data_is_read_as_the_dataset_was_without_labels(tmp_path, prepared, csv):
    dataset = csv(time_column="t", missing="zero")
    (tmp_path / "new.csv").write_text("force,speed,t,run\n1,,2,u\n3,4,1,u\n")
    assert new(dataset, tmp_path / "new.csv") == [([[4, 3], [0, 1]], "u")]

    (tmp_path / "two.ts").write_text(TS)
    dataset = prepared("ts", "two.ts", data_dir="ts")
    (tmp_path / "new.ts").write_text("@data\n1:2\n")
    assert new(dataset, tmp_path / "new.ts", source="ts") == [([[1, 2]], 0)]
    assert [identity for _, identity in new(dataset, tmp_path / "two.ts")] == [0, 1]

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
    np.savez(tmp_path / "flat.npz", x=X.reshape(-1, 2))
    for name, flags, message in (
        ("other.npz", {}, r"frames of \[3\] numbers, but the model reads frames of \[2\]"),
        ("flat.npz", {}, r"\[12, 2\] without an array lengths, which sequences of several l"),
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
        list(new_frames.unanswered(Predict(), dataset))
    unknown = dataclasses.replace(dataset, description={"input": {"shape": [2]}})
    with pytest.raises(UsageError, match="does not say how the sequences were read"):
        new(unknown, tmp_path / "raw.npz")


def test_a_model_of_several_lengths_reads_sequences_of_one_length(tmp_path, prepared):
    np.savez(tmp_path / "raw.npz", x=X.reshape(-1, 2), lengths=[4, 3, 5], y=[0, 1, 1])
    dataset = prepared("arrays", "raw.npz")
    np.savez(tmp_path / "new.npz", x=X[:, :3])
    found = new(dataset, tmp_path / "new.npz")
    np.testing.assert_array_equal([frames for frames, *_ in found], X[:, :3])
    np.savez(tmp_path / "wide.npz", x=np.zeros((2, 3, 4)))
    with pytest.raises(DataError, match=r"frames of \[4\] numbers, but the model reads frames"):
        new(dataset, tmp_path / "wide.npz")


def test_the_form_that_a_refusal_of_single_numbers_without_lengths_names_is_read(
    tmp_path, prepared
):
    np.savez(tmp_path / "raw.npz", x=np.arange(12.0), lengths=[4, 3, 5], y=[0, 1, 1])
    dataset = prepared("arrays", "raw.npz")
    x = np.arange(8.0).reshape(2, 4)
    np.savez(tmp_path / "new.npz", x=x)
    with pytest.raises(DataError, match=r"\[2, 4\] without an array .*\[examples, time, 1\] if a"):
        new(dataset, tmp_path / "new.npz")
    np.savez(tmp_path / "new.npz", x=x[..., None])
    assert new(dataset, tmp_path / "new.npz") == [(x[..., None][i].tolist(), i) for i in range(2)]
