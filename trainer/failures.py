"""What an OSError means: the error that a user reads, with the path and a remedy."""

import errno
import os
import pathlib

from trainer.exit_codes import DataError, StorageError, TrainerError

# The storage cannot take more; everything else is about a path that cannot be used.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


def of(problem: OSError) -> TrainerError:
    """Returns the error for a file that could not be read, or a stream that could not be written.

    DataError if it names a path, StorageError if it names none or if the storage is full.
    """
    reason = problem.strerror or str(problem) or type(problem).__name__
    if problem.filename is None:
        return StorageError(
            f"reading or writing failed ({reason}). Check stdout, the free space and the mounts, "
            "then run the same command again."
        )
    path = os.fsdecode(problem.filename) if not isinstance(problem.filename, int) else "a stream"
    if problem.errno in _FULL:
        return StorageError(
            f"{path}: {reason}. Free space, or make it writable, then run the same command again."
        )
    return DataError(
        f"{path}: {reason}. It must be there and open to this user, and so must every folder above "
        "it. Correct its permissions, the path or the mount, then run the same command again."
    )


def of_run(problem: OSError, folder: pathlib.Path) -> TrainerError:
    """Returns the error of a run that writes to the model folder `folder`."""
    if problem.filename is not None and not _is_below(problem.filename, folder):
        return of(problem)
    return StorageError(
        f"{problem}; the model folder {folder} must stay writable; check free space and "
        "permissions, then run the same command again"
    )


def _is_below(path: str | bytes | int, folder: pathlib.Path) -> bool:
    if isinstance(path, int):
        return False
    return pathlib.Path(os.path.abspath(os.fsdecode(path))).is_relative_to(folder.absolute())
