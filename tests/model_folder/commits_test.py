import json

import pytest

from trainer.model_folder import commits
from trainer.model_folder.journal import Journal


def write(folder, step, text=None, attempt=1):
    place = folder / "checkpoints" / f"step-{step:08d}"
    place.mkdir(parents=True)
    (place / "MANIFEST.json").write_text(
        json.dumps({"step": step, "attempt": attempt, "state_digest": f"d{step}"})
        if text is None
        else text
    )


def test_a_folder_without_checkpoints_has_none(tmp_path):
    assert commits.newest(tmp_path) is None and not commits.exist(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    assert commits.newest(tmp_path / "none") is None and not commits.exist(tmp_path)


def test_the_newest_counts_by_number_and_only_whole_names_count(tmp_path):
    for step in (9, 100_000_000, 99_999_999):
        write(tmp_path, step)
    for name in ("step-200000000.tmp-3", "step-200000000.damaged-1", "step-7", "other"):
        (tmp_path / "checkpoints" / name).mkdir()
    assert commits.newest(tmp_path) == commits.Commit(100_000_000, "d100000000")


def test_one_that_cannot_be_read_is_passed_over(tmp_path):
    write(tmp_path, 1)
    for step, text in ((2, ""), (3, "{}"), (4, "[1]"), (5, '{"step": 5}')):
        write(tmp_path, step, text)
    (tmp_path / "checkpoints" / "step-00000006").mkdir()
    assert commits.newest(tmp_path) == commits.Commit(1, "d1")


def test_what_an_attempt_commits_after_it_was_taken_over_is_no_part_of_the_run(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl", attempt=2)
    write(tmp_path, 100)
    journal.write("start", step=100)
    write(tmp_path, 300, attempt=1)
    assert commits.newest(tmp_path) == commits.Commit(100, "d100")
    write(tmp_path, 200, attempt=2)
    assert commits.newest(tmp_path) == commits.Commit(200, "d200")


def test_checkpoints_exist_even_where_none_can_be_read(tmp_path):
    write(tmp_path, 2, "")
    assert commits.exist(tmp_path) and commits.newest(tmp_path) is None


def test_the_last_line_of_a_stopped_run():
    assert commits.stopped_line(None) == "stopped step=0 state_digest=none"
    assert commits.stopped_line(commits.Commit(12, "ab")) == "stopped step=12 state_digest=ab"


@pytest.mark.parametrize(
    "start, stop, line",
    [
        ({"total": 100}, {"code": 0}, "done step=100 state_digest=d100"),
        ({"total": 100}, {"code": 143}, ""),
        ({"total": 200}, {"code": 0}, ""),  # that run was to be longer
        ({"total": 100}, None, ""),  # killed, or still at work
    ],
)
def test_the_last_line_of_a_run_that_has_come_to_its_end(tmp_path, start, stop, line):
    write(tmp_path, 100, attempt=2)
    Journal(tmp_path / "journal.jsonl", attempt=1).write("stop", code=0)
    journal = Journal(tmp_path / "journal.jsonl", attempt=2)
    journal.write("start", step=0, **start)
    if stop:
        journal.write("stop", **stop)
    Journal(tmp_path / "journal.jsonl", attempt=0).write("gang_end", code=0)
    assert commits.finished_line(tmp_path, 100) == line
