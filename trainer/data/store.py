"""A prepared dataset on disk: complete or not there at all, and read back as it was written.

    DATA_DIR/dataset.json    format, tokenizer, classes, splits with counts; size and sha256 of all
                             other files
    DATA_DIR/dataset.json.sha256  the sha256 of dataset.json, as `sha256sum -c` reads it
    DATA_DIR/vocabulary.txt  line i (from 0) is id i, the reserved ids first; absent if the inputs
                             are frames
    DATA_DIR/labels.txt      line i (from 0) is class i; absent if there are no classes
    DATA_DIR/target_vocabulary.txt  of a target that is a text; absent if it shares vocabulary.txt
    DATA_DIR/SPLIT/          for each of train, validation, test:
        tokens.npy           int32 [total], all examples end to end, never truncated
        frames.npy           instead of tokens.npy: float32 [total, features], as they were read
        offsets.npy          int64 [examples + 1], example i is tokens[offsets[i]:offsets[i + 1]]
        labels.npy           int32 [examples], the class of each example; or
        values.npy           float32 [examples, values], as they were read; or
        tags.npy             int32 [total], the class of each token; or
        target_tokens.npy    int32 [total of the targets], all of them end to end
        target_offsets.npy   int64 [examples + 1], as offsets.npy
        target_texts.txt     line i (from 0) is the target of example i as it was read (`escape`)

Format 1 of dataset.json is a dataset of texts with labels. Format 2 also names the `task`, the
kind of `target` (`fields.TARGETS`), the `order` in which steps meet the examples (`fields.ORDERS`)
and the `input`: its `kind` (`fields.INPUTS`) and, if that is frames, their `shape`, the `names` of
their features if these have some and, if they are normalised, `mean` and `deviation` of each
feature over the training split. `values` describes a target of values: `name`, `mean` and
`deviation` of each. What is not tokens has no `tokenizer`.

Two preparations of the same input write the same dataset.json (no time, no path). So its sha256
identifies the dataset: it is the `dataset_digest` of checkpoints. It lies beside dataset.json, so
that a change is found before a checkpoint knows the dataset; older datasets lack that file. A
dataset is written into a
folder beside its final name, synced and renamed. If several processes write at once, one wins. Each
holds a kernel lock on its folder, so that the next writer on this host can tell leftovers of a dead
process from the work of a live one.
"""

import collections
import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import math
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from trainer import durable, sealed
from trainer.data import fields
from trainer.exit_codes import DataError, StorageError, UsageError

log = logging.getLogger(__name__)

FORMATS = (1, 2)
SPLITS = ("train", "validation", "test")
DESCRIPTION, DIGEST = "dataset.json", "dataset.json.sha256"
VOCABULARY, LABELS = "vocabulary.txt", "labels.txt"
TARGET_VOCABULARY, TARGET_TEXTS = "target_vocabulary.txt", "target_texts.txt"
# What texts are read with, and answers written.
NAMES = (VOCABULARY, TARGET_VOCABULARY, LABELS)
ARRAYS = {
    "tokens": np.dtype("<i4"),
    "frames": np.dtype("<f4"),
    "offsets": np.dtype("<i8"),
    "labels": np.dtype("<i4"),
    "tags": np.dtype("<i4"),
    "target_tokens": np.dtype("<i4"),
    "target_offsets": np.dtype("<i8"),
    "values": np.dtype("<f4"),
}
_TABLES = ("frames", "values")  # Arrays of rank 2: a row for each step or example.
_BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Split:
    """The examples of a split, as read-only memory maps.

    inputs: tokens, int32 [total], or frames, float32 [total, features], as they were read.
    offsets: int64 [examples + 1]. targets: classes, int32 [examples] or [total]
    (`fields.Target.per_step`); ids, int32 [total of the targets], of which example i has
    targets[target_offsets[i]:target_offsets[i + 1]] (`fields.Target.sequence`); values, float32
    [examples, values], as they were read; None if the tokens themselves are the target.
    normalise, standardise: how a model sees frames and values; None: as they are.
    """

    inputs: np.ndarray
    offsets: np.ndarray
    targets: np.ndarray | None = None
    target_offsets: np.ndarray | None = None
    normalise: fields.Scale | None = None
    standardise: fields.Scale | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1


