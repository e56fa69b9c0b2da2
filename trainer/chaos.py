"""The proof on one's own machine: a job that is killed at random moments ends with the same state as one that is not.

Both jobs are ordinary `trainer train` processes with the same flags, below MODEL_DIR/chaos. This program only starts
them, kills one of them (SIGKILL, which no process can prepare for), and compares the digests that they print.
"""

import dataclasses
import datetime
import logging
import pathlib
import random
import re
import subprocess
import sys
import time

from trainer import config as configuration
from trainer import journal
from trainer.exit_codes import BY_NAME, TrainerError, UsageError

log = logging.getLogger(__name__)

POLL_SECONDS = 0.02
MOMENTS = ("starting", "training", "saving")  # What an attempt is at when it is killed, or shortly before.


@dataclasses.dataclass
class _Job:
    """One job in its own model folder; each `start` is an attempt to bring it to its end."""

    name: str
    config: configuration.Config
    process: subprocess.Popen | None = None

    @property
    def folder(self) -> pathlib.Path:
        return pathlib.Path(self.config.folders.model_dir) / "chaos" / self.name

    @property
    def log_file(self) -> pathlib.Path:
        return self.folder.with_suffix(".log")

    def start(self) -> None:
        config = configuration.replace(self.config, model_dir=str(self.folder))
        flags = [f"--{name}={configuration.as_text(value)}" for name, value in configuration.to_flat(config).items()]
        with open(self.log_file, "ab") as errors:
            self.process = subprocess.Popen([sys.executable, "-m", "trainer", "train", *flags],
                                            stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, text=True)

    def events(self, name: str) -> list[dict]:
        return [event for event in journal.read(self.folder / "journal.jsonl") if event["event"] == name]

    def digest(self) -> str:
        """Waits for the end; the digest of the last line. Raises TrainerError with the job's own code where it failed."""
        output, _ = self.process.communicate()
        last = re.search(r"^done step=\d+ state_digest=([0-9a-f]{64})$", output, re.MULTILINE)
        if self.process.returncode or not last:
            problem = TrainerError(f"the {self.name} job ended with exit code {self.process.returncode}: it must end well to be "
                                   f"compared. Its log, {self.log_file}, ends with:\n{_tail(self.log_file)}")
            problem.code = self.process.returncode or BY_NAME["bug"]
            raise problem
        return last[1]

    def end(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def run(config: configuration.Config, kills: int) -> int:
    """`trainer chaos`: prints a line per kill and both digests; returns 0 where they are equal, else 1.

    Raises UsageError where MODEL_DIR/chaos is there already.
    """
    folder = pathlib.Path(config.folders.model_dir) / "chaos"
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise UsageError(f"{folder} is there already: chaos writes only into a folder that it made. Delete it, or name another "
                         "--model_dir.") from None
    undisturbed, disturbed = _Job("undisturbed", config), _Job("disturbed", config)
    try:
        log.info("running the job undisturbed; its log is %s", undisturbed.log_file)
        undisturbed.start()
        expected = undisturbed.digest()
        log.info("running it again with %d kill(s); its log is %s", kills, disturbed.log_file)
        _disturb(disturbed, kills, _seconds(undisturbed), random.Random(config.run.seed))
        found = disturbed.digest()
    finally:
        undisturbed.end()
        disturbed.end()
    print(f"undisturbed {expected}\ndisturbed {found}", flush=True)
    return BY_NAME["done"] if found == expected else BY_NAME["bug"]


def _disturb(job: _Job, kills: int, duration: float, chance: random.Random) -> None:
    """Starts the job and kills it `kills` times, spread over its way to the end; leaves it running."""
    job.start()
    for kill in range(1, kills + 1):
        moment = chance.choice(MOMENTS)
        _await(job, moment)
        time.sleep(chance.uniform(0, duration / (kills + 1)))
        if job.process.poll() is not None:
            log.info("the job came to its end before kill %d", kill)
            return
        job.process.kill()
        job.process.wait()
        saved = [event["step"] for event in job.events("save")]
        print(f"kill {kill} {moment}, newest checkpoint at step {max(saved, default=0)}", flush=True)
        job.start()


def _await(job: _Job, moment: str) -> None:
    """Returns when `moment` has come for the attempt that was just started, or its process has ended."""
    event = {"starting": None, "training": "start", "saving": "save"}[moment]
    before = len(job.events(event))
    while event and job.process.poll() is None and len(job.events(event)) <= before:
        time.sleep(POLL_SECONDS)


def _seconds(job: _Job) -> float:
    """How long the only attempt of a job trained, from the journal."""
    begin, end = job.events("start")[0]["time"], job.events("stop")[-1]["time"]
    return _since_epoch(end) - _since_epoch(begin)


def _since_epoch(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()


def _tail(path: pathlib.Path, lines: int = 10) -> str:
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
