"""The best evaluation and the end of patience as functions of the history, and its file."""

import json
import math
import os

import pytest

from trainer.exit_codes import DataError
from trainer.model_folder import selection
from trainer.model_folder.selection import Evaluation, History


def history(*values, metric="accuracy"):
    return [
        Evaluation(10 * (i + 1), "validation", {metric: value}) for i, value in enumerate(values)
    ]


NAN = math.nan


@pytest.mark.parametrize(
    "metric, values, step",
    [
        ("accuracy", (0.5,), 10),
        ("accuracy", (0.5, 0.7, 0.6), 20),
        ("accuracy", (0.5, 0.7, 0.7), 20),  # Ties go to the earliest.
        ("macro_f1", (0.1, 0.2, 0.3), 30),
        ("loss", (0.9, 0.3, 0.4), 20),  # Lower is better.
        ("loss", (0.9, 0.3, 0.3), 20),
        ("loss", (NAN, 0.9, 0.3), 30),  # NaN is worse than any number, wherever it is.
        ("loss", (0.9, NAN), 10),
        ("accuracy", (NAN, 0.0), 20),
        ("loss", (NAN, NAN), 10),
        ("loss", (math.inf, 5.0), 20),
    ],
)
def test_the_best_evaluation(metric, values, step):
    assert selection.best(history(*values, metric=metric), metric).step == step


def test_without_evaluations_none_is_the_best():
    assert selection.best([], "loss") is None


@pytest.mark.parametrize(
    "values, patience, over",
    [
        ((), 1, False),
        ((0.5,), 1, False),
        ((0.5, 0.4), 1, True),
        ((0.5, 0.6), 1, False),
        ((0.5, 0.5), 1, True),  # A tie is not an improvement.
        ((0.5, 0.4, 0.4), 3, False),
        ((0.5, 0.4, 0.4, 0.4), 3, True),
        ((0.5, 0.4, 0.6, 0.4, 0.4), 3, False),  # An improvement begins a new wait.
        ((0.5, 0.4, 0.4, 0.4), 0, False),  # Never.
        ((NAN, NAN, 0.1), 1, False),
        ((0.1, NAN, NAN), 2, True),
    ],
)
def test_patience_is_over_after_so_many_evaluations_without_improvement(values, patience, over):
    assert selection.patience_is_over(history(*values), "accuracy", patience) is over


def test_a_resume_reads_the_history_up_to_the_restored_step(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    written = History(path, 0)
    for entry in history(0.5, 0.6, 0.7):
        written.append(entry)
    assert History(path, 30).evaluations == written.evaluations == history(0.5, 0.6, 0.7)
    assert History(path, 29).evaluations == history(0.5, 0.6)
    assert History(path, 0).evaluations == []


def test_evaluations_of_a_killed_attempt_beyond_its_checkpoint_are_dropped(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    killed = History(path, 0)
    for entry in history(0.5, 0.9):
        killed.append(entry)
    resumed = History(path, 10)
    resumed.append(Evaluation(20, "validation", {"accuracy": 0.6}))
    assert [entry.metrics["accuracy"] for entry in History(path, 20).evaluations] == [0.5, 0.6]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_history_is_old_or_new_after_a_kill_at_any_moment(tmp_path, monkeypatch, call):
    path = tmp_path / "evaluations.jsonl"
    History(path, 0).append(history(0.5)[0])

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, call, killed)
        with pytest.raises(KeyboardInterrupt):
            History(path, 10).append(history(0.5, 0.6)[1])
    assert History(path, 99).evaluations == history(0.5)


def test_infinity_and_nan_survive_the_file(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    History(path, 0).append(Evaluation(1, "validation", {"loss": math.inf, "accuracy": NAN}))
    [read] = History(path, 1).evaluations
    assert read.metrics["loss"] == math.inf and math.isnan(read.metrics["accuracy"])


def test_the_file_names_the_metrics_figures(tmp_path):
    """Runs that an older version began have this file."""
    path = tmp_path / "evaluations.jsonl"
    History(path, 0).append(Evaluation(20, "validation", {"loss": 0.5, "accuracy": 0.75}))
    line = '{"step": 20, "split": "validation", "figures": {"loss": 0.5, "accuracy": 0.75}}\n'
    assert path.read_text() == line
    assert Evaluation.from_json(line) == History(path, 20).evaluations[0]


def test_a_worker_that_is_not_the_chief_writes_nothing(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    follower = History(path, 0, writes=False)
    follower.append(history(0.5)[0])
    assert follower.evaluations == history(0.5) and not path.exists()


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "3",
        '{"step": 1}',
        json.dumps({"step": 1, "split": "test", "figures": {}, "more": 1}),
        json.dumps({"step": "1", "split": "test", "figures": {}}),
        json.dumps({"step": True, "split": "test", "figures": {}}),
        json.dumps({"step": 1, "split": [], "figures": {}}),
        json.dumps({"step": 1, "split": "test", "figures": {"loss": "low"}}),
        json.dumps({"step": 1, "split": "test", "figures": 3}),
        '{"step": ' + "1" * 5000 + "}",
        "[" * 100_000,
        b"\xff",
    ],
)
def test_a_damaged_line_is_refused_with_its_number(tmp_path, line):
    path = tmp_path / "evaluations.jsonl"
    History(path, 0).append(history(0.5)[0])
    with open(path, "ab") as file:
        file.write((line if isinstance(line, bytes) else line.encode()) + b"\n")
    with pytest.raises(DataError, match=r"evaluations\.jsonl:2 "):
        History(path, 10)


# --- what a checkpoint holds of it ----------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"\xff\n",
        b"[" * 100_000,
        b'{"step": 10, "split": "validation", "figures": {"accuracy": 0.9}}\n',
    ],
)
def test_the_lines_of_the_restored_checkpoint_count_and_are_written_again(
    tmp_path, caplog, content
):
    path, kept = tmp_path / "evaluations.jsonl", [entry.to_json() for entry in history(0.5, 0.6)]
    if content is not None:
        path.write_bytes(content)
    resumed = History(path, 20, kept=kept)
    assert resumed.evaluations == history(0.5, 0.6) and resumed.lines == kept
    assert path.read_text().splitlines() == kept
    assert f"{path} is not what the checkpoint of step 20 holds of it (2 eval" in caplog.text


@pytest.mark.parametrize("more", ["", '{"step": 30, "split": "validation", "figures": {}}\n', "{"])
def test_what_follows_the_lines_of_the_checkpoint_is_no_damage(tmp_path, caplog, more):
    """It comes from an attempt that was killed, even in the middle of a line."""
    path, kept = tmp_path / "evaluations.jsonl", [entry.to_json() for entry in history(0.5)]
    path.write_text(f"{kept[0]}\n{more}")
    assert History(path, 20, kept=kept).evaluations == history(0.5)
    assert not caplog.records and path.read_text() == f"{kept[0]}\n{more}"


def test_a_checkpoint_that_holds_no_evaluation_is_not_one_that_holds_no_history(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    History(path, 0).append(history(0.5)[0])
    assert History(path, 10, kept=[]).evaluations == []
    assert History(path, 10, kept=None).evaluations == history(0.5)


def test_a_worker_that_is_not_the_chief_leaves_a_changed_file_alone(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    kept = [history(0.5)[0].to_json()]
    assert History(path, 20, writes=False, kept=kept).evaluations == history(0.5)
    assert not path.exists()


def test_before_the_first_checkpoint_nothing_is_read(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    path.write_bytes(b"\xff")
    assert History(path, 0).evaluations == []
