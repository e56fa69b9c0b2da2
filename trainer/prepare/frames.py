"""The story of `prepare` for sequences of numbers, and how `predict` reads new ones.

    one pass over the source:  files -> batches of sequences -> frames checked, float32
                               -> spool on disk
    passes over the spool:     splits and duplicates -> arrays of each split, and the statistics of
                               the training split -> dataset.json -> renamed to its place

It shares splits, targets and layout with the story of texts (`command`).
"""

import functools
import logging
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from trainer import config as configuration
from trainer import numbers, shown
from trainer.data import fields, store
from trainer.exit_codes import UsageError
from trainer.prepare import (
    arrays,
    findings,
    folders,
    given,
    layout,
    raw_files,
    sources,
    splits,
    steps_csv,
    targets,
    ts,
    wav,
)
from trainer.prepare.moments import Moments
from trainer.prepare.reading import ReadingProgress
from trainer.prepare.rows import at
from trainer.prepare.sequences import Checks, One, Reading, Sequences, Source, batches
from trainer.prepare.spool import Spool

log = logging.getLogger(__name__)


def are_read(config: configuration.Prepare) -> bool:
    """Returns whether the source has sequences of numbers; looks into folders.

    Raises UsageError if a flag does not apply to what is in them.
    """
    if config.source != "folder":
        return numbers.are_read(config)
    recordings = wav.are_in(config.raw_data)
    if recordings:
        numbers.check(config, recordings=True)
        if config.task != "classification":
            raise UsageError(
                f"--task={config.task}: --raw_data={config.raw_data} holds recordings, of which a "
                "model learns --task=classification. Use that."
            )
    else:
        numbers.check_texts(config)
    return recordings


def prepare(config: configuration.Prepare) -> store.Dataset:
    """Prepares the dataset of sequences that `config` describes; returns it open.

    Raises as `command.prepare`.
    """
    recipe = targets.RECIPES[config.task, False]
    reader = recipe.reader(config)
    reading = Reading.of_flags(config)
    source, reading = _source(config, reading)
    given.check_fractions(source, config)
    checks = Checks(config.missing, reading.features)
    with store.new_folder(config.data_dir) as folder:
        with Spool(folder / "spool", np.float32) as spool:
            _read(source, checks, spool, reader, config)
            given.check_rows(source, spool)
            log.info("read %d sequences; writing the splits", spool.rows)
            names = reader.ranked()
            found = layout.shuffled(spool, reader.answers(spool), config, "sequences")
            form = fields.Form(recipe.target, int(np.prod(checks.shape)), reader.values)
            written = {
                split: store.SplitWriter(
                    folder / store.SPLITS[split],
                    found.example_lengths(split),
                    recipe.target,
                    form=form,
                )
                for split in range(len(store.SPLITS))
                if (found.splits == split).any()
            }
            moments = _write(spool, found, recipe.target, reader, written)
        description = {
            **_described(folder, written, names),
            **recipe.described(config.task),
            **reader.described(),
            "task": config.task,
            "target": recipe.target.kind,
            "order": recipe.order,
            "source": config.source,
            "input": _input(checks, reading, moments, config),
            "counts": {**found.counts, "missing_filled": checks.filled},
        }
        _report(description, recipe.target, moments, reading)
        return store.publish(folder, description, config.data_dir)


def _read(
    source: Source,
    checks: Checks,
    spool: Spool,
    reader: targets.Reader,
    config: configuration.Prepare,
) -> None:
    """Reads the whole source into the spool and the targets into `reader`."""
    with ReadingProgress(source.size) as progress:
        for batch in source.read(progress.advance):
            frames = checks.checked(batch)
            of_rows = given.splits_of(batch)
            begins = np.cumsum(batch.lengths) - batch.lengths
            contents = np.split(frames, begins[1:])
            spool.add(
                frames,
                lengths=batch.lengths,
                splits=of_rows,
                keys=splits.keys(contents, config.seed),
                **reader.add(batch, of_rows),
            )
            progress.add_rows(len(batch))


