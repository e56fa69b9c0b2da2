"""Takeovers: a frozen chief may still write afterwards, but the run is that of the new chief."""

import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from trainer.exit_codes import FolderInUseError, TakenOverError
from trainer.model_folder import attempts, best, checkpoint, lock, selection

ROOT = pathlib.Path(__file__).resolve().parents[1]
DIGESTS = {"config_digest": "c", "dataset_digest": "d"}


def state(step, salt=0):
    """A state that depends on the step and on `salt`: another worker count rounds differently."""
    return {"weights": np.full(3, step + salt, np.float32), "step": np.int64(step)}


def commit(folder, step, held, salt=0):
    return checkpoint.commit(folder / "checkpoints", step, state(step, salt), held=held, **DIGESTS)


def newest(folder):
    return checkpoint.newest_valid(
        folder / "checkpoints", fences=attempts.fences(folder), repair=False
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def hosts(monkeypatch):
    """Puts every block of `lock.hold` on a host of its own, which soon takes over a silent one."""
    count = itertools.count()
    monkeypatch.setattr(lock, "BEAT_SECONDS", 999)  # No holder writes a second beat.
    monkeypatch.setattr(lock, "SILENCE_SECONDS", 0.05)
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(lock, "_boot", lambda: str(next(count)))


@pytest.fixture
def two_chiefs(tmp_path, hosts):
    """(folder, old, new): the old chief committed step 10, the new one took over from there."""
    with lock.hold(tmp_path) as old:
        old.began(0)
        commit(tmp_path, 10, old)
        with lock.hold(tmp_path) as new:
            new.began(10)
            yield tmp_path, old, new


class Unaware:
    """An attempt that was frozen after its check and wakes before its rename."""

    def __init__(self, held):
        self.number, self.fences = held.number, held.fences

    def check(self):
        pass


def test_an_attempt_that_was_taken_over_commits_nothing(two_chiefs):
    folder, old, new = two_chiefs
    with pytest.raises(TakenOverError):
        commit(folder, 20, old)
    assert newest(folder).step == 10
    commit(folder, 20, new, salt=1)
    assert names(folder / "checkpoints") == ["step-00000010", "step-00000020"]
    with pytest.raises(TakenOverError):  # Not FolderInUseError: the step repeats.
        commit(folder, 20, old)


def test_a_commit_after_the_takeover_is_skipped_with_a_warning(two_chiefs, caplog):
    folder, old, new = two_chiefs
    commit(folder, 20, Unaware(old))
    assert newest(folder).step == 10
    for part in (
        "step-00000020 is not part of this run",
        "attempt 1 committed it",
        "attempt 2 continued from step 10",
    ):
        assert part in caplog.text
    # A reader changes nothing.
    assert names(folder / "checkpoints") == ["step-00000010", "step-00000020"]


@pytest.mark.parametrize("salt", [0, 1], ids=["equal state", "another state"])
def test_a_commit_after_the_takeover_is_set_aside_when_its_step_comes(two_chiefs, salt):
    folder, old, new = two_chiefs
    commit(folder, 20, Unaware(old))
    manifest = commit(folder, 20, new, salt)
    assert manifest["attempt"] == 2 and newest(folder).manifest == manifest
    assert names(folder / "checkpoints") == [
        "step-00000010",
        "step-00000020",
        "step-00000020.superseded-2",
    ]
    assert commit(folder, 20, new, salt) == manifest  # Now it is there already.


def test_a_commit_before_the_takeover_stays_part_of_the_run(two_chiefs):
    folder, _, new = two_chiefs
    assert commit(folder, 10, new)["attempt"] == 1
    with pytest.raises(FolderInUseError):
        commit(folder, 10, new, salt=1)


def test_a_third_attempt_continues_from_the_second_whatever_the_first_does(two_chiefs):
    folder, old, new = two_chiefs
    commit(folder, 20, new)
    with lock.hold(folder) as third:
        assert (
            checkpoint.newest_valid(
                folder / "checkpoints", fences=third.fences, repair=True, attempt=3
            ).step
            == 20
        )
        third.began(20)
        for step in (15, 30):  # 15: between the fences of the second and the third.
            commit(folder, step, Unaware(old))
        assert newest(folder).step == 20
        commit(folder, 30, third, salt=3)
        assert newest(folder).manifest["attempt"] == 3


def test_a_folder_with_only_commits_after_a_takeover_starts_over(tmp_path, hosts):
    with lock.hold(tmp_path) as old, lock.hold(tmp_path) as new:
        new.began(0)
        commit(tmp_path, 10, Unaware(old))
        assert newest(tmp_path) is None


def test_a_commit_after_the_takeover_does_not_count_as_one_to_keep(two_chiefs):
    folder, old, new = two_chiefs
    with checkpoint.Writer(folder / "checkpoints", 2, new, **DIGESTS) as writer:
        writer.submit(20, state(20))
        writer.wait()
        for step in (15, 25, 35):
            commit(folder, step, Unaware(old))
        writer.submit(30, state(30))
    # Pruning ends at the step that was saved.
    assert names(folder / "checkpoints") == ["step-00000020", "step-00000030", "step-00000035"]


def test_an_attempt_that_is_taken_over_in_its_last_save_reports_and_prunes_nothing(
    two_chiefs, monkeypatch
):
    folder, old, new = two_chiefs
    replace, saved = os.replace, []

    def wake_up_late(*arguments):
        old.is_mine = is_mine
        replace(*arguments)

    is_mine, old.is_mine = old.is_mine, lambda: True
    monkeypatch.setattr(os, "replace", wake_up_late)
    with pytest.raises(TakenOverError):
        with checkpoint.Writer(
            folder / "checkpoints", 1, old, **DIGESTS, on_saved=lambda *_: saved.append(1)
        ) as writer:
            writer.submit(20, state(20))
    assert not saved and newest(folder).step == 10


def test_the_files_that_a_later_attempt_is_writing_stay(two_chiefs):
    folder, old, _ = two_chiefs
    for name in ("step-00000020.tmp-1", "step-00000020.tmp-2"):
        (folder / "checkpoints" / name).mkdir()
    commit(folder, 30, Unaware(old))
    assert names(folder / "checkpoints") == [
        "step-00000010",
        "step-00000020.tmp-2",
        "step-00000030",
    ]


def test_a_folder_that_appears_while_we_write_the_same_step_is_set_aside(two_chiefs, monkeypatch):
    folder, old, new = two_chiefs
    monkeypatch.setattr(checkpoint, "RETRY_PAUSES", (0,))
    check, looks = new.check, iter([lambda: commit(folder, 20, Unaware(old))])
    monkeypatch.setattr(new, "check", lambda: next(looks, check)())
    assert commit(folder, 20, new, salt=1)["attempt"] == 2
    assert newest(folder).manifest["attempt"] == 2 and "step-00000020.superseded-2" in names(
        folder / "checkpoints"
    )


def test_the_best_checkpoint_obeys_the_fence_too(two_chiefs):
    folder, old, new = two_chiefs
    better = selection.Evaluation(20, "validation", {"loss": 1.0, "accuracy": 0.9})
    kept = best.BestCheckpoint(folder / "best", "accuracy", old, DIGESTS)
    for use in (lambda: kept.offer(better, [], lambda: state(20)), lambda: kept.prune([], 0)):
        with pytest.raises(TakenOverError):
            use()
    best.BestCheckpoint(folder / "best", "accuracy", Unaware(old), DIGESTS).offer(
        better, [], lambda: state(20)
    )
    assert (
        checkpoint.newest_valid(folder / "best", fences=attempts.fences(folder), repair=False)
        is None
    )
    best.BestCheckpoint(folder / "best", "accuracy", new, DIGESTS).offer(
        better, [], lambda: state(20, salt=1)
    )
    found = checkpoint.newest_valid(folder / "best", fences=attempts.fences(folder), repair=False)
    assert (found.step, found.manifest["attempt"]) == (20, 2)


# --- with processes -------------------------------------------------------------------------------

FROZEN = """
import os, pathlib, signal, sys, threading
import numpy as np
from trainer.model_folder import checkpoint, lock

folder = pathlib.Path(sys.argv[1])
lock.BEAT_SECONDS, lock._boot = 0.1, lambda: "another host"

def state(step):
    return {"weights": np.full(3, step, np.float32), "step": np.int64(step)}

def freeze_first(*arguments):
    # Unlike os.kill, this stops this very thread before it returns.
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
    return replace(*arguments)

with lock.hold(folder) as held:
    held.began(0)
    with checkpoint.Writer(folder / "checkpoints", 1, held, "c", "d") as writer:
        writer.submit(10, state(10))
        writer.wait()
        replace, os.replace = os.replace, freeze_first
        writer.submit(20, state(20))
    print("saved")
"""


@pytest.mark.parametrize("repair", [False, True])
def test_a_chief_that_is_frozen_between_check_and_rename_and_taken_over_changes_nothing(
    tmp_path, monkeypatch, repair
):
    """repair: whether the next one has cleaned up before it goes on."""
    monkeypatch.setattr(lock, "SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.02)
    chief = subprocess.Popen(
        [sys.executable, "-c", FROZEN, str(tmp_path)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert os.WIFSTOPPED(os.waitpid(chief.pid, os.WUNTRACED)[1])
        with lock.hold(tmp_path) as held:
            found = checkpoint.newest_valid(
                tmp_path / "checkpoints", fences=held.fences, repair=repair, attempt=held.number
            )
            assert (held.number, found.step) == (2, 10)
            held.began(found.step)
            chief.send_signal(signal.SIGCONT)
            out, errors = chief.communicate(timeout=60)
            assert (
                "TakenOverError: attempt 1 no longer holds" in errors
                and "saved" not in out
                and chief.returncode == 1
            )
            # The rename did happen, unless there was nothing any more to rename.
            committed = {name for name in names(tmp_path / "checkpoints") if ".tmp" not in name}
            assert committed == {"step-00000010", *([] if repair else ["step-00000020"])}
            assert newest(tmp_path).step == 10
            manifest = commit(tmp_path, 20, held, salt=1)
            assert newest(tmp_path).manifest == manifest
            assert (
                json.loads((tmp_path / "checkpoints/step-00000020/MANIFEST.json").read_text())[
                    "attempt"
                ]
                == 2
            )
    finally:
        chief.kill()
        chief.wait()
