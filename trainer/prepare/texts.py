"""Files of running text, each of them one text or each line one.

A text may be larger than memory: it is read in pieces of whole lines.
"""

import dataclasses
from collections.abc import Iterator

from trainer.exit_codes import DataError
from trainer.prepare import raw_files
from trainer.prepare.rows import Row, Rows


def read_pieces(stream: raw_files.Stream, max_line_bytes: int) -> Iterator[Row]:
    """Returns the text of a file as rows, line ends included; `joined` marks which belong together.

    Raises:
      DataError: the file is empty.
    """
    for number, text in _not_empty(stream, raw_files.pieces(stream, max_line_bytes)):
        yield (stream.path, number), text, None, None


def joined(rows: Rows) -> Rows:
    """Returns rows of `read_pieces`, marked: all but the first row of a file continue its text."""
    return dataclasses.replace(rows, continues=[line > 1 for _, line in rows.places])


def read_lines(stream: raw_files.Stream, max_line_bytes: int) -> Iterator[Row]:
    """Returns each line of a file that is not blank as a row.

    Raises:
      DataError: the file is empty.
    """
    for number, line in _not_empty(stream, raw_files.lines(stream, max_line_bytes)):
        if line.strip():
            yield (stream.path, number), line, None, None


def _not_empty(
    stream: raw_files.Stream, numbered: Iterator[tuple[int, bytes]]
) -> Iterator[tuple[int, bytes]]:
    """Returns what it is given; raises DataError if that is nothing."""
    empty = True
    for entry in numbered:
        empty = False
        yield entry
    if empty:
        raise DataError(
            f"{stream.path}:1: the file is empty (0 bytes of text), but every file must hold a "
            "text. Copy it again, or leave it out of the glob."
        )