@dataclasses.dataclass(frozen=True)
class Dataset:
    """An open dataset.

    digest: sha256 of dataset.json. vocabulary[i]: token of id i; () if the inputs are frames.
    labels[i]: name of class i; () if there are no classes. target_vocabulary[i]: token of id i of a
    target that is a text (it may be `vocabulary` itself); () if the target is not a text.
    """

    folder: pathlib.Path
    description: dict
    digest: str
    labels: tuple[str, ...]
    vocabulary: tuple[str, ...]
    splits: dict[str, Split]
    target_vocabulary: tuple[str, ...] = ()

    @property
    def tokenizer(self) -> dict:
        """The settings for `text.Tokenizer`; those of the target, too, if that is a text.

        Only of a dataset whose inputs are tokens.
        """
        return self.description["tokenizer"]

    @property
    def input(self) -> fields.Input:
        """What a model reads."""
        return input_in(self.description)

    @property
    def frame(self) -> tuple[int, ...]:
        """The shape of a frame; () if the inputs are tokens."""
        return frame_in(self.description)

    @property
    def form(self) -> fields.Form:
        """What its batches hold."""
        return form_in(self.description)

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the features of a frame; () if they have none."""
        return tuple(self.description.get("input", {}).get("names", ()))

    @property
    def values(self) -> tuple[str, ...]:
        """The names of the values that are the target; () if it has none."""
        return tuple(value["name"] for value in self.description.get("values", ()))

    @property
    def normalise(self) -> fields.Scale | None:
        """How a model sees frames; None: as they are."""
        return normalise_in(self.description)

    @property
    def standardise(self) -> fields.Scale | None:
        """How a model tells values; None if they are not the target."""
        return standardise_in(self.description)

    @property
    def task(self) -> str:
        """The name of the task that it was prepared for."""
        return task_in(self.description)

    @property
    def target(self) -> fields.Target:
        """What a model learns to tell."""
        return target_in(self.description)

    @property
    def order(self) -> str:
        """How steps meet the examples: one of `fields.ORDERS`."""
        return order_in(self.description)

    @property
    def outputs(self) -> int:
        """The number of classes or values, or of ids if the target is the next token or a text."""
        if self.target.classes:
            return len(self.labels)
        if self.target.numbers:
            return len(self.values)
        return len(self.target_vocabulary or self.vocabulary)

    @property
    def shared_vocabulary(self) -> bool:
        """Whether the target is a text whose ids are those of `vocabulary`."""
        return shares_vocabulary(self.description)

    @property
    def second(self) -> str:
        """How the words of a target that is a text are embedded: `second` of `shapes.weights`."""
        return second_in(self.description)

    @property
    def vocabulary_sha256(self) -> str:
        """Identifies the vocabulary: equal ones give every token the same id."""
        return vocabulary_sha256(self.description)

    def target_texts(self, split: str) -> list[str]:
        """Returns the target of each example of a split as it was read; reads the file.

        Raises DataError if it is damaged or cannot be read.
        """
        path = self.folder / split / TARGET_TEXTS
        lines = _read_lines(path)
        _check_count(path, "texts", len(lines), self.description["splits"][split]["examples"])
        return list(map(unescape, lines))


def task_in(description: Mapping) -> str:
    """Returns the name of the task of a dataset, from the content of its dataset.json."""
    return description.get("task", "classification")


def order_in(description: Mapping) -> str:
    """Returns the order of the examples of a dataset, from the content of its dataset.json."""
    return description.get("order", fields.SHUFFLED)


def target_in(description: Mapping) -> fields.Target:
    """Returns the target of a dataset, from the content of its dataset.json."""
    return fields.TARGETS[description.get("target", fields.LABEL.kind)]


def input_in(description: Mapping) -> fields.Input:
    """Returns the input of a dataset, from the content of its dataset.json."""
    return fields.INPUTS[description.get("input", {}).get("kind", fields.TOKENS.kind)]


def frame_in(description: Mapping) -> tuple[int, ...]:
    """Returns the shape of the frames of a dataset; () if its inputs are tokens."""
    return tuple(description.get("input", {}).get("shape", ()))


def form_in(description: Mapping) -> fields.Form:
    """Returns what the batches of a dataset hold, from the content of its dataset.json."""
    frame = frame_in(description)
    return fields.Form(
        target_in(description), math.prod(frame) if frame else 0, len(description.get("values", ()))
    )


def normalise_in(description: Mapping) -> fields.Scale | None:
    """Returns how a model sees the frames of a dataset; None: as they are."""
    found = description.get("input", {})
    if "mean" not in found:
        return None
    return fields.Scale(np.float32(found["mean"]), np.float32(found["deviation"]))


def standardise_in(description: Mapping) -> fields.Scale | None:
    """Returns how a model tells the values of a dataset; None if they are not its target."""
    values = description.get("values", ())
    if not values:
        return None
    return fields.Scale(
        *(np.float32([value[part] for value in values]) for part in ("mean", "deviation"))
    )


def second_in(description: Mapping) -> str:
    """Returns whose vocabulary a target has that is a text: "own" or "shared"; else ""."""
    if not target_in(description).sequence:
        return ""
    return "shared" if shares_vocabulary(description) else "own"


def shares_vocabulary(description: Mapping) -> bool:
    """Returns whether a dataset has a text as its target whose ids are those of its inputs."""
    return target_in(description).sequence and TARGET_VOCABULARY not in description["files"]


class Damaged(DataError):
    """A file of a prepared dataset that is not as it was written. `reason`: the file and why."""

    def __init__(self, path: pathlib.Path, why: str):
        self.reason = f"{path}: {why}"
        super().__init__(
            f"{self.reason}. A prepared dataset never changes: delete the folder {_root(path)} and "
            "run `prepare` again."
        )


def open_dataset(folder: str | os.PathLike, verify: bool = True, splits: bool = True) -> Dataset:
    """Returns the prepared dataset in `folder`.

    Args:
      folder: DATA_DIR.
      verify: also check the sha256 of every file and the range of every id; this reads all files
        once. XLA silently clamps an id that is out of range, so verify before training.
      splits: False opens no examples, only what is needed to read texts and to name classes.

    Raises:
      UsageError: `folder` is not a prepared dataset.
      DataError: a file is damaged, missing or cannot be read, or a newer version prepared it.
    """
    folder = pathlib.Path(folder)
    description, digest = read_description(folder)
    files = description["files"]
    if not splits:
        files = {name: entry for name, entry in files.items() if name in NAMES}
    _check_files(folder, files, verify)
    target = target_in(description)
    vocabulary = () if input_in(description).numbers else _read_entries(folder / VOCABULARY)
    labels = tuple(_read_lines(folder / LABELS)) if target.classes else ()
    target_vocabulary = vocabulary if shares_vocabulary(description) else ()
    if TARGET_VOCABULARY in files:
        target_vocabulary = _read_entries(folder / TARGET_VOCABULARY)
    dataset = Dataset(folder, description, digest, labels, vocabulary, {}, target_vocabulary)
    _check_names(dataset)
    names = [name for name in SPLITS if splits and name in description["splits"]]
    opened = {name: _open_split(folder / name, description) for name in names}
    for name, split in opened.items():
        _check_shapes(folder / name, split, description, name)
        if verify:
            _check_ranges(folder / name, split, dataset)
    return dataclasses.replace(dataset, splits=opened)


def _root(path: pathlib.Path) -> pathlib.Path:
    """Returns the folder of the dataset that `path` belongs to."""
    return path.parent if path.parent.name not in SPLITS else path.parent.parent


def _unreadable(path: pathlib.Path, problem: OSError) -> DataError:
    return DataError(
        f"{path} cannot be read ({problem.strerror}). The user of this command must be able to "
        "read every file of a dataset: correct its permissions."
    )


def read_description(folder: pathlib.Path) -> tuple[dict, str]:
    """Returns the content of dataset.json and its digest. Raises as `open_dataset`."""
    path = folder / DESCRIPTION
    try:
        content = durable.read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"--data_dir={folder}: no dataset.json in it, so it is not a prepared dataset. "
            f"Name a folder that `prepare` wrote, or run `prepare --data_dir={folder}` first."
        ) from None
    except OSError as problem:
        raise _unreadable(path, problem) from None
    digest = hashlib.sha256(content).hexdigest()
    _check_digest(path, digest)
    try:
        description = sealed.parse(content)
        version = description["format"]
    except (ValueError, KeyError):
        raise Damaged(path, "it is not the JSON that `prepare` wrote") from None
    if version not in FORMATS:
        raise DataError(
            f"{path}: format {str(version)[:200]}, but this version reads format "
            f"{' and '.join(map(str, FORMATS))}. "
            "Use the version that prepared it, or prepare again with this one into a new folder."
        )
    parts = {"splits", "files"} | ({"task", "target", "order"} if version > 1 else set())
    if not parts <= description.keys():
        raise Damaged(path, "parts are missing")
    read = description.get("input", {"kind": fields.TOKENS.kind})
    if not isinstance(read, dict):
        raise Damaged(path, "a part of it is not as `prepare` wrote it")
    for part, value, known in (
        ("input", read.get("kind"), tuple(fields.INPUTS)),
        ("target", description.get("target", fields.LABEL.kind), tuple(fields.TARGETS)),
        ("order", description.get("order", fields.SHUFFLED), fields.ORDERS),
    ):
        if value not in known:
            raise DataError(
                f"{path}: the {part} is {str(value)[:200]!r}, but this version knows "
                f"{', '.join(known)}. Use the version that prepared it."
            )
    _check_parts(path, description)
    return description, digest


def _check_digest(path: pathlib.Path, digest: str) -> None:
    """Raises Damaged if the file beside dataset.json has another digest; older ones have none."""
    beside = path.with_name(DIGEST)
    try:
        content = durable.read_bytes(beside)
    except FileNotFoundError:
        return
    except OSError as problem:
        raise _unreadable(beside, problem) from None
    if content != _digest_line(digest):
        raise Damaged(path, f"its sha256 is {digest}, which is not the one in {beside}")


def _digest_line(digest: str) -> bytes:
    return f"{digest}  {DESCRIPTION}\n".encode()


def _check_parts(path: pathlib.Path, description: Mapping) -> None:
    """Raises Damaged if the parts of dataset.json are not those of one dataset."""
    splits, files, target = description["splits"], description["files"], target_in(description)
    read, task = input_in(description), task_in(description)
    tokenizer = {"name": ""} if read.numbers else description.get("tokenizer")
    counted = ("examples", read.array, *([target.array] if target.sequence else []))
    if (
        not all(isinstance(part, dict) for part in (splits, files, tokenizer))
        or not all(isinstance(name, str) for name in (tokenizer.get("name"), task))
        or not _numbers_described(description)
        or not all(_counts(split, *counted) for split in splits.values())
        or not all(_counts(file, "size") and "sha256" in file for file in files.values())
    ):
        raise Damaged(path, "a part of it is not as `prepare` wrote it")
    if unknown := splits.keys() - set(SPLITS):
        raise Damaged(path, f"a split is named {min(unknown)[:200]!r}")
    expected = {f"{split}/{name}.npy" for split in splits for name in _arrays(read, target)}
    expected |= set() if read.numbers else {VOCABULARY}
    expected |= {LABELS} if target.classes else set()
    if target.sequence:
        expected |= {f"{split}/{TARGET_TEXTS}" for split in splits}
        expected |= {TARGET_VOCABULARY} & files.keys()
    if different := expected ^ files.keys():
        raise Damaged(path, f"its splits and its files do not agree about {min(different)[:200]}")


def _numbers_described(description: Mapping) -> bool:
    """Returns whether what dataset.json says of frames and values is complete."""
    read, values = description.get("input", {}), description.get("values", [])
    if input_in(description).numbers:
        shape = read.get("shape")
        if not (isinstance(shape, list) and shape and all(_is_count(size) for size in shape)):
            return False
        if "names" in read and not _is_list(read["names"], math.prod(shape), str):
            return False
        if "mean" in read and not all(
            _is_list(read.get(part), math.prod(shape), float) for part in ("mean", "deviation")
        ):
            return False
    if not isinstance(values, list) or bool(values) != target_in(description).numbers:
        return False
    return all(
        isinstance(value, dict)
        and isinstance(value.get("name"), str)
        and _is_list([value.get("mean"), value.get("deviation")], 2, float)
        for value in values
    )


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0


def _is_list(value: object, length: int, kind: type) -> bool:
    """Returns whether `value` is a list of `length` entries of a type."""
    return (
        isinstance(value, list)
        and len(value) == length
        and all(isinstance(entry, kind) for entry in value)
    )


def _counts(entry: object, *names: str) -> bool:
    """Returns whether `entry` has a number that is not negative under each of `names`."""
    return isinstance(entry, dict) and all(
        type(entry.get(name)) is int and entry[name] >= 0 for name in names
    )


def _check_names(dataset: Dataset) -> None:
    """Raises Damaged if dataset.json describes other vocabularies or other classes."""
    files = dataset.description["files"]
    found = {"classes": list(dataset.labels)}
    if VOCABULARY in files:
        found["vocabulary_size"] = len(dataset.vocabulary)
        found["vocabulary_sha256"] = files[VOCABULARY]["sha256"]
    if TARGET_VOCABULARY in files:
        found["target_vocabulary_size"] = len(dataset.target_vocabulary)
        found["target_vocabulary_sha256"] = files[TARGET_VOCABULARY]["sha256"]
    for part, value in found.items():
        if dataset.description.get(part, value) != value:
            raise Damaged(dataset.folder / DESCRIPTION, f"its {part} is not what its files hold")


def vocabulary_sha256(description: Mapping) -> str:
    """Returns the sha256 of the vocabulary that a dataset.json describes; "" if it has none."""
    return description["files"].get(VOCABULARY, {}).get("sha256", "")


def _check_files(folder: pathlib.Path, files: Mapping[str, Mapping], verify: bool) -> None:
    for name, expected in files.items():
        path = folder / name
        try:
            size = path.stat().st_size
            if size != expected["size"]:
                raise Damaged(path, f"{size} bytes, but dataset.json has {expected['size']}")
            if verify and durable.sha256(path) != expected["sha256"]:
                raise Damaged(path, "its sha256 is not the one in dataset.json")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as problem:
            raise Damaged(path, f"cannot be read ({problem.strerror})") from None
        except OSError as problem:
            raise _unreadable(path, problem) from None


def _arrays(read: fields.Input, target: fields.Target) -> list[str]:
    """Returns the names of the arrays of a split."""
    offsets = "target_offsets" if target.sequence else ""
    return [name for name in (read.array, "offsets", target.array, offsets) if name]


def _open_split(folder: pathlib.Path, description: Mapping) -> Split:
    read, target = input_in(description), target_in(description)
    arrays = {}
    for name in _arrays(read, target):
        dtype, rank = ARRAYS[name], 2 if name in _TABLES else 1
        path = folder / f"{name}.npy"
        try:
            arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as problem:
            raise Damaged(path, f"it is not a NumPy array ({problem})") from None
        if arrays[name].dtype != dtype or arrays[name].ndim != rank:
            raise Damaged(
                path,
                f"{arrays[name].dtype} of rank {arrays[name].ndim}, but must be {dtype} of rank "
                f"{rank}",
            )
    return Split(
        arrays[read.array],
        arrays["offsets"],
        arrays.get(target.array),
        arrays.get("target_offsets"),
        normalise_in(description),
        standardise_in(description),
    )


def _check_shapes(folder: pathlib.Path, split: Split, description: Mapping, name: str) -> None:
    expected, read = description["splits"][name], input_in(description)
    target, form = target_in(description), form_in(description)
    counts = [
        ("offsets", len(split), expected["examples"]),
        (read.array, len(split.inputs), expected[read.array]),
    ]
    for array, values, width in (
        (read.array, split.inputs, form.features),
        (target.array, split.targets, form.values),
    ):
        if array in _TABLES and values.shape[1] != width:
            raise Damaged(
                folder / f"{array}.npy",
                f"a row has {values.shape[1]} numbers, but dataset.json has {width}",
            )
    if target.sequence:
        counts.append(("target_offsets", len(split.target_offsets) - 1, expected["examples"]))
        counts.append((target.array, len(split.targets), expected[target.array]))
    elif split.targets is not None:
        wanted = expected[read.array if target.per_step else "examples"]
        counts.append((target.array, len(split.targets), wanted))
    for name, seen, wanted in counts:
        _check_count(folder / f"{name}.npy", name, seen, wanted)


def _check_count(path: pathlib.Path, name: str, seen: int, wanted: int) -> None:
    if seen != wanted:
        raise Damaged(path, f"the count of {name} is {seen}, but dataset.json has {wanted}")


def _check_ranges(folder: pathlib.Path, split: Split, dataset: Dataset) -> None:
    read, target = dataset.input, dataset.target
    _check_offsets(folder / "offsets.npy", split.offsets, len(split.inputs), read)
    columns = [(read.array, split.inputs, len(dataset.vocabulary))]
    if split.targets is not None:
        columns.append((target.array, split.targets, dataset.outputs))
    if target.sequence:
        offsets = folder / "target_offsets.npy"
        _check_offsets(offsets, split.target_offsets, len(split.targets), read)
        texts = folder / TARGET_TEXTS
        _check_count(texts, "texts", _count_lines(texts), len(split))
    for name, values, limit in columns:
        rows = max(1, _BLOCK // math.prod(values.shape[1:]))
        for begin in range(0, len(values), rows):
            part = values[begin : begin + rows]
            if name in _TABLES:
                if not np.isfinite(part).all():
                    raise Damaged(folder / f"{name}.npy", "a number in it is not finite")
            elif part.min() < 0 or part.max() >= limit:
                raise Damaged(folder / f"{name}.npy", f"an id is outside 0..{limit - 1}")


def _check_offsets(path: pathlib.Path, offsets: np.ndarray, total: int, read: fields.Input) -> None:
    if offsets[0] != 0 or offsets[-1] != total or (np.diff(offsets) < 1).any():
        raise Damaged(path, f"the offsets do not rise from 0 to the number of {read.array}")


def _count_lines(path: pathlib.Path) -> int:
    try:
        with open(path, "rb") as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(_BLOCK), b""))
    except OSError as problem:
        raise _unreadable(path, problem) from None


def _read_entries(path: pathlib.Path) -> tuple[str, ...]:
    """Returns the entries of a vocabulary."""
    return tuple(map(unescape, _read_lines(path)))


def _read_lines(path: pathlib.Path) -> list[str]:
    """Returns the lines of a file. `str.splitlines` also splits at U+0085, U+2028 and others."""
    try:
        return durable.read_bytes(path).decode("utf-8").split("\n")[:-1]
    except UnicodeDecodeError:
        raise Damaged(path, "it is not the UTF-8 that `prepare` wrote") from None
    except OSError as problem:
        raise _unreadable(path, problem) from None


def escape(entry: str) -> str:
    r"""Returns `entry` as one line.

    Backslashes, control characters and Unicode's line separators become \\, \xhh and \uhhhh.
    """
    return re.sub(r"[\\\x00-\x1f\x7f-\x9f\u2028\u2029]", _escaped, entry)


def _escaped(match: re.Match) -> str:
    code = ord(match[0])
    if match[0] == "\\":
        return r"\\"
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def unescape(line: str) -> str:
    r"""Returns the entry that `escape` turned into `line`."""
    return re.sub(r"\\(\\|x[0-9a-f]{2}|u[0-9a-f]{4})", _unescaped, line)


def _unescaped(match: re.Match) -> str:
    return "\\" if match[1] == "\\" else chr(int(match[1][1:], 16))


@contextlib.contextmanager
def new_folder(data_dir: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields an empty folder beside `data_dir`, to be filled and given to `publish`.

    If it is not published, it is removed at the end of the block. Leftovers of killed writers on
    this host are removed first.

    Raises:
      StorageError: a file could not be written.
    """
    data_dir = pathlib.Path(data_dir).absolute()
    try:
        durable.make_folder(data_dir.parent)
        with durable.temporary_folder(data_dir) as folder:
            yield folder
    except OSError as problem:
        raise StorageError(
            f"--data_dir={data_dir}: writing failed ({problem}). Free space or name another "
            "folder, then run the same command again; nothing was left behind."
        ) from problem


