"""New sequences of numbers for a model to answer, read as `prepare` read its dataset."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from trainer import shown
from trainer.data import store
from trainer.exit_codes import UsageError
from trainer.flags.use import Predict
from trainer.prepare import arrays, frame_sources, wav
from trainer.prepare.rows import at
from trainer.prepare.sequences import Checks, One, Reading, Sequences, batches


class Unanswered(NamedTuple):
    """A sequence that a model is to answer.

    frames: float32 [steps, features], as they were read. place: where it comes from, for errors.
    id: the value of the column of the sequences, or the name of a recording; if its place among the
    others is all that tells it apart, its number, from 0.
    """

    frames: np.ndarray
    place: str
    id: str | int


def unanswered(settings: Predict, dataset: store.Dataset) -> Iterator[Unanswered]:
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
            identity = number if identity is None else identity
            yield Unanswered(frames[end - length : end], at(place), identity)
            number += 1


def _check_input(settings: Predict, reading: Reading) -> None:
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
    return batches(frame_sources.lines(path, reading, reading.max_expansion), "train")
