"""A gang of workers on this machine, managed as an orchestrator manages the pods of a cluster.

Each worker is `python -m trainer train`, gets its index and its peers by flags, and is supervised
as on a cluster. This module has the orchestrator's part: it assigns ports and GPUs, makes a token
and a network for them (see `isolation`), writes logs, restarts workers that die, ends the job on
certain exit codes and passes signals on. `decide` says what happens after a worker has ended, as
the podFailurePolicy of the Jobs of `submit` does.
"""

import contextlib
import dataclasses
import logging
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TextIO

from trainer import exit_codes, processes, stopping
from trainer.devices import accelerator
from trainer.exit_codes import BY_NAME, UsageError
from trainer.flags.run import Config, Run
from trainer.gang import proof
from trainer.launch import isolation
from trainer.model_folder import journal

log = logging.getLogger(__name__)

PROGRAM = (sys.executable, "-m", "trainer", "train")
POLL_SECONDS = 0.1
# Counted failures (bugs, storage) of all workers together: the backoffLimit of a Job.
RETRIES = 6
# Below the ports of outgoing connections, so that a port stays free while its worker restarts.
PORTS = range(20_000, 30_000)
ON_CLUSTER = {row.code: row.on_cluster for row in exit_codes.TABLE}


@dataclasses.dataclass(frozen=True)
class Decision:
    """What happens to a worker that ended.

    action: "leave" it, "start" it again, or "end" the job with exit code `code`. counts: whether it
    is a counted failure of the job.
    """

    action: str
    code: int | None = None
    counts: bool = False


