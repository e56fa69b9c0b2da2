"""The arithmetic of a report, on journals whose metrics one can add up in one's head."""

import datetime
import math

import pytest

from trainer.reporting import goodput

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
LONG_AGO = START.timestamp() + 1e6


def line(time, event, attempt=1, worker=0, **fields):
    """A line written `time` seconds after START."""
    moment = START + datetime.timedelta(seconds=time)
    return {
        "time": moment.isoformat(),
        "attempt": attempt,
        "worker": worker,
        "event": event,
        **fields,
    }


def begun(time, attempt=1, step=0, seconds=4):
    """The first lines of an attempt, all of `seconds` before `time`: 1 s of it to restore, the rest
    start.
    """
    return [
        line(time - 1, "launch", attempt, seconds=seconds - 1),
        line(time, "restore" if step else "initialise", attempt, seconds=1, step=step),
        line(time, "start", attempt, seconds=0, step=step, total=100),
    ]


def loop(time, step, steps, seconds, attempt=1, input_seconds=0):
    return line(
        time, "loop", attempt, step=step, steps=steps, seconds=seconds, input_seconds=input_seconds
    )


def summarize(*parts, now=LONG_AGO):
    return goodput.summarize(
        [event for part in parts for event in (part if isinstance(part, list) else [part])], now
    )


def buckets(*parts, **options):
    """The buckets that are not empty, in seconds."""
    report = summarize(*parts, **options)
    assert sum(report.buckets.values()) == pytest.approx(report.wall_seconds)
    return {
        name: pytest.approx(seconds, abs=1e-4)
        for name, seconds in report.buckets.items()
        if seconds > 1e-4
    }


SAVED_40 = [
    loop(14, 40, 40, 8),
    line(14, "hand_over", seconds=0, step=40),
    line(14, "save", seconds=9, step=40),
]
DONE = [
    loop(26, 100, 60, 12),
    line(27, "hand_over", seconds=1, step=100),
    line(28, "save", seconds=1, step=100),
    line(29, "finish", seconds=2, step=100),
    line(30, "stop", seconds=1, code=0, reason="done"),
]
# Attempt 1 until it was killed: 4 s of start, 8 s of 40 steps, a checkpoint, 6 s of 30 more steps.
KILLED = [*begun(4), line(6, "compile", seconds=2), *SAVED_40, loop(20, 70, 30, 6)]

