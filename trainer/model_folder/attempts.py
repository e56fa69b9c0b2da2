"""The attempts at a run: one small file each in MODEL_DIR/lock, and the step from which each began.

The process that creates the file of a number is that attempt. The system lets only one process
create it (O_EXCL), whatever other processes do at the same time on whatever hosts. The file is
never removed, so no number is used twice. Only its own attempt writes to it. The attempt with the
highest number is the one that counts.

The step from which an attempt began is a fence. An earlier attempt may still be alive somewhere;
what it commits beyond that step afterwards is not part of the run. A damaged fence would leave out
checkpoints of the run, so a record has a seal (`sealed`).
"""

import pathlib
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from trainer import durable, sealed
from trainer.model_folder import journal

_NUMBER = re.compile(r"\d{8,}")
# Keys of records before they had a seal.
_OLDER = ("attempt", "host", "boot", "pid", "started", "beat", "began", "fences", "ended")


class Fence(NamedTuple):
    """`attempt` began from `step`."""

    attempt: int
    step: int


def superseding(fences: Iterable[Fence], attempt: int, step: int) -> Fence | None:
    """Returns a fence that excludes a checkpoint of `step` by `attempt` from the run.

    None if the checkpoint is part of the run.
    """
    return next((fence for fence in fences if attempt < fence.attempt and step > fence.step), None)


def outermost(fences: Iterable[Fence]) -> tuple[Fence, ...]:
    """Returns `fences` by attempt, without those that exclude nothing which a later one does not.

    A fence is superfluous if a later attempt began from the same step or an earlier one.
    """
    kept: list[Fence] = []
    for fence in sorted(fences, reverse=True):
        if not kept or fence.step < kept[-1].step:
            kept.append(fence)
    return tuple(reversed(kept))


def fences(model_dir: pathlib.Path) -> tuple[Fence, ...]:
    """Returns the fences of a model folder.

    They are those that the newest attempt with a state knew when it began, and its own. If a record
    is lost or damaged, the journal is read, too: it has the same fences.
    """
    found: list[Fence] = []
    complete = True
    for number in reversed(numbers(model_dir)):
        record = parse(content(model_dir, number))
        if "began" in record:
            found = [*record["fences"], Fence(number, record["began"])]
            break
        complete &= bool(record)
    return outermost(found if found and complete else [*found, *_in_journal(model_dir)])


def last_in_journal(model_dir: pathlib.Path) -> int:
    """Returns the highest number in the journal, or 0: numbers continue even if files are lost."""
    found = (entry.get("attempt") for entry in journal.read(model_dir / "journal.jsonl"))
    return max(filter(_is_count, found), default=0)


def numbers(model_dir: pathlib.Path) -> list[int]:
    """Returns the numbers of the attempts that have a file, ascending."""
    try:
        names = [path.name for path in folder(model_dir).iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(name) for name in names if _NUMBER.fullmatch(name))


def folder(model_dir: pathlib.Path) -> pathlib.Path:
    """Returns the folder of the attempts' files."""
    return model_dir / "lock"


def path_of(model_dir: pathlib.Path, number: int) -> pathlib.Path:
    """Returns the file of attempt `number`."""
    return folder(model_dir) / f"{number:08d}"


def content(model_dir: pathlib.Path, number: int) -> bytes:
    """Returns the content of the file of attempt `number`; empty if there is no file."""
    try:
        return durable.read_bytes(path_of(model_dir, number))
    except (FileNotFoundError, NotADirectoryError):
        return b""


def parse(text: bytes) -> dict[str, Any]:
    """Returns the record in an attempt's file; {} if it is damaged or not yet written.

    Fields: attempt, host, boot (of the kernel), pid, started, beat (times); once it has a state,
    began (a step) and fences (those before it); after it let go, ended (a time).
    """
    try:
        record = sealed.read(text.split(b"\n")[0], _OLDER)
        known = [Fence(*pair) for pair in record.get("fences", [])]
        counts = [
            record["attempt"],
            record["pid"],
            record.get("began", 0),
            *(number for fence in known for number in fence),
        ]
        texts = [record["host"], record["boot"], record["started"]]
    except (ValueError, TypeError, KeyError):
        return {}
    if not all(map(_is_count, counts)) or not all(isinstance(text, str) for text in texts):
        return {}
    return {**record, "fences": known}


def _in_journal(model_dir: pathlib.Path) -> list[Fence]:
    starts = (
        entry
        for entry in journal.read(model_dir / "journal.jsonl")
        if entry.get("event") == "start"
    )
    pairs = ((entry.get("attempt"), entry.get("step")) for entry in starts)
    return [Fence(*pair) for pair in pairs if all(map(_is_count, pair))]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
