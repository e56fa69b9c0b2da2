"""A prepared dataset on disk: it exists whole or not at all, and what is read is what was written.

    DATA_DIR/dataset.json       format, tokenizer, classes, splits with counts, size and sha256 of every other file
    DATA_DIR/vocabulary.txt     line i (from 0) is id i, the reserved ids first
    DATA_DIR/labels.txt         line i (from 0) is class i
    DATA_DIR/{train,validation,test}/tokens.npy    int32 [total], all examples end to end, never truncated
                                     offsets.npy   int64 [examples + 1], example i is tokens[offsets[i]:offsets[i + 1]]
                                     labels.npy    int32 [examples]

dataset.json holds nothing that differs between two preparations of the same input (no time, no path), so that its
sha256 names the dataset: the `dataset_digest` of checkpoints. `writing` makes such folders.
"""

import dataclasses
import hashlib
import json
import pathlib
import re
from typing import Mapping

import numpy as np

from trainer.exit_codes import DataError, UsageError

FORMAT = 1
SPLITS = ("train", "validation", "test")
ARRAYS = {"tokens": np.dtype("<i4"), "offsets": np.dtype("<i8"), "labels": np.dtype("<i4")}
_BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples, mapped read-only: tokens int32 [total], offsets int64 [examples + 1], labels int32 [examples]."""

    tokens: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """An open dataset. `digest`: sha256 of dataset.json; `vocabulary[i]`, `labels[i]`: what id i, class i stand for."""

    folder: pathlib.Path
    description: dict
    digest: str
    labels: tuple[str, ...]
    vocabulary: tuple[str, ...]
    splits: dict[str, Split]

    @property
    def tokenizer(self) -> dict:
        """Settings that `text.Tokenizer` takes."""
        return self.description["tokenizer"]


def open_dataset(folder, verify: bool = True) -> Dataset:
    """Opens a prepared dataset.

    Args:
      folder: DATA_DIR.
      verify: also compare the sha256 of every file and the range of every id (it reads all files once). XLA clamps an
        id that is out of range without a word, so a dataset should be verified before it is trained on.

    Raises:
      UsageError: `folder` is no prepared dataset.
      DataError: a file is damaged or missing, or a newer version prepared it.
    """
    folder = pathlib.Path(folder)
    description, digest = read_description(folder)
    _check_files(folder, description["files"], verify)
    vocabulary = tuple(unescape(line) for line in _read_lines(folder / "vocabulary.txt"))
    labels = tuple(_read_lines(folder / "labels.txt"))
    splits = {name: _open_split(folder / name) for name in SPLITS if name in description["splits"]}
    for name, split in splits.items():
        _check_shapes(folder / name, split, description["splits"][name])
        if verify:
            _check_ranges(folder / name, split, len(vocabulary), len(labels))
    return Dataset(folder, description, digest, labels, vocabulary, splits)


def _damaged(path, why) -> DataError:
    return DataError(f"{path}: {why}. A prepared dataset never changes: delete the folder {_root(path)} and run "
                     "`prepare` again.")


def _root(path) -> pathlib.Path:
    """The dataset's folder that `path` lies in."""
    path = pathlib.Path(path)
    return path.parent if path.parent.name not in SPLITS else path.parent.parent


def read_description(folder: pathlib.Path) -> tuple[dict, str]:
    """Content of dataset.json and its digest. Raises as `open_dataset` does."""
    path = folder / "dataset.json"
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"--data_dir={folder}: no dataset.json in it, so it is no prepared dataset. "
                         f"Name a folder that `prepare` wrote, or run `prepare --data_dir={folder}` first.") from None
    try:
        description = json.loads(content)
        version = description["format"]
    except (ValueError, KeyError, TypeError):
        raise _damaged(path, "this is not the JSON that `prepare` wrote") from None
    if version != FORMAT:
        raise DataError(f"{path}: format {version}, but this version reads format {FORMAT}. "
                        "Use the version that prepared it, or prepare again with this one into a new folder.")
    if not {"tokenizer", "splits", "files"} <= description.keys():
        raise _damaged(path, "parts are missing")
    return description, hashlib.sha256(content).hexdigest()


def _check_files(folder: pathlib.Path, files: Mapping[str, Mapping], verify: bool) -> None:
    for name, expected in files.items():
        path = folder / name
        try:
            size = path.stat().st_size
            if size != expected["size"]:
                raise _damaged(path, f"{size} bytes, but dataset.json says {expected['size']}")
            if verify and _sha256(path) != expected["sha256"]:
                raise _damaged(path, "its sha256 is not the one in dataset.json")
        except OSError as problem:
            raise _damaged(path, f"cannot be read ({problem.strerror})") from None


def _sha256(path: pathlib.Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _open_split(folder: pathlib.Path) -> Split:
    arrays = {}
    for name, dtype in ARRAYS.items():
        path = folder / f"{name}.npy"
        try:
            arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as problem:
            raise _damaged(path, f"no NumPy array ({problem})") from None
        if arrays[name].dtype != dtype or arrays[name].ndim != 1:
            raise _damaged(path, f"{arrays[name].dtype} in {arrays[name].ndim} dimensions, must be {dtype} in one")
    return Split(**arrays)


def _check_shapes(folder: pathlib.Path, split: Split, expected: Mapping) -> None:
    seen = (len(split.labels), len(split.offsets) - 1, len(split.tokens))
    wanted = (expected["examples"], expected["examples"], expected["tokens"])
    if seen != wanted:
        raise _damaged(folder / "labels.npy", f"labels, offsets, tokens count {seen}, but dataset.json says {wanted}")


def _check_ranges(folder: pathlib.Path, split: Split, vocabulary_size: int, classes: int) -> None:
    offsets = split.offsets
    if offsets[0] != 0 or offsets[-1] != len(split.tokens) or (np.diff(offsets) < 1).any():
        raise _damaged(folder / "offsets.npy", "offsets do not rise from 0 to the number of tokens")
    for name, values, limit in (("tokens", split.tokens, vocabulary_size), ("labels", split.labels, classes)):
        for begin in range(0, len(values), _BLOCK):
            part = values[begin : begin + _BLOCK]
            if part.min() < 0 or part.max() >= limit:
                raise _damaged(folder / f"{name}.npy", f"an id lies outside 0..{limit - 1}")


def _read_lines(path: pathlib.Path) -> list[str]:
    """Lines without their ends. `str.splitlines` would also split at U+0085, U+2028 and others."""
    return path.read_bytes().decode("utf-8").split("\n")[:-1]


def escape(entry: str) -> str:
    r"""`entry` as one line: backslash, control characters and Unicode's line separators as \\, \xhh and \uhhhh."""
    return re.sub(r"[\\\x00-\x1f\x7f-\x9f\u2028\u2029]", _escaped, entry)


def _escaped(match: re.Match) -> str:
    code = ord(match[0])
    if match[0] == "\\":
        return r"\\"
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def unescape(line: str) -> str:
    r"""Undoes `escape`."""
    return re.sub(r"\\(\\|x[0-9a-f]{2}|u[0-9a-f]{4})", _unescaped, line)


def _unescaped(match: re.Match) -> str:
    return "\\" if match[1] == "\\" else chr(int(match[1][1:], 16))
