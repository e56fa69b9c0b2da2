"""Datasets on disk: what is written is what is read, through damage, kills and rival writers."""

import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from trainer import durable
from trainer.data import fields, store
from trainer.exit_codes import DataError, StorageError, UsageError

RESERVED = ("[padding]", "[start]", "[unknown]", "[unused]")
SEQUENCES = {"train": ([[1, 4, 5], [1], [1, 4]], [0, 1, 0]), "test": ([[1, 5]], [1])}


def write(data_dir, sequences=SEQUENCES, vocabulary=(*RESERVED, "a", "b")):
    """A small dataset of two classes."""
    with store.new_folder(data_dir) as folder:
        return store.publish(folder, fill(folder, sequences, vocabulary), data_dir)


def fill(folder, sequences, vocabulary):
    files, described = {}, {}
    for name, (rows, labels) in sequences.items():
        lengths = np.array([len(row) for row in rows], np.int32)
        split = store.SplitWriter(folder / name, lengths)
        for row, label in zip(rows, labels):
            split.write(np.array(row))
            split.write_targets(np.array([label]))
        files |= split.close()
        described[name] = split.described(["no", "yes"])
    files["vocabulary.txt"] = store.write_lines(
        folder / "vocabulary.txt", list(map(store.escape, vocabulary))
    )
    files["labels.txt"] = store.write_lines(folder / "labels.txt", ["no", "yes"])
    return {"tokenizer": {"name": "words", "version": 1}, "splits": described, "files": files}


def test_what_is_written_is_read(tmp_path):
    write(tmp_path / "d")
    dataset = store.open_dataset(tmp_path / "d")
    train = dataset.splits["train"]
    assert dataset.labels == ("no", "yes") and dataset.vocabulary[4:] == ("a", "b")
    assert dataset.tokenizer == {"name": "words", "version": 1}
    assert len(train) == 3 and list(dataset.splits) == ["train", "test"]
    for name, values in (
        ("inputs", [1, 4, 5, 1, 1, 4]),
        ("offsets", [0, 3, 4, 6]),
        ("targets", [0, 1, 0]),
    ):
        array = getattr(train, name)
        dtype = store.ARRAYS[{"inputs": "tokens", "targets": "labels"}.get(name, name)]
        assert array.tolist() == values and array.dtype == dtype and not array.flags.writeable
    assert dataset.description["format"] == 1 and dataset.task == "classification"
    assert dataset.target is fields.LABEL and dataset.order == "shuffled" and dataset.outputs == 2


def write_format_2(data_dir, target, order, values=None, described=("no", "yes")):
    """Two examples, with `values` as the array of the target."""
    names = ["no", "yes"] if target.array else []
    with store.new_folder(data_dir) as folder:
        split = store.SplitWriter(folder / "train", np.array([3, 2]), target)
        split.write(np.array([1, 4, 5, 1, 4]))
        if values is not None:
            split.write_targets(np.array(values[:2]))
            split.write_targets(np.array(values[2:], np.int32))
        files = split.close()
        files["vocabulary.txt"] = store.write_lines(
            folder / "vocabulary.txt", [*RESERVED, "a", "b"]
        )
        if names:
            files["labels.txt"] = store.write_lines(folder / "labels.txt", names)
        description = {
            "task": "anything",
            "input": {"kind": "tokens"},
            "target": target.kind,
            "order": order,
            "tokenizer": {"name": "spaces", "version": 1},
            "splits": {"train": split.described(described if names else [])},
            "files": files,
        }
        return store.publish(folder, description, data_dir)


def test_a_text_without_classes_is_format_2_and_has_no_labels(tmp_path):
    write_format_2(tmp_path / "d", fields.NEXT_TOKEN, "streams")
    dataset = store.open_dataset(tmp_path / "d")
    assert dataset.description["format"] == 2 and dataset.task == "anything"
    assert dataset.target is fields.NEXT_TOKEN and dataset.order == "streams"
    assert dataset.labels == () and dataset.outputs == 6
    assert len(dataset.splits["train"]) == 2 and dataset.splits["train"].targets is None
    assert {path.name for path in (tmp_path / "d/train").iterdir()} == {"tokens.npy", "offsets.npy"}
    assert not (tmp_path / "d/labels.txt").exists()
    assert "labels" not in dataset.description["splits"]["train"]


