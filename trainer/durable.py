"""Files and folders that exist complete or not at all, and survive a loss of power.

A name is durable only after the folder that contains it was synced. So the order is always the
same: write, sync the content, rename, sync the parent. For the rules see
https://lwn.net/Articles/457667, fsync(2) and rename(2).
"""

import contextlib
import hashlib
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator

_BLOCK = 1 << 20


def sync(path: str | os.PathLike) -> None:
    """Makes the content of a file, or the names in a folder, survive a loss of power.

    Raises OSError if the storage fails.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
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
    """Gives a finished folder its final name: `target` appears complete or not at all."""
    sync_tree(folder)
    rename(folder, target)


@contextlib.contextmanager
def temporary_folder(target: pathlib.Path, prefix: str = "") -> Iterator[pathlib.Path]:
    """Yields a new empty folder beside `target`, to be filled and published.

    Unless it was published it is removed, whatever ends the block. prefix: how its name begins;
    default: the name of `target` with `.tmp-` added.
    """
    # Named before it is made: a Ctrl-C that comes while it is made finds what to remove.
    folder = target.with_name(f"{prefix or f'{target.name}.tmp-'}{uuid.uuid4().hex[:12]}")
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def replace_file(path: pathlib.Path, content: bytes, temporary: pathlib.Path | None = None) -> None:
    """Writes `path` so that a reader finds the old content or the new content, never a part.

    temporary: another name in the same folder; default: `path` with `.tmp` added.
    """
    temporary = temporary or path.with_name(f"{path.name}.tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    rename(temporary, path)


def make_folder(folder: pathlib.Path) -> None:
    """Creates `folder` and its missing parents; when this returns, each new name is durable."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        sync(path.parent)


def sha256(path: pathlib.Path) -> str:
    """Returns the sha256 of a file's content in hexadecimal, reading 1 MiB at a time."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
