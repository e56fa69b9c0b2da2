"""Where the time of a run went, and why it failed: the journal added up by pure functions.

The arithmetic walks along the wall clock once. Each line about work claims the seconds before it
for one bucket; what no line claims goes where the lines around it point. So the buckets add up to
the wall time, and what the journal cannot explain has a bucket of its own, `not_on_record`.

- A killed attempt writes no last line: it ends with the last line that mentions it. Its steps since
  its last `loop` line (5 s of them, or one longer loop) are on no record and count as restart gap,
  unless a supervisor wrote when it lost the worker.
- Steps beyond the checkpoint from which a later attempt continued are lost steps, with the time
  that they waited for input.
- A save runs in the background: only the time that it held up training counts, which is copying the
  state and waiting for the save before it.
- The first step of an attempt also compiles the update, which takes a thousand times as long: if it
  has a line of its own (always, unless --steps_per_loop is set), that line counts as compile.
"""

import dataclasses
import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trainer.exit_codes import BY_NAME

BUCKETS = {
    "start": "launch, imports, opening the dataset, building the model",
    "rendezvous": "workers waiting for each other",
    "compile": "tracing and compiling; the first step",
    "restore": "reading a checkpoint",
    "input_wait": "steps waiting for their batch",
    "step": "steps that count",
    "evaluate": "evaluations",
    "save": "training held up by saves",
    "lost_steps": "steps done again or never saved",
    "restart_gap": "from the end of an attempt to the next one's start",
    "not_on_record": "what the journal does not explain",
}
# Lines that claim the seconds before them. All other lines claim nothing.
CLAIMS = {
    "launch": "start",
    "devices": "start",
    "open_dataset": "start",
    "build": "start",
    "initialise": "start",
    "start": "start",
    "open_summaries": "start",
    "rendezvous": "rendezvous",
    "meet": "rendezvous",
    "restore": "restore",
    "compile": "compile",
    "loop": "step",
    "evaluate": "evaluate",
    "evaluate_broken_off": "evaluate",
    "hand_over": "save",
    "finish": "save",
    "stop": "save",
}
GOOD_ENDS = {
    BY_NAME["done"]: "done",
    BY_NAME["interrupted"]: "stopped",
    BY_NAME["terminated"]: "stopped",
}
# They follow from a failure elsewhere or before.
CONSEQUENCES = (BY_NAME["peer_lost"], BY_NAME["restart_limit"])
RUNNING_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Cause:
    """What a failure began with.

    code: an exit code, negative for a signal; None if silence is the only evidence.
    """

    worker: int
    code: int | None
    reason: str
    last_lines: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class AttemptSummary:
    """What the journal says about one attempt.

    end: done | stopped | left (to form a new gang) | failed | killed | running.
    restored, reached, saved: steps; None if the attempt did not get that far.
    """

    number: int
    began: str
    seconds: float
    restored: int | None
    reached: int | None
    saved: int | None
    end: str
    code: int | None
    cause: Cause | None


@dataclasses.dataclass(frozen=True)
class RunSummary:
    """What the journal says about the run as it stands.

    goodput: seconds of steps that count, divided by the wall time.
    """

    wall_seconds: float
    goodput: float
    buckets: Mapping[str, float]
    step: int
    total: int | None
    end: str
    code: int | None
    silent_seconds: float
    cause: Cause | None
    attempts: tuple[AttemptSummary, ...]


def summarize(events: Iterable[Mapping[str, Any]], now: float) -> RunSummary | None:
    """Returns the summary of a journal; None if none of its events can be used.

    Args:
      events: as `journal.read` returns them, in the order of the file. Entries that are not events
        (no time, no attempt, values of other types) are left out.
      now: seconds since the epoch. A run without an end on record counts as running while its last
        line is younger than RUNNING_SECONDS; then its wall time ends with the last line about work.
    """
    lines = [line for line in map(_line, events) if line]
    if not lines:
        return None
    silent = max(0.0, now - lines[-1].time)
    groups = _grouped(lines)
    groups[-1].is_running = not groups[-1].is_over and silent <= RUNNING_SECONDS
    limits, saved = _kept(groups)
    buckets, spans = _walk(groups, limits)
    wall = sum(buckets.values())
    last = groups[-1]
    return RunSummary(
        wall_seconds=wall,
        goodput=buckets["step"] / wall if wall else 0.0,
        buckets=buckets,
        step=max(last.reached or 0, saved) if last.is_running else saved,
        total=next((group.total for group in reversed(groups) if group.total is not None), None),
        end=last.end,
        code=last.code,
        silent_seconds=silent,
        cause=_first_cause(groups),
        attempts=tuple(
            AttemptSummary(
                group.number,
                _as_time(began),
                ended - began,
                group.restored,
                group.reached,
                group.saved,
                group.end,
                group.code,
                group.cause,
            )
            for group, (began, ended) in zip(groups, spans)
            if group.number
        ),
    )


