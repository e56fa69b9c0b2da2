"""Sentences whose tokens have tags: columns as in CoNLL files, or two lists in JSON lines.

    conll    a token per line, in columns between white space; a blank line ends a sentence
    jsonl    an object per line with a list of tokens and a list of tags of the same length

A row has the tokens with one space between them as its text, and the tags as its label. No token
holds white space, so `spaces` makes the same tokens again.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from trainer import shown
from trainer.exit_codes import DataError
from trainer.prepare import formats, raw_files
from trainer.prepare.rows import Place, Row, at

_DOCUMENT = b"-DOCSTART-"
# In CoNLL-U, the line of several words that are written as one, or of a word that is not written.
_NOT_A_TOKEN = re.compile(rb"[0-9]+[-.][0-9]+")
_CONLL_U_COLUMNS = 10


class Columns(NamedTuple):
    """The columns of token and tag, from 0; negative ones are counted from the end."""

    token: int
    tag: int

    def check(self, columns: list[bytes], place: Place) -> None:
        """Raises DataError if a line has not both of them."""
        count = len(columns)
        found = {column % count for column in self if -count <= column < count}
        if len(found) < 2:
            remedy = "Repair the line, or name the right columns"
            if count == 1 and len(re.split(rb"[,;|]", columns[0])) > 1:
                remedy = "Put spaces or tabs between the columns: nothing else separates them"
            raise DataError(
                f"{at(place)}: {count} columns ({_shown(columns)}), but --token_column="
                f"{self.token} and --tag_column={self.tag} must be two of them, from 0 or from -1 "
                f"backwards. {remedy}."
            )


def read_conll(stream: raw_files.Stream, columns: Columns, max_line_bytes: int) -> Iterator[Row]:
    """Returns the sentences of a file in columns.

    Lines that begin with -DOCSTART- end a sentence, as blank lines do. A line that begins with # is
    a comment if it has not the form of the other lines: as many columns, with tabs or without. The
    lines 1-2 and 1.1 of CoNLL-U, which are no tokens, are skipped.

    Raises:
      DataError: a column is missing, or a line has not as many as the first one of its sentence.
    """
    form = None
    for lines in _sentences(stream, max_line_bytes):
        form = next((_form(line) for _, line in lines if not line.startswith(b"#")), form)
        tokens = [
            (number, line.split())
            for number, line in lines
            if not line.startswith(b"#") or _form(line) == form
        ]
        if columns.token:
            tokens = [entry for entry in tokens if not _is_no_token(entry[1])]
        if not tokens:
            continue
        first, first_columns = tokens[0]
        for number, found in tokens:
            place = (stream.path, number)
            columns.check(found, place)
            if len(found) != len(first_columns):
                raise DataError(
                    f"{at(place)}: {len(found)} columns ({_shown(found)}), but line {first}, with "
                    f"which the sentence begins, has {len(first_columns)}. Repair the line: no "
                    "column may be left out or hold a space."
                )
        yield (
            (stream.path, first),
            b" ".join(found[columns.token] for _, found in tokens),
            [found[columns.tag].decode("utf-8", "surrogateescape") for _, found in tokens],
            None,
        )


def _sentences(stream: raw_files.Stream, max_line_bytes: int) -> Iterator[list[tuple[int, bytes]]]:
    """Returns the (number, line) of each sentence, comments included."""
    pending, size = [], 0
    for number, line in raw_files.lines(stream, max_line_bytes):
        if not line.strip() or line.startswith(_DOCUMENT):
            if pending:
                yield pending
            pending, size = [], 0
            continue
        pending.append((number, line))
        size += len(line)
        if size > max_line_bytes:
            raise DataError(
                f"{stream.path}:{pending[0][0]}: the sentence that begins here is longer than "
                f"{max_line_bytes} bytes (--max_line_bytes). Put a blank line after each sentence, "
                "or raise --max_line_bytes."
            )
    if pending:
        yield pending


def _form(line: bytes) -> tuple[int, bool]:
    """Returns the number of columns, and whether there are tabs between them."""
    return len(line.split()), b"\t" in line


def _is_no_token(columns: list[bytes]) -> bool:
    return len(columns) == _CONLL_U_COLUMNS and bool(_NOT_A_TOKEN.fullmatch(columns[0]))


def _shown(columns: list[bytes]) -> str:
    return shown.names([column.decode("utf-8", "replace") for column in columns])


def read_jsonl(
    stream: raw_files.Stream, columns: formats.Columns, max_line_bytes: int
) -> Iterator[Row]:
    """Returns the sentences of a file with one JSON object per line.

    A sentence may have no token.

    Raises:
      DataError: tokens or tags are no lists of the same length, or a token holds white space.
    """
    for place, row in formats.json_objects(stream, columns, max_line_bytes):
        tokens = _list(place, row, columns.text, "tokens")
        tags = _list(place, row, columns.label, "tags")
        if len(tokens) != len(tags):
            raise DataError(
                f"{at(place)}: {len(tokens)} tokens in {columns.text!r}, but {len(tags)} tags in "
                f"{columns.label!r}. Every token needs one tag: repair the row."
            )
        encoded = [_token(place, token) for token in tokens]
        for tag in tags:
            if not formats.is_label(tag):
                raise DataError(
                    f"{at(place)}: the tag {shown.value(tag)}: must be a string or a whole number. "
                    "Repair the row."
                )
        split = row[columns.split] if columns.split else None
        formats.check_split(place, split, columns)
        yield place, b" ".join(encoded), tags, split


def _list(place: Place, row: dict, column: str, what: str) -> list:
    if not isinstance(row[column], list):
        raise DataError(
            f"{at(place)}: {column!r} is {shown.value(row[column])}, but it must be the list of "
            f"{what}. Repair the row, or name another column."
        )
    return row[column]


def _token(place: Place, token: Any) -> bytes:
    encoded = formats.utf8(token) if isinstance(token, str) else b""
    if encoded.split() != [encoded]:
        raise DataError(
            f"{at(place)}: the token {shown.value(token)}: must be a string that is not empty and "
            "holds no white space. Repair the row."
        )
    return encoded
