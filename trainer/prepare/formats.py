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

import contextlib
import csv
import dataclasses
import json
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from google.protobuf import message as protobuf

from trainer import shown
from trainer.exit_codes import DataError
from trainer.prepare import raw_files, tfrecord
from trainer.prepare.rows import Place, Row, TargetText, at

log = logging.getLogger(__name__)

# Separators of tables, and what helps if a header line holds one that its format does not split at.
_CONVERT = (
    'Convert it: python3 -c "import csv, sys; csv.writer(sys.stdout).writerows(csv.reader('
    "sys.stdin, delimiter='{}'))\" < FILE > NEW"
)
_SEPARATORS = {
    ",": "Use --source=csv",
    "\t": "Use --source=tsv",
    ";": _CONVERT.format(";"),
    "|": _CONVERT.format("|"),
}
# Labels by which a record inside a quoted field is known; a column of ids must not fill memory.
_KNOWN_LABELS = 1000


@dataclasses.dataclass(frozen=True)
class Columns:
    """Names of the columns (features, keys) that make a row; "" if there is none.

    values: those of the numbers that are to be learned instead of a label.
    """

    text: str
    label: str = ""
    split: str = ""
    target: str = ""
    values: tuple[str, ...] = ()

    @property
    def names(self) -> list[tuple[str, str]]:
        """(flag, column) of each column that a file must have."""
        named = [
            ("text_column", self.text),
            ("label_column", self.label),
            *(("label_column", name) for name in self.values),
            ("target_column", self.target),
            ("split_column", self.split),
        ]
        return [(flag, column) for flag, column in named if column]

    def positions(
        self, header: list[str], place: Place, records: Iterator[tuple[int, list[str]]]
    ) -> dict[str, int]:
        """Returns {column: its position in a header line}.

        Args:
          records: (line, fields) of the records after it; taken only to explain what is wrong.

        Raises:
          DataError: a column is missing or occurs twice.
        """
        for flag, column in self.names:
            if (count := header.count(column)) != 1:
                remedy = (
                    "Rename all but one of them in the header line"
                    if count
                    else self._remedy(header, records) or f"Name the right one with --{flag}"
                )
                raise DataError(
                    f"{at(place)}: {count or 'no'} columns {shown.value(column)}; the header line "
                    f"has {shown.names(header)}. {remedy}."
                )
        return {column: header.index(column) for _, column in self.names}

    def _remedy(self, header: list[str], records: Iterator[tuple[int, list[str]]]) -> str:
        """Returns what is wrong with a header line that lacks a column; "" if the name may be."""
        wanted = {column for _, column in self.names}
        if header and header[0].startswith("\ufeff"):
            return "The file begins with two byte order marks: remove one (tail -c +4 FILE > NEW)"
        if header and header[0].startswith("sep="):
            return "This is a line for Excel: remove it, so that the names are the first line"
        number, second = 0, []
        with contextlib.suppress(DataError):
            number, second = next(records, (0, []))
        if wanted <= set(second):
            return (
                f"Line {number} has the names: remove what is above it, so that they are the "
                "first line"
            )
        line = header[0] if len(header) == 1 else ""
        for separator, remedy in _SEPARATORS.items():
            if len(line.split(separator)) > 1:
                return f"Its columns seem to be separated by {separator!r}. {remedy}"
        if any(map(_is_data, header)):
            return (
                f"It looks like data: write a line with the names of the {len(header)} columns "
                "above it, separated as they are"
            )
        return ""


def _is_data(field: str) -> bool:
    """Returns whether a field is no name of a column: a number, or many words."""
    return bool(re.fullmatch(r"\s*[+-]?[0-9.]*[0-9]\s*", field)) or len(field.split()) > 4


def read_csv(stream: raw_files.Stream, columns: Columns, max_line_bytes: int) -> Iterator[Row]:
    """Returns the rows of a CSV file.

    Malformed quoting is an error, since one stray quote would swallow many rows.
    """
    return _table(stream, columns, csv_records(stream, max_line_bytes))


