"""One holder of a model folder: on one host, on several hosts, through kills and freezes."""

import fcntl
import json
import os
import pathlib
import pkgutil
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from trainer.exit_codes import FolderInUseError, StorageError, TakenOverError, UsageError
from trainer.model_folder import attempts, lock
from trainer.model_folder.journal import Journal

ROOT = pathlib.Path(__file__).resolve().parents[2]
HOLDER = """
import os, subprocess, sys
from trainer.model_folder import lock
lock.BEAT_SECONDS = 0.1
lock._boot = lambda: sys.argv[2]
with lock.hold(sys.argv[1]) as held:
    {extra}
    print(held.number, flush=True)
    sys.stdin.read()
    held.check()
"""


@pytest.fixture
def start_holder(tmp_path):
    """Starts a process that holds tmp_path/model until its stdin is closed."""
    started = []

    def start(extra="pass", boot=None):
        program = HOLDER.format(extra=extra)
        boot = lock._boot() if boot is None else boot
        command = [sys.executable, "-c", program, str(tmp_path / "model"), boot]
        holder = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(holder)
        holder.words = holder.stdout.readline().split()
        return holder

    yield start
    for holder in started:
        holder.kill()
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()
        holder.stderr.close()


def test_each_attempt_gets_the_next_number(tmp_path):
    for expected in (1, 2, 3):
        with lock.hold(tmp_path / "new" / "model") as held:
            assert held.number == expected


def record_of(number, folder):
    return attempts.parse(attempts.content(folder, number))


def write_attempt(folder, number, **fields):
    """Writes the record of a process on another host; returns it."""
    record = {
        "attempt": number,
        "host": "other",
        "boot": "other",
        "pid": 1,
        "started": "now",
        "beat": "now",
        **fields,
    }
    attempts.folder(folder).mkdir(exist_ok=True)
    attempts.path_of(folder, number).write_text(json.dumps(record))
    return record


def test_the_file_of_an_attempt_identifies_its_process(tmp_path):
    with lock.hold(tmp_path):
        record = json.loads((tmp_path / "lock" / "00000001").read_text())
    for time_of in ("started", "beat"):
        assert record.pop(time_of).endswith("+00:00")
    assert record == {
        "attempt": 1,
        "host": socket.gethostname(),
        "boot": lock._boot(),
        "pid": os.getpid(),
    }


def lose(path):
    path.unlink()


def empty(path):
    path.write_bytes(b"")


def fill_with_garbage(path):
    path.write_bytes(b"\xff\x00garbage" * 100)


@pytest.mark.parametrize("damage", [lose, empty, fill_with_garbage])
def test_numbers_and_fences_survive_a_lost_or_damaged_record(tmp_path, monkeypatch, damage):
    # The host that wrote the record is not known: it may be another one.
    monkeypatch.setattr(lock, "SILENCE_SECONDS", 0.1)
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.02)
    Journal(tmp_path / "journal.jsonl", attempt=5).write("start", step=20)
    with lock.hold(tmp_path) as held:
        held.began(30)
        Journal(tmp_path / "journal.jsonl", attempt=6).write("start", step=30)
    damage(tmp_path / "lock" / "00000006")
    assert attempts.fences(tmp_path) == ((5, 20), (6, 30))
    with lock.hold(tmp_path) as held:
        assert held.number == 7
        assert held.fences == ((5, 20), (6, 30))


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
    with lock.hold(tmp_path / "model", wait_seconds=0) as held:
        assert held.number == 2


def test_waiting_ends_when_the_holder_leaves(tmp_path, start_holder, monkeypatch):
    holder = start_holder()

    def sleep(seconds):
        holder.stdin.close()
        holder.wait()

    monkeypatch.setattr("trainer.model_folder.lock.time.sleep", sleep)
    with lock.hold(tmp_path / "model", wait_seconds=60) as held:
        assert held.number == 2


def test_a_wait_can_be_abandoned(tmp_path, start_holder):
    start_holder()
    with lock.hold(tmp_path / "model", wait_seconds=60, abandon=lambda: True) as held:
        assert held is None


@pytest.mark.parametrize(
    "child",
    [
        "ready, write = os.pipe()\n    child = os.fork()\n"
        "    if child == 0: os.close(1); os.write(write, b'.'); import time; time.sleep(60); "
        "os._exit(0)\n"
        "    os.read(ready, 1)",
        "child = subprocess.Popen(['sleep', '60'], stdin=subprocess.DEVNULL, "
        "stdout=subprocess.DEVNULL, close_fds=False).pid",
    ],
    ids=["forked", "spawned"],
)
def test_a_child_that_outlives_the_holder_does_not_hold_the_lock(tmp_path, start_holder, child):
    holder = start_holder(child + "\n    print(child, end=' ')")
    orphan = int(holder.words[0])
    try:
        holder.kill()
        holder.wait()
        os.kill(orphan, 0)  # It is still alive.
        with lock.hold(tmp_path / "model", wait_seconds=0) as held:
            assert held.number == 2
    finally:
        os.kill(orphan, signal.SIGKILL)


