"""The SavedModel reads raw text as prepare did, and answers each row by itself."""

import csv

import numpy as np
import pytest
import tensorflow as tf

from tests.export.small_models import OPTIONS, a_dataset, a_model, a_text, probabilities
from trainer.data import pipeline, text
from trainer.export import expected, saved_model


def saved(model, folder):
    """The signatures of a model that was saved and loaded."""
    saved_model.save(expected.served_of(model), folder / "saved_model", OPTIONS)
    return tf.saved_model.load(str(folder / "saved_model")).signatures


@pytest.fixture(scope="module", params=text.NAMES)
def dataset(request, tmp_path_factory):
    return a_dataset(tmp_path_factory.mktemp(request.param), request.param)


def test_the_saved_model_reads_unicode_corner_cases_as_prepare_did(dataset, tmp_path):
    model = a_model(dataset, pooling="mean", truncate="start")
    with open(dataset.folder.parent / "raw.csv", "rb") as file:
        lines = file.read().decode("utf-8", "surrogateescape").splitlines(keepends=True)
    texts = [row[0].encode("utf-8", "surrogateescape") for row in csv.reader(lines)][1:]
    answer = saved(model, tmp_path)["serving_default"](text=tf.constant(texts))
    prepared = pipeline.loose_batch(dataset.splits["train"], model.config.input)
    expected = probabilities(model.network, model.weights, prepared.inputs, prepared.lengths)
    np.testing.assert_allclose(answer["probabilities"].numpy(), expected, atol=1e-6)
    assert [label.decode() for label in answer["label"].numpy()] == [
        dataset.labels[row.argmax()] for row in expected
    ]


@pytest.mark.parametrize("padding", ["pre", "post"])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_any_number_of_texts_may_come(padding, count, words):
    classifier = expected.served_of(a_model(words, padding=padding, bidirectional=True))
    [classify] = classifier.signatures(OPTIONS).values()
    answer = classify(tf.constant(["a text"] * count, tf.string, [count]))
    assert answer["probabilities"].shape == (count, 3) and answer["label"].shape == (count,)


TEXTS = ["the cat", "", "mat zzz on", "a " * 300, "it's"]


def rows_alone(call, texts):
    """The answers to each of the texts alone, joined."""
    answers = [call(tf.constant([text])) for text in texts]
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


@pytest.mark.parametrize("order", ["shuffled", "streams"])
def test_a_language_model_answers_each_text_by_itself(order, tmp_path):
    model = a_model(a_text(tmp_path, "words", order), cell="gru", units=(5, 4))
    signatures = saved(model, tmp_path)
    assert set(signatures) == {"serving_default", "continue", "next"}

    def greedy(text):
        return signatures["continue"](
            text=text,
            tokens=tf.constant(6),
            temperature=tf.constant(0.0),
            seed=tf.constant(0, tf.int64),
        )

    for call in (
        lambda text: signatures["serving_default"](text=text),
        lambda text: signatures["next"](text=text),
        greedy,
    ):
        together, alone = call(tf.constant(TEXTS)), rows_alone(call, TEXTS)
        assert together.keys() == alone.keys()
        for name, values in together.items():
            if values.dtype == tf.string:
                assert values.numpy().tolist() == alone[name].tolist()
            else:
                np.testing.assert_allclose(values, alone[name], rtol=1e-5)


def test_the_same_seed_draws_the_same_text_and_another_seed_another(tmp_path):
    signatures = saved(a_model(a_text(tmp_path, "characters")), tmp_path)

    def drawn(seed, texts=("the", "cat")):
        answer = signatures["continue"](
            text=tf.constant(texts),
            tokens=tf.constant(30),
            temperature=tf.constant(0.8),
            seed=tf.constant(seed, tf.int64),
        )
        return answer["text"].numpy().tolist()

    assert drawn(1) == drawn(1) != drawn(2)
    assert drawn(1, ("the",)) == drawn(1)[:1]
    # Each row draws by itself.
    one, two = drawn(1, ("the", "the"))
    assert one != two


def test_a_tagger_gives_a_padded_row_what_it_gives_the_row_alone(tagged, tmp_path):
    call = saved(a_model(tagged, bidirectional=True), tmp_path)["serving_default"]
    tokens = [["the", "cat", "sat", "on"], ["zzz", "", "", ""], [""] * 4, ["a", "mat", "", ""]]
    answer = call(tokens=tf.constant(tokens))
    for row, sentence in enumerate(tokens):
        count = sum(token != "" for token in sentence)
        assert (answer["tags"][row] != "").numpy().tolist() == [place < count for place in range(4)]
        assert not answer["probability"][row, count:].numpy().any()
        if count:
            alone = call(tokens=tf.constant([sentence[:count]]))
            assert alone["tags"][0].numpy().tolist() == answer["tags"][row, :count].numpy().tolist()
            np.testing.assert_allclose(
                alone["probability"][0], answer["probability"][row, :count], rtol=1e-5
            )


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (2, 0), (1, 1)])
def test_any_number_of_sentences_and_tokens_may_come(shape, tagged):
    tagger = expected.served_of(a_model(tagged, bidirectional=True))
    answer = tagger.tag(tf.fill(shape, "cat"))
    assert answer["tags"].shape == answer["probability"].shape == shape
