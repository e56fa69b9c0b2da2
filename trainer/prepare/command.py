"""The story of `prepare`: a source becomes a dataset folder, in flat memory.

    one pass over the text:  source -> batches of rows -> texts checked -> units of text
                             -> spool on disk
    passes over the spool:   splits and duplicates -> counts in the training split -> vocabulary
                             -> ids -> arrays of each split -> dataset.json -> renamed to its place

Units of text are numbers that stand for words, characters or bytes before the vocabulary is known.
What differs between tasks is in `targets.RECIPES`.
"""

import logging
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from trainer import config as configuration
from trainer import shown
from trainer.data import fields, store, text
from trainer.exit_codes import DataError, UsageError
from trainer.prepare import borrowed, findings, folders, rows, sources, splits, targets, vocabulary
from trainer.prepare.layout import Layout
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
    known = borrowed.of_dataset(config) if config.vocabulary_from else None
    config = known.applied(config) if known else config
    recipe = targets.RECIPES[config.task, config.lines]
    reader = recipe.reader(config)
    source = sources.open_source(config)
    _check_fractions(source, config)
    _check_words(source, config)
    tokenizer = text.settings(_tokenizer_name(source, config), bool(config.lowercase))
    if source.entries is not None:
        units = vocabulary.Given(source.entries)
    else:
        units = vocabulary.units_of(tokenizer)
    with store.new_folder(config.data_dir) as folder:
        with Spool(folder / "spool") as spool:
            replaced = _read(source, units, recipe, reader, config, spool)
            _check_given_splits(source, spool)
            log.info(
                "read %d rows; ranking the vocabulary and writing the splits",
                spool.read("begins").sum(),
            )
            names, class_ids = reader.ranked()
            layout = recipe.layout(spool, reader.answers(spool), config)
            reader.check(layout, source)
            entries, ids = _vocabulary(spool, layout, units, config, known)
            written = _split_files(folder, layout, recipe)
            unknown = _write_arrays(spool, layout, ids, class_ids, recipe.target, written)
            description = _describe(folder, written, entries, names)
        description |= {"source": config.source, "tokenizer": tokenizer}
        description |= recipe.described(config.task)
        description["counts"] = dict(layout.counts)
        description["counts"]["replaced"] = replaced
        findings.report(
            description, recipe.target.array, int(recipe.starts), unknown, entries, config
        )
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


def _check_words(source: rows.Source, config: configuration.Prepare) -> None:
    """Raises UsageError if ids without words should get the ids of another dataset."""
    if config.vocabulary_from and source.entries is not None and not source.has_words:
        raise UsageError(
            f"--vocabulary_from={config.vocabulary_from}: {source.paths['train'][0]} holds ids "
            "without words, which no vocabulary can tell. Put imdb_word_index.json beside it, or "
            "leave out the flag."
        )


def _tokenizer_name(source: rows.Source, config: configuration.Prepare) -> str:
    """Returns the tokenizer's name for dataset.json: "none" for ids without words."""
    if source.entries is not None and not source.has_words:
        return "none"
    return config.with_defaults("tokenizer")


def _read(
    source: rows.Source,
    units: vocabulary.Units,
    recipe: targets.Recipe,
    reader: targets.Reader,
    config: configuration.Prepare,
    spool: Spool,
) -> int:
    """Reads the whole source into `spool` and the targets into `reader`.

    Returns:
      How many ill-formed byte sequences were replaced.
    """
    replaced = 0
    is_text = source.entries is None

    def begin(batch: rows.Rows) -> tuple[rows.Rows, int, Sequence[np.ndarray]]:
        mended = rows.clean(batch, config.encoding_errors) if is_text else 0
        return batch, mended, units.begin(batch.texts)

    with ReadingProgress(source.size) as progress:
        for batch, mended, begun in ahead(
            begin, source.read(progress.advance), threads=os.cpu_count() or 1
        ):
            numbers, lengths = units.finish(begun)
            begins = np.ones(len(batch), bool)
            if batch.continues is not None:
                begins = ~np.array(batch.continues)
            if not (recipe.starts and begins.all()):
                without = ~begins if recipe.starts else np.ones(len(batch), bool)
                numbers, lengths = vocabulary.without_start(numbers, lengths, without)
            given = _splits_of(batch)
            contents = batch.texts if is_text else (row.tobytes() for row in batch.texts)
            spool.add(
                numbers,
                lengths=lengths,
                splits=given,
                begins=begins,
                keys=splits.keys(contents, config.seed),
                **reader.add(batch, given),
            )
            replaced += mended
            progress.add_rows(int(begins.sum()))
    return replaced


