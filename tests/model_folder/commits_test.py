"""Names and manifests as a process without TensorFlow reads them."""

import json

import pytest

from trainer import sealed
from trainer.exit_codes import DataError
from trainer.model_folder import commits
from trainer.model_folder.journal import Journal


def manifest_of(step, attempt=1):
    return {
        "format": 1,
        "step": step,
        "attempt": attempt,
        "state_digest": f"d{step}",
        "config_digest": "c",
        "dataset_digest": "d",
        "files": {"tensors.index": {"size": 1, "sha256": "00"}},
    }


def write(folder, step, text=None, attempt=1):
    place = commits.folder_of(folder / "checkpoints", step)
    place.mkdir(parents=True)
    text = json.dumps(manifest_of(step, attempt)) if text is None else text
    (place / "MANIFEST.json").write_text(text)


# Names


def test_discovery_finds_only_committed_folders_and_orders_them_by_number(tmp_path):
    for name in (
        "step-00000020",
        "step-00000003",
        "step-123456789",
        "step-00000010.tmp-1",
        "step-00000011.damaged-2",
        "step-00000013.superseded-2",
        "step-12",
        "step-000000012",
        "step--0000001",
        "best",
        "step-00000001x",
    ):
        (tmp_path / name).mkdir()
    (tmp_path / "step-00000099").write_text("a file")
    assert commits.list_steps(tmp_path) == [3, 20, 123456789]
    assert commits.damaged_names(tmp_path) == ["step-00000011.damaged-2"]


def test_a_folder_that_does_not_exist_has_no_checkpoints(tmp_path):
    assert commits.list_steps(tmp_path / "missing") == []
    assert commits.damaged_names(tmp_path / "missing") == []
    assert commits.leftovers(tmp_path / "missing", 9) == []


def test_leftovers_are_of_this_attempt_and_earlier_ones(tmp_path):
    folder = commits.folder_of(tmp_path, 7)
    for attempt in (1, 2, 10):
        commits.temporary_of(folder, attempt).mkdir()
    for other in (folder, commits.aside_of(folder, "damaged", 1)):
        other.mkdir()
    found = {path.name for path in commits.leftovers(tmp_path, 2)}
    assert found == {"step-00000007.tmp-1", "step-00000007.tmp-2"}


# Manifests


def test_a_manifest_is_read_as_it_was_written(tmp_path):
    write(tmp_path, 7)
    assert commits.read_manifest(tmp_path / "checkpoints/step-00000007") == manifest_of(7)


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"format": "new"}, "is not a manifest"),
        ({"format": float("inf")}, "is not a manifest"),
        ({"format": 0}, "is not a manifest .of format 0"),
        ({"format": 2}, "is not a manifest .of format 2"),  # Newer ones have a seal.
        ({"sha257": "ab"}, "it has no sha256, but 'sha257'"),
        ({"sha256": "ab"}, "is not the one of its own sha256"),
        ({"files": None}, "is not a manifest"),
        ({"files": {"tensors.index": {"size": 1}}}, "is not a manifest"),
        ({"files": {}}, "does not describe a payload"),
        (
            {
                "files": {
                    "tensors.index": {"size": 1, "sha256": ""},
                    "../x": {"size": 0, "sha256": ""},
                }
            },
            "does not describe a payload",
        ),
        ({"files": {"tensors.index": {"size": -1, "sha256": ""}}}, "does not describe a payload"),
        ({"files": {"tensors.index": {"size": 1, "sha256": 3}}}, "does not describe a payload"),
        (
            {
                "files": {
                    "tensors.index": {"size": 1, "sha256": ""},
                    "tensors.\0": {"size": 0, "sha256": ""},
                }
            },
            "does not describe a payload",
        ),
        ({"state_digest": None}, "does not describe a payload"),
        ({"dataset_digest": 3}, "does not describe a payload"),
        ({"attempt": "first"}, "is of attempt 'first'"),
        ({"attempt": -1}, "is of attempt '-1'"),
        ({"step": 8}, "is of step 8"),
        ({"step": "7"}, "is of step 7"),
    ],
)
def test_a_manifest_that_does_not_describe_its_folder_is_damage(tmp_path, change, reason):
    write(tmp_path, 7, json.dumps(manifest_of(7) | change))
    with pytest.raises(commits.Damaged, match=reason) as raised:
        commits.read_manifest(tmp_path / "checkpoints/step-00000007")
    assert str(tmp_path / "checkpoints/step-00000007") in str(raised.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "[" * 100_000, "{" + "9" * 5000])
