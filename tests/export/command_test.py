"""Export: what is written computes what was trained, in a process without trainer, and appears
whole or not at all.
"""

import csv
import dataclasses
import json
import logging
import pathlib
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import datasets
from trainer import config as configuration
from trainer import trained_model
from trainer.data import pipeline, store, text
from trainer.exit_codes import StorageError, TrainerError, UsageError
from trainer.export import command as export
from trainer.export import readback
from trainer.models.networks import Network
from trainer.prepare import command as prepare

ROOT = pathlib.Path(__file__).resolve().parents[2]
VOCABULARY, CLASSES, LENGTH = 11, 3, 7
IDS = np.array(
    [[1, 4, 5, 6, 7, 8, 9], [1, 10, 2, 4, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]],
    np.int32,
)
LENGTHS = np.array([7, 4, 1, 0], np.int32)


def large_weights(network: Network) -> dict[str, tf.Tensor]:
    """Weights that tell rows and classes apart far better than initial ones do."""
    generator = np.random.default_rng(5)
    return {
        name: tf.constant(generator.normal(0, 0.7, weight.shape), tf.float32)
        for name, weight in network.weights.items()
    }


def probabilities(network, weights, ids, lengths) -> np.ndarray:
    return tf.nn.softmax(network.logits(weights, tf.constant(ids), tf.constant(lengths))).numpy()


# --- The Keras model ------------------------------------------------------------------------------

NETWORKS = [  # cell, bidirectional, pooling, padding, one_hot, rnn_from_cell, units
    ("simple_rnn", False, "last", "post", True, False, (5,)),
    ("simple_rnn", False, "last", "post", True, True, (5,)),
    ("simple_rnn", True, "max", "post", False, False, (5, 4)),
    ("simple_rnn", True, "last", "pre", True, True, (5,)),
    ("lstm", False, "last", "pre", False, False, (5,)),
    ("lstm", False, "last", "post", False, False, (5, 4)),
    ("lstm", False, "max", "post", False, True, (5,)),
    ("lstm", False, "mean", "post", True, False, (5,)),
    ("lstm", True, "last", "post", False, False, (5, 4)),
    ("lstm", True, "last", "post", False, True, (5,)),
    ("lstm", True, "mean", "post", False, False, (5, 4)),
    ("lstm", True, "max", "pre", False, False, (5,)),
    ("gru", False, "last", "post", False, False, (5,)),
    ("gru", False, "mean", "pre", False, False, (5,)),
    ("gru", True, "last", "post", True, True, (5, 4)),
    ("gru", True, "max", "post", False, False, (5, 4)),
]


@pytest.mark.parametrize(
    "cell, bidirectional, pooling, padding, one_hot, rnn_from_cell, units", NETWORKS
)
def test_the_keras_file_computes_what_the_network_computes(
    cell, bidirectional, pooling, padding, one_hot, rnn_from_cell, units, tmp_path
):
    settings = configuration.Model(
        cell=cell,
        bidirectional=bidirectional,
        pooling=pooling,
        one_hot=one_hot,
        rnn_from_cell=rnn_from_cell,
        units=units,
        embedding_size=3,
        dropout=0.5,
    )
    network = Network(settings, VOCABULARY, CLASSES)
    weights = large_weights(network)
    inputs = configuration.Input(max_length=LENGTH, padding=padding)
    ids = np.flip(IDS, axis=1) if padding == "pre" else IDS
    lengths = np.full(len(IDS), LENGTH, np.int32) if padding == "pre" else LENGTHS
    export.keras_model(network, weights, inputs).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    expected = probabilities(network, weights, ids, lengths)
    assert np.ptp(expected, axis=0).min() > 0.01
    np.testing.assert_allclose(loaded(ids).numpy(), expected, atol=1e-6)


