"""A training process seen from its supervisor: started, heard, asked, looked after and ended.

It has a session of its own, so that Ctrl-C in a terminal reaches the supervisor alone, and dies
with its supervisor.
"""

import asyncio
import collections
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

from trainer import channel
from trainer.gang import watchdog

log = logging.getLogger(__name__)

LAST_LINES = 20
LONGEST_LINE = 400  # Bytes of each of the last lines that are kept.
DUMP_SECONDS = 1.0  # Between the request for all stacks and the kill.


class Child:
    """A process. Calls `on_beat(watch)` for every beat and, once, `on_end(code, reason,
    last_lines)` in the event loop.

    `code` is negative where a signal ended it; `reason` says what its watchdog found, "" where
    nothing; `last_lines` are the last of its stderr, which passes through to ours. Raises OSError
    where it cannot be started.
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
        # What TensorFlow puts into temporary files it removes only where it ends by itself.
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
        self._line, self._last_lines = b"", collections.deque(maxlen=LAST_LINES)
        self._reason = ""
        self._loop.add_reader(self._channel, self._hear)
        self._loop.add_reader(self._stderr, self._pass_on)
        threading.Thread(target=self._await_end, daemon=True).start()

    def ask(self, request: dict) -> None:
        """Sends `request`; the process reads it at its next loop boundary."""
        try:
            self._channel.send(channel.request(request), socket.MSG_NOSIGNAL)
        except OSError:
            pass  # It has ended; `on_end` follows.

    def kill(self) -> None:
        """Ends the process and all that it started, at once."""
        if not self._reason and watchdog.is_stopped(self._stat()):
            self._reason = "frozen (stopped by a signal)"
        self._signal(signal.SIGKILL)

    def look(self) -> None:
        """Ends the process where it hangs; its stacks go to stderr first. To be called every second
        or so.
        """
        found = "" if self._reason else self.watch.look(self._stat(), time.monotonic())
        if found:
            log.error("training (process %d) is %s: it is ended", self.pid, found)
            self._reason = found
            self._signal(signal.SIGUSR1)
            self._loop.call_later(DUMP_SECONDS, self._signal, signal.SIGKILL)

    # ----------------------------------------------------------------------------------------------

    def _stat(self) -> str:
        try:
            with open(f"/proc/{self.pid}/stat", encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError:
            return ""

    def _signal(self, number: signal.Signals) -> None:
        # Its number belongs to it until it has been waited for.
        if self._process.returncode is None:
            try:
                if number == signal.SIGKILL:
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
        """Passes on one block of stderr; whether there may be more."""
        try:
            block = os.read(self._stderr, 65536)
        except BlockingIOError:
            return False
        if not block:
            self._loop.remove_reader(self._stderr)
            return False
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
            pass  # The loop has ended meanwhile.

    def _ended(self) -> None:
        self._signal(signal.SIGKILL)  # What it started and left behind.
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
    """Waits for processes that were left to us because we are process 1; never for `own`, which
    somebody else waits for.
    """
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid == own:
            return
        os.waitpid(found.si_pid, os.WNOHANG)