class SplitWriter:
    """Writes the arrays of a split and counts their content."""

    def __init__(
        self,
        folder: pathlib.Path,
        lengths: np.ndarray,
        target: fields.Target = fields.LABEL,
        starts: int = 1,
        target_lengths: np.ndarray | None = None,
        form: fields.Form | None = None,
    ):
        """
        Args:
          folder: of the arrays; its name is that of the split.
          lengths: int [examples], ids or frames of each example.
          target: of the dataset.
          starts: ids at the start of an example that stand for no token of it.
          target_lengths: int [examples], ids of the target of each example, if that is a sequence.
          form: of the dataset, if its inputs are frames or its target is values.
        """
        form = form or fields.Form(target)
        folder.mkdir()
        self._folder, self._lengths, self._target, self._starts = folder, lengths, target, starts
        self._target_lengths = target_lengths
        self._total = int(lengths.sum())
        self._input = fields.FRAMES if form.features else fields.TOKENS
        self._inputs = self._array(self._input.array, self._total, form.features)
        self._offsets = {"offsets": lengths}
        self._counts = np.zeros(0, np.int64)  # Of each class.
        if target.sequence:
            self._offsets["target_offsets"] = target_lengths
            self._targets = self._array(target.array, int(target_lengths.sum()))
            self._texts = HashedFile(folder / TARGET_TEXTS)
        elif target.array:
            count = self._total if target.per_step else len(lengths)
            self._targets = self._array(target.array, count, form.values)

    def _array(self, name: str, length: int, width: int = 0) -> "ArrayWriter":
        return ArrayWriter(self._folder / f"{name}.npy", ARRAYS[name], length, width)

    def write(self, inputs: np.ndarray) -> None:
        """Appends tokens or frames of the examples, in order and end to end."""
        self._inputs.write(inputs)

    def write_targets(self, values: np.ndarray) -> None:
        """Appends targets, in order and end to end.

        They are classes of the examples or of their tokens (`fields.Target.per_step`), tokens
        (`fields.Target.sequence`), or rows of values.
        """
        self._targets.write(values)
        if self._target.classes:
            counts = np.bincount(values, minlength=len(self._counts))
            counts[: len(self._counts)] += self._counts
            self._counts = counts

    def write_target_texts(self, texts: Iterable[str]) -> None:
        """Appends the targets of the examples as they were read, if they are texts."""
        self._texts.write("".join(f"{escape(text)}\n" for text in texts).encode("utf-8"))

    def close(self) -> dict[str, dict]:
        """Closes the files; returns {name below the dataset's folder: {"size", "sha256"}}."""
        writers = {f"{self._input.array}.npy": self._inputs}
        for name, lengths in self._offsets.items():
            writers[f"{name}.npy"] = self._array(name, len(lengths) + 1)
            writers[f"{name}.npy"].write(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))
        if self._target.array:
            writers[f"{self._target.array}.npy"] = self._targets
        if self._target.sequence:
            writers[TARGET_TEXTS] = self._texts
        return {f"{self._folder.name}/{name}": writer.close() for name, writer in writers.items()}

    def described(self, names: Sequence[str]) -> dict:
        """Returns the entry of the split in dataset.json; `names`: names of the classes by id.

        `lengths` counts examples by the smallest power of two that is not below their length;
        `target_lengths` counts them by the length of their target.
        """
        counts = np.zeros(len(names), np.int64)
        counts[: len(self._counts)] = self._counts
        return {
            "examples": len(self._lengths),
            self._input.array: self._total,
            **({self._target.array: dict(zip(names, counts.tolist()))} if names else {}),
            "lengths": _histogram(self._lengths),
            "longest": int(self._lengths.max()),
            **(
                {}
                if self._input.numbers
                else {"empty_texts": int((self._lengths == self._starts).sum())}
            ),
            **(
                {
                    "target_tokens": int(self._target_lengths.sum()),
                    "target_lengths": _histogram(self._target_lengths),
                    "target_longest": int(self._target_lengths.max()),
                }
                if self._target.sequence
                else {}
            ),
        }


