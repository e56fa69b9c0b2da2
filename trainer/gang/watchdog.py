"""When a training process counts as hung or frozen, and how long a stop of it may take: pure
functions of what was heard from it.

Only Python can be watched from outside: TensorFlow notices a peer that died, never one whose Python
hangs.
"""

import collections
import statistics
from collections.abc import Mapping, Sequence

HANG_SECONDS = 60.0  # The least silence in training that counts as a hang.
HANG_LOOPS = 10  # Or so many loops of the usual length.
START_SECONDS = 600.0  # Import, meeting, restore and compilation send no beats while they last.
FROZEN_SECONDS = 10.0  # In state T (stopped by a signal): a debugger's moment is shorter.
REMEMBERED = 101  # Intervals that the median is taken of.

_BOUNDED = ("train", "evaluate")


def limit(phase: str, intervals: Sequence[float], hang_seconds: float) -> float:
    """Seconds of silence in `phase` after which a process hangs.

    Args:
      intervals: seconds between successive beats in phase "train". hang_seconds: --hang_seconds; 0
        means the longer of 60 s and 10 times the median of `intervals`.
    """
    if phase not in _BOUNDED:
        return max(START_SECONDS, hang_seconds)
    return hang_seconds or max(
        HANG_SECONDS, HANG_LOOPS * statistics.median(intervals) if intervals else 0.0
    )


def is_stopped(stat: str) -> bool:
    """Whether the content of /proc/PID/stat shows a process in state T, as after SIGSTOP."""
    return stat.rpartition(")")[2].split()[:1] == ["T"]


def stop_bound(loops: Sequence[float], saves: Sequence[float]) -> float | None:
    """Most seconds that a stop should take: the loop under way, the one in which all agree, and a
    save, each at its longest.

    None while no loop or no save has been timed.
    """
    return 2 * max(loops) + 2 * max(saves) + 1 if loops and saves else None


class Watch:
    """What was heard from one process since it was started at `now`."""

    def __init__(self, hang_seconds: float, now: float):
        self._hang_seconds = hang_seconds
        self._heard = now
        self._stopped_since: float | None = None
        self.phase = "import"
        self.step = 0
        self.reached: set[str] = set()
        self.intervals: collections.deque[float] = collections.deque(maxlen=REMEMBERED)

    def beat(self, beat: Mapping, now: float) -> None:
        """Notes a beat of the channel."""
        if beat["phase"] == self.phase == "train":
            self.intervals.append(now - self._heard)
        self._heard, self.phase, self.step = now, beat["phase"], beat["step"]
        self.reached.add(self.phase)

    @property
    def trained(self) -> bool:
        """Whether it has got as far as the loop: only then there can be anything new to save."""
        return bool(self.reached & {"train", "evaluate", "save"})

    def look(self, stat: str, now: float) -> str:
        """What is wrong with the process, in words; "" while nothing is. `stat`: /proc/PID/stat."""
        if not is_stopped(stat):
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
        """The watcher itself did not run for `seconds`: they say nothing about the process."""
        self._heard += seconds
        if self._stopped_since is not None:
            self._stopped_since += seconds