def csv_records(stream: raw_files.Stream, max_line_bytes: int) -> Iterator[tuple[int, list[str]]]:
    """Returns (first line, fields) of each record."""
    csv.field_size_limit(max_line_bytes)
    lines = (_decoded(line) + "\n" for _, line in raw_files.lines(stream, max_line_bytes))
    reader = csv.reader(lines, strict=True)
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as problem:
            remedy = "Close or double its quotes; if quotes mean nothing here, use --source=tsv"
            if "new-line character" in str(problem):
                problem = "a CR without LF stands in a field without quotes"
                remedy = f"Remove it from line {reader.line_num}, or quote the field"
            elif "field larger" in str(problem):
                remedy = "Close its quotes, or raise --max_line_bytes"
            raise DataError(
                f"{stream.path}:{number}: the record that begins here is not valid CSV "
                f"({problem}). {remedy}."
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
    positions = columns.positions(header, (stream.path, number), records)
    text, label, split, target = map(
        positions.get, (columns.text, columns.label, columns.split, columns.target)
    )
    labels = set()
    for number, fields in records:
        place = (stream.path, number)
        if len(fields) != len(header):
            raise DataError(
                f"{at(place)}: {len(fields)} fields, but the header line has {len(header)}. "
                f"{_repair(fields, len(header))}."
            )
        if len(header) > 1 and [fields[0].lstrip("\ufeff"), *fields[1:]] == header:
            raise DataError(
                f"{at(place)}: the header line again, as when files are joined. Remove this line; "
                "name the files in --raw_data instead of joining them."
            )
        if label is not None and len(labels) < _KNOWN_LABELS:
            labels.add(fields[label])
        if any("\n" in field for field in fields):
            _check_not_swallowed(place, fields, label, labels)
        answer = None if label is None else fields[label]
        if columns.values:
            answer = [fields[positions[name]] for name in columns.values]
        if target is not None:
            answer = TargetText(place, fields[target].encode("utf-8", "surrogateescape"))
        yield (
            place,
            fields[text].encode("utf-8", "surrogateescape"),
            answer,
            None if split is None else fields[split],
        )


def _repair(fields: list[str], columns: int) -> str:
    """Returns what helps if a record has not as many fields as there are columns."""
    if len(fields) < columns:
        return (
            f"The line has {shown.names(fields)}. Repair or remove it: a line break within a text "
            "must be quoted (csv) or removed (tsv)"
        )
    if fields[-1] == "" and len(fields) == columns + 1:
        return "If all rows end in a separator, let the header line end in one too"
    if any(field[:1] == " " and field.lstrip().startswith('"') for field in fields):
        return "A quote must follow the separator directly: remove the space between them"
    return "Repair it: a separator within a text must be quoted (csv) or removed (tsv)"


def _check_not_swallowed(
    place: Place, fields: list[str], label: int | None, labels: set[str]
) -> None:
    """Raises DataError if a field of a CSV record with line breaks seems to hold other records.

    A quote that is never closed ends at the next one, lines later. What lies between is then text
    of this record: lines with as many separators as a record, whose labels are known. Without
    labels that can be chance, and is a warning.
    """
    for position, field in enumerate(fields):
        before, *lines = field.split("\n")
        inside = [fields[:position] + before.split(","), *(line.split(",") for line in lines[:-1])]
        # One line break is in many texts: only a whole line inside is evidence.
        if len(lines) < 2 or any(len(found) != len(fields) for found in inside):
            continue
        last = place[1] + sum(other.count("\n") for other in fields)
        problem = (
            f"{at(place)}: the record that begins here ends in line {last}, and the "
            f"lines of its field {shown.value(field, 60)} look like records themselves: a quote "
            "is probably never closed"
        )
        if label is not None and all(found[label] in labels for found in inside):
            raise DataError(f"{problem}. Close or double it.")
        if label is None and len(inside) > 1 and len(fields) > 1:
            log.warning("%s", problem)


def read_jsonl(stream: raw_files.Stream, columns: Columns, max_line_bytes: int) -> Iterator[Row]:
    """Returns the rows of a file with one JSON object per line."""
    for place, row in json_objects(stream, columns, max_line_bytes):
        yield _row(place, row, columns)


def json_objects(
    stream: raw_files.Stream, columns: Columns, max_line_bytes: int
) -> Iterator[tuple[Place, dict]]:
    """Returns (place, object) of each line of a file; every object has all `columns`."""
    for number, line in raw_files.lines(stream, max_line_bytes, _refuse_array):
        if not line.strip():
            continue
        place = (stream.path, number)
        try:
            row = json.loads(_decoded(line), object_pairs_hook=_without_duplicates)
        except (ValueError, RecursionError) as problem:
            remedy = "Each line must be one object"
            if str(problem).startswith("Extra data"):
                remedy += (
                    ", with nothing after it: no comma, no second object. A file of objects in any "
                    "form becomes one per line with: jq -c . FILE > NEW"
                )
            raise DataError(f"{at(place)}: not valid JSON ({problem}). {remedy}.") from None
        if not isinstance(row, dict):
            raise DataError(
                f"{at(place)}: a {type(row).__name__}, but each line must be one JSON object."
            )
        _check_names(place, row, columns)
        yield place, row


def _refuse_array(path: str, head: bytes) -> None:
    """Raises DataError if a file that begins with `head` is one array of JSON."""
    raw_files.refuse_foreign(path, head)
    first, _, more = head.lstrip().partition(b"\n")
    closed = first.rstrip().endswith(b"]") and more.strip()  # An array on each line.
    if first.startswith(b"[") and not closed:
        raise DataError(
            f"{path}:1: the file is one JSON array, but each line must be one object. Convert it: "
            'python3 -c "import json, sys; [print(json.dumps(row)) for row in '
            'json.load(sys.stdin)]" < FILE > NEW'
        )


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict:
    """Returns the object of (key, value); raises ValueError if a key occurs twice."""
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in row if keys.count(key) > 1)
        raise ValueError(f"the key {shown.value(twice)} occurs twice in an object")
    return row


