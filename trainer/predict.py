"""Answers of a trained model to texts: arguments, lines of a file or of stdin, a column of a table;
or to sequences of numbers, read as `prepare` reads them.

They are printed, or written to a file that is complete or not there at all.
"""

import contextlib
import csv
import dataclasses
import errno
import io
import itertools
import logging
import os
import pathlib
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

from trainer import durable, shown, streams, trained_model
from trainer.data import store
from trainer.exit_codes import BY_NAME, DataError, UsageError
from trainer.flags import numbers
from trainer.flags.prepare import TABLES
from trainer.flags.use import Predict
from trainer.prepare import formats, new_frames, raw_files
from trainer.prepare.rows import at
from trainer.tasks import readers, serving

log = logging.getLogger(__name__)

TEXTS_PER_BATCH = 64
_MAX_EXPANSION = 200  # Of a compressed table, as in `prepare`.
_NAME_OF_A_COLUMN = re.compile(r'"?[^\W\d]\w*"?')


class Row(NamedTuple):
    """A text or a sequence to answer. id: that of the row of a table, if it has one."""

    input: readers.Text | readers.Frames
    id: str | int | None = None


def command(settings: Predict, words: Sequence[str]) -> int:
    """`trainer predict`: prints or writes what the model answers to each text, in their order."""
    _check_files(settings)
    model = trained_model.open_model(settings, examples=trained_model.Examples.UNUSED)
    served = model.served()
    at_a_terminal = not words and not settings.input and sys.stdin.isatty()
    # A person at a terminal gets each answer at once.
    size = 1 if at_a_terminal else TEXTS_PER_BATCH
    count = 0
    with _writing(settings, served) as write:
        for group in _groups(_rows(settings, words, model.dataset), size):
            for row, answer in zip(group, served.answers([row.input for row in group], settings)):
                write(answer if row.id is None else {"id": row.id, **answer})
            count += len(group)
    if settings.output:
        log.info("%d answers are in %s", count, settings.output)
    return BY_NAME["done"]


def _check_files(settings: Predict) -> None:
    """Raises UsageError if --input cannot be read or --output not be written."""
    source, target = settings.input, settings.output
    try:
        if settings.source not in ("", *numbers.FOLDERS):
            _refuse_folder(source)
        # The shell's <(command) is a pipe that has its writer already.
        if source and stat.S_ISFIFO(os.stat(source).st_mode) and not source.startswith("/dev/"):
            raise OSError(0, "it is a named pipe, which may never end")
        if source:
            os.close(os.open(source, os.O_RDONLY | os.O_NONBLOCK))
    except OSError as problem:
        raise _unreadable(source, problem) from None
    if not target:
        return
    place = pathlib.Path(target)
    if place.exists() and not place.is_file():
        raise UsageError(f"--output={target}: it exists and is not a file. Use another name.")
    if source and place.exists() and os.path.samefile(source, target):
        raise UsageError(
            f"--output={target}: it is --input, which would be replaced. Use another name."
        )
    if not os.access(place.parent, os.W_OK | os.X_OK):
        raise UsageError(
            f"--output={target}: no folder {place.parent} that can be written to. Make it, or use "
            "another one."
        )


def _refuse_folder(source: str) -> None:
    """Raises UsageError if --input is a folder: texts lie in files."""
    if os.path.isdir(source):
        raise _unreadable(source, IsADirectoryError(0, os.strerror(errno.EISDIR)))


def _unreadable(source: str, problem: OSError) -> UsageError:
    return UsageError(f"--input={source}: {problem.strerror}. Name a file that can be read.")


# --- texts ----------------------------------------------------------------------------------------


def _rows(settings: Predict, words: Sequence[str], dataset: store.Dataset) -> Iterator[Row]:
    if dataset.input.numbers:
        return _sequences(settings, words, dataset)
    numbers.refuse_for_texts(settings)
    _refuse_folder(settings.input)
    if words:
        return map(Row, _arguments(words))
    return _of_table(settings) if settings.table else map(Row, _lines(settings))


def _sequences(settings: Predict, words: Sequence[str], dataset: store.Dataset) -> Iterator[Row]:
    """Yields the sequences of --input."""
    if words:
        raise UsageError(
            f"{shown.value(words[0])}: the model reads sequences of numbers, which are no "
            "arguments. Name a file of them with --input."
        )
    for sequence in new_frames.unanswered(settings, dataset):
        yield Row(readers.Frames(*sequence))


