"""From raw files to a prepared dataset, as `prepare` is called."""

import collections
import gzip
import json
import lzma
import os
import signal
import subprocess
import sys
import time
import unicodedata

import numpy as np
import pytest
import tensorflow as tf

from trainer.data import store, text
from trainer.exit_codes import DataError, UsageError
from trainer.flags.prepare import Prepare
from trainer.prepare import command as prepare

CSV = "text,label\nA fine film,pos\nDull and long,neg\nA film,pos\nLong long long,neg\n"


@pytest.fixture
def run(tmp_path):
    """Returns a function that writes files, prepares them into the folder d and opens it."""

    def run(files, source="csv", raw_data="raw.csv", data_dir="d", **flags):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        paths = {
            flag: str(tmp_path / flags.pop(flag))
            for flag in ("validation_data", "test_data")
            if flag in flags
        }
        return prepare.prepare(
            Prepare(
                data_dir=str(tmp_path / data_dir),
                source=source,
                raw_data=str(tmp_path / raw_data),
                **paths,
                **flags,
            )
        )

    return run


def rows(dataset, split="train"):
    """Returns [(words, label)] of a split."""
    part = dataset.splits[split]
    ids = np.split(np.asarray(part.inputs), part.offsets[1:-1])
    return [
        ([dataset.vocabulary[i] for i in row[1:]], dataset.labels[label])
        for row, label in zip(ids, part.targets)
    ]


def test_texts_become_ids_ranked_by_frequency(run):
    dataset = run({"raw.csv": CSV})
    assert dataset.vocabulary == (*text.RESERVED, "long", "a", "film", "and", "dull", "fine")
    assert dataset.labels == ("neg", "pos")
    assert rows(dataset) == [
        (["a", "fine", "film"], "pos"),
        (["dull", "and", "long"], "neg"),
        (["a", "film"], "pos"),
        (["long", "long", "long"], "neg"),
    ]
    assert dataset.splits["train"].inputs[:4].tolist() == [1, 5, 9, 6]


def test_the_vocabulary_size_includes_the_reserved_ids(run):
    dataset = run({"raw.csv": CSV}, vocabulary_size=6)
    assert dataset.vocabulary[4:] == ("long", "a") and rows(dataset)[0][0] == [
        "a",
        "[unknown]",
        "[unknown]",
    ]


def test_the_vocabulary_comes_from_the_training_split_only(run):
    dataset = run(
        {"raw.csv": CSV, "test.csv": "text,label\nnew new new new film,pos\n"}, test_data="test.csv"
    )
    assert "new" not in dataset.vocabulary and rows(dataset, "test") == [
        (["[unknown]"] * 4 + ["film"], "pos")
    ]


LINES = [line.split(",") for line in CSV.split("\n")[1:-1]]
FORMATS = {
    "csv": CSV,
    "tsv": CSV.replace(",", "\t"),
    "jsonl": "".join(json.dumps({"text": line, "label": label}) + "\n" for line, label in LINES),
}


@pytest.mark.parametrize(
    "suffix, pack", [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)]
)
@pytest.mark.parametrize("source", FORMATS)
def test_every_text_format_gives_the_same_data(run, source, suffix, pack):
    expected = run({"raw.csv": CSV}, data_dir="expected")
    name = f"raw.{source}{suffix}"
    content = FORMATS[source].replace("\n", "\r\n").encode()
    dataset = run({name: pack(b"\xef\xbb\xbf" + content)}, source=source, raw_data=name)
    assert rows(dataset) == rows(expected) and dataset.vocabulary == expected.vocabulary


def test_tfrecord_and_folders_give_the_same_data(run, tmp_path):
    expected = run({"raw.csv": CSV}, data_dir="expected")
    with tf.io.TFRecordWriter(str(tmp_path / "raw.tfrecord")) as writer:
        for line, label in LINES:
            feature = {
                name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))
                for name, value in (("text", line), ("label", label))
            }
            writer.write(
                tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
            )
    assert rows(run({}, "tfrecord", "raw.tfrecord", "r")) == rows(expected)
    files = {
        f"files/{label}.txt": "".join(f"{text}\n" for text, of in LINES if of == label)
        for label in ("pos", "neg")
    }
    folders = {f"folders/{label}/{i}": t for i, (t, label) in enumerate(LINES)}
    by_label = sorted(rows(expected), key=lambda row: row[1])
    assert (
        rows(run(files, "folder", "files", "f"))
        == rows(run(folders, "folder", "folders", "g"))
        == by_label
    )


