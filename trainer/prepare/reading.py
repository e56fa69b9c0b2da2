"""Progress and parallelism while a source is read."""

import collections
import concurrent.futures
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import rich.console
import rich.progress

log = logging.getLogger(__name__)

SECONDS_PER_LINE = 5.0
_AHEAD = 4

Item, Result = TypeVar("Item"), TypeVar("Result")


class ReadingProgress:
    """Shows how much of a source is read: a bar on a terminal, else a log line every few seconds.

    Both go to stderr.
    """

    def __init__(self, total: int):
        """`total`: bytes to read."""
        self._total, self._read, self._rows = total, 0, 0
        self._began = self._last = time.monotonic()
        self._bar = _bar(total) if sys.stderr.isatty() else None

    def advance(self, count: int) -> None:
        """Counts `count` more bytes as read."""
        self._read += count

    def add_rows(self, count: int) -> None:
        """Counts `count` more rows as done and shows it."""
        self._rows += count
        now = time.monotonic()
        if self._bar:
            self._bar.update(0, completed=self._read, rows=self._rows)
        elif now - self._last >= SECONDS_PER_LINE:
            self._last = now
            log.info(
                "read %.1f of %.1f MB, %d rows, %.1f MB/s",
                self._read / 1e6,
                self._total / 1e6,
                self._rows,
                self._read / 1e6 / (now - self._began),
            )

    def __enter__(self) -> "ReadingProgress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        if self._bar:
            self._bar.stop()


def _bar(total: int) -> rich.progress.Progress:
    bar = rich.progress.Progress(
        "reading",
        rich.progress.BarColumn(),
        rich.progress.DownloadColumn(),
        rich.progress.TransferSpeedColumn(),
        "{task.fields[rows]} rows",
        rich.progress.TimeRemainingColumn(),
        console=rich.console.Console(stderr=True),
    )
    bar.add_task("reading", total=total, rows=0)
    return bar


def ahead(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Iterator[Result]:
    """Returns `map(function, items)`, in order, computed a few items ahead in other threads."""
    pending = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > _AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