def test_a_forked_child_leaves_the_block_quietly_and_frees_nothing(tmp_path):
    script = (
        "import fcntl, os, sys\n"
        "from trainer.model_folder import lock\n"
        "with lock.hold(sys.argv[1]):\n"
        "    child = os.fork()\n"
        "    if child:\n"
        "        assert os.waitpid(child, 0)[1] == 0\n"
        "        try: fcntl.flock(os.open(sys.argv[1] + '/lock/00000001', os.O_RDWR), "
        "fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "        except BlockingIOError: print('still locked')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("still locked\n", "")


def test_the_lock_is_free_after_the_block_even_if_another_descriptor_is_open(tmp_path):
    with lock.hold(tmp_path):
        (descriptor,) = lock._held
        copy = os.dup(descriptor)
    with lock.hold(tmp_path, wait_seconds=0) as held:
        assert held.number == 2
    os.close(copy)


def test_a_folder_that_is_removed_during_locking_is_locked_again(tmp_path, monkeypatch):
    flock, doomed = fcntl.flock, [tmp_path / "lock"]

    def remove_first(descriptor, operation):
        for path in doomed:
            shutil.rmtree(path)
        doomed.clear()
        flock(descriptor, operation)

    monkeypatch.setattr("trainer.model_folder.lock.fcntl.flock", remove_first)
    with lock.hold(tmp_path) as held:
        assert held.is_mine() and (tmp_path / "lock" / "00000001").exists()


def test_a_folder_that_is_removed_under_a_live_holder_is_locked_again(tmp_path, start_holder):
    holder = start_holder()
    shutil.rmtree(tmp_path / "model")
    with lock.hold(tmp_path / "model", wait_seconds=0):
        holder.stdin.close()  # Then it checks.
        assert "TakenOverError: attempt 1 no longer holds" in holder.stderr.read()


def test_a_model_dir_that_is_a_file_is_a_usage_error(tmp_path):
    (tmp_path / "model").write_text("")
    with pytest.raises(UsageError, match="model_dir"):
        with lock.hold(tmp_path / "model"):
            pass


def test_the_lock_file_of_an_earlier_version_is_a_usage_error_with_the_remedy(tmp_path):
    (tmp_path / "lock").write_text('{"attempt": 3}')
    assert attempts.fences(tmp_path) == ()
    with pytest.raises(UsageError, match="/lock'.*earlier version of this program: delete it"):
        with lock.hold(tmp_path):
            pass


def test_a_file_system_without_locks_is_a_storage_error(tmp_path, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("trainer.model_folder.lock.fcntl.flock", refuse)
    with pytest.raises(StorageError, match="not supported"):
        with lock.hold(tmp_path):
            pass


# --- holders on other hosts: their kernels have another boot id -----------------------------------

HERE = {"host": "a", "boot": "1"}


@pytest.mark.parametrize(
    "record, locked, silent_seconds, expected",
    [
        ({"host": "a", "boot": "1"}, False, 0, "free"),  # The kernel freed its lock: it is dead.
        ({"host": "a", "boot": "1"}, True, 0, "held"),
        ({"host": "a", "boot": "1"}, True, 999, "held"),  # Frozen, but alive.
        (
            {"host": "b", "boot": "2"},
            False,
            0,
            "listen",
        ),  # A flock on another host may be invisible here.
        ({"host": "b", "boot": "2"}, False, 29.9, "listen"),
        ({"host": "b", "boot": "2"}, False, 30, "free"),
        ({"host": "b", "boot": "2"}, True, 29.9, "listen"),
        (
            {"host": "b", "boot": "2"},
            True,
            30,
            "free",
        ),  # Cut off or frozen, but it still has the flock.
        # A pod of the same name on another node, or a host after a restart.
        ({"host": "a", "boot": "2"}, False, 0, "listen"),
        # Two containers on one kernel may have mounts of their own.
        ({"host": "b", "boot": "1"}, False, 0, "listen"),
        ({"host": "b", "boot": "2", "ended": "yesterday"}, False, 0, "free"),
        ({"host": "a", "boot": "1", "ended": "just now"}, True, 0, "free"),
        ({}, False, 0, "listen"),
        ({}, True, 0, "listen"),
        ({}, True, 30, "free"),
    ],
)
def test_when_a_folder_is_free(record, locked, silent_seconds, expected):
    assert lock.verdict(record, HERE, locked, silent_seconds) == expected


@pytest.fixture
def impatient(monkeypatch):
    """Soon takes over a silent holder. Not for tests in which it beats: a busy machine is late."""
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(lock, "SILENCE_SECONDS", 0.3)


def test_a_holder_on_another_host_that_beats_keeps_others_out(tmp_path, start_holder):
    holder = start_holder(boot="another")
    with pytest.raises(
        FolderInUseError, match=f"process {holder.pid} on {socket.gethostname()} since"
    ):
        with lock.hold(tmp_path / "model", wait_seconds=0.5):
            pass


def test_a_holder_on_another_host_that_left_is_free_at_once(tmp_path, start_holder):
    holder = start_holder(boot="another")
    holder.stdin.close()
    holder.wait()
    with lock.hold(tmp_path / "model", wait_seconds=0) as held:
        assert held.number == 2


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])  # Frozen, it keeps its flock.
def test_a_holder_on_another_host_that_falls_silent_is_taken_over_and_stops(
    tmp_path, start_holder, impatient, end
):
    holder = start_holder(boot="another")
    holder.send_signal(end)
    # After the wait it listens for a beat.
    with lock.hold(tmp_path / "model", wait_seconds=0.05) as held:
        assert held.number == 2
        if end == signal.SIGSTOP:
            holder.send_signal(signal.SIGCONT)
            holder.stdin.close()  # Then it checks.
            assert (
                f"TakenOverError: attempt 1 no longer holds {tmp_path / 'model'}: attempt 2, "
                f"process {os.getpid()} on" in holder.stderr.read()
            )
        held.check()


