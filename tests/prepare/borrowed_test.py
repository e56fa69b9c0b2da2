"""`--vocabulary_from`: the ids of another dataset are kept, for every task and tokenizer."""

import json
import os

import numpy as np
import pytest

from trainer.data import text
from trainer.exit_codes import DataError, UsageError
from trainer.flags.prepare import Prepare
from trainer.prepare import command as prepare

OLD = "The cat sat. The\\tdog\u2028 the cat, \U0001f600 sat \\\\ on \x85 it!\n"
NEW = "A cat on The the zebra! \u2028 \\ x"


@pytest.fixture
def run(tmp_path):
    """Returns a function that writes a file and prepares it, as a text unless flags say more."""

    def run(content, data_dir, **flags):
        raw = tmp_path / f"{data_dir}.raw"
        raw.write_text(content)
        if "vocabulary_from" in flags:
            flags["vocabulary_from"] = str(tmp_path / flags["vocabulary_from"])
        flags = {"task": "language_model", "source": "text", "raw_data": str(raw), **flags}
        return prepare.prepare(Prepare(data_dir=str(tmp_path / data_dir), **flags))

    return run


KINDS = [
    *({"tokenizer": name} for name in text.NAMES),
    {"tokenizer": "words_and_marks", "lowercase": True},
]


@pytest.mark.parametrize("flags", KINDS, ids=str)
def test_tokenizer_and_vocabulary_are_those_of_the_other_dataset(run, flags):
    old = run(OLD, "old", **flags)
    new = run(NEW, "new", vocabulary_from="old")
    assert new.tokenizer == old.tokenizer and new.vocabulary == old.vocabulary
    same = [dataset.description["vocabulary_sha256"] for dataset in (old, new)]
    assert same[0] == same[1]
    assert (new.folder / "vocabulary.txt").read_bytes() == (
        old.folder / "vocabulary.txt"
    ).read_bytes()
    encoded = text.tokenizer_of(old).encode([NEW])
    assert new.splits["train"].inputs.tolist() == encoded.flat_values.numpy().tolist()


def test_every_task_takes_it_and_the_share_of_unknown_tokens_is_logged(run, caplog):
    caplog.set_level("INFO")
    run("the cat sat on the mat", "old", tokenizer="spaces")
    tagged = run(
        "the D\ncat N\n\nzebra N\nsat V\n",
        "tags",
        task="tagging",
        source="conll",
        vocabulary_from="old",
    )
    ids = [tagged.vocabulary[i] for i in tagged.splits["train"].inputs]
    assert ids == ["the", "cat", "[unknown]", "sat"]
    assert "train: 1 of 4 tokens are unknown (25 %)" in caplog.text
    rows = run(
        "text,label\nthe zebra,1\nthe mat,0\na b c,1\n",
        "labels",
        task="classification",
        source="csv",
        vocabulary_from="old",
    )
    assert rows.description["format"] == 1 and rows.vocabulary == tagged.vocabulary
    assert "train: 4 of 7 tokens are unknown (57.14 %)" in caplog.text


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"tokenizer": "bytes"}, "--tokenizer=bytes: the dataset of .*old has words_and_marks"),
        ({"lowercase": True}, "--lowercase=True: the dataset of .*old has False"),
        ({"vocabulary_size": 20_000}, "--vocabulary_size=20000: the dataset of .* has 6, and its"),
        ({"vocabulary_from": "none"}, "--vocabulary_from=.*none: .*no dataset.json"),
        ({"vocabulary_from": "new"}, "--vocabulary_from=.*new: is --data_dir too"),
        ({"task": "tagging", "source": "conll"}, "its tokenizer is words_and_marks, but .*=spaces"),
    ],
)
def test_a_flag_that_asks_for_something_else_is_exit_2(run, tmp_path, flags, message):
    run("a b", "old", tokenizer="words_and_marks")
    with pytest.raises(UsageError, match=message) as caught:
        run("a b", "new", **{"vocabulary_from": "old", **flags})
    assert caught.value.code == 2 and not (tmp_path / "new").exists()


def test_flags_that_say_the_same_are_taken(run):
    run("a b", "old", tokenizer="words_and_marks", lowercase=True)
    flags = {"tokenizer": "words_and_marks", "lowercase": True, "vocabulary_size": 6}
    assert run("b a", "new", vocabulary_from="old", **flags).vocabulary[4:] == ("a", "b")
    run("a b", "words", tokenizer="words")
    run("b a", "new words", vocabulary_from="words", lowercase=True)


def test_a_damaged_dataset_is_a_data_error(run, tmp_path):
    run("a b", "old")
    os.unlink(tmp_path / "old/vocabulary.txt")
    with pytest.raises(DataError, match="vocabulary.txt"):
        run("a b", "new", vocabulary_from="old")


def npz(folder, words):
    """An imdb.npz of two rows per split, with words or without."""
    folder.mkdir()
    x, y = np.array([[1, 2], [2, 3, 3]], object), np.array([0, 1])
    np.savez(folder / "imdb.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    if words:
        index = {word: rank for rank, word in enumerate(words, 1)}
        (folder / "imdb_word_index.json").write_text(json.dumps(index))
    return {"task": "classification", "source": "imdb", "raw_data": str(folder)}


def test_ids_get_the_ids_of_another_dataset_by_their_words_only(run, tmp_path):
    old = run("cat zebra", "old")
    new = run("", "new", vocabulary_from="old", **npz(tmp_path / "words", ["the", "cat", "zebra"]))
    assert new.vocabulary == old.vocabulary
    assert new.splits["train"].inputs.tolist() == [1, 2, 4, 1, 4, 5, 5]
    without = npz(tmp_path / "ids", None)
    with pytest.raises(UsageError, match="ids/imdb.npz holds ids without words"):
        run("", "other", vocabulary_from="old", **without)
    run("", "ids only", **without)
    with pytest.raises(UsageError, match="--vocabulary_from=.*ids only: this dataset was prepared"):
        run("a b", "third", vocabulary_from="ids only")
