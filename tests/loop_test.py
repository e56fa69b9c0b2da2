"""What a run does at which step, and in which order: the loop among fakes, without TensorFlow."""

import dataclasses
import math
import signal
import types

import numpy as np
import pytest
import tensorflow as tf

from tests import fake_run
from trainer import loop
from trainer.data.epochs import Epochs
from trainer.exit_codes import DivergedError
from trainer.flags import run as configuration
from trainer.model_folder import selection
from trainer.stopping import StopRequest

EPOCHS = Epochs(size=50, batch_size=8)  # They end after steps 7, 13, 19, 25.


class Keeper(fake_run.Calls):
    """Keeps in memory what a keeper keeps on disk. saved: {step: digest}."""

    def __init__(self, events, saved=(), evaluated=(), patience=0, chief=True):
        super().__init__("keeper", events)
        self.saved = {step: f"digest {step}" for step in saved}
        self.evaluations = [
            selection.Evaluation(step, "validation", {"accuracy": 0.5}) for step in evaluated
        ]
        self._patience = patience
        self._chief = chief

    @property
    def patience_is_over(self) -> bool:
        return selection.patience_is_over(self.evaluations, "accuracy", self._patience)

    def has_evaluation(self, step) -> bool:
        return any(entry.step == step for entry in self.evaluations)

    def offer(self, evaluation, snapshot):
        self._events.append(f"offer {evaluation.step}")

    def append(self, evaluation):
        self._events.append(f"append {evaluation.step}")
        self.evaluations.append(evaluation)

    def lacks(self, step) -> bool:
        return self._chief and step not in self.saved

    def save(self, step, tensors):
        self._events.append(f"save {step}")
        self.saved[step] = f"digest {step}"

    def finish(self, step, snapshot):
        if step and not self._chief:
            self.saved[step] = f"digest {step}"

    def digest(self, step):
        return self.saved.get(step)


class Evaluator:
    """Evaluates in two batches; `between()` is called before each."""

    split = "validation"

    def __init__(self, events, between=lambda: None):
        self._events = events
        self._between = between

    def lengths(self) -> list[int]:
        return []

    def view(self) -> str:
        return "view"

    def metrics(self, weights, abandon, view):
        for _ in range(2):
            self._between()
            if abandon():
                return None
        self._events.append("evaluate")
        return fake_run.split_metrics(right=5)


@dataclasses.dataclass
class Run:
    """A run to be: `flags` of the configuration, and the fakes around its loop."""

    total: int = 25
    step: int = 0
    flags: dict = dataclasses.field(default_factory=dict)
    placement: fake_run.Placement = dataclasses.field(default_factory=fake_run.Placement)
    stop: StopRequest = dataclasses.field(default_factory=StopRequest)
    keeps: dict = dataclasses.field(default_factory=dict)
    evaluates: bool = True
    at_step: object = lambda step: None
    between: object = lambda: None
    metrics: object = fake_run.step_metrics

    def __post_init__(self):
        self.events: list[str] = []
        self.beats: list[tuple[str, int]] = []
        chief = self.placement.is_chief
        self.keeper = Keeper(self.events, chief=chief, **self.keeps)
        flags = {"save_steps": 1000, "log_steps": 1000, "steps_per_loop": 1000, **self.flags}
        attempt = loop.Attempt(
            folder=None,
            held=fake_run.Calls("held", self.events),
            journal=None,
            stop=self.stop,
            supervisor=types.SimpleNamespace(
                beat=lambda phase, step: self.beats.append((phase, step))
            ),
        )
        plan = types.SimpleNamespace(
            lengths=[8],
            padded_length=lambda step: 8,
            batch_size=8,
            examples=np.arange,
            rows_are="places of the text",
        )
        batches = types.SimpleNamespace(plan=plan)
        run_state = types.SimpleNamespace(
            begin_epoch=lambda: self.events.append("begin epoch"),
            evaluation_weights=lambda: {},
            snapshot=lambda: {},
        )
        self.loop = loop.Loop(
            configuration.Run(**flags),
            attempt,
            self.placement,
            run_state,
            fake_run.Steps(self.step, self.events, self.at_step, self.metrics),
            batches,
            EPOCHS,
            Evaluator(self.events, self.between) if self.evaluates else None,
            self.keeper,
            fake_run.Calls("record", self.events),
            self.step,
            self.total,
        )

    def to_its_end(self) -> list[str]:
        """Runs; returns the events."""
        self.code = self.loop.run()
        return self.events

    def main_events(self) -> list[str]:
        """Runs; returns steps, evaluations and saves."""
        kinds = ("steps", "evaluate", "save")
        return [event for event in self.to_its_end() if event.split()[0] in kinds]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(loop, "PARTING_SECONDS", 0)