# --- Lines ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Line:
    """A line of the journal.

    time: its moment, in seconds since the epoch. seconds: how much before it the line claims.
    """

    time: float
    attempt: int
    worker: int
    event: str
    seconds: float
    fields: Mapping[str, Any]

    def integer(self, name: str) -> int | None:
        value = self.fields.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


def _line(event: Mapping[str, Any]) -> _Line | None:
    try:
        moment = datetime.datetime.fromisoformat(event["time"])
        time = (
            moment if moment.tzinfo else moment.replace(tzinfo=datetime.timezone.utc)
        ).timestamp()
        attempt, worker, name = event["attempt"], event.get("worker", 0), event["event"]
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    if not isinstance(name, str) or not all(
        isinstance(number, int) and number >= 0 for number in (attempt, worker)
    ):
        return None
    return _Line(
        time,
        attempt,
        worker,
        name,
        _seconds(event.get("seconds")) if name in CLAIMS else 0.0,
        event,
    )


def _seconds(value: Any) -> float:
    return (
        float(value)
        if isinstance(value, (int, float)) and math.isfinite(value) and value > 0
        else 0.0
    )


def _as_time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).isoformat(
        timespec="seconds"
    )


# --- Attempts -------------------------------------------------------------------------------------


class _Group:
    """The lines of one attempt, supervisors' included.

    Number 0 has the lines of workers that met, or tried to, and never began an attempt.
    """

    def __init__(self, number: int, lines: Sequence[_Line]):
        self.number = number
        self.lines = lines
        self.is_running = False

    def first(self, event: str) -> _Line | None:
        return next((line for line in self.lines if line.event == event), None)

    def last(self, *events: str) -> _Line | None:
        return next((line for line in reversed(self.lines) if line.event in events), None)

    def newest(self, event: str, field: str = "step") -> int | None:
        values = [line.integer(field) for line in self.lines if line.event == event]
        return max((value for value in values if value is not None), default=None)

    @property
    def code(self) -> int | None:
        """The exit code of the whole gang if it is on record, else of the attempt."""
        return next(
            (line.integer("code") for line in (self.last("gang_end"), self.last("stop")) if line),
            None,
        )

    @property
    def is_over(self) -> bool:
        return self.last("stop", "gang_end") is not None

    @property
    def end(self) -> str:
        if self.is_running:
            return "running"
        if self.left_to_meet:
            return "left"
        return GOOD_ENDS.get(self.code, "failed") if self.is_over else "killed"

    @property
    def left_to_meet(self) -> bool:
        """Whether it ended well, with a checkpoint, so that a gang of another size could form."""
        stop = self.last("stop")
        return bool(stop and stop.fields.get("meets_again"))

    @property
    def restored(self) -> int | None:
        line = self.last("restore", "initialise")
        return line and (line.integer("step") or 0)

    @property
    def saved(self) -> int | None:
        return self.newest("save")

    @property
    def reached(self) -> int | None:
        return self.newest("loop") if self.last("loop") else self.restored

    @property
    def total(self) -> int | None:
        return self.newest("start", "total")

    @property
    def causes(self) -> list[Cause]:
        """All failures on record, in order."""
        return [
            Cause(
                line.worker if line.integer("index") is None else line.integer("index"),
                line.integer("code"),
                str(line.fields.get("reason", "")),
                _texts(line.fields.get("last_lines")),
            )
            for line in self.lines
            if line.event == "lost"
            or line.event in ("stop", "gang_end")
            and line.integer("code") not in GOOD_ENDS
            and not line.fields.get("meets_again")
        ]

    @property
    def cause(self) -> Cause | None:
        """Why the attempt failed; None if it did not fail."""
        if self.end == "killed" and not self.causes:
            return Cause(
                self.lines[-1].worker,
                None,
                "no end on record: the process was killed, or its machine was lost",
            )
        return _first(self.causes) if self.end in ("killed", "failed") else None


def _texts(lines: Any) -> tuple[str, ...]:
    return (
        tuple(map(str, lines))
        if isinstance(lines, (list, tuple))
        else tuple(str(lines or "").splitlines())
    )