def test_files_of_a_glob_are_read_in_order_and_splits_may_be_given(run):
    files = {
        "part-2.csv": "text,label\nc,1\n",
        "part-1.csv": "text,label\na,0\nb,1\n",
        "val.csv": "text,label\nb,1\n",
        "test.csv": "text,label\na,0\nc,0\nc,1\n",
    }
    dataset = run(files, raw_data="part-*.csv", validation_data="val.csv", test_data="test.csv")
    assert {name: [words for words, _ in rows(dataset, name)] for name in dataset.splits} == {
        "train": [["a"], ["b"], ["c"]],
        "validation": [["b"]],
        "test": [["a"], ["c"], ["c"]],
    }
    assert dataset.description["counts"]["overlaps"] == {"train+validation": 1, "train+test": 2}


def test_a_column_may_name_the_split(run):
    content = "text,label,set\na,0,train\nb,1,train\nc,0,dev\nd,1,valid\ne,1,test\n"
    dataset = run({"raw.csv": content}, split_column="set")
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 2,
        "validation": 2,
        "test": 1,
    }


def many(count, label=lambda i: i % 2):
    return "text,label\n" + "".join(f"text {i} of {count},{label(i)}\n" for i in range(count))


def test_carved_splits_hold_every_text_once(run):
    dataset = run(
        {"raw.csv": many(500) + many(500)[11:]}, validation_fraction=0.2, test_fraction=0.3
    )
    texts = [" ".join(words) for split in dataset.splits for words, _ in rows(dataset, split)]
    assert len(texts) == 500 and dataset.description["counts"]["duplicates_removed"] == 500
    assert {name: split["examples"] for name, split in dataset.description["splits"].items()} == {
        name: len(split) for name, split in dataset.splits.items()
    }


def test_two_preparations_of_the_same_input_are_equal(run, tmp_path):
    content = many(3000)
    one = run({"raw.csv": content}, data_dir="one", test_fraction=0.1)
    two = run(
        {"elsewhere/raw.csv": content},
        raw_data="elsewhere/raw.csv",
        data_dir="two",
        test_fraction=0.1,
    )
    assert one.digest == two.digest
    assert run({}, data_dir="one", test_fraction=0.1).digest == one.digest  # Prepared already.
    with pytest.raises(UsageError, match="holds another dataset"):
        run({}, data_dir="one", test_fraction=0.2)
    assert str(tmp_path) not in (tmp_path / "one/dataset.json").read_text()


def test_prepared_ids_are_those_that_the_tokenizer_encodes(run):
    sample = "Füße d’İstanbul ΟΔΟΣ नमस्ते 你好 <br/>3½ \u2028 \\n 😀"
    texts = [unicodedata.normalize(form, sample) for form in ("NFC", "NFD")]
    content = "".join(json.dumps({"text": t, "label": i}) + "\n" for i, t in enumerate(texts))
    lower = {"tokenizer": "words_and_marks", "lowercase": True}
    for flags in (*({"tokenizer": name} for name in text.NAMES), lower):
        folder = "-".join(map(str, flags.values()))
        dataset = run({"raw.jsonl": content}, "jsonl", "raw.jsonl", folder, **flags)
        split = dataset.splits["train"]
        encoded = text.tokenizer_of(store.open_dataset(dataset.folder)).encode(tf.constant(texts))
        assert encoded.flat_values.numpy().tolist() == split.inputs.tolist()
        assert encoded.row_splits.numpy().tolist() == split.offsets.tolist()
        assert text.UNKNOWN not in split.inputs


