"""The story of `prepare`: a source becomes a dataset folder, in flat memory.

    one pass over the text:  source -> batches of rows -> texts checked -> units of text
                             -> spool on disk
    passes over the spool:   splits and duplicates -> counts in the training split -> vocabulary
                             -> ids -> arrays of each split -> dataset.json -> renamed to its place

A target that is a text takes the same way beside it (`sides`).

Units of text are numbers that stand for words, characters or bytes before the vocabulary is known.
What differs between tasks is in `targets.RECIPES`.
"""

import contextlib
import logging
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from trainer import config as configuration
from trainer import shown
from trainer.data import fields, store, text
from trainer.exit_codes import DataError, UsageError
from trainer.prepare import borrowed, findings, folders, rows, sources, splits, targets, vocabulary
from trainer.prepare.layout import Layout
from trainer.prepare.reading import ReadingProgress, ahead
from trainer.prepare.sides import Side, Targets, unknown_in, usable_pairs
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
        with contextlib.ExitStack() as opened:
            side, target_side = opened.enter_context(Side(units, folder / "spool")), None
            if recipe.target.sequence:
                of_targets = units if config.shared_vocabulary else vocabulary.units_of(tokenizer)
                target_side = opened.enter_context(Targets(of_targets, folder / "target_spool"))
            spool = side.spool
            counts = _read(source, side, target_side, recipe, reader, config)
            _check_given_splits(source, spool)
            log.info(
                "read %d rows; ranking the vocabulary and writing the splits",
                spool.read("begins").sum(),
            )
            names, class_ids = reader.ranked()
            layout = recipe.layout(spool, reader.answers(spool), config)
            reader.check(layout, source)
            read = {side: layout}
            if target_side:
                read[target_side] = target_side.layout(layout)
            vocabularies = _vocabularies(read, config, known)
            written = _split_files(folder, list(read.values()), recipe)
            entries, ids = vocabularies[0]
            unknown = _write_arrays(side, layout, ids, class_ids, recipe.target, written)
            found = [findings.Side(unknown, entries)]
            if target_side:
                entries, ids = vocabularies[1]
                unknown = target_side.write(read[target_side], ids, written)
                found.append(findings.Side(unknown, entries, target=True))
            listed = found[:1] if config.shared_vocabulary else found
            description = _describe(
                folder,
                written,
                {f"{each.prefix}vocabulary": each.entries for each in listed},
                names,
            )
        description |= {"source": config.source, "tokenizer": tokenizer}
        description |= recipe.described(config.task)
        description["counts"] = {**layout.counts, **counts}
        kind = recipe.target.array if recipe.target.classes else ""
        findings.report(description, kind, int(recipe.starts), found, config)
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
    side: Side,
    target_side: Targets | None,
    recipe: targets.Recipe,
    reader: targets.Reader,
    config: configuration.Prepare,
) -> dict[str, int]:
    """Reads the whole source into its sides and the targets into `reader`.

    Returns:
      The counts of dataset.json that are known then: how many ill-formed byte sequences were
      replaced, and how many pairs were left out.
    """
    counts = {"replaced": 0}
    if target_side:
        counts |= {"empty_pairs": 0, "long_pairs": 0}
    is_text = source.entries is None

    def begin(batch: rows.Rows) -> tuple[rows.Rows, int, list[Sequence[np.ndarray]]]:
        mended = rows.clean(batch, config.encoding_errors) if is_text else 0
        begun = [side.units.begin(batch.texts)]
        if target_side:
            mended += rows.clean(batch.targets, config.encoding_errors)
            begun.append(target_side.units.begin(batch.targets.texts))
        return batch, mended, begun

    with ReadingProgress(source.size) as progress:
        for batch, mended, begun in ahead(
            begin, source.read(progress.advance), threads=os.cpu_count() or 1
        ):
            numbers, lengths = side.units.finish(begun[0])
            if target_side:
                usable = usable_pairs(
                    config.longest_pair, (numbers, lengths), target_side.units.finish(begun[1])
                )
                (numbers, lengths), of_targets = usable.sides
                counts["empty_pairs"] += usable.empty
                counts["long_pairs"] += usable.long
                target_side.add(*of_targets, batch.targets.texts)
            begins = np.ones(len(batch), bool)
            if batch.continues is not None:
                begins = ~np.array(batch.continues)
            if not (recipe.starts and begins.all()):
                without = ~begins if recipe.starts else np.ones(len(batch), bool)
                numbers, lengths = vocabulary.without_start(numbers, lengths, without)
            given = _splits_of(batch)
            contents = batch.texts if is_text else (row.tobytes() for row in batch.texts)
            side.spool.add(
                numbers,
                lengths=lengths,
                splits=given,
                begins=begins,
                keys=splits.keys(contents, config.seed),
                **reader.add(batch, given),
            )
            counts["replaced"] += mended
            progress.add_rows(int(begins.sum()))
    return counts


