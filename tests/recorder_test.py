"""What a run writes about itself, and in which order: TensorBoard, journal, lines on stdout."""

import signal
import types

import numpy as np
import pytest

from tests import fake_run
from trainer import recorder
from trainer.data.epochs import Epochs
from trainer.flags import run as configuration
from trainer.model_folder import journal, selection
from trainer.recorder import Recorder

EPOCHS = Epochs(size=50, batch_size=8)  # They end after steps 7, 13, 19, 25.


class FakeSummaries:
    """Keeps the scalars that are written: {part of the folder: {step: {tag: value}}}."""

    def __init__(self, folder, attempt, restored_step):
        self.part = folder.name
        self.opened = (attempt, restored_step)
        self.scalars, self.calls = {}, []

    def write(self, step, scalars):
        self.scalars[step] = dict(scalars)
        self.calls.append("write")

    def __getattr__(self, method):
        return lambda *arguments: self.calls.append((method, *arguments))


@pytest.fixture
def summaries(monkeypatch) -> dict[str, FakeSummaries]:
    """{"train", "eval", "tensorboard": the summaries that a recorder has opened}."""
    opened = {}

    def open_part(folder, attempt, restored_step):
        opened[folder.name] = FakeSummaries(folder, attempt, restored_step)
        return opened[folder.name]

    monkeypatch.setattr(recorder, "Summaries", open_part)
    return opened


def a_recorder(folder, *, chief=True, step=0, state=None, vocabulary=(), **flags) -> Recorder:
    config = configuration.from_flat(
        {"learning_rate": 0.125, "units": (8, 4), "embedding_size": 3, **flags}
    )
    return Recorder(
        config,
        folder,
        3,
        journal.Journal(folder / "journal.jsonl", 3),
        vocabulary,
        state or fake_run.run_state(loss=6.0, correct=6, count=8),
        EPOCHS,
        writes=chief,
        step=step,
        total=25,
    )


def events(folder, name) -> list[dict]:
    return [event for event in journal.read(folder / "journal.jsonl") if event["event"] == name]


# --- steps ----------------------------------------------------------------------------------------


def test_a_point_holds_means_over_the_examples_since_the_point_before(tmp_path, summaries):
    record = a_recorder(tmp_path)
    record.add_steps(2, fake_run.step_metrics(2, loss=8.0, correct=2.0, count=8.0, norm=1.0), 4.0)
    record.add_steps(1, fake_run.step_metrics(1, loss=4.0, correct=4.0, count=4.0, norm=4.0), 6.0)
    record.write_point(3)
    record.add_steps(1, fake_run.step_metrics(1, loss=2.0, correct=8.0, count=8.0, norm=7.0), 1.0)
    record.write_point(4)
    assert summaries["train"].scalars[3] == pytest.approx(
        {
            "loss": (8 + 8 + 4) / 20,
            "accuracy": (2 + 2 + 4) / 20,
            "gradient_norm": (1 + 1 + 4) / 3,
            "examples_per_second": 20 / 10,
            "input_wait": 3 * 0.25 / 10,
            "learning_rate": 0.125,
        }
    )
    assert summaries["train"].scalars[4]["loss"] == 0.25
    assert summaries["train"].scalars[4]["gradient_norm"] == 7


def test_the_first_steps_of_an_attempt_are_journaled_at_once_and_later_ones_now_and_then(
    tmp_path, summaries, monkeypatch
):
    clock = types.SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(recorder, "time", clock)
    record = a_recorder(tmp_path)
    for step, clock.now in ((1, 100.0), (2, 101.0), (3, 104.0), (4, 105.0), (5, 106.0)):
        record.add_steps(1, fake_run.step_metrics(1), 1.0)
        record.journal_steps_now_and_then(step)
    noted = [(line["step"], line["steps"]) for line in events(tmp_path, "loop")]
    assert noted == [(1, 1), (4, 3)]
    assert events(tmp_path, "loop")[1]["input_seconds"] == 0.75


def test_no_line_is_journaled_for_no_steps(tmp_path, summaries):
    record = a_recorder(tmp_path)
    record.add_steps(2, fake_run.step_metrics(2), 1.0)
    record.journal_steps(2)
    record.journal_steps(2)
    assert len(events(tmp_path, "loop")) == 1


def test_every_epoch_is_journaled_with_its_metrics(tmp_path, summaries):
    a_recorder(tmp_path, log_epochs=5).journal_epoch(13)
    [line] = events(tmp_path, "epoch")
    assert (line["epoch"], line["step"], line["loss"], line["accuracy"]) == (2, 13, 0.75, 0.75)


# --- lines on stdout ------------------------------------------------------------------------------


def test_a_line_has_the_metrics_of_the_epoch_so_far(tmp_path, summaries, capsys):
    a_recorder(tmp_path).print_epoch(9)
    assert capsys.readouterr().out == "epoch 2 step 9 loss 0.7500 accuracy 0.7500\n"


def test_only_the_end_of_every_nth_epoch_is_printed(tmp_path, summaries, capsys):
    record = a_recorder(tmp_path, log_epochs=2)
    for step in (7, 9, 13, 19, 22, 25):
        record.print_epoch(step)
    assert [line.split(" loss")[0] for line in capsys.readouterr().out.splitlines()] == [
        "epoch 2 step 13",
        "epoch 4 step 25",
    ]


