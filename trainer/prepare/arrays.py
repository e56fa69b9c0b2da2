"""Sequences in NumPy arrays: a .npz archive, or a folder of .npy files for each of its arrays.

    x        [examples, time, ...]       sequences of one length; or, ragged, [total, ...] with
    lengths  [examples]                  the steps of each sequence
    y        [examples]                  classes, as whole numbers or strings; or a value for each
                                         example; or [examples, values]

What is left of the axes of x after the time is the shape of a frame; `frame_shape` cuts the numbers
of each example into frames of another one, in the order in which they lie. An archive may hold the
splits itself, as Keras' mnist.npz does: x_train, y_train, x_test, y_test, or train_x and so on.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from trainer import shown
from trainer.exit_codes import DataError
from trainer.prepare import folders
from trainer.prepare.npy import Array, Arrays
from trainer.prepare.sequences import BATCH_NUMBERS, BATCH_ROWS, Reading, Sequences


class Names(NamedTuple):
    """The names of the arrays of a split; "" if there is none."""

    x: str
    y: str
    lengths: str


def splits_in(path: str, split: str, reading: Reading) -> dict[str, Names]:
    """Returns {split: its arrays} of a file; arrays without a split in their names are of `split`.

    Raises DataError if it cannot be read, has no frames, or holds a split twice.
    """
    with Arrays(path, reading.max_expansion) as arrays:
        names = arrays.names
    wanted = [reading.settings[f"{part}_array"] for part in ("x", "y", "lengths")]
    forms = [(split, "{}")]
    if reading.answers:
        forms += [
            (of, form)
            for name, of in folders.SPLIT_NAMES.items()
            for form in (f"{{}}_{name}", f"{name}_{{}}")
        ]
    found = {}
    for of, form in forms:
        here = [form.format(name) if form.format(name) in names else "" for name in wanted]
        if not here[0]:
            continue
        if of in found:
            raise DataError(
                f"{path}: {found[of].x} and {here[0]} are both the {of} split. Take one of the two "
                "out, or name other arrays with --x_array."
            )
        found[of] = Names(here[0], here[1] if reading.answers else "", here[2])
        if reading.answers and not here[1]:
            raise DataError(
                f"{path}: {here[0]} has no {form.format(wanted[1])} beside it; there are "
                f"{shown.names(names)}. Name the targets with --y_array."
            )
    if not found:
        raise DataError(
            f"{path}: no array {_forms(wanted[0], bool(reading.answers))}; there are "
            f"{shown.names(names)}. Name the frames with --x_array."
        )
    return found


def _forms(name: str, splits: bool) -> str:
    """Returns how an array may be called, in words."""
    return f"{name}, {name}_train or train_{name}" if splits else name


def read(
    path: str, split: str, names: Names, reading: Reading, advance: Callable[[int], None]
) -> Iterator[Sequences]:
    """Returns the sequences of the arrays `names` of a file.

    Raises DataError if one of the arrays is damaged, of another type, or does not fit the others.
    """
    with contextlib.ExitStack() as opened:
        arrays = opened.enter_context(Arrays(path, reading.max_expansion))
        x = opened.enter_context(arrays.array(names.x))
        y = opened.enter_context(arrays.array(names.y)) if names.y else None
        if x.dtype.kind not in "iuf":
            raise DataError(
                f"{x.place}: holds {x.dtype}, but frames are whole or real numbers. Convert them "
                "(.astype('float32'))."
            )
        lengths = None
        wanted = reading.settings["lengths_array"]
        if wanted and not names.lengths and not reading.answers and len(x.shape) < 3:
            raise DataError(
                f"{x.place}: {list(x.shape)} without an array {wanted}, which sequences of several "
                "lengths need. Give the steps of each in that array or in the one that "
                "--lengths_array names, or write sequences of one length as [examples, time, "
                "features]: [examples, time, 1] if a step is one number."
            )
        if names.lengths:
            lengths = _lengths(opened.enter_context(arrays.array(names.lengths)), x)
        frame = _frame(x, lengths is not None, tuple(reading.settings["frame_shape"]))
        examples = len(x) if lengths is None else len(lengths)
        if y is not None and y.shape[:1] != (examples,):
            raise DataError(
                f"{y.place}: {list(y.shape)}, but {x.place} has {examples} examples. Both must "
                "have the same number: write them again."
            )
        done = 0
        while done < examples:
            rows, steps = _next(lengths, done, examples, math.prod(x.shape[1:]))
            frames = x.take(steps).reshape(-1, *frame)
            counts = np.full(rows, len(frames) // rows)
            if lengths is not None:
                counts = lengths[done : done + rows] * (len(frames) // steps)
            labels = [None] * rows
            if y is not None:
                labels = _answers(y, rows, reading)
            places = [(x.place, done + i) for i in range(rows)]
            label_places = [(y.place, done + i) for i in range(rows)] if y is not None else None
            advance(int(frames.nbytes * x.share))
            yield Sequences(split, places, frames, counts, labels, label_places=label_places)
            done += rows


def _lengths(array: Array, x: Array) -> np.ndarray:
    """Returns the steps of each sequence, int64; raises DataError if they are not those of `x`."""
    if array.dtype.kind not in "iu" or len(array.shape) != 1:
        raise DataError(
            f"{array.place}: {list(array.shape)} of {array.dtype}, but lengths are one whole "
            "number for each example. Write it again."
        )
    lengths = array.take(len(array)).astype(np.int64)
    if len(wrong := np.flatnonzero(lengths < 1)):
        raise DataError(
            f"{array.place}:{wrong[0]}: the length {lengths[wrong[0]]}, but every sequence has at "
            "least one step. Remove the example from lengths and y."
        )
    if lengths.sum() != len(x):
        raise DataError(
            f"{array.place}: the lengths add up to {lengths.sum()}, but {x.place} has {len(x)} "
            "steps. They must be equal: write both again."
        )
    return lengths


def _frame(x: Array, ragged: bool, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of a frame; `shape`: that of the flag, () leaves it to the axes of `x`."""
    least = 1 if ragged else 2
    if len(x.shape) < least or math.prod(x.shape) == 0:
        raise DataError(
            f"{x.place}: has the shape {list(x.shape)}, but frames are [examples, time, ...] (with "
            "lengths: [total, ...]), none of them 0. Write it again, or name another array with "
            "--x_array."
        )
    frame = shape or x.shape[least:] or (1,)
    width = math.prod(x.shape[1:])
    if width % math.prod(frame):
        raise DataError(
            f"{x.place}: {width} numbers for each {'step' if ragged else 'example'}, but "
            f"--frame_shape={','.join(map(str, frame))} needs a multiple of {math.prod(frame)}. "
            "Name another shape, or leave out the flag."
        )
    return frame


