"""A gang of workers on this machine: what an orchestrator does for them on a cluster, done for
processes on loopback.

Each worker is `python -m trainer train`, told who and where it is by flags alone, and supervised as
on a cluster. Here is only the orchestrator's part: ports, logs, a worker that dies is started
again, a code that says so ends the job, a signal is passed on. What to do with a worker that ended
is `decide`, with the meaning that the Jobs of `submit` give their podFailurePolicy.
"""

import contextlib
import ctypes
import dataclasses
import logging
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from trainer import config as configuration
from trainer import exit_codes, stopping
from trainer.exit_codes import BY_NAME, UsageError
from trainer.model_folder import journal

log = logging.getLogger(__name__)

PROGRAM = (sys.executable, "-m", "trainer", "train")
POLL_SECONDS = 0.1
# Failures that count (bugs, storage), all workers together: a Job's backoffLimit.
RETRIES = 6
# Below those that outgoing connections take, so that a port stays free while its worker is away.
PORTS = range(20_000, 30_000)
PR_SET_PDEATHSIG = 1  # linux/prctl.h
ON_CLUSTER = {row.code: row.on_cluster for row in exit_codes.TABLE}


@dataclasses.dataclass(frozen=True)
class Decision:
    """`action`: leave it | start it again | end the job, with exit code `code`. `counts`: as a
    failure of the job.
    """

    action: str
    code: int | None = None
    counts: bool = False


def decide(code: int, *, asked: bool, restarts: int, max_restarts: int, failures: int) -> Decision:
    """What happens to a worker that ended.

    Args:
      code: its exit code, negative where a signal killed it.
      asked: whether we told it to stop.
      restarts: how often it was started again since the run's newest checkpoint.
      failures: those of the job that counted so far.
    """
    on_cluster = "retry, not counted" if code < 0 else ON_CLUSTER.get(code, "counted retry")
    if asked or on_cluster == "done":
        return Decision("leave")
    if on_cluster == "counted retry":
        return Decision("start", counts=True) if failures < RETRIES else Decision("end", code)
    if on_cluster == "retry, not counted":
        return (
            Decision("start")
            if restarts < max_restarts
            else Decision("end", BY_NAME["restart_limit"])
        )
    return Decision("end", code)  # "fail the job", and 130: somebody pressed Ctrl-C at a worker.


def run(config: configuration.Config, workers: int, arguments: Sequence[str]) -> int:
    """Runs a gang of `workers` to its end; returns the exit code.

    Worker 0 prints to our stdout, its log is copied to our stderr; MODEL_DIR/logs holds the logs of
    all.

    Args:
      config: what `arguments`, the flags of `train`, say.
    """
    stop = stopping.StopRequest.on_signals()
    with LocalGang(config, workers, arguments) as gang:
        follow = _Follow(gang.log_file(0), sys.stderr)
        gang.start()
        log.info("%d worker(s), their logs are %s", workers, gang.log_file("*"))
        while (code := gang.poll()) is None:
            if stop.asked:
                gang.stop(stop.signal)
            follow.copy()
            time.sleep(POLL_SECONDS)
        follow.copy()
    return code


