"""Arrays in .npy files and in members of .npz archives, read front to back and never unpickled.

An array of any size is read in pieces of some rows, so memory does not depend on its size: a
compressed member is decompressed as it is read, and nothing is mapped into memory.
"""

import contextlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from trainer.exit_codes import DataError
from trainer.prepare import raw_files

_ENDING = ".npy"
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError)
# Of `dtype.kind`: why arrays of this type are not read, and what helps.
_REFUSED = {
    "O": (
        "is an array of objects, which only pickle reads, and a pickle may run any code",
        "Write numbers: of sequences of several lengths all steps end to end, with an array of "
        "their lengths",
    ),
    "V": ("has records with named fields", "Write one array of numbers"),
    "b": ("holds true and false", "Write whole numbers (.astype(int))"),
    "c": ("holds complex numbers", "Write their parts as two features"),
}


class Array:
    """An array of a file, of which the next rows are taken.

    place: what messages call it. shape, dtype: of the whole array. share: bytes that are stored for
    each of its bytes.
    """

    def __init__(self, place: str, file: BinaryIO, size: int, share: float = 1.0):
        """
        Args:
          file: at the beginning of the .npy format.
          size: bytes of the file.
          share: bytes that are stored for each of them, if they are compressed.

        Raises:
          DataError: it is no .npy file, or an array that is not read.
        """
        self.place, self.share, self._file, self._taken = place, share, file, 0
        try:
            version = np.lib.format.read_magic(file)
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            self.shape, by_columns, self.dtype = read(file)
            if min((self.dtype.itemsize, *(1 + size for size in self.shape))) < 1:
                raise ValueError(f"{list(self.shape)} of {self.dtype}")
        except Exception as problem:  # A damaged header may raise nearly anything.
            raise self._damaged(f"does not begin as a .npy file ({problem})") from None
        if found := _REFUSED.get(self.dtype.kind):
            why, remedy = found
            raise DataError(f"{place}: {why} (dtype {self.dtype}). {remedy}.")
        if by_columns and len(self.shape) > 1:
            raise DataError(
                f"{place}: is stored column by column (Fortran order), so that it cannot be read "
                "in pieces. Write it with np.ascontiguousarray(array)."
            )
        self._row_bytes = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))
        rows = self.shape[0] if self.shape else 0
        if size < rows * self._row_bytes:
            raise self._damaged(
                f"{size} bytes, but its header says {list(self.shape)} of {self.dtype}: it is cut "
                "short"
            )

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 0

    def take(self, rows: int) -> np.ndarray:
        """Returns the next `rows` rows, fewer at the end. Raises DataError if it is damaged."""
        rows = min(rows, len(self) - self._taken)
        wanted = rows * self._row_bytes
        try:
            content = self._file.read(wanted)
            self._taken += rows
            if self._taken == len(self) and self._file.read(1):  # Also checks the CRC of a member.
                raise self._damaged("more bytes follow than its header says")
        except _DAMAGE as problem:
            raise self._damaged(f"cannot be read ({problem})") from None
        if len(content) < wanted:
            raise self._damaged("it is cut short")
        return np.frombuffer(content, self.dtype).reshape(rows, *self.shape[1:])

    def _damaged(self, why: str) -> DataError:
        return DataError(f"{self.place}: {why}. Copy or write the file again.")


class Arrays:
    """The named arrays of a .npz archive, or of a folder of .npy files. A context manager."""

    def __init__(self, path: str, max_expansion: int):
        """
        Args:
          max_expansion: most bytes that one compressed byte may become, beyond the first 64 MiB.

        Raises:
          DataError: neither of the two is there, or it is damaged.
        """
        self.path, self._max_expansion = path, max_expansion
        self._opened = contextlib.ExitStack()
        self._archive = None
        if os.path.isdir(path):
            names = [entry for entry in os.listdir(path) if entry.endswith(_ENDING)]
        else:
            raw_files.check_hash(path)
            names = self._members()
        self.names = sorted(name.removesuffix(_ENDING) for name in names)

    def _members(self) -> list[str]:
        try:
            self._archive = self._opened.enter_context(zipfile.ZipFile(self.path))
        except _DAMAGE as problem:
            try:
                with open(self.path, "rb") as file:
                    is_npy = file.read(6) == np.lib.format.MAGIC_PREFIX
            except OSError:
                is_npy = False
            remedy = "Copy or write it again"
            if is_npy:
                remedy = (
                    "It is a .npy file: put it into a folder as x.npy, beside y.npy, and name the "
                    "folder"
                )
            raise DataError(
                f"{self.path}: cannot be read as a .npz archive ({problem}). {remedy}."
            ) from None
        return [name for name in self._archive.namelist() if name.endswith(_ENDING)]

    @contextlib.contextmanager
    def array(self, name: str) -> Iterator[Array]:
        """Yields an array, at its first row. Raises DataError if it is damaged or not read."""
        place, share = f"{self.path}:{name}", 1.0
        if self._archive is None:
            path = os.path.join(self.path, name + _ENDING)
            raw_files.check_hash(path)
            size, opened = self._size(path), lambda: open(path, "rb")
        else:
            member = self._archive.getinfo(name + _ENDING)
            size, opened = member.file_size, lambda: self._archive.open(member)
            share = member.compress_size / max(1, size)
            allowed = max(raw_files.FREE_EXPANSION, self._max_expansion * member.compress_size)
            if size > allowed:
                raise DataError(
                    f"{place}: {member.compress_size} compressed bytes would become {size}: this "
                    "may be a decompression bomb. Raise "
                    f"--max_expansion={self._max_expansion} if you trust the file."
                )
        try:
            file = opened()
        except _DAMAGE as problem:
            raise DataError(f"{place}: cannot be read ({problem}). Write it again.") from None
        with file:
            yield Array(place, file, size, share)

    @staticmethod
    def _size(path: str) -> int:
        try:
            return os.path.getsize(path)
        except OSError as problem:
            raise DataError(
                f"{path}: cannot be read ({problem.strerror}). Check its permissions."
            ) from None

    def __enter__(self) -> "Arrays":
        return self

    def __exit__(self, *problem) -> None:
        self._opened.close()
