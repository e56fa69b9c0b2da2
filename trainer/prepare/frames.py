"""The story of `prepare` for sequences of numbers.

    one pass over the source:  files -> batches of sequences -> frames checked, float32
                               -> spool on disk
    passes over the spool:     splits and duplicates -> arrays of each split, and the statistics of
                               the training split -> dataset.json -> renamed to its place

It shares splits, targets and layout with the story of texts (`command`).
"""

import logging
from collections.abc import Mapping

import numpy as np

from trainer import shown
from trainer.data import fields, store
from trainer.flags.prepare import Prepare
from trainer.prepare import findings, frame_sources, given, layout, splits, targets, writing
from trainer.prepare.moments import Moments
from trainer.prepare.reading import ReadingProgress
from trainer.prepare.sequences import Checks, Reading, Source
from trainer.prepare.spool import Spool

log = logging.getLogger(__name__)


def prepare(config: Prepare) -> store.Dataset:
    """Prepares the dataset of sequences that `config` describes; returns it open.

    Raises as `command.prepare`.
    """
    recipe = targets.RECIPES[config.task, False]
    reader = recipe.reader(config)
    reading = Reading.of_flags(config)
    source, reading = frame_sources.open_source(config, reading)
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
            written = writing.split_files(folder, [found], 0, form)
            moments = _write(spool, found, recipe.target, reader, written)
        description = {
            **writing.describe(folder, written, {}, names),
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
    source: Source, checks: Checks, spool: Spool, reader: targets.Reader, config: Prepare
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


def _input(checks: Checks, reading: Reading, moments: Moments, config: Prepare) -> dict:
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
        log.warning("missing numbers filled in (--missing=%s): %d", reading.missing, filled)
    constant = np.flatnonzero(moments.constant)
    if constant.size:
        listed = [reading.features[i] if reading.features else int(i) for i in constant]
        log.warning(
            "%d of %d features never change in the training split, so they say nothing: %s",
            constant.size,
            len(moments.constant),
            shown.names(listed),
        )