def test_prepared_words_and_marks_are_put_back_together(run):
    texts = [
        "It's <br />GREAT!",
        '3.14, 1,000 -- "don\u2019t" \uffed',
        "",
        " ?! \u2028\u00a0 https://a.b/c",
    ]
    content = "".join(json.dumps({"text": t, "label": i % 2}) + "\n" for i, t in enumerate(texts))
    dataset = run({"raw.jsonl": content}, "jsonl", "raw.jsonl", tokenizer="words_and_marks")
    tokens = tf.ragged.constant([words for words, _ in rows(dataset)], dtype=tf.string)
    back = [line.decode() for line in text.joined(dataset.tokenizer, tokens).numpy()]
    assert back == [" ".join(t.split()) for t in texts]


@pytest.mark.parametrize(
    "flags, expected",
    [
        # Without a key for the case, so that datasets of earlier versions keep their digest.
        ({}, {"name": "words", "version": 1}),
        ({"lowercase": True}, {"name": "words", "version": 1}),
        ({"tokenizer": "characters"}, {"name": "characters", "version": 1}),
        ({"tokenizer": "spaces"}, {"name": "spaces", "version": 1}),
        (
            {"tokenizer": "words_and_marks"},
            {"name": "words_and_marks", "version": 1, "lowercase": False},
        ),
        (
            {"tokenizer": "words_and_marks", "lowercase": True},
            {"name": "words_and_marks", "version": 1, "lowercase": True},
        ),
    ],
)
def test_the_tokenizer_and_its_options_are_written_to_the_dataset(run, flags, expected):
    assert run({"raw.csv": CSV}, **flags).description["tokenizer"] == expected


def test_pre_tokenized_text_keeps_its_tokens_and_its_unknown_ones(run):
    """As in Penn Treebank and WikiText. The file has no other name for an unknown token."""
    dataset = run(
        {"raw.csv": "text,label\n the <unk> of N \\$ @-@ ,0\n<pad> <s> The [unknown],1\n<unk>,1\n"},
        tokenizer="spaces",
    )
    split = dataset.splits["train"]
    assert [words for words, _ in rows(dataset)] == [
        ["the", "[unknown]", "of", "N", "\\$", "@-@"],
        ["<pad>", "<s>", "The", "[unknown]"],
        ["[unknown]"],
    ]
    assert "<unk>" not in dataset.vocabulary
    # Of the two that are written alike, the second is a token of the text.
    unknown = np.flatnonzero(split.inputs == text.UNKNOWN).tolist()
    assert unknown == [2, 13]


def test_an_empty_text_becomes_an_example_with_the_start_id_only(run, caplog):
    dataset = run({"raw.csv": "text,label\n,0\n!?,1\na,1\n"})
    assert dataset.splits["train"].offsets.tolist() == [0, 1, 2, 4]
    assert (
        dataset.description["splits"]["train"]["empty_texts"] == 2
        and "2 examples without a token" in caplog.text
    )


@pytest.mark.parametrize(
    "labels, expected",
    [
        (["10", "9", "-1"], ("-1", "9", "10")),
        (["10", "9", "x"], ("10", "9", "x")),
        (["b", "B", "ä"], ("B", "b", "ä")),
        (["01", "1", "0"], ("0", "01", "1")),
    ],
)
def test_classes_are_sorted_as_numbers_if_all_are_and_else_by_code_point(run, labels, expected):
    content = "text,label\n" + "".join(f"a,{label}\n" for label in labels)
    dataset = run({"raw.csv": content}, odd_labels="keep")
    assert dataset.labels == expected and [label for _, label in rows(dataset)] == labels


def test_bad_utf8_is_replaced_and_counted(run):
    dataset = run(
        {"raw.csv": b"text,label\nok \xef\xbf\xbd,0\na\xff\xfeb \xe2\x82,1\n"},
        encoding_errors="replace",
        tokenizer="characters",
    )
    assert dataset.description["counts"]["replaced"] == 3
    assert rows(dataset)[1][0] == list("a\ufffd\ufffdb \ufffd")