def _next(lengths: np.ndarray | None, done: int, examples: int, width: int) -> tuple[int, int]:
    """Returns how many examples and how many rows of x are read next; at least one example.

    width: numbers of a row of x.
    """
    most = min(BATCH_ROWS, examples - done)
    if lengths is None:
        rows = max(1, min(most, BATCH_NUMBERS // width))
        return rows, rows
    ends = np.cumsum(lengths[done : done + most])
    rows = max(1, int(np.searchsorted(ends, BATCH_NUMBERS // width, side="right")))
    return rows, int(ends[rows - 1])


def _answers(y: Array, rows: int, reading: Reading) -> Sequence:
    """Returns the classes or values of the next `rows` examples."""
    kind = y.dtype.kind
    if reading.answers == "values":
        if kind not in "iuf" or len(y.shape) > 2 or 0 in y.shape:
            raise DataError(
                f"{y.place}: {list(y.shape)} of {y.dtype}, but the values of a regression are "
                "numbers [examples] or [examples, values]. Write them as such, or use "
                "--task=classification."
            )
        return y.take(rows).reshape(rows, -1)
    single = len(y.shape) == 1 or len(y.shape) == 2 and y.shape[1] == 1
    if not single or kind not in "iuUS":
        remedy = "Use --task=regression if they are values"
        if not single:
            remedy += "; of one-hot rows write the class (y.argmax(axis=1))"
        elif kind == "f":
            remedy += ", or write classes as whole numbers (y.astype(int))"
        raise DataError(
            f"{y.place}: {list(y.shape)} of {y.dtype}, but classes are one whole number or string "
            f"for each example. {remedy}."
        )
    found = y.take(rows).reshape(-1).tolist()
    if kind == "S":
        found = [label.decode("utf-8", "surrogateescape") for label in found]
    return found
