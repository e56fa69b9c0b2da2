"""Translations: as likely as an evaluation finds them, of each text by itself."""

import logging

import numpy as np
import pytest
import tensorflow as tf

from tests.export.small_models import a_model, some_pairs
from trainer.data import pipeline, text
from trainer.flags.run import Input
from trainer.flags.use import Export, Predict
from trainer.tasks import readers, serving, translation, translator

SOURCES = ["the cat sat", "", "on a zebra the mat", "cat", " \t", "mat mat the a on sat it's"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return some_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def model(dataset):
    return a_model(dataset, cell="gru", bidirectional=True)


@pytest.fixture(scope="module")
def served(model):
    return model.served()


def texts_of(sources):
    return [serving.Text(source, f"text {i}", i) for i, source in enumerate(sources)]


def answers(served, sources, **options):
    return served.answers(texts_of(sources), Predict(**options))


def ids_of(served, model, size):
    """Returns the sources as a batch, and the ids of their translations [rows, size, length]."""
    batch = readers.batch_of(served.tokenizer.encode(tf.constant(SOURCES)), Input(max_length=20))
    found = translator.hypotheses(
        model.network,
        model.weights,
        model.dataset,
        tf.constant(batch.inputs),
        tf.constant(batch.lengths),
        size=size,
        penalty=1.0,
    )
    return batch, found.ids.numpy()


@pytest.mark.parametrize("beam", [1, 3])
def test_the_score_is_the_probability_that_an_evaluation_finds(served, model, beam):
    found = answers(served, SOURCES, beam=beam)
    batch, ids = ids_of(served, model, beam)
    ids = ids[:, 0]
    lengths = np.count_nonzero(ids, axis=1).astype(np.int32)
    before = np.concatenate([np.ones_like(ids[:, :1]), ids[:, :-1]], axis=1)
    targets = pipeline.Sentences(np.where(ids > 0, before, 0), ids, lengths)
    batch = tf.nest.map_structure(tf.constant, batch._replace(targets=targets))
    outputs, _ = model.network.outputs(
        model.weights, batch.inputs, batch.lengths, targets=batch.targets
    )
    losses, _ = translation.outcomes(outputs, batch)
    scores = -losses.numpy() / ((5 + lengths) / 6)
    np.testing.assert_allclose([one["score"] for one in found], scores, rtol=1e-4, atol=1e-5)
    words = [
        " ".join(model.dataset.target_vocabulary[i] for i in row if i not in (0, text.START))
        for row in ids
    ]
    assert [one["translation"] for one in found] == words
    assert [one["text"] for one in found] == SOURCES


def test_the_alternatives_are_the_other_translations_that_were_found_the_best_first(served):
    one, *_ = answers(served, SOURCES, beam=4)
    found = [one, *one["alternatives"]]
    assert 1 < len(found) <= 4
    assert [each["score"] for each in found] == sorted((e["score"] for e in found), reverse=True)
    assert len({each["translation"] for each in found}) == len(found)
    assert not answers(served, SOURCES, beam=1)[0]["alternatives"]


def test_a_text_without_words_has_an_empty_translation(served):
    found = answers(served, SOURCES)
    for place in (1, 4):
        assert found[place]["translation"] == "" and found[place]["score"] == 0
        assert served.shown(found[place]) == "\n"


def test_the_translation_of_a_text_depends_on_no_other_text(served):
    together = answers(served, SOURCES, beam=3)
    alone = answers(served, SOURCES[2:3], beam=3)[0]
    assert alone["translation"] == together[2]["translation"]
    assert alone["score"] == pytest.approx(together[2]["score"], rel=1e-5)


def of_unknown_words(dataset):
    """Returns what serves a model that tells unknown words, and never the end."""
    model = a_model(dataset, cell="gru", bidirectional=True)
    bias = model.weights["logits/bias"].numpy()
    bias[text.UNKNOWN], bias[text.START] = 100, -1000
    model.weights["logits/bias"] = tf.constant(bias)
    return model, model.served()


def test_unknown_words_are_those_of_the_source_that_are_attended_to_most(dataset):
    model, served = of_unknown_words(dataset)
    source = "zebra cat okapi"
    [plain] = answers(served, [source], beam=1)
    [found] = answers(served, [source], beam=1, replace_unknown=True)
    assert not set(plain["translation"].split()) & {"[unknown]", "zebra", "okapi"}
    copied = found["translation"].split()
    tokens = served.tokenizer.encode(tf.constant([source])).to_tensor()
    before = tf.constant([[text.START, *[text.UNKNOWN] * (len(copied) - 1)]])
    shares = model.network.attention(model.weights, tokens, tf.constant([4]), before).numpy()
    # The start of a source is no word.
    assert copied == [source.split()[place] for place in shares[0, :, 1:].argmax(axis=1)]
    assert {"zebra", "okapi"} & set(copied)


def test_a_copied_word_keeps_its_letters(tmp_path):
    dataset = some_pairs(tmp_path, tokenizer="characters", words=list("abcde"))
    _, served = of_unknown_words(dataset)
    [found] = answers(served, ["zéb"], beam=2, replace_unknown=True)
    assert found["translation"] and set(found["translation"]) <= set("zéb")


def test_a_text_longer_than_max_length_is_cut_with_a_warning(model, caplog):
    served = a_model(model.dataset, cell="gru", bidirectional=True, max_length=3).served()
    with caplog.at_level(logging.WARNING):
        cut, whole = answers(served, ["the cat sat on it's mat", "the cat"])
    assert cut["translation"] == whole["translation"]
    [record] = caplog.records
    assert "text 0 has 6 tokens" in record.getMessage()
    assert "--max_length" in record.getMessage()


def test_a_saved_search_finds_what_predict_finds(served, model, tmp_path):
    options = Export(beam=3, length_penalty=0.5)
    uncompiled = translator.Translator(
        model.network, model.weights, model.dataset, model.config.input, compiled=False
    )
    tf.saved_model.save(uncompiled, str(tmp_path), uncompiled.signatures(options))
    saved = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    found = saved(text=tf.constant(SOURCES))
    wanted = answers(served, SOURCES, beam=3, length_penalty=0.5)
    assert [t.decode() for t in found["translation"].numpy()] == [
        one["translation"] for one in wanted
    ]
    np.testing.assert_allclose(found["score"], [one["score"] for one in wanted], rtol=1e-5)
    assert saved(text=tf.constant([], tf.string))["translation"].shape == (0,)


def test_what_is_explained_is_the_translation_without_a_beam_and_sums_to_one(served, dataset):
    split = dataset.splits["validation" if "validation" in dataset.splits else "train"]
    examples = np.array([0, 2])
    found = served.explained(split, examples)
    sources = [
        " ".join(
            dataset.vocabulary[i] for i in split.inputs[split.offsets[e] + 1 : split.offsets[e + 1]]
        )
        for e in examples
    ]
    assert [each.sources[0] for each in found] == [dataset.vocabulary[text.START]] * 2
    assert [" ".join(each.sources[1:]) for each in found] == sources
    for each in found:
        assert each.shares.shape == (len(each.words), len(each.sources))
        np.testing.assert_allclose(each.shares.sum(axis=1), 1, rtol=1e-5)
