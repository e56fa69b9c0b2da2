"""Who starts a gang, when, and how often in a row."""

import pytest

from trainer.gang import rendezvous
from trainer.gang.rendezvous import Form, GiveUp, Wait

READY, BUSY, RUNNING = "ready", "busy", "running"
LATE = -rendezvous.LEADER_SECONDS - 1


@pytest.mark.parametrize(
    "index, workers, minimum, seen, remaining, expected",
    [
        (0, 1, 0, {0: READY}, 300, Form((0,))),
        (0, 2, 0, {0: READY}, 1, Wait()),
        (0, 2, 0, {0: READY, 1: READY}, 300, Form((0, 1))),
        (1, 2, 0, {0: READY, 1: READY}, 300, Wait()),  # the lowest leads
        # its training is still being ended
        (0, 2, 0, {0: READY, 1: BUSY}, 300, Wait()),
        (0, 2, 0, {0: BUSY, 1: READY}, 300, Wait()),
        # as long as there is time, for all
        (0, 3, 1, {0: READY, 1: READY}, 1, Wait()),
        (0, 2, 0, {0: READY}, 0, GiveUp((1,))),
        (1, 3, 0, {1: READY}, 0, GiveUp((0, 2))),
        (1, 3, 0, {1: READY, 2: READY}, 0, GiveUp((0,))),
        (0, 3, 2, {0: READY, 2: READY}, 0, Form((0, 2))),
        (1, 3, 2, {1: READY, 2: READY}, 0, Form((1, 2))),
        # the leader's clock began later
        (2, 3, 2, {1: READY, 2: READY}, 0, Wait()),
        (2, 3, 2, {1: READY, 2: READY}, LATE, GiveUp((0,))),
        # the leader does not start the gang although it could
        (1, 2, 0, {0: READY, 1: READY}, LATE, GiveUp(())),
        (0, 3, 3, {0: READY, 2: READY}, 0, GiveUp((1,))),
        # a busy worker is waited for, but only for a moment
        (0, 3, 1, {0: READY, 2: BUSY}, 0, Wait()),
        (0, 3, 1, {0: READY, 2: BUSY}, LATE, Form((0,))),
        (0, 3, 0, {0: READY, 1: BUSY, 2: BUSY}, LATE, GiveUp(())),
        # no gang beside one that runs
        (0, 3, 1, {0: READY, 1: RUNNING, 2: RUNNING}, LATE, Wait()),
        (0, 3, 0, {0: READY, 1: RUNNING}, 10, Wait()),
    ],
)
def test_a_worker_forms_waits_or_gives_up(index, workers, minimum, seen, remaining, expected):
    assert rendezvous.decide(index, workers, minimum, seen, remaining) == expected


@pytest.mark.parametrize("workers", [2, 3, 5])
def test_exactly_one_worker_forms_a_complete_gang(workers):
    seen = dict.fromkeys(range(workers), READY)
    forms = [
        index
        for index in range(workers)
        if isinstance(rendezvous.decide(index, workers, 0, seen, 10), Form)
    ]
    assert forms == [0]


@pytest.mark.parametrize(
    "before, saved_before, saved_now, first, expected",
    [
        (0, 0, 0, True, 0),
        (5, 10, 10, True, 0),
        (0, 0, 0, False, 1),
        (2, 10, 10, False, 3),
        (2, 10, 20, False, 0),
        (2, 10, 5, False, 3),  # the newest one was damaged
    ],
)
def test_restarts_are_counted_since_the_last_new_checkpoint(
    before, saved_before, saved_now, first, expected
):
    assert rendezvous.restarts(before, saved_before, saved_now, first) == expected


def test_workers_are_named_with_address_and_reason():
    assert (
        rendezvous.named((0, 2), ("a:1", "b:1", "c:1"), {2: "connection refused"})
        == "worker 0 (a:1), worker 2 (c:1, connection refused)"
    )
