"""One run at a time in a model folder, and a new attempt number for each.

On one host the lock is the kernel's (flock on the attempt's file): it belongs to the open file of a
living process and is free the instant that its holder dies, however it dies. Between hosts a flock
may say nothing, or outlive a holder that is cut off: there a holder counts as alive as long as its
record changes, which it does every few seconds.

Nobody can be sure that a silent holder is dead. It is therefore not asked to give anything back:
who takes over makes the next attempt's file, and whatever the old holder still does is checked
against that (`Held.check`) and, where it was frozen after the check, left out by every reader
(`attempts.Fence`).
"""

import contextlib
import datetime
import fcntl
import json
import logging
import os
import pathlib
import socket
import threading
import time

from trainer import durable
from trainer.exit_codes import FolderInUseError, StorageError, TakenOverError, UsageError
from trainer.model_folder import attempts

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
BEAT_SECONDS = 5
# After which a holder on another host is given up: several beats, each of which storage may delay.
SILENCE_SECONDS = 30

_held = set()


def _let_go_in_child():
    # flock belongs to the open file, which a forked child shares: without this a child that
    # outlives its parent would keep the folder locked. Processes started by exec lose the
    # descriptor anyway (O_CLOEXEC).
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go_in_child)


@contextlib.contextmanager
def hold(model_dir, *, wait_seconds=30, abandon=lambda: False):
    """Holds `model_dir` for the block and yields the attempt, a `Held`.

    The folder is made if it is not there. While another process holds it we wait up to
    `wait_seconds`, and longer only to learn whether a holder on another host, last heard of
    meanwhile, falls silent for SILENCE_SECONDS. Where `abandon()` turns true in between, nothing is
    held and None is yielded. Raises FolderInUseError naming the holder after that, UsageError where
    `model_dir` cannot be a folder, and StorageError where the file system refuses the lock.
    """
    model_dir = pathlib.Path(model_dir)
    with _opening(model_dir):
        held = _acquire(model_dir, wait_seconds, abandon)
    if held is None:
        yield None
        return
    beating = threading.Thread(target=held._beat_until_over, name="heartbeat", daemon=True)
    beating.start()
    try:
        yield held
    finally:
        if held._descriptor in _held:  # not in a forked child, which has let go already
            held._over.set()
            beating.join(BEAT_SECONDS)  # Where storage hangs it may never end; the process must.
            held._let_go()


class Held:
    """A model folder in the hands of one attempt.

    number: of this attempt, an int from 1. fences: where earlier attempts began, and after `began`
    this one.
    """

    def __init__(self, model_dir, number, descriptor):
        self.number = number
        self._model_dir = model_dir
        self._descriptor = descriptor
        self._turn = threading.Lock()
        self._over = threading.Event()
        self._record = {
            "attempt": number,
            **_here(),
            "pid": os.getpid(),
            "started": _now("seconds"),
            "beat": "",
        }
        self._beat()
        durable.sync(attempts.folder(model_dir))  # Only then is the name of the file durable.
        self.fences = attempts.fences(model_dir)

    def is_mine(self):
        """Whether this is still the newest attempt in the folder. Raises OSError where that cannot
        be read.
        """
        known = attempts.numbers(self._model_dir)
        if not known or known[-1] != self.number:
            return False
        try:
            there = os.stat(attempts.path_of(self._model_dir, self.number))
        except FileNotFoundError:
            return False
        # Else the folder was removed and made anew.
        return os.path.samestat(there, os.fstat(self._descriptor))

    def check(self):
        """Raises TakenOverError where this is not the newest attempt any more, OSError where that
        cannot be read.
        """
        if not self.is_mine():
            raise TakenOverError(
                f"attempt {self.number} no longer holds {self._model_dir}: "
                f"{_taker(self._model_dir, self.number)}; only the newest "
                "attempt counts, so this one stops here; the run goes on there, or from its "
                "newest checkpoint"
            )

    def began(self, step):
        """Records that this attempt goes on from `step`: when this returns, no reader takes what
        earlier ones commit beyond.

        To be called once, before the first commit. Raises as `check`.
        """
        with self._turn:
            self._write({**self._record, "began": int(step), "fences": self.fences})
        # After writing, so that of two attempts one sees the other: a successor has read this
        # fence, or we see its file.
        self.check()
        self.fences = attempts.outermost([*self.fences, attempts.Fence(self.number, int(step))])

    def _beat_until_over(self):
        # TensorFlow holds the GIL while it waits for peers, before the first step: then there is no
        # beat, and a run on another host may take over. Nothing is lost by that: what has not begun
        # has committed nothing.
        failed = False
        while not self._over.wait(BEAT_SECONDS):
            try:
                if not self.is_mine():
                    log.error(
                        "attempt %d stops at its next save: %s",
                        self.number,
                        _taker(self._model_dir, self.number),
                    )
                    return
                self._beat()
                failed = False
            except OSError as problem:
                if not failed:
                    log.warning(
                        "the heartbeat in %s could not be written (%s): after %g s of this a run "
                        "on another host may take "
                        "over",
                        attempts.folder(self._model_dir),
                        problem,
                        SILENCE_SECONDS,
                    )
                failed = True

    def _beat(self):
        with self._turn:
            if not self._over.is_set():  # else the descriptor may be another file's by now
                self._write({**self._record, "beat": _now("milliseconds")})

    def _let_go(self):
        _held.discard(self._descriptor)
        if self._turn.acquire(timeout=BEAT_SECONDS):
            try:
                self._write({**self._record, "ended": _now("seconds")})
            except OSError as problem:
                log.warning(
                    "the lock in %s could not be marked as free (%s): on another host the next run "
                    "waits %g s",
                    attempts.folder(self._model_dir),
                    problem,
                    SILENCE_SECONDS,
                )
            # unlike close, frees it even where somebody else has the file open
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)

    def _write(self, record):
        """Writes the record as one line of JSON. A beat changes no length: a reader never meets
        half of one.
        """
        line = (json.dumps(record) + "\n").encode()
        os.pwrite(self._descriptor, line, 0)
        os.ftruncate(self._descriptor, len(line))
        os.fsync(self._descriptor)
        self._record = record


