"""Texts for language models, as `prepare` is called: streams, lines and cuts by position."""

import gzip
import json
import lzma
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from trainer.data import fields, store, text
from trainer.exit_codes import DataError, UsageError
from trainer.flags.prepare import Prepare
from trainer.prepare import command as prepare
from trainer.prepare import raw_files, rows

BOOK = (
    "Die Füße, d’accord!\n\n  ΟΔΟΣ\nΟΔΟΣ a<br\n />b 3.14 (pi)\tN\n"
    "\uffed?\n!x\u0301\n\u0301y<BR \n\n>\nend"
)

SHARED = pathlib.Path(__file__).resolve().parents[2] / "../shared/data"
SHAKESPEARE = SHARED / "tinyshakespeare/input.txt"


@pytest.fixture
def run(tmp_path):
    """Returns a function that writes files and prepares them for a language model."""

    def run(files, raw_data="book.txt", data_dir="d", source="text", **flags):
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        for flag in ("validation_data", "test_data"):
            if flag in flags:
                flags[flag] = str(tmp_path / flags[flag])
        return prepare.prepare(
            Prepare(
                task="language_model",
                source=source,
                raw_data=str(tmp_path / raw_data),
                data_dir=str(tmp_path / data_dir),
                **flags,
            )
        )

    return run


def documents(dataset, split="train", separator=""):
    """The documents of a split as text; the start id must be where one begins, and nowhere else."""
    part = dataset.splits[split]
    found = []
    for ids in np.split(np.asarray(part.inputs), part.offsets[1:-1]):
        assert ids[0] == text.START and text.START not in ids[1:]
        found.append(separator.join(dataset.vocabulary[i] for i in ids[1:]))
    return found


def test_a_text_is_one_document_with_its_line_ends(run):
    dataset = run({"book.txt": BOOK}, tokenizer="characters")
    assert documents(dataset) == [BOOK]
    assert dataset.task == "language_model" and dataset.target is fields.NEXT_TOKEN
    assert dataset.order == fields.STREAMS and dataset.labels == ()
    assert dataset.description["input"] == {"kind": "tokens"}
    assert dataset.description["format"] == 2 and "classes" not in dataset.description
    names = {path.relative_to(dataset.folder).as_posix() for path in dataset.folder.rglob("*.*")}
    assert names == {
        "dataset.json",
        "dataset.json.sha256",
        "vocabulary.txt",
        "train/tokens.npy",
        "train/offsets.npy",
    }


@pytest.mark.parametrize("block", [1, 2, 7, 1 << 20])
@pytest.mark.parametrize("tokenizer", text.NAMES)
def test_tokens_do_not_depend_on_the_pieces(run, monkeypatch, tokenizer, block):
    monkeypatch.setattr(raw_files, "_BLOCK", block)
    monkeypatch.setattr(rows, "BATCH_BYTES", block)
    dataset = run({"book.txt": BOOK + "\n"}, tokenizer=tokenizer)
    encoded = text.tokenizer_of(dataset).encode(tf.constant([BOOK + "\n"]))
    assert dataset.splits["train"].inputs.tolist() == encoded.flat_values.numpy().tolist()
    assert len(dataset.splits["train"]) == 1


@pytest.mark.parametrize(
    "pack, suffix", [(bytes, ""), (gzip.compress, ".gz"), (lzma.compress, ".xz")]
)
def test_files_are_documents_without_bom_and_crlf(run, pack, suffix):
    content = b"\xef\xbb\xbf" + BOOK.replace("\n", "\r\n").encode()
    files = {f"b{suffix}": pack(content), f"a{suffix}": pack(b"one\n"), f"c{suffix}": pack(b"\n")}
    dataset = run(files, raw_data=f"[abc]{suffix}", tokenizer="characters")
    assert documents(dataset) == ["one\n", BOOK, "\n"]


