"""The journal of a model folder: a JSON line for each event that took time or changed the run.

All attempts append to the same file, so that `trainer report` can add up the time of all of them.
The journal never stops training and never waits: a line that cannot be written is reported once and
written with the next one; a line that cannot be read is skipped.
"""

import contextlib
import datetime
import json
import logging
import math
import os
import pathlib
import threading
import time
from typing import Any

from trainer import durable

log = logging.getLogger(__name__)

LONGEST_WAITING = 1 << 20  # Bytes of lines that wait for a storage that fails; then they are lost.


class Journal:
    """Appends events to a file; any number of processes and threads may append at the same time.

    A line is written by one `write` on a descriptor opened for appending, so that lines never
    interleave. If an earlier attempt was killed inside a line, the first line of this one begins on
    a new line.
    """

    def __init__(
        self, path: str | os.PathLike, attempt: int, worker: int = 0, began: float | None = None
    ):
        """
        Args:
          path: the journal's file.
          attempt, worker: numbers written into every line.
          began: when the first lap began, in seconds of time.monotonic(); default: now.
        """
        self._path = pathlib.Path(path)
        self._identity = {"attempt": attempt, "worker": worker}
        self._turn = threading.Lock()
        self._descriptor: int | None = None
        self._inside_a_line = False
        self._waiting = b""  # Lines that could not be written yet.
        self._failed = False
        self._lap_began = time.monotonic() if began is None else began

    def write(self, event: str, seconds: float | None = None, **fields: Any) -> None:
        """Appends `{"time", "attempt", "worker", "event", "seconds", **fields}`.

        `seconds` is left out if it is None. NumPy scalars become numbers. JSON has no NaN and no
        infinity: they become the strings "NaN", "Infinity" and "-Infinity", which `float()` reads.
        Any other value that JSON does not have becomes its `str`.
        """
        entry = {"time": _now(), **self._identity, "event": event}
        if seconds is not None:
            entry["seconds"] = seconds
        line = json.dumps(_plain({**entry, **fields}), allow_nan=False, ensure_ascii=False) + "\n"
        with self._turn:
            self._waiting += line.encode("utf-8", "backslashreplace")
            try:
                self._append()
            except OSError as problem:
                if not self._failed:
                    log.error(
                        "journal %s cannot be written (%s): training continues without it",
                        self._path,
                        problem,
                    )
                self._failed = True
                if len(self._waiting) > LONGEST_WAITING:
                    self._waiting = b""

    def lap(self, event: str, **fields: Any) -> None:
        """Writes `event` with the seconds since the lap before: each moment belongs to one lap.

        Only for the thread that does the work of an attempt.
        """
        now = time.monotonic()
        seconds, self._lap_began = now - self._lap_began, now
        self.write(event, seconds, **fields)

    def close(self) -> None:
        """Closes the file; a later `write` opens it again."""
        with self._turn:
            if self._waiting:
                with contextlib.suppress(OSError):
                    self._append()
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def _append(self) -> None:
        """Writes the lines that wait; those that a full disk cuts off wait for the next call."""
        if self._descriptor is None:
            self._descriptor = os.open(
                self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644
            )
            self._inside_a_line = _ends_inside_a_line(self._descriptor)
        lines = b"\n" * self._inside_a_line + self._waiting
        written = os.write(self._descriptor, lines)
        self._inside_a_line = written < len(lines)
        self._waiting = lines[lines.rfind(b"\n", 0, written) + 1 :]


def read(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the events of a journal in the order of the file; [] if there is no file.

    Lines that are not a JSON object (cut off by a kill, damaged on disk) are left out.
    """
    try:
        lines = durable.read_bytes(path).split(b"\n")
    except FileNotFoundError:
        return []
    entries = (_parse(line) for line in lines if line.strip())
    return [entry for entry in entries if isinstance(entry, dict)]


def last(path: str | os.PathLike, event: str) -> dict[str, Any] | None:
    """Returns the last entry of `event` in a journal, None if there is none."""
    return next((entry for entry in reversed(read(path)) if entry.get("event") == event), None)


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="microseconds")


def _ends_inside_a_line(descriptor: int) -> bool:
    # If another process is writing at this moment, the answer may be wrong. That costs an empty
    # line.
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"


def _plain(value: Any) -> Any:
    """Returns `value` as a value that JSON has."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if hasattr(value, "tolist"):  # NumPy arrays and scalars, without importing NumPy
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
