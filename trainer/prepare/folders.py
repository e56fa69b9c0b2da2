"""Folders of text files, with the class as the name of a file or of a folder.

    FOLDER/Arabic.txt FOLDER/Czech.txt ...     a file is a class, each line an example; the names
                                               end in .txt, .txt.gz or .txt.xz
    FOLDER/neg/0_3.txt FOLDER/pos/0_9.txt ...  a folder is a class, each file an example
    FOLDER/train/... FOLDER/test/...           given splits, each of them in one of the forms above

Names of splits count in any case. Hidden entries and what systems leave behind (`__MACOSX`,
`Thumbs.db`) are ignored, and so is the folder `unsup`, so that aclImdb can be read as extracted.
Everything else that is not read is logged, with a count.
"""

import dataclasses
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence

from trainer import shown
from trainer.exit_codes import DataError, UsageError
from trainer.flags.prepare import Prepare
from trainer.prepare import raw_files
from trainer.prepare.rows import Row, Rows, Source, batches

log = logging.getLogger(__name__)

SPLIT_NAMES = {
    "train": "train",
    "test": "test",
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
}
_UNLABELLED = "unsup"
_SUFFIXES = (".txt", ".txt.gz", ".txt.xz")
_OF_SYSTEMS = {"__macosx", "thumbs.db", "desktop.ini"}
# Text files that lie beside class folders and are no class; the last ones are those of aclImdb.
_ABOUT = re.compile(r"(readme|licen[cs]e|copying|notice|changelog|urls_|imdber).*", re.I)


@dataclasses.dataclass(frozen=True)
class Part:
    """Files of one class in one split; each file is an example if `whole`, else each line."""

    split: str
    label: str
    paths: Sequence[str]
    whole: bool


@dataclasses.dataclass(frozen=True)
class _Listing:
    """The sorted names of what lies in a folder, without hidden entries.

    nowhere: links that lead nowhere, and what is neither a file nor a folder.
    """

    folders: list[str]
    files: list[str]
    nowhere: list[str]


def find(folder: str, split: str, flag: str) -> list[Part]:
    """Returns the parts of `folder`, sorted by name.

    They belong to `split`, unless the sub-folders are named like splits.

    Raises:
      UsageError: there is no such folder; `flag` is the flag that named it.
      DataError: the folder holds no class, cannot be read, or is in several of the forms at once.
    """
    if not os.path.isdir(folder):
        raise UsageError(
            f"--{flag}={folder}: no such folder. Name one that holds a text file or a folder per "
            "class."
        )
    found = _listed(folder)
    _say_unread(folder, found.nowhere, "links that lead nowhere, or no files")
    splits = [name for name in found.folders if name.lower() in SPLIT_NAMES]
    if splits:
        return _split_folders(folder, found, splits, flag)
    if found.folders:
        parts = _class_folders(folder, found, split)
    else:
        parts = _class_files(folder, found.files, split)
    if not parts:
        raise DataError(
            f"{folder}: no class in it. It must hold one .txt file per class, or one folder of "
            "files per class."
        )
    return parts


def is_ignored(name: str) -> bool:
    """Returns whether a file or folder is hidden, or one that systems leave behind."""
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def _listed(folder: str) -> _Listing:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as problem:
        raise DataError(
            f"{folder}: cannot be read ({problem.strerror}). Check its permissions."
        ) from None
    names = _Listing([], [], [])
    for entry in entries:
        if is_ignored(entry.name):
            continue
        kind = "folders" if entry.is_dir() else "files" if entry.is_file() else "nowhere"
        getattr(names, kind).append(entry.name)
    return names


def _say_unread(folder: str, names: Sequence[str], what: str) -> None:
    if names:
        log.warning("%s: %d not read (%s): %s", folder, len(names), what, shown.names(names))