def _grouped(lines: Sequence[_Line]) -> list[_Group]:
    """Returns one group per attempt, in order.

    Lines of a gang's supervisors (attempt 0) since it met belong to the attempt that follows, else
    to the one before it. Lines that an attempt writes after a newer one began no longer count.
    """
    groups, waiting = [], []
    for line in lines:
        newest = groups[-1].number if groups else 0
        if line.attempt > newest:
            groups.append(_Group(line.attempt, [*waiting, line]))
            waiting = []
        elif line.attempt == newest and newest:
            groups[-1].lines.append(line)
        elif line.attempt == 0:
            (
                waiting if waiting or line.event == "rendezvous" or not groups else groups[-1].lines
            ).append(line)
    return groups + ([_Group(0, waiting)] if waiting else [])


def _first(causes: Sequence[Cause]) -> Cause | None:
    """Returns the first cause that is not a consequence of another, else the first."""
    return min(causes, key=lambda cause: cause.code in CONSEQUENCES, default=None)


def _first_cause(groups: Sequence[_Group]) -> Cause | None:
    """Returns why the run failed.

    If it gave up after too many restarts, that is the first failure after its last save.
    """
    if groups[-1].code != BY_NAME["restart_limit"]:
        return groups[-1].cause
    since = max((place for place, group in enumerate(groups) if group.saved is not None), default=0)
    return _first([group.cause for group in groups[since:] if group.cause])


# --- Time -----------------------------------------------------------------------------------------


def _kept(groups: Sequence[_Group]) -> tuple[list[float], int]:
    """Returns the last step of each group that counts, and the newest step to continue from."""
    saved = 0
    for group in groups:
        saved = max(saved if group.restored is None else group.restored, group.saved or 0)
    limit = math.inf if groups[-1].is_running and groups[-1].restored is not None else saved
    limits = []
    for group in reversed(groups):
        limits.insert(0, limit)
        limit = limit if group.restored is None else min(limit, group.restored)
    return limits, saved


def _walk(
    groups: Sequence[_Group], limits: Sequence[float]
) -> tuple[dict[str, float], list[tuple[float, float]]]:
    """Returns {bucket: seconds}, and the moments at which each group began and ended."""
    buckets = dict.fromkeys(BUCKETS, 0.0)
    spans = []
    clock = groups[0].lines[0].time - groups[0].lines[0].seconds
    for group, limit in zip(groups, limits):
        began, previous = None, ""
        for line in group.lines:
            if line.event not in CLAIMS:
                continue
            # An attempt that waits for the lock runs beside the one that holds it.
            begin = max(clock, line.time - line.seconds)
            buckets[_gap(previous, line.event)] += begin - clock
            clock = max(begin, line.time)
            began = begin if began is None else began
            previous = line.event
            for bucket, seconds in _claimed(line, clock - begin, group, limit):
                buckets[bucket] += seconds
        if not group.is_running and not group.last("stop"):
            tail = max(0.0, group.lines[-1].time - clock)
            buckets[
                "lost_steps" if group.last("start") else "start" if group.number else "restart_gap"
            ] += tail
            clock += tail
        spans.append((clock if began is None else began, clock))
    return buckets, spans


def _gap(previous: str, event: str) -> str:
    """Returns the bucket for time before `event` that no line claims.

    previous: the last event of the same attempt that claimed some; "" if there is none.
    """
    if event == "rendezvous" or not previous:
        return "restart_gap"
    return "start" if previous == "rendezvous" else "not_on_record"


def _claimed(line: _Line, seconds: float, group: _Group, limit: float) -> list[tuple[str, float]]:
    """Returns the buckets that share the `seconds` of a line."""
    if line.event == "stop" and line.integer("code") not in GOOD_ENDS and not group.left_to_meet:
        return [("lost_steps" if group.last("start") else "start", seconds)]
    if line.event != "loop":
        return [(CLAIMS[line.event], seconds)]
    if line is group.first("loop") and line.integer("steps") == 1:
        return [("compile", seconds)]
    steps, last = line.integer("steps") or 1, line.integer("step") or 0
    kept = min(max((limit - last + steps) / steps, 0.0), 1.0)
    waited = (
        min(_seconds(line.fields.get("input_seconds")) / line.seconds, 1.0) if line.seconds else 0.0
    )
    return [
        ("lost_steps", seconds * (1 - kept)),
        ("input_wait", seconds * kept * waited),
        ("step", seconds * kept * (1 - waited)),
    ]
