"""Keeps the rows on disk between the first pass over a source and the last, in input order.

The text is read once. Word frequencies, duplicates and sorted labels are known only at its end;
later passes apply them to these files, which are small and sequential. In memory a row takes less
than 100 bytes.
"""

import pathlib
import shutil
from collections.abc import Iterator

import numpy as np

_ROW_ARRAYS = {"lengths": np.int32, "labels": np.int32, "splits": np.int8, "keys": np.uint64}
_CHUNK = 1 << 20


class Spool:
    """Appends batches of rows to files, then returns them in chunks."""

    def __init__(self, folder: pathlib.Path):
        """`folder`: made here for the files, and removed at the end."""
        folder.mkdir()
        self._folder = folder
        self._files = {name: open(folder / name, "w+b") for name in ("units", *_ROW_ARRAYS)}
        self.rows = 0

    def add(self, units: np.ndarray, **row_arrays: np.ndarray) -> None:
        """Appends rows.

        Args:
          units: int32 [total], the units of all rows end to end.
          row_arrays: lengths, labels, splits [rows] and keys [rows, 2].
        """
        self._files["units"].write(np.ascontiguousarray(units, np.int32).tobytes())
        for name, dtype in _ROW_ARRAYS.items():
            self._files[name].write(np.ascontiguousarray(row_arrays[name], dtype).tobytes())
        self.rows += len(row_arrays["lengths"])

    def read(self, name: str) -> np.ndarray:
        """Returns a whole array: lengths, labels, splits [rows], or keys [rows, 2]."""
        self._files[name].flush()
        values = np.fromfile(self._folder / name, _ROW_ARRAYS[name])
        return values.reshape(-1, 2) if name == "keys" else values

    def chunks(self, lengths: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Returns (rows, their units end to end), about a million units at a time.

        Args:
          lengths: int32 [rows], as `read("lengths")` returns them.
        """
        self._files["units"].flush()
        self._files["units"].seek(0)
        ends = np.cumsum(lengths, dtype=np.int64)
        begin = 0
        while begin < len(lengths):
            done = ends[begin - 1] if begin else 0
            end = max(begin + 1, int(np.searchsorted(ends, done + _CHUNK, side="right")))
            yield (
                slice(begin, end),
                np.fromfile(self._files["units"], np.int32, int(ends[end - 1] - done)),
            )
            begin = end

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_) -> None:
        for file in self._files.values():
            file.close()
        shutil.rmtree(self._folder)