def _histogram(lengths: np.ndarray) -> dict[str, int]:
    """Returns {smallest power of two that is not below a length: how many have such a length}."""
    buckets = collections.Counter((1 << np.ceil(np.log2(lengths)).astype(int)).tolist())
    return {str(bucket): buckets[bucket] for bucket in sorted(buckets)}


class ArrayWriter:
    """Writes a .npy file piece by piece and computes its sha256."""

    def __init__(self, path: pathlib.Path, dtype: np.dtype, length: int, width: int = 0):
        """
        Args:
          length: how many elements will be written; the header contains it.
          width: numbers of a row, of which `length` will be written; 0 for single elements.
        """
        self._file = HashedFile(path)
        self._dtype = dtype
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header,
            {
                "descr": np.lib.format.dtype_to_descr(dtype),
                "fortran_order": False,
                "shape": (length, width) if width else (length,),
            },
        )
        self._file.write(header.getvalue())

    def write(self, values: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(values, self._dtype).tobytes())

    def close(self) -> dict:
        """Closes the file. Returns its {"size", "sha256"}."""
        return self._file.close()


class HashedFile:
    """Writes a new file and computes its size and sha256."""

    def __init__(self, path: pathlib.Path):
        self._file = open(path, "wb")
        self._digest = hashlib.sha256()

    def write(self, content: bytes) -> None:
        self._file.write(content)
        self._digest.update(content)

    def close(self) -> dict:
        """Closes the file; `publish` makes it durable. Returns its {"size", "sha256"}."""
        size = self._file.tell()
        self._file.close()
        return {"size": size, "sha256": self._digest.hexdigest()}


