"""Pairs of texts, as `prepare` is called: parallel files and tables, two vocabularies or one."""

import gzip
import json
import lzma

import numpy as np
import pytest
import tensorflow as tf

from trainer.data import fields, store, text
from trainer.exit_codes import DataError, UsageError
from trainer.flags.prepare import Prepare
from trainer.prepare import command as prepare

PAIRS = [
    ("Die Katze schläft.", "The cat is asleep."),
    ("Die Katze!", "The cat!"),
    ("Wer\u202f?", "Who?"),
    ("Ein Hund schläft.", "A dog is asleep."),
]


def sides(pairs):
    """The content of two files."""
    return ["".join(f"{line}\n" for line in side) for side in zip(*pairs)]


@pytest.fixture
def run(tmp_path):
    """Returns a function that prepares pairs, or the files that `source` and flags name."""

    def run(pairs=(), data_dir="d", source="parallel", files=None, **flags):
        if source == "parallel":
            files = files or dict(zip(("train.de", "train.en"), sides(pairs)))
            names = iter(files)
            flags = {"raw_data": next(names), "target_data": next(names), **flags}
        for name, content in files.items():
            (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        for flag in flags:
            if flag.endswith("_data") or flag == "vocabulary_from":
                flags[flag] = str(tmp_path / flags[flag])
        return prepare.prepare(
            Prepare(task="translation", source=source, data_dir=str(tmp_path / data_dir), **flags)
        )

    return run


def pairs_of(dataset, split="train"):
    """[(tokens, tokens of the target)] of a split; both must begin with the start id."""
    part = dataset.splits[split]
    found = []
    for ids, offsets, words in (
        (part.inputs, part.offsets, dataset.vocabulary),
        (part.targets, part.target_offsets, dataset.target_vocabulary),
    ):
        rows = [row.tolist() for row in np.split(np.asarray(ids), offsets[1:-1])]
        assert all(row[0] == text.START and text.START not in row[1:] for row in rows)
        found.append([[words[i] for i in row[1:]] for row in rows])
    return list(zip(*found))


def test_pairs_become_ids_of_two_vocabularies(run):
    dataset = run(PAIRS, tokenizer="words")
    assert pairs_of(dataset) == [
        (["die", "katze", "schläft"], ["the", "cat", "is", "asleep"]),
        (["die", "katze"], ["the", "cat"]),
        (["wer"], ["who"]),
        (["ein", "hund", "schläft"], ["a", "dog", "is", "asleep"]),
    ]
    assert dataset.vocabulary[4:] == ("die", "katze", "schläft", "ein", "hund", "wer")
    assert dataset.target_vocabulary[4:] == ("asleep", "cat", "is", "the", "a", "dog", "who")
    assert dataset.target_texts("train") == [target for _, target in PAIRS]
    described = dataset.description
    assert described["format"] == 2 and dataset.task == "translation"
    assert dataset.target is fields.TEXT and dataset.order == "shuffled" and dataset.outputs == 11
    assert described["target_vocabulary_size"] == 11 and described["vocabulary_size"] == 10
    assert described["counts"] == {
        "duplicates_removed": 0,
        "overlaps": {},
        "texts_with_several_targets": 0,
        "empty_pairs": 0,
        "long_pairs": 0,
        "replaced": 0,
    }
    split = described["splits"]["train"]
    assert (split["tokens"], split["longest"]) == (13, 4)
    assert (split["target_tokens"], split["target_longest"]) == (15, 5)
    names = {path.relative_to(dataset.folder).as_posix() for path in dataset.folder.rglob("*.*")}
    arrays = {"tokens.npy", "offsets.npy", "target_tokens.npy", "target_offsets.npy"}
    assert names == {
        "dataset.json",
        "dataset.json.sha256",
        "vocabulary.txt",
        "target_vocabulary.txt",
        *(f"train/{name}" for name in arrays | {"target_texts.txt"}),
    }


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("tokenizer", text.NAMES)
def test_both_sides_are_encoded_as_their_tokenizers_do(run, tokenizer, shared):
    dataset = run(PAIRS, tokenizer=tokenizer, shared_vocabulary=shared)
    opened = store.open_dataset(dataset.folder)
    assert opened.shared_vocabulary is shared
    part = opened.splits["train"]
    for side, made, ids, offsets in (
        (0, text.tokenizer_of, part.inputs, part.offsets),
        (1, text.target_tokenizer_of, part.targets, part.target_offsets),
    ):
        lines = [pair[side] for pair in PAIRS]
        encoded = made(opened).encode(tf.constant(lines))
        assert encoded.flat_values.numpy().tolist() == ids.tolist()
        assert encoded.row_splits.numpy().tolist() == offsets.tolist()
        assert text.UNKNOWN not in ids
        if tokenizer == "words_and_marks":
            decoded = made(opened).decode(encoded[:, 1:]).numpy()
            assert [line.decode() for line in decoded] == [" ".join(line.split()) for line in lines]


def test_the_default_tokenizer_is_one_that_can_be_undone_and_may_lower_the_case(run):
    dataset = run(PAIRS, lowercase=True)
    assert dataset.tokenizer == {"name": "words_and_marks", "version": 1, "lowercase": True}
    assert "katze" in dataset.vocabulary and "the" in dataset.target_vocabulary
    assert dataset.target_texts("train")[0] == "The cat is asleep."


def test_a_shared_vocabulary_counts_both_sides_and_the_size_holds_for_each(run):
    pairs = [("a a b", "b b b"), ("c", "a"), ("d", "e")]
    shared = run(pairs, shared_vocabulary=True)
    assert shared.vocabulary[4:] == ("b", "a", "c", "d", "e")
    assert shared.target_vocabulary is shared.vocabulary
    assert "target_vocabulary_size" not in shared.description
    assert pairs_of(shared) == [(["a", "a", "b"], ["b", "b", "b"]), (["c"], ["a"]), (["d"], ["e"])]
    small = run(pairs, "small", vocabulary_size=6)
    assert small.vocabulary[4:] == ("a", "b") and small.target_vocabulary[4:] == ("b", "a")
    assert pairs_of(small)[2] == (["[unknown]"], ["[unknown]"])


@pytest.mark.parametrize(
    "suffix, pack", [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)]
)
def test_compressed_files_and_globs_give_the_same_data(run, suffix, pack):
    expected = run(PAIRS, "expected", tokenizer="words")
    files = {}
    for number, part in enumerate((PAIRS[:3], PAIRS[3:])):
        for name, content in zip(("de", "en"), sides(part)):
            files[f"part-{number}.{name}{suffix}"] = pack(content.replace("\n", "\r\n").encode())
    flags = {"raw_data": f"part-*.de{suffix}", "target_data": f"part-*.en{suffix}"}
    dataset = run(files=files, tokenizer="words", **flags)
    assert dataset.digest == expected.digest