class Guest:
    """What a worker that is not the chief has of the model folder: it reads there and holds nothing
    that could be taken.
    """

    number = 0

    def check(self):
        pass

    def began(self, step):
        pass


# Waiting


def verdict(record, here, locked, silent_seconds):
    """Returns whether the newest attempt's folder may be taken: "free", "held", or "listen" (held
    unless it falls silent).

    record: of that attempt, {} where it is damaged or not yet written. here: {"host", "boot"} of
    this process. locked: whether somebody's flock is on its file. silent_seconds: for how long its
    file has not changed.
    """
    if "ended" in record:
        return "free"
    if all(record.get(name) == value for name, value in here.items()):
        return "held" if locked else "free"
    return "free" if silent_seconds >= SILENCE_SECONDS else "listen"


def _acquire(model_dir, wait_seconds, abandon):
    """Returns a Held, or None where abandoned."""
    deadline, announced, heard, heard_at = None, False, None, None
    while True:
        # A pause of this very process must not count as silence of the holder: the time from after
        # a look to before one.
        looked_at = time.monotonic()
        newest = _newest(model_dir)
        content = attempts.content(model_dir, newest)
        if heard != (newest, content):
            heard, heard_at = (newest, content), time.monotonic()
            deadline = deadline or heard_at + wait_seconds
        record = attempts.parse(content)
        answer = (
            verdict(record, _here(), _is_locked(model_dir, newest), looked_at - heard_at)
            if newest
            else "free"
        )
        if answer == "free":
            if held := _claim(model_dir, newest):
                return held
            continue  # somebody else was first
        if abandon():
            return None
        # A holder that was heard of since the deadline is alive; to learn that of one on another
        # host we wait for a beat.
        if looked_at >= deadline and (answer == "held" or heard_at >= deadline):
            raise FolderInUseError(
                f"{model_dir} is in use by {_name(record)}, still after {wait_seconds:g} s; one "
                "run at a time may "
                f"write to a model folder; stop that process, or choose another --model_dir"
            )
        if not announced:
            log.warning(
                "%s is in use by %s: waiting up to %g s", model_dir, _name(record), wait_seconds
            )
            announced = True
        time.sleep(POLL_SECONDS)


def _claim(model_dir, newest):
    """Becomes the attempt that follows `newest`; returns None where another process was first."""
    number = 1 + max(newest, attempts.last_in_journal(model_dir))
    # After reading the journal, where a still newer attempt might have written.
    if _newest(model_dir) != newest:
        return None
    path = attempts.path_of(model_dir, number)
    durable.make_folder(path.parent)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except (FileExistsError, FileNotFoundError):  # The latter where somebody removes the folder.
        return None
    try:
        # Before the record is there: who reads it may believe the flock.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        held = Held(model_dir, number, descriptor)
        if held.is_mine():
            _held.add(descriptor)
            return held
    except FileNotFoundError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _is_locked(model_dir, number):
    """Whether somebody's flock on the attempt's file reaches us. Asked with a shared one, which
    those who ask can all have.
    """
    try:
        descriptor = os.open(attempts.path_of(model_dir, number), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _opening(model_dir):
    try:
        yield
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as problem:
        raise UsageError(
            f"--model_dir={model_dir} cannot be used ({problem}); it must be a folder, or a name "
            "that is still free; "
            "choose another --model_dir; a file named lock is of an earlier version of this "
            "program: delete it"
        ) from problem
    except OSError as problem:
        raise StorageError(
            f"{attempts.folder(model_dir)} cannot be locked: {problem}; the model folder must be "
            "writable, on a file "
            "system that supports flock; check permissions and free space, or choose another "
            "--model_dir"
        ) from problem


def _newest(model_dir):
    return max(attempts.numbers(model_dir), default=0)


def _here():
    """What tells this host from others: two kernels with one name (a pod that moved) do not see
    each other's flocks.
    """
    return {"host": socket.gethostname(), "boot": _boot()}


def _boot():
    try:
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not on Linux
        return ""


def _now(precision):
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec=precision)


def _name(record):
    if not record:
        return "another process"
    return f"process {record['pid']} on {record['host']} since {record['started']} (last heartbeat {record.get('beat')})"


def _taker(model_dir, number):
    newest = _newest(model_dir)
    if newest <= number:
        return "its file in the folder was removed"
    return f"attempt {newest}, {_name(attempts.parse(attempts.content(model_dir, newest)))}, took it over"
