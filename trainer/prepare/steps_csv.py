"""Sequences in CSV files in long form: one row a step, the rows of a sequence one after the other.

    run,t,speed,force,gear
    a,0,1.5,2,low
    a,1,1.7,2,low
    b,0,,3,high

A sequence is a run of rows with the same value in the column of the sequences. With a time column
its rows are sorted by it; otherwise they keep their order. What is to be learned stands in every
row of a sequence and is the same in all of them. The same value in another file is another
sequence.
"""

import dataclasses
import datetime
import decimal
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from trainer import shown
from trainer.exit_codes import DataError
from trainer.prepare import formats, raw_files
from trainer.prepare.decimals import numbers, parsed
from trainer.prepare.rows import Place, at
from trainer.prepare.sequences import One, Reading


@dataclasses.dataclass(frozen=True)
class _Columns(formats.Columns):
    """The columns of a file; `answers` are those of the label or of the values."""

    sequence: str = ""
    time: str = ""
    features: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()

    @property
    def names(self):
        named = [
            ("sequence_column", self.sequence),
            ("time_column", self.time),
            *(("feature_columns", name) for name in self.features),
            *(("label_column", name) for name in self.answers),
            ("split_column", self.split),
        ]
        return [(flag, column) for flag, column in named if column]


def read(stream: raw_files.Stream, reading: Reading) -> Iterator[One]:
    """Returns the sequences of a file.

    Raises DataError, with file and line, if a column is missing, a row has another number of
    fields, a value is no number, a label changes within a sequence, or the rows of a sequence do
    not stand together.
    """
    columns = _Columns(
        "",
        split=reading.split_column,
        sequence=reading.settings["sequence_column"],
        time=reading.settings["time_column"],
        features=reading.features,
        answers=reading.columns,
    )
    records = formats.csv_records(stream, reading.max_line_bytes)
    number, header = next(records, (1, []))
    positions = columns.positions(header, (stream.path, number), records)
    sequence = positions[columns.sequence]
    seen = set()
    rows = _checked(records, header, stream.path)
    for identity, group in itertools.groupby(rows, key=lambda row: row[1][sequence]):
        found = list(group)
        place = (stream.path, found[0][0])
        if identity in seen:
            raise DataError(
                f"{at(place)}: the sequence {shown.value(identity)} again, after rows of others. "
                "The rows of a sequence must stand together: sort the file by "
                f"{shown.value(columns.sequence)}."
            )
        seen.add(identity)
        yield _one(found, identity, columns, positions, reading, stream.path)


def _checked(
    records: Iterator[tuple[int, list[str]]], header: list[str], path: str
) -> Iterator[tuple[int, list[str]]]:
    """Returns (line, fields) of each record that has as many fields as the header."""
    for number, fields in records:
        if len(fields) != len(header):
            raise DataError(
                f"{path}:{number}: {len(fields)} fields, but the header line has {len(header)}. "
                "Every row is one step and has a field for each column: repair or remove it."
            )
        if fields == header:
            raise DataError(
                f"{path}:{number}: the header line again, as when files are joined. Remove this "
                "line; name the files in --raw_data instead of joining them."
            )
        yield number, fields


def _one(
    rows: list[tuple[int, list[str]]],
    identity: str,
    columns: _Columns,
    positions: dict[str, int],
    reading: Reading,
    path: str,
) -> One:
    place = (path, rows[0][0])
    if columns.time:
        rows = _in_time(rows, positions[columns.time], path)
    same = [*columns.answers, *([columns.split] if columns.split else [])]
    for column in same:
        _check_same(rows, positions[column], column, identity, path)
    wanted = [positions[name] for name in columns.features]
    frames = _frames(rows, wanted, columns.features, path)
    answer: str | list[str] | None = None
    if columns.answers:
        answer = [rows[0][1][positions[name]] for name in columns.answers]
        if reading.answers == "labels":
            [answer] = answer
    split = rows[0][1][positions[columns.split]] if columns.split else None
    steps = np.array([number for number, _ in rows])
    return One(place, frames, answer, split, identity, steps)


