"""Processes of this machine: the state of one, and how it ends together with its parent."""

import ctypes
import os
import signal
from collections.abc import Callable
from typing import NamedTuple

STOPPED = "T"  # The state of a process after SIGSTOP; a debugger's stop is "t".
ENDED = ("Z", "X")  # It has ended, but its parent has not waited for it yet.
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Stat(NamedTuple):
    """What /proc/PID/stat holds of a process: its state, one letter, and the pid of its parent."""

    state: str
    parent: int


def stat(pid: int) -> Stat | None:
    """Returns the state of process `pid`; None if it is gone, or if there is no /proc.

    The form of the file: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return parse_stat(file.read())
    except OSError:
        return None


def parse_stat(content: str) -> Stat:
    """Returns the state and the parent in the content of a /proc/PID/stat."""
    # The program's name comes first, in parentheses, and may itself contain spaces and parentheses.
    state, parent = content.rpartition(")")[2].split()[:2]
    return Stat(state, int(parent))


def tied_to(parent: int) -> Callable[[], None]:
    """Returns a function that ties the process that calls it to its parent, the process `parent`.

    The kernel kills a tied process when its parent ends, even by SIGKILL. If `parent` has ended
    before the call, the process is killed at once. The function serves as preexec_fn of a Popen:
    it loads nothing, which would not be safe after a fork. Only Linux can do this; elsewhere the
    function does nothing.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)

    def tie() -> None:
        if prctl is None:
            return
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    return tie
