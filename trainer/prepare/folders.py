"""Folders of text files, with the class as the name of a file or of a folder.

    FOLDER/Arabic.txt FOLDER/Czech.txt ...     a file is a class, each line an example; the names
                                               end in .txt, .txt.gz or .txt.xz
    FOLDER/neg/0_3.txt FOLDER/pos/0_9.txt ...  a folder is a class, each file an example
    FOLDER/train/... FOLDER/test/...           given splits, each of them in one of the forms above

Hidden files, files beside class folders and the folder `unsup` are ignored, so that aclImdb can be
read as extracted.
"""

import dataclasses
import logging
import os
from collections.abc import Callable, Iterator, Sequence

from trainer import config as configuration
from trainer.exit_codes import DataError, UsageError
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


@dataclasses.dataclass(frozen=True)
class Part:
    """Files of one class in one split; each file is an example if `whole`, else each line."""

    split: str
    label: str
    paths: Sequence[str]
    whole: bool


def find(folder: str, split: str, flag: str) -> list[Part]:
    """Returns the parts of `folder`, sorted by name.

    They belong to `split`, unless the sub-folders are named like splits.

    Raises:
      UsageError: there is no such folder; `flag` is the flag that named it.
      DataError: the folder holds no class.
    """
    if not os.path.isdir(folder):
        raise UsageError(
            f"--{flag}={folder}: no such folder. Name one that holds a text file or a folder per "
            "class."
        )
    folders, files = _listed(folder)
    if folders and set(folders) <= SPLIT_NAMES.keys():
        return [
            part
            for name in folders
            for part in find(os.path.join(folder, name), SPLIT_NAMES[name], flag)
        ]
    parts = (
        _class_folders(folder, folders, split) if folders else _class_files(folder, files, split)
    )
    if not parts:
        raise DataError(
            f"{folder}: no class in it. It must hold one .txt file per class, or one folder per "
            "class."
        )
    return parts


def _listed(folder: str) -> tuple[list[str], list[str]]:
    """Returns the sorted names of folders and of files in `folder`, without hidden ones."""
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    entries = [entry for entry in entries if not entry.name.startswith(".")]
    folders = [entry.name for entry in entries if entry.is_dir()]
    return folders, [entry.name for entry in entries if entry.is_file()]


def _class_folders(folder: str, names: Sequence[str], split: str) -> list[Part]:
    parts = []
    for label in names:
        if label == _UNLABELLED:
            log.info("%s: ignored, it holds texts without a class", os.path.join(folder, label))
            continue
        _, files = _listed(os.path.join(folder, label))
        paths = [
            os.path.join(folder, label, name) for name in files if not name.endswith(".sha256")
        ]
        parts.append(Part(split, label, paths, whole=True))
    return parts


def _class_files(folder: str, files: Sequence[str], split: str) -> list[Part]:
    parts = []
    for name in files:
        path = os.path.join(folder, name)
        suffix = next(filter(name.endswith, _SUFFIXES), None)
        if suffix is None:
            log.info("%s: ignored, its name does not end in %s", path, " or ".join(_SUFFIXES))
        else:
            parts.append(Part(split, name.removesuffix(suffix), [path], whole=False))
    return parts


def source_of(parts: Sequence[Part], config: configuration.Prepare) -> Source:
    """Returns the source that reads `parts` in order."""
    paths = {}
    for part in parts:
        paths.setdefault(part.split, []).extend(part.paths)

    def read(advance: Callable[[int], None]) -> Iterator[Rows]:
        for part in parts:
            yield from batches(_rows(part, config, advance), part.split)

    return Source(paths, read)


def _rows(
    part: Part, config: configuration.Prepare, advance: Callable[[int], None]
) -> Iterator[Row]:
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
    return text.removeprefix(raw_files.BOM).replace(b"\r\n", b"\n").removesuffix(b"\n")
