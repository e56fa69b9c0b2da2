"""Runs a training process for its supervisor: starts it, hears its beats, watches it and ends it.

The process has a session of its own, so that Ctrl-C in a terminal reaches the supervisor alone. It
dies with its supervisor.
"""

import asyncio
import collections
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trainer import channel, processes
from trainer.gang import watchdog

log = logging.getLogger(__name__)

LAST_LINES = 20  # So many lines of stderr are kept,
LONGEST_LINE = 400  # and so many bytes of each.
DUMP_SECONDS = 1.0  # From the request to print all stacks to the kill.


class Child:
    """A training process.

    It calls `on_beat(watch)` for every beat and, once, `on_end(code, reason, last_lines)`, both in
    the event loop. `code` is negative if a signal ended the process. `reason` is what the watchdog
    found, "" if nothing. `last_lines` are the last of its stderr, which is copied to ours. Raises
    OSError if the process cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        hang_seconds: float,
        on_beat: Callable[[watchdog.Watch], None],
        on_end: Callable[[int, str, tuple[str, ...]], None],
    ):
        self._loop = asyncio.get_running_loop()
        self._on_beat, self._on_end = on_beat, on_end
        self._channel, theirs = socket.socketpair()
        self._channel.setblocking(False)
        # TensorFlow removes its temporary files only if it is not killed.
        self._temporary = tempfile.TemporaryDirectory(
            prefix="rnn-trainer-", ignore_cleanup_errors=True
        )
        environ = {
            **environ,
            channel.VARIABLE: str(theirs.fileno()),
            channel.SUPERVISOR: str(os.getpid()),
            "TMPDIR": self._temporary.name,
        }
        try:
            self._process = subprocess.Popen(
                command,
                env=environ,
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        except OSError:
            self._channel.close()
            self._temporary.cleanup()
            raise
        finally:
            theirs.close()
        self.pid = self._process.pid
        self.watch = watchdog.Watch(hang_seconds, time.monotonic())
        self._received = b""
        self._stderr = self._process.stderr.fileno()
        os.set_blocking(self._stderr, False)
        self._line = b""  # The last line of stderr, which is not complete yet.
        self._last_lines: collections.deque[bytes] = collections.deque(maxlen=LAST_LINES)
        self._reason = ""
        self._loop.add_reader(self._channel, self._hear)
        self._loop.add_reader(self._stderr, self._pass_on)
        threading.Thread(target=self._await_end, daemon=True).start()

    def ask(self, request: dict[str, Any]) -> None:
        """Sends `request`; the process reads it at its next loop boundary."""
        try:
            self._channel.send(channel.request(request), socket.MSG_NOSIGNAL)
        except OSError:
            pass  # It has ended; `on_end` follows.

    def kill(self) -> None:
        """Kills the process and all processes that it started."""
        if not self._reason and self._state() == processes.STOPPED:
            self._reason = "frozen (stopped by a signal)"
        self._signal(signal.SIGKILL)

    def pause(self) -> None:
        """Stops the process and all that it started, until `resume`."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continues after `pause`."""
        self._signal(signal.SIGCONT)

    def look(self) -> None:
        """Kills the process if it hangs, after it has printed its stacks. Call it every second."""
        problem = "" if self._reason else self.watch.look(self._state(), time.monotonic())
        if problem:
            log.error("training (process %d) is %s: it will be killed", self.pid, problem)
            self._reason = problem
            self._signal(signal.SIGUSR1)
            self._loop.call_later(DUMP_SECONDS, self._signal, signal.SIGKILL)

    # ----------------------------------------------------------------------------------------------

    def _state(self) -> str:
        stat = processes.stat(self.pid)
        return stat.state if stat else ""

    def _signal(self, number: signal.Signals) -> None:
        # Until `wait` has returned its code, no other process can have its id.
        if self._process.returncode is None:
            try:
                if number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT):
                    os.killpg(self.pid, number)
                else:
                    os.kill(self.pid, number)
            except ProcessLookupError:
                pass

    def _hear(self) -> None:
        try:
            block = self._channel.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            block = b""
        if not block:
            self._loop.remove_reader(self._channel)
            return
        beats, self._received = channel.beats(self._received + block)
        for beat in beats:
            self.watch.beat(beat, time.monotonic())
        self._on_beat(self.watch)

    def _pass_on(self) -> bool:
        """Copies one block of stderr to ours. Returns whether there may be more."""
        try:
            block = os.read(self._stderr, 65536)
        except BlockingIOError:
            return False
        if not block:
            self._loop.remove_reader(self._stderr)
            return False
        with contextlib.suppress(OSError):  # A full disk or a closed terminal ends no run.
            sys.stderr.buffer.write(block)
            sys.stderr.buffer.flush()
        *lines, self._line = (self._line + block).split(b"\n")
        self._last_lines.extend(lines)
        self._line = self._line[-LONGEST_LINE:]
        return True

    def _await_end(self) -> None:
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        try:
            self._loop.call_soon_threadsafe(self._ended)
        except RuntimeError:
            pass  # The event loop has ended.

    def _ended(self) -> None:
        self._signal(signal.SIGKILL)  # For processes that it started and left behind.
        code = self._process.wait()
        self._temporary.cleanup()
        self._hear_rest()
        while self._pass_on():
            pass
        for end in (self._channel, self._stderr):
            self._loop.remove_reader(end)
        self._channel.close()
        self._process.stderr.close()
        lines = [
            line[:LONGEST_LINE].decode("utf-8", "replace").rstrip("\r")
            for line in (*self._last_lines, self._line)
            if line.strip()
        ]
        self._on_end(code, self._reason, tuple(lines[-LAST_LINES:]))

    def _hear_rest(self) -> None:
        if self._loop.remove_reader(self._channel):
            self._hear()


def reap_orphans(own: int | None) -> None:
    """Waits for ended processes that this process inherited as process 1, so that none stays.

    own: the id of our own child, which `Child` waits for; it is left alone.
    """
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid == own:
            return
        os.waitpid(found.si_pid, os.WNOHANG)