def write_lines(path: pathlib.Path, lines: Sequence[str]) -> dict:
    """Writes a text file. Returns its {"size", "sha256"}."""
    file = HashedFile(path)
    file.write("".join(f"{line}\n" for line in lines).encode("utf-8"))
    return file.close()


def publish(folder: pathlib.Path, description: Mapping, data_dir: str | os.PathLike) -> Dataset:
    """Writes dataset.json and gives a finished folder its final name.

    If several processes publish at once, one wins.

    Args:
      folder: from `new_folder`, with every file that `description["files"]` names.
      description: content of dataset.json, without `format`: 2 if it names a task, else 1.
      data_dir: the final name.

    Returns:
      The dataset in `data_dir`: this one, or an equal one that was there first.

    Raises:
      UsageError: another dataset, or something else, has that name. It is not changed.
    """
    data_dir = pathlib.Path(data_dir)
    described = {"format": 2 if "task" in description else 1, **description}
    content = json.dumps(described, indent=1, sort_keys=True) + "\n"
    file = HashedFile(folder / DESCRIPTION)
    file.write(content.encode())
    digest = file.close()["sha256"]
    (folder / DIGEST).write_bytes(_digest_line(digest))
    try:
        durable.publish(folder, data_dir)
    except OSError:
        if not data_dir.exists():  # No other writer won: the storage failed.
            raise
        _accept_existing(data_dir, digest)
        return open_dataset(data_dir)
    return open_dataset(data_dir, verify=False)


