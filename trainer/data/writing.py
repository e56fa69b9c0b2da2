"""Makes dataset folders that exist whole or not at all.

A dataset is written into a folder beside its place, made durable and renamed. Of several writers one wins, the others
find an equal dataset or say so. Each writer holds a kernel lock on its folder, by which the next one on this host tells
the leftovers of the dead from the work of the living.
"""

import collections
import contextlib
import fcntl
import hashlib
import io
import json
import logging
import os
import pathlib
import re
import shutil
import socket
import tempfile
import time
from typing import Iterator, Mapping, Sequence

import numpy as np

from trainer.data import store
from trainer.exit_codes import StorageError, UsageError

log = logging.getLogger(__name__)

_OLD_ENOUGH = 60  # Seconds in which a new writer has long taken the lock of the folder that it just made.


@contextlib.contextmanager
def new_folder(data_dir) -> Iterator[pathlib.Path]:
    """Yields an empty folder beside `data_dir` for `publish`; unless published it is removed, whatever ends the block.

    Leftovers of killed writers on this host are removed first.

    Raises:
      StorageError: a file could not be written.
    """
    data_dir = pathlib.Path(data_dir).absolute()
    folder = None
    try:
        data_dir.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(data_dir)
        prefix = f"{_temporary_prefix(data_dir)}{os.getpid()}-"
        folder = pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=data_dir.parent))
        # mkdtemp makes it private, but a dataset is read by whoever could read any other new folder.
        folder.chmod(0o777 & ~_umask())
        with _locked(folder):
            yield folder
    except OSError as problem:
        raise StorageError(f"--data_dir={data_dir}: writing failed ({problem}). Free space or name another folder, "
                           "then run the same command again; nothing was left behind.") from problem
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(data_dir: pathlib.Path) -> None:
    """Removes temporary folders for `data_dir` whose writer on this host is dead."""
    for folder in data_dir.parent.glob(f"{_glob_literal(_temporary_prefix(data_dir))}*"):
        with contextlib.suppress(OSError), _locked(folder) as held:
            if held and time.time() - folder.stat().st_mtime > _OLD_ENOUGH:
                log.info("removing %s, left by a prepare that was killed", folder)
                shutil.rmtree(folder, ignore_errors=True)


def _temporary_prefix(data_dir: pathlib.Path) -> str:
    return f"{data_dir.name}.tmp-{socket.gethostname()}-"


def _glob_literal(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[bool]:
    """Yields whether this process got the lock of `folder`: no live one has it, and the file system knows locks."""
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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class SplitWriter:
    """Writes the three arrays of a split and counts what is in it."""

    def __init__(self, folder: pathlib.Path, lengths: np.ndarray, labels: np.ndarray):
        """
        Args:
          folder: where the arrays go; its name is the split's.
          lengths: int32 [examples], tokens of each example.
          labels: int32 [examples].
        """
        folder.mkdir()
        self._folder, self._lengths, self._labels = folder, lengths, labels
        self._tokens = self._array("tokens", int(lengths.sum()))

    def _array(self, name: str, length: int) -> "ArrayWriter":
        return ArrayWriter(self._folder / f"{name}.npy", store.ARRAYS[name], length)

    def write(self, tokens: np.ndarray) -> None:
        """Appends tokens of the examples, in order and end to end."""
        self._tokens.write(tokens)

    def close(self) -> dict[str, dict]:
        """Makes the files durable. Returns {name below the dataset's folder: {"size", "sha256"}}."""
        offsets = self._array("offsets", len(self._lengths) + 1)
        offsets.write(np.concatenate([[0], np.cumsum(self._lengths, dtype=np.int64)]))
        labels = self._array("labels", len(self._labels))
        labels.write(self._labels)
        writers = {"tokens": self._tokens, "offsets": offsets, "labels": labels}
        return {f"{self._folder.name}/{name}.npy": writer.close() for name, writer in writers.items()}

    def described(self, names: Sequence[str]) -> dict:
        """What dataset.json says of the split; `names`: labels by class id.

        `lengths` counts examples by the smallest power of two that is not below their length.
        """
        buckets = collections.Counter((1 << np.ceil(np.log2(self._lengths)).astype(int)).tolist())
        return {
            "examples": len(self._labels),
            "tokens": int(self._lengths.sum()),
            "labels": dict(zip(names, np.bincount(self._labels, minlength=len(names)).tolist())),
            "lengths": {str(bucket): buckets[bucket] for bucket in sorted(buckets)},
            "longest": int(self._lengths.max()),
            "empty_texts": int((self._lengths == 1).sum()),
        }


class ArrayWriter:
    """Writes a one-dimensional .npy file piece by piece and knows its sha256 when done."""

    def __init__(self, path: pathlib.Path, dtype: np.dtype, length: int):
        """`length`: elements that will be written in all; the header comes first and names it."""
        self._file = HashedFile(path)
        self._dtype = dtype
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)})
        self._file.write(header.getvalue())

    def write(self, values: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(values, self._dtype).tobytes())

    def close(self) -> dict:
        """Makes the file durable. Returns its {"size", "sha256"}."""
        return self._file.close()


