"""The jobs that chaos runs and compares, each in its own folder below MODEL_DIR/chaos: one process,
or a gang of workers.
"""

import abc
import datetime
import os
import pathlib
import re
import subprocess
import sys
import time

from trainer import config as configuration
from trainer.exit_codes import BY_NAME, TrainerError
from trainer.launch import local
from trainer.model_folder import journal

POLL_SECONDS = 0.02


class Job(abc.ABC):
    """One run of the trainer. What it prints is in `output`, its log in `log_file`, its model in
    `folder`.
    """

    def __init__(self, name: str, config: configuration.Config):
        self.name = name
        self.folder = pathlib.Path(config.folders.model_dir) / "chaos" / name
        self.output = self.folder.with_suffix(".out")
        self.config = configuration.replace(config, model_dir=str(self.folder))

    @property
    @abc.abstractmethod
    def log_file(self) -> pathlib.Path:
        """Where it says what went wrong."""

    @abc.abstractmethod
    def start(self) -> None:
        """Starts it, or starts it again where it has ended."""

    @abc.abstractmethod
    def look(self) -> int | None:
        """Its exit code where it has ended, else None; to be called every moment while it runs."""

    @abc.abstractmethod
    def end(self) -> None:
        """Kills what is left of it."""

    def events(self, *names: str) -> list[dict]:
        """The lines of its journal so far that tell of `names`."""
        return [
            event
            for event in journal.read(self.folder / "journal.jsonl")
            if event.get("event") in names
        ]

    def digest(self) -> str:
        """Waits for the end; the digest of the last line. Raises TrainerError with the job's own
        code where it failed.
        """
        while (code := self.look()) is None:
            time.sleep(POLL_SECONDS)
        lines = re.findall(
            r"^done step=\d+ state_digest=([0-9a-f]{64})$",
            self.output.read_text(encoding="utf-8"),
            re.MULTILINE,
        )
        if code or not lines:
            problem = TrainerError(
                f"the {self.name} job ended with exit code {code}: it must end well to be "
                "compared. Its log, "
                f"{self.log_file}, ends with:\n{_tail(self.log_file)}"
            )
            problem.code = code if code and code > 0 else BY_NAME["bug"]
            raise problem
        return lines[-1]

    def seconds(self) -> float:
        """How long its only attempt trained, from the journal."""
        return since_epoch(self.events("stop")[-1]) - since_epoch(self.events("start")[0])

    def _flags(self) -> list[str]:
        return [
            f"--{name}={configuration.as_text(value)}"
            for name, value in configuration.to_flat(self.config).items()
        ]


class Process(Job):
    """A job of one process, without a supervisor."""

    process: subprocess.Popen | None = None

    @property
    def log_file(self) -> pathlib.Path:
        return self.folder.with_suffix(".log")

    def start(self) -> None:
        with open(self.output, "ab") as output, open(self.log_file, "ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "trainer", "train", *self._flags()],
                stdout=output,
                stderr=errors,
                stdin=subprocess.DEVNULL,
            )

    def look(self) -> int | None:
        return self.process.poll()

    def kill(self) -> None:
        """SIGKILL, and waits for its effect."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        if self.process:
            self.kill()


class Gang(Job):
    """A job of several workers, started again by themselves and by the orchestrator that
    `launch.local` plays.
    """

    def __init__(self, name: str, config: configuration.Config, workers: int):
        super().__init__(name, config)
        self.workers = workers
        self._gang: local.Gang | None = None
        self._code: int | None = None

    @property
    def log_file(self) -> pathlib.Path:
        return self.folder / "logs" / "worker-0.log"

    def start(self) -> None:
        self._gang = local.Gang(self.config, self.workers, self._flags(), self.output)
        self._gang.start()

    def look(self) -> int | None:
        if self._code is None:
            self._code = self._gang.poll()
        return self._code

    def end(self) -> None:
        if self._gang:
            self._gang.__exit__()

    def supervisor(self, worker: int) -> int | None:
        """The process id of worker `worker`, None while it is away."""
        return self._gang.pids.get(worker)

    def training(self, worker: int) -> int | None:
        """The process id of what trains under its supervisor, None while there is none."""
        supervisor = self.supervisor(worker)
        return (
            next((pid for pid, parent in _parents() if parent == supervisor), None)
            if supervisor
            else None
        )


def since_epoch(event: dict) -> float:
    """The moment of a line of the journal, in seconds since the epoch."""
    return datetime.datetime.fromisoformat(event["time"]).timestamp()


def _parents():
    """(process id, its parent's) of all processes that have not ended.

    The form of the file: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html.
    """
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                # The name before it may hold anything.
                state, parent = file.read().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # It has just ended.
        if state not in "ZX":
            yield int(name), int(parent)


def _tail(path: pathlib.Path, lines: int = 10) -> str:
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
