"""The story of `prepare`: a source becomes a dataset folder, in flat memory.

    one pass over the text:  source -> batches of rows -> texts checked -> units of text
                             -> spool on disk
    passes over the spool:   splits and duplicates -> counts in the training split -> vocabulary
                             -> ids -> arrays of each split -> dataset.json -> renamed to its place

Units of text are numbers that stand for words, characters or bytes before the vocabulary is known.
"""

import logging
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from trainer import config as configuration
from trainer.data import store, text
from trainer.exit_codes import DataError, UsageError
from trainer.prepare import folders, rows, sources, splits, vocabulary
from trainer.prepare.classes import Classes
from trainer.prepare.reading import ReadingProgress, ahead
from trainer.prepare.spool import Spool

log = logging.getLogger(__name__)


def prepare(config: configuration.Prepare) -> store.Dataset:
    """Prepares the dataset that `config` describes, or finds it prepared already; returns it open.

    Raises:
      UsageError: flags contradict each other, files are missing, or `config.data_dir` holds another
        dataset.
      DataError: the input does not have the form that the flags name; the message names file and
        line.
      StorageError: the dataset cannot be written.
    """
    store.refuse_other_content(config.data_dir)
    source = sources.open_source(config)
    _check_fractions(source, config)
    tokenizer = text.settings(_tokenizer_name(source, config), bool(config.lowercase))
    if source.entries is not None:
        units = vocabulary.Given(source.entries)
    else:
        units = vocabulary.units_of(tokenizer)
    with store.new_folder(config.data_dir) as folder:
        with Spool(folder / "spool") as spool:
            classes, replaced = _read(source, units, config, spool)
            _check_given_splits(source, spool)
            log.info("read %d rows; ranking the vocabulary and writing the splits", spool.rows)
            description = _write(folder, spool, units, classes, config)
        description |= {"source": config.source, "tokenizer": tokenizer}
        description["counts"]["replaced"] = replaced
        _report(description)
        return store.publish(folder, description, config.data_dir)


def _check_fractions(source: rows.Source, config: configuration.Prepare) -> None:
    """Raises UsageError if a fraction asks for a split that the source brings."""
    for split in ("validation", "test"):
        fraction = getattr(config, f"{split}_fraction")
        if fraction and split in source.paths:
            raise UsageError(
                f"--{split}_fraction={fraction}: the {split} split is given already, and given "
                "splits stay whole. Leave the flag out."
            )


def _tokenizer_name(source: rows.Source, config: configuration.Prepare) -> str:
    """Returns the tokenizer's name for dataset.json: "none" for ids without words."""
    return "none" if source.entries is not None and not source.has_words else config.tokenizer


def _read(
    source: rows.Source, units: vocabulary.Units, config: configuration.Prepare, spool: Spool
) -> tuple[Classes, int]:
    """Reads the whole source into `spool`.

    Returns:
      Its classes, and how many ill-formed byte sequences were replaced.
    """
    classes, replaced = Classes(), 0
    is_text = source.entries is None

    def begin(batch: rows.Rows) -> tuple[rows.Rows, int, Sequence[np.ndarray]]:
        mended = rows.clean(batch, config.encoding_errors) if is_text else 0
        return batch, mended, units.begin(batch.texts)

    with ReadingProgress(source.size) as progress:
        for batch, mended, begun in ahead(
            begin, source.read(progress.advance), threads=os.cpu_count() or 1
        ):
            numbers, lengths = units.finish(begun)
            given = _splits_of(batch)
            contents = batch.texts if is_text else (row.tobytes() for row in batch.texts)
            spool.add(
                numbers,
                lengths=lengths,
                labels=classes.add(batch, given),
                splits=given,
                keys=splits.keys(contents, config.seed),
            )
            replaced += mended
            progress.add_rows(len(batch))
    return classes, replaced


def _check_given_splits(source: rows.Source, spool: Spool) -> None:
    """Raises DataError if the files of a split hold no row for it."""
    given = spool.read("splits")
    for split, paths in source.paths.items():
        if not (given == store.SPLITS.index(split)).any():
            others = f" or in the {len(paths) - 1} files after it" if len(paths) > 1 else ""
            raise DataError(
                f"{paths[0]}:1: no row for the {split} split in this file{others}. "
                "Check the flag that names the data."
            )


def _splits_of(batch: rows.Rows) -> np.ndarray:
    """Returns the split that the source names for each row, int8 [rows]."""
    if batch.splits is None:
        return np.full(len(batch), store.SPLITS.index(batch.split), np.int8)
    for name, place in zip(batch.splits, batch.places):
        if name not in folders.SPLIT_NAMES:
            raise DataError(
                f"{rows.at(place)}: the split is {name!r}, but it must be one of "
                f"{', '.join(folders.SPLIT_NAMES)}. Correct the row, or name another "
                "--split_column."
            )
    return np.array(
        [store.SPLITS.index(folders.SPLIT_NAMES[name]) for name in batch.splits], np.int8
    )