def _check_names(place: Place, row: dict, columns: Columns) -> None:
    for flag, column in columns.names:
        if column not in row:
            raise DataError(
                f"{at(place)}: no {shown.value(column)}; there are {shown.names(row)}. "
                f"Name the right one with --{flag}."
            )


def _row(place: Place, row: dict, columns: Columns) -> Row:
    """Returns the row that {column: value} describes."""
    text = _text(place, row, columns.text)
    label, split = (row[column] if column else None for column in (columns.label, columns.split))
    label, split = (
        _decoded(value) if isinstance(value, bytes) else value for value in (label, split)
    )
    if columns.values:
        label = [row[name] for name in columns.values]
    elif columns.target:
        label = TargetText(place, _text(place, row, columns.target))
    elif columns.label and not is_label(label):
        raise DataError(
            f"{at(place)}: {columns.label!r} is {shown.value(label)}, but a label must be a string "
            "or a whole number. Write it as one, or remove the row."
        )
    check_split(place, split, columns)
    return place, text, label, split


def _text(place: Place, row: dict, column: str) -> bytes:
    text = row[column]
    text = utf8(text) if isinstance(text, str) else text
    if not isinstance(text, bytes):
        raise DataError(
            f"{at(place)}: {column!r} is {shown.value(text)}, but a text must be a string. "
            "Every row must be an object or record of its own: repair it."
        )
    return text


def is_label(value: Any) -> bool:
    """Returns whether a value is a string or a whole number."""
    return isinstance(value, str | int) and not isinstance(value, bool)


def check_split(place: Place, split: Any, columns: Columns) -> None:
    """Raises DataError if the value of the split column, if there is one, is not a string."""
    if columns.split and not isinstance(split, str):
        raise DataError(
            f"{at(place)}: {columns.split!r} is {shown.value(split)}, but the name of a split must "
            "be a string: train, validation or test."
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
        sequences = tf.train.SequenceExample.FromString if wanted - row.keys() else None
        if sequences and sequences(record).feature_lists.feature_list:
            raise DataError(
                f"{at(place)}: record {number} is a tf.train.SequenceExample. Write the rows as "
                "tf.train.Example, a text as one string."
            )
        _check_names(place, row, columns)
        yield _row(place, row, columns)


def _value(feature: tf.train.Feature, name: str, place: Place) -> bytes | int | float:
    kind = feature.WhichOneof("kind")
    values = getattr(feature, kind).value if kind else ()
    if len(values) != 1:
        raise DataError(
            f"{at(place)}: feature {shown.value(name)} has {len(values)} values, but it must have "
            "one. Write tokens as one string with spaces, and a class as its number or name."
        )
    return values[0]


READERS: dict[str, Callable[[raw_files.Stream, Columns, int], Iterator[Row]]] = {
    "csv": read_csv,
    "tsv": read_tsv,
    "jsonl": read_jsonl,
    "tfrecord": read_tfrecord,
}