# --- what is due ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags, ends",
    [
        ({}, [7, 13, 19, 25]),  # the ends of the epochs
        ({"save_steps": 10}, [7, 10, 13, 19, 20, 25]),
        ({"log_steps": 6}, [6, 7, 12, 13, 18, 19, 24, 25]),
        ({"eval_steps": 9}, [7, 9, 13, 18, 19, 25]),
        ({"steps_per_loop": 4}, [4, 7, 11, 13, 17, 19, 23, 25]),
    ],
)
def test_no_steps_run_past_the_next_event(flags, ends):
    steps = [event for event in Run(flags=flags).to_its_end() if event.startswith("steps")]
    assert steps == [f"steps to {step}" for step in ends]


def test_a_run_evaluates_before_it_saves():
    assert Run(total=14, flags={"save_steps": 7}).main_events() == [
        "steps to 7",
        "evaluate",
        "save 7",
        "steps to 13",
        "evaluate",
        "steps to 14",
        "evaluate",
        "save 14",
    ]


def test_work_that_was_due_at_the_restored_step_comes_first():
    run = Run(step=7, total=8, keeps={"saved": [7]})
    assert run.main_events() == ["evaluate", "steps to 8", "evaluate", "save 8"]


def test_work_of_the_restored_step_that_is_on_record_is_not_repeated():
    run = Run(step=7, total=8, flags={"save_steps": 7}, keeps={"saved": [7], "evaluated": [7]})
    assert run.main_events() == ["steps to 8", "evaluate", "save 8"]


def test_a_finished_run_only_prints_its_last_line(capsys):
    run = Run(step=25, keeps={"saved": [25], "evaluated": [25]})
    assert run.main_events() == []
    assert run.code == 0 and capsys.readouterr().out == "done step=25 state_digest=digest 25\n"


def test_a_state_is_saved_once_although_it_is_due_and_the_last():
    saves = [
        event for event in Run(total=14, flags={"save_steps": 7}).main_events() if "save" in event
    ]
    assert saves == ["save 7", "save 14"]


def test_without_an_evaluator_a_run_only_trains_and_saves():
    run = Run(total=7, evaluates=False)
    assert run.main_events() == ["steps to 7", "save 7"] and run.code == 0


def test_the_sums_of_an_epoch_begin_with_its_first_step():
    events = Run(total=14, evaluates=False).to_its_end()
    wanted = [event for event in events if event.startswith(("steps", "begin"))]
    assert wanted == ["steps to 7", "begin epoch", "steps to 13", "begin epoch", "steps to 14"]


def test_a_run_resumed_at_the_end_of_an_epoch_begins_the_next_one():
    run = Run(step=7, total=8, keeps={"saved": [7], "evaluated": [7]})
    assert run.to_its_end().index("begin epoch") < run.events.index("steps to 8")


def test_a_run_ends_early_when_patience_is_over(capsys):
    run = Run(flags={"eval_steps": 2}, keeps={"patience": 2})  # Every evaluation is equally good.
    assert run.main_events()[-2:] == ["evaluate", "save 6"]
    assert run.code == 0 and capsys.readouterr().out == "done step=6 state_digest=digest 6\n"


def test_a_run_that_ended_early_stays_ended():
    run = Run(step=6, keeps={"patience": 2, "saved": [6], "evaluated": [2, 4, 6]})
    assert run.main_events() == [] and run.code == 0


# --- order inside an event ------------------------------------------------------------------------


def test_everything_about_a_step_is_on_disk_before_its_checkpoint_is():
    events = Run(total=3, evaluates=False).to_its_end()
    first = events.index("held.check")
    assert events[first:] == [
        "held.check",
        "record.flush 3",
        "save 3",
        "record.lap hand_over",
        "record.finish 3",
        "keeper.log_best",
    ]


def test_an_evaluation_goes_on_record_after_everything_that_follows_from_it():
    events = Run(total=3).to_its_end()
    first = events.index("evaluate")
    assert [event.split("(")[0] for event in events[first : first + 4]] == [
        "evaluate",
        "offer 3",
        "record.write_evaluation Evaluation",
        "append 3",
    ]


def test_the_steps_before_an_evaluation_are_journaled_before_it():
    events = Run(total=3).to_its_end()
    assert events.index("record.journal_steps 3") < events.index("evaluate")


def test_the_line_of_an_epoch_comes_with_its_evaluation_if_there_is_one():
    events = Run(total=13, flags={"eval_steps": 13}).to_its_end()
    assert [event for event in events if "record.print_epoch" in event] == ["record.print_epoch 7"]
    assert [event for event in events if "record.journal_epoch" in event] == [
        "record.journal_epoch 7",
        "record.journal_epoch 13",
    ]


def test_a_point_is_due_at_every_interval_and_after_the_last_step():
    events = Run(total=10, flags={"log_steps": 4}).to_its_end()
    assert [event for event in events if "record.write_point" in event] == [
        "record.write_point 4",
        "record.write_point 8",
        "record.write_point 10",
    ]


