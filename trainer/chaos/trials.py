"""Trials: the runs that chaos compares, each a process or a gang in a folder of its own."""

import abc
import datetime
import os
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator

from trainer.exit_codes import BY_NAME, TrainerError
from trainer.flags import run as configuration
from trainer.launch import local
from trainer.model_folder import journal

POLL_SECONDS = 0.02


class Trial(abc.ABC):
    """One run of the trainer below MODEL_DIR/chaos.

    output: the file with its standard output; log_file: its log; folder: its model folder.
    """

    def __init__(self, name: str, config: configuration.Config):
        self.name = name
        self.folder = pathlib.Path(config.folders.model_dir) / "chaos" / name
        self.output = self.folder.with_suffix(".out")
        self.config = configuration.replace(config, model_dir=str(self.folder))

    @property
    @abc.abstractmethod
    def log_file(self) -> pathlib.Path:
        """The file with its log, errors included."""

    @abc.abstractmethod
    def start(self) -> None:
        """Starts the run, or restarts it after it has ended."""

    @abc.abstractmethod
    def poll(self) -> int | None:
        """Returns the exit code, None while it runs. Call it often: a gang is managed here."""

    @abc.abstractmethod
    def end(self) -> None:
        """Kills all processes that are left."""

    def events(self, *names: str) -> list[dict]:
        """Returns the lines of its journal whose event is one of `names`."""
        return [
            event
            for event in journal.read(self.folder / "journal.jsonl")
            if event.get("event") in names
        ]

    def digest(self) -> str:
        """Waits for the end; returns the digest in the last line.

        Raises TrainerError with the exit code of the run if it failed.
        """
        while (code := self.poll()) is None:
            time.sleep(POLL_SECONDS)
        lines = re.findall(
            r"^done step=\d+ state_digest=([0-9a-f]{64})$",
            self.output.read_text(encoding="utf-8"),
            re.MULTILINE,
        )
        if code or not lines:
            problem = TrainerError(
                f"the {self.name} trial ended with exit code {code}: only runs that succeed can be "
                f"compared. See its log, {self.log_file}, which ends with:\n{_tail(self.log_file)}"
            )
            problem.code = code if code and code > 0 else BY_NAME["bug"]
            raise problem
        return lines[-1]

    def seconds(self) -> float:
        """Returns how long its only attempt trained, from the journal."""
        return since_epoch(self.events("stop")[-1]) - since_epoch(self.events("start")[0])


class ProcessTrial(Trial):
    """A run of one process, without a supervisor."""

    def __init__(self, name: str, config: configuration.Config):
        super().__init__(name, config)
        self._process: subprocess.Popen | None = None

    @property
    def log_file(self) -> pathlib.Path:
        return self.folder.with_suffix(".log")

    def start(self) -> None:
        command = [sys.executable, "-m", "trainer", "train", *configuration.as_flags(self.config)]
        with open(self.output, "ab") as output, open(self.log_file, "ab") as errors:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=errors, stdin=subprocess.DEVNULL
            )

    def poll(self) -> int | None:
        return self._process.poll()

    def kill(self) -> None:
        """Sends SIGKILL and waits for the end of the process."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        if self._process:
            self.kill()


class GangTrial(Trial):
    """A run of several workers, restarted by their supervisors and by `launch.local`."""

    def __init__(self, name: str, config: configuration.Config, workers: int):
        super().__init__(name, config)
        self.workers = workers
        self._gang: local.LocalGang | None = None
        self._code: int | None = None

    @property
    def log_file(self) -> pathlib.Path:
        return self.folder / "logs" / "worker-0.log"

    def start(self) -> None:
        flags = configuration.as_flags(self.config)
        self._gang = local.LocalGang(self.config, self.workers, flags, self.output)
        self._gang.start()

    def poll(self) -> int | None:
        if self._code is None:
            self._code = self._gang.poll()
        return self._code

    def end(self) -> None:
        if self._gang:
            self._gang.__exit__()

    def supervisor(self, worker: int) -> int | None:
        """Returns the process id of a worker, None while it is not running."""
        return self._gang.pids.get(worker)

    def training(self, worker: int) -> int | None:
        """Returns the id of the training process of a worker, None while there is none."""
        supervisor = self.supervisor(worker)
        return (
            next((pid for pid, parent in _parents() if parent == supervisor), None)
            if supervisor
            else None
        )


def since_epoch(event: dict) -> float:
    """Returns the time of a line of the journal, in seconds since the epoch."""
    return datetime.datetime.fromisoformat(event["time"]).timestamp()


def _parents() -> Iterator[tuple[int, int]]:
    """Yields (process id, its parent's) of all processes that have not ended.

    The format of the file: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html.
    """
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                # The program's name comes first and may contain spaces and parentheses.
                state, parent = file.read().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # The process has just ended.
        if state not in "ZX":
            yield int(name), int(parent)


def _tail(path: pathlib.Path, lines: int = 10) -> str:
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
