"""The SavedModel reads raw text as prepare did, and pads as training batches are padded."""

import csv

import numpy as np
import pytest
import tensorflow as tf

from tests.export.small_models import a_dataset, a_model, probabilities
from trainer import config as configuration
from trainer import trained_model
from trainer.data import pipeline, store, text
from trainer.export import saved_model


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
    expected = pipeline.batch_of(split, np.arange(len(rows)), longest, settings).inputs
    ids, lengths = saved_model.pad_ragged(tf.ragged.constant(rows, tf.int32), settings)
    np.testing.assert_array_equal(ids, expected)
    counting = [max_length] * 4 if padding == "pre" else [min(max_length, len(row)) for row in rows]
    np.testing.assert_array_equal(lengths, counting)


@pytest.mark.parametrize("padding, length", [("post", 1), ("pre", 4)])
def test_no_texts_are_padded_to_a_length_that_a_network_can_read(padding, length):
    none = tf.RaggedTensor.from_row_splits(tf.zeros([0], tf.int32), tf.zeros([1], tf.int64))
    ids, lengths = saved_model.pad_ragged(none, configuration.Input(max_length=4, padding=padding))
    assert (ids.shape, lengths.shape) == ((0, length), (0,))


def classifier_of(model: trained_model.TrainedModel) -> saved_model.TextClassifier:
    tokenizer = text.tokenizer_of(model.dataset)
    return saved_model.TextClassifier(
        model.network, model.weights, tokenizer, model.config.input, model.dataset.labels
    )


@pytest.fixture(scope="module", params=text.NAMES)
def dataset(request, tmp_path_factory):
    return a_dataset(tmp_path_factory.mktemp(request.param), request.param)


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
    expected = probabilities(model.network, model.weights, prepared.inputs, prepared.lengths)
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