def _check_given_splits(source: rows.Source, spool: Spool) -> None:
    """Raises DataError if the files of a split hold no row for it."""
    given, filled = spool.read("splits"), spool.read("lengths") > 0
    for split, paths in source.paths.items():
        found = given == store.SPLITS.index(split)
        if (found & filled).any():
            continue
        others = f" or in the {len(paths) - 1} files after it" if len(paths) > 1 else ""
        empty = ""
        if found.any():
            empty = f" (its {found.sum()} rows have no token, or are pairs that were left out)"
        raise DataError(
            f"{paths[0]}:1: no row for the {split} split in this file{others}{empty}. "
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


def _vocabularies(
    read: dict[Side, Layout], config: configuration.Prepare, known: borrowed.Vocabulary | None
) -> list[tuple[Sequence[str], np.ndarray]]:
    """Returns, for each side, the entries from id FIRST_ID on and the id of every unit.

    They are those of `known`, or else ranked by frequency in the training split.

    Raises:
      DataError: the training split holds no token, or all of its targets are of one token.
    """
    if known:
        return [(entries, side.units.ids_of(entries)) for side, entries in zip(read, known.entries)]
    counts = [side.counts(layout) for side, layout in read.items()]
    for of_targets in counts[1:]:
        if (np.delete(of_targets, vocabulary.START_UNIT) > 0).sum() == 1:
            raise DataError(
                "all target texts of the train split are made of one and the same token, so there "
                "is nothing to learn. Check the flags that name them, or --tokenizer="
                f"{config.with_defaults('tokenizer')}."
            )
    if config.shared_vocabulary:
        counts = [sum(counts)] * len(counts)
    limit = config.with_defaults("vocabulary_size") - text.FIRST_ID
    found = [side.units.vocabulary(of_side, limit) for side, of_side in zip(read, counts)]
    for entries, _ in found:
        if not entries:
            raise DataError(
                "no training text holds a token of --tokenizer="
                f"{config.with_defaults('tokenizer')}. Check the flags that name the text, or use "
                "--tokenizer=characters, which takes every character."
            )
    return found


def _split_files(
    folder: pathlib.Path, layouts: Sequence[Layout], recipe: targets.Recipe
) -> dict[int, store.SplitWriter]:
    """Returns a writer for each split that has rows; `layouts`: of each side."""
    return {
        split: store.SplitWriter(
            folder / store.SPLITS[split],
            layouts[0].example_lengths(split),
            recipe.target,
            int(recipe.starts),
            *(layout.example_lengths(split) for layout in layouts[1:]),
        )
        for split in range(len(store.SPLITS))
        if (layouts[0].splits == split).any()
    }


def _write_arrays(
    side: Side,
    layout: Layout,
    ids: np.ndarray,
    class_ids: np.ndarray,
    target: fields.Target,
    written: dict[int, store.SplitWriter],
) -> dict[str, int]:
    """Writes the tokens of all rows, and their classes if they have some.

    Args:
      ids: the id of each unit.
      class_ids: the class id of each number of the array of targets, if there is one.
      written: {split: its writer}.

    Returns:
      {name of a split: how many of its tokens are unknown}.
    """
    unknown = dict.fromkeys((store.SPLITS[split] for split in written), 0)
    beside = [target.array] if target.classes else []
    for of_rows, of_tokens, tokens, *numbers in side.tokens(layout, ids, *beside):
        of_targets = of_tokens if target.per_step else of_rows
        for split, files in written.items():
            found = tokens[of_tokens == split]
            files.write(found)
            unknown[store.SPLITS[split]] += unknown_in(found)
            for values in numbers:
                files.write_targets(class_ids[values[of_targets == split]])
    return unknown


def _describe(
    folder: pathlib.Path,
    written: dict[int, store.SplitWriter],
    vocabularies: Mapping[str, Sequence[str]],
    names: Sequence[str],
) -> dict:
    """Writes vocabularies and names of classes, closes all files.

    Returns:
      Their part of dataset.json.

    Args:
      vocabularies: {name of the file without .txt: what the ids from FIRST_ID on stand for}.
      names: classes by id; empty if the target has none.
    """
    files = {name: entry for files in written.values() for name, entry in files.close().items()}
    described = {"classes": names} if names else {}
    for name, entries in vocabularies.items():
        lines = [*text.RESERVED, *map(store.escape, entries)]
        file = files[f"{name}.txt"] = store.write_lines(folder / f"{name}.txt", lines)
        described |= {f"{name}_size": len(lines), f"{name}_sha256": file["sha256"]}
    if names:
        files["labels.txt"] = store.write_lines(folder / "labels.txt", names)
    return {
        **described,
        "splits": {
            store.SPLITS[split]: of_split.described(names) for split, of_split in written.items()
        },
        "files": files,
    }