def test_tags_are_parallel_to_the_tokens(tmp_path):
    write_format_2(tmp_path / "d", fields.TAGS, "shuffled", [0, 1, 1, 1, 0])
    dataset = store.open_dataset(tmp_path / "d")
    train = dataset.splits["train"]
    assert train.targets.tolist() == [0, 1, 1, 1, 0] and len(train) == 2
    assert dataset.labels == ("no", "yes") and dataset.outputs == 2
    assert dataset.description["splits"]["train"]["tags"] == {"no": 2, "yes": 3}
    assert np.load(tmp_path / "d/train/tags.npy").dtype == np.int32


PAIRS = [([1, 4, 5], [1, 4], "b\\"), ([1, 5], [1, 6, 5, 4], " C\u2028\n"), ([1, 4], [1, 4], "")]


def fill_with_pairs(folder, pairs=PAIRS, shared=False):
    sources, targets, texts = zip(*pairs)
    lengths = [np.array(list(map(len, rows))) for rows in (sources, targets)]
    split = store.SplitWriter(folder / "train", lengths[0], fields.TEXT, target_lengths=lengths[1])
    for rows, write in ((sources, split.write), (targets, split.write_targets)):
        write(np.concatenate(rows[:1]))
        write(np.concatenate(rows[1:]))
    split.write_target_texts(texts[:2])
    split.write_target_texts(texts[2:])
    files, description = split.close(), {}
    for name, entries in (("vocabulary", "ab"), ("target_vocabulary", "xyz")):
        if name == "vocabulary" or not shared:
            lines = [*RESERVED, *entries]
            files[f"{name}.txt"] = store.write_lines(folder / f"{name}.txt", lines)
            description[f"{name}_size"] = len(lines)
            description[f"{name}_sha256"] = files[f"{name}.txt"]["sha256"]
    return {
        **description,
        "task": "translation",
        "target": "text",
        "order": "shuffled",
        "tokenizer": {"name": "spaces", "version": 1},
        "splits": {"train": split.described([])},
        "files": files,
    }


def write_pairs(data_dir, pairs=PAIRS, shared=False):
    """A small dataset of a text as the target."""
    with store.new_folder(data_dir) as folder:
        return store.publish(folder, fill_with_pairs(folder, pairs, shared), data_dir)


def test_a_target_that_is_a_text_has_offsets_texts_and_a_vocabulary_of_its_own(tmp_path):
    write_pairs(tmp_path / "d")
    dataset = store.open_dataset(tmp_path / "d")
    train = dataset.splits["train"]
    assert dataset.target is fields.TEXT and dataset.labels == () and dataset.outputs == 7
    assert dataset.target_vocabulary == (*RESERVED, "x", "y", "z") and len(train) == 3
    assert not dataset.shared_vocabulary and dataset.vocabulary[4:] == ("a", "b")
    assert train.inputs.tolist() == [1, 4, 5, 1, 5, 1, 4] and train.offsets.tolist() == [0, 3, 5, 7]
    assert train.targets.tolist() == [1, 4, 1, 6, 5, 4, 1, 4] and train.targets.dtype == np.int32
    assert train.target_offsets.tolist() == [0, 2, 6, 8]
    assert train.target_offsets.dtype == np.int64 and not train.target_offsets.flags.writeable
    assert dataset.target_texts("train") == [text for _, _, text in PAIRS]
    described = dataset.description["splits"]["train"]
    assert described == {
        "examples": 3,
        "tokens": 7,
        "lengths": {"2": 2, "4": 1},
        "longest": 3,
        "empty_texts": 0,
        "target_tokens": 8,
        "target_lengths": {"2": 2, "4": 1},
        "target_longest": 4,
    }


def test_a_target_may_share_the_vocabulary(tmp_path):
    pairs = [(source, [id % 6 for id in target], text) for source, target, text in PAIRS]
    dataset = write_pairs(tmp_path / "d", pairs, shared=True)
    assert dataset.shared_vocabulary and dataset.target_vocabulary is dataset.vocabulary
    assert dataset.outputs == 6 and not (tmp_path / "d/target_vocabulary.txt").exists()
    assert not write(tmp_path / "labels").shared_vocabulary
    assert write(tmp_path / "labels").target_vocabulary == ()