def test_more_padding_behind_changes_nothing():
    settings = configuration.Model(cell="gru", units=(5,), bidirectional=True, pooling="mean")
    network = Network(settings, VOCABULARY, CLASSES)
    model = export.keras_model(
        network, large_weights(network), configuration.Input(max_length=LENGTH)
    )
    np.testing.assert_allclose(
        model(np.pad(IDS, [(0, 0), (0, 9)])).numpy(), model(IDS).numpy(), atol=1e-6
    )


def test_a_model_with_padding_in_front_takes_max_length_ids_only():
    network = Network(configuration.Model(units=(5,)), VOCABULARY, CLASSES)
    model = export.keras_model(
        network, large_weights(network), configuration.Input(max_length=LENGTH, padding="pre")
    )
    with pytest.raises(ValueError, match="shape"):
        model(IDS[:, :-1])


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_last_state_is_asked_of_the_layer_because_cudnn_has_zeros_under_the_mask(bidirectional):
    settings = configuration.Model(units=(5, 4), pooling="last", bidirectional=bidirectional)
    network = Network(settings, VOCABULARY, CLASSES)
    model = export.keras_model(network, large_weights(network), configuration.Input())
    assert [model.get_layer(name).return_sequences for name in ("rnn_0", "rnn_1")] == [True, False]


def test_the_keras_file_is_plain_and_keeps_our_names(tmp_path):
    settings = configuration.Model(units=(5, 4), bidirectional=True, pooling="max", dropout=0.5)
    network = Network(settings, VOCABULARY, CLASSES)
    model = export.keras_model(network, large_weights(network), configuration.Input())
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as file:
        objects = list(objects_in(json.loads(file.read("config.json"))))
    assert {one["module"].partition(".")[0] for one in objects if one["module"]} == {"keras"}
    # PACKAGE>NAME would be a class that somebody registered.
    assert not any(">" in (one["registered_name"] or "") for one in objects)
    assert not {"Dropout", "Lambda"} & {one["class_name"] for one in objects}
    assert {"embedding", "rnn_0", "rnn_1", "logits", "probabilities"} <= {
        layer.name for layer in model.layers
    }


def objects_in(config):
    """Every serialised object in the JSON of a Keras file."""
    if isinstance(config, dict):
        if "registered_name" in config:
            yield config
        for value in config.values():
            yield from objects_in(value)
    elif isinstance(config, list):
        for value in config:
            yield from objects_in(value)


# --- The SavedModel -------------------------------------------------------------------------------


@pytest.mark.parametrize("truncate", ["start", "end"])
@pytest.mark.parametrize("padding", ["pre", "post"])
@pytest.mark.parametrize("max_length", [1, 3, 9])
def test_texts_are_cut_and_padded_as_the_batches_of_the_training_are(truncate, padding, max_length):
    rows = [[1], [1, 4, 5, 6, 7], [1, 8], [1, 9, 10]]
    settings = configuration.Input(max_length=max_length, truncate=truncate, padding=padding)
    split = store.Split(
        np.concatenate(rows).astype(np.int32),
        np.cumsum([0, *map(len, rows)]),
        np.zeros(4, np.int32),
    )
    longest = max_length if padding == "pre" else min(max_length, 5)
    expected = pipeline.pad(split, np.arange(len(rows)), longest, settings)
    ids, lengths = export.pad_ragged(tf.ragged.constant(rows, tf.int32), settings)
    np.testing.assert_array_equal(ids, expected)
    counting = [max_length] * 4 if padding == "pre" else [min(max_length, len(row)) for row in rows]
    np.testing.assert_array_equal(lengths, counting)


@pytest.mark.parametrize("padding, length", [("post", 1), ("pre", 4)])
def test_no_texts_are_padded_to_a_length_that_a_network_can_read(padding, length):
    none = tf.RaggedTensor.from_row_splits(tf.zeros([0], tf.int32), tf.zeros([1], tf.int64))
    ids, lengths = export.pad_ragged(none, configuration.Input(max_length=4, padding=padding))
    assert (ids.shape, lengths.shape) == ((0, length), (0,))