def _check_given_splits(source: rows.Source, spool: Spool) -> None:
    """Raises DataError if the files of a split hold no row for it."""
    given = spool.read("splits")[spool.read("lengths") > 0]
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
    names = [name.strip().lower() for name in batch.splits]
    for given, name, place in zip(batch.splits, names, batch.places):
        if name not in folders.SPLIT_NAMES:
            raise DataError(
                f"{rows.at(place)}: the split is {shown.value(given)}, but it must be one of "
                f"{', '.join(folders.SPLIT_NAMES)}. Correct the row, or name another "
                "--split_column."
            )
    return np.array([store.SPLITS.index(folders.SPLIT_NAMES[name]) for name in names], np.int8)


def _vocabulary(
    spool: Spool,
    layout: Layout,
    units: vocabulary.Units,
    config: configuration.Prepare,
    known: borrowed.Vocabulary | None,
) -> tuple[Sequence[str], np.ndarray]:
    """Returns the entries of the vocabulary from id FIRST_ID on, and the id of every unit.

    They are those of `known`, or else ranked by frequency in the training split.

    Raises:
      DataError: the training split holds no token.
    """
    if known:
        return known.entries, units.ids_of(known.entries)
    counts = _count(spool, layout, units.size)
    limit = config.with_defaults("vocabulary_size") - text.FIRST_ID
    entries, ids = units.vocabulary(counts, limit)
    if not entries:
        raise DataError(
            f"no training text holds a token of --tokenizer={config.with_defaults('tokenizer')}. "
            "Check the flags that name the text, or use --tokenizer=characters, which takes every "
            "character."
        )
    return entries, ids


def _count(spool: Spool, layout: Layout, size: int) -> np.ndarray:
    """Returns how often each unit occurs in the training split, int64 [size]."""
    counts = np.zeros(size, np.int64)
    for chunk, units in spool.chunks(layout.lengths):
        wanted = layout.splits[chunk] == splits.TRAIN
        counts += np.bincount(units[np.repeat(wanted, layout.lengths[chunk])], minlength=size)
    return counts


def _split_files(
    folder: pathlib.Path, layout: Layout, recipe: targets.Recipe
) -> dict[int, store.SplitWriter]:
    """Returns a writer for each split that has rows."""
    return {
        split: store.SplitWriter(
            folder / store.SPLITS[split],
            layout.example_lengths(split),
            recipe.target,
            int(recipe.starts),
        )
        for split in range(len(store.SPLITS))
        if (layout.splits == split).any()
    }


def _write_arrays(
    spool: Spool,
    layout: Layout,
    ids: np.ndarray,
    class_ids: np.ndarray,
    target: fields.Target,
    written: dict[int, store.SplitWriter],
) -> dict[str, int]:
    """Writes the tokens and targets of all rows.

    Args:
      ids: the id of each unit.
      class_ids: the class id of each number of the array of targets, if there is one.
      written: {split: its writer}.

    Returns:
      {name of a split: how many of its tokens are unknown}.
    """
    unknown = dict.fromkeys((store.SPLITS[split] for split in written), 0)
    for chunk, units, *numbers in spool.chunks(layout.lengths, *filter(None, [target.array])):
        lengths, opened = layout.lengths[chunk], layout.opened[chunk]
        if opened.any():
            starts = (np.cumsum(lengths) - lengths)[opened]
            units, lengths = np.insert(units, starts, vocabulary.START_UNIT), lengths + opened
        split_of_row = layout.splits[chunk]
        split_of_unit = np.repeat(split_of_row, lengths)
        split_of_target = split_of_unit if target.per_step else split_of_row
        for split, files in written.items():
            tokens = ids[units[split_of_unit == split]]
            files.write(tokens)
            unknown[store.SPLITS[split]] += int((tokens == text.UNKNOWN).sum())
            for values in numbers:
                files.write_targets(class_ids[values[split_of_target == split]])
    return unknown


def _describe(
    folder: pathlib.Path,
    written: dict[int, store.SplitWriter],
    entries: Sequence[str],
    names: Sequence[str],
) -> dict:
    """Writes vocabulary and names of classes, closes all files; returns their part of dataset.json.

    Args:
      entries: the vocabulary from FIRST_ID on.
      names: classes by id; empty if the target has none.
    """
    files = {name: entry for files in written.values() for name, entry in files.close().items()}
    lines = [*text.RESERVED, *map(store.escape, entries)]
    files["vocabulary.txt"] = store.write_lines(folder / "vocabulary.txt", lines)
    if names:
        files["labels.txt"] = store.write_lines(folder / "labels.txt", names)
    return {
        **({"classes": names} if names else {}),
        "vocabulary_size": len(lines),
        "vocabulary_sha256": files["vocabulary.txt"]["sha256"],
        "splits": {
            store.SPLITS[split]: of_split.described(names) for split, of_split in written.items()
        },
        "files": files,
    }