def _frames(
    rows: list[tuple[int, list[str]]], wanted: list[int], names: Sequence[str], path: str
) -> np.ndarray:
    """Returns the features of rows, float64 [rows, features]."""
    cells = [fields[position] for _, fields in rows for position in wanted]
    try:
        return numbers(cells, (path, rows[0][0]), "{}").reshape(len(rows), len(wanted))
    except DataError:  # Once more, row by row, to name the line and the column.
        for number, fields in rows:
            for position, name in zip(wanted, names):
                where = f"column {shown.value(name, shown.NAME_CHARACTERS)}"
                numbers([fields[position]], (path, number), where)
        raise


def _check_same(
    rows: list[tuple[int, list[str]]], position: int, column: str, identity: str, path: str
) -> None:
    """Raises DataError if a column is not the same in all rows of a sequence."""
    first, fields = rows[0]
    for number, others in rows:
        if others[position] != fields[position]:
            raise DataError(
                f"{path}:{number}: {shown.value(column)} is {shown.value(others[position], 60)}, "
                f"but {shown.value(fields[position], 60)} in line {first} of the same sequence "
                f"{shown.value(identity, 60)}. It must be equal in all rows of a sequence: correct "
                "it, or name another --sequence_column."
            )


class _Time(NamedTuple):
    """A time, as exact as it is written. kind: in which way; only times of one kind have an order.

    value: of a date the whole second and the rest of it.
    """

    kind: str
    value: decimal.Decimal | tuple[datetime.datetime, decimal.Decimal]


def _in_time(
    rows: list[tuple[int, list[str]]], position: int, path: str
) -> list[tuple[int, list[str]]]:
    """Returns rows sorted by their time."""
    times = [_time(fields[position], (path, number)) for number, fields in rows]
    other = next((i for i, time in enumerate(times) if time.kind != times[0].kind), 0)
    if other:
        raise DataError(
            f"{path}:{rows[other][0]}: the time {shown.value(rows[other][1][position], 60)} is "
            f"written in another way than {shown.value(rows[0][1][position], 60)} in line "
            f"{rows[0][0]} of the same sequence. Write all as numbers, or all as dates with or "
            "without a time zone."
        )
    order = sorted(range(len(rows)), key=lambda i: times[i].value)
    for one, other in itertools.pairwise(order):
        if times[one] == times[other]:
            raise DataError(
                f"{path}:{rows[other][0]}: the time {shown.value(rows[other][1][position], 60)} "
                f"is that of line {rows[one][0]} of the same sequence. Two steps need two times: "
                "remove one, or leave out --time_column to keep the order of the rows."
            )
    return [rows[i] for i in order]


def _time(cell: str, place: Place) -> _Time:
    number = parsed(cell)
    if number is not None and math.isfinite(number):
        return _Time("number", _exact(cell, number))
    # `datetime` keeps microseconds.
    found = _FRACTION.fullmatch(cell.strip())
    whole, rest = (f"{found[1]}{found[3]}", found[2]) if found else (cell.strip(), "0")
    try:
        date = datetime.datetime.fromisoformat(whole)
    except ValueError:
        raise DataError(
            f"{at(place)}: the time {shown.value(cell, 60)} is neither a number nor a date such as "
            "2024-05-01T12:30:00. Correct it."
        ) from None
    kind = "local date" if date.tzinfo is None else "date"
    return _Time(kind, (date, decimal.Decimal(f"0.{rest}")))


def _exact(cell: str, number: float) -> decimal.Decimal:
    """Returns what `cell` says; `number` keeps 16 digits, and nanoseconds since 1970 have 19."""
    try:
        return decimal.Decimal(cell)
    except decimal.InvalidOperation:  # An exponent that even Decimal does not know.
        return decimal.Decimal(number)


# (date and whole second)(digits of the rest of the second)(time zone).
_FRACTION = re.compile(
    r"(.{7,10}[^0-9](?:[0-9]{2}:[0-9]{2}:[0-9]{2}|[0-9]{6}))[.,]([0-9]+)((?:[Zz+-].*)?)"
)