def a_dataset(folder: pathlib.Path, tokenizer: str) -> store.Dataset:
    """Every corner case that a file can hold as a row of a CSV, prepared."""
    rows = [
        case
        for case in export.CORNER_CASES
        if b"\0" not in case
        and b"\n" not in case
        # Any byte is served, but `prepare` takes none of bad UTF-8.
        and (tokenizer != "bytes" or is_utf8(case))
    ]
    path = folder / "raw.csv"
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(
            [case.decode("utf-8", "surrogateescape"), f"class {row % 3}"]
            for row, case in enumerate(rows)
        )
    return prepare.prepare(
        configuration.Prepare(
            data_dir=str(folder / "data"),
            raw_data=str(path),
            tokenizer=tokenizer,
            vocabulary_size=300,
            encoding_errors="replace",
        )
    )


def is_utf8(case: bytes) -> bool:
    return case.decode("utf-8", "replace").encode() == case


def a_model(dataset: store.Dataset, **flags) -> trained_model.TrainedModel:
    """A trained model as `trained_model.open_model` would return it."""
    config = configuration.from_flat(
        {"units": (6,), "embedding_size": 5, "max_length": 20, **flags}
    )
    network = Network(
        config.model, len(dataset.vocabulary), len(dataset.labels), precision=config.run.precision
    )
    return trained_model.TrainedModel(config, dataset, network, large_weights(network), None, 7)


def classifier_of(model: trained_model.TrainedModel) -> export.TextClassifier:
    tokenizer = text.tokenizer_of(model.dataset)
    return export.TextClassifier(
        model.network, model.weights, tokenizer, model.config.input, model.dataset.labels
    )


