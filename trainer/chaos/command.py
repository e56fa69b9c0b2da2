"""The proof on one's own machine: a job that is disturbed at random moments ends with the same
state as one that is not.

Both jobs run with the same flags, below MODEL_DIR/chaos. One process is killed (SIGKILL, which no
process can prepare for) and started again by this program. A gang of workers recovers by itself:
here it is only disturbed, and timed.
"""

import datetime
import logging
import pathlib
import random
import signal
import time
from collections.abc import Callable

from trainer import config as configuration
from trainer.chaos import faults
from trainer.chaos.jobs import POLL_SECONDS, Gang, Job, Process
from trainer.exit_codes import BY_NAME, UsageError
from trainer.launch import local
from trainer.model_folder import journal
from trainer.reporting import goodput, progress

log = logging.getLogger(__name__)

# What an attempt is at when it is disturbed, or shortly before, and the line of the journal that
# tells it.
MOMENTS = {"starting": None, "training": "start", "saving": "save"}


def run(config: configuration.Config, chaos: configuration.Chaos) -> int:
    """`trainer chaos`: prints a line per fault and both digests; returns 0 where they are equal,
    else 1.

    Raises UsageError where MODEL_DIR/chaos is there already.
    """
    folder = pathlib.Path(config.folders.model_dir) / "chaos"
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise UsageError(
            f"{folder} is there already: chaos writes only into a folder that it made. Delete it, "
            "or name another "
            "--model_dir."
        ) from None
    undisturbed, disturbed = (
        Gang(name, config, chaos.workers) if chaos.workers > 1 else Process(name, config)
        for name in ("undisturbed", "disturbed")
    )
    chance = random.Random(config.run.seed)
    try:
        log.info("running the job undisturbed; its log is %s", undisturbed.log_file)
        undisturbed.start()
        expected = undisturbed.digest()
        log.info(
            "running it again with %d disturbance(s); its log is %s",
            chaos.kills,
            disturbed.log_file,
        )
        disturbed.start()
        pause = undisturbed.seconds() / (chaos.kills + 1)
        if chaos.workers > 1:
            _Disturber(disturbed, chance).run(chaos.kills, pause)
        else:
            _kill(disturbed, chaos.kills, pause, chance)
        found = disturbed.digest()
    finally:
        undisturbed.end()
        disturbed.end()
    if chaos.workers > 1:
        print(f"goodput undisturbed {_goodput(undisturbed)} disturbed {_goodput(disturbed)}")
    print(f"undisturbed {expected}\ndisturbed {found}", flush=True)
    return BY_NAME["done"] if found == expected else BY_NAME["bug"]


def _goodput(job: Job) -> str:
    now = datetime.datetime.now(datetime.timezone.utc).timestamp()
    return progress.number(
        goodput.summarize(journal.read(job.folder / "journal.jsonl"), now).goodput
    )


# --- One process ----------------------------------------------------------------------------------


def _kill(job: Process, kills: int, pause: float, chance: random.Random) -> None:
    """Kills the job `kills` times, spread over its way to the end, and starts it again; leaves it
    running.
    """
    for kill in range(1, kills + 1):
        moment = chance.choice(tuple(MOMENTS))
        _await(job, moment)
        time.sleep(chance.uniform(0, pause))
        if job.look() is not None:
            log.info("the job came to its end before kill %d", kill)
            return
        job.kill()
        saved = [event["step"] for event in job.events("save")]
        print(
            f"kill {kill} {moment}, newest checkpoint at step {max(saved, default=0)}", flush=True
        )
        job.start()


def _await(job: Process, moment: str) -> None:
    """Returns when `moment` has come for the attempt that was just started, or its process has
    ended.
    """
    event = MOMENTS[moment]
    before = len(job.events(event))
    while event and job.look() is None and len(job.events(event)) <= before:
        time.sleep(POLL_SECONDS)


# --- A gang ---------------------------------------------------------------------------------------


class _Disturber:
    """Disturbs a gang and tells of each fault, in their order, when a new step was made after
    it.
    """

    def __init__(self, job: Gang, chance: random.Random):
        self._job = job
        self._chance = chance
        self._open: list[faults.Fault] = []
        self._frozen: list[faults.Fault] = []

    def run(self, kills: int, pause: float) -> None:
        """Disturbs it `kills` times, about `pause` seconds of training apart; returns when it has
        ended.
        """
        for number in range(1, kills + 1):
            moment = self._chance.choice(tuple(MOMENTS))
            kind, worker = (
                self._chance.choice(tuple(faults.KINDS)),
                self._chance.randrange(self._job.workers),
            )
            seconds = self._chance.uniform(0, pause)
            if not (
                self._wait(lambda: self._has_come(moment))
                and self._wait(_after(seconds))
                and self._wait(lambda: self._inject(number, kind, worker))
            ):
                log.info("the job came to its end before fault %d", number)
                break
        self._wait(lambda: False)
        for fault in self._open:
            print(fault.told("the job ended without another step"), flush=True)

    def _wait(self, condition: Callable[[], bool]) -> bool:
        """Looks after the gang until `condition()` holds, or until it has ended, which is False."""
        while self._job.look() is None:
            self._look_at_faults()
            if condition():
                return True
            time.sleep(local.POLL_SECONDS)
        self._look_at_faults()
        return False

    def _has_come(self, moment: str) -> bool:
        """Whether the gang, after all faults so far, is at what `moment` says."""
        if moment == "starting":
            return True
        line = {"training": "loop", "saving": "save"}[moment]
        attempt, _ = faults.progress(self._job.events("launch"))
        return not self._open and any(
            event["attempt"] == attempt for event in self._job.events(line)
        )

    def _inject(self, number: int, kind: str, worker: int) -> bool:
        """Disturbs `worker`; False where it has nothing to be disturbed at the moment."""
        at = time.time()
        attempt, step = faults.progress(self._job.events("launch", "loop"))
        pid = faults.inject(kind, self._job, worker)
        if pid is None:
            return False
        frozen = self._chance.uniform(*faults.FROZEN_SECONDS) if kind == "freeze_training" else None
        log.info(
            "fault %d: %s worker %d (process %d)%s",
            number,
            kind,
            worker,
            pid,
            f" for {frozen:.1f} s" if frozen else "",
        )
        fault = faults.Fault(
            number, kind, worker, pid, at, at + frozen if frozen else None, attempt, step
        )
        self._open.append(fault)
        if frozen:
            self._frozen.append(fault)
        return True

    def _look_at_faults(self) -> None:
        """Thaws what was frozen long enough, and tells of recoveries."""
        for fault in [fault for fault in self._frozen if time.time() >= fault.thaws]:
            self._frozen.remove(fault)
            if self._job.training(fault.worker) == fault.pid:  # Else it was killed meanwhile.
                faults.send(fault.pid, signal.SIGCONT)
        loops = self._job.events("loop") if self._open else []
        while self._open and (seconds := faults.recovered_after(self._open[0], loops)) is not None:
            print(self._open.pop(0).told(f"first new step after {seconds:.2f} s"), flush=True)


def _after(seconds: float) -> Callable[[], bool]:
    """Turns true when `seconds` have passed."""
    moment = time.monotonic() + seconds
    return lambda: time.monotonic() >= moment
