"""Tagged sentences for taggers, as `prepare` is called."""

import json

import numpy as np
import pytest

from trainer.data import fields, store, text
from trainer.exit_codes import DataError, UsageError
from trainer.flags.prepare import Prepare
from trainer.prepare import command as prepare

CONLL = "EU B-ORG\nrejects O\n<unk> O\n\nEU O\n\nPeter B-PER\nrejects O\n"


@pytest.fixture
def run(tmp_path):
    """Returns a function that writes files and prepares them for a tagger."""

    def run(files, raw_data="f.conll", data_dir="d", source="conll", **flags):
        for name, content in files.items():
            (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        for flag in ("validation_data", "test_data"):
            if flag in flags:
                flags[flag] = str(tmp_path / flags[flag])
        return prepare.prepare(
            Prepare(
                task="tagging",
                source=source,
                raw_data=str(tmp_path / raw_data),
                data_dir=str(tmp_path / data_dir),
                **flags,
            )
        )

    return run


def sentences(dataset, split="train"):
    """[[(token, tag)]] of a split."""
    part = dataset.splits[split]
    pairs = [
        (dataset.vocabulary[token], dataset.labels[tag])
        for token, tag in zip(part.inputs, part.targets)
    ]
    return [pairs[begin:end] for begin, end in zip(part.offsets[:-1], part.offsets[1:])]


def test_tokens_and_tags_are_parallel_without_a_start(run):
    dataset = run({"f.conll": CONLL})
    assert dataset.labels == ("B-ORG", "B-PER", "O")
    assert sentences(dataset) == [
        [("EU", "B-ORG"), ("rejects", "O"), ("[unknown]", "O")],
        [("EU", "O")],
        [("Peter", "B-PER"), ("rejects", "O")],
    ]
    assert text.START not in dataset.splits["train"].inputs
    assert np.load(dataset.folder / "train/tags.npy").dtype == np.int32
    assert dataset.task == "tagging" and dataset.target is fields.TAGS
    assert dataset.order == fields.SHUFFLED and dataset.description["format"] == 2
    assert dataset.tokenizer == {"name": "spaces", "version": 1}
    assert dataset.description["classes"] == ["B-ORG", "B-PER", "O"]
    split = dataset.description["splits"]["train"]
    assert split["tags"] == {"B-ORG": 1, "B-PER": 1, "O": 4} and split["empty_texts"] == 0
    assert store.open_dataset(dataset.folder).digest == dataset.digest


def test_lists_of_json_lines_give_the_same_data_and_empty_ones_are_left_out(run, caplog):
    expected = run({"f.conll": CONLL}, data_dir="expected")
    rows = [
        {
            "w": [token.replace("[unknown]", "<unk>") for token, _ in row],
            "t": [tag for _, tag in row],
        }
        for row in sentences(expected)
    ]
    rows.insert(1, {"w": [], "t": []})
    content = "".join(json.dumps(row) + "\n" for row in rows)
    columns = {"text_column": "w", "label_column": "t"}
    dataset = run({"f.jsonl": content}, "f.jsonl", source="jsonl", **columns)
    assert sentences(dataset) == sentences(expected)
    assert dataset.description["counts"]["empty_sentences"] == 1
    assert "1 sentences without a token left out" in caplog.text


def test_many_sentences_come_back_in_order(run):
    generator = np.random.default_rng(0)
    expected = [
        [(f"w{n}", f"T{n % 7}") for n in generator.integers(0, 500, generator.integers(1, 30))]
        for _ in range(3000)
    ]
    content = "\n".join("".join(f"{a}\t{b}\n" for a, b in row) for row in expected)
    assert sentences(run({"f.conll": content})) == expected


def test_splits_of_our_own_hold_each_tagged_sentence_once(run):
    rows = [f"w{i} A\nx B\n\n" for i in range(300)]
    other = "w0 B\nx B\n\n"  # The same tokens with other tags.
    content = "".join([*rows, *rows[:100], other])
    dataset = run({"f.conll": content}, test_fraction=0.3, validation_fraction=0.2)
    counts = dataset.description["counts"]
    assert counts["duplicates_removed"] == 100 and counts["texts_with_several_labels"] == 1
    assert sum(map(len, dataset.splits.values())) == 301 and len(dataset.splits) == 3


def test_given_splits_stay_whole(run):
    files = {"f.conll": CONLL, "v.conll": "EU O\n\nEU O\n", "t.conll": "new B-PER\n"}
    dataset = run(files, validation_data="v.conll", test_data="t.conll")
    assert sentences(dataset, "validation") == [[("EU", "O")]] * 2
    assert sentences(dataset, "test") == [[("[unknown]", "B-PER")]]
    assert dataset.description["counts"]["overlaps"] == {"train+validation": 1}


@pytest.mark.parametrize(
    "files, flags, message",
    [
        ({"f.conll": ""}, {}, "f.conll:1: no row for the train split"),
        ({"f.conll": "-DOCSTART- O\n\n"}, {}, "f.conll:1: no row for the train split"),
        ({"f.conll": "EU O\nPeter\n"}, {}, "f.conll:2: 1 columns"),
        (
            {"f.conll": "EU O\nPeter O\n"},
            {},
            "f.conll:1: every token has the tag 'O'.*--tag_column",
        ),
        ({"f.conll": b"EU O\nx\xff B\n"}, {}, "f.conll:1: the text is not valid UTF-8"),
        ({"f.conll": b"EU O\nx B\xff\n"}, {}, "f.conll:1: the tag 'B.udcff' holds bad UTF-8"),
        (
            {"f.conll": CONLL, "t.conll": "a O\n\nb X\n"},
            {"test_data": "t.conll"},
            "t.conll:3: the tag 'X' of the test split is in no training row",
        ),
        (
            {"f.conll": '{"text": [], "label": []}'},
            {"source": "jsonl"},
            "f.conll:1: no row for the train split",
        ),
    ],
)
def test_bad_input_is_exit_3_with_its_place(run, files, flags, message):
    with pytest.raises(DataError, match=message) as caught:
        run(files, **flags)
    assert caught.value.code == 3


def test_a_fraction_that_leaves_nothing_is_a_usage_error(run):
    with pytest.raises(UsageError, match="leaves the test split empty"):
        run({"f.conll": CONLL}, test_fraction=0.00001)