@pytest.mark.parametrize(
    "looks",
    [
        [(60, 0, 1), (0, 0, 1)],  # Frozen between looking at the clock and at the file.
        [(0, 0, 1), (0, 60, 1)],  # Frozen after looking at the file.
    ],
    ids=["before a look", "after a look"],
)
def test_a_pause_of_this_process_is_not_silence_of_the_holder(tmp_path, monkeypatch, looks):
    """looks: (seconds before, seconds after, beat) of each; later looks find a new beat."""
    record = write_attempt(tmp_path, 1)
    clock, looks, after = [100.0], iter(looks), []

    def look(*arguments):
        pause, pause_after, beat = next(looks, (1, 0, clock[0]))
        clock[0] += pause
        after.append(pause_after)
        return json.dumps({**record, "beat": beat}).encode()

    def pass_time(*arguments):
        clock[0] += after[-1]
        return False

    monkeypatch.setattr(attempts, "content", look)
    monkeypatch.setattr(lock, "_is_locked", pass_time)
    monkeypatch.setattr("trainer.model_folder.lock.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("trainer.model_folder.lock.time.sleep", lambda seconds: None)
    with pytest.raises(FolderInUseError):
        with lock.hold(tmp_path, wait_seconds=10):
            pass


def test_a_frozen_holder_on_this_host_is_not_taken_over(tmp_path, start_holder, impatient):
    holder = start_holder()
    holder.send_signal(signal.SIGSTOP)
    with pytest.raises(FolderInUseError, match=f"process {holder.pid}"):
        with lock.hold(tmp_path / "model", wait_seconds=0.5):
            pass


CONTENDER = """
import os, sys
from trainer.model_folder import lock
lock.BEAT_SECONDS, lock.POLL_SECONDS = 0.1, 0.01
lock._boot = lambda: sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
try:
    with lock.hold(sys.argv[1], wait_seconds=0.3) as held:
        print(held.number, flush=True)
        sys.stdin.read()
        held.check()
except lock.FolderInUseError:
    print("in use", flush=True)
"""


@pytest.mark.parametrize(
    "boots", [("a", "a", "a"), ("a", "b", "c")], ids=["on one host", "on three hosts"]
)
def test_one_of_several_processes_that_start_together_gets_the_folder(tmp_path, boots):
    write_attempt(tmp_path, 4, ended="then")
    contenders = [
        subprocess.Popen(
            [sys.executable, "-c", CONTENDER, str(tmp_path), boot],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for boot in boots
    ]
    try:
        for contender in contenders:
            assert contender.stdout.readline() == "ready\n"
        for contender in contenders:
            contender.stdin.write("go\n")
            contender.stdin.flush()
        words = [contender.stdout.readline().strip() for contender in contenders]
        assert sorted(words) == ["5", "in use", "in use"]
        for contender in contenders:
            contender.stdin.close()
            assert contender.wait() == 0  # The holder still holds it.
    finally:
        for contender in contenders:
            contender.kill()
            contender.wait()
            contender.stdout.close()
    assert attempts.numbers(tmp_path) == [4, 5]


@pytest.mark.parametrize(
    "moment, number",
    [
        (
            "trainer.model_folder.attempts.last_in_journal",
            1,
        ),  # Before this process knows its number ...
        ("trainer.model_folder.attempts.path_of", 1),  # ... after that ...
        # ... and after a freeze so long that its empty file counted as that of a dead process.
        ("trainer.model_folder.lock.fcntl.flock", 2),
    ],
)
def test_the_process_that_comes_second_waits(tmp_path, monkeypatch, moment, number):
    """Another process takes the free folder at the call of `moment`."""
    original = pkgutil.resolve_name(moment)
    calls = []

    def meanwhile(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            write_attempt(tmp_path, number)
            Journal(tmp_path / "journal.jsonl", attempt=number).write("start", step=0)
        return original(*arguments)

    monkeypatch.setattr(moment, meanwhile)
    with pytest.raises(FolderInUseError, match="process 1 on other"):
        with lock.hold(tmp_path, wait_seconds=0):
            pass
    assert attempts.numbers(tmp_path)[-1] == number


def test_a_process_that_only_looks_is_not_a_holder(tmp_path):
    with lock.hold(tmp_path):
        pass
    path = attempts.path_of(tmp_path, 1)
    record = attempts.parse(path.read_bytes())
    del record["ended"]  # It was killed.
    path.write_text(json.dumps(record))
    with open(path) as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        with lock.hold(tmp_path, wait_seconds=0) as held:
            assert held.number == 2


def test_the_heart_beats_while_the_folder_is_held_and_stops_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)

    def beats():
        return {thread.name for thread in threading.enumerate()} & {"heartbeat"}

    with lock.hold(tmp_path):
        first = record_of(1, tmp_path)["beat"]
        deadline = time.monotonic() + 30
        while record_of(1, tmp_path)["beat"] == first:
            assert time.monotonic() < deadline
        assert beats()
    assert not beats()
    assert (
        record_of(1, tmp_path)["ended"]
        and (tmp_path / "lock" / "00000001").read_text().count("\n") == 1
    )


def test_the_heart_beats_again_after_storage_failed(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    with lock.hold(tmp_path):
        fsync, failures, succeeded = os.fsync, [], threading.Event()

        def fail_twice(descriptor):
            if len(failures) < 2:
                failures.append(descriptor)
                raise OSError(5, "Input/output error")
            fsync(descriptor)
            succeeded.set()

        monkeypatch.setattr("trainer.model_folder.lock.os.fsync", fail_twice)
        assert succeeded.wait(30)
    assert caplog.text.count("heartbeat") == 1 and "Input/output error" in caplog.text


def test_an_error_ends_the_process_although_its_heart_beats():
    script = (
        "import sys, tempfile\nfrom trainer.model_folder import lock\n"
        "block = lock.hold(tempfile.mkdtemp())\nblock.__enter__()\nraise SystemExit(7)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=60).returncode == 7


# --- fences ---------------------------------------------------------------------------------------


def test_an_attempt_that_began_fences_the_earlier_ones(tmp_path):
    for step, expected in ((0, ((1, 0),)), (30, ((1, 0), (2, 30))), (20, ((1, 0), (3, 20)))):
        with lock.hold(tmp_path) as held:
            before = held.fences
            assert attempts.fences(tmp_path) == before  # It has not begun yet.
            held.began(step)
            assert held.fences == attempts.fences(tmp_path) == expected
    with lock.hold(tmp_path) as held:  # It is killed before it begins.
        pass
    assert attempts.fences(tmp_path) == expected


def test_an_attempt_that_was_taken_over_cannot_begin_and_leaves_no_fence(tmp_path):
    with lock.hold(tmp_path) as held:
        write_attempt(tmp_path, 2, began=20)
        assert not held.is_mine()
        with pytest.raises(
            TakenOverError, match="attempt 2, process 1 on other since now"
        ) as raised:
            held.began(10)
        assert raised.value.code == 75
    assert attempts.fences(tmp_path) == ((2, 20),)


def test_the_heart_stops_after_a_takeover(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    with lock.hold(tmp_path) as held:
        (heart,) = (thread for thread in threading.enumerate() if thread.name == "heartbeat")
        held.notice()
        write_attempt(tmp_path, 2, began=20)
        heart.join(30)
        assert not heart.is_alive()
        with pytest.raises(TakenOverError, match="attempt 2, process 1 on other since now"):
            held.notice()
    assert "attempt 1 stops after the current loop: attempt 2" in caplog.text


def test_the_lock_needs_neither_tensorflow_nor_numpy():
    script = (
        "import sys, trainer.model_folder.lock\n"
        "sys.exit('tensorflow' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0