@pytest.mark.parametrize(
    "name",
    [
        "target_vocabulary.txt",
        "train/target_tokens.npy",
        "train/target_offsets.npy",
        "train/target_texts.txt",
    ],
)
def test_a_damaged_file_of_a_target_is_an_error(tmp_path, name):
    for number, damage in enumerate((flip_a_byte, cut, os.unlink)):
        dataset = write_pairs(tmp_path / f"d{number}")
        damage(dataset.folder / name)
        with pytest.raises(DataError, match=f"{name}.*delete the folder {dataset.folder} and"):
            store.open_dataset(dataset.folder)


def test_parts_of_a_target_that_do_not_fit_are_found_although_the_hashes_match(tmp_path):
    def refused(name, message, changed):
        with store.new_folder(tmp_path / name) as folder:
            description = fill_with_pairs(folder)
            changed(folder, description)
            with pytest.raises(DataError, match=message):
                store.publish(folder, description, tmp_path / name)
                store.open_dataset(tmp_path / name)

    def array(part, values):
        def changed(folder, description):
            writer = store.ArrayWriter(
                folder / f"train/{part}.npy", store.ARRAYS[part], len(values)
            )
            writer.write(np.array(values))
            description["files"][f"train/{part}.npy"] = writer.close()

        return changed

    def texts(folder, description):
        path = folder / "train/target_texts.txt"
        description["files"]["train/target_texts.txt"] = store.write_lines(path, ["b", "C"])

    def listed(part, value):
        return lambda folder, description: description.update({part: value})

    refused("a", "target_tokens.npy: an id is outside 0..6", array("target_tokens", [1, 7] * 4))
    refused("b", "the count of target_tokens is 7, but", array("target_tokens", [1] * 7))
    rise = "target_offsets.npy: the offsets do not rise"
    refused("c", rise, array("target_offsets", [0, 2, 2, 8]))
    refused("d", rise, array("target_offsets", [0, 2, 6, 7]))
    refused("e", "the count of target_offsets is 2, but", array("target_offsets", [0, 2, 8]))
    refused("f", "target_texts.txt: the count of texts is 2, but dataset.json has 3", texts)
    refused("g", "its target_vocabulary_size is not", listed("target_vocabulary_size", 6))
    refused("h", "its target_vocabulary_sha256 is not", listed("target_vocabulary_sha256", "ab"))


def test_a_target_text_that_was_cut_is_damage_when_it_is_read(tmp_path):
    dataset = write_pairs(tmp_path / "d")
    store.write_lines(tmp_path / "d/train/target_texts.txt", ["b"])
    with pytest.raises(DataError, match="the count of texts is 1, but dataset.json has 3"):
        dataset.target_texts("train")


def edit(folder, **changes):
    """Changes parts of dataset.json, or removes them with None, as an older version would write it:
    without its sha256 beside it.
    """
    path = folder / "dataset.json"
    described = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in described.items() if value}))
    (folder / "dataset.json.sha256").unlink()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"target": "smell"}, "the target is 'smell', but this version knows label, tags, next"),
        ({"order": "sorted"}, "the order is 'sorted', but this version knows shuffled, streams"),
        ({"order": ["streams"]}, "the order is"),
        ({"order": None}, "parts are missing"),
        ({"task": None}, "parts are missing"),
    ],
)
def test_a_description_of_format_2_must_be_whole_and_known(tmp_path, change, message):
    write_format_2(tmp_path / "d", fields.TAGS, "shuffled", [0, 1, 1, 1, 0])
    edit(tmp_path / "d", **change)
    with pytest.raises(DataError, match=message):
        store.open_dataset(tmp_path / "d")


@pytest.mark.parametrize(
    "values, message",
    [([0, 1, 1, 1, 2], "tags.npy: an id is outside 0..1"), ([0, 1, 1, 1], "tags.npy")],
)
def test_tags_that_do_not_fit_are_found(tmp_path, values, message):
    with pytest.raises(DataError, match=message):
        write_format_2(tmp_path / "d", fields.TAGS, "shuffled", values, ("no", "yes", "more"))
        store.open_dataset(tmp_path / "d")


