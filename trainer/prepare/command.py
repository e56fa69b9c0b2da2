"""The story of `prepare`: a source becomes a dataset folder, in flat memory.

    one pass over the text:  source -> batches of rows -> texts checked -> units of text
                             -> spool on disk
    passes over the spool:   splits and duplicates -> counts in the training split -> vocabulary
                             -> ids -> arrays of each split -> dataset.json -> renamed to its place

A target that is a text takes the same way beside it (`sides`). Sequences of numbers have a story of
their own (`frames`).

Units of text are numbers that stand for words, characters or bytes before the vocabulary is known.
What differs between tasks is in `targets.RECIPES`.
"""

import contextlib
import logging
import os
from collections.abc import Sequence

import numpy as np

from trainer.data import fields, store, text
from trainer.exit_codes import DataError, UsageError
from trainer.flags.prepare import Prepare
from trainer.prepare import (
    borrowed,
    findings,
    frame_sources,
    frames,
    given,
    rows,
    sources,
    splits,
    targets,
    vocabulary,
    writing,
)
from trainer.prepare.layout import Layout
from trainer.prepare.reading import ReadingProgress, ahead
from trainer.prepare.sides import Side, Targets, unknown_in, usable_pairs

log = logging.getLogger(__name__)


def prepare(config: Prepare) -> store.Dataset:
    """Prepares the dataset that `config` describes, or finds it prepared already; returns it open.

    Raises:
      UsageError: flags contradict each other, files are missing, or `config.data_dir` holds another
        dataset.
      DataError: the input does not have the form that the flags name; the message names file and
        line.
      StorageError: the dataset cannot be written.
    """
    store.refuse_other_content(config.data_dir)
    if frame_sources.are_read(config):
        return frames.prepare(config)
    known = borrowed.of_dataset(config) if config.vocabulary_from else None
    config = known.applied(config) if known else config
    recipe = targets.RECIPES[config.task, config.lines]
    reader = recipe.reader(config)
    source = sources.open_source(config)
    given.check_fractions(source, config)
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
            given.check_rows(source, spool)
            log.info(
                "read %d rows; ranking the vocabulary and writing the splits",
                spool.read("begins").sum(),
            )
            names = reader.ranked()
            layout = recipe.layout(spool, reader.answers(spool), config)
            reader.check(layout, source)
            read = {side: layout}
            if target_side:
                read[target_side] = target_side.layout(layout)
            vocabularies = _vocabularies(read, config, known)
            form = fields.Form(recipe.target, values=reader.values)
            written = writing.split_files(folder, list(read.values()), int(recipe.starts), form)
            entries, ids = vocabularies[0]
            unknown = _write_arrays(side, layout, ids, recipe.target, reader, written)
            found = [findings.Side(unknown, entries)]
            if target_side:
                entries, ids = vocabularies[1]
                unknown = target_side.write(read[target_side], ids, written)
                found.append(findings.Side(unknown, entries, target=True))
            listed = found[:1] if config.shared_vocabulary else found
            description = writing.describe(
                folder,
                written,
                {f"{each.prefix}vocabulary": each.entries for each in listed},
                names,
            )
        description |= {"source": config.source, "tokenizer": tokenizer, **reader.described()}
        description |= recipe.described(config.task)
        description["counts"] = {**layout.counts, **counts}
        kind = recipe.target.array if recipe.target.classes else ""
        findings.report(description, kind, int(recipe.starts), found, config)
        return store.publish(folder, description, config.data_dir)


def _check_words(source: rows.Source, config: Prepare) -> None:
    """Raises UsageError if ids without words should get the ids of another dataset."""
    if config.vocabulary_from and source.entries is not None and not source.has_words:
        raise UsageError(
            f"--vocabulary_from={config.vocabulary_from}: {source.paths['train'][0]} holds ids "
            "without words, which no vocabulary can tell. Put imdb_word_index.json beside it, or "
            "leave out the flag."
        )


def _tokenizer_name(source: rows.Source, config: Prepare) -> str:
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
    config: Prepare,
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
            of_rows = given.splits_of(batch)
            contents = batch.texts if is_text else (row.tobytes() for row in batch.texts)
            side.spool.add(
                numbers,
                lengths=lengths,
                splits=of_rows,
                begins=begins,
                keys=splits.keys(contents, config.seed),
                **reader.add(batch, of_rows),
            )
            counts["replaced"] += mended
            progress.add_rows(int(begins.sum()))
    return counts


def _vocabularies(
    read: dict[Side, Layout], config: Prepare, known: borrowed.Vocabulary | None
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


def _write_arrays(
    side: Side,
    layout: Layout,
    ids: np.ndarray,
    target: fields.Target,
    reader: targets.Reader,
    written: dict[int, store.SplitWriter],
) -> dict[str, int]:
    """Writes the tokens of all rows, and their classes or values if they have some.

    Args:
      ids: the id of each unit.
      written: {split: its writer}.

    Returns:
      {name of a split: how many of its tokens are unknown}.
    """
    unknown = dict.fromkeys((store.SPLITS[split] for split in written), 0)
    beside = [target.array] if target.classes or target.numbers else []
    for of_rows, of_tokens, tokens, *numbers in side.tokens(layout, ids, *beside):
        of_targets = of_tokens if target.per_step else of_rows
        for split, files in written.items():
            found = tokens[of_tokens == split]
            files.write(found)
            unknown[store.SPLITS[split]] += unknown_in(found)
            for values in numbers:
                files.write_targets(reader.written(values[of_targets == split], split))
    return unknown