def test_the_supervisor_hears_what_the_run_is_doing_and_at_which_step():
    run = Run(total=3)
    run.to_its_end()
    assert run.beats == [
        ("train", 0),
        ("compile", 0),
        ("train", 3),
        ("evaluate", 3),
        ("evaluate", 3),
        ("save", 3),
    ]


# --- stops ----------------------------------------------------------------------------------------


def stop_at(wanted: int, stop: StopRequest):
    """A signal that comes when step `wanted` has run."""

    def at_step(step):
        if step == wanted:
            stop.signal = signal.SIGTERM

    return at_step


def test_a_stop_before_the_first_step_leaves_nothing(capsys):
    run = Run(stop=fake_run.stopped())
    assert run.main_events() == [] and run.code == 143
    assert capsys.readouterr().out == "stopped step=0 state_digest=none\n"


def test_a_stop_saves_the_step_it_comes_to_and_evaluates_nothing(capsys):
    stop = StopRequest()
    run = Run(stop=stop, at_step=stop_at(7, stop))
    assert run.main_events() == ["steps to 7", "save 7"] and run.code == 143
    assert capsys.readouterr().out == "stopped step=7 state_digest=digest 7\n"


def test_an_evaluation_that_a_stop_breaks_off_is_not_on_record():
    stop = StopRequest()
    run = Run(stop=stop, between=lambda: setattr(stop, "signal", signal.SIGTERM))
    assert run.main_events() == ["steps to 7", "save 7"] and run.code == 143
    assert "record.lap evaluate_broken_off" in run.events
    assert not run.keeper.evaluations and not any("offer" in event for event in run.events)


def test_a_stop_after_the_last_step_does_not_hide_that_the_last_evaluation_is_missing():
    stop = StopRequest()
    run = Run(total=7, stop=stop, at_step=stop_at(7, stop))
    assert run.main_events() == ["steps to 7", "save 7"] and run.code == 143


def test_a_stop_after_all_work_is_done_changes_nothing(capsys):
    stop = StopRequest()
    run = Run(total=7, evaluates=False, stop=stop, at_step=stop_at(7, stop))
    assert run.main_events() == ["steps to 7", "save 7"] and run.code == 0
    assert capsys.readouterr().out == "done step=7 state_digest=digest 7\n"


def test_workers_that_leave_to_form_a_new_gang_print_nothing(capsys):
    run = Run(stop=fake_run.stopped(signal.SIGHUP))
    run.to_its_end()
    assert run.code == 75 and capsys.readouterr().out == ""


# --- several workers ------------------------------------------------------------------------------


def test_all_workers_run_as_many_steps_as_the_chief_says():
    # The other worker, the chief, gives 3 as the size of its loop and 0 as its signal.
    placement = fake_run.Placement(1, 2, others=lambda numbers: [3 if numbers[0] else 0])
    events = Run(total=7, placement=placement, evaluates=False).to_its_end()
    assert [event for event in events if event.startswith("steps")] == [
        "steps to 3",
        "steps to 6",
        "steps to 7",
    ]


def test_a_signal_to_another_worker_stops_this_one():
    placement = fake_run.Placement(1, 2, others=lambda numbers: [signal.SIGTERM])
    run = Run(placement=placement)
    assert run.main_events() == [] and run.code == 143


def test_a_worker_that_is_not_the_chief_evaluates_and_saves_nothing(capsys):
    run = Run(total=7, placement=fake_run.Placement(1, 2))
    assert run.main_events() == ["steps to 7", "evaluate"] and run.code == 0
    assert capsys.readouterr().out == "done step=7 state_digest=digest 7\n"


def test_workers_that_end_with_different_states_are_a_bug():
    placement = fake_run.Placement(1, 2)
    placement.same_state = False
    with pytest.raises(RuntimeError, match="different states at step 7"):
        Run(total=7, placement=placement).to_its_end()


# --- divergence -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad, told",
    [
        ({"loss": math.nan}, "the loss is nan, the gradient's norm 0.5"),
        ({"norm": math.inf}, "the loss is 1.0, the gradient's norm inf"),
    ],
)
def test_a_step_that_diverges_is_named_with_its_examples_and_never_saved(bad, told):
    def metrics(count):
        found = fake_run.step_metrics(count)
        wrong = fake_run.step_metrics(count, **bad)
        last = np.arange(count) == count - 1
        return tf.nest.map_structure(lambda a, b: np.where(last, b, a), found, wrong)

    run = Run(total=7, flags={"steps_per_loop": 3}, metrics=metrics)
    with pytest.raises(DivergedError, match=f"step 3: {told}") as problem:
        run.to_its_end()
    assert "the places of the text 0, 1 (counted" in str(
        problem.value
    )  # `arange(2)`: step 2 from 0
    assert "record.journal_divergence 3" in run.events and not run.keeper.saved
    assert "record.add_steps 3" not in run.events
