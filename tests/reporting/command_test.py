"""`trainer report` as its user meets it. The arithmetic: goodput_test."""

import dataclasses
import datetime
import json
import signal

import pytest

from tests import commands, datasets
from trainer.model_folder import journal
from trainer.reporting import command as report
from trainer.reporting import goodput

JOB = [
    "--units=8",
    "--embedding_size=4",
    "--max_length=8",
    "--batch_size=8",
    "--threads=2",
    "--shards=1",
    "--jit=off",
    "--steps=6000",
    "--save_steps=1000",
    "--eval_steps=2500",
    "--log_steps=500",
]


@pytest.fixture(scope="module")
def killed_and_continued(tmp_path_factory):
    """Folder of a run that was killed in the middle and brought to its end by a second attempt."""
    folder = tmp_path_factory.mktemp("run")
    datasets.write(
        folder / "data", datasets.random_splits(train=200), vocabulary_size=30, classes=3
    )
    job = ["train", f"--data_dir={folder / 'data'}", f"--model_dir={folder / 'model'}", *JOB]
    process = commands.start(*job)
    commands.wait_for(
        lambda: any(
            event["event"] == "save" for event in journal.read(folder / "model/journal.jsonl")
        ),
        process,
    )
    process.kill()
    assert commands.finish(process).code == -signal.SIGKILL
    assert commands.finish(commands.start(*job)).code == 0
    return folder / "model"


def reported(model) -> dict:
    answer = commands.call("report", f"--model_dir={model}", "--format=json")
    assert (answer.code, answer.err) == (0, "")
    return json.loads(answer.out)


def test_the_buckets_of_a_real_run_explain_its_wall_time_to_within_one_percent(
    killed_and_continued,
):
    found = reported(killed_and_continued)
    events = journal.read(killed_and_continued / "journal.jsonl")
    moments = [datetime.datetime.fromisoformat(event["time"]).timestamp() for event in events]
    assert found["wall_seconds"] == pytest.approx(moments[-1] - moments[0] + events[0]["seconds"])
    explained = sum(
        seconds for name, seconds in found["buckets"].items() if name != "not_on_record"
    )
    assert explained == pytest.approx(found["wall_seconds"], rel=0.01)
    assert set(found["buckets"]) == set(goodput.BUCKETS)
    for name in (
        "start",
        "compile",
        "restore",
        "input_wait",
        "step",
        "evaluate",
        "save",
        "restart_gap",
    ):
        assert found["buckets"][name] > 0, name
    assert found["goodput"] == pytest.approx(found["buckets"]["step"] / found["wall_seconds"])


def test_the_attempts_of_a_real_run(killed_and_continued):
    found = reported(killed_and_continued)
    first, second = found["attempts"]
    assert (first["end"], first["restored"], first["cause"]["code"]) == ("killed", 0, None)
    assert (
        second["end"],
        second["restored"],
        second["reached"],
        second["saved"],
        second["code"],
    ) == ("done", first["saved"], 6000, 6000, 0)
    assert (found["end"], found["step"], found["total"], found["cause"]) == (
        "done",
        6000,
        6000,
        None,
    )


def test_every_step_of_an_undisturbed_attempt_is_in_a_line_and_the_first_is_told_at_once(
    killed_and_continued,
):
    loops = [
        event
        for event in journal.read(killed_and_continued / "journal.jsonl")
        if event["event"] == "loop"
    ]
    restored = reported(killed_and_continued)["attempts"][1]["restored"]
    last = [event for event in loops if event["attempt"] == 2]
    assert sum(event["steps"] for event in last) == 6000 - restored
    assert [event["steps"] for event in loops if event["attempt"] == 1][0] == last[0]["steps"] == 1


def test_the_time_of_steps_is_on_record_before_their_checkpoint_is(killed_and_continued):
    told = 0
    for event in journal.read(killed_and_continued / "journal.jsonl"):
        told = event["step"] if event["event"] in ("loop", "restore") else told
        assert event["event"] != "save" or event["step"] <= told


def test_text_says_what_the_json_says(killed_and_continued):
    answer = commands.call("report", f"--model_dir={killed_and_continued}")
    assert (answer.code, answer.err) == (0, "")
    assert answer.lines[0] == "run: done, at step 6000 of 6000"
    assert [line.split()[0] for line in answer.lines[3:15]] == [*goodput.BUCKETS, "wall_time"]
    assert [line.split()[0] for line in answer.lines[16:]] == ["attempt", "1", "2"]


