"""Answers to raw texts: how they are read, put together again, counted and refused."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests import datasets
from tests.export.small_models import TAGS, WORDS, a_model, a_tagged_text, a_text
from trainer.exit_codes import DataError
from trainer.export import expected
from trainer.flags.use import Predict
from trainer.tasks import serving, table
from trainer.tasks.serving import Frames, Text

J = "\uffed"


def predict(served, *texts, **options):
    """The answers of `predict`, with the temperature 0 unless it is given."""
    shown = [Text(text, f"place {number}", number) for number, text in enumerate(texts)]
    return served.answers(shown, Predict(**{"temperature": 0.0, **options}))


def test_options_are_those_that_some_task_obeys():
    assert set().union(*(task.served.options for task in table.TASKS.values())) == table.OPTIONS


# --- The next token -------------------------------------------------------------------------------


GLUED = [  # tokenizer, prompt, tokens that follow, continuation
    ("characters", "the c", "at", "at"),
    ("characters", "the ", "日é", "日é"),
    ("characters", "", "sea", "sea"),
    ("bytes", "日", ["0xe6", "0x97", "0xa5"], "日"),
    ("bytes", "caf", ["0xc3", "0xa9", "0x21"], "é!"),
    ("bytes", "a", ["0xc3"], "\ufffd"),
    ("words", "The CAT!", ["sat", "on"], " sat on"),
    ("words", "", ["the", "cat"], "the cat"),
    ("words", "a zzz", ["cat"], " cat"),
    ("words_and_marks", "the cat", [f"{J},", "sat"], ", sat"),
    ("words_and_marks", "the cat", [f"({J}", "sat", f"{J})"], " (sat)"),
    ("words_and_marks", "the cat,", ["sat"], " sat"),
    ("words_and_marks", "", [f"({J}", "the"], "(the"),
    ("spaces", "the cat", [",", "sat"], " , sat"),
    ("spaces", "( the", [")"], " )"),
]


@pytest.mark.parametrize("name, prompt, tokens, wanted", GLUED)
def test_what_follows_continues_the_text_before_it(
    name, prompt, tokens, wanted, monkeypatch, tmp_path
):
    served = expected.served_of(a_model(a_text(tmp_path, name)))
    ids = [4 + WORDS[name].index(token) for token in tokens]
    # An end of the text and padding stand for nothing.
    monkeypatch.setattr(served, "_continuation", lambda *given: tf.constant([[*ids, 1, 0]]))
    [answer] = predict(served, prompt)
    assert (answer["text"], answer["continuation"]) == (prompt, wanted)
    assert served.shown(answer) == f"{prompt}\t{wanted}\n"


def test_a_prompt_without_a_known_token_is_refused_and_named(tmp_path):
    served = expected.served_of(a_model(a_text(tmp_path, "words")))
    with pytest.raises(DataError, match="place 1: no token of 'zzz yyy'") as caught:
        predict(served, "the cat", "zzz yyy", "")
    assert caught.value.code == 3
    known, empty = predict(served, "zzz cat", "")  # One known token will do, or none at all.
    assert known["text"] == "zzz cat" and empty["text"] == ""
    assert len(predict(served, "zzz yyy", score=True)) == 1  # A score needs nothing to go on with.


@pytest.mark.parametrize("compiled", [False, True])
def test_a_text_draws_by_its_number_and_the_seed(compiled, tmp_path):
    model = a_model(a_text(tmp_path, "words"))
    served = model.step.task.served(
        model.network, model.weights, model.dataset, model.config.input, compiled
    )

    def drawn(*texts, seed=1):
        answers = served.answers(list(texts), Predict(tokens=20, seed=seed))
        return [answer["continuation"] for answer in answers]

    first, second = Text("the cat", "", 0), Text("the cat", "", 1)
    one, two = drawn(first, second)
    assert one != two
    # Alone, beside a longer text, or in another order, it goes on in the same way.
    assert drawn(second) == [two]
    assert drawn(Text("on a mat " * 9, "", 5), first)[1] == one
    assert drawn(second, first) == [two, one]
    assert drawn(first, seed=2) != [one]


def test_the_likeliest_next_tokens_are_those_of_the_network(tmp_path):
    model = a_model(a_text(tmp_path, "words"), cell="gru", units=(5, 4))
    served = expected.served_of(model)
    # In one call, so that the shorter is padded.
    for answer in predict(served, "the cat sat on", "mat"):
        ids = served.tokenizer.encode([answer["text"]]).to_tensor()
        scores = model.network.logits(model.weights, ids, tf.constant([ids.shape[1]]))[0, -1]
        chances = dict(zip(model.dataset.vocabulary, tf.nn.softmax(scores).numpy()))
        likeliest = sorted(chances, key=chances.get, reverse=True)[: serving.LIKELIEST]
        assert list(answer["next"]) == likeliest
        for name, chance in answer["next"].items():
            assert chance == pytest.approx(chances[name], rel=1e-4)


@pytest.mark.parametrize("order, end", [("shuffled", [1]), ("streams", [])])
def test_the_end_counts_where_each_example_ends_by_itself(order, end, tmp_path):
    model = a_model(a_text(tmp_path, "words", order))
    served = expected.served_of(model)
    texts = ["the cat sat", "on", "mat " * 150, ""]
    for answer, shown in zip(predict(served, *texts, score=True), texts, strict=True):
        ids = served.tokenizer.encode([shown]).numpy()[0].tolist() + end
        inputs = tf.constant([ids[:-1] or [0]])
        log_p = tf.nn.log_softmax(
            tf.cast(
                model.network.logits(model.weights, inputs, tf.constant([len(ids) - 1])), tf.float64
            )
        ).numpy()[0]
        wanted = sum(log_p[place, token] for place, token in enumerate(ids[1:]))
        assert answer["log_probability"] == pytest.approx(wanted, rel=1e-5)
        per_token = wanted / max(1, len(ids) - 1)
        assert answer["perplexity"] == pytest.approx(np.exp(-per_token), rel=1e-4)


def test_a_perplexity_beyond_float32_is_infinite(tmp_path):
    model = a_model(a_text(tmp_path, "words"))
    weights = {**model.weights, "logits/bias": 1e4 * model.weights["logits/bias"]}
    served = model.step.task.served(
        model.network, weights, model.dataset, model.config.input, False
    )
    answers = predict(served, *WORDS["words"], score=True)
    assert np.isinf([answer["perplexity"] for answer in answers]).any()


# --- A tag for each token -------------------------------------------------------------------------


def test_sentences_have_a_tag_for_each_token_and_a_line_for_each(tmp_path):
    model = a_model(a_tagged_text(tmp_path), bidirectional=True, max_length=3)
    served = expected.served_of(model)
    texts = ["the cat\tsat  on a mat", "", "zzz"]
    answers = predict(served, *texts)
    assert [answer["tokens"] for answer in answers] == [text.split() for text in texts]
    for answer in answers:
        ids = served.tokenizer.encode_tokens(tf.constant(answer["tokens"], tf.string))
        if len(answer["tokens"]):
            count = tf.constant([len(answer["tokens"])])
            scores = model.network.logits(model.weights, ids[None, :], count)[0].numpy()
            assert answer["tags"] == [TAGS[tag] for tag in scores.argmax(axis=1)]
    full, empty, one = (served.shown(answer) for answer in answers)
    assert full == "".join(f"{token} {tag}\n" for token, tag in zip(*list(answers[0].values())))
    assert (empty, one) == ("", f"zzz {answers[2]['tags'][0]}\n")


# --- Frames and values ----------------------------------------------------------------------------


def of_frames(folder, values=()):
    splits = datasets.random_frames(values=len(values))
    labels = () if values else ("a", "b", "c")
    return datasets.write_numbers(
        folder / "data", splits, shape=(3,), labels=labels, values=values, names=("x", "y", "z")
    )


def scores_of(model, frames):
    """What the network tells of raw frames alone, from its definition."""
    read = model.dataset.description["input"]
    normalised = (frames - np.float32(read["mean"])) / np.float32(read["deviation"])
    return model.network.logits(model.weights, normalised[None], tf.constant([len(frames)]))[0]


@pytest.mark.parametrize("compiled", [False, True])
def test_sequences_of_frames_have_a_label_each(compiled, tmp_path):
    model = a_model(of_frames(tmp_path), cell="gru", frame_encoder="dense")
    served = model.step.task.served(
        model.network, model.weights, model.dataset, model.config.input, compiled
    )
    assert served.reads.numbers
    raw = datasets.random_frames(seed=4)["test"][0]
    given = [Frames(frames, f"row {number}", f"{number}\nth") for number, frames in enumerate(raw)]
    answers = served.answers(given, Predict())
    for number, (frames, answer) in enumerate(zip(raw, answers, strict=True)):
        chances = tf.nn.softmax(scores_of(model, frames)).numpy()
        assert answer["label"] == "abc"[chances.argmax()]
        assert answer["probability"] == pytest.approx(chances.max(), rel=1e-4)
        assert list(answer["probabilities"].values()) == pytest.approx(chances.tolist(), rel=1e-4)
        assert next(iter(answer.items())) == ("sequence", f"{number}\nth")
        first = f"{answer['label']}\t{answer['probability']:.4f}"
        assert served.shown(answer) == f"{first}\t{number} th\n"
        json.dumps(answer)


def test_values_come_back_in_the_units_of_the_data(tmp_path):
    model = a_model(of_frames(tmp_path, ("mean", "rest")))
    served = model.served()
    raw = datasets.random_frames(seed=4)["test"][0]
    answers = served.answers([Frames(each, "", n) for n, each in enumerate(raw)], Predict())
    assert [list(answer) for answer in answers] == [["sequence", "values"]] * len(raw)
    assert [answer["sequence"] for answer in answers] == list(range(len(raw)))
    for frames, answer in zip(raw, answers, strict=True):
        told = scores_of(model, frames).numpy()
        wanted = {
            value["name"]: told[place] * value["deviation"] + value["mean"]
            for place, value in enumerate(model.dataset.description["values"])
        }
        assert answer["values"] == pytest.approx(wanted, rel=1e-4)
        assert len(served.shown(answer).split("\t")) == 2


def test_a_text_has_values_too(tmp_path):
    splits = {"train": ([[4, 5], [6], [5, 5, 6]], [[1.0], [2.0], [4.0]])}
    dataset = datasets.write_numbers(
        tmp_path / "data", splits, words=("a", "b", "c"), values=("stars",)
    )
    model = a_model(dataset)
    served = model.served()
    assert not served.reads.numbers
    [answer] = predict(served, "b b\nc")
    ids = served.reader.tokenizer.encode(["b b\nc"]).to_tensor()
    told = model.network.logits(model.weights, ids, tf.constant([ids.shape[1]])).numpy()[0, 0]
    scale = dataset.standardise
    wanted = told * scale.deviation[0] + scale.mean[0]
    assert answer == {"text": "b b\nc", "values": {"stars": pytest.approx(wanted, rel=1e-4)}}
    assert served.shown(answer).endswith("\tb b c\n")