def test_tables_give_the_same_pairs_and_may_name_the_split(run):
    expected = run(PAIRS, "expected")
    rows = [(*pair, "train") for pair in PAIRS] + [("Der", "The", "dev"), ("Ein", "A", "test")]
    tsv = "".join("\t".join(row) + "\n" for row in [("de", "en", "set"), *rows])
    jsonl = "".join(json.dumps(dict(zip(("de", "en", "set"), row))) + "\n" for row in rows)
    for source, content in (("tsv", tsv), ("csv", tsv.replace("\t", ",")), ("jsonl", jsonl)):
        dataset = run(
            data_dir=source,
            source=source,
            files={f"f.{source}": content},
            raw_data=f"f.{source}",
            text_column="de",
            target_column="en",
            split_column="set",
        )
        assert pairs_of(dataset) == pairs_of(expected)
        assert dataset.target_texts("train") == expected.target_texts("train")
        assert pairs_of(dataset, "validation") == [(["[unknown]"], ["The"])]
        assert pairs_of(dataset, "test") == [(["Ein"], ["A"])]


def test_two_preparations_are_equal(run):
    pairs = [(f"nummer {i} von {i % 7}", f"number {i} of {i % 7}") for i in range(400)]
    flags = {"validation_fraction": 0.1, "test_fraction": 0.2, "lowercase": True}
    assert run(pairs, "one", **flags).digest == run(pairs, "two", **flags).digest