CAUSE = goodput.Cause(1, 3, "bad data", ("Traceback (most recent call last):", "a.csv:3: no label"))
ATTEMPT = goodput.AttemptSummary(
    1, "2026-01-01T00:00:00+00:00", 20.0, 0, 70, 40, "failed", 3, CAUSE
)
SECONDS = {
    **dict.fromkeys(goodput.BUCKETS, 0.0),
    "start": 4.0,
    "compile": 2.0,
    "step": 8.0,
    "lost_steps": 6.0,
}
FAILED = goodput.RunSummary(20.0, 0.4, SECONDS, 40, 100, "failed", 3, 3725.0, CAUSE, (ATTEMPT,))
TEXT = """\
run: failed with exit code 3, at step 40 of 100
goodput 0.4000: 8.000 s of steps that count in 20.00 s

start               4.000 s   20.0 %  launch, imports, opening the dataset, building the model
rendezvous          0.000 s    0.0 %  workers waiting for each other
compile             2.000 s   10.0 %  tracing and compiling; the first step
restore             0.000 s    0.0 %  reading a checkpoint
input_wait          0.000 s    0.0 %  steps waiting for their batch
step                8.000 s   40.0 %  steps that count
evaluate            0.000 s    0.0 %  evaluations
save                0.000 s    0.0 %  training held up by saves
lost_steps          6.000 s   30.0 %  steps done again or never saved
restart_gap         0.000 s    0.0 %  from the end of an attempt to the next one's start
not_on_record       0.000 s    0.0 %  what the journal does not explain
wall_time           20.00 s  100.0 %  all of them

attempt  began                         seconds            steps    saved  end
      1  2026-01-01T00:00:00+00:00       20.00          0 to 70       40  failed: worker 1, exit code 3 (bad data (file and line \
named), or every checkpoint damaged): bad data

first cause: worker 1, exit code 3 (bad data (file and line named), or every checkpoint damaged): bad data
    Traceback (most recent call last):
    a.csv:3: no label"""  # noqa: E501


def test_text_of_a_failure_ends_with_its_first_cause_and_its_last_lines():
    assert report.as_text(FAILED) == TEXT


def test_lines_of_a_log_cannot_control_the_terminal():
    cause = dataclasses.replace(FAILED.cause, last_lines=("\x1b[2J\x9bgone",))
    text = report.as_text(dataclasses.replace(FAILED, cause=cause))
    assert text.endswith("\n    " + r"\x1b[2J\x9bgone")


@pytest.mark.parametrize(
    "end, code, standing",
    [
        ("done", 0, "run: done, at"),
        ("stopped", 143, "run: stopped with exit code 143, at"),
        ("running", None, "run: running, last line 1:02:05 ago, at"),
        (
            "killed",
            None,
            "run: no end on record, last line 1:02:05 ago: killed, or busy with something long, at",
        ),
    ],
)
def test_the_first_line_says_how_the_run_stands(end, code, standing):
    changed = goodput.RunSummary(**{**vars(FAILED), "end": end, "code": code})
    assert report.as_text(changed).startswith(standing)


@pytest.mark.parametrize(
    "code, told",
    [(-9, "worker 1, signal 9: "), (None, "worker 1: "), (42, "worker 1, exit code 42: ")],
)
def test_a_cause_names_code_or_signal(code, told):
    changed = goodput.RunSummary(**{**vars(FAILED), "cause": goodput.Cause(1, code, "why")})
    assert report.as_text(changed).splitlines()[-1] == f"first cause: {told}why"


def test_a_failed_run_is_reported_with_the_lines_it_left(tmp_path):
    """Its data are not there: it fails before it has a configuration in its folder."""
    datasets.write(tmp_path / "data", datasets.random_splits(), vocabulary_size=30, classes=3)
    (tmp_path / "data/train/tokens.npy").write_bytes(b"")
    assert (
        commands.call(
            "train", f"--data_dir={tmp_path / 'data'}", f"--model_dir={tmp_path / 'model'}", *JOB
        ).code
        == 3
    )
    found = reported(tmp_path / "model")
    assert (found["end"], found["code"], found["cause"]["code"]) == ("failed", 3, 3)
    assert "tokens.npy" in found["cause"]["reason"]


def test_an_unexpected_exception_is_told_with_its_last_lines(tmp_path):
    datasets.write(tmp_path / "data", datasets.random_splits(), vocabulary_size=30, classes=3)
    answer = commands.call(
        "train",
        f"--data_dir={tmp_path / 'data'}",
        f"--model_dir={tmp_path / 'model'}",
        *JOB,
        patches={"trainer.resuming.write": None},
    )
    assert answer.code == 1
    cause = reported(tmp_path / "model")["cause"]
    assert (
        cause["reason"] == cause["last_lines"][-1] == "TypeError: 'NoneType' object is not callable"
    )


@pytest.mark.parametrize("content", [None, b"", b"\xff\n{}\n[1]\n"])
def test_a_folder_without_a_journal_is_in_words(tmp_path, content):
    if content is not None:
        (tmp_path / "journal.jsonl").write_bytes(content)
    answer = commands.call("report", f"--model_dir={tmp_path}")
    assert answer.code == 2 and "journal.jsonl is missing or has no readable line" in answer.err