BAD = [
    # File, content, line that the message must name (None: no line), words of the message.
    ("f.csv", "text,label\n", 1, "no row for the train split"),
    ("f.csv", "", 1, "no columns 'text'"),
    ("f.csv", "text,stars\na,1\n", 1, "--label_column"),
    ("f.csv", "text,label\na,1\nb,\n", 3, "the label is empty"),
    ("f.csv", "text,label\na,1\nb,  \n", 3, "the label is empty"),
    ("f.csv", "text,label\na,1\nb,1\n", 2, "every row has the label '1'"),
    ("f.csv", 'text,label\na,1\nb,"x\ny"\n', 3, "control character"),
    (
        "f.csv",
        b'text,label\na,1\n"x\ny",0\nb\xff,0\n',
        5,
        "the text is not valid UTF-8 (byte 0xff at offset 1)",
    ),
    ("f.csv", b"text,label\na,1\nb,\xff\n", 3, "bad UTF-8"),
    ("f.csv", "text,label\na,1\nb\0,0\n", 3, "NUL"),
    ("f.csv", b"text,label\na,1\n" + b"x" * 10_000_000 + b",0\n", 3, "longer than 1000000 bytes"),
    ("f.csv", "text,label\na,1\nb,0,\n", 3, "3 fields"),
    ("f.csv", "text,label\n?,1\n!,0\n", None, "no training text holds a token"),
    ("f.csv", "text,label\na,1\nb,0\n".encode("utf-16"), 1, "UTF-16 text. Convert it (iconv"),
    ("f.csv", "text,label\na,yes\nb,no\nc,Yes\n", 4, "labels that differ only in case"),
    ("f.csv.gz", gzip.compress(CSV.encode())[:-9], 6, "cut short"),
    ("f.csv.xz", lzma.compress(CSV.encode())[:-9], 6, "cut short"),
    ("f.csv.gz", CSV, 1, "cannot be read or decompressed"),
    (
        "f.jsonl",
        '{"text": "a", "label": 1}\n{"text": "b", "label": "1"}\n',
        2,
        "the label '1' is a string, but 1 at",
    ),
    (
        "f.jsonl",
        '{"text": "a", "label": 1}\n{"text": 7, "label": 0}\n',
        2,
        "a text must be a string",
    ),
    ("f.jsonl", '{"text": "a", "label": 1}\n{"text": "\\u0000", "label": 0}\n', 2, "NUL"),
    (
        "f.jsonl",
        '{"text": "a", "label": 1}\n{"text": "\\ud800", "label": 0}\n',
        2,
        "is not valid UTF-8",
    ),
    ("f.tfrecord", b"x" * 11, 1, "inside the header of record 1"),
]


@pytest.mark.parametrize(
    "name, content, line, what", BAD, ids=[f"{row[0]}: {row[3]}" for row in BAD]
)
def test_bad_input_is_exit_3_with_file_and_line(run, tmp_path, name, content, line, what):
    with pytest.raises(DataError) as caught:
        run({name: content}, source=name.split(".")[1], raw_data=name)
    assert caught.value.code == 3 and what in str(caught.value)
    assert line is None or str(caught.value).startswith(f"{tmp_path / name}:{line}: ")
    assert not (tmp_path / "d").exists() and {path.name for path in tmp_path.iterdir()} == {name}


def test_a_label_that_training_lacks_is_refused_with_its_first_place(run, tmp_path):
    with pytest.raises(
        DataError, match="t.csv:3: the label '2' of the test split is in no training row"
    ):
        run(
            {"raw.csv": "text,label\na,0\nb,1\n", "t.csv": "text,label\na,1\nb,2\nc,2\n"},
            test_data="t.csv",
        )


def test_labels_are_taken_without_what_nobody_sees(run):
    content = "text,label\na,caf\u00e9\nb, cafe\u0301\u00a0\nc,tea\u200b\nd,\ufefftea \n"
    assert [label for _, label in rows(run({"raw.csv": content}))] == ["caf\u00e9"] * 2 + [
        "tea"
    ] * 2


