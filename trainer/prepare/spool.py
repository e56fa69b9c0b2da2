"""Keeps the rows on disk between the first pass over a source and the last, in input order.

The text is read once. Word frequencies, duplicates and sorted labels are known only at its end;
later passes apply them to these files, which are small and sequential. In memory a row takes less
than 100 bytes.
"""

import math
import pathlib
import shutil
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

# The arrays beside the units: one value for each row, or several (two of `keys`); of `tags` one per
# unit. A unit may be several numbers, too: a frame.
_ARRAYS = {
    "units": np.int32,
    "lengths": np.int32,
    "splits": np.int8,
    "begins": np.bool_,
    "keys": np.uint64,
    "labels": np.int32,
    "tags": np.int32,
    "tag_keys": np.uint64,
    "target_keys": np.uint64,
    "values": np.float32,
    "value_keys": np.uint64,
}
_PER_UNIT = ("units", "tags")
_CHUNK = 1 << 20


class Spool:
    """Appends batches of rows to files, then returns them in chunks."""

    def __init__(self, folder: pathlib.Path, dtype: type[np.number] = np.int32):
        """
        Args:
          folder: made here for the files, and removed at the end.
          dtype: of the units.
        """
        folder.mkdir()
        self._folder = folder
        self._dtypes = {**_ARRAYS, "units": np.dtype(dtype)}
        self._files: dict[str, BinaryIO] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}  # Of one value of each array.
        self.rows = 0

    def add(self, units: np.ndarray, **arrays: np.ndarray) -> None:
        """Appends rows.

        Args:
          units: [total, ...], the units of all rows end to end.
          arrays: lengths, splits, labels [rows], keys [rows, 2], tags [total] and so on; the same
            ones in every call.
        """
        for name, values in (("units", units), *arrays.items()):
            if name not in self._files:
                self._files[name] = open(self._folder / name, "w+b")
                self._shapes[name] = np.shape(values)[1:]
            self._files[name].write(np.ascontiguousarray(values, self._dtypes[name]).tobytes())
        self.rows += len(arrays["lengths"])

    def read(self, name: str) -> np.ndarray:
        """Returns a whole array, for example lengths [rows] or keys [rows, 2]."""
        if not self.rows:
            values = np.zeros(0, self._dtypes[name])
        else:
            self._files[name].flush()
            values = np.fromfile(self._folder / name, self._dtypes[name])
        return values.reshape(-1, *self._shapes.get(name, ()))

    def chunks(self, lengths: np.ndarray, *beside: str) -> Iterator[tuple]:
        """Returns (rows, their units end to end, their part of each array `beside`).

        A chunk has about a million numbers.

        Args:
          lengths: int32 [rows], as `read("lengths")` returns them; some of them may be cut into
            several, if nothing is asked for that has one value for each row.
        """
        files = {name: self._files[name] for name in ("units", *beside)}
        for file in files.values():
            file.flush()
            file.seek(0)
        ends = np.cumsum(lengths, dtype=np.int64)
        widths = {name: math.prod(self._shapes[name]) for name in files}
        most = max(1, _CHUNK // widths["units"])
        begin = 0
        while begin < len(lengths):
            done = ends[begin - 1] if begin else 0
            end = max(begin + 1, int(np.searchsorted(ends, done + most, side="right")))
            units = int(ends[end - 1] - done)
            counts = [units if name in _PER_UNIT else end - begin for name in files]
            yield (
                slice(begin, end),
                *(
                    np.fromfile(file, self._dtypes[name], count * widths[name]).reshape(
                        count, *self._shapes[name]
                    )
                    for (name, file), count in zip(files.items(), counts)
                ),
            )
            begin = end

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_) -> None:
        for file in self._files.values():
            file.close()
        shutil.rmtree(self._folder)
