"""One run at a time in a model folder, and a new attempt number for each.

On one host the lock is the kernel's (flock on the attempt's file). It belongs to the open file of a
living process and is free the instant that its holder dies, however it dies. Between hosts, a flock
may be invisible, or may outlive a holder that is cut off. There, a holder counts as alive as long
as its record changes, which it does every few seconds.

No process can be sure that a silent holder is dead. So a takeover needs no answer from it: the new
holder creates the file of the next attempt. The old holder looks for that file before each commit
(`Hold.check`). If it was frozen after the check, every reader ignores its commit
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
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from trainer import durable
from trainer.exit_codes import FolderInUseError, StorageError, TakenOverError, UsageError
from trainer.model_folder import attempts

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
BEAT_SECONDS = 5
# After this silence a holder on another host is presumed dead. Storage may delay several beats.
SILENCE_SECONDS = 30

_held: set[int] = set()  # Descriptors of the locked files.


def _let_go_in_child() -> None:
    # A flock belongs to the open file, which a forked child shares. Without this, a child that
    # outlives its parent would keep the folder locked. Processes started by exec lose the
    # descriptor anyway (O_CLOEXEC).
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go_in_child)


@contextlib.contextmanager
def hold(
    model_dir: str | os.PathLike,
    *,
    wait_seconds: float = 30,
    abandon: Callable[[], bool] = lambda: False,
) -> Iterator["Held | None"]:
    """Holds `model_dir` during the block and yields the attempt.

    A missing folder is created. While another process holds the folder, this one waits up to
    `wait_seconds`. It waits longer only to learn whether a holder on another host that wrote a beat
    in this time falls silent for SILENCE_SECONDS. If `abandon()` becomes true during the wait, the
    folder is not held and None is yielded.

    Raises FolderInUseError with the holder after the wait, UsageError if `model_dir` cannot be a
    folder, StorageError if the file system refuses the lock.
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
        if held._descriptor in _held:  # A forked child has let go already.
            held._over.set()
            beating.join(BEAT_SECONDS)  # If storage hangs it may never end, but the process must.
            held._let_go()


class Hold(Protocol):
    """A process's hold on a model folder: all that checkpoints and evaluations need to know of it.

    number: of this attempt, from 1; 0 for a `Guest`. fences: the steps from which earlier attempts
    began, and after `began` also this one.
    """

    number: int
    fences: tuple[attempts.Fence, ...]

    def check(self) -> None:
        """Raises TakenOverError if a later attempt has taken the folder over.

        Raises OSError if that cannot be read.
        """

    def notice(self) -> None:
        """Raises TakenOverError if the heartbeat has found what `check` looks for; it is cheap."""

    def began(self, step: int) -> None:
        """Records that this attempt continues from `step`.

        When this returns, no reader accepts what earlier attempts commit beyond that step. To be
        called once, before the first commit. Raises as `check`.
        """


class Held(Hold):
    """The hold of the one process that writes to a model folder."""

    def __init__(self, model_dir: pathlib.Path, number: int, descriptor: int):
        self.number = number
        self._model_dir = model_dir
        self._descriptor = descriptor
        self._turn = threading.Lock()
        self._over = threading.Event()
        self._taken = threading.Event()
        self._record = {
            "attempt": number,
            **_here(),
            "pid": os.getpid(),
            "started": _now("seconds"),
            "beat": "",
        }
        self._beat()
        # Only then are the names of the file, its folder and the model folder durable. The last two
        # may have been made by a process that was killed before it could sync them.
        for folder in (attempts.folder(model_dir), model_dir, model_dir.absolute().parent):
            with contextlib.suppress(PermissionError):  # The parent may be another user's.
                durable.sync(folder)
        self.fences = attempts.fences(model_dir)

    def is_mine(self) -> bool:
        """Returns whether this is still the newest attempt in the folder.

        Raises OSError if that cannot be read.
        """
        known = attempts.numbers(self._model_dir)
        if not known or known[-1] != self.number:
            return False
        try:
            there = os.stat(attempts.path_of(self._model_dir, self.number))
        except FileNotFoundError:
            return False
        # If they differ, the folder was removed and created again.
        return os.path.samestat(there, os.fstat(self._descriptor))

    def notice(self) -> None:
        if self._taken.is_set():
            self.check()

    def check(self) -> None:
        if not durable.retried(attempts.folder(self._model_dir), self.is_mine):
            raise TakenOverError(
                f"attempt {self.number} no longer holds {self._model_dir}: "
                f"{_taker(self._model_dir, self.number)}; only the newest attempt counts, so this "
                "one stops here; the run continues there, or from its newest checkpoint"
            )

    def began(self, step: int) -> None:
        with self._turn:
            self._write({**self._record, "began": int(step), "fences": self.fences})
        # After writing, so that one of two attempts sees the other: either a later attempt has read
        # this fence, or this check finds its file.
        self.check()
        self.fences = attempts.outermost([*self.fences, attempts.Fence(self.number, int(step))])

    def _beat_until_over(self) -> None:
        # TensorFlow holds the GIL while it waits for peers, before the first step. Then there is no
        # beat, and a run on another host may take over. Nothing is lost, because an attempt that
        # has not begun has committed nothing.
        failed = False
        while not self._over.wait(BEAT_SECONDS):
            try:
                if not self.is_mine():
                    self._taken.set()
                    log.error(
                        "attempt %d stops after the current loop: %s",
                        self.number,
                        _taker(self._model_dir, self.number),
                    )
                    return
                self._beat()
                failed = False
            except OSError as problem:
                if not failed:
                    log.warning(
                        "the heartbeat in %s could not be written (%s): after %g s a run on "
                        "another host may take over",
                        attempts.folder(self._model_dir),
                        problem,
                        SILENCE_SECONDS,
                    )
                failed = True

    def _beat(self) -> None:
        with self._turn:
            if not self._over.is_set():  # Otherwise the descriptor may be another file's by now.
                self._write({**self._record, "beat": _now("milliseconds")})

    def _let_go(self) -> None:
        _held.discard(self._descriptor)
        if self._turn.acquire(timeout=BEAT_SECONDS):
            try:
                self._write({**self._record, "ended": _now("seconds")})
            except OSError as problem:
                log.warning(
                    "the lock in %s could not be marked as free (%s): a next run on another host "
                    "waits %g s",
                    attempts.folder(self._model_dir),
                    problem,
                    SILENCE_SECONDS,
                )
            # Unlike close, this frees it even if another process has the file open.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)

    def _write(self, record: Mapping[str, Any]) -> None:
        # A beat does not change the length, so no reader finds half of a line.
        line = (json.dumps(record) + "\n").encode()
        os.pwrite(self._descriptor, line, 0)
        os.ftruncate(self._descriptor, len(line))
        os.fsync(self._descriptor)
        self._record = record


