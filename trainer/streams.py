"""The standard streams: how results are printed, whatever stdin, stdout and stderr are.

A stream may be closed, full, a terminal that is gone, or unable to encode some characters. A run
continues in all these cases, and a terminal gets no character that controls it.
"""

import contextlib
import io
import json
import logging
import math
import os
import re
import sys
from collections.abc import MutableMapping
from typing import Any

log = logging.getLogger(__name__)

# All but tab and line feed; a terminal obeys those from U+0080 on, too.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_NUMBERS = (0, 1, 2)


def complete() -> None:
    """Opens /dev/null in the place of each standard stream that this process was started without.

    Otherwise the next file that is opened would get the number of the stream, and libraries would
    print into it. To be called before any file is opened.
    """
    for number, name, mode in zip(_NUMBERS, ("stdin", "stdout", "stderr"), "rww"):
        try:
            os.fstat(number)
        except OSError:
            # The system gives the lowest number that is free: this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            stream = open(number, mode, encoding="utf-8", closefd=False)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


class Outcome:
    """Tells the process that waits for our exit code, if there is one.

    TRAINER_OUTCOME_FD names a file descriptor that we were started with (`launch.stage`). No child
    gets it: its end means that this process is gone.
    """

    def __init__(self, environ: MutableMapping[str, str]):
        number = environ.pop("TRAINER_OUTCOME_FD", "")
        self._descriptor = int(number) if number.isdecimal() else None
        if self._descriptor is not None:
            try:
                os.set_inheritable(self._descriptor, False)
            except OSError:  # It is not open: nobody waits.
                self._descriptor = None

    def tell(self, code: int) -> None:
        """Writes the exit code as a line."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.write(self._descriptor, f"{code}\n".encode())


def terminals() -> tuple[int, ...]:
    """Returns the numbers of the standard streams that are terminals."""
    return tuple(number for number in _NUMBERS if os.isatty(number))


def leave(lost: tuple[int, ...]) -> None:
    """Puts /dev/null in the place of those of `terminals()` that have been closed since."""
    for number in lost:
        if not os.isatty(number):
            _discard(number)


def print_line(line: str) -> None:
    """Prints a result; if stdout is closed (`| head`) or full, the run continues without it."""
    try:
        print(line, flush=True)
    except OSError as problem:
        log.warning(
            "stdout cannot be written (%s): the run continues, its metrics stay in the journal",
            problem.strerror,
        )
        discard_stdout()


def print_error(problem: object) -> None:
    """Prints the message of an error to stderr, if that can be written at all."""
    with contextlib.suppress(OSError):
        print(f"error: {problem}", file=sys.stderr, flush=True)


def discard_stdout() -> None:
    """Puts /dev/null in the place of stdout, so that nothing fails when Python flushes it."""
    with contextlib.suppress(io.UnsupportedOperation):  # Tests replace it by a stream in memory.
        _discard(sys.stdout.fileno())


def _discard(number: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, number)
    os.close(null)


def as_json(value: Any, encoding: str = "") -> str:
    """Returns `value` as one line of JSON.

    It is ASCII unless `encoding`, by default that of stdout, is UTF-8. Control characters are
    escaped. NaN and infinity, which JSON does not have, become null.
    """
    encoding = encoding or getattr(sys.stdout, "encoding", None) or "utf-8"
    as_ascii = encoding.lower().replace("-", "") != "utf8"
    line = json.dumps(_finite(value), ensure_ascii=as_ascii, allow_nan=False)
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", line)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def printable(text: str) -> str:
    r"""Returns `text` with control characters as \x1b or \u2028; tabs and line feeds stay."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)
