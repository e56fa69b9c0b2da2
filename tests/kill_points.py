"""Collects every state of the disk that a kill could leave behind, from one run.

A process that dies by SIGKILL leaves the files as they are. So a copy of the model folder, taken
just before a file is made, renamed or removed, is what a kill at that moment leaves.
"""

import contextlib
import os
import pathlib
import shutil
import sys
import threading

_TRIES = 100


class Recorder:
    """Copies `source` to DESTINATION/NNN/model before the NNN-th change.

    DESTINATION/NNN/about names the change.
    """

    def __init__(self, source, destination, printed):
        """`printed()` returns what the run has printed so far, for DESTINATION/NNN/printed."""
        self._source = pathlib.Path(source)
        self._destination = pathlib.Path(destination)
        self._printed = printed
        self._turn = threading.Lock()
        self._copying = threading.local()
        self._count = 0

    def __call__(self, event: str, arguments: tuple) -> None:
        """Handles an audit event (listed in docs.python.org/3/library/audit_events.html)."""
        copying = getattr(self._copying, "on", False)
        if copying or not changes_something(event, arguments) or not self._concerns(arguments[0]):
            return
        with self._turn:  # Changes of other threads wait until the copy is made.
            self._copying.on = True
            try:
                self._copy(f"{event} {arguments}")
            finally:
                self._copying.on = False

    def _concerns(self, path) -> bool:
        is_path = isinstance(path, (str, os.PathLike))
        return is_path and self._source in pathlib.Path(path).parents and self._source.exists()

    def _copy(self, about: str) -> None:
        folder = self._destination / f"{self._count:03d}"
        self._count += 1
        folder.mkdir(parents=True)
        (folder / "about").write_text(about)
        (folder / "printed").write_text(self._printed())
        for _ in range(_TRIES):
            # Fails if a change that had already begun moves a file.
            with contextlib.suppress(shutil.Error, FileNotFoundError):
                shutil.copytree(self._source, folder / "model")
                return
            shutil.rmtree(folder / "model", ignore_errors=True)
        raise AssertionError(f"{self._source} changes all the time")


def changes_something(event: str, arguments: tuple) -> bool:
    """Returns whether an audit event is about a change of files."""
    if event == "open":
        return bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
    return event in ("os.rename", "os.remove", "os.mkdir", "shutil.rmtree")


_recorder = None


@contextlib.contextmanager
def recorded(source, destination, printed):
    """Records the changes to `source` inside the block."""
    global _recorder
    if _recorder is None:
        # An audit hook can never be removed.
        sys.addaudithook(lambda event, arguments: _recorder and _recorder(event, arguments))
    _recorder = Recorder(source, destination, printed)
    try:
        yield
    finally:
        _recorder = False
