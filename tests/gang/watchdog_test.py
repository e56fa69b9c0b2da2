"""How long a training process may be silent, and how long a stop may take."""

import pytest

from trainer.gang import watchdog


@pytest.mark.parametrize(
    "phase, intervals, hang_seconds, expected",
    [
        ("train", [], 0, 60),
        ("train", [0.5] * 9, 0, 60),
        ("train", [10.0] * 9, 0, 100),
        ("train", [1.0, 1.0, 500.0], 0, 60),
        ("train", [10.0] * 9, 5, 5),
        ("evaluate", [10.0] * 9, 0, 100),
        ("evaluate", [], 7, 7),
        ("import", [], 0, 600),
        ("meet", [], 5, 600),
        ("restore", [], 0, 600),
        ("compile", [1.0], 5, 600),
        ("save", [1.0], 5, 600),
        ("compile", [], 900, 900),
    ],
)
def test_the_longest_silence_depends_on_the_phase_and_the_loops_so_far(
    phase, intervals, hang_seconds, expected
):
    assert watchdog.limit(phase, intervals, hang_seconds) == expected


@pytest.mark.parametrize(
    "loops, saves, expected",
    [([], [], None), ([1.0], [], None), ([], [1.0], None), ([0.5, 2.0], [1.5, 1.0], 8.0)],
)
def test_the_bound_of_a_stop_is_known_when_a_loop_and_a_save_have_been_timed(
    loops, saves, expected
):
    assert watchdog.stop_bound(loops, saves) == expected


RUNS, STOPPED = "S", "T"


def watched(*beats, hang_seconds=0.0):
    watch = watchdog.Watch(hang_seconds, 0.0)
    for now, phase, step in beats:
        watch.beat({"phase": phase, "step": step}, now)
    return watch


def test_a_start_may_take_ten_minutes():
    watch = watched((5, "import", 0))
    assert watch.look(RUNS, 604) == ""
    assert (
        watch.look(RUNS, 606) == "hung: silent for 601 s in phase import at step 0, at most 600 s"
    )


def test_training_may_be_silent_for_a_minute():
    watch = watched((1, "train", 0), (2, "train", 4), (3, "train", 8))
    assert watch.look(RUNS, 62.9) == ""
    assert watch.look(RUNS, 63.1) == "hung: silent for 60 s in phase train at step 8, at most 60 s"


def test_only_loops_of_training_determine_the_usual_length():
    watch = watched(
        (0, "train", 0),
        (20, "train", 1),
        (40, "train", 2),
        (41, "save", 2),
        (900, "train", 2),
        (920, "train", 3),
    )
    assert list(watch.intervals) == [20, 20, 20]
    assert watch.look(RUNS, 920 + 199) == "" and watch.look(RUNS, 920 + 201) != ""


def test_a_frozen_process_is_found_after_ten_seconds_in_any_phase():
    watch = watched((1, "import", 0))
    assert [watch.look(STOPPED, now) for now in (2, 5, 11.9)] == ["", "", ""]
    assert watch.look(STOPPED, 12) == "frozen (stopped by a signal) for 10 s"


@pytest.mark.parametrize("state", ["t", ""])  # A debugger at work; gone, or not known.
def test_other_states_are_not_frozen(state):
    watch = watched((1, "import", 0))
    assert [watch.look(state, now) for now in (2, 100)] == ["", ""]


def test_a_process_that_continues_in_time_is_not_frozen():
    watch = watched((1, "train", 0))
    assert [
        watch.look(*at)
        for at in ((STOPPED, 2), (STOPPED, 9), (RUNS, 10), (STOPPED, 11), (STOPPED, 20))
    ] == [""] * 5


def test_the_time_in_which_the_watcher_did_not_run_does_not_count():
    watch = watched((1, "train", 0))
    watch.look(STOPPED, 2)
    watch.slept(1000)
    assert watch.look(STOPPED, 1005) == "" and watch.look(RUNS, 1050) == ""


@pytest.mark.parametrize(
    "phases, trained",
    [
        ((), False),
        (("import", "meet", "restore", "compile"), False),
        (("compile", "train"), True),
        (("train", "compile"), True),
        (("evaluate",), True),
        (("save",), True),
    ],
)
def test_a_process_may_have_steps_to_save_once_it_has_reached_its_loop(phases, trained):
    assert watched(*((1, phase, 0) for phase in phases)).trained is trained
