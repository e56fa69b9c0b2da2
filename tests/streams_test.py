"""What is printed when standard streams are closed, full or not UTF-8."""

import io
import json
import math
import os
import pathlib
import pty
import subprocess
import sys

import pytest

from trainer import streams

ROOT = pathlib.Path(__file__).resolve().parents[1]

REPORTS = """
import os, sys
from trainer import streams
streams.complete()
with open(sys.argv[1], "w") as file:
    opened = file.fileno()
    os.write(2, b"of a library")
print("result", file=sys.stdout, flush=True)
print("log", file=sys.stderr, flush=True)
with open(sys.argv[1]) as file:
    sys.exit(opened < 3 or sys.stdin.read() != "" or file.read() != "")
"""


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_a_process_without_a_standard_stream_writes_what_it_prints_into_no_file(closed, tmp_path):
    command = f'exec "$0" -c "$1" "$2" </dev/null {closed}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, REPORTS, tmp_path / "file"],
        capture_output=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr


class Full(io.StringIO):
    """A stdout on a full disk."""

    def write(self, text):
        raise OSError(28, "No space left on device")


def test_a_line_that_does_not_fit_is_lost_and_the_run_continues(monkeypatch):
    said = []
    monkeypatch.setattr(streams.log, "warning", lambda text, *values: said.append(text % values))
    monkeypatch.setattr("sys.stdout", Full())
    streams.print_line("done step=3")
    assert said == [
        "stdout cannot be written (No space left on device): the run continues, its metrics stay "
        "in the journal"
    ]


def test_a_closed_stdout_loses_lines_and_stops_nothing(monkeypatch):
    said = []
    monkeypatch.setattr(streams.log, "warning", lambda text, *values: said.append(text % values))
    reading, writing = os.pipe()
    os.close(reading)
    with io.TextIOWrapper(open(writing, "wb")) as closed:
        monkeypatch.setattr("sys.stdout", closed)
        streams.print_line("lost")
        streams.print_line("lost too")
    [line] = said
    assert line.startswith("stdout cannot be written (Broken pipe): ")


def test_an_error_that_cannot_be_printed_is_no_other_error(monkeypatch):
    monkeypatch.setattr("sys.stderr", Full())
    streams.print_error("x")


class Encoded(io.StringIO):
    encoding = "ascii"


@pytest.mark.parametrize("stdout, plain", [(Encoded(), True), (io.StringIO(), False)])
def test_json_is_ascii_unless_stdout_is_utf8_and_no_character_controls_a_terminal(
    stdout, plain, monkeypatch
):
    monkeypatch.setattr("sys.stdout", stdout)
    value = {"text": "café \x1b[2J \x9b1m \x7f \u2028", "rows": [1, 0.5]}
    line = streams.as_json(value)
    assert json.loads(line) == value and line.isascii() == plain
    assert all(each.isprintable() for each in line)


def test_json_has_null_for_numbers_that_it_lacks():
    value = {"loss": math.nan, "rows": [math.inf, (-math.inf, 1.5)], "name": "nan"}
    assert streams.as_json(value) == '{"loss": null, "rows": [null, [null, 1.5]], "name": "nan"}'


def test_shown_text_keeps_its_lines_and_tabs_and_loses_what_controls_a_terminal():
    assert streams.printable("a\tb\nc\r\x1b[31m\x9b é") == "a\tb\nc\\r\\x1b[31m\\x9b é"


def test_a_terminal_that_is_closed_is_replaced_and_another_stream_stays(monkeypatch, tmp_path):
    ours, theirs = pty.openpty()
    file = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    monkeypatch.setattr(streams, "_NUMBERS", (theirs, file))
    terminals = streams.terminals()
    assert terminals == (theirs,)
    streams.leave(terminals)
    assert os.isatty(theirs)
    os.close(ours)
    streams.leave(terminals)
    assert os.readlink(f"/proc/self/fd/{theirs}") == "/dev/null"
    assert os.readlink(f"/proc/self/fd/{file}") == str(tmp_path / "file")
    os.close(theirs)
    os.close(file)


def test_the_exit_code_goes_to_the_process_that_waits_for_it_and_to_no_child():
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    environ = {"TRAINER_OUTCOME_FD": str(writer)}
    outcome = streams.Outcome(environ)
    assert not environ and not os.get_inheritable(writer)
    outcome.tell(143)
    os.close(writer)
    assert os.read(reader, 10) == b"143\n"
    os.close(reader)


@pytest.mark.parametrize("number", ["", "x", "999999"])
def test_without_such_a_process_the_exit_code_goes_nowhere(number):
    streams.Outcome({"TRAINER_OUTCOME_FD": number}).tell(0)