def _write(
    folder: pathlib.Path,
    spool: Spool,
    units: vocabulary.Units,
    classes: Classes,
    config: configuration.Prepare,
) -> dict:
    """Writes every file except dataset.json; returns their part of dataset.json."""
    names, class_ids = classes.ranked()
    lengths, labels = spool.read("lengths"), class_ids[spool.read("labels")]
    assignment = splits.assign(
        spool.read("keys"),
        spool.read("splits"),
        labels,
        config.validation_fraction,
        config.test_fraction,
    )
    counts = _count(spool, lengths, assignment.splits == splits.TRAIN, units.size)
    entries, ids = units.vocabulary(counts, config.vocabulary_size - text.FIRST_ID)
    if not entries:
        raise DataError(
            f"no training text holds a token of --tokenizer={config.tokenizer}. Check "
            "--text_column, or use another tokenizer."
        )
    written = _split_files(folder, lengths, labels, assignment.splits)
    _write_tokens(spool, lengths, assignment.splits, ids, written)
    files = {name: entry for files in written.values() for name, entry in files.close().items()}
    lines = [*text.RESERVED, *map(store.escape, entries)]
    files["vocabulary.txt"] = store.write_lines(folder / "vocabulary.txt", lines)
    files["labels.txt"] = store.write_lines(folder / "labels.txt", names)
    return {
        "classes": names,
        "vocabulary_size": text.FIRST_ID + len(entries),
        "vocabulary_sha256": files["vocabulary.txt"]["sha256"],
        "splits": {
            store.SPLITS[split]: of_split.described(names) for split, of_split in written.items()
        },
        "counts": {
            "duplicates_removed": assignment.duplicates,
            "texts_with_several_labels": assignment.ambiguous,
            "overlaps": assignment.overlaps,
        },
        "files": files,
    }


def _count(spool: Spool, lengths: np.ndarray, wanted: np.ndarray, size: int) -> np.ndarray:
    """Returns how often each unit occurs in the wanted rows (bool [rows]), int64 [size]."""
    counts = np.zeros(size, np.int64)
    for chunk, numbers in spool.chunks(lengths):
        counts += np.bincount(numbers[np.repeat(wanted[chunk], lengths[chunk])], minlength=size)
    return counts


def _split_files(
    folder: pathlib.Path, lengths: np.ndarray, labels: np.ndarray, assigned: np.ndarray
) -> dict[int, store.SplitWriter]:
    """Returns a writer for each split that has rows; `assigned`: `Assignment.splits`."""
    members = {split: assigned == split for split in range(len(store.SPLITS))}
    return {
        split: store.SplitWriter(folder / store.SPLITS[split], lengths[member], labels[member])
        for split, member in members.items()
        if member.any()
    }


def _write_tokens(
    spool: Spool,
    lengths: np.ndarray,
    assigned: np.ndarray,
    ids: np.ndarray,
    written: dict[int, store.SplitWriter],
) -> None:
    """Writes the tokens of all rows; `ids`: the id of each unit."""
    for chunk, numbers in spool.chunks(lengths):
        split_of_token = np.repeat(assigned[chunk], lengths[chunk])
        for split, files in written.items():
            files.write(ids[numbers[split_of_token == split]])


def _report(description: dict) -> None:
    """Logs what the dataset holds."""
    counts = description["counts"]
    for name, split in description["splits"].items():
        log.info(
            "%s: %d examples, %d tokens, longest %d, labels %s",
            name,
            split["examples"],
            split["tokens"],
            split["longest"],
            split["labels"],
        )
        if split["empty_texts"]:
            log.warning(
                "%s: %d examples without a token; they hold the start id only",
                name,
                split["empty_texts"],
            )
        if missing := [label for label, count in split["labels"].items() if not count]:
            log.warning("%s: no example of %s", name, ", ".join(missing))
    if counts["duplicates_removed"]:
        log.info("%d duplicate rows removed before the split", counts["duplicates_removed"])
    if counts["texts_with_several_labels"]:
        log.warning(
            "%d texts occur with more than one label; all rows of such a text are in one split",
            counts["texts_with_several_labels"],
        )
    for pair, texts in counts["overlaps"].items():
        log.warning("%d texts occur in both of %s; given splits stay whole", texts, pair)
    if counts["replaced"]:
        log.warning("%d ill-formed byte sequences replaced by U+FFFD", counts["replaced"])
    log.info("vocabulary: %d ids", description["vocabulary_size"])
