"""Fences, and the records of attempts that they are read from."""

import json

import pytest

from trainer import sealed
from trainer.model_folder import attempts
from trainer.model_folder.attempts import Fence
from trainer.model_folder.journal import Journal


@pytest.mark.parametrize(
    "fences, attempt, step, expected",
    [
        ([], 1, 99, None),
        ([(2, 20)], 1, 20, None),
        ([(2, 20)], 1, 21, (2, 20)),
        ([(2, 20)], 2, 21, None),
        ([(2, 20)], 3, 21, None),
        # The third attempt began from step 50 of the second, not of the first.
        ([(2, 20), (3, 50)], 1, 40, (2, 20)),
        ([(2, 20), (3, 50)], 2, 40, None),
        ([(2, 20), (3, 50)], 2, 51, (3, 50)),
        ([(1, 0), (2, 0)], 1, 1, (2, 0)),
    ],
)
def test_a_commit_of_an_earlier_attempt_beyond_a_fence_is_not_part_of_the_run(
    fences, attempt, step, expected
):
    assert attempts.superseding([Fence(*pair) for pair in fences], attempt, step) == expected


@pytest.mark.parametrize(
    "fences, expected",
    [
        ([], ()),
        ([(1, 0), (2, 10), (3, 20)], ((1, 0), (2, 10), (3, 20))),
        ([(1, 0), (2, 10), (3, 10)], ((1, 0), (3, 10))),
        ([(3, 5), (2, 10), (1, 0)], ((1, 0), (3, 5))),
        ([(1, 0), (2, 10), (2, 10), (3, 0)], ((3, 0),)),
    ],
)
def test_superfluous_fences_are_left_out(fences, expected):
    given = [Fence(*pair) for pair in fences]
    kept = attempts.outermost(given)
    assert kept == expected
    for attempt in range(5):
        for step in range(25):
            assert bool(attempts.superseding(given, attempt, step)) == bool(
                attempts.superseding(kept, attempt, step)
            )


GOOD = {
    "attempt": 3,
    "host": "h",
    "boot": "b",
    "pid": 7,
    "started": "now",
    "beat": "now",
    "began": 20,
    "fences": [[1, 0]],
}


def write(model_dir, number, record):
    attempts.folder(model_dir).mkdir(exist_ok=True)
    text = record if isinstance(record, bytes) else json.dumps(record).encode() + b"\n"
    attempts.path_of(model_dir, number).write_bytes(text)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\x00garbage",
        b"[1, 2]",
        b"7",
        json.dumps(GOOD).encode()[:-9],
        json.dumps({**sealed.seal(GOOD), "began": 8}).encode(),
        json.dumps({**GOOD, "sha257": "ab"}).encode(),
        *(
            json.dumps({**GOOD, **change}).encode()
            for change in (
                {"attempt": "many"},
                {"attempt": True},
                {"began": -1},
                {"began": None},
                {"fences": [[1]]},
                {"fences": 1},
                {"fences": [["a", 1]]},
                {"host": None},
                {"pid": "x"},
            )
        ),
    ],
)
def test_a_damaged_record_counts_as_none(text):
    for good in (GOOD, sealed.seal(GOOD)):
        assert attempts.parse(json.dumps(good).encode()) == {**good, "fences": [Fence(1, 0)]}
    assert attempts.parse(text) == {}


def test_without_attempts_there_are_no_fences(tmp_path):
    assert (
        attempts.fences(tmp_path),
        attempts.numbers(tmp_path),
        attempts.last_in_journal(tmp_path),
    ) == ((), [], 0)


def test_a_fence_that_a_superseded_attempt_wrote_too_late_does_not_count(tmp_path):
    write(tmp_path, 1, {**GOOD, "attempt": 1, "began": 0, "fences": []})
    write(tmp_path, 2, {**GOOD, "attempt": 2, "began": 10, "fences": [[1, 0]]})
    # The third attempt read the folder before the second began.
    write(tmp_path, 3, {**GOOD, "attempt": 3, "began": 30, "fences": [[1, 0]]})
    assert attempts.fences(tmp_path) == ((1, 0), (3, 30))


@pytest.mark.parametrize("damaged", [1, 2, 3])
def test_the_journal_replaces_a_damaged_record(tmp_path, damaged):
    for number, step in ((1, 0), (2, 10), (3, 20)):
        write(
            tmp_path,
            number,
            {**GOOD, "attempt": number, "began": step, "fences": [[1, 0], [2, 10]][: number - 1]},
        )
        Journal(tmp_path / "journal.jsonl", attempt=number).write("start", step=step)
    write(tmp_path, damaged, b"\x00")
    assert attempts.fences(tmp_path) == ((1, 0), (2, 10), (3, 20))


def test_lines_of_the_journal_without_attempt_and_step_are_ignored(tmp_path):
    (tmp_path / "journal.jsonl").write_text(
        '{"event": "start"}\n{"event": "start", "attempt": "x", "step": 1}\n'
        '{"event": "start", "attempt": 4, "step": 8}\n{"event": "save", "attempt": 5, "step": 9}\n'
    )
    assert attempts.fences(tmp_path) == ((4, 8),)
    assert attempts.last_in_journal(tmp_path) == 5