class LocalGang:
    """The processes of a gang. Call `start`, then `poll` until it returns the exit code; leaving
    the block kills what is left.

    All from one thread: the workers die when the thread that started them does.
    """

    def __init__(
        self,
        config: configuration.Config,
        workers: int,
        arguments: Sequence[str],
        output: pathlib.Path | None = None,
    ):
        """`output`: the file that what worker 0 prints is added to; None: it prints where we do.

        Raises UsageError where there can be no folder for logs.
        """
        self._folder = pathlib.Path(config.folders.model_dir)
        self._settings = config.gang
        self._workers = workers
        self._arguments = list(arguments)
        self._output = output
        self._hosts = ",".join(f"127.0.0.1:{port}" for port in _free_ports(workers))
        self._processes: dict[int, subprocess.Popen] = {}
        self._ended: dict[int, int] = {}
        self._asked: signal.Signals | None = None
        self._outcome: int | None = None
        self._deadline = float("inf")
        self._failures = 0
        self._restarts = dict.fromkeys(range(workers), 0)
        self._saved = -1
        try:
            self.log_file(0).parent.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise UsageError(
                f"--model_dir={self._folder} cannot be used ({problem}): it must be a folder, or a "
                "name that is still "
                "free. Choose another --model_dir."
            ) from problem

    def log_file(self, index) -> pathlib.Path:
        return self._folder / "logs" / f"worker-{index}.log"

    @property
    def pids(self) -> dict[int, int]:
        """{index: process id} of the workers that run."""
        return {
            index: process.pid
            for index, process in self._processes.items()
            if process.returncode is None
        }

    def start(self) -> None:
        """Starts all workers."""
        for index in range(self._workers):
            self._start(index)

    def poll(self) -> int | None:
        """Looks after the workers, and does what is to be done; the exit code of the job when all
        have ended, else None.
        """
        for index, process in self._processes.items():
            if index not in self._ended and (code := process.poll()) is not None:
                self._after(index, code)
        if time.monotonic() > self._deadline:
            log.error(
                "--grace_seconds=%g are over: the workers that are left are killed",
                self._settings.grace_seconds,
            )
            self._signal(signal.SIGKILL)
            self._deadline = float("inf")
        return self._code() if len(self._ended) == self._workers else None

    def stop(self, number: signal.Signals) -> None:
        """Passes a request to stop to all workers, the first time it is called; they have
        --grace_seconds for it.
        """
        if self._asked is None:
            self._asked = number
            self._ask(number)

    def __enter__(self) -> "LocalGang":
        return self

    def __exit__(self, *_) -> None:
        self._signal(signal.SIGKILL)
        for process in self._processes.values():
            process.wait()

    # ----------------------------------------------------------------------------------------------

    def _after(self, index: int, code: int) -> None:
        """What follows from the end of worker `index`."""
        self._note_progress()
        decision = decide(
            code,
            asked=self._asked is not None or self._outcome is not None,
            restarts=self._restarts[index],
            max_restarts=self._settings.max_restarts,
            failures=self._failures,
        )
        ended = f"worker {index} ended with {_told(code)}"
        self._failures += decision.counts
        self._ended[index] = code
        if decision.action == "end":
            log.error(
                "%s: the job ends with exit code %d; %s says why",
                ended,
                decision.code,
                self.log_file(index),
            )
            self._outcome = decision.code
            self._ask(signal.SIGTERM)
        elif decision.action == "start":
            self._restarts[index] += 1
            log.info("%s: it is started again", ended)
            # Those that were done too: it has to meet them, and being done again costs little.
            for each in list(self._ended):
                self._start(each)

    def _note_progress(self) -> None:
        """A new checkpoint makes restarts that came before it forgotten."""
        saves = [
            event.get("step")
            for event in journal.read(self._folder / "journal.jsonl")
            if event.get("event") == "save"
        ]
        if saves and saves[-1] != self._saved:
            self._saved = saves[-1]
            self._restarts = dict.fromkeys(self._restarts, 0)

    def _code(self) -> int:
        """The exit code of the job, all workers having ended."""
        failed = [
            code
            for code in self._ended.values()
            if code > 0 and ON_CLUSTER.get(code) not in ("retry, not counted", "-")
        ]
        if self._outcome is not None or self._asked is None:
            return self._outcome or BY_NAME["done"]
        if failed or not any(self._ended.values()):
            return failed[0] if failed else BY_NAME["done"]
        return BY_NAME["interrupted" if self._asked == signal.SIGINT else "terminated"]

    def _ask(self, number: signal.Signals) -> None:
        self._signal(number)
        self._deadline = time.monotonic() + self._settings.grace_seconds

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            process.send_signal(number)  # Nothing where it has ended.

    def _start(self, index: int) -> None:
        who = (
            ["--supervise=on"]
            if self._workers == 1
            else [
                f"--num_workers={self._workers}",
                f"--worker_index={index}",
                f"--hosts={self._hosts}",
            ]
        )
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("TF_CONFIG", "JOB_COMPLETION_INDEX")
        }
        with contextlib.ExitStack() as files:
            errors = files.enter_context(open(self.log_file(index), "ab"))
            output = files.enter_context(open(self._output, "ab")) if self._output else None
            # A session of its own: Ctrl-C in our terminal is ours to pass on, or it would come
            # twice.
            self._processes[index] = subprocess.Popen(
                [*PROGRAM, *self._arguments, *who],
                env=environment,
                stdin=subprocess.DEVNULL,
                stderr=errors,
                stdout=errors if index else output,
                start_new_session=True,
                preexec_fn=_dying_with(os.getpid()),
            )
        self._ended.pop(index, None)


def _told(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _dying_with(parent: int):
    """What a process does first, so that it ends when `parent` does, even by SIGKILL; None where
    the system has no such thing.
    """
    # Looked up now: after a fork nothing may be loaded.
    prctl = getattr(ctypes.CDLL(None), "prctl", None)

    def prepare():
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # It ended before we could ask for that.
            os.kill(os.getpid(), signal.SIGKILL)

    return prepare if prctl else None


def _free_ports(count: int) -> list[int]:
    """Different ports of the loopback address that nobody listens on."""
    found = {}
    try:
        for port in random.SystemRandom().sample(PORTS, len(PORTS)):
            if len(found) == count:
                break
            probe = socket.socket()
            found[port] = probe
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                found.pop(port).close()
    finally:
        for probe in found.values():
            probe.close()
    return list(found)


class _Follow:
    """Copies what is added to a file, as text, to a stream."""

    def __init__(self, path: pathlib.Path, stream):
        self._path = path
        self._stream = stream
        self._place = path.stat().st_size if path.exists() else 0

    def copy(self) -> None:
        """Copies the whole lines that have come since the last call."""
        if not self._path.exists():
            return
        with open(self._path, "rb") as file:
            file.seek(self._place)
            added = file.read()
        whole = added[: added.rfind(b"\n") + 1]
        self._place += len(whole)
        self._stream.write(whole.decode("utf-8", "replace"))
        self._stream.flush()