@pytest.fixture(scope="module", params=["words", "characters", "bytes"])
def dataset(request, tmp_path_factory):
    return a_dataset(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return a_dataset(tmp_path_factory.mktemp("words"), "words")


def test_the_saved_model_reads_unicode_corner_cases_as_prepare_did(dataset, tmp_path):
    model = a_model(dataset, pooling="mean", truncate="start")
    classifier = classifier_of(model)
    tf.saved_model.save(classifier, str(tmp_path), {"serving_default": classifier.classify})
    with open(dataset.folder.parent / "raw.csv", "rb") as file:
        lines = file.read().decode("utf-8", "surrogateescape").splitlines(keepends=True)
    texts = [row[0].encode("utf-8", "surrogateescape") for row in csv.reader(lines)][1:]
    answer = tf.saved_model.load(str(tmp_path)).signatures["serving_default"](
        text=tf.constant(texts)
    )
    prepared = pipeline.loose_batch(dataset.splits["train"], model.config.input)
    expected = probabilities(model.network, model.weights, prepared.tokens, prepared.lengths)
    np.testing.assert_allclose(answer["probabilities"].numpy(), expected, atol=1e-6)
    assert [label.decode() for label in answer["label"].numpy()] == [
        dataset.labels[row.argmax()] for row in expected
    ]


@pytest.mark.parametrize("padding", ["pre", "post"])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_any_number_of_texts_may_come(padding, count, words):
    classifier = classifier_of(a_model(words, padding=padding, bidirectional=True))
    answer = classifier.classify(tf.constant(["a text"] * count, tf.string, [count]))
    assert answer["probabilities"].shape == (count, 3) and answer["label"].shape == (count,)


# --- The proof and the place ----------------------------------------------------------------------


def answers_from_here(groups):
    """`readback.answers` of this process, which spares the seconds that a fresh one takes to
    start.
    """
    found = {}
    for path, calls in json.loads(json.dumps(groups, default=readback._plain)).items():
        call = (readback._saved_model if pathlib.Path(path).is_dir() else readback._keras_model)(
            path
        )
        found[path] = [readback.Answer(*call(group)) for group in calls]
    return found


@pytest.mark.parametrize(
    "flags",
    [
        {"precision": "bfloat16", "cell": "gru", "bidirectional": True, "pooling": "max"},
        {"precision": "float16", "padding": "pre", "jit": "off"},
        {"one_hot": True, "cell": "simple_rnn", "truncate": "start"},
    ],
)
def test_what_is_written_agrees_in_float32_whatever_the_precision(
    flags, words, monkeypatch, tmp_path
):
    monkeypatch.setattr(readback, "answers", answers_from_here)
    differences = export.export(a_model(words, **flags), tmp_path / "out")
    assert (
        list(differences) == ["saved_model", "model.keras"]
        and max(differences.values()) <= export.BOUND
    )
    lists = {"vocabulary.txt", "labels.txt"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "saved_model",
        "model.keras",
    } | lists
    for name in lists:
        assert (tmp_path / "out" / name).read_bytes() == (words.folder / name).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def spoil_probability(answer):
    return answer._replace(probabilities=answer.probabilities + np.float32(2e-5))


def spoil_with_nan(answer):
    return answer._replace(probabilities=answer.probabilities * np.float32("nan"))


def spoil_shape(answer):
    return answer._replace(probabilities=answer.probabilities[:, :1])


def spoil_label(answer):
    return answer._replace(labels=[*answer.labels[:-1], "another"])


@pytest.mark.parametrize(
    "spoil, file, told",
    [
        (spoil_probability, "model.keras", "model.keras: a probability differs by 2.*e-05"),
        (spoil_probability, "saved_model", "saved_model: a probability differs by 2.*e-05"),
        (spoil_with_nan, "model.keras", "differs by nan"),
        (spoil_shape, "saved_model", "differs by inf"),
        (spoil_label, "saved_model", "the labels are .*'another'"),
    ],
)
def test_a_difference_is_an_error_and_nothing_appears(
    spoil, file, told, words, monkeypatch, tmp_path
):
    model = a_model(words, jit="off")
    batch = export.examples_of(words, model.config.input).batch
    found = probabilities(model.network, model.weights, batch.tokens, batch.lengths)
    labels = [words.labels[row.argmax()] for row in found]

    def answers(groups):
        for path, calls in groups.items():
            right = [readback.Answer(found[: len(rows)], labels[: len(rows)]) for rows in calls]
            yield (
                path,
                [
                    spoil(answer) if path.endswith(file) and answer.labels else answer
                    for answer in right
                ],
            )

    monkeypatch.setattr(readback, "answers", lambda groups: dict(answers(groups)))
    monkeypatch.setattr(export, "_write", lambda model, folder: None)
    with pytest.raises(TrainerError, match=told) as caught:
        export.export(model, tmp_path / "out")
    assert caught.value.code == 1
    assert not list(tmp_path.iterdir())


@pytest.fixture
def without_words(words):
    return dataclasses.replace(
        words, description={**words.description, "tokenizer": text.settings("none")}
    )


def test_weights_that_were_not_trained_are_found_out(without_words, monkeypatch, tmp_path):
    real = export.keras_model
    monkeypatch.setattr(readback, "answers", answers_from_here)
    monkeypatch.setattr(
        export,
        "keras_model",
        lambda network, weights, settings: real(
            network, {name: weight * 1.001 for name, weight in weights.items()}, settings
        ),
    )
    with pytest.raises(TrainerError, match="model.keras: a probability differs"):
        export.export(a_model(without_words), tmp_path / "out")


def test_a_dataset_without_words_gives_a_model_of_ids_and_says_so(
    without_words, monkeypatch, caplog, tmp_path
):
    monkeypatch.setattr(logging.getLogger("trainer"), "propagate", True)
    monkeypatch.setattr(readback, "answers", answers_from_here)
    differences = export.export(a_model(without_words), tmp_path / "out")
    assert list(differences) == ["model.keras"] and differences["model.keras"] <= export.BOUND
    assert not (tmp_path / "out" / "saved_model").exists()
    assert "no saved_model" in caplog.text


def test_rows_come_from_the_whole_of_a_held_out_split(tmp_path):
    counts = {"train": 5, "test": 3 * export.ROWS}
    splits = {
        name: ([[1, 4 + row % 7] for row in range(count)], np.zeros(count))
        for name, count in counts.items()
    }
    dataset = datasets.write(tmp_path / "data", splits, vocabulary_size=VOCABULARY, classes=2)
    dataset = dataclasses.replace(
        dataset, description={**dataset.description, "tokenizer": text.settings("words")}
    )
    texts, batch = export.examples_of(dataset, configuration.Input())
    assert len(texts) == len(batch.rows) == export.ROWS + len(export.CORNER_CASES)
    last = (3 * export.ROWS - 1) % 7
    assert (texts[0], texts[export.ROWS - 1]) == (b"w4", f"w{4 + last}".encode())


def test_a_folder_with_content_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(UsageError, match="not an empty folder"):
        export.command(configuration.Export(model_dir="nowhere", export_dir=str(tmp_path)))
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.fixture
def nothing_but_the_place(monkeypatch):
    """Leaves out what takes time and has no part in where the files go."""
    monkeypatch.setattr(
        export, "_write", lambda model, folder: (folder / "model.keras").write_text("written")
    )
    monkeypatch.setattr(export, "_differences", lambda model, folder: {"model.keras": 0.0})


@pytest.mark.usefixtures("nothing_but_the_place")
def test_content_that_appears_meanwhile_is_not_replaced(monkeypatch, tmp_path):
    def meanwhile(model, folder):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "precious").write_text("mine")

    monkeypatch.setattr(export, "_differences", meanwhile)
    with pytest.raises(UsageError, match="not an empty folder"):
        export.export(None, tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "precious"]


