"""What prepare logs at its end, from the description of a dataset alone."""

import pytest

from trainer.flags.prepare import Prepare
from trainer.prepare import findings


@pytest.fixture
def told(caplog):
    """Returns a function that reports on a dataset and returns what is logged."""

    def told(
        unknown=0, entries=("a", "b"), classes=None, splits=("train", "test"), target=None, **flags
    ):
        caplog.clear()
        caplog.set_level("INFO", "trainer")
        lengths = flags.pop("lengths", {"8": 10})
        split = {
            "examples": 10,
            "tokens": 60,
            "longest": 8,
            "lengths": lengths,
            "empty_texts": 0,
            "labels": classes or {"x": 5, "y": 5},
            "target_tokens": 60,
            "target_longest": 9,
            "target_lengths": flags.pop("target_lengths", {"8": 10}),
        }
        description = {
            "splits": dict.fromkeys(splits, split),
            "counts": {"replaced": 0},
            "vocabulary_size": 4 + len(entries),
        }
        unknowns = {name: 0 if name == "train" else unknown for name in splits}
        settings = Prepare(data_dir="d", raw_data="f", **flags)
        sides = [findings.Side(unknowns, entries)]
        if target:
            sides.append(findings.Side(dict.fromkeys(splits, target), entries, target=True))
        findings.report(description, "" if target else "labels", 1, sides, settings)
        return caplog.text

    return told


def test_of_many_classes_the_most_frequent_are_listed(told):
    few = told()
    assert "train: 10 examples, 60 tokens, longest 8, labels {'x': 5, 'y': 5}" in few
    many = told(classes={f"c{i}": i for i in range(500)})
    assert "labels {'c499': 499, 'c498': 498" in many and "'c480': 480} and 480 more" in many
    assert "'c479'" not in many and "no example of 'c0'" in many
    none = told(classes={f"c{i}": 0 for i in range(500)})
    assert "'c19' and 480 more" in none and max(map(len, none.split("\n"))) < 500


@pytest.mark.parametrize(
    "flags, warned",
    [
        ({}, True),
        ({"tokenizer": "words_and_marks"}, True),
        ({"tokenizer": "spaces"}, True),
        ({"tokenizer": "characters"}, False),
        ({"tokenizer": "bytes"}, False),
    ],
)
def test_texts_of_one_token_are_a_reason_to_doubt_the_tokenizer(told, flags, warned):
    text = told(lengths={"1": 1, "2": 5, "8": 4}, **flags)
    assert ("6 of 10 texts have at most one token of --tokenizer=" in text) is warned
    assert ("use --tokenizer=characters" in text) is warned
    assert "at most one token" not in told(lengths={"2": 5, "8": 5}, **flags)


def test_sentences_as_single_tokens_are_a_reason_to_doubt_the_tokenizer(told):
    entries = ["\u6211\u5f88\u559c\u6b22\u5b83", "\u597d", "a"] * 3 + [
        "\u6211\u4eec\u90fd\u5728\u8fd9"
    ]
    assert "4 of 10 tokens of the vocabulary are longer than words" in told(entries=entries)
    # Somebody has put spaces between words already.
    assert "longer than words" not in told(entries=entries, tokenizer="spaces")
    assert "longer than words" not in told(entries=["\u4f60\u597d", "\u4e16\u754c"])


@pytest.mark.parametrize(
    "flags, remedy",
    [
        ({}, "Raise --vocabulary_size or bring more training data, or use --tokenizer=characters"),
        ({"task": "tagging", "source": "conll"}, "Raise --vocabulary_size or bring more"),
        ({"vocabulary_from": "other"}, "Leave out --vocabulary_from"),
    ],
)
def test_many_unknown_tokens_in_a_held_out_split_are_a_warning(told, flags, remedy):
    text = told(unknown=16, **flags)  # Of 60 tokens, 10 are start ids.
    assert "test: 32 % of the tokens are not in the vocabulary" in text and remedy in text
    assert "train: 32 %" not in text
    assert "not in the vocabulary" not in told(unknown=15, **flags)


def test_the_target_side_is_reported_and_doubted_as_the_source_is(told):
    flags = {"task": "translation", "source": "csv", "target": 16}
    text = told(**flags)
    assert "train: 10 examples, 60 tokens, longest 8, 60 target tokens, longest 9" in text
    assert "train: 0 of 50 tokens are unknown (0 %)" in text
    assert "train: 16 of 50 target tokens are unknown (32 %)" in text
    # What is never written cannot be right: a reason to doubt the training split, too.
    for split in ("train", "test"):
        assert f"{split}: 32 % of the target tokens are not in the vocabulary" in text
    assert (
        "test: 32 % of the target tokens are not in the vocabulary, so that a model cannot tell "
        "them apart. Raise --vocabulary_size or bring more training data, or use "
        "--tokenizer=characters. Check that texts and translations are not swapped" in text
    )
    assert "not in the vocabulary" not in told(**flags | {"target": 15})
    short = told(**flags | {"target": 1}, target_lengths={"2": 6, "8": 4})
    assert "train: 6 of 10 texts have at most one token of --tokenizer=words_and_marks" in short
