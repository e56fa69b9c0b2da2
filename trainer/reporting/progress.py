"""How a run is going: when the next event is due, how fast steps are, and a line or a bar."""

import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

log = logging.getLogger(__name__)

# A stop waits for the end of the loop in progress, and a person wants to see the bar move.
LOOP_SECONDS = 0.5
# Seconds: several workers agree at least this often whether one of them was asked to stop.
LONGEST_LOOP = 1.0
LARGEST_LOOP = 10_000
SECONDS_PER_LINE = 5.0  # Plain log lines are at least this far apart, however small --log_steps is.


def next_event(step: int, every: Iterable[int], at: Iterable[int]) -> int:
    """Returns the first step after `step` at which something is due.

    With step 10, every (4, 25) and at (11,): 11, since 12 and 25 come later.

    Args:
      every: periods; 0 or less means never.
      at: single steps; those not after `step` are over.
    """
    periodic = [(step // period + 1) * period for period in every if period > 0]
    return min(periodic + [single for single in at if single > step])


class LoopSize:
    """The number of steps for the next call of the compiled loop.

    fixed: that number; 0 means as many as take about LOOP_SECONDS.
    seconds: the longest that a loop of `fixed` steps may take, once its speed is known.
    """

    def __init__(self, fixed: int, seconds: float = math.inf):
        self._fixed = fixed
        self._steps = fixed or 1
        self._seconds = seconds if fixed else LOOP_SECONDS

    @property
    def steps(self) -> int:
        """At least 1."""
        return self._steps

    def ran(self, steps: int, seconds: float) -> None:
        """Learns from a loop of `steps` steps; grows at most fourfold: first steps are slow."""
        if steps and seconds > 0 and math.isfinite(self._seconds):
            fitting = int(self._seconds * steps / seconds)
            self._steps = max(1, min(fitting, 4 * self._steps, self._fixed or LARGEST_LOOP))


def as_clock(seconds: float) -> str:
    """Returns 3725 as '1:02:05', 65 as '1:05'."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def line(step: int, total: int, epoch: int, metrics: Mapping[str, float], eta: float) -> str:
    """Returns for example 'step 200/1000 epoch 1 loss 0.6931 accuracy 0.5000 eta 1:05'."""
    shown = " ".join(f"{name} {number(value)}" for name, value in metrics.items())
    return f"step {step}/{total} epoch {epoch} {shown} eta {as_clock(eta)}"


def number(value: float) -> str:
    """Returns at least four significant digits, and no digit that only looks exact.

    0.50071 -> '0.5007', 12345.6 -> '12346', 1e-3 -> '0.001000'.
    """
    if value != value or abs(value) >= 1000 or value == 0:
        return f"{value:.0f}" if value else "0.000"
    # 999.96 rounds to '1000.', which ends like a sentence.
    return f"{value:#.4g}".rstrip(".") if abs(value) >= 1e-4 else f"{value:.3e}"


class Progress:
    """Shows a run on stderr: a bar on a terminal, else a plain line now and then.

    Use it as a context manager.
    """

    def __init__(self, step: int, total: int, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._total = total
        self._first = step
        self._began = clock()
        self._last_line = -SECONDS_PER_LINE
        self._bar = _bar(total) if sys.stderr.isatty() else None
        self._task = (
            self._bar.add_task("train", total=total, completed=step, metrics="")
            if self._bar
            else None
        )

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def compiling(self) -> None:
        """Shows that a program is compiled, which takes many seconds without a step."""
        if self._bar:
            self._bar.update(self._task, description="compiling")

    def advance(self, count: int) -> None:
        """Shows that `count` more steps are done."""
        if self._bar:
            self._bar.update(self._task, advance=count, description="train")

    def show(self, step: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Shows `step` with its metrics, {name: value}, in their order."""
        elapsed = self._clock() - self._began
        eta = elapsed / max(1, step - self._first) * (self._total - step)
        if self._bar:
            shown = "  ".join(
                f"{name} {number(value)}"
                for name, value in metrics.items()
                if name not in _NOT_ON_THE_BAR
            )
            self._bar.update(self._task, completed=step, metrics=shown)
        elif self._clock() - self._last_line >= SECONDS_PER_LINE or step == self._total:
            self._last_line = self._clock()
            log.info("%s", line(step, self._total, epoch, metrics, eta))


_NOT_ON_THE_BAR = ("gradient_norm", "input_wait")


def _bar(total: int) -> Any:
    digits = len(str(total))
    # Imported here: a run without a terminal does not need it.
    import rich.console
    import rich.progress
    import rich.table

    # On a narrow terminal the metrics are cut, and never the steps or the time that is left.
    rest = rich.table.Column(no_wrap=True, overflow="ellipsis", ratio=1)
    whole = [rich.table.Column(no_wrap=True, min_width=width) for width in (9, 2 * digits + 1, 7)]
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}", table_column=whole[0]),
        rich.progress.BarColumn(bar_width=16),
        rich.progress.MofNCompleteColumn(table_column=whole[1]),
        rich.progress.TimeRemainingColumn(table_column=whole[2]),
        rich.progress.TextColumn("{task.fields[metrics]}", table_column=rest),
        expand=True,
        console=rich.console.Console(file=sys.stderr),
        # Stdout carries results: the bar may redraw it only if both share a terminal.
        redirect_stdout=sys.stdout.isatty(),
    )
