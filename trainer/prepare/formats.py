"""Readers of the file formats: csv, tsv, jsonl and TFRecord.

Every reader takes an open stream and yields rows with the line (TFRecord: the record) that each
begins on. Files may be compressed (.gz, .xz), start with a BOM and end their lines with CRLF.
Blank lines are skipped; an empty text is a row.

    csv       a header line with column names; quotes as in RFC 4180: a quoted field may hold line
              breaks
    tsv       a header line with column names; quotes are ordinary characters, so no field holds a
              tab or line break
    jsonl     an object per line; the text is a string, the label a string or an integer
    tfrecord  tf.train.Example; the text is one string, the label one string or int64
"""

import csv
import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from google.protobuf import message as protobuf

from trainer.exit_codes import DataError
from trainer.prepare import raw_files, tfrecord
from trainer.prepare.rows import Place, Row, at


@dataclasses.dataclass(frozen=True)
class Columns:
    """Names of the columns (features, keys) that make a row; "" if there is none."""

    text: str
    label: str = ""
    split: str = ""

    @property
    def names(self) -> list[tuple[str, str]]:
        """(flag, column) of each column that a file must have."""
        named = [
            ("text_column", self.text),
            ("label_column", self.label),
            ("split_column", self.split),
        ]
        return [(flag, column) for flag, column in named if column]

    def positions(self, header: list[str], place: Place) -> dict[str, int]:
        """Returns {column: its position in a header line}.

        Raises:
          DataError: a column is missing or occurs twice.
        """
        for flag, column in self.names:
            if header.count(column) != 1:
                raise DataError(
                    f"{at(place)}: {header.count(column) or 'no'} columns {column!r}; the header "
                    f"line has {', '.join(map(repr, header)) or 'nothing'}. Name the right one "
                    f"with --{flag}."
                )
        return {column: header.index(column) for _, column in self.names}


def read_csv(stream: raw_files.Stream, columns: Columns, max_line_bytes: int) -> Iterator[Row]:
    """Returns the rows of a CSV file.

    Malformed quoting is an error, since one stray quote would swallow many rows.
    """
    return _table(stream, columns, _csv_records(stream, max_line_bytes))


def _csv_records(stream: raw_files.Stream, max_line_bytes: int) -> Iterator[tuple[int, list[str]]]:
    """Returns (first line, fields) of each record."""
    csv.field_size_limit(max_line_bytes)
    lines = (_decoded(line) + "\n" for _, line in raw_files.lines(stream, max_line_bytes))
    reader = csv.reader(lines, strict=True)
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as problem:
            raise DataError(
                f"{stream.path}:{number}: the record that begins here is not valid CSV "
                f"({problem}). Close or double its quotes; if quotes mean nothing in this file, "
                "use --source=tsv."
            ) from None
        if fields is None:
            return
        if fields:
            yield number, fields


def _decoded(content: bytes) -> str:
    # Bad UTF-8 passes through as lone surrogates, so that only texts and labels that are used are
    # checked for it.
    return content.decode("utf-8", "surrogateescape")


def read_tsv(stream: raw_files.Stream, columns: Columns, max_line_bytes: int) -> Iterator[Row]:
    """Returns the rows of a TSV file."""
    lines = raw_files.lines(stream, max_line_bytes)
    records = ((number, _decoded(line).split("\t")) for number, line in lines if line)
    return _table(stream, columns, records)


def _table(
    stream: raw_files.Stream, columns: Columns, records: Iterator[tuple[int, list[str]]]
) -> Iterator[Row]:
    """Returns the rows of records that follow a header record."""
    number, header = next(records, (1, []))
    positions = columns.positions(header, (stream.path, number))
    text, label, split = map(positions.get, (columns.text, columns.label, columns.split))
    for number, fields in records:
        if len(fields) != len(header):
            raise DataError(
                f"{stream.path}:{number}: {len(fields)} fields, but the header line has "
                f"{len(header)}. Repair the row: a separator within a text must be quoted (csv) "
                "or removed (tsv)."
            )
        yield (
            (stream.path, number),
            fields[text].encode("utf-8", "surrogateescape"),
            None if label is None else fields[label],
            None if split is None else fields[split],
        )