def _split_folders(folder: str, found: _Listing, splits: Sequence[str], flag: str) -> list[Part]:
    """Returns the parts of the folders `splits`."""
    others = [name for name in found.folders if name not in splits and name != _UNLABELLED]
    classes = [name for name in found.files if _class_of(name) and not _ABOUT.fullmatch(name)]
    if others or classes:
        raise DataError(
            f"{folder}: folders of splits ({shown.names(splits)}) beside "
            f"{shown.names(others + classes)}, which is none. Move that away; or, if the names of "
            "splits are classes, rename them."
        )
    if flag != "raw_data":
        raise UsageError(
            f"--{flag}={folder}: holds folders of splits ({shown.names(splits)}). Name one of "
            "them, or leave out the flag and name this folder with --raw_data."
        )
    _say_unread(folder, found.files, "files beside folders of splits")
    return [
        part
        for name in splits
        for part in find(os.path.join(folder, name), SPLIT_NAMES[name.lower()], flag)
    ]


def _class_folders(folder: str, found: _Listing, split: str) -> list[Part]:
    classes = [name for name in found.files if _class_of(name) and not _ABOUT.fullmatch(name)]
    if classes:
        raise DataError(
            f"{folder}: text files ({shown.names(classes)}) beside folders "
            f"({shown.names(found.folders)}), so that it is not clear which of them are the "
            "classes. Move one of the two away."
        )
    _say_unread(folder, found.files, "files beside folders of classes")
    parts, deeper = [], []
    for label in found.folders:
        path = os.path.join(folder, label)
        if label == _UNLABELLED:
            log.info("%s: ignored, it holds texts without a class", path)
            continue
        inside = _listed(path)
        files = [name for name in inside.files if not name.endswith(".sha256")]
        if inside.folders and not files:
            deeper.append(label)
            continue
        _say_unread(path, inside.folders, "folders in a folder of a class")
        _say_unread(path, inside.nowhere, "links that lead nowhere, or no files")
        if not files:
            log.warning("%s: no file in it, so it is not a class", path)
            continue
        parts.append(Part(split, label, [os.path.join(path, name) for name in files], whole=True))
    if deeper:
        raise DataError(
            f"{folder}: holds folders without a file, but with folders in them "
            f"({shown.names(deeper)}). A class is a folder of files. If these folders are splits, "
            "name each with --raw_data, --validation_data or --test_data; if they are groups, "
            "move the class folders to one place."
        )
    return parts


def _class_of(name: str) -> str:
    """Returns the class that a file of lines stands for; "" if its name does not end as one."""
    suffix = next(filter(name.lower().endswith, _SUFFIXES), None)
    return name[: -len(suffix)] if suffix else ""


def _class_files(folder: str, files: Sequence[str], split: str) -> list[Part]:
    _say_unread(
        folder,
        [name for name in files if not _class_of(name) and not name.endswith(".sha256")],
        f"names that do not end in {' or '.join(_SUFFIXES)}",
    )
    return [
        Part(split, _class_of(name), [os.path.join(folder, name)], whole=False)
        for name in files
        if _class_of(name)
    ]


def source_of(parts: Sequence[Part], config: Prepare) -> Source:
    """Returns the source that reads `parts` in order."""
    paths = {}
    for part in parts:
        paths.setdefault(part.split, []).extend(part.paths)

    def read(advance: Callable[[int], None]) -> Iterator[Rows]:
        for part in parts:
            empty = True
            for batch in batches(_rows(part, config, advance), part.split):
                empty = False
                yield batch
            if empty:
                log.warning("%s: no line in it, so it is not a class", part.paths[0])

    return Source(paths, read)


def _rows(part: Part, config: Prepare, advance: Callable[[int], None]) -> Iterator[Row]:
    for path in part.paths:
        with raw_files.Stream(path, config.max_expansion, advance) as stream:
            if part.whole:
                yield (path, 1), _whole_text(stream, config.max_line_bytes), part.label, None
            else:
                for number, line in raw_files.lines(stream, config.max_line_bytes):
                    if line:
                        yield (path, number), line, part.label, None


def _whole_text(stream: raw_files.Stream, max_bytes: int) -> bytes:
    """Returns a whole file as one text, without BOM and last line end, CRLF as LF."""
    text = stream.read(max_bytes + 1)
    if len(text) > max_bytes:
        raise DataError(
            f"{stream.path}:1: the text is longer than {max_bytes} bytes (--max_line_bytes). Each "
            "file in a class folder is one example: raise --max_line_bytes, or split the file."
        )
    raw_files.refuse_foreign(stream.path, text)
    return text.removeprefix(raw_files.BOM).replace(b"\r\n", b"\n").removesuffix(b"\n")
