import fcntl
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from trainer import lock
from trainer.exit_codes import FolderInUseError, StorageError, UsageError
from trainer.journal import Journal

ROOT = pathlib.Path(__file__).resolve().parents[1]
HOLDER = """
import os, subprocess, sys
from trainer import lock
with lock.hold(sys.argv[1]) as attempt:
    {extra}
    print(attempt, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def start_holder(tmp_path):
    """Starts a process that holds tmp_path/model until its stdin is closed; returns it when it holds."""
    started = []

    def start(extra="pass"):
        command = [sys.executable, "-c", HOLDER.format(extra=extra), str(tmp_path / "model")]
        holder = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(holder)
        holder.words = holder.stdout.readline().split()
        return holder

    yield start
    for holder in started:
        holder.kill()
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()


def test_each_attempt_gets_the_next_number(tmp_path):
    for expected in (1, 2, 3):
        with lock.hold(tmp_path / "new" / "model") as attempt:
            assert attempt == expected


def test_the_lock_file_says_who_holds_it(tmp_path):
    with lock.hold(tmp_path):
        record = json.loads((tmp_path / "lock").read_text())
    assert record.pop("started").endswith("+00:00")
    assert record == {"attempt": 1, "host": socket.gethostname(), "pid": os.getpid()}


@pytest.mark.parametrize("damage", [
    lambda path: path.unlink(),
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(b"\xff\x00garbage" * 100),
    lambda path: path.write_text('["a list"]'),
    lambda path: path.write_text('{"attempt": "many"}'),
])
def test_numbering_goes_on_when_the_lock_file_is_lost_or_damaged(tmp_path, damage):
    with lock.hold(tmp_path):
        Journal(tmp_path / "journal.jsonl", attempt=6).write("start")
    damage(tmp_path / "lock")
    with lock.hold(tmp_path) as attempt:
        assert attempt == 7


def test_a_live_holder_keeps_others_out_and_is_named(tmp_path, start_holder):
    holder = start_holder()
    with pytest.raises(FolderInUseError) as raised:
        with lock.hold(tmp_path / "model", wait_seconds=0):
            pass
    assert raised.value.code == 5
    for part in (f"process {holder.pid}", socket.gethostname(), "since 20", "--model_dir"):
        assert part in str(raised.value)


def test_a_second_run_in_the_same_process_is_kept_out(tmp_path):
    with lock.hold(tmp_path), pytest.raises(FolderInUseError):
        with lock.hold(tmp_path, wait_seconds=0):
            pass


def test_the_lock_of_a_killed_holder_is_free_at_once(tmp_path, start_holder):
    holder = start_holder()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with lock.hold(tmp_path / "model", wait_seconds=0) as attempt:
        assert attempt == 2


def test_waiting_ends_when_the_holder_leaves(tmp_path, start_holder, monkeypatch):
    holder = start_holder()

    def sleep(seconds):
        holder.stdin.close()
        holder.wait()

    monkeypatch.setattr("trainer.lock.time.sleep", sleep)
    with lock.hold(tmp_path / "model", wait_seconds=60) as attempt:
        assert attempt == 2


def test_a_wait_can_be_abandoned(tmp_path, start_holder):
    start_holder()
    with lock.hold(tmp_path / "model", wait_seconds=60, abandon=lambda: True) as attempt:
        assert attempt is None


@pytest.mark.parametrize("child", [
    "ready, told = os.pipe()\n    child = os.fork()\n"
    "    if child == 0: os.close(1); os.write(told, b'.'); import time; time.sleep(60); os._exit(0)\n"
    "    os.read(ready, 1)",
    "child = subprocess.Popen(['sleep', '60'], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,"
    " close_fds=False).pid",
], ids=["forked", "spawned"])
def test_a_child_that_outlives_the_holder_does_not_hold_the_lock(tmp_path, start_holder, child):
    holder = start_holder(child + "\n    print(child, end=' ')")
    orphan = int(holder.words[0])
    try:
        holder.kill()
        holder.wait()
        os.kill(orphan, 0)  # it is still there
        with lock.hold(tmp_path / "model", wait_seconds=0) as attempt:
            assert attempt == 2
    finally:
        os.kill(orphan, signal.SIGKILL)


def test_a_forked_child_leaves_the_block_quietly_and_frees_nothing(tmp_path):
    script = ("import fcntl, os, sys\n"
              "from trainer import lock\n"
              "with lock.hold(sys.argv[1]):\n"
              "    child = os.fork()\n"
              "    if child:\n"
              "        assert os.waitpid(child, 0)[1] == 0\n"
              "        try: fcntl.flock(os.open(sys.argv[1] + '/lock', os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
              "        except BlockingIOError: print('still locked')\n")
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("still locked\n", "")


def test_the_lock_is_free_after_the_block_even_where_somebody_has_the_file_open(tmp_path):
    with lock.hold(tmp_path):
        (descriptor,) = lock._held
        copy = os.dup(descriptor)
    with lock.hold(tmp_path, wait_seconds=0) as attempt:
        assert attempt == 2
    os.close(copy)


def test_a_lock_file_that_vanishes_while_we_lock_it_is_locked_anew(tmp_path, monkeypatch):
    flock, vanishing = fcntl.flock, [tmp_path / "lock"]

    def vanish_first(descriptor, operation):
        for path in vanishing:
            path.unlink()
        vanishing.clear()
        flock(descriptor, operation)

    monkeypatch.setattr("trainer.lock.fcntl.flock", vanish_first)
    with lock.hold(tmp_path):
        assert (tmp_path / "lock").exists()


def test_a_folder_that_was_removed_under_a_live_holder_is_locked_anew(tmp_path, start_holder):
    start_holder()
    shutil.rmtree(tmp_path / "model")
    with lock.hold(tmp_path / "model", wait_seconds=0):
        pass


def test_a_model_dir_that_is_a_file_is_a_usage_error(tmp_path):
    (tmp_path / "model").write_text("")
    with pytest.raises(UsageError, match="model_dir"):
        with lock.hold(tmp_path / "model"):
            pass


def test_a_file_system_without_locks_is_a_storage_error(tmp_path, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(95, "Operation not supported")
    monkeypatch.setattr("trainer.lock.fcntl.flock", refuse)
    with pytest.raises(StorageError, match="not supported"):
        with lock.hold(tmp_path):
            pass


def test_the_lock_needs_no_tensorflow():
    script = "import sys, trainer.lock; sys.exit('tensorflow' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0
