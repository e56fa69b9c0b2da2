"""Two files of which line i of one is the translation of line i of the other."""

import os
from collections.abc import Iterator, Sequence

from trainer.exit_codes import DataError, UsageError
from trainer.prepare import raw_files
from trainer.prepare.rows import Row, TargetText


def matched(
    files: Sequence[str], targets: Sequence[str], flag: str, target_flag: str
) -> list[tuple[str, str]]:
    """Returns (file, file with its translations) in order.

    Args:
      flag, target_flag: the flags that name the files.

    Raises:
      UsageError: one side has more files than the other, or both have the same file.
    """
    if len(files) != len(targets):
        raise UsageError(
            f"--{flag} and --{target_flag}: {len(files)} files, {files[0]} and so on, but "
            f"{len(targets)} with translations, {targets[0]} and so on. Each needs one: name as "
            "many on both sides."
        )
    for path, target in zip(files, targets):
        if os.path.samefile(path, target):
            raise UsageError(
                f"--{flag} and --{target_flag}: {path} and {target} are the same file. Name the "
                "texts with one flag, their translations with the other."
            )
    return list(zip(files, targets))


def read_lines(
    stream: raw_files.Stream, target: raw_files.Stream, max_line_bytes: int
) -> Iterator[Row]:
    """Returns line i of both files as a row.

    Raises:
      DataError: one file has more lines than the other.
    """
    lines = raw_files.lines(stream, max_line_bytes)
    targets = raw_files.lines(target, max_line_bytes)
    count = 0
    for count, line in lines:
        _, translation = next(targets, (0, None))
        if translation is None:
            raise _unequal(stream.path, count + _rest(lines), target.path, count - 1)
        yield (stream.path, count), line, TargetText((target.path, count), translation), None
    if more := _rest(targets):
        raise _unequal(stream.path, count, target.path, count + more)


def _rest(lines: Iterator[tuple[int, bytes]]) -> int:
    """Returns how many lines are left."""
    return sum(1 for _ in lines)


def _unequal(path: str, lines: int, target: str, target_lines: int) -> DataError:
    return DataError(
        f"{path}: {lines} lines, but {target} has {target_lines}: line i of one must be the "
        "translation of line i of the other. Find the first pair that does not belong together "
        "(paste FILE FILE shows them side by side), and repair the files."
    )