def test_files_are_plain_numpy_arrays(tmp_path):
    write(tmp_path / "d")
    assert np.load(tmp_path / "d/train/tokens.npy").tolist() == [1, 4, 5, 1, 1, 4]
    assert np.load(tmp_path / "d/train/offsets.npy").dtype == np.int64


def test_the_description_counts_the_content(tmp_path):
    split = write(tmp_path / "d").description["splits"]["train"]
    assert split == {
        "examples": 3,
        "tokens": 6,
        "labels": {"no": 2, "yes": 1},
        "lengths": {"1": 1, "2": 1, "4": 1},
        "longest": 3,
        "empty_texts": 1,
    }


def test_the_digest_identifies_the_content(tmp_path):
    one, same = write(tmp_path / "one"), write(tmp_path / "same")
    other = write(tmp_path / "other", {**SEQUENCES, "test": ([[1, 4]], [1])})
    assert one.digest == same.digest != other.digest


@pytest.mark.parametrize(
    "entry",
    ["a", " ", "\\", "\\n", "\n", "\r\n", "\x85", "\u2028", "\\x0a", "\t", "é", "\U0001f600", ""],
)
def test_every_vocabulary_entry_survives_the_file(tmp_path, entry):
    assert write(tmp_path / "d", vocabulary=(*RESERVED, entry, "b")).vocabulary[4] == entry
    assert len((tmp_path / "d/vocabulary.txt").read_text().splitlines()) == 6


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip_a_byte, cut, os.unlink])
@pytest.mark.parametrize(
    "name",
    ["vocabulary.txt", "labels.txt", "train/tokens.npy", "train/offsets.npy", "test/labels.npy"],
)
def test_a_damaged_file_is_an_error_with_its_name_and_the_remedy(tmp_path, damage, name):
    write(tmp_path / "d")
    damage(tmp_path / "d" / name)
    with pytest.raises(DataError, match=f"{name}.*delete the folder {tmp_path}/d and run"):
        store.open_dataset(tmp_path / "d")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"format": 1}',
        '{"format": 1, "format": 1}',
        "[" * 100_000,
        '{"format": ' + "1" * 5000 + "}",
        '{"format": NaN, "tokenizer": {}, "splits": {}, "files": {}}',
        b"\xff",
    ],
)
@pytest.mark.parametrize("older", [False, True])
def test_a_damaged_description_is_a_data_error(tmp_path, content, older):
    write(tmp_path / "d")
    if older:
        (tmp_path / "d/dataset.json.sha256").unlink()
    path = tmp_path / "d/dataset.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match="dataset.json"):
        store.open_dataset(tmp_path / "d")


def test_the_digest_of_the_description_lies_beside_it(tmp_path):
    digest = write(tmp_path / "d").digest
    beside = tmp_path / "d/dataset.json.sha256"
    assert beside.read_text() == f"{digest}  dataset.json\n"
    description, found = store.read_description(tmp_path / "d")
    assert found == digest
    for damage in (flip_a_byte, cut, lambda path: path.write_bytes(b"")):
        beside.write_text(f"{digest}  dataset.json\n")
        damage(beside)
        with pytest.raises(DataError, match=f"its sha256 is {digest}, which is not the one in"):
            store.read_description(tmp_path / "d")
    beside.unlink()  # As an older version left it.
    assert store.read_description(tmp_path / "d") == (description, digest)