@pytest.mark.usefixtures("nothing_but_the_place")
def test_an_empty_folder_is_filled_and_a_missing_one_made(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "some/where/new"):
        export.export(None, tmp_path / name)
        assert (tmp_path / name / "model.keras").read_text() == "written"


@pytest.mark.usefixtures("nothing_but_the_place")
@pytest.mark.parametrize("place, error", [("file/out", StorageError), ("file", UsageError)])
def test_a_place_that_cannot_be_written_is_named(place, error, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(error, match=f"--export_dir={tmp_path / place}"):
        export.export(None, tmp_path / place)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# --- In processes of their own --------------------------------------------------------------------


@keras.saving.register_keras_serializable(package="trainer")
class OfOurs(keras.layers.Layer):
    """A layer that a process without this file does not know."""

    def call(self, inputs):
        return inputs


def test_a_keras_file_that_needs_code_of_its_maker_is_found_out(tmp_path):
    keras.Sequential([keras.Input([2]), OfOurs()]).save(tmp_path / "model.keras")
    with pytest.raises(RuntimeError, match="OfOurs"):
        readback.answers({str(tmp_path / "model.keras"): [np.zeros([1, 2], np.int32)]})


def test_where_exported_models_are_tried_no_module_of_ours_can_be_imported(tmp_path):
    probe = tmp_path / "trainer" / "export" / "readback.py"
    probe.parent.mkdir(parents=True)
    attempts = "".join(
        f"    try:\n        import {name}; print('imported')\n    except ImportError:\n        "
        "pass\n"
        for name in ("trainer", "trainer.config", "exit_codes", "command")
    )
    probe.write_text(pathlib.Path(readback.__file__).read_text() + attempts)
    request = json.dumps({"modules": [str(ROOT), *sys.path], "groups": {}})
    answer = subprocess.run(
        [sys.executable, "-I", probe], input=request, capture_output=True, text=True, check=True
    )
    assert answer.stdout.split() == ["{}"]


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