@pytest.mark.parametrize("block", [5, 1 << 20])
@pytest.mark.parametrize("validation, test", [(0.1, 0.2), (0.0, 0.05), (0.5, 0.0), (0.333, 0.333)])
def test_fractions_cut_by_position_to_the_token(run, monkeypatch, block, validation, test):
    monkeypatch.setattr(raw_files, "_BLOCK", block)
    monkeypatch.setattr(rows, "BATCH_BYTES", block)
    files = {"a.txt": "one\ntwo\nthree\n", "b.txt": "four five\nsix", "c.txt": "seven\neight\n" * 9}
    whole = run(files, "*.txt", "whole", tokenizer="bytes").splits["train"].inputs.tolist()
    dataset = run(
        files, "?.txt", tokenizer="bytes", validation_fraction=validation, test_fraction=test
    )
    end = len(whole)
    for name, share in (("test", test), ("validation", validation), ("train", 1.0)):
        size = round(len(whole) * share) if name != "train" else end
        part = whole[end - size : end]
        end -= size
        # A cut document begins again with the start id.
        expected = part if not part or part[0] == text.START else [text.START, *part]
        found = dataset.splits[name].inputs.tolist() if name in dataset.splits else []
        assert found == expected
        if found:
            starts = [i for i, token in enumerate(found) if token == text.START]
            assert dataset.splits[name].offsets.tolist() == [*starts, len(found)]
    assert end == 0


def test_a_cut_between_documents_needs_no_new_start_and_is_logged(run, caplog):
    caplog.set_level("INFO")
    files = {"a.txt": "abcd", "b.txt": "efgh"}
    dataset = run(files, "?.txt", tokenizer="characters", test_fraction=0.5)
    assert (documents(dataset), documents(dataset, "test")) == (["abcd"], ["[unknown]" * 4])
    assert (
        "test: the last 5 of 10 training tokens; it begins with training document 2" in caplog.text
    )
    caplog.clear()
    run(files, "?.txt", "e", tokenizer="characters", test_fraction=0.3)
    assert (
        "the last 3 of 10 training tokens; it begins inside training document 2, after 2 of its"
        in (caplog.text)
    )


def test_given_splits_stay_whole_and_fractions_cut_the_training_text_only(run):
    files = {"book.txt": "abcdefgh" * 5, "t.txt": "abc", "v.txt": "cab"}
    dataset = run(files, tokenizer="characters", test_data="t.txt", validation_fraction=0.25)
    assert documents(dataset, "test") == ["abc"]
    assert "".join(documents(dataset) + documents(dataset, "validation")) == files["book.txt"]
    dataset = run(
        files, data_dir="e", tokenizer="characters", test_data="t.txt", validation_data="v.txt"
    )
    assert [documents(dataset, name) for name in dataset.splits] == [
        [files["book.txt"]],
        ["cab"],
        ["abc"],
    ]


TEXTS = ["a b", "c d e", "a b", "f g"]
TABLES = {
    "csv": "text\n" + "".join(f"{line}\n" for line in TEXTS),
    "tsv": "number\ttext\n" + "".join(f"1\t{line}\n" for line in TEXTS),
    "jsonl": "".join(json.dumps({"text": line}) + "\n" for line in TEXTS),
}


@pytest.mark.parametrize("source", TABLES)
def test_rows_of_a_table_are_documents_and_need_no_label(run, source):
    dataset = run({"rows": TABLES[source]}, "rows", source=source)
    assert documents(dataset, separator=" ") == TEXTS


def test_records_and_folders_are_documents_without_labels(run, tmp_path):
    with tf.io.TFRecordWriter(str(tmp_path / "raw.tfrecord")) as writer:
        for line in TEXTS:
            value = tf.train.Feature(bytes_list=tf.train.BytesList(value=[line.encode()]))
            features = tf.train.Features(feature={"text": value})
            writer.write(tf.train.Example(features=features).SerializeToString())
    assert documents(run({}, "raw.tfrecord", source="tfrecord"), separator=" ") == TEXTS
    files = {"f/one/1": "a b\nc", "f/one/2": "d"}
    dataset = run(files, "f", "e", source="folder")
    assert documents(dataset, separator=" ") == ["a b c", "d"]


def test_a_column_may_name_the_split_of_a_document(run):
    content = "text,set\na b,train\nb a,test\nc d,train\n"
    dataset = run({"r.csv": content}, "r.csv", source="csv", split_column="set")
    assert documents(dataset, separator=" ") == ["a b", "c d"]
    assert documents(dataset, "test", " ") == ["b a"]


def test_lines_are_shuffled_examples_and_blank_ones_are_skipped(run):
    dataset = run({"book.txt": "a b\n\n  \nc d\r\na b\n"}, lines=True)
    assert documents(dataset, separator=" ") == ["a b", "c d", "a b"]
    assert dataset.order == fields.SHUFFLED and dataset.target is fields.NEXT_TOKEN