def _accept_existing(data_dir: pathlib.Path, digest: str) -> None:
    refuse_other_content(data_dir)
    _, existing = read_description(data_dir)
    if existing != digest:
        raise UsageError(
            f"--data_dir={data_dir}: holds another dataset (digest {existing[:12]}, the new one is "
            f"{digest[:12]}). It was not changed: name another folder, or delete this one first."
        )
    log.info("%s: already prepared, the same dataset (digest %s)", data_dir, digest[:12])


def refuse_other_content(data_dir: str | os.PathLike) -> None:
    """Raises UsageError if `data_dir` exists but is neither a prepared dataset nor empty."""
    data_dir = pathlib.Path(data_dir)
    if data_dir.is_dir() and (data_dir / "dataset.json").exists():
        return
    if kind := durable.why_not_replaced(data_dir):
        raise UsageError(
            f"--data_dir={data_dir}: is {kind}. A dataset gets its name when it is complete, so "
            f"the name must be free: name a folder in it, such as {data_dir / 'data'}."
        )
    if data_dir.is_dir() and not any(data_dir.iterdir()):
        return
    if data_dir.exists():
        raise UsageError(
            f"--data_dir={data_dir}: exists and is not a prepared dataset. It was not changed: "
            "name a folder that does not exist yet."
        )