@pytest.mark.parametrize(
    "number, code, line",
    [
        (signal.SIGTERM, 143, "stopped step=7 state_digest=abc\n"),
        (signal.SIGINT, 130, "stopped step=7 state_digest=abc\n"),
        (signal.SIGHUP, 75, ""),  # The run continues in a new gang.
    ],
)
def test_a_stopped_run_prints_its_step_and_digest(capsys, number, code, line):
    assert recorder.print_stopped(fake_run.stopped(number), 7, "abc") == code
    assert capsys.readouterr().out == line


def test_a_run_stopped_before_any_state_prints_that_there_is_none(capsys):
    recorder.print_stopped(fake_run.stopped(), 0, None)
    assert capsys.readouterr().out == "stopped step=0 state_digest=none\n"


# --- evaluations and saves ------------------------------------------------------------------------


@pytest.fixture
def evaluated(tmp_path, summaries):
    """A recorder of epochs with log_epochs=1 that has recorded an evaluation of step 7."""
    record = a_recorder(tmp_path)
    found = fake_run.split_metrics(right=5)
    evaluation = selection.Evaluation(7, "test", found.metrics())
    seen = []

    def write(part, step, metrics, served):
        seen.append((part, step, metrics, len(events(tmp_path, "evaluate"))))
        part.calls.append("view")

    record.write_evaluation(evaluation, found, types.SimpleNamespace(write=write), None)
    return types.SimpleNamespace(found=found, seen=seen)


METRICS = {"loss": 0.25, "accuracy": 0.5, "macro_f1": 1 / 3}


def test_an_evaluation_has_the_same_metrics_wherever_it_is_written(
    tmp_path, summaries, capsys, evaluated
):
    assert summaries["eval"].scalars == {7: METRICS}
    [line] = events(tmp_path, "evaluate")
    assert (line["step"], line["split"]) == (7, "test")
    assert METRICS.items() <= line.items()
    assert capsys.readouterr().out == (
        "epoch 1 step 7 loss 0.7500 accuracy 0.7500 test_loss 0.2500 test_accuracy 0.5000\n"
    )


def test_the_points_of_an_evaluation_are_flushed_before_its_line_in_the_journal(
    summaries, evaluated
):
    assert evaluated.seen == [(summaries["eval"], 7, evaluated.found, 0)]
    assert summaries["eval"].calls == ["write", "view", ("flush",)]


def test_the_steps_of_a_checkpoint_are_journaled_before_its_points_are_flushed(
    tmp_path, summaries, monkeypatch
):
    record, journaled = a_recorder(tmp_path), []
    for part in ("train", "eval"):
        summaries[part].flush = lambda: journaled.append(len(events(tmp_path, "loop")))
    record.add_steps(5, fake_run.step_metrics(5), 1.0)
    record.flush(5)
    assert journaled == [1, 1]


def test_a_commit_is_journaled_with_its_digest(tmp_path, summaries):
    a_recorder(tmp_path).journal_save({"step": 5, "state_digest": "abc", "files": {}}, 0.5)
    [line] = events(tmp_path, "save")
    assert (line["step"], line["state_digest"], line["seconds"]) == (5, "abc", 0.5)


# --- the beginning and the end --------------------------------------------------------------------


def test_summaries_forget_what_lies_beyond_the_restored_step(tmp_path, summaries):
    with a_recorder(tmp_path, step=5):
        pass
    assert summaries["train"].opened == summaries["eval"].opened == (3, 5)
    assert summaries["tensorboard"].opened == (3, 0)  # It holds the row of the run, at step 0.
    assert len(events(tmp_path, "open_summaries")) == 1


def test_the_row_of_a_run_begins_with_the_name_of_its_folder(tmp_path, summaries):
    a_recorder(tmp_path)
    [(_, row)] = [call for call in summaries["tensorboard"].calls if call[0] == "hparams"]
    assert list(row)[0] == "model_dir"
    assert row["model_dir"] == f"{tmp_path.name} in {tmp_path.parent}"
    assert row["units"] == "8,4" and "log_steps" not in row


@pytest.mark.parametrize("one_hot", [False, True])
def test_a_trained_embedding_is_shown_with_its_vocabulary(tmp_path, summaries, one_hot):
    vectors = np.ones((2, 3), np.float32)
    weights = {"embedding/embeddings": types.SimpleNamespace(numpy=lambda: vectors)}
    a_recorder(tmp_path, vocabulary=["a", "b"]).finish(25, {} if one_hot else weights)
    shown = [call for call in summaries["tensorboard"].calls if call[0] == "projector"]
    assert shown == ([] if one_hot else [("projector", vectors, ["a", "b"])])
    assert all(part.calls[-1] == ("close",) for part in summaries.values())


def test_a_worker_that_is_not_the_chief_writes_and_prints_nothing(tmp_path, summaries, capsys):
    with a_recorder(tmp_path, chief=False) as record:
        record.add_steps(7, fake_run.step_metrics(7), 1.0)
        record.write_point(7)
        record.print_epoch(7)
        record.flush(7)
        record.finish(7, {})
    assert not summaries and not (tmp_path / "tensorboard").exists()
    assert capsys.readouterr().out == ""
