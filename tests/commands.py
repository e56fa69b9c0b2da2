"""Runs the program as its user does: arguments in; exit code, stdout and stderr out.

`call` runs commands in one resident process, so that TensorFlow is imported only once. A command
that gets a signal needs a process of its own: `start`.
"""

import atexit
import contextlib
import dataclasses
import functools
import io
import json
import os
import pathlib
import re
import select
import signal
import subprocess
import sys
import time
import traceback
from unittest import mock

from tests import kill_points
from tests.faults import failing_calls
from trainer.exit_codes import UsageError
from trainer.launch import isolation

PROJECT = pathlib.Path(__file__).resolve().parents[1]
# The longest that any command here may take on a busy machine.
SECONDS = 240


@dataclasses.dataclass(frozen=True)
class Answer:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def digest(self) -> str:
        """The digest in the last line, `done step=S state_digest=HEX` or `stopped ...`."""
        return re.fullmatch(r"(done|stopped) step=\d+ state_digest=([0-9a-f]{64})", self.lines[-1])[
            2
        ]


def call(*arguments, stdin: bytes = b"", patches: dict | None = None, record=(), fail=()) -> Answer:
    """Runs `trainer ARGUMENTS` in the resident process.

    Args:
      patches: {dotted name: value} to set in that process during the command.
      record: (folder, folder for copies of it) records the `kill_points` of the run.
      fail: the arguments of `failing_calls.failing`, after `folder` as a string.
    """
    return _resident().answer(
        {
            "arguments": list(map(str, arguments)),
            "stdin": stdin.hex(),
            "patches": patches or {},
            "record": list(map(str, record)),
            "fail": list(fail),
        }
    )


def start(*arguments, prefix=(), environment=None) -> subprocess.Popen:
    """Starts `trainer ARGUMENTS` in a process of its own.

    `prefix`: words before it on the command line, for example those of `taskset`.
    """
    command = [*prefix, sys.executable, "-m", "trainer", *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=PROJECT,
        env={**os.environ, **(environment or {})},
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen) -> Answer:
    """Waits until a process has ended; returns its answer."""
    try:
        out, err = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"still running after {SECONDS} s: {out}\n{err}") from None
    return Answer(process.returncode, out, err)


def wait_for(condition, process: subprocess.Popen) -> None:
    """Waits until `condition()` holds or `process` has ended."""
    deadline = time.monotonic() + SECONDS
    while not condition() and process.poll() is None:
        if time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"nothing happened in {SECONDS} s: {process.communicate()}")
        time.sleep(0.01)


@functools.cache
def local_network() -> str:
    """Returns what `--local_network` may be here: own, or host if no network can be made."""
    try:
        isolation.Network().close()
    except UsageError:
        return "host"
    return "own"


# --- The resident process -------------------------------------------------------------------------


@functools.cache
def _resident() -> "_Resident":
    return _Resident()


class _Resident:
    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.commands"],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        atexit.register(self._process.kill)

    def answer(self, request: dict) -> Answer:
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], SECONDS)
        line = self._process.stdout.readline() if ready else b""
        if not line:
            self._process.kill()
            _resident.cache_clear()
            raise AssertionError(f"no answer within {SECONDS} s to {request}")
        return Answer(**json.loads(line))


def _answer(request: dict, main) -> dict:
    stdout, stderr = io.StringIO(), io.StringIO()
    stdin = io.TextIOWrapper(io.BytesIO(bytes.fromhex(request["stdin"])))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with contextlib.ExitStack() as stack:
        for name, value in request["patches"].items():
            stack.enter_context(mock.patch(name, value))
        stack.enter_context(mock.patch("sys.stdin", stdin))
        stack.enter_context(contextlib.redirect_stdout(stdout))
        stack.enter_context(contextlib.redirect_stderr(stderr))
        if request["record"]:
            stack.enter_context(kill_points.recorded(*request["record"], stdout.getvalue))
        if request.get("fail"):
            stack.enter_context(failing_calls.failing(*request["fail"]))
        try:
            code = main(request["arguments"])
        except Exception:
            traceback.print_exc()
            code = 1
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return {"code": code, "out": stdout.getvalue(), "err": stderr.getvalue()}


def _serve() -> None:
    """Answers requests from stdin until stdin ends; all other output goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from trainer.main import main

    with contextlib.redirect_stdout(io.StringIO()):
        # This sets environment variables of TensorFlow before its import, as every command does;
        # they may affect the exact result.
        main(["--help"])
    import tensorflow as tf

    # A process can set both only once: the threads of `--threads=2`, and the largest number of
    # devices that any command uses.
    tf.config.threading.set_intra_op_parallelism_threads(2)
    tf.config.threading.set_inter_op_parallelism_threads(2)
    [cpu] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    for line in sys.stdin.buffer:
        print(json.dumps(_answer(json.loads(line), main)), file=answers, flush=True)


if __name__ == "__main__":
    _serve()