TABLE = {
    "an undisturbed run": (
        [*begun(4), line(6, "compile", seconds=2), *SAVED_40, *DONE],
        {"start": 4, "compile": 2, "step": 20, "save": 4},
    ),
    "the first step compiles, where it is told by itself": (
        [
            *begun(4),
            line(6, "compile", seconds=2),
            loop(9, 1, 1, 3),
            loop(10, 2, 1, 1),
            *SAVED_40[:1],
            line(14, "save", step=40),
        ],
        {"start": 4, "compile": 2 + 3, "step": 1 + 4},
    ),
    "a first loop of several steps is steps": (
        [*begun(4), loop(14, 2, 2, 10), line(14, "save", step=40)],
        {"start": 4, "step": 10},
    ),
    "workers that wait for each other meet": (
        [
            line(0.5, "rendezvous", 0, seconds=0.5),
            line(2, "launch", seconds=1.5),
            line(5, "meet", seconds=3),
            line(6, "initialise", seconds=1, step=0),
            line(6, "start", seconds=0, step=0),
            loop(14, 40, 40, 8),
            line(14, "save", step=40),
        ],
        {"start": 2.5, "rendezvous": 3.5, "step": 8},
    ),
    "what waited for input is no step": (
        [*begun(4), loop(14, 40, 40, 10, input_seconds=3), line(14, "save", step=40)],
        {"start": 4, "input_wait": 3, "step": 7},
    ),
    "steps beyond the checkpoint that the next attempt restored are lost": (
        [
            *KILLED,
            *begun(30, 2, step=40),
            loop(42, 100, 60, 12, attempt=2),
            line(42, "save", 2, step=100),
            line(42, "stop", 2, code=0),
        ],
        {
            "start": 4 + 3,
            "compile": 2,
            "step": 8 + 12,
            "lost_steps": 6,
            "restart_gap": 6,
            "restore": 1,
        },
    ),
    "a line about steps around that checkpoint is shared out": (
        [*begun(4), loop(14, 50, 50, 10, input_seconds=5), *begun(20, 2, step=40)],
        {
            "start": 4 + 3,
            "input_wait": 4,
            "step": 4,
            "lost_steps": 2,
            "restart_gap": 2,
            "restore": 1,
        },
    ),
    "a fall back over a damaged checkpoint costs the steps of two attempts": (
        [
            *KILLED,
            *begun(30, 2, step=40),
            loop(36, 60, 20, 6, attempt=2),
            line(36, "save", 2, step=60),
            *begun(40, 3, step=20),
        ],
        {
            "start": 4 + 3 + 3,
            "compile": 2,
            "step": 4,
            "lost_steps": 4 + 6 + 6,
            "restart_gap": 6,
            "restore": 2,
        },
    ),
    "an attempt that was killed before it restored anything decides nothing": (
        [*KILLED, line(24, "launch", 2, seconds=3), *begun(30, 3, step=40)],
        {
            "start": 4 + 3 + 3,
            "compile": 2,
            "step": 8,
            "lost_steps": 6,
            "restart_gap": 1 + 2,
            "restore": 1,
        },
    ),
    "where nobody went on yet, what was not saved is lost": (
        KILLED,
        {"start": 4, "compile": 2, "step": 8, "lost_steps": 6},
    ),
    "the time from the last line about steps to the last of all is lost with them": (
        [*KILLED, line(23, "epoch", step=80)],
        {"start": 4, "compile": 2, "step": 8, "lost_steps": 9},
    ),
    "a supervisor saw the end: until then the attempt was at work": (
        [
            *KILLED,
            line(24, "lost", 0, index=1, reason="killed", code=-9),
            line(25, "restart", 0),
            *begun(34, 2, step=40),
        ],
        {
            "start": 4 + 3,
            "compile": 2,
            "step": 8,
            "lost_steps": 6 + 5,
            "restart_gap": 5,
            "restore": 1,
        },
    ),
    "killed while it started": (
        [line(3, "launch", seconds=3), line(5, "open_dataset", seconds=1)],
        {"start": 4, "not_on_record": 1},
    ),
    "workers meet before each attempt": (
        [
            line(2, "rendezvous", 0, seconds=2),
            *begun(7),
            loop(10, 10, 10, 3),
            line(11, "lost", 0, index=1),
            line(16, "rendezvous", 0, seconds=3),
            *begun(21, 2),
        ],
        {"rendezvous": 5, "start": 1 + 4 + 1 + 4, "lost_steps": 4, "restart_gap": 2},
    ),
    "workers that met and were lost before an attempt began": (
        [
            *KILLED,
            line(21, "rendezvous", 0, seconds=1),
            line(25, "lost", 0, index=1),
            line(28, "rendezvous", 0, seconds=2),
            *begun(33, 2, step=40),
        ],
        {
            "start": 4 + 1 + 3,
            "compile": 2,
            "step": 8,
            "lost_steps": 6,
            "rendezvous": 3,
            "restart_gap": 5,
            "restore": 1,
        },
    ),
    "an attempt that waited for the lock does not count the other's time again": (
        [*begun(4), *SAVED_40, *DONE, *begun(35, 2, step=100, seconds=25)],
        {"start": 4 + 4, "not_on_record": 2, "step": 20, "save": 4, "restore": 1},
    ),
    "what a frozen attempt writes after a newer one began does not count": (
        [
            *KILLED,
            *begun(30, 2, step=40),
            line(31, "hand_over", 1, seconds=11),
            loop(42, 100, 60, 12, attempt=2),
            line(42, "save", 2, step=100),
        ],
        {
            "start": 4 + 3,
            "compile": 2,
            "step": 8 + 12,
            "lost_steps": 6,
            "restart_gap": 6,
            "restore": 1,
        },
    ),
    "a failure takes the steps since the last save, and its own last moments, with it": (
        [*KILLED, line(22, "stop", seconds=2, code=4, reason="nan")],
        {"start": 4, "compile": 2, "step": 8, "lost_steps": 8},
    ),
    "what supervisors write after an attempt's own end adds no time": (
        [
            *KILLED,
            line(22, "stop", seconds=2, code=4, reason="nan"),
            line(25, "gang_end", 0, index=0, code=4, reason="nan"),
        ],
        {"start": 4, "compile": 2, "step": 8, "lost_steps": 8},
    ),
    "a failure while it starts is start": (
        [line(3, "launch", seconds=3), line(5, "stop", seconds=2, code=2, reason="other flags")],
        {"start": 5},
    ),
    "a lost line leaves its seconds unexplained": (
        [*begun(4), *SAVED_40, *DONE],
        {"start": 4, "not_on_record": 2, "step": 20, "save": 4},
    ),
    "an evaluation that a stop broke off is one": (
        [
            *begun(4),
            *SAVED_40,
            line(17, "evaluate_broken_off", seconds=3),
            line(18, "stop", seconds=1, code=143),
        ],
        {"start": 4, "not_on_record": 2, "step": 8, "evaluate": 3, "save": 1},
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_buckets(name):
    events, expected = TABLE[name]
    assert buckets(events) == expected


def test_goodput_is_the_share_of_steps_that_count():
    report = summarize(KILLED)
    assert (report.wall_seconds, report.goodput) == (pytest.approx(20), pytest.approx(8 / 20))


def test_a_run_that_still_goes_on_has_lost_nothing_yet():
    now = START.timestamp() + 20 + 59
    report = summarize(KILLED, line(21, "epoch", step=75), now=now)
    assert (report.end, report.step, report.attempts[0].end, report.silent_seconds) == (
        "running",
        70,
        "running",
        58,
    )
    assert (report.buckets["step"], report.buckets["lost_steps"]) == (pytest.approx(14), 0)
    assert report.wall_seconds == pytest.approx(20)
    assert report.cause is None and report.attempts[0].cause is None
    assert summarize(KILLED, now=now + 2).end == "killed"


def test_a_run_that_has_not_yet_restored_goes_on_from_what_was_saved():
    report = summarize(KILLED, line(25, "launch", 2, seconds=3), now=START.timestamp() + 26)
    assert (report.end, report.step, report.buckets["lost_steps"]) == (
        "running",
        40,
        pytest.approx(6),
    )


STOPS = [
    (0, "done"),
    (130, "stopped"),
    (143, "stopped"),
    (1, "failed"),
    (75, "failed"),
    ("x", "failed"),
]


@pytest.mark.parametrize("code, end", STOPS)
def test_the_end_of_an_attempt_follows_from_its_code(code, end):
    report = summarize(begun(4), line(5, "stop", seconds=1, code=code, reason="why"))
    assert (report.end, report.attempts[0].end) == (end, end)
    assert (report.cause is None) == (end != "failed")


def test_an_attempt_that_left_to_form_a_new_gang_has_not_failed_and_loses_nothing():
    left = [
        loop(14, 40, 40, 8),
        line(14, "hand_over", seconds=0, step=40),
        line(14, "save", seconds=1, step=40),
        line(15, "finish", seconds=1, step=40),
        line(16, "stop", seconds=1, code=75, reason="...", meets_again=True),
    ]
    report = summarize(
        *begun(4),
        line(6, "compile", seconds=2),
        left,
        *begun(24, 2, step=40),
        line(30, "stop", 2, seconds=6, code=0),
    )
    assert [(attempt.end, attempt.cause) for attempt in report.attempts] == [
        ("left", None),
        ("done", None),
    ]
    assert report.buckets["lost_steps"] == 0 and report.buckets["save"] == pytest.approx(1 + 1 + 6)


def test_attempts_say_where_they_began_how_far_they_came_and_what_they_saved():
    first, second = summarize(
        KILLED, begun(30, 2, step=40), line(31, "stop", 2, seconds=1, code=143)
    ).attempts
    assert (first.number, first.began, first.seconds) == (
        1,
        "2026-01-01T00:00:00+00:00",
        pytest.approx(20),
    )
    assert (first.restored, first.reached, first.saved, first.end) == (0, 70, 40, "killed")
    assert (second.restored, second.reached, second.saved, second.end, second.code) == (
        40,
        40,
        None,
        "stopped",
        143,
    )
    assert (second.began, second.seconds) == ("2026-01-01T00:00:26+00:00", pytest.approx(5))


BAD_DATA = (1, 3, "bad data", ("Traceback", "a.csv:3: no label"))
LOST_1 = line(
    21, "lost", 0, index=1, reason="bad data", code=3, last_lines=["Traceback", "a.csv:3: no label"]
)
PEER_LOST = line(20.5, "stop", seconds=0.5, code=75, reason="a peer was lost")
CAUSES = {
    "the end that an attempt told itself": (
        [*KILLED, line(21, "stop", seconds=1, code=4, reason="nan", last_lines=["x"])],
        (0, 4, "nan", ("x",)),
    ),
    "nobody told": (
        KILLED,
        (0, None, "no end on record: the process was killed, or its machine was lost", ()),
    ),
    "the worker that failed, not the chief who noticed it first": (
        [*KILLED, PEER_LOST, LOST_1],
        BAD_DATA,
    ),
    "the first of two workers": (
        [*KILLED, LOST_1, line(22, "lost", 0, index=2, reason="silent", code=None)],
        BAD_DATA,
    ),
    "the gang's end repeats it": (
        [*KILLED, LOST_1, line(22, "gang_end", 0, index=1, code=3, reason="bad data")],
        BAD_DATA,
    ),
    "only the gang's end tells": (
        [*KILLED, line(22, "gang_end", 0, index=2, code=2, reason="other flags")],
        (2, 2, "other flags", ()),
    ),
    "a gang that gives up: what began after the last save, not what ended it": (
        [
            *KILLED,
            LOST_1,
            *begun(30, 2, step=40),
            line(31, "lost", 0, index=2, reason="silent"),
            line(40, "gang_end", 0, worker=0, code=76, reason="too many restarts"),
        ],
        BAD_DATA,
    ),
    "a gang that gives up: what was overcome by a save is over": (
        [
            *KILLED,
            LOST_1,
            *begun(30, 2, step=40),
            line(31, "save", 2, step=50),
            line(32, "lost", 0, index=2, reason="silent"),
            line(40, "gang_end", 0, worker=0, code=76, reason="too many restarts"),
        ],
        (2, None, "silent", ()),
    ),
    "a gang that never met": (
        [line(300, "gang_end", 0, code=75, index=1, reason="worker 1 never came")],
        (1, 75, "worker 1 never came", ()),
    ),
    "a run that ended well": ([*begun(4), *SAVED_40, *DONE], None),
    "a run that was disturbed and ended well": (
        [*KILLED, LOST_1, *begun(30, 2, 100), line(31, "stop", 2, code=0)],
        None,
    ),
}


@pytest.mark.parametrize("name", CAUSES)
def test_the_first_cause(name):
    events, expected = CAUSES[name]
    assert summarize(events).cause == (goodput.Cause(*expected) if expected else None)


def test_a_gang_that_never_met_has_no_attempt():
    report = summarize(line(300, "gang_end", 0, code=75, index=1, reason="worker 1 never came"))
    assert (report.attempts, report.end, report.code, report.wall_seconds, report.goodput) == (
        (),
        "failed",
        75,
        0,
        0,
    )


DAMAGE = [
    {},
    {"event": "loop"},
    {"time": 3, "attempt": 1, "event": "loop"},
    {"time": "yesterday", "attempt": 1, "event": "loop"},
    line(9, "loop", attempt="1"),
    line(9, "loop", attempt=None),
    line(9, ["loop"]),
    line(9, "loop", attempt=-1),
    line(9, "loop", worker="chief"),
    line(9, "unheard_of", seconds=5),
    line(9, "save", seconds=5, step="x"),
    line(9, "lost", 1, index="x", code="y", last_lines=7, reason=None) | {"attempt": 99.5},
]


@pytest.mark.parametrize("damaged", DAMAGE, ids=range(len(DAMAGE)))
def test_a_damaged_line_changes_nothing(damaged):
    assert (
        buckets([*KILLED[:5], damaged, *KILLED[5:]])
        == TABLE["where nobody went on yet, what was not saved is lost"][1]
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"seconds": "x"},
        {"seconds": None},
        {"seconds": math.nan},
        {"seconds": -5},
        {"seconds": 1e300},
        {"step": None},
        {"steps": 0},
        {"steps": True},
        {"input_seconds": "NaN"},
        {"input_seconds": 1e300},
        {"total": []},
    ],
)
def test_a_line_with_damaged_values_stops_nothing(fields):
    report = summarize(begun(4), {**loop(14, 40, 40, 8), **fields})
    assert sum(report.buckets.values()) == pytest.approx(report.wall_seconds)
    assert all(seconds >= 0 for seconds in report.buckets.values())


def test_a_clock_that_was_set_back_makes_no_time_negative():
    report = summarize(
        KILLED,
        [
            line(time - 15, event["event"], 2) | {"seconds": 1}
            for time, event in enumerate(KILLED, start=20)
        ],
    )
    assert all(seconds >= 0 for seconds in report.buckets.values())


def test_times_without_a_zone_are_utc():
    naive = [{**event, "time": event["time"].removesuffix("+00:00")} for event in KILLED]
    assert buckets(naive) == buckets(KILLED)


@pytest.mark.parametrize("events", [[], [{"event": "start"}]])
def test_nothing_to_report(events):
    assert summarize(events) is None
