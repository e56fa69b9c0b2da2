"""Lets the N-th change of files below a folder fail with an error of the storage."""

import contextlib
import errno
import os
import pathlib
import sys
import threading
from collections.abc import Iterator
from unittest import mock

from tests import kill_points


class _Failure:
    def __init__(self, folder: str, first: int, last: int, number: int):
        self._folder, self._number = pathlib.Path(folder), number
        self._failing = range(first, last)
        self._turn = threading.Lock()
        self.count = 0

    def on_audit(self, event: str, arguments: tuple) -> None:
        """Handles an audit event; raises OSError if it is the turn of this change."""
        if event == "shutil.rmtree":  # Its removals come one by one.
            return
        if event in ("os.remove", "os.rmdir"):
            path, folder = arguments
            inside = f"/proc/self/fd/{folder}" if folder >= 0 else ""
            self._change(event, os.path.join(os.path.realpath(inside), path) if inside else path)
        elif kill_points.changes_something(event, arguments):
            self._change(event, arguments[0])

    def fsync(self, descriptor: int, real=os.fsync) -> None:
        """Syncs as `os.fsync` does, or raises OSError."""
        self._change("fsync", os.readlink(f"/proc/self/fd/{int(descriptor)}"))
        real(descriptor)

    def _change(self, event: str, path) -> None:
        if not isinstance(path, (str, os.PathLike)):
            return
        path = pathlib.Path(path)
        if self._folder not in (path, *path.parents):
            return
        with self._turn:
            turn = self.count
            self.count += 1
        # A full disk lets files go.
        removal = event in ("os.remove", "os.rmdir") and self._number == errno.ENOSPC
        if turn in self._failing and not removal:
            raise OSError(self._number, os.strerror(self._number), str(path))


_failure = None


@contextlib.contextmanager
def failing(folder: str, first: int, last: int, name: str) -> Iterator[None]:
    """Lets changes number `first` to `last` - 1 of `folder` and below fail, inside the block.

    Changes are files opened to be written, renames, removals, new folders and fsyncs, counted
    from 0 over all threads. The system calls of TensorFlow's own file system are not seen.

    Args:
      name: of the error, such as EIO.

    At the end it prints to stderr how many changes there were.
    """
    global _failure
    if _failure is None:
        # An audit hook can never be removed.
        sys.addaudithook(lambda *about: _failure and _failure.on_audit(*about))
    _failure = _Failure(folder, first, last, getattr(errno, name))
    try:
        with mock.patch("os.fsync", _failure.fsync):
            yield
    finally:
        print(f"changes of files: {_failure.count}", file=sys.stderr)
        _failure = False
