"""The journal of a model folder: one JSON object per line for everything that took time or changed
the run.

Every attempt appends to the same file, so that `trainer report` can add up where the time of all
attempts went. The journal observes training and never stops it: a line that cannot be written is
reported once and lost, a line that cannot be read is skipped.
"""

import datetime
import json
import logging
import math
import os
import pathlib
import threading
import time

log = logging.getLogger(__name__)


class Journal:
    """Appends events to `path`; any number of processes and threads may append at the same time.

    A line goes out in one `write` on a descriptor opened for appending, so that lines never
    interleave. Where an earlier attempt was killed inside a line, the first line of this one begins
    on a new line.
    """

    def __init__(self, path, attempt, worker=0, began=None):
        """`path`: the journal's file. `attempt`, `worker`: integers written into every line.
        `began`: where the first lap begins, a moment of time.monotonic(); default: now.
        """
        self._path = pathlib.Path(path)
        self._identity = {"attempt": attempt, "worker": worker}
        self._turn = threading.Lock()
        self._descriptor = None
        self._inside_a_line = False
        self._failed = False
        self._lap_began = time.monotonic() if began is None else began

    def write(self, event, seconds=None, **fields):
        """Appends `{"time", "attempt", "worker", "event", "seconds"?, **fields}`; `seconds` is left
        out where None.

        NumPy scalars become numbers. JSON has no NaN and no infinity: they become the strings
        "NaN", "Infinity" and "-Infinity", which `float()` reads back. Anything else that JSON does
        not know becomes its `str`.
        """
        entry = {"time": _now(), **self._identity, "event": event}
        if seconds is not None:
            entry["seconds"] = seconds
        line = json.dumps(_plain({**entry, **fields}), allow_nan=False, ensure_ascii=False) + "\n"
        with self._turn:
            try:
                self._append(line.encode("utf-8", "backslashreplace"))
            except OSError as problem:
                if not self._failed:
                    log.error(
                        "journal %s cannot be written (%s): training goes on without it",
                        self._path,
                        problem,
                    )
                self._failed = True

    def lap(self, event, **fields):
        """Writes `event` with the seconds since the lap before it, all of which it took: no moment
        goes to two laps or to none.

        For the one thread that does an attempt's work.
        """
        now = time.monotonic()
        seconds, self._lap_began = now - self._lap_began, now
        self.write(event, seconds, **fields)

    def close(self):
        """Closes the file; a later `write` opens it again."""
        with self._turn:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def _append(self, line):
        if self._descriptor is None:
            self._descriptor = os.open(
                self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644
            )
            self._inside_a_line = _ends_inside_a_line(self._descriptor)
        if self._inside_a_line:
            line = b"\n" + line
        self._inside_a_line = os.write(self._descriptor, line) < len(line)


def read(path):
    """Returns the events of a journal as a list of dicts, in the order of the file; [] where there
    is no file.

    Lines that are no JSON object (cut off by a kill, damaged on disk) are left out.
    """
    try:
        lines = pathlib.Path(path).read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    entries = (_parse(line) for line in lines if line.strip())
    return [entry for entry in entries if isinstance(entry, dict)]


def _parse(line):
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _now():
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="microseconds")


def _ends_inside_a_line(descriptor):
    # Where another process is writing this very moment the answer may be wrong: that costs an empty
    # line.
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"


def _plain(value):
    """Returns `value` as JSON knows it."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if hasattr(value, "tolist"):  # NumPy arrays and scalars, without importing NumPy
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
