"""One run at a time in a model folder, and a new attempt number for each.

The lock is the kernel's (flock): it belongs to the open file of a living process and is free the instant that its
holder dies, however it dies. The text in the lock file tells people and the next attempt who holds or held it; it
decides nothing.
"""

import contextlib
import datetime
import fcntl
import json
import logging
import os
import pathlib
import socket
import time

from trainer import journal
from trainer.exit_codes import FolderInUseError, StorageError, UsageError

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2

_held = set()


def _let_go_in_child():
    # flock belongs to the open file, which a forked child shares: without this a child that outlives its parent
    # would keep the folder locked. Processes started by exec lose the descriptor anyway (O_CLOEXEC).
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go_in_child)


@contextlib.contextmanager
def hold(model_dir, *, wait_seconds=30, abandon=lambda: False):
    """Holds MODEL_DIR/lock for the block and yields this attempt's number, an int from 1.

    The folder is made if it is not there. While another process holds the lock we wait up to `wait_seconds`; where
    `abandon()` turns true in between, nothing is held and None is yielded.
    Raises FolderInUseError naming the holder after that, UsageError where `model_dir` cannot be a folder, and
    StorageError where the file system refuses the lock.
    """
    path = pathlib.Path(model_dir) / "lock"
    descriptor = _acquire(path, wait_seconds, abandon)
    if descriptor is None:
        yield None
        return
    _held.add(descriptor)
    try:
        attempt = 1 + max(_recorded_attempt(descriptor), _journal_attempt(path.with_name("journal.jsonl")))
        _record(descriptor, attempt)
        yield attempt
    finally:
        if descriptor in _held:  # not in a forked child, which has let go already
            _held.discard(descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # unlike close, frees it even where somebody else has the file open
            os.close(descriptor)


def _acquire(path, wait_seconds, abandon):
    deadline = time.monotonic() + wait_seconds
    announced = False
    while True:
        descriptor = _try(path)
        if descriptor is not None:
            return descriptor
        if abandon():
            return None
        if time.monotonic() >= deadline:
            raise FolderInUseError(
                f"{path.parent} is in use by {_holder(path)}, still after {wait_seconds:g} s; one run at a time may "
                f"write to a model folder; stop that process, or choose another --model_dir")
        if not announced:
            log.warning("%s is in use by %s: waiting up to %g s", path.parent, _holder(path), wait_seconds)
            announced = True
        time.sleep(POLL_SECONDS)


def _try(path):
    """Returns the locked descriptor of `path`, or None while somebody else has it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as problem:
        raise UsageError(f"--model_dir={path.parent} cannot be used ({problem}); it must be a folder, or a name that "
                         f"is still free; choose another --model_dir") from problem
    except OSError as problem:
        raise StorageError(f"{path} cannot be opened: {problem}; the model folder must be writable; "
                           f"check permissions and free space, or choose another --model_dir") from problem
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Somebody may have removed the folder between open and flock: then the lock guards a file without a name.
        if os.path.exists(path) and os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except BlockingIOError:
        pass
    except OSError as problem:
        os.close(descriptor)
        raise StorageError(f"{path} cannot be locked: {problem}; the file system must support flock; "
                           f"choose a --model_dir on one that does") from problem
    os.close(descriptor)
    return None


def _record(descriptor, attempt):
    """Writes who holds the lock, as one line of JSON in one write."""
    started = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    record = {"attempt": attempt, "host": socket.gethostname(), "pid": os.getpid(), "started": started}
    line = (json.dumps(record) + "\n").encode()
    os.pwrite(descriptor, line, 0)
    os.ftruncate(descriptor, len(line))
    os.fsync(descriptor)


def _parse(text):
    """Returns the record in the first line of a lock file; {} where it cannot be read."""
    try:
        record = json.loads(text.split(b"\n")[0])
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _recorded_attempt(descriptor):
    return _number(_parse(os.pread(descriptor, 4096, 0)))


def _journal_attempt(path):
    # The journal also knows the last attempt: numbering goes on where the lock file was lost or damaged.
    return max((_number(entry) for entry in journal.read(path)), default=0)


def _number(record):
    attempt = record.get("attempt")
    return attempt if isinstance(attempt, int) else 0


def _holder(path):
    try:
        record = _parse(path.read_bytes())
    except OSError:
        record = {}
    if not {"pid", "host", "started"} <= set(record):
        return "another process"
    return f"process {record['pid']} on {record['host']} since {record['started']}"
