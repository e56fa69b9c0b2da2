"""Lines of the journal: what is written is what is read, after kills and on failing storage too."""

import datetime
import json
import logging
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from trainer.model_folder.journal import Journal, last, read

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_a_line_has_time_attempt_worker_and_event(tmp_path):
    Journal(tmp_path / "journal.jsonl", attempt=3, worker=1).write("save", seconds=0.25, step=40)
    (line,) = (tmp_path / "journal.jsonl").read_text().splitlines()
    entry = json.loads(line)
    written = datetime.datetime.fromisoformat(entry.pop("time"))
    assert written.utcoffset() == datetime.timedelta(0)
    assert abs(datetime.datetime.now(datetime.timezone.utc) - written) < datetime.timedelta(
        minutes=1
    )
    assert entry == {"attempt": 3, "worker": 1, "event": "save", "seconds": 0.25, "step": 40}


def test_seconds_are_left_out_if_none_are_given(tmp_path):
    Journal(tmp_path / "journal.jsonl", 1).write("start")
    assert "seconds" not in read(tmp_path / "journal.jsonl")[0]


@pytest.mark.parametrize(
    "value, written",
    [
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (-np.float32("inf"), "-Infinity"),
        (np.float32(0.5), 0.5),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.array([1.0, np.nan]), [1.0, "NaN"]),
        ((1, {"a": float("nan")}), [1, {"a": "NaN"}]),
        ({128: 2}, {"128": 2}),
        (None, None),
        (pathlib.PurePosixPath("a/b"), "a/b"),
        ("file \udcff", "file \udcff"),
    ],
)
def test_every_value_becomes_json(tmp_path, value, written):
    Journal(tmp_path / "journal.jsonl", 1).write("loop", value=value)

    def refuse(constant):
        raise ValueError(constant)

    assert (
        json.loads((tmp_path / "journal.jsonl").read_bytes(), parse_constant=refuse)["value"]
        == written
    )


def test_nan_and_infinity_are_read_back_as_numbers(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl", 1)
    for value in (np.nan, np.inf, -np.inf):
        journal.write("loop", loss=value)
    np.testing.assert_array_equal(
        [float(entry["loss"]) for entry in read(tmp_path / "journal.jsonl")],
        [np.nan, np.inf, -np.inf],
    )


def test_a_kill_inside_a_line_loses_only_that_line(tmp_path):
    path = tmp_path / "journal.jsonl"
    Journal(path, 1).write("start")
    Journal(path, 1).write("loop", step=20)
    path.write_bytes(path.read_bytes()[:-9])
    Journal(path, 2).write("start")
    assert [(entry["attempt"], entry["event"]) for entry in read(path)] == [
        (1, "start"),
        (2, "start"),
    ]


def test_damaged_lines_are_skipped(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(
        b'{"event": "start"}\n\xff\xfe\x00\n[1, 2]\n\n' + b"[" * 100_000 + b'\n{"event": "stop"}'
    )
    assert [entry["event"] for entry in read(path)] == ["start", "stop"]


def test_no_file_is_an_empty_journal(tmp_path):
    assert read(tmp_path / "journal.jsonl") == []


def test_lines_of_processes_that_write_at_the_same_time_never_mix(tmp_path):
    path = tmp_path / "journal.jsonl"
    script = (
        "import sys; from trainer.model_folder.journal import Journal\n"
        "journal = Journal(sys.argv[1], 1, int(sys.argv[2]))\n"
        "for number in range(300): journal.write('loop', number=number, filler='x' * 20_000)"
    )
    commands = [[sys.executable, "-c", script, str(path), str(worker)] for worker in range(3)]
    writers = [subprocess.Popen(command, cwd=ROOT) for command in commands]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    entries = read(path)
    assert len(entries) == len([line for line in path.read_text().splitlines() if line]) == 900
    for worker in range(3):
        assert [entry["number"] for entry in entries if entry["worker"] == worker] == list(
            range(300)
        )


def test_a_journal_that_cannot_be_written_is_reported_once_and_raises_nothing(tmp_path, caplog):
    journal = Journal(tmp_path / "missing" / "journal.jsonl", 1)
    with caplog.at_level(logging.ERROR):
        journal.write("start")
        journal.write("loop")
    assert len(caplog.records) == 1 and str(tmp_path / "missing") in caplog.text
    (tmp_path / "missing").mkdir()
    journal.write("stop")
    entries = read(tmp_path / "missing" / "journal.jsonl")
    assert [entry["event"] for entry in entries] == ["start", "loop", "stop"]


def test_lines_that_wait_for_a_storage_that_never_works_take_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.model_folder.journal.LONGEST_WAITING", 1000)
    journal = Journal(tmp_path / "missing" / "journal.jsonl", 1)
    for number in range(100):
        journal.write("loop", step=number)
        assert len(journal._waiting) <= 1000
    (tmp_path / "missing").mkdir()
    journal.close()
    assert read(tmp_path / "missing" / "journal.jsonl")[-1]["step"] == 99


def test_a_line_that_a_full_disk_cuts_off_is_written_again(tmp_path, monkeypatch):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, 1)
    journal.write("start")
    write = os.write
    with monkeypatch.context() as full_disk:
        full_disk.setattr("os.write", lambda descriptor, line: write(descriptor, line[:10]))
        journal.write("loop")
    journal.write("stop")
    assert [entry["event"] for entry in read(path)] == ["start", "loop", "stop"]


def test_each_second_since_the_beginning_belongs_to_one_lap(tmp_path, monkeypatch):
    clock = iter([12.5, 13.0, 20.0])
    monkeypatch.setattr("trainer.model_folder.journal.time.monotonic", lambda: next(clock))
    journal = Journal(tmp_path / "journal.jsonl", 1, began=10.0)
    journal.lap("launch")
    journal.lap("open_dataset")
    journal.write("save", seconds=100.0)  # It runs in another thread and is not a lap.
    journal.lap("evaluate", loss=0.5)
    laps = [entry for entry in read(tmp_path / "journal.jsonl") if entry["event"] != "save"]
    assert [(entry["event"], entry["seconds"]) for entry in laps] == [
        ("launch", 2.5),
        ("open_dataset", 0.5),
        ("evaluate", 7.0),
    ]
    assert laps[-1]["loss"] == 0.5


def test_by_default_the_first_lap_begins_with_the_journal(tmp_path, monkeypatch):
    clock = iter([10.0, 12.5])
    monkeypatch.setattr("trainer.model_folder.journal.time.monotonic", lambda: next(clock))
    Journal(tmp_path / "journal.jsonl", 1).lap("launch")
    assert read(tmp_path / "journal.jsonl")[0]["seconds"] == 2.5


def test_the_last_entry_of_an_event_is_found(tmp_path):
    path = tmp_path / "journal.jsonl"
    assert last(path, "start") is None
    journal = Journal(path, attempt=1)
    for event, step in (("start", 0), ("save", 5), ("start", 5), ("save", 9)):
        journal.write(event, step=step)
    assert last(path, "start")["step"] == 5
    assert last(path, "stop") is None


def test_a_closed_journal_opens_again(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl", 1)
    journal.write("start")
    journal.close()
    journal.write("stop")
    assert len(read(tmp_path / "journal.jsonl")) == 2