@pytest.mark.parametrize(
    "part, change, message",
    [
        ("splits", lambda splits: {"train": splits["train"]}, "do not agree about test/"),
        ("splits", lambda splits: {**splits, "tesu": splits["test"]}, "a split is named 'tesu'"),
        ("splits", lambda splits: {**splits, "test": {"examples": 1}}, "not as `prepare`"),
        ("splits", lambda splits: {**splits, "test": {"examples": 1, "tokens": 2.0}}, "not as"),
        ("splits", lambda splits: [splits], "not as `prepare` wrote it"),
        ("files", lambda files: {**files, "../x": files["labels.txt"]}, "do not agree about ../x"),
        ("files", lambda files: {**files, "labels.txt": {"size": 7}}, "not as `prepare` wrote it"),
        ("files", lambda files: {**files, "labels.txt": {"size": 7, "sha256": 1}}, "its sha256 is"),
        ("tokenizer", lambda tokenizer: {"version": 1}, "not as `prepare` wrote it"),
        ("task", lambda task: 3, "not as `prepare` wrote it"),
        ("classes", lambda classes: ["no", "nes"], "its classes is not what its files hold"),
        ("vocabulary_size", lambda size: 7, "its vocabulary_size is not what its files hold"),
        ("vocabulary_sha256", lambda digest: "ab", "its vocabulary_sha256 is not"),
    ],
)
def test_parts_of_the_description_that_do_not_agree_are_damage(tmp_path, part, change, message):
    """An older dataset has no digest beside it."""
    described = write(tmp_path / "d").description
    edit(tmp_path / "d", **{part: change(described.get(part))})
    with pytest.raises(DataError, match=message):
        store.open_dataset(tmp_path / "d")


def test_without_its_splits_a_dataset_has_what_texts_are_read_with(tmp_path):
    whole = write(tmp_path / "d")
    for split in whole.splits:
        shutil.rmtree(tmp_path / "d" / split)
    opened = store.open_dataset(tmp_path / "d", splits=False)
    assert opened.splits == {} and opened.digest == whole.digest
    assert (opened.vocabulary, opened.labels) == (whole.vocabulary, whole.labels)
    with pytest.raises(DataError, match="cannot be read"):
        store.open_dataset(tmp_path / "d")


@pytest.mark.parametrize("name", ["dataset.json", "dataset.json.sha256", "train/tokens.npy"])
def test_a_file_that_may_not_be_read_is_no_damage(tmp_path, monkeypatch, name):
    write(tmp_path / "d")
    read, path = open, tmp_path / "d" / name

    def refuse(file, *arguments, **options):
        if str(file) == str(path):
            raise PermissionError(13, "Permission denied")
        return read(file, *arguments, **options)

    opened = os.open

    def refuse_number(file, *arguments, **options):
        if str(file) == str(path):
            raise PermissionError(13, "Permission denied")
        return opened(file, *arguments, **options)

    monkeypatch.setattr(io, "open", refuse)  # As pathlib opens,
    monkeypatch.setattr(durable, "open", refuse, raising=False)  # as `sha256` does,
    monkeypatch.setattr(os, "open", refuse_number)  # and as `read_bytes` does.
    with pytest.raises(DataError, match="Permission denied") as refusal:
        store.open_dataset(tmp_path / "d")
    assert str(path) in str(refusal.value) and "delete" not in str(refusal.value)


def test_a_newer_format_is_refused_before_anything_is_read(tmp_path):
    write(tmp_path / "d")
    edit(tmp_path / "d", format=3)
    with pytest.raises(DataError, match="format 3, but this version reads format 1 and 2"):
        store.open_dataset(tmp_path / "d")


@pytest.mark.parametrize(
    "sequences, message",
    [
        ({"train": ([[1, 6], [1]], [0, 1])}, r"tokens.npy: an id is outside 0..5"),
        ({"train": ([[1, -1], [1]], [0, 1])}, r"tokens.npy: an id is outside 0..5"),
        ({"train": ([[1], [1]], [0, 2])}, r"labels.npy: an id is outside 0..1"),
        ({"train": ([[1], []], [0, 1])}, "offsets do not rise"),
    ],
)
def test_ids_out_of_range_are_found_although_the_hashes_match(tmp_path, sequences, message):
    with store.new_folder(tmp_path / "d") as folder:
        described = fill(folder, {"train": ([[1], [1]], [0, 1])}, "012345")
        described["files"] |= overwritten(folder, sequences["train"])
        described["splits"]["train"] |= {"tokens": sum(map(len, sequences["train"][0]))}
        store.publish(folder, described, tmp_path / "d")
    with pytest.raises(DataError, match=message):
        store.open_dataset(tmp_path / "d")


