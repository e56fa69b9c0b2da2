"""Files and folders that exist complete or not at all, and survive a loss of power.

A name is durable only after the folder that contains it was synced. So the order is always the
same: write, sync the content, rename, sync the parent. For the rules see
https://lwn.net/Articles/457667, fsync(2) and rename(2).
"""

import contextlib
import errno
import fcntl
import glob
import hashlib
import logging
import os
import pathlib
import shutil
import socket
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from typing import BinaryIO, TypeVar

log = logging.getLogger(__name__)

RETRY_PAUSES = (0.5, 1.0, 2.0, 4.0)  # Seconds; a write may delay a stop by their sum.
# What storage answers that may answer otherwise a moment later.
_TRANSIENT = {
    getattr(errno, name)
    for name in """
        EIO EREMOTEIO ESTALE EAGAIN EINTR ETIMEDOUT EBUSY ENOLCK ENOSPC EDQUOT ENFILE EMFILE ENOMEM
    """.split()
    if hasattr(errno, name)
}
_BLOCK = 1 << 20
# Seconds; a live process locks its new folder much sooner than that.
_OLD_ENOUGH = 60

Result = TypeVar("Result")


def retried(what: str | os.PathLike, action: Callable[[], Result]) -> Result:
    """Returns `action()`; if storage fails for the moment, tries again after longer pauses.

    Raises the first OSError if the last try fails, too: later ones may only follow from it.
    """
    first = None
    for pause in (*RETRY_PAUSES, None):
        try:
            return action()
        except OSError as problem:
            first = first or problem
            if pause is None or problem.errno not in _TRANSIENT:
                raise first from None
            log.warning("%s could not be written (%s): next try in %g s", what, problem, pause)
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Lets an OSError of the block name `path`: the system names no file that is open already."""
    try:
        yield
    except OSError as problem:
        if problem.filename is None:
            problem.filename = os.fspath(path)
        raise


def read_bytes(path: str | os.PathLike) -> bytes:
    """Returns the content of a file; raises OSError with its path.

    Anything but a file, such as a named pipe that nobody writes to, is an error at once.
    """
    # Without O_NONBLOCK the system waits for a writer of a pipe.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        with naming(path):
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not stat.S_ISREG(mode):
                raise OSError(errno.EINVAL, "it is not a file")
            with open(descriptor, "rb", closefd=False) as file:
                return file.read()
    finally:
        os.close(descriptor)


def sync(path: str | os.PathLike) -> None:
    """Makes the content of a file, or the names in a folder, survive a loss of power.

    Raises OSError if the storage fails.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: pathlib.Path) -> None:
    """Syncs everything below `folder`, then `folder` itself. Its own name needs `rename`."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def rename(source: pathlib.Path, target: pathlib.Path) -> None:
    """Renames a file or folder; when this returns, the new name is durable.

    The content must be synced before. An existing file or an existing empty folder is replaced.
    Raises OSError if a folder with content has that name, or if the storage fails.
    """
    os.replace(source, target)
    sync(target.parent)


def publish(folder: pathlib.Path, target: pathlib.Path) -> None:
    """Gives a finished folder its final name: `target` appears complete or not at all.

    Raises OSError if `target` has content, or if the storage fails; then nothing has that name.
    """
    sync_tree(folder)
    try:
        rename(folder, target)
    except OSError:
        if not folder.exists():  # The new name could not be made durable.
            try:
                os.replace(target, folder)
            except OSError:
                shutil.rmtree(target, ignore_errors=True)
        raise


def why_not_replaced(target: pathlib.Path) -> str:
    """Returns what `target` is that no new folder can be renamed to its name; "" if one can."""
    if target.is_symlink():
        return "a symbolic link"
    if os.path.ismount(target):
        return "a mount point"
    if target.exists() and os.path.samefile(target, "."):
        return "the current folder"
    return ""


@contextlib.contextmanager
def temporary_folder(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a new empty folder beside `target`, to be filled and published.

    Unless it was published it is removed, whatever ends the block. What processes of this host
    left that were killed in such a block is removed first.
    """
    remove_leftovers(target)
    name = f"{_temporary_prefix(target)}{os.getpid()}-{uuid.uuid4().hex[:12]}"
    # Named before it is made: a Ctrl-C that comes while it is made finds what to remove.
    folder = target.with_name(name)
    try:
        folder.mkdir()
        with _locked(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(target: pathlib.Path) -> None:
    """Removes the temporary folders for `target` of dead processes of this host."""
    for folder in target.parent.glob(f"{glob.escape(_temporary_prefix(target))}*"):
        with contextlib.suppress(OSError), _locked(folder) as held:
            if held and time.time() - folder.stat().st_mtime > _OLD_ENOUGH:
                log.info("removing %s, which a killed process left", folder)
                shutil.rmtree(folder, ignore_errors=True)


def _temporary_prefix(target: pathlib.Path) -> str:
    return f"{target.name}.tmp-{socket.gethostname()}-"


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[bool]:
    """Locks `folder` and yields whether that succeeded.

    False if a live process has the lock, or if the file system has no locks.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = True
    except OSError:
        held = False
    try:
        yield held
    finally:
        os.close(descriptor)


def replace_file(path: pathlib.Path, content: bytes, temporary: pathlib.Path | None = None) -> None:
    """Writes `path` so that a reader finds the old content or the new content, never a part.

    temporary: as for `replacing`. A storage that fails for the moment is tried again (`retried`).
    """

    def write() -> None:
        with replacing(path, temporary) as file:
            file.write(content)

    retried(path, write)


@contextlib.contextmanager
def replacing(path: pathlib.Path, temporary: pathlib.Path | None = None) -> Iterator[BinaryIO]:
    """Yields a file to write; at the end of the block it becomes `path`, durable and complete.

    If the block raises, `path` stays as it was. temporary: another name in the same folder;
    default: `path` with `.tmp` added. Raises OSError, which names the path.
    """
    temporary = temporary or path.with_name(f"{path.name}.tmp")
    try:
        with naming(path), open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)  # A full disk needs the space.
        raise


def make_folder(folder: pathlib.Path) -> None:
    """Creates `folder` and its missing parents; when this returns, each new name is durable.

    Raises OSError if the storage fails; the new folders are gone then, so that the next call does
    not take them for durable ones.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in reversed(missing):
            sync(path.parent)
    except OSError:
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()  # Fails if another process has filled it.
        raise


def sha256(path: pathlib.Path) -> str:
    """Returns the sha256 of a file's content in hexadecimal, reading 1 MiB at a time."""
    digest = hashlib.sha256()
    with naming(path), open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