def test_splits_are_drawn_by_the_source_and_duplicates_are_pairs(run, caplog):
    caplog.set_level("INFO", "trainer")
    pairs = [(f"x {i // 3}", f"y {i}") for i in range(600)]
    dataset = run(
        pairs + pairs[:50], tokenizer="spaces", validation_fraction=0.2, test_fraction=0.3
    )
    found = {name: pairs_of(dataset, name) for name in ("train", "validation", "test")}
    numbers = {name: [int(line[2:]) for line in dataset.target_texts(name)] for name in found}
    sources = {name: {number // 3 for number in of_split} for name, of_split in numbers.items()}
    assert sum(map(len, sources.values())) == len(set().union(*sources.values())) == 200
    assert sorted(sum(numbers.values(), [])) == list(range(600))
    assert min(map(len, found.values())) > 60
    counts = dataset.description["counts"]
    assert counts["duplicates_removed"] == 50 and counts["overlaps"] == {}
    assert counts["texts_with_several_targets"] == 200
    assert "50 duplicate rows removed before the split" in caplog.text
    assert "200 texts occur with more than one translation" in caplog.text
    assert "more than one label" not in caplog.text
    for name in found:  # Each text lies beside its tokens.
        for (_, target), line in zip(found[name], dataset.target_texts(name)):
            known = [word for word in target if word != "[unknown]"]
            assert len(target) == 2 and all(word in line.split() for word in known)


def test_given_splits_stay_whole_and_overlaps_are_counted(run, caplog):
    files = dict(zip(("train.de", "train.en"), sides(PAIRS)))
    for split, part in (("val", PAIRS[1:3]), ("test", [("Wer\u202f?", "Who is it?")])):
        files |= dict(zip((f"{split}.de", f"{split}.en"), sides(part)))
    dataset = run(
        files=files,
        validation_data="val.de",
        validation_target_data="val.en",
        test_data="test.de",
        test_target_data="test.en",
    )
    assert dataset.description["counts"]["overlaps"] == {
        "train+validation": 2,
        "train+test": 1,
        "validation+test": 1,
    }
    assert "2 texts occur in both of train+validation" in caplog.text
    assert dataset.target_texts("test") == ["Who is it?"]


def test_a_pair_with_an_empty_side_is_left_out_and_counted(run, caplog):
    empty = [("", "nothing"), ("nichts", " \u00a0"), ("", "")]
    dataset = run([*empty, *PAIRS, empty[0]])
    assert dataset.target_texts("train") == [target for _, target in PAIRS]
    assert dataset.description["counts"]["empty_pairs"] == 4
    assert "4 pairs with no token on one of their sides left out" in caplog.text
    assert "nothing" not in dataset.target_vocabulary and "nichts" not in dataset.vocabulary
    marks = run([("?!", "who"), *PAIRS], "words", tokenizer="words")
    assert marks.description["counts"]["empty_pairs"] == 1


def test_a_line_of_ten_thousand_words_is_data(run):
    long = " ".join(f"w{i}" for i in range(10_000))
    dataset = run([*PAIRS, (long, long.upper())], lowercase=True)
    split = dataset.description["splits"]["train"]
    assert split["longest"] == split["target_longest"] == 10_001
    assert dataset.target_texts("train")[-1] == long.upper()
    with pytest.raises(DataError, match="train.en:5: the line is longer than 60000 bytes"):
        pairs = [*PAIRS, ("kurz", long + " " * 10_000)]
        run(pairs, "other", max_line_bytes=60_000)


def test_a_target_is_read_as_strictly_as_a_text(run, tmp_path):
    for name, line, message in (
        ("utf8", b"b\xffd\n", "train.en:2: the text is not valid UTF-8 .byte 0xff at offset 1"),
        ("nul", b"b\0d\n", "train.en:2: the text holds a NUL"),
    ):
        files = {"train.de": "eins\nzwei\n", "train.en": b"one\n" + line}
        with pytest.raises(DataError, match=message):
            run(data_dir=name, files=files)
    files["train.en"] = b"one\nb\xffd\n"
    dataset = run(files=files, encoding_errors="replace")
    assert dataset.target_texts("train") == ["one", "b\ufffdd"]
    assert dataset.description["counts"]["replaced"] == 1
    with pytest.raises(DataError, match="f.jsonl:1: 'en' is 7, but a text must be a string"):
        run(
            data_dir="other",
            source="jsonl",
            files={"f.jsonl": '{"de": "a", "en": 7}\n'},
            raw_data="f.jsonl",
            text_column="de",
            target_column="en",
        )
    with pytest.raises(DataError, match="no columns 'target'; .* with --target_column"):
        run(source="csv", files={"f.csv": "text,en\na,b\n"}, raw_data="f.csv")


@pytest.mark.parametrize(
    "de, en, message",
    [
        ("a\nb\n", "a\n", "train.de: 2 lines, but .*train.en has 1: line i of one must be"),
        ("a\nb\n", "a\nb\n", "train.de:1: the train split has 2 pairs, and both sides of all of"),
        (
            "a\nb\n\nd\n",
            "a\nb\nc\n\n",
            "both sides of all of them are equal.*Check --raw_data=.*train.de",
        ),
        ("a\nb\n", "c\nc c\n", "all target texts of the train split are made of one and the same"),
        (
            "\n\n",
            "a\nb\n",
            r"train.de:1: no row for the train split.*\(its 2 rows have no token, or",
        ),
        (
            "",
            "",
            "train.de:1: no row for the train split in this file or in the 1 files after it. ",
        ),
    ],
)
def test_bad_pairs_are_exit_3(run, tmp_path, de, en, message):
    with pytest.raises(DataError, match=message) as caught:
        run(files={"train.de": de, "train.en": en})
    assert caught.value.code == 3 and not (tmp_path / "d").exists()


def test_pairs_that_mostly_are_equal_are_a_warning(run, caplog):
    same = [(f"wort {i}", f"wort {i}") for i in range(5)]
    dataset = run([*same, *PAIRS])
    assert "train: both sides of 5 of 9 pairs are equal, so a model learns" in caplog.text
    assert len(dataset.splits["train"]) == 9
    caplog.clear()
    run([*same[:4], *PAIRS], "other")
    assert "are equal" not in caplog.text


def test_one_file_cannot_be_both_sides(run, tmp_path):
    with pytest.raises(UsageError, match="are the same file") as caught:
        run(PAIRS, target_data="../" + tmp_path.name + "/train.de")
    assert caught.value.code == 2
    with pytest.raises(UsageError, match="2 files, .*train.de and so on, but 1 with translations"):
        run(PAIRS, raw_data="train.*", target_data="train.en")


def test_the_vocabularies_of_another_translation_dataset_are_kept(run):
    old = run(PAIRS, "old", lowercase=True)
    new = run([("Die Maus", "The mouse"), ("Hund", "cat")], "new", vocabulary_from="old")
    assert new.tokenizer == old.tokenizer and not new.shared_vocabulary
    for name in ("vocabulary", "target_vocabulary"):
        assert getattr(new, name) == getattr(old, name)
        sha = f"{name}_sha256"
        assert new.description[sha] == old.description[sha]
    assert pairs_of(new) == [(["die", "[unknown]"], ["the", "[unknown]"]), (["hund"], ["cat"])]
    with pytest.raises(UsageError, match="it has two vocabularies.*Leave out --shared_vocabulary"):
        run(PAIRS, "third", vocabulary_from="old", shared_vocabulary=True)
    sizes = [len(old.vocabulary), len(old.target_vocabulary)]
    with pytest.raises(UsageError, match=f"--vocabulary_size={sizes[0]}: .* has {sizes[1]}"):
        run(PAIRS, "third", vocabulary_from="old", vocabulary_size=sizes[0])


def test_a_shared_vocabulary_stays_shared(run):
    old = run(PAIRS, "old", shared_vocabulary=True)
    for name, flags in (("new", {}), ("again", {"shared_vocabulary": True})):
        new = run(PAIRS[:2], name, vocabulary_from="old", **flags)
        assert new.shared_vocabulary and new.vocabulary == old.vocabulary


def test_a_dataset_without_target_vocabulary_cannot_give_one(run, tmp_path):
    (tmp_path / "f.csv").write_text("text,label\na,1\nb,0\n")
    labels = Prepare(raw_data=str(tmp_path / "f.csv"), data_dir=str(tmp_path / "labels"))
    prepare.prepare(labels)
    with pytest.raises(
        UsageError, match="--vocabulary_from=.*labels: it was prepared for --task=c"
    ):
        run(PAIRS, vocabulary_from="labels")