def _groups(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """Yields `size` rows at a time, at last fewer."""
    rows = iter(rows)
    while group := list(itertools.islice(rows, size)):
        yield group


def _arguments(words: Sequence[str]) -> list[readers.Text]:
    """Returns the texts on the command line unchanged; raises DataError if one is not UTF-8."""
    for number, word in enumerate(words, start=1):
        try:
            word.encode("utf-8")
        # Python keeps the bytes that it cannot decode as lone surrogates.
        except UnicodeEncodeError:
            raise DataError(
                f"text {number} on the command line is not valid UTF-8 "
                f"({shown.value(word)}): texts must be UTF-8. Convert it."
            ) from None
    return [
        readers.Text(word, f"text {number + 1} on the command line", number)
        for number, word in enumerate(words)
    ]


@dataclasses.dataclass(frozen=True)
class _Columns(formats.Columns):
    """The columns of a table without labels: a reader finds the ids in the place of the labels."""

    @property
    def names(self):
        named = [("text_column", self.text), ("id_column", self.label)]
        return [(flag, column) for flag, column in named if column]


def _of_table(settings: Predict) -> Iterator[Row]:
    """Yields the texts of a table, as `prepare` reads them; raises DataError with file and line."""
    columns = _Columns(settings.text_column, settings.id_column)
    read = formats.READERS[settings.table]
    with raw_files.Stream(settings.input, _MAX_EXPANSION) as stream:
        found = read(stream, columns, settings.max_line_bytes)
        for number, (place, content, identity, _) in enumerate(found):
            yield Row(readers.Text(_decoded(content, at(place)), at(place), number), identity)


def _lines(settings: Predict) -> Iterator[readers.Text]:
    """Yields the lines of a file or of standard input; an empty line is an empty text.

    Raises DataError if a line is not UTF-8 or too long.
    """
    path, most = settings.input, settings.max_line_bytes
    name = path or "standard input"
    with durable.naming(name), open(path, "rb") if path else sys.stdin.buffer as file:
        for number, line in enumerate(iter(lambda: file.readline(most + 2), b""), start=1):
            place = f"{name}:{number}"
            content = line.removesuffix(b"\n").removesuffix(b"\r")
            if len(content) > most:
                raise DataError(
                    f"{place}: the line is longer than {most} bytes (--max_line_bytes), as in a "
                    "binary file. Remove the line, or raise --max_line_bytes."
                )
            if number == 1:
                content = content.removeprefix(raw_files.BOM)
            text = _decoded(content, place)
            if number == 1:
                _warn_of_table(name, text)
            yield readers.Text(text, place, number - 1)


def _decoded(content: bytes, place: str) -> str:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise DataError(
            f"{place} is not valid UTF-8 ({problem.reason} at byte {problem.start}): texts must be "
            "UTF-8. Convert the file."
        ) from None
    if "\0" in text:
        raise DataError(
            f"{place}: the text holds a NUL byte, which UTF-8 text files never have. The file is "
            "damaged, binary or UTF-16: convert it (iconv -t UTF-8)."
        )
    return text


def _warn_of_table(name: str, first: str) -> None:
    """Warns if a file of lines has the name or the first line of a table."""
    if found := _table_like(name, first):
        log.warning(
            "%s looks like %s (its first line is %s), but every line is taken for a text, the "
            "first one too. If it is a table, use --source=%s --text_column=NAME",
            name,
            found,
            shown.bare(first),
            found,
        )


def _table_like(name: str, first: str) -> str:
    """Returns the format of the table that a file may be; "" if it looks like lines of text."""
    endings = pathlib.PurePath(name).suffixes
    for format in TABLES:
        if f".{format}" in endings:
            return format
    if first.startswith("{") and first.rstrip().endswith("}"):
        return "jsonl"
    for format, separator in (("csv", ","), ("tsv", "\t")):
        cells = first.split(separator)
        if len(cells) > 1 and all(map(_NAME_OF_A_COLUMN.fullmatch, cells)):
            return format
    return ""


# --- answers --------------------------------------------------------------------------------------

Write = Callable[[Mapping[str, Any]], None]


@contextlib.contextmanager
def _writing(settings: Predict, served: serving.Served) -> Iterator[Write]:
    """Yields a function that prints an answer, or writes it to --output."""
    if not settings.output:
        yield _printed_json if settings.format == "jsonl" else _Shown(served)
        return
    path = pathlib.Path(settings.output)
    with durable.replacing(path) as file:
        yield _Table(file, settings) if path.suffix == ".csv" else _json_lines(file)


def _printed_json(answer: Mapping[str, Any]) -> None:
    print(streams.as_json(answer), flush=True)


def _json_lines(file: BinaryIO) -> Write:
    def write(answer: Mapping[str, Any]) -> None:
        line = f"{streams.as_json(answer, 'utf-8')}\n"
        # An id may hold bytes that are not UTF-8, as lone surrogates; JSON has the same escapes.
        file.write(line.encode("utf-8", "backslashreplace"))

    return write


class _Shown:
    """Prints answers for a person."""

    def __init__(self, served: serving.Served):
        self._served, self._before = served, ""

    def __call__(self, answer: Mapping[str, Any]) -> None:
        text = streams.printable(self._served.shown(answer))
        print(self._before, text, sep="", end="", flush=True)
        self._before = self._served.between


class _Table:
    """Writes answers as csv: the id (that of a sequence, too), or without one the text, then the
    rest of each answer.

    Probabilities and values have a column each, other things that are no single number or text are
    JSON.
    """

    def __init__(self, file: BinaryIO, settings: Predict):
        self._file, self._name = file, settings.output
        self._columns: list[str] = []

    def __call__(self, answer: Mapping[str, Any]) -> None:
        wide = [
            ("id" if name == "sequence" else name, value)
            for name, value in answer.items()
            if name not in _NOT_IN_A_CELL
        ]
        if "id" not in answer and "text" in answer:
            wide.insert(0, ("text", answer["text"]))
        for name in _COLUMNS_EACH:
            wide += answer.get(name, {}).items()
        if not self._columns:
            self._columns = [name for name, _ in wide]
            self._refuse_equal_names()
            self._add(self._columns)
        self._add([_cell(value) for _, value in wide])

    def _refuse_equal_names(self) -> None:
        twice = {name for name in self._columns if self._columns.count(name) > 1}
        if twice:
            raise UsageError(
                f"--output={self._name}: the class or value {min(twice)!r} would give it two "
                "columns of this name. Use a file that ends with .jsonl."
            )

    def _add(self, cells: Sequence[Any]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(cells)
        self._file.write(line.getvalue().encode("utf-8", "backslashreplace"))


_COLUMNS_EACH = ("probabilities", "values")
_NOT_IN_A_CELL = ("text", *_COLUMNS_EACH)


def _cell(value: Any) -> Any:
    return streams.as_json(value, "utf-8") if isinstance(value, list | dict) else value
