"""The Large Movie Review Dataset (Maas et al. 2011) with its official splits, in three forms.

    FOLDER/aclImdb_train.tsv.xz  FOLDER/aclImdb_test.tsv.xz   lines of label, rating, id and text,
                                                              separated by tabs (plain, .xz or .gz)
    aclImdb/{train,test}/{neg,pos}/0_9.txt ...                a file for each review, as extracted
    imdb.npz                                                  ranks of words, as Keras ships it

The word of rank r gets id r + 3, as in Keras. imdb.npz holds no words; they come from an
imdb_word_index.json beside it. Without that file the dataset trains, but cannot encode texts.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from trainer import shown
from trainer.data.text import FIRST_ID
from trainer.exit_codes import DataError, UsageError
from trainer.flags.prepare import Prepare
from trainer.prepare import folders, imdb_npz, raw_files
from trainer.prepare.rows import Place, Row, Rows, Source, at, batches

SENTIMENT = {"0": "negative", "1": "positive", "neg": "negative", "pos": "positive"}
_BATCH_ROWS = 4096


def open_source(config: Prepare) -> Source:
    """Returns the source of the reviews that lie at `config.raw_data`.

    Raises:
      UsageError: none of the three forms is there; imdb.npz with a tokenizer that needs text.
      DataError: imdb.npz or its word index is damaged, or they do not belong together.
    """
    place = config.raw_data
    tables = {
        split: _first_file(place, [f"aclImdb_{split}.tsv{suffix}" for suffix in ("", ".xz", ".gz")])
        for split in ("train", "test")
    }
    if all(tables.values()):
        return _tables(tables, config)
    if os.path.isdir(os.path.join(place, "train", "pos")):
        return _folders(place, config)
    arrays = place if place.endswith(".npz") else _first_file(place, ["imdb.npz"])
    if arrays and os.path.isfile(arrays):
        return _arrays(arrays, config)
    raise UsageError(
        f"--raw_data={place}: holds no IMDB data. Name a folder with aclImdb_train.tsv.xz and "
        "aclImdb_test.tsv.xz, the extracted folder aclImdb, or a file imdb.npz."
    )


def sentiment(label: str, place: Place) -> str:
    """Returns "negative" or "positive" for the label of a review.

    Raises:
      DataError: the label is neither 0 nor 1.
    """
    if label not in SENTIMENT:
        raise DataError(
            f"{at(place)}: the label is {shown.value(label)}, but it must be 0 (negative) or 1 "
            "(positive). Copy the file again."
        )
    return SENTIMENT[label]


def _first_file(folder: str, names: Sequence[str]) -> str | None:
    return next(filter(os.path.isfile, (os.path.join(folder, name) for name in names)), None)


def _tables(tables: dict[str, str], config: Prepare) -> Source:
    def read(advance: Callable[[int], None]) -> Iterator[Rows]:
        for split, path in tables.items():
            with raw_files.Stream(path, config.max_expansion, advance) as stream:
                yield from batches(_table_rows(stream, config.max_line_bytes), split)

    return Source({split: [path] for split, path in tables.items()}, read)


def _table_rows(stream: raw_files.Stream, max_line_bytes: int) -> Iterator[Row]:
    for number, line in raw_files.lines(stream, max_line_bytes):
        fields = line.split(b"\t", 3)  # The text may hold tabs.
        place = (stream.path, number)
        if len(fields) < 4:
            raise DataError(
                f"{at(place)}: must be label, rating, id and text, separated by tabs, but begins "
                f"with {line[:30]!r}. Copy the file again."
            )
        yield place, fields[3], sentiment(fields[0].decode("ascii", "replace"), place), None


def _folders(place: str, config: Prepare) -> Source:
    parts = [
        dataclasses.replace(part, label=SENTIMENT[part.label])
        for split in ("train", "test")
        for part in folders.find(os.path.join(place, split), split, "raw_data")
        if part.label in SENTIMENT
    ]
    return folders.source_of(parts, config)


def _arrays(path: str, config: Prepare) -> Source:
    tokenizer = config.with_defaults("tokenizer")
    if tokenizer != "words":
        raise UsageError(
            f"--tokenizer={tokenizer}: {path} holds ranks of words and no text. "
            "Use --tokenizer=words."
        )
    splits = imdb_npz.read(path, config.max_expansion)
    highest = max((max(row, default=0) for ranks, _ in splits.values() for row in ranks), default=0)
    index = os.path.join(os.path.dirname(path), "imdb_word_index.json")
    has_words = os.path.isfile(index)
    if has_words:
        entries = imdb_npz.words(index)
    else:
        entries = [f"[rank {rank}]" for rank in range(1, highest + 1)]
    if highest > len(entries):
        raise DataError(
            f"{index}: {len(entries)} words, but {path} holds rank {highest}. They do not belong "
            "together: copy both again."
        )

    def read(advance: Callable[[int], None]) -> Iterator[Rows]:
        for split, (ranks, labels) in splits.items():
            for begin in range(0, len(ranks), _BATCH_ROWS):
                batch = slice(begin, begin + _BATCH_ROWS)
                yield _rows_of_ids(path, split, begin, ranks[batch], labels[batch])
        advance(os.path.getsize(path))

    return Source(dict.fromkeys(splits, [path]), read, entries, has_words)


def _rows_of_ids(
    path: str, split: str, begin: int, ranks: Sequence[list[int]], labels: np.ndarray
) -> Rows:
    """Returns a batch whose first row is number `begin` of the split, from 0."""
    places = [(path, begin + i + 1) for i in range(len(ranks))]
    ids = [np.asarray(row, np.int32) + (FIRST_ID - 1) for row in ranks]
    for row, place in zip(ids, places):
        if row.size and row.min() < FIRST_ID:
            raise DataError(
                f"{at(place)}: row {place[1]} of the {split} split holds a rank below 1. "
                "Copy the file again."
            )
    return Rows(
        split, places, ids, [sentiment(str(label), place) for label, place in zip(labels, places)]
    )
