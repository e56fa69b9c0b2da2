"""Decides from its beats whether a training process hangs, and how long a stop of it may take.

A supervisor needs this because TensorFlow notices a peer that died, but not one whose Python hangs.
"""

import collections
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from trainer import processes

HANG_SECONDS = 60.0  # A shorter silence in training is never a hang,
HANG_LOOPS = 10  # nor is one that is shorter than this many loops of the usual length.
START_SECONDS = 600.0  # Import, meeting, restore and compilation send no beats while they last.
FROZEN_SECONDS = 10.0  # In state T (stopped by a signal); a debugger stops a process for less.
REMEMBERED = 101  # The median is that of so many intervals.

_BOUNDED = ("train", "evaluate")


def limit(phase: str, intervals: Sequence[float], hang_seconds: float) -> float:
    """Returns the seconds of silence in `phase` after which a process counts as hung.

    Args:
      intervals: seconds between successive beats in phase "train". hang_seconds: --hang_seconds; 0
        means the longer of 60 s and 10 times the median of `intervals`.
    """
    if phase not in _BOUNDED:
        return max(START_SECONDS, hang_seconds)
    return hang_seconds or max(
        HANG_SECONDS, HANG_LOOPS * statistics.median(intervals) if intervals else 0.0
    )


def stop_bound(loops: Sequence[float], saves: Sequence[float]) -> float | None:
    """Returns the most seconds that a stop should take; None before a loop and a save are timed.

    A stop takes the current loop, the next one, in which all workers agree, and a save, each at its
    longest. The save counts twice, and a second is added.
    """
    return 2 * max(loops) + 2 * max(saves) + 1 if loops and saves else None


class Watch:
    """The beats of one process since its start at `now`."""

    def __init__(self, hang_seconds: float, now: float):
        self._hang_seconds = hang_seconds
        self._heard = now  # When its last beat came.
        self._stopped_since: float | None = None
        self.phase = "import"
        self.step = 0
        self.reached: set[str] = set()
        self.intervals: collections.deque[float] = collections.deque(maxlen=REMEMBERED)

    def beat(self, beat: Mapping[str, Any], now: float) -> None:
        """Records a beat of the channel."""
        if beat["phase"] == self.phase == "train":
            self.intervals.append(now - self._heard)
        self._heard, self.phase, self.step = now, beat["phase"], beat["step"]
        self.reached.add(self.phase)

    @property
    def trained(self) -> bool:
        """Returns whether it has reached the loop; before that it has nothing new to save."""
        return bool(self.reached & {"train", "evaluate", "save"})

    def look(self, state: str, now: float) -> str:
        """Returns what is wrong with the process; "" if nothing is.

        state: as in `processes.Stat`; "" if it is not known.
        """
        if state != processes.STOPPED:
            self._stopped_since = None
        elif self._stopped_since is None:
            self._stopped_since = now
        elif now - self._stopped_since >= FROZEN_SECONDS:
            return f"frozen (stopped by a signal) for {now - self._stopped_since:.0f} s"
        silent, most = now - self._heard, limit(self.phase, self.intervals, self._hang_seconds)
        return (
            f"hung: silent for {silent:.0f} s in phase {self.phase} at step {self.step}, at most "
            f"{most:.0f} s"
            if silent > most
            else ""
        )

    def slept(self, seconds: float) -> None:
        """The watcher itself did not run for `seconds`: they do not count as silence."""
        self._heard += seconds
        if self._stopped_since is not None:
            self._stopped_since += seconds