def test_a_manifest_that_is_not_json_is_damage(tmp_path, text):
    write(tmp_path, 7, text)
    with pytest.raises(commits.Damaged, match="is not a manifest"):
        commits.read_manifest(tmp_path / "checkpoints/step-00000007")


def test_a_folder_without_manifest_is_damaged(tmp_path):
    with pytest.raises(commits.Damaged, match="MANIFEST.json is missing"):
        commits.read_manifest(tmp_path)


def test_a_manifest_of_a_newer_version_is_an_error_but_not_damage(tmp_path):
    write(tmp_path, 7, json.dumps(sealed.seal(manifest_of(7) | {"format": 2})))
    with pytest.raises(DataError, match="format 2.*reads up to format 1") as raised:
        commits.read_manifest(tmp_path / "checkpoints/step-00000007")
    assert not isinstance(raised.value, commits.Damaged)


# Runs


def test_a_folder_without_checkpoints_has_none(tmp_path):
    assert commits.newest(tmp_path) is None and not commits.exist(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    assert commits.newest(tmp_path) is None and not commits.exist(tmp_path)
    (tmp_path / "file").write_text("")
    assert not commits.exist(tmp_path / "file")


def test_the_newest_has_the_highest_number(tmp_path):
    for step in (9, 100_000_000, 99_999_999):
        write(tmp_path, step)
    (tmp_path / "checkpoints" / "step-200000000.tmp-3").mkdir()
    assert commits.newest(tmp_path) == commits.Commit(100_000_000, "d100000000")


def test_a_checkpoint_that_cannot_be_read_is_skipped(tmp_path):
    write(tmp_path, 1)
    for step, text in ((2, ""), (3, "{}"), (4, "[1]"), (5, '{"step": 5}')):
        write(tmp_path, step, text)
    (tmp_path / "checkpoints" / "step-00000006").mkdir()
    assert commits.newest(tmp_path) == commits.Commit(1, "d1")


def test_a_commit_of_an_attempt_after_its_takeover_is_not_part_of_the_run(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl", attempt=2)
    write(tmp_path, 100)
    journal.write("start", step=100)
    write(tmp_path, 300, attempt=1)
    assert commits.newest(tmp_path) == commits.Commit(100, "d100")
    write(tmp_path, 200, attempt=2)
    assert commits.newest(tmp_path) == commits.Commit(200, "d200")


def test_checkpoints_exist_even_if_none_can_be_read(tmp_path):
    write(tmp_path, 2, "")
    assert commits.exist(tmp_path) and commits.newest(tmp_path) is None


def test_manifests_are_those_that_can_be_read_the_newest_first_and_the_best_last(tmp_path):
    for step in (1, 2):
        write(tmp_path, step)
    write(tmp_path, 3, "")
    (tmp_path / "checkpoints").rename(tmp_path / "best")
    write(tmp_path, 4)
    found = list(commits.manifests(tmp_path))
    assert [manifest["step"] for _, manifest in found] == [4, 2, 1]
    assert found[1] == (tmp_path / "best/step-00000002", manifest_of(2))
    assert list(commits.manifests(tmp_path / "nothing")) == []


def test_the_last_line_of_a_stopped_run():
    assert commits.stopped_line(None) == "stopped step=0 state_digest=none"
    assert commits.stopped_line(commits.Commit(12, "ab")) == "stopped step=12 state_digest=ab"


@pytest.mark.parametrize(
    "start, finish, stop, line",
    [
        ({"total": 100}, {"step": 100}, {"code": 0}, "done step=100 state_digest=d100"),
        ({"total": 100}, {"step": 100}, {"code": 143}, ""),
        ({"total": 200}, {"step": 100}, {"code": 0}, ""),  # That run was to be longer.
        ({"total": 100}, {"step": 100}, None, ""),  # Killed, or still running.
        ({"total": 100}, {"step": 90}, {"code": 0}, ""),  # It had not come to this checkpoint.
        ({"total": 100}, None, {"code": 0}, ""),
    ],
)
def test_the_last_line_of_a_run_that_is_complete(tmp_path, start, finish, stop, line):
    write(tmp_path, 100, attempt=2)
    Journal(tmp_path / "journal.jsonl", attempt=1).write("stop", code=0)
    Journal(tmp_path / "journal.jsonl", attempt="3").write("stop", code=0)
    journal = Journal(tmp_path / "journal.jsonl", attempt=2)
    journal.write("start", step=0, **start)
    if finish:
        journal.write("finish", **finish)
    if stop:
        journal.write("stop", **stop)
    Journal(tmp_path / "journal.jsonl", attempt=0).write("gang_end", code=0)
    assert commits.finished_line(tmp_path, 100) == line