class HashedFile:
    """A new file that knows its size and sha256 when closed."""

    def __init__(self, path: pathlib.Path):
        self._file = open(path, "wb")
        self._digest = hashlib.sha256()

    def write(self, content: bytes) -> None:
        self._file.write(content)
        self._digest.update(content)

    def close(self) -> dict:
        """Makes the file durable. Returns its {"size", "sha256"}."""
        self._file.flush()
        os.fsync(self._file.fileno())
        size = self._file.tell()
        self._file.close()
        return {"size": size, "sha256": self._digest.hexdigest()}


def write_lines(path: pathlib.Path, lines: Sequence[str]) -> dict:
    """Writes a text file. Returns its {"size", "sha256"}."""
    file = HashedFile(path)
    file.write("".join(f"{line}\n" for line in lines).encode("utf-8"))
    return file.close()


def publish(folder: pathlib.Path, description: Mapping, data_dir) -> store.Dataset:
    """Writes dataset.json and gives a finished folder its name; of several writers one wins.

    Args:
      folder: what `new_folder` yielded, holding every file that `description["files"]` names.
      description: content of dataset.json, but for `format`.
      data_dir: the name to give.

    Returns:
      The dataset at `data_dir`: this one, or an equal one that was there first.

    Raises:
      UsageError: another dataset or something else has that name; it stays as it is.
    """
    data_dir = pathlib.Path(data_dir)
    content = json.dumps({"format": store.FORMAT, **description}, indent=1, sort_keys=True) + "\n"
    file = HashedFile(folder / "dataset.json")
    file.write(content.encode())
    digest = file.close()["sha256"]
    for path in (*(folder / split for split in store.SPLITS), folder):
        if path.is_dir():
            _fsync_folder(path)
    try:
        os.rename(folder, data_dir)
    except OSError:
        if not data_dir.exists():
            raise
        _accept_existing(data_dir, digest)
        return store.open_dataset(data_dir)
    _fsync_folder(data_dir.absolute().parent)
    return store.open_dataset(data_dir, verify=False)


def _accept_existing(data_dir: pathlib.Path, digest: str) -> None:
    refuse_other_content(data_dir)
    _, existing = store.read_description(data_dir)
    if existing != digest:
        raise UsageError(f"--data_dir={data_dir}: holds another dataset (digest {existing[:12]}, this one would be "
                         f"{digest[:12]}). It was left as it is: name another folder, or delete this one first.")
    log.info("%s: already prepared, the same dataset (digest %s)", data_dir, digest[:12])


def refuse_other_content(data_dir) -> None:
    """Raises UsageError if `data_dir` is there and is neither a prepared dataset nor an empty folder."""
    data_dir = pathlib.Path(data_dir)
    if data_dir.is_dir() and ((data_dir / "dataset.json").exists() or not any(data_dir.iterdir())):
        return
    if data_dir.exists():
        raise UsageError(f"--data_dir={data_dir}: exists and is no prepared dataset. It was left as it is: name a "
                         "folder that does not exist yet.")


def _fsync_folder(folder: pathlib.Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