def decide(code: int, *, asked: bool, restarts: int, max_restarts: int, failures: int) -> Decision:
    """Returns what happens to a worker that ended.

    Args:
      code: its exit code, negative if a signal killed it.
      asked: whether it was asked to stop.
      restarts: its restarts since the newest checkpoint of the run.
      failures: the counted failures of the job so far.
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
    return Decision("end", code)  # "fail the job", and 130: a worker got a Ctrl-C of its own.


def gpus_of_workers(
    run: Run,
    workers: int,
    environ: Mapping[str, str],
    files: Sequence[str],
    distributions: Sequence[str],
) -> list[str] | None:
    """Returns the CUDA_VISIBLE_DEVICES of each worker; None to set nothing.

    All workers get the same number of GPUs: --devices of them, else as many as there are for each.
    Nothing is set for one worker, for a run that uses no GPU, and if the GPUs cannot be counted.

    Raises UsageError if there are too few GPUs.

    Args:
      environ, files, distributions: as in `accelerator.expected`. A CUDA_VISIBLE_DEVICES in
        `environ` names the GPUs that may be used.
    """
    kind = accelerator.expected(run.accelerator, run.strategy, environ, files, distributions)
    there, source = _gpus(environ, files)
    if workers == 1 or kind != "GPU" or not there:
        return None
    each = run.devices or len(there) // workers
    if not each or workers * each > len(there):
        wanted = f" with --devices={run.devices}" if run.devices else ""
        raise UsageError(
            f"--workers={workers}{wanted}: this machine has {len(there)} GPU(s) ({source}), and no "
            "two workers may share one, because NCCL does not connect them. Lower --workers"
            f"{' or --devices' if run.devices else ''}, or train on the CPU with --accelerator=cpu."
        )
    return [",".join(there[each * index : each * (index + 1)]) for index in range(workers)]


def _gpus(environ: Mapping[str, str], files: Sequence[str]) -> tuple[list[str], str]:
    """Returns the names of the GPUs for CUDA_VISIBLE_DEVICES, and where they come from."""
    given = environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()], (
            f"CUDA_VISIBLE_DEVICES={given}"
        )
    # CUDA counts from 0, also in a container that has only /dev/nvidia3.
    found = [path for path in files if path.startswith("/dev/nvidia")]
    return [str(index) for index in range(len(found))], ", ".join(found)


def run(config: Config, workers: int, arguments: Sequence[str]) -> int:
    """Runs a gang of `workers` to its end; returns the exit code.

    Worker 0 prints to our stdout, and its log is copied to our stderr. MODEL_DIR/logs holds the
    logs of all workers.

    Args:
      config: the configuration that `arguments` make.
      arguments: flags of `train`.
    """
    stop = stopping.StopRequest.on_signals()
    with LocalGang(config, workers, arguments) as gang:
        follow = _Follow(gang.log_file(0), sys.stderr)
        gang.start()
        stopping.pause_together(
            lambda: gang.pass_on(signal.SIGTSTP), lambda: gang.pass_on(signal.SIGCONT)
        )
        log.info("%d worker(s), their logs are %s", workers, gang.log_file("*"))
        while (code := gang.poll()) is None:
            if stop.asked:
                gang.stop(stop.signal)
            follow.copy()
            time.sleep(POLL_SECONDS)
        follow.copy()
    return code


class LocalGang:
    """The processes of a gang, as a context manager that kills at its end those that are left.

    Call `start`, then `poll` until it returns the exit code. Use one thread for all calls: the
    workers die when the thread that started them ends.
    """

    def __init__(
        self,
        config: Config,
        workers: int,
        arguments: Sequence[str],
        output: pathlib.Path | None = None,
    ):
        """Makes the folder of the logs, and for several workers their token and their network.

        Raises UsageError if one of them cannot be made or if GPUs are missing.

        Args:
          output: the file to which the standard output of worker 0 is appended; None: our own.
        """
        self._folder = pathlib.Path(config.folders.model_dir)
        self._settings = config.gang
        self._workers = workers
        self._arguments = list(arguments)
        self._output = output
        self._gpus = gpus_of_workers(
            config.run, workers, os.environ, accelerator.device_files(), accelerator.installed()
        )
        self._hosts = ",".join(f"127.0.0.1:{port}" for port in free_ports(workers))
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
                f"--model_dir={self._folder} cannot be used ({problem}): it must be a folder or "
                "not exist yet. Choose another --model_dir."
            ) from problem
        self._held = contextlib.ExitStack()  # What lasts as long as the gang.
        several, gang = workers > 1, config.gang
        self._network = (
            self._held.enter_context(isolation.Network())
            if several and gang.local_network == "own"
            else None
        )
        self._token_file = (
            self._held.enter_context(_token_file()) if several and not gang.gang_token_file else ""
        )

    def log_file(self, index: int | str) -> pathlib.Path:
        """Returns the log of a worker."""
        return self._folder / "logs" / f"worker-{index}.log"

    @property
    def pids(self) -> dict[int, int]:
        """{index: process id} of the running workers."""
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
        """Restarts, ends or kills workers as needed; returns the exit code once all have ended.

        Returns None before that.
        """
        for index, process in self._processes.items():
            if index not in self._ended and (code := process.poll()) is not None:
                self._after(index, code)
        if time.monotonic() > self._deadline:
            log.error(
                "--grace_seconds=%g are over: killing the workers that are left",
                self._settings.grace_seconds,
            )
            self._signal(signal.SIGKILL)
            self._deadline = float("inf")
        return self._code() if len(self._ended) == self._workers else None

    def stop(self, number: signal.Signals) -> None:
        """Passes the signal to all workers, once; they have --grace_seconds to stop."""
        if self._asked is None:
            self._asked = number
            self._ask(number)

    def __enter__(self) -> "LocalGang":
        return self

    def __exit__(self, *_) -> None:
        self._signal(signal.SIGKILL)
        for process in self._processes.values():
            process.wait()
        self._held.close()

    # ----------------------------------------------------------------------------------------------

    def _after(self, index: int, code: int) -> None:
        """Reacts to the end of worker `index`."""
        self._note_progress()
        decision = decide(
            code,
            asked=self._asked is not None or self._outcome is not None,
            restarts=self._restarts[index],
            max_restarts=self._settings.max_restarts,
            failures=self._failures,
        )
        ended = f"worker {index} ended with {_in_words(code)}"
        self._failures += decision.counts
        self._ended[index] = code
        if decision.action == "end":
            log.error(
                "%s: the job ends with exit code %d; see %s",
                ended,
                decision.code,
                self.log_file(index),
            )
            self._outcome = decision.code
            self._ask(signal.SIGTERM)
        elif decision.action == "start":
            self._restarts[index] += 1
            log.info("%s: restarting it", ended)
            # Workers that were done are started too: this one has to meet them.
            for each in list(self._ended):
                self._start(each)

    def _note_progress(self) -> None:
        """Resets the counts of restarts if there is a new checkpoint."""
        saves = [
            event.get("step")
            for event in journal.read(self._folder / "journal.jsonl")
            if event.get("event") == "save"
        ]
        if saves and saves[-1] != self._saved:
            self._saved = saves[-1]
            self._restarts = dict.fromkeys(self._restarts, 0)

    def _code(self) -> int:
        """Returns the exit code of the job, after all workers have ended."""
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
        self._signal(number if number == signal.SIGINT else signal.SIGTERM)
        self._deadline = time.monotonic() + self._settings.grace_seconds

    def pass_on(self, number: signal.Signals) -> None:
        """Sends a signal to all workers."""
        self._signal(number)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            process.send_signal(number)  # Does nothing if the process has ended.

    def _start(self, index: int) -> None:
        who = (
            ["--supervise=on"]
            if self._workers == 1
            else [
                f"--num_workers={self._workers}",
                f"--worker_index={index}",
                f"--hosts={self._hosts}",
                *([f"--gang_token_file={self._token_file}"] if self._token_file else []),
            ]
        )
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("TF_CONFIG", "JOB_COMPLETION_INDEX")
        }
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[index]
        with contextlib.ExitStack() as files:
            errors = files.enter_context(open(self.log_file(index), "ab"))
            output = files.enter_context(open(self._output, "ab")) if self._output else None
            # A session of its own: we pass Ctrl-C on, and without one it would arrive twice.
            self._processes[index] = subprocess.Popen(
                [*PROGRAM, *self._arguments, *who],
                env=environment,
                stdin=subprocess.DEVNULL,
                stderr=errors,
                stdout=errors if index else output,
                start_new_session=True,
                preexec_fn=_preparing(self._network, os.getpid()),
            )
        self._ended.pop(index, None)


def _in_words(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _preparing(network: isolation.Network | None, parent: int) -> Callable[[], None]:
    """Returns the `preexec_fn` of a worker: it enters `network` and ends when `parent` does."""
    tie = processes.tied_to(parent)

    def prepare():
        if network:
            network.enter()
        tie()
        # A signal that comes before the worker has its handlers waits for them.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})

    return prepare


@contextlib.contextmanager
def _token_file() -> Iterator[str]:
    """Gives the path of a file of mode 0600 with a fresh token, which is removed at the end."""
    with tempfile.NamedTemporaryFile("w", prefix="rnn-trainer-token-") as file:
        file.write(proof.fresh_token())
        file.flush()
        yield file.name


def free_ports(count: int) -> list[int]:
    """Returns `count` different free ports of the loopback address."""
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
    """Copies text that is appended to a file to a stream."""

    def __init__(self, path: pathlib.Path, stream: TextIO):
        self._path = path
        self._stream = stream
        self._place = path.stat().st_size if path.exists() else 0

    def copy(self) -> None:
        """Copies the complete lines that were appended since the last call."""
        if not self._path.exists():
            return
        with open(self._path, "rb") as file:
            file.seek(self._place)
            added = file.read()
        whole = added[: added.rfind(b"\n") + 1]
        self._place += len(whole)
        self._stream.write(whole.decode("utf-8", "replace"))
        self._stream.flush()
