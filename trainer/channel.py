"""What a supervisor and the training process that it started tell each other: lines of JSON over a
pair of sockets.

    child -> supervisor   {"phase": PHASE, "step": S}    when a phase begins, at every loop
        boundary, at every evaluation batch
    supervisor -> child   {"ask": "stop", "signal": 15 | 2}    {"ask": "reform"}

The child reads only where it polls, at loop boundaries, never in a thread or a signal handler:
TensorFlow may hold the interpreter for minutes.
"""

import ctypes
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping

VARIABLE = "RNN_TRAINER_CHANNEL"  # The child's end, a descriptor.
SUPERVISOR = "RNN_TRAINER_SUPERVISOR"  # The number of the supervisor's process.
PHASES = ("import", "meet", "restore", "compile", "train", "evaluate", "save", "end")

_GONE = {"ask": "stop", "signal": 15}  # What a child without a supervisor should do.


class Channel:
    """The child's end. Without a supervisor it is silent: beats go nowhere and nothing is ever
    asked.
    """

    def __init__(self, end: socket.socket | None):
        self._end = end
        if end:
            end.setblocking(False)
            end.set_inheritable(False)
        self._unsent = b""
        self._received = b""
        self._asked = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Channel":
        """The end whose descriptor RNN_TRAINER_CHANNEL names; a silent one where it is absent."""
        descriptor = environ.get(VARIABLE)
        return cls(socket.socket(fileno=int(descriptor)) if descriptor else None)

    def beat(self, phase: str, step: int = 0) -> None:
        """Says that the child lives and what it is at. Never blocks, never raises; where nobody
        reads, beats are lost.
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

    def asked(self) -> dict | None:
        """The newest request, None if there is none. A stop stays a stop. Where the supervisor is
        gone: to stop.
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

    def _take(self, request: dict) -> None:
        if self._asked is None or self._asked["ask"] != "stop":
            self._asked = request


def end_with_supervisor(environ: Mapping[str, str]) -> None:
    """Ties this process to the supervisor that started it, if one did: the kernel kills it when
    that one is gone.

    To be called first of all. A supervisor that died even earlier is noticed here. Elsewhere than
    on Linux the end of the channel has to do, which is read at loop boundaries.
    """
    parent = environ.get(SUPERVISOR)
    if parent and sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, prctl(2)
        if os.getppid() != int(parent):
            os.kill(os.getpid(), signal.SIGKILL)


def request(ask: dict) -> bytes:
    """The line that asks a child for `ask`."""
    return json.dumps(ask).encode() + b"\n"


def beats(received: bytes) -> tuple[list[dict], bytes]:
    """The beats in what a supervisor has read so far, and the rest, which is no whole line yet.
    What is no beat is left out.
    """
    *lines, rest = received.split(b"\n")
    found = []
    for line in lines:
        try:
            beat = json.loads(line)
            found.append({"phase": str(beat["phase"]), "step": int(beat.get("step", 0))})
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return found, rest