def overwritten(folder, split):
    rows, labels = split
    arrays = {
        "tokens": np.concatenate(rows),
        "offsets": np.cumsum([0, *map(len, rows)]),
        "labels": np.array(labels),
    }
    files = {}
    for name, values in arrays.items():
        writer = store.ArrayWriter(folder / f"train/{name}.npy", store.ARRAYS[name], len(values))
        writer.write(values)
        files[f"train/{name}.npy"] = writer.close()
    return files


@pytest.mark.parametrize("made", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_text("x")])
def test_a_folder_that_is_not_a_dataset_is_a_usage_error(tmp_path, made):
    made(tmp_path / "d")
    with pytest.raises(UsageError, match="run `prepare --data_dir="):
        store.open_dataset(tmp_path / "d")


def test_an_interrupted_writer_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), store.new_folder(tmp_path / "d") as folder:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_failed_write_is_a_storage_error_and_leaves_nothing(tmp_path):
    with pytest.raises(StorageError, match="No space left"), store.new_folder(tmp_path / "d"):
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_the_second_writer_of_an_equal_dataset_succeeds(tmp_path):
    first = write(tmp_path / "d")
    assert write(tmp_path / "d").digest == first.digest
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_the_second_writer_of_another_dataset_is_refused_and_the_first_dataset_stays(tmp_path):
    first = write(tmp_path / "d")
    with pytest.raises(UsageError, match="holds another dataset"):
        write(tmp_path / "d", {**SEQUENCES, "test": ([[1, 4]], [1])})
    assert store.open_dataset(tmp_path / "d").digest == first.digest
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_dataset_may_replace_an_empty_folder_but_not_a_full_one(tmp_path):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="exists and is not a prepared dataset"):
        store.refuse_other_content(tmp_path / "full")
    with pytest.raises(UsageError, match="exists and is not a prepared dataset"):
        write(tmp_path / "full")
    assert (tmp_path / "full/thesis.tex").exists()


def test_a_name_that_cannot_be_made_durable_is_a_storage_error(tmp_path, monkeypatch):
    """The rename succeeded; the sync of the parent folder fails."""
    sync = durable.sync

    def fail_at_parent(path):
        if path == tmp_path and (tmp_path / "d").exists():
            raise OSError(5, "Input/output error")
        sync(path)

    monkeypatch.setattr(durable, "sync", fail_at_parent)
    with pytest.raises(StorageError, match="Input/output error"):
        write(tmp_path / "d")


KILLED_WRITER = """
import os, pathlib, sys
from trainer.data import store
with store.new_folder(sys.argv[1]) as folder:
    print(folder, flush=True)
    sys.stdin.read() and None
    os.kill(os.getpid(), 9)
"""