def _write(
    spool: Spool,
    found: layout.Layout,
    target: fields.Target,
    reader: targets.Reader,
    written: Mapping[int, store.SplitWriter],
) -> Moments:
    """Writes frames and targets of all splits; returns the moments of the training frames."""
    moments = Moments()
    for chunk, frames, answers in spool.chunks(found.lengths, target.array):
        of_rows = found.splits[chunk]
        of_steps = np.repeat(of_rows, found.lengths[chunk])
        for split, files in written.items():
            here = frames[of_steps == split]
            files.write(here)
            files.write_targets(reader.written(answers[of_rows == split], split))
            if split == splits.TRAIN:
                moments.add(here)
    return moments


def _described(
    folder: pathlib.Path, written: Mapping[int, store.SplitWriter], names: Sequence[str]
) -> dict:
    """Closes the files of all splits and writes the names of the classes, if there are any.

    Returns their part of dataset.json.
    """
    files = {name: entry for each in written.values() for name, entry in each.close().items()}
    if names:
        files["labels.txt"] = store.write_lines(folder / "labels.txt", names)
    return {
        **({"classes": names} if names else {}),
        "splits": {store.SPLITS[split]: each.described(names) for split, each in written.items()},
        "files": files,
    }


def _input(
    checks: Checks, reading: Reading, moments: Moments, config: configuration.Prepare
) -> dict:
    """Returns what dataset.json says of the frames."""
    described = {
        "kind": fields.FRAMES.kind,
        "shape": [int(size) for size in checks.shape],
        "reading": reading.described(),
    }
    if reading.features:
        described["names"] = list(reading.features)
    if config.normalise != "none":
        described["mean"], described["deviation"] = moments.scale(config.normalise == "together")
    return described


def _report(description: dict, target: fields.Target, moments: Moments, reading: Reading) -> None:
    """Logs what the dataset holds, and warns if it probably is not what was meant."""
    shape = "x".join(map(str, description["input"]["shape"]))
    for name, split in description["splits"].items():
        classes = split.get(target.array, {}) if target.classes else {}
        log.info(
            "%s: %d sequences, %d frames of %s, longest %d%s",
            name,
            split["examples"],
            split["frames"],
            shape,
            split["longest"],
            f", {target.array} {findings.most(classes)}" if classes else "",
        )
        findings.report_absent(name, classes)
    findings.report_splits(description["counts"], "sequences")
    if filled := description["counts"]["missing_filled"]:
        log.warning("%d missing numbers filled in (--missing=%s)", filled, reading.missing)
    constant = np.flatnonzero(moments.constant)
    if constant.size:
        listed = [reading.features[i] if reading.features else int(i) for i in constant]
        log.warning(
            "%d of %d features never change in the training split, so they say nothing: %s",
            constant.size,
            len(moments.constant),
            shown.names(listed),
        )


# --- sources --------------------------------------------------------------------------------------


def _source(config: configuration.Prepare, reading: Reading) -> tuple[Source, Reading]:
    """Returns the source that the flags name, and how new data is read as it is.

    Raises UsageError if files are missing; DataError if one that is opened at once is damaged.
    """
    if config.source == "arrays":
        return _arrays(config, reading)
    if config.source == "folder":
        return _recordings(config, reading)
    paths = {
        split: raw_files.expand(globs, flag) for split, flag, globs in sources.given_data(config)
    }

    def read(advance: Callable[[int], None]) -> Iterator[Sequences]:
        for split, files in paths.items():
            for path in files:
                ones = _lines(path, reading, config.max_expansion, advance)
                yield from batches(ones, None if reading.split_column else split)

    return Source(paths, read), reading


def _lines(
    path: str, reading: Reading, max_expansion: int, advance: Callable[[int], None] = lambda _: None
) -> Iterator[One]:
    """Returns the sequences of a file of lines."""
    read = {"ts": ts.read, "csv": steps_csv.read}[reading.source]
    with raw_files.Stream(path, max_expansion, advance) as stream:
        yield from read(stream, reading)


