"""The export appears whole or not at all, in a place that is free, with everything in it."""

import dataclasses
import logging
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.export import small_models
from tests.export.small_models import OPTIONS, a_model, answers_from_here
from trainer import durable
from trainer.exit_codes import StorageError, UsageError
from trainer.export import command as export
from trainer.export import proof, readback
from trainer.flags.use import Export

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "name, flags",
    [
        (
            "words",
            {"precision": "bfloat16", "cell": "gru", "bidirectional": True, "pooling": "max"},
        ),
        ("words", {"precision": "float16", "padding": "pre", "jit": "off"}),
        ("words", {"one_hot": True, "cell": "simple_rnn", "truncate": "start"}),
        ("a_text", {"precision": "float16", "tied_embedding": True, "max_length": 3}),
        ("a_text", {"precision": "bfloat16", "cell": "gru", "units": (5, 4), "jit": "off"}),
        ("a_stream", {"one_hot": True, "cell": "simple_rnn"}),
        ("tagged", {"precision": "bfloat16", "bidirectional": True, "max_length": 3}),
        ("tagged", {"cell": "gru", "units": (5, 4), "jit": "off"}),
        ("pairs", {"precision": "bfloat16", "cell": "gru", "bidirectional": True, "units": (5, 4)}),
        (
            "frames",
            {"padding": "pre", "truncate": "start", "max_length": 5, "precision": "float16"},
        ),
        ("pictures", {"frame_encoder": "convolution", "cell": "simple_rnn"}),
        ("values", {"frame_encoder": "dense", "pooling": "mean", "max_length": 4}),
        ("values", {"cell": "simple_rnn", "truncate": "start", "max_length": 4, "jit": "off"}),
    ],
)
def test_what_is_written_agrees_in_float32_whatever_the_precision(
    name, flags, request, monkeypatch, tmp_path
):
    monkeypatch.setattr(readback, "answers", answers_from_here)
    dataset = request.getfixturevalue(name)
    differences = export.export(a_model(dataset, **flags), tmp_path / "out", OPTIONS)
    assert (
        list(differences) == ["saved_model", "model.keras"]
        and max(differences.values()) <= proof.BOUND
    )
    lists = {path.name for path in dataset.folder.glob("*.txt")}
    assert ("vocabulary.txt" in lists) != dataset.input.numbers
    told = {"values.txt"} if dataset.values else set()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "saved_model",
        "model.keras",
    } | lists | told
    for name in told:
        assert tuple((tmp_path / "out" / name).read_text().splitlines()) == dataset.values
    for name in lists:
        assert (tmp_path / "out" / name).read_bytes() == (dataset.folder / name).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_model_without_the_examples_of_its_dataset_is_exported_too(words, monkeypatch, tmp_path):
    """As from a model folder whose dataset is gone."""
    monkeypatch.setattr(readback, "answers", answers_from_here)
    alone = a_model(dataclasses.replace(words, splits={}), cell="simple_rnn", jit="off")
    differences = export.export(alone, tmp_path / "out", OPTIONS)
    assert list(differences) == ["saved_model", "model.keras"]
    assert max(differences.values()) <= proof.BOUND


@pytest.fixture(scope="module")
def a_stream(tmp_path_factory):
    return small_models.a_text(tmp_path_factory.mktemp("stream"), "bytes", "streams")


def test_a_dataset_without_words_gives_a_model_of_ids_and_says_so(
    without_words, monkeypatch, caplog, tmp_path
):
    monkeypatch.setattr(logging.getLogger("trainer"), "propagate", True)
    monkeypatch.setattr(readback, "answers", answers_from_here)
    differences = export.export(a_model(without_words), tmp_path / "out", OPTIONS)
    assert list(differences) == ["model.keras"] and differences["model.keras"] <= proof.BOUND
    assert not (tmp_path / "out" / "saved_model").exists()
    assert "no saved_model" in caplog.text


def test_a_folder_with_content_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(UsageError, match="not an empty folder"):
        export.command(Export(model_dir="nowhere", export_dir=str(tmp_path)))
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.fixture
def nothing_but_the_place(monkeypatch):
    """Leaves out what takes time and has no part in where the files go."""
    monkeypatch.setattr(
        export,
        "_write",
        lambda model, folder, options: (folder / "model.keras").write_text("written"),
    )
    monkeypatch.setattr(proof, "differences", lambda model, folder, options: {"model.keras": 0.0})


@pytest.mark.usefixtures("nothing_but_the_place")
def test_content_that_appears_meanwhile_is_not_replaced(monkeypatch, tmp_path):
    def meanwhile(model, folder, options):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "precious").write_text("mine")

    monkeypatch.setattr(proof, "differences", meanwhile)
    with pytest.raises(UsageError, match="not an empty folder"):
        export.export(None, tmp_path / "out", OPTIONS)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "precious"]


@pytest.mark.usefixtures("nothing_but_the_place")
def test_a_name_that_cannot_be_synced_is_a_storage_error(monkeypatch, tmp_path):
    def sync(path, real=durable.sync):
        if path == tmp_path:
            raise OSError(5, "Input/output error")
        real(path)

    monkeypatch.setattr(durable, "sync", sync)
    with pytest.raises(StorageError, match="Input/output error"):
        export.export(None, tmp_path / "out", OPTIONS)


@pytest.mark.usefixtures("nothing_but_the_place")
def test_an_empty_folder_is_filled_and_a_missing_one_made(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "some/where/new"):
        export.export(None, tmp_path / name, OPTIONS)
        assert (tmp_path / name / "model.keras").read_text() == "written"


@pytest.mark.usefixtures("nothing_but_the_place")
@pytest.mark.parametrize("place, error", [("file/out", StorageError), ("file", UsageError)])
def test_a_place_that_cannot_be_written_is_named(place, error, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(error, match=f"--export_dir={tmp_path / place}"):
        export.export(None, tmp_path / place, OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_averaged_weights_of_a_run_are_exported_and_agree(words, tmp_path):
    def trainer(command, *flags):
        return subprocess.run(
            [sys.executable, "-m", "trainer", command, f"--model_dir={tmp_path / 'run'}", *flags],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )

    trained = trainer(
        "train",
        f"--data_dir={words.folder}",
        "--steps=3",
        "--batch_size=8",
        "--eval_steps=-1",
        "--cell=simple_rnn",
        "--units=4",
        "--max_length=8",
        "--ema=0.9",
    )
    assert trained.returncode == 0, trained.stderr
    out = tmp_path / "out"
    answer = trainer("export", f"--export_dir={out}")
    assert answer.returncode == 0, answer.stderr
    *files, step = [line.split() for line in answer.stdout.splitlines()]
    written = ("saved_model", "model.keras")
    assert [(name, path) for name, path, _, _ in files] == [
        (name, str(out / name)) for name in written
    ]
    assert all(float(difference) <= 1e-5 for _, _, _, difference in files) and step == ["step", "3"]

    (folder,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    checkpoint = tf.train.load_checkpoint(str(folder / "tensors"))
    kernel = keras.models.load_model(out / "model.keras").get_layer("logits").kernel.numpy()
    np.testing.assert_array_equal(kernel, checkpoint.get_tensor("optimizer/logits/kernel/average"))