def read_jsonl(stream: raw_files.Stream, columns: Columns, max_line_bytes: int) -> Iterator[Row]:
    """Returns the rows of a file with one JSON object per line."""
    for place, row in json_objects(stream, columns, max_line_bytes):
        yield _row(place, row, columns)


def json_objects(
    stream: raw_files.Stream, columns: Columns, max_line_bytes: int
) -> Iterator[tuple[Place, dict]]:
    """Returns (place, object) of each line of a file; every object has all `columns`."""
    for number, line in raw_files.lines(stream, max_line_bytes):
        if not line.strip():
            continue
        place = (stream.path, number)
        try:
            row = json.loads(_decoded(line))
        except (ValueError, RecursionError) as problem:
            raise DataError(
                f"{at(place)}: not valid JSON ({problem}). Each line must be one object."
            ) from None
        if not isinstance(row, dict):
            raise DataError(
                f"{at(place)}: a {type(row).__name__}, but each line must be one JSON object."
            )
        _check_names(place, row, columns)
        yield place, row


def _check_names(place: Place, row: dict, columns: Columns) -> None:
    for flag, column in columns.names:
        if column not in row:
            raise DataError(
                f"{at(place)}: no {column!r}; there are {', '.join(map(repr, row)) or 'none'}. "
                f"Name the right one with --{flag}."
            )


def _row(place: Place, row: dict, columns: Columns) -> Row:
    """Returns the row that {column: value} describes."""
    text = row[columns.text]
    label, split = (row[column] if column else None for column in (columns.label, columns.split))
    text = utf8(text) if isinstance(text, str) else text
    label, split = (
        _decoded(value) if isinstance(value, bytes) else value for value in (label, split)
    )
    if not isinstance(text, bytes):
        raise DataError(f"{at(place)}: {columns.text!r} is {text!r}, but a text must be a string.")
    if columns.label and not is_label(label):
        raise DataError(
            f"{at(place)}: {columns.label!r} is {label!r}, but a label must be a string or a whole "
            "number."
        )
    check_split(place, split, columns)
    return place, text, label, split


def is_label(value: Any) -> bool:
    """Returns whether a value is a string or a whole number."""
    return isinstance(value, str | int) and not isinstance(value, bool)


def check_split(place: Place, split: Any, columns: Columns) -> None:
    """Raises DataError if the value of the split column, if there is one, is not a string."""
    if columns.split and not isinstance(split, str):
        raise DataError(
            f"{at(place)}: {columns.split!r} is {split!r}, but the name of a split must be a "
            "string."
        )


def utf8(text: str) -> bytes:
    """Returns the bytes of a string of JSON."""
    # An escaped lone surrogate becomes bytes that are not valid UTF-8 and is reported as such.
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def read_tfrecord(stream: raw_files.Stream, columns: Columns, max_line_bytes: int) -> Iterator[Row]:
    """Returns the rows of a file of serialized tf.train.Example."""
    wanted = {column for _, column in columns.names}
    for number, record in tfrecord.records(stream, max_line_bytes):
        place = (stream.path, number)
        try:
            features = tf.train.Example.FromString(record).features.feature
        except protobuf.DecodeError:
            raise DataError(
                f"{at(place)}: record {number} is not a tf.train.Example. Write it with "
                "Example.SerializeToString."
            ) from None
        row = {
            name: _value(feature, name, place) if name in wanted else None
            for name, feature in features.items()
        }
        _check_names(place, row, columns)
        yield _row(place, row, columns)


def _value(feature: tf.train.Feature, name: str, place: Place) -> bytes | int | float:
    kind = feature.WhichOneof("kind")
    values = getattr(feature, kind).value if kind else ()
    if len(values) != 1:
        raise DataError(
            f"{at(place)}: feature {name!r} has {len(values)} values, but it must have one."
        )
    return values[0]


READERS: dict[str, Callable[[raw_files.Stream, Columns, int], Iterator[Row]]] = {
    "csv": read_csv,
    "tsv": read_tsv,
    "jsonl": read_jsonl,
    "tfrecord": read_tfrecord,
}
