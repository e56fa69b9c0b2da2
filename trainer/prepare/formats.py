"""Files in each format to rows: csv, tsv, jsonl, TFRecord, and folders of text files.

Every reader takes an open stream and yields rows with the line (TFRecord: the record) that each
begins on. All formats may be .gz or .xz, start with a BOM and end their lines with CRLF. Blank
lines are no rows; an empty text is one.

    csv       a header line with column names; quotes as in RFC 4180, a quoted field may hold line
        breaks
    tsv       a header line with column names; quotes are ordinary characters, so a field holds no
        tab or line break
    jsonl     an object per line; the text a string, the label a string or an integer
    tfrecord  tf.train.Example; the text one string, the label one string or int64
"""

import csv
import json
from collections.abc import Callable, Iterator

import tensorflow as tf
from google.protobuf import message as protobuf

from trainer.exit_codes import DataError
from trainer.prepare import raw_files, tfrecord
from trainer.prepare.rows import Row, at


class Columns:
    """The columns (or features, or keys) that a row is made of: text, label and, where asked for,
    split.
    """

    def __init__(self, text: str, label: str, split: str = ""):
        self.text, self.label, self.split = text, label, split

    @property
    def names(self) -> list[tuple[str, str]]:
        """(flag, column) of each column that a file must have."""
        named = [
            ("text_column", self.text),
            ("label_column", self.label),
            ("split_column", self.split),
        ]
        return [(flag, column) for flag, column in named if column]

    def positions(self, header: list[str], place: tuple[str, int]) -> list[int]:
        """Where the columns stand in a header line.

        Raises:
          DataError: one is missing or there twice.
        """
        for flag, column in self.names:
            if header.count(column) != 1:
                raise DataError(
                    f"{at(place)}: {header.count(column) or 'no'} columns {column!r}; the header "
                    "line has "
                    f"{', '.join(map(repr, header)) or 'nothing'}. Name the right one with "
                    f"--{flag}."
                )
        return [header.index(column) for _, column in self.names]


def read_csv(stream: raw_files.Stream, columns: Columns, max_line_bytes: int) -> Iterator[Row]:
    """Rows of a CSV file. Malformed quoting is an error, since one stray quote would swallow many
    rows.
    """
    yield from _table(stream, columns, _csv_records(stream, max_line_bytes))


def _csv_records(stream: raw_files.Stream, max_line_bytes: int) -> Iterator[tuple[int, list[str]]]:
    """(first line, fields) of each record."""
    csv.field_size_limit(max_line_bytes)
    reader = csv.reader(_decoded_lines(stream, max_line_bytes), strict=True)
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as problem:
            raise DataError(
                f"{stream.path}:{number}: the record that begins here is no CSV ({problem}). Close "
                "or "
                "double its quotes; if quotes mean nothing in this file, use --source=tsv."
            ) from None
        if fields is None:
            return
        if fields:
            yield number, fields


def _decoded_lines(stream: raw_files.Stream, max_line_bytes: int) -> Iterator[str]:
    for _, line in raw_files.lines(stream, max_line_bytes):
        yield _decoded(line) + "\n"


def _decoded(content: bytes) -> str:
    # What is not UTF-8 passes through as lone surrogates, so that only a text or label in use is
    # judged by it.
    return content.decode("utf-8", "surrogateescape")


def read_tsv(stream: raw_files.Stream, columns: Columns, max_line_bytes: int) -> Iterator[Row]:
    """Rows of a TSV file."""
    lines = raw_files.lines(stream, max_line_bytes)
    yield from _table(
        stream, columns, ((number, _decoded(line).split("\t")) for number, line in lines if line)
    )


def _table(stream, columns: Columns, records: Iterator[tuple[int, list[str]]]) -> Iterator[Row]:
    """Rows of records that follow a header record."""
    number, header = next(records, (1, []))
    text, label, *split = columns.positions(header, (stream.path, number))
    for number, fields in records:
        if len(fields) != len(header):
            raise DataError(
                f"{stream.path}:{number}: {len(fields)} fields, but the header line has "
                f"{len(header)}. "
                "Repair the row: a separator within a text must be quoted (csv) or removed (tsv)."
            )
        yield (
            (stream.path, number),
            fields[text].encode("utf-8", "surrogateescape"),
            fields[label],
            fields[split[0]] if split else None,
        )


def read_jsonl(stream: raw_files.Stream, columns: Columns, max_line_bytes: int) -> Iterator[Row]:
    """Rows of a file with one JSON object per line."""
    for number, line in raw_files.lines(stream, max_line_bytes):
        if not line.strip():
            continue
        place = (stream.path, number)
        try:
            row = json.loads(_decoded(line))
        except (ValueError, RecursionError) as problem:
            raise DataError(
                f"{at(place)}: no JSON ({problem}). Each line must be one object."
            ) from None
        if not isinstance(row, dict):
            raise DataError(
                f"{at(place)}: a {type(row).__name__}, but each line must be one JSON object."
            )
        yield _row(place, row, columns)


def _row(place: tuple[str, int], row: dict, columns: Columns) -> Row:
    """A row from {column: value}."""
    for flag, column in columns.names:
        if column not in row:
            raise DataError(
                f"{at(place)}: no {column!r}; there are {', '.join(map(repr, row)) or 'none'}. "
                f"Name the right one with --{flag}."
            )
    text, label, split = (
        row[columns.text],
        row[columns.label],
        row[columns.split] if columns.split else None,
    )
    text = _utf8(text) if isinstance(text, str) else text
    label, split = (
        _decoded(value) if isinstance(value, bytes) else value for value in (label, split)
    )
    if not isinstance(text, bytes):
        raise DataError(f"{at(place)}: {columns.text!r} is {text!r}, but a text must be a string.")
    if isinstance(label, bool) or not isinstance(label, str | int):
        raise DataError(
            f"{at(place)}: {columns.label!r} is {label!r}, but a label must be a string or a whole "
            "number."
        )
    if columns.split and not isinstance(split, str):
        raise DataError(
            f"{at(place)}: {columns.split!r} is {split!r}, but the name of a split must be a "
            "string."
        )
    return place, text, label, split


def _utf8(text: str) -> bytes:
    """Bytes of a JSON string; an escaped lone surrogate becomes bytes that are not UTF-8, to be
    judged as such.
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def read_tfrecord(stream: raw_files.Stream, columns: Columns, max_line_bytes: int) -> Iterator[Row]:
    """Rows of a file of serialized tf.train.Example."""
    for number, record in tfrecord.records(stream, max_line_bytes):
        place = (stream.path, number)
        try:
            features = tf.train.Example.FromString(record).features.feature
        except protobuf.DecodeError:
            raise DataError(
                f"{at(place)}: record {number} is no tf.train.Example. Write it with "
                "Example.SerializeToString."
            ) from None
        wanted = {column for _, column in columns.names}
        row = {
            name: _value(feature, name, place) if name in wanted else None
            for name, feature in features.items()
        }
        yield _row(place, row, columns)


def _value(feature, name: str, place: tuple[str, int]) -> bytes | str | int | float:
    """The one value of a feature."""
    kind = feature.WhichOneof("kind")
    values = getattr(feature, kind).value if kind else ()
    if len(values) != 1:
        raise DataError(
            f"{at(place)}: feature {name!r} has {len(values)} values, but it must have one."
        )
    return values[0]


READERS: dict[str, Callable[..., Iterator[Row]]] = {
    "csv": read_csv,
    "tsv": read_tsv,
    "jsonl": read_jsonl,
    "tfrecord": read_tfrecord,
}