def test_leftovers_of_a_killed_writer_are_removed_but_not_the_folder_of_a_live_one(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    writer = subprocess.Popen(
        [sys.executable, "-c", KILLED_WRITER, str(tmp_path / "d")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    folder = pathlib.Path(writer.stdout.readline().strip())
    long_ago = time.time() - 3600
    os.utime(folder, (long_ago, long_ago))
    durable.remove_leftovers(tmp_path / "d")
    assert folder.exists()
    writer.communicate("")
    durable.remove_leftovers(tmp_path / "d")
    assert not folder.exists()


def test_a_new_folder_that_is_not_locked_yet_is_not_a_leftover(tmp_path):
    with store.new_folder(tmp_path / "d") as folder:
        young = folder.with_name(folder.name + "young")
        young.mkdir()
        durable.remove_leftovers(tmp_path / "d")
        assert young.exists()


# --- frames and values ----------------------------------------------------------------------------

INPUT = {
    "kind": "frames",
    "shape": [2, 1],
    "names": ["x", "y"],
    "mean": [1.0, 2.0],
    "deviation": [4.0, 0.5],
}
VALUES = [{"name": "speed", "mean": 3.0, "deviation": 2.0}]
FORM = fields.Form(fields.VALUES, features=2, values=1)


def write_frames(folder, read=INPUT, values=VALUES, frames=((1, 2), (5, 2), (1, 3))):
    """Writes two examples of frames of two features, each with a value."""
    with store.new_folder(folder) as new:
        lengths = np.array([1, 2])
        writer = store.SplitWriter(new / "train", lengths, fields.VALUES, starts=0, form=FORM)
        writer.write(np.float32(frames))
        writer.write_targets(np.float32([[5], [3]]))
        files = writer.close()
        described = {
            "task": "regression",
            "order": fields.SHUFFLED,
            "target": fields.VALUES.kind,
            "input": read,
            "values": values,
            "splits": {"train": writer.described([])},
            "files": files,
        }
        return store.publish(new, described, folder)


def test_frames_and_values_are_read_back_as_they_were_written(tmp_path):
    write_frames(tmp_path / "d")
    dataset = store.open_dataset(tmp_path / "d")
    split = dataset.splits["train"]
    assert split.inputs.tolist() == [[1, 2], [5, 2], [1, 3]]
    assert split.offsets.tolist() == [0, 1, 3] and split.targets.tolist() == [[5], [3]]
    assert split.normalise.applied(split.inputs).tolist() == [[0, 0], [1, 0], [0, 2]]
    assert split.standardise.applied(split.targets).tolist() == [[1], [0]]
    assert dataset.form == FORM and dataset.frame == (2, 1) and dataset.outputs == 1
    assert dataset.features == ("x", "y") and dataset.values == ("speed",)
    assert dataset.vocabulary == dataset.labels == ()
    assert dataset.description["splits"]["train"]["frames"] == 3


def test_frames_that_are_not_normalised_have_no_scale(tmp_path):
    dataset = write_frames(tmp_path / "d", {"kind": "frames", "shape": [2]})
    assert dataset.splits["train"].normalise is None and dataset.features == ()


@pytest.mark.parametrize(
    "change",
    [
        {"input": {**INPUT, "shape": [2, 0]}},
        {"input": {**INPUT, "shape": 2}},
        {"input": {**INPUT, "names": ["x"]}},
        {"input": {**INPUT, "mean": [1.0, "2"]}},
        {"input": {**INPUT, "deviation": None}},
        {"input": "frames"},
        {"values": []},
        {"values": [{"name": "speed", "mean": 3.0}]},
        {"values": [3]},
        {"values": 1},
        {"target": "label"},
    ],
)
def test_a_description_of_frames_that_is_incomplete_is_damage(tmp_path, change):
    write_frames(tmp_path / "d")
    _rewrite(tmp_path / "d", change)
    with pytest.raises(DataError, match="delete the folder"):
        store.open_dataset(tmp_path / "d")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"input": {**INPUT, "kind": "waves"}}, "the input is 'waves', but this version knows"),
        (
            {"input": {"kind": "frames", "shape": [3]}},
            "a row has 2 numbers, but dataset.json has 3",
        ),
        ({"values": VALUES * 2}, "a row has 1 numbers, but dataset.json has 2"),
    ],
)
def test_frames_of_another_form_than_described_are_refused(tmp_path, change, message):
    write_frames(tmp_path / "d")
    _rewrite(tmp_path / "d", change)
    with pytest.raises(DataError, match=message):
        store.open_dataset(tmp_path / "d")


def test_a_number_that_is_not_finite_is_damage(tmp_path):
    write_frames(tmp_path / "d", frames=((1, 2), (5, np.nan), (1, 3)))
    with pytest.raises(DataError, match="frames.npy: a number in it is not finite"):
        store.open_dataset(tmp_path / "d")


def test_numbers_are_checked_a_block_at_a_time_however_wide_their_rows_are(tmp_path, monkeypatch):
    write_frames(tmp_path / "d", frames=((1, 2), (5, 2), (1, np.nan)))
    seen, isfinite = [], np.isfinite
    monkeypatch.setattr(
        np, "isfinite", lambda values: seen.append(values.shape) or isfinite(values)
    )
    for block, shapes in ((1, [(1, 2)] * 3), (4, [(2, 2), (1, 2)]), (100, [(3, 2)])):
        monkeypatch.setattr(store, "_BLOCK", block)
        with pytest.raises(DataError, match="frames.npy: a number in it is not finite"):
            store.open_dataset(tmp_path / "d")
        assert [shape for shape in seen if shape[1:] == (2,)] == shapes
        seen.clear()


def _rewrite(folder, change):
    """Changes dataset.json, as a program would that seals what it writes."""
    path = folder / store.DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | change), encoding="utf-8")
    (folder / store.DIGEST).unlink()