def _arrays(config: configuration.Prepare, reading: Reading) -> tuple[Source, Reading]:
    """Archives, or folders of arrays."""
    parts = []
    for split, flag, place in sources.given_data(config):
        files = [place] if os.path.isdir(place) else raw_files.expand(place, flag)
        for path in files:
            for of, names in arrays.splits_in(path, split, reading).items():
                if of != split and flag != "raw_data":
                    raise UsageError(
                        f"--{flag}={place}: {path} holds {names.x}, which is the {of} split. Name "
                        "it with --raw_data, or take the array out."
                    )
                parts.append((of, path, names))
    paths = {}
    for of, path, _ in parts:
        paths.setdefault(of, []).append(path)

    def read(advance: Callable[[int], None]) -> Iterator[Sequences]:
        for of, path, names in parts:
            yield from arrays.read(path, of, names, reading, advance)

    ragged = any(names.lengths for _, _, names in parts)
    return Source(paths, read), reading.with_settings(
        lengths_array=reading.settings["lengths_array"] if ragged else ""
    )


def _recordings(config: configuration.Prepare, reading: Reading) -> tuple[Source, Reading]:
    """Folders of recordings, with a class for each."""
    parts = [
        part
        for split, flag, folder in sources.given_data(config)
        for part in folders.find(folder, split, flag)
    ]
    paths = {}
    for part in parts:
        wav.check_names(part.paths)
        paths.setdefault(part.split, []).extend(part.paths)
    maker = wav.LogMel(reading.settings)
    maker.open(parts[0].paths[0])

    def read(advance: Callable[[int], None]) -> Iterator[Sequences]:
        for part in parts:
            yield from batches(
                map(functools.partial(one, part.label, advance), part.paths), part.split
            )

    def one(label: str, advance: Callable[[int], None], path: str) -> One:
        frames = maker.frames(path)
        advance(os.path.getsize(path))
        return One((path, 1), frames, label)

    return Source(paths, read), reading.with_settings(sample_rate=maker.rate)


# --- new data -------------------------------------------------------------------------------------


class Unanswered(NamedTuple):
    """A sequence that a model is to answer.

    frames: float32 [steps, features], as they were read. place: where it comes from, for errors.
    number: its own. id: the value of the column of the sequences, or the name of a recording; None
    if its place among the others is all that tells it apart.
    """

    frames: np.ndarray
    place: str
    number: int
    id: str | None


def unanswered(settings: configuration.Predict, dataset: store.Dataset) -> Iterator[Unanswered]:
    """Yields the sequences of --input, read as `prepare` read `dataset`; no labels are needed.

    Raises:
      UsageError: --input or --source does not fit the dataset.
      DataError: as in `prepare`; frames of another shape.
    """
    reading = Reading.of_dataset(
        dataset,
        {
            name: getattr(settings, name)
            for name in ("x_array", "lengths_array")
            if getattr(settings, name)
        },
        settings.max_line_bytes,
    )
    _check_input(settings, reading)
    checks = Checks(reading.missing, reading.features, dataset.frame)
    number = 0
    for batch in _new(settings.input, reading):
        frames = checks.checked(batch)
        ends = np.cumsum(batch.lengths)
        ids = batch.ids or [None] * len(batch)
        for place, identity, end, length in zip(batch.places, ids, ends, batch.lengths):
            yield Unanswered(frames[end - length : end], at(place), number, identity)
            number += 1


def _check_input(settings: configuration.Predict, reading: Reading) -> None:
    if not settings.input:
        raise UsageError(
            "--input is empty: the model reads sequences of numbers, which are no arguments or "
            f"lines. Name a file in the form of --source={reading.source}, as it was prepared from."
        )
    if settings.source and settings.source != reading.source:
        raise UsageError(
            f"--source={settings.source}: the model's dataset was read with "
            f"--source={reading.source}, and new data is read in the same way. Leave out the flag."
        )
    for flag in ("x_array", "lengths_array", "id_column"):
        used = flag != "id_column" and reading.source == "arrays"
        if getattr(settings, flag) and not used:
            raise UsageError(
                f"--{flag}={shown.bare(getattr(settings, flag))}: sequences of "
                f"--source={reading.source} have no use for it. Leave it out."
            )


def _new(path: str, reading: Reading) -> Iterator[Sequences]:
    """Returns the batches of new data at `path`."""
    if reading.source == "arrays":
        names = arrays.splits_in(path, "train", reading)["train"]
        return arrays.read(path, "train", names, reading, lambda _: None)
    if reading.source == "folder":
        maker = wav.LogMel(reading.settings)
        ones = (One((each, 1), maker.frames(each), id=name) for each, name in wav.recordings(path))
        return batches(ones, "train")
    return batches(_lines(path, reading, reading.max_expansion), "train")
