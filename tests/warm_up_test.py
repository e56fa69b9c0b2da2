"""Each program is compiled once, before its first use, on a line of its own in the journal."""

import types

import pytest

from tests import fake_run
from trainer.warm_up import WarmUp

# Padded lengths of steps 0, 1, 2, ...
LENGTHS = [8, 8, 16, 8, 32, 16]


@pytest.fixture
def events() -> list[str]:
    return []


def warm_up(events, *, workers=1, evaluated=()) -> WarmUp:
    plan = types.SimpleNamespace(
        lengths=[8, 16, 32], padded_length=lambda step: LENGTHS[step], batch_size=6
    )
    batches = types.SimpleNamespace(plan=plan)
    evaluator = types.SimpleNamespace(
        split="test",
        lengths=lambda: list(evaluated),
        warm_up=lambda weights, length: events.append(f"compile evaluation {length} {weights}"),
    )
    return WarmUp(
        fake_run.Steps(0, events),
        batches,
        fake_run.Placement(workers=workers),
        evaluator if evaluated else None,
        fake_run.Calls("record", events),
        fake_run.Calls("supervisor", events),
    )


def compiled(events) -> list[str]:
    return [event for event in events if event.startswith("compile")]


def test_only_the_lengths_of_the_next_steps_are_compiled_and_each_once(events):
    found = warm_up(events)
    found.before_steps("source", 0, 2)
    assert compiled(events) == ["compile 8 for 6 rows"]
    found.before_steps("source", 2, 3)
    assert compiled(events)[1:] == ["compile 16 for 6 rows", "compile 32 for 6 rows"]
    found.before_steps("source", 5, 1)
    assert len(compiled(events)) == 3


def test_a_worker_compiles_for_its_own_rows(events):
    warm_up(events, workers=3).before_steps("source", 0, 1)
    assert compiled(events) == ["compile 8 for 2 rows"]


def test_the_supervisor_hears_of_a_compilation_before_it_and_the_journal_after_it(events):
    warm_up(events).before_steps("source", 0, 1)
    assert events == [
        "record.compiling",
        "record.lap compile",  # the loop itself
        "supervisor.beat compile",
        "record.compiling",
        "record.journal_steps 0",
        "compile 8 for 6 rows",
        "record.lap compile",
    ]


def test_the_loop_is_traced_once_and_takes_no_step(events):
    found = warm_up(events)
    found.before_steps("source", 0, 1)
    del events[:]
    found.before_steps("source", 1, 1)
    assert events == []


def test_the_evaluation_is_compiled_before_the_first_one_only(events):
    found = warm_up(events, evaluated=[8, 24])
    found.before_evaluation("weights", 5)
    found.before_evaluation("weights", 10)
    assert events == [
        "supervisor.beat compile",
        "record.compiling",
        "compile evaluation 8 weights",
        "record.lap compile",
        "supervisor.beat compile",
        "record.compiling",
        "compile evaluation 24 weights",
        "record.lap compile",
    ]