class Guest(Hold):
    """The hold of a worker that is not the chief: it only reads, so it cannot be taken over."""

    number = 0
    fences = ()

    def check(self) -> None:
        pass

    def notice(self) -> None:
        pass

    def began(self, step: int) -> None:
        pass


# Waiting


def verdict(
    record: Mapping[str, Any], here: Mapping[str, str], locked: bool, silent_seconds: float
) -> str:
    """Returns whether the folder may be taken: "free", "held", or "listen" (free if silent).

    Args:
      record: of the newest attempt; {} if it is damaged or not yet written.
      here: {"host", "boot"} of this process.
      locked: whether a flock of another process is on the attempt's file.
      silent_seconds: how long that file has not changed.
    """
    if "ended" in record:
        return "free"
    if all(record.get(name) == value for name, value in here.items()):
        return "held" if locked else "free"
    return "free" if silent_seconds >= SILENCE_SECONDS else "listen"


def _acquire(
    model_dir: pathlib.Path, wait_seconds: float, abandon: Callable[[], bool]
) -> Held | None:
    """Returns the hold, or None if the wait was abandoned."""
    deadline, announced, heard, heard_at = None, False, None, None
    while True:
        # Silence lasts from after one look to before the next, so that a pause of this process does
        # not count as silence of the holder.
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
            continue  # Another process was first.
        if abandon():
            return None
        # A holder on another host is alive if it wrote a beat after the deadline. We wait for one.
        if looked_at >= deadline and (answer == "held" or heard_at >= deadline):
            raise FolderInUseError(
                f"{model_dir} is in use by {_name(record)}, still after {wait_seconds:g} s; only "
                "one run at a time may write to a model folder; stop that process, or choose "
                "another --model_dir"
            )
        if not announced:
            log.warning(
                "%s is in use by %s: waiting up to %g s", model_dir, _name(record), wait_seconds
            )
            announced = True
        time.sleep(POLL_SECONDS)


def _claim(model_dir: pathlib.Path, newest: int) -> Held | None:
    """Becomes the attempt that follows `newest`; returns None if another process was first."""
    number = 1 + max(newest, attempts.last_in_journal(model_dir))
    # After reading the journal: a still newer attempt might have written to it.
    if _newest(model_dir) != newest:
        return None
    path = attempts.path_of(model_dir, number)
    durable.make_folder(path.parent)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except (FileExistsError, FileNotFoundError):  # The latter if the folder was removed.
        return None
    try:
        # Before the record is written: a process that reads it may rely on the flock.
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


def _is_locked(model_dir: pathlib.Path, number: int) -> bool:
    """Returns whether a flock of another process on the attempt's file is visible here."""
    # Tested with a shared lock, which several processes can have at the same time.
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
def _opening(model_dir: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as problem:
        raise UsageError(
            f"--model_dir={model_dir} cannot be used ({problem}); it must be a folder, or a name "
            "that is still free; choose another --model_dir; a file named lock is of an earlier "
            "version of this program: delete it"
        ) from problem
    except OSError as problem:
        raise StorageError(
            f"{attempts.folder(model_dir)} cannot be locked: {problem}; the model folder must be "
            "writable, on a file system that supports flock; check permissions and free space, or "
            "choose another --model_dir"
        ) from problem


def _newest(model_dir: pathlib.Path) -> int:
    return max(attempts.numbers(model_dir), default=0)


def _here() -> dict[str, str]:
    """Returns what identifies this host: its name and the boot of its kernel."""
    # Two kernels with the same name (a pod that moved) do not see each other's flocks.
    return {"host": socket.gethostname(), "boot": _boot()}


def _boot() -> str:
    try:
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # Only Linux has it.
        return ""


def _now(precision: str) -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec=precision)


def _name(record: Mapping[str, Any]) -> str:
    if not record:
        return "another process"
    return (
        f"process {record['pid']} on {record['host']} since {record['started']} "
        f"(last heartbeat {record.get('beat')})"
    )


def _taker(model_dir: pathlib.Path, number: int) -> str:
    newest = _newest(model_dir)
    if newest <= number:
        return "its file in the folder was removed"
    record = attempts.parse(attempts.content(model_dir, newest))
    return f"attempt {newest}, {_name(record)}, took it over"
