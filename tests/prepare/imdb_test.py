"""The IMDB reviews in each of their three forms, from small files and from the real ones."""

import collections
import json
import lzma
import pathlib

import numpy as np
import pytest

from trainer.exit_codes import DataError, UsageError
from trainer.flags.prepare import Prepare
from trainer.prepare import command as prepare
from trainer.prepare import imdb

IMDB = pathlib.Path(__file__).resolve().parents[2] / "../shared/data/imdb"
needs_imdb = pytest.mark.skipif(
    not IMDB.is_dir(), reason="no IMDB files beside the project (../shared/data/imdb)"
)


def flags(raw_data, **others):
    return Prepare(source="imdb", raw_data=str(raw_data), **{"data_dir": "unused"} | others)


def prepared(tmp_path, raw_data, **others):
    return prepare.prepare(flags(raw_data, data_dir=str(tmp_path / "d"), **others))


def examples(dataset, split):
    part = dataset.splits[split]
    return np.split(np.asarray(part.inputs), part.offsets[1:-1])


def rows(source):
    """[(split, file, number, text or ids, label)] of a source."""
    return [
        (batch.split, pathlib.Path(place[0]).name, place[1], text, label)
        for batch in source.read(lambda count: None)
        for place, text, label in zip(batch.places, batch.texts, batch.labels)
    ]


def write_tables(root, train, test=b"0\t2\t7\tdull\n1\t8\t8\tfine\n"):
    (root / "aclImdb_train.tsv.xz").write_bytes(lzma.compress(train))
    (root / "aclImdb_test.tsv").write_bytes(test)


def test_tables_keep_tabs_in_texts_and_have_their_classes_named(tmp_path):
    write_tables(tmp_path, b"1\t9\t0_9\tfine\tfilm\n0\t1\t1_1\tdull\n")
    assert rows(imdb.open_source(flags(tmp_path))) == [
        ("train", "aclImdb_train.tsv.xz", 1, b"fine\tfilm", "positive"),
        ("train", "aclImdb_train.tsv.xz", 2, b"dull", "negative"),
        ("test", "aclImdb_test.tsv", 1, b"dull", "negative"),
        ("test", "aclImdb_test.tsv", 2, b"fine", "positive"),
    ]


def test_tables_become_a_dataset_with_the_official_splits(tmp_path):
    write_tables(tmp_path, b"1\t9\t0_9\tfine\tfilm\n0\t1\t1_1\tdull\n")
    dataset = prepared(tmp_path, tmp_path)
    assert dataset.labels == ("negative", "positive")
    assert dataset.splits["train"].targets.tolist() == [1, 0]
    assert dataset.splits["test"].targets.tolist() == [0, 1]
    first = [dataset.vocabulary[i] for i in examples(dataset, "train")[0]]
    assert first == ["[start]", "fine", "film"]


@pytest.mark.parametrize(
    "line, what",
    [
        (b"1\t9\tfine\n", "must be label, rating, id and text"),
        (b"2\t9\t0\tx\n", "the label is '2', but it must be 0 .negative. or 1 .positive."),
    ],
)
def test_an_error_in_a_table_names_file_and_line(tmp_path, line, what):
    write_tables(tmp_path, b"1\t9\t0_9\tfine\n" + line)
    with pytest.raises(DataError, match=f"aclImdb_train.tsv.xz:2: {what}"):
        rows(imdb.open_source(flags(tmp_path)))


