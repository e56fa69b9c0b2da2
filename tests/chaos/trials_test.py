"""Trials: what chaos learns of a run from its process, its output, its log and its journal."""

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from trainer.chaos import trials
from trainer.exit_codes import TrainerError
from trainer.flags import run as configuration

PYTHON = sys.executable  # Tests replace it.
DIGEST = "0123456789abcdef" * 4


@pytest.fixture
def trial(tmp_path):
    """A trial of one process whose model folder exists."""
    made = trials.ProcessTrial(
        "disturbed", configuration.from_flat({"model_dir": str(tmp_path), "units": (8, 8)})
    )
    made.folder.mkdir(parents=True)
    yield made
    made.end()


def run(trial, monkeypatch, program: str) -> None:
    """Starts the trial with `program` in the place of the trainer."""
    python = trial.folder / "python"
    python.write_text(f"#!{PYTHON} -IS\nimport os, sys, time\n{program}\n")
    python.chmod(0o755)
    monkeypatch.setattr(trials.sys, "executable", str(python))
    trial.start()


def test_a_trial_runs_below_the_model_folder_with_the_flags_of_the_job(
    trial, monkeypatch, tmp_path
):
    assert trial.folder == tmp_path / "chaos/disturbed"
    run(trial, monkeypatch, "print(*sys.argv[1:])")
    with pytest.raises(TrainerError):
        trial.digest()
    assert trial.output.read_text().split() == [
        *("-m", "trainer", "train"),
        f"--model_dir={trial.folder}",
        "--units=8,8",
    ]


def test_the_digest_is_that_of_the_last_line_of_all_attempts(trial, monkeypatch):
    run(trial, monkeypatch, f"print('done step=1 state_digest={'f' * 64}')")
    trial.digest()
    run(trial, monkeypatch, f"print('done step=9 state_digest={DIGEST}')")
    assert trial.digest() == DIGEST


@pytest.mark.parametrize(
    "program, code, of_error",
    [
        ("sys.exit(3)", 3, 3),
        ("os.kill(os.getpid(), 9)", -9, 1),  # A signal is not an exit code of ours.
        ("print('stopped step=3 state_digest=none')", 0, 1),
    ],
)
def test_a_trial_that_does_not_succeed_is_an_error_with_its_code_and_the_end_of_its_log(
    trial, monkeypatch, program, code, of_error
):
    log = "for line in range(12): print('line', line, file=sys.stderr)\nsys.stderr.flush()\n"
    run(trial, monkeypatch, log + program)
    with pytest.raises(TrainerError) as failed:
        trial.digest()
    told = str(failed.value)
    assert f"the disturbed trial ended with exit code {code}:" in told
    assert str(trial.log_file) in told and told.endswith("line 10\nline 11")
    assert "line 1\n" not in told and failed.value.code == of_error


def test_a_kill_has_happened_when_it_returns(trial, monkeypatch):
    run(trial, monkeypatch, "time.sleep(60)")
    assert trial.poll() is None
    trial.kill()
    assert trial.poll() == -9
    trial.end()  # Ending it again is harmless.


def test_a_trial_that_never_started_can_be_ended(tmp_path):
    config = configuration.from_flat({"model_dir": str(tmp_path)})
    trials.ProcessTrial("disturbed", config).end()
    trials.GangTrial("disturbed", config, 2).end()


def test_events_and_duration_come_from_the_journal(trial):
    lines = [
        {"event": "start", "time": "2026-01-01T00:00:01.5+00:00"},
        {"event": "save", "time": "2026-01-01T00:00:02+00:00", "step": 7},
        {"event": "stop", "time": "2026-01-01T00:00:09+00:00"},
    ]
    assert trial.events("save") == []  # There is no journal yet.
    (trial.folder / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert trial.events("save") == [lines[1]]
    assert trial.events("stop", "start") == [lines[0], lines[2]]
    assert trial.seconds() == 7.5


def test_the_training_process_of_a_worker_is_the_child_of_its_supervisor(tmp_path, monkeypatch):
    trial = trials.GangTrial("disturbed", configuration.from_flat({"model_dir": str(tmp_path)}), 2)
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import subprocess, sys, time\n"
        "if '--worker_index=1' in sys.argv:\n"
        "    subprocess.Popen([sys.executable, '-c', 'import sys; sys.stdin.read()'],\n"
        "                     stdin=subprocess.PIPE)\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(trials.local, "PROGRAM", (sys.executable, str(worker)))
    try:
        trial.start()
        while trial.training(1) is None:
            assert trial.poll() is None
            time.sleep(0.02)
        assert dict(trials._parents())[trial.training(1)] == trial.supervisor(1)
        assert trial.training(0) is None and trial.supervisor(0) != trial.supervisor(1)
    finally:
        trial.end()
    assert trial.supervisor(0) is None and trial.supervisor(1) is None


def test_a_process_is_found_by_its_parent_whatever_its_name(tmp_path):
    odd = tmp_path / "a ) S 1"
    odd.symlink_to(pathlib.Path(sys.executable).resolve())
    process = subprocess.Popen(
        [odd, "-S", "-c", "input()"], stdin=subprocess.PIPE, env={"PYTHONHOME": sys.base_prefix}
    )
    try:
        assert (process.pid, os.getpid()) in trials._parents()
    finally:
        process.communicate(b"\n")
    assert process.pid not in dict(trials._parents())