def test_texts_with_several_labels_and_repeated_rows_are_told_whether_or_not_splits_are_drawn(
    run, caplog
):
    caplog.set_level("INFO", "trainer")
    files = {"raw.csv": "text,label\na,0\na,1\nb,0\nb,0\nb,0\nc,1\n"}
    assert run(files).description["counts"]["duplicates_removed"] == 0
    assert "2 training rows repeat an earlier row; they stay" in caplog.text
    assert "1 training texts occur with more than one label" in caplog.text
    counts = run(files, data_dir="e", test_fraction=0.4).description["counts"]
    assert counts["texts_with_several_labels"] == 1 and counts["duplicates_removed"] == 2


def test_a_split_column_may_be_written_in_any_case(run):
    content = "text,label,set\na,0,Train\nb,1, TRAIN\nc,1,Test\n"
    dataset = run({"raw.csv": content}, split_column="set")
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 2, "test": 1}


def test_a_given_split_must_have_rows(run):
    with pytest.raises(DataError, match="t.csv:1: no row for the test split"):
        run({"raw.csv": CSV, "t.csv": "text,label\n"}, test_data="t.csv")


def test_the_split_column_must_name_a_split(run):
    with pytest.raises(
        DataError, match="raw.csv:3: the split is 'holdout', but it must be one of train"
    ):
        run({"raw.csv": "text,label,set\na,0,train\nb,1,holdout\n"}, split_column="set")


@pytest.mark.parametrize(
    "flags, what",
    [
        (
            {"test_fraction": 0.1, "test_data": "raw.csv"},
            "--test_fraction=0.1: the test split is given already",
        ),
        ({"raw_data": "none.csv"}, "--raw_data=.*none.csv: no such file"),
        ({"test_fraction": 0.000001}, "leaves the test split empty"),
    ],
)
def test_flags_that_contradict_each_other_or_the_data_are_usage_errors(run, tmp_path, flags, what):
    with pytest.raises(UsageError, match=what):
        run({"raw.csv": CSV}, **flags)
    assert not (tmp_path / "d").exists()


PREPARE = """
import sys
from trainer.flags.prepare import Prepare
from trainer.prepare import command as prepare
print("ready", flush=True)
sys.stdin.readline()
prepare.prepare(Prepare(data_dir=sys.argv[1], raw_data=sys.argv[2], test_fraction=0.1))
"""


def test_two_preparations_may_run_at_once_and_ctrl_c_leaves_nothing(tmp_path):
    raw, long = tmp_path / "raw.csv", tmp_path / "long.csv"
    raw.write_text(many(5000))
    long.write_text(many(200_000))  # Long enough to be at work when the signal comes.
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PREPARE, tmp_path / name, source],
            **pipes,
            text=True,
            env=environment,
        )
        for name, source in (("interrupted", long), ("d", raw), ("d", raw))
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    interrupted, *both = processes
    while not list(tmp_path.glob("interrupted.tmp-*/spool")):
        assert interrupted.poll() is None
        time.sleep(0.001)
    interrupted.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in interrupted.communicate()[1]
    for process in both:
        assert process.communicate()[1].count("Traceback") == process.returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "long.csv", "raw.csv"]
    assert sum(len(split) for split in store.open_dataset(tmp_path / "d").splits.values()) == 5000


def test_counts_agree_with_a_plain_python_count(run):
    generator = np.random.default_rng(0)
    lines = [
        " ".join(f"w{int(n)}" for n in generator.zipf(1.3, 20) if n < 5000) for _ in range(2000)
    ]
    content = "text,label\n" + "".join(f"{line},{i % 3}\n" for i, line in enumerate(lines))
    dataset = run({"raw.csv": content}, vocabulary_size=104)
    counted = collections.Counter(" ".join(lines).split())
    ranked = sorted(counted, key=lambda word: (-counted[word], word))[:100]
    assert dataset.vocabulary[4:] == tuple(ranked)
    known = set(ranked)
    assert [words for words, _ in rows(dataset)] == [
        [word if word in known else "[unknown]" for word in line.split()] for line in lines
    ]