def write_folders(root):
    for name, content in {
        "train/pos/1_9.txt": "fine",
        "train/neg/2_1.txt": "dull",
        "train/unsup/3_0.txt": "?",
        "test/pos/1_8.txt": "good",
        "train/labeledBow.feat": "1",
        "README": "x",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def test_the_extracted_archive_has_its_classes_named_and_no_unlabelled_texts(tmp_path):
    assert rows(imdb.open_source(flags(write_folders(tmp_path / "aclImdb")))) == [
        ("train", "2_1.txt", 1, b"dull", "negative"),
        ("train", "1_9.txt", 1, b"fine", "positive"),
        ("test", "1_8.txt", 1, b"good", "positive"),
    ]


def test_tables_come_before_folders_and_folders_before_ranks(tmp_path):
    def files():
        return {
            path for paths in imdb.open_source(flags(tmp_path)).paths.values() for path in paths
        }

    write_npz(tmp_path / "imdb.npz")
    assert files() == {str(tmp_path / "imdb.npz")}
    write_folders(tmp_path)
    assert {pathlib.Path(path).suffix for path in files()} == {".txt"}
    write_tables(tmp_path, b"1\t9\t0_9\tfine\n")
    assert {pathlib.Path(path).suffix for path in files()} == {".tsv", ".xz"}


def test_a_place_without_reviews_is_refused_with_the_three_forms(tmp_path):
    with pytest.raises(UsageError, match="holds no IMDB data.*aclImdb_train.*aclImdb.*imdb.npz"):
        imdb.open_source(flags(tmp_path))


def write_npz(path, train=([1, 2, 3], [2, 5]), test=([4],), labels=((1, 0), (1,))):
    def ragged(lists):
        array = np.empty(len(lists), object)
        array[:] = [list(row) for row in lists]
        return array

    np.savez(
        path,
        x_train=ragged(train),
        y_train=np.array(labels[0]),
        x_test=ragged(test),
        y_test=np.array(labels[1]),
    )
    return path


def test_ranks_become_the_ids_of_keras(tmp_path):
    path = write_npz(tmp_path / "imdb.npz")
    (tmp_path / "imdb_word_index.json").write_text(
        json.dumps({"of": 4, "the": 1, "a": 3, "and": 2, "to": 5})
    )
    dataset = prepared(tmp_path, path, vocabulary_size=7)
    assert dataset.vocabulary[4:] == ("the", "and", "a")
    assert dataset.tokenizer["name"] == "words"
    assert [ids.tolist() for ids in examples(dataset, "train")] == [[1, 4, 5, 6], [1, 5, 2]]
    assert [ids.tolist() for ids in examples(dataset, "test")] == [[1, 2]]


def test_ranks_without_words_train_but_cannot_encode(tmp_path):
    dataset = prepared(tmp_path, write_npz(tmp_path / "imdb.npz"))
    assert dataset.vocabulary[4:] == tuple(f"[rank {rank}]" for rank in range(1, 6))
    assert dataset.tokenizer["name"] == "none"


def test_batches_of_ranks_number_their_rows_through_the_split(tmp_path, monkeypatch):
    monkeypatch.setattr(imdb, "_BATCH_ROWS", 2)
    train = [[rank] for rank in (1, 2, 3, 4, 5)]
    path = write_npz(tmp_path / "imdb.npz", train, labels=((0, 1, 0, 1, 0), (1,)))
    source = imdb.open_source(flags(path))
    assert [len(batch) for batch in source.read(lambda count: None)] == [2, 2, 1, 1]
    found = [(split, number, ids.tolist(), label) for split, _, number, ids, label in rows(source)]
    assert found == [
        ("train", 1, [4], "negative"),
        ("train", 2, [5], "positive"),
        ("train", 3, [6], "negative"),
        ("train", 4, [7], "positive"),
        ("train", 5, [8], "negative"),
        ("test", 1, [7], "positive"),
    ]


def test_progress_over_ranks_ends_at_the_size_of_the_file(tmp_path):
    path, counts = write_npz(tmp_path / "imdb.npz"), []
    source = imdb.open_source(flags(path))
    list(source.read(counts.append))
    assert sum(counts) == source.size == path.stat().st_size


@pytest.mark.parametrize(
    "test, label, what",
    [
        ([4, 0], 1, "imdb.npz:1: row 1 of the test split holds a rank below 1"),
        ([4], 2, "imdb.npz:1: the label is '2'"),
    ],
)
def test_an_error_in_the_ranks_names_file_and_row(tmp_path, test, label, what):
    path = write_npz(tmp_path / "imdb.npz", test=(test,), labels=((1, 0), (label,)))
    with pytest.raises(DataError, match=what):
        rows(imdb.open_source(flags(path)))


def test_a_word_index_with_too_few_words_is_refused(tmp_path):
    (tmp_path / "imdb_word_index.json").write_text('{"a": 1, "b": 2}')
    with pytest.raises(DataError, match="imdb_word_index.json: 2 words, but .* holds rank 5"):
        imdb.open_source(flags(write_npz(tmp_path / "imdb.npz")))


def test_ranks_cannot_be_split_into_characters(tmp_path):
    path = write_npz(tmp_path / "imdb.npz")
    with pytest.raises(UsageError, match="--tokenizer=characters: .*no text"):
        imdb.open_source(flags(path, tokenizer="characters"))


@needs_imdb
def test_the_real_tables_hold_the_official_splits():
    batches = imdb.open_source(flags(IMDB)).read(lambda count: None)
    counted = collections.Counter(
        (batch.split, label) for batch in batches for label in batch.labels
    )
    assert counted == {
        (split, label): 12_500 for split in ("train", "test") for label in ("negative", "positive")
    }


@pytest.mark.slow
@needs_imdb
def test_the_real_npz_gives_what_keras_gives(tmp_path, monkeypatch):
    from keras.src.datasets import imdb as keras_imdb

    dataset = prepared(tmp_path, IMDB / "imdb.npz", vocabulary_size=10_000)
    monkeypatch.setattr(keras_imdb, "get_file", lambda **_: str(IMDB / "imdb.npz"))
    shuffle = np.random.RandomState(113)
    loaded = keras_imdb.load_data(num_words=10_000, seed=113)
    for split, (ids, labels) in zip(("train", "test"), loaded):
        order = np.arange(25_000)
        shuffle.shuffle(order)
        ours = examples(dataset, split)
        assert (dataset.splits[split].targets[order] == labels).all()
        assert all(ours[i].tolist() == theirs for i, theirs in zip(order, ids))