@pytest.mark.parametrize("source", ["text", "csv"])
def test_lines_are_split_by_their_hash_without_duplicates(run, source):
    content = "text\n" * (source == "csv") + "".join(f"line {i} of many\n" for i in range(300)) * 2
    dataset = run(
        {"r": content}, "r", source=source, lines=True, validation_fraction=0.2, test_fraction=0.3
    )
    assert sum(map(len, dataset.splits.values())) == 300
    assert dataset.description["counts"]["duplicates_removed"] == 300
    assert 50 < len(dataset.splits["test"]) < 130


@pytest.mark.parametrize(
    "content, flags, message",
    [
        ("", {}, "book.txt:1: the file is empty .* leave it out"),
        (b"\xef\xbb\xbf", {}, "book.txt:1: the file is empty"),
        ("", {"lines": True}, "book.txt:1: the file is empty"),
        ("\n \n", {"lines": True}, "book.txt:1: no row for the train split"),
        ("word\n", {}, "book.txt:1: the text of the train split has 1 tokens, but .* at least two"),
        ("\n\n", {}, "book.txt:1: the text of the train split has 0 tokens"),
        (b"fine\nfine\nab\xff\n", {}, r"book.txt:3: .* not valid UTF-8 \(byte 0xff at offset 2\)"),
        (b"fine\na\0b\n", {}, "book.txt:2: the text holds a NUL"),
        (b"fine\n" + b"x" * 99, {"max_line_bytes": 50}, "book.txt:2: the line is longer than 50"),
    ],
)
def test_bad_text_is_exit_3_with_file_and_line(run, tmp_path, content, flags, message):
    with pytest.raises(DataError, match=message) as caught:
        run({"book.txt": content}, **flags)
    assert caught.value.code == 3 and [path.name for path in tmp_path.iterdir()] == ["book.txt"]


def test_an_empty_file_among_many_is_named(run):
    with pytest.raises(DataError, match="b.txt:1: the file is empty"):
        run({"a.txt": "a b c", "b.txt": "", "c.txt": "a b c"}, "?.txt")


def test_a_given_split_needs_two_tokens(run):
    with pytest.raises(DataError, match="t.txt:1: the text of the test split has 1 tokens"):
        run({"book.txt": "a b c", "t.txt": "a"}, test_data="t.txt")


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"test_fraction": 0.01}, "--test_fraction=0.01: the test split has 0 of 9 tokens"),
        ({"validation_fraction": 0.1}, "--validation_fraction=0.1: the validation split has 1 of"),
        (
            {"validation_fraction": 0.4, "test_fraction": 0.5},
            "--validation_fraction=0.4 and --test_fraction=0.5: the train split has 0 of 9 tokens",
        ),
    ],
)
@pytest.mark.parametrize("source", ["text"])
def test_a_fraction_must_leave_two_tokens_in_every_split(run, flags, message, source):
    with pytest.raises(UsageError, match=message):
        run({"book.txt": "abcdefghi"}, tokenizer="characters", **flags)


def test_bad_utf8_is_replaced_and_counted(run):
    dataset = run(
        {"book.txt": b"a\xff\nb\xe2\x82\nc"}, tokenizer="characters", encoding_errors="replace"
    )
    assert documents(dataset) == ["a\ufffd\nb\ufffd\nc"]
    assert dataset.description["counts"] == {"replaced": 2}


@pytest.mark.skipif(
    not SHAKESPEARE.exists(),
    reason="no text beside the project (../shared/data/tinyshakespeare/input.txt)",
)
def test_a_real_text_comes_back_from_its_splits(tmp_path):
    settings = {"task": "language_model", "source": "text", "tokenizer": "characters"}
    dataset = prepare.prepare(
        Prepare(
            data_dir=str(tmp_path / "d"),
            raw_data=str(SHAKESPEARE),
            validation_fraction=0.05,
            test_fraction=0.1,
            **settings,
        )
    )
    parts = [documents(dataset, name) for name in dataset.splits]
    assert "".join(part for (part,) in parts) == SHAKESPEARE.read_text()
    assert len(parts[2][0]) == round(0.1 * (1 + len(SHAKESPEARE.read_text())))


def test_an_equal_text_is_the_same_dataset(run):
    one = run({"book.txt": BOOK * 20}, test_fraction=0.1)
    assert run({}, test_fraction=0.1).digest == one.digest
    assert run({"x/b": BOOK * 20}, "x/b", "e", test_fraction=0.1).digest == one.digest
    assert store.open_dataset(one.folder).digest == one.digest
