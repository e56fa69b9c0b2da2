"""The channel between a supervisor and its training process: lines of JSON over a socket pair.

    child -> supervisor   {"phase": PHASE, "step": S}    a beat: when a phase begins, at every
                                                         loop boundary and evaluation batch
    supervisor -> child   {"ask": "stop", "signal": 15 | 2}    {"ask": "reform"}

PHASE is import, meet, restore, compile, train, evaluate or save.

The child reads only when it polls, at loop boundaries. A thread or a signal handler would not help:
TensorFlow may hold the interpreter for minutes.
"""

import json
import socket
from collections.abc import Mapping
from typing import Any

from trainer import processes

VARIABLE = "RNN_TRAINER_CHANNEL"  # The file descriptor of the child's end.
SUPERVISOR = "RNN_TRAINER_SUPERVISOR"  # The process id of the supervisor.

LONGEST_BEAT = 1000  # Bytes.
_GONE = {"ask": "stop", "signal": 15}  # A lost supervisor counts as this request.


class Channel:
    """The child's end. Without a supervisor, beats go nowhere and no request ever comes."""

    def __init__(self, end: socket.socket | None):
        self._end = end
        if end:
            end.setblocking(False)
            end.set_inheritable(False)
        self._unsent = b""
        self._received = b""
        self._asked: dict[str, Any] | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Channel":
        """Returns the end that RNN_TRAINER_CHANNEL names; a silent one if it is not set."""
        descriptor = environ.get(VARIABLE)
        return cls(socket.socket(fileno=int(descriptor)) if descriptor else None)

    def beat(self, phase: str, step: int = 0) -> None:
        """Sends a beat: the child is alive, in `phase`, at `step`.

        It never blocks and never raises. If the supervisor does not read, beats are lost.
        """
        if self._end is None:
            return
        if not self._unsent:
            self._unsent = json.dumps({"phase": phase, "step": int(step)}).encode() + b"\n"
        try:
            sent = self._end.send(self._unsent, socket.MSG_NOSIGNAL)
            self._unsent = self._unsent[sent:]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent = b""

    def asked(self) -> dict[str, Any] | None:
        """Returns the newest request; None if there is none.

        After a request to stop, later ones are ignored. A lost supervisor is a request to stop.
        """
        while self._end is not None:
            try:
                block = self._end.recv(65536)
            except BlockingIOError:
                break
            except OSError:
                block = b""
            if not block:
                self._end.close()
                self._end = None
                self._take(_GONE)
                break
            *lines, self._received = (self._received + block).split(b"\n")
            for line in lines:
                self._take(json.loads(line))
        return self._asked

    def _take(self, request: dict[str, Any]) -> None:
        if self._asked is None or self._asked["ask"] != "stop":
            self._asked = request


def end_with_supervisor(environ: Mapping[str, str]) -> None:
    """Makes this process die with the supervisor that started it, if one did.

    Call it first of all. Where the system cannot do this (see `processes.tied_to`), the process
    stops at its next loop boundary, when it finds the channel closed.
    """
    if parent := environ.get(SUPERVISOR):
        processes.tied_to(int(parent))()


def request(ask: dict[str, Any]) -> bytes:
    """Returns the line that sends the request `ask` to a child."""
    return json.dumps(ask).encode() + b"\n"


def beats(received: bytes) -> tuple[list[dict[str, Any]], bytes]:
    """Returns the beats in `received`, and its last line, which is not complete yet.

    Lines that are not beats are left out, and so is a last line that is too long to become one.
    """
    *lines, rest = received.split(b"\n")
    found = []
    for line in lines:
        try:
            beat = json.loads(line) if len(line) <= LONGEST_BEAT else None
            found.append({"phase": str(beat["phase"]), "step": int(beat.get("step", 0))})
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            continue
    return found, rest if len(rest) <= LONGEST_BEAT else b""
