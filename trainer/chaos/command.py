"""`trainer chaos`: proves that a run which is killed ends with the same state as one which is not.

Both trials run with the same flags, in folders below MODEL_DIR/chaos. A trial of one process is
killed (SIGKILL, which no process can handle) and restarted by this program. A gang of workers
recovers without help: this program only injects the faults and measures the recovery.
"""

import datetime
import logging
import pathlib
import random
import signal
import time
from collections.abc import Callable

from trainer.chaos import faults
from trainer.chaos.trials import POLL_SECONDS, GangTrial, ProcessTrial, Trial
from trainer.exit_codes import BY_NAME, UsageError
from trainer.flags.run import Config
from trainer.flags.use import Chaos
from trainer.launch import local
from trainer.model_folder import journal
from trainer.reporting import goodput, progress

log = logging.getLogger(__name__)

# The moments at which an attempt is disturbed, or shortly after, and the journal event that marks
# each of them.
MOMENTS = {"starting": None, "training": "start", "saving": "save"}


def run(config: Config, chaos: Chaos) -> int:
    """Prints a line per fault and both digests; returns 0 if the digests are equal, else 1.

    Raises UsageError if MODEL_DIR/chaos exists.
    """
    folder = pathlib.Path(config.folders.model_dir) / "chaos"
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise UsageError(
            f"{folder} exists: chaos writes only into a folder that it made. Delete it, or use "
            "another --model_dir."
        ) from None
    undisturbed, disturbed = (
        GangTrial(name, config, chaos.workers) if chaos.workers > 1 else ProcessTrial(name, config)
        for name in ("undisturbed", "disturbed")
    )
    chance = random.Random(config.run.seed)
    try:
        log.info("running the undisturbed trial; its log is %s", undisturbed.log_file)
        undisturbed.start()
        expected = undisturbed.digest()
        log.info(
            "running the disturbed trial with %d fault(s); its log is %s",
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


def _goodput(trial: Trial) -> str:
    now = datetime.datetime.now(datetime.timezone.utc).timestamp()
    return progress.number(
        goodput.summarize(journal.read(trial.folder / "journal.jsonl"), now).goodput
    )


# --- One process ----------------------------------------------------------------------------------


def _kill(trial: ProcessTrial, kills: int, pause: float, chance: random.Random) -> None:
    """Kills and restarts the process `kills` times, spread over the run; leaves it running."""
    for kill in range(1, kills + 1):
        moment = chance.choice(tuple(MOMENTS))
        _await(trial, moment)
        time.sleep(chance.uniform(0, pause))
        if trial.poll() is not None:
            log.info("the run ended before kill %d", kill)
            return
        trial.kill()
        saved = [event["step"] for event in trial.events("save")]
        print(
            f"kill {kill} {moment}, newest checkpoint at step {max(saved, default=0)}", flush=True
        )
        trial.start()


def _await(trial: ProcessTrial, moment: str) -> None:
    """Returns when the attempt that was just started reaches `moment`, or has ended."""
    event = MOMENTS[moment]
    before = len(trial.events(event))
    while event and trial.poll() is None and len(trial.events(event)) <= before:
        time.sleep(POLL_SECONDS)


# --- A gang ---------------------------------------------------------------------------------------


class _Disturber:
    """Injects faults into a gang and prints each one, in order, after the first new step."""

    def __init__(self, trial: GangTrial, chance: random.Random):
        self._trial = trial
        self._chance = chance
        self._open: list[faults.Fault] = []
        self._frozen: list[faults.Fault] = []

    def run(self, kills: int, pause: float) -> None:
        """Injects `kills` faults, about `pause` seconds of training apart; returns at the end."""
        for number in range(1, kills + 1):
            if not self._disturb(number, pause):
                log.info("the run ended before fault %d", number)
                break
        self._wait(lambda: False)
        for fault in self._open:
            print(fault.line("the job ended without another step"), flush=True)

    def _disturb(self, number: int, pause: float) -> bool:
        """Injects one fault at a random moment; returns False if the run ends before."""
        moment = self._chance.choice(tuple(MOMENTS))
        kind = self._chance.choice(tuple(faults.KINDS))
        worker = self._chance.randrange(self._trial.workers)
        seconds = self._chance.uniform(0, pause)
        return (
            self._wait(lambda: self._has_come(moment))
            and self._wait(_after(seconds))
            and self._wait(lambda: self._inject(number, kind, worker))
        )

    def _wait(self, condition: Callable[[], bool]) -> bool:
        """Polls the gang until `condition()` holds; returns False if the gang ends before."""
        while self._trial.poll() is None:
            self._update_faults()
            if condition():
                return True
            time.sleep(local.POLL_SECONDS)
        self._update_faults()
        return False

    def _has_come(self, moment: str) -> bool:
        """Whether the gang has recovered from all faults so far and has reached `moment`."""
        if moment == "starting":
            return True
        event = {"training": "loop", "saving": "save"}[moment]
        attempt, _ = faults.progress(self._trial.events("launch"))
        return not self._open and any(
            line["attempt"] == attempt for line in self._trial.events(event)
        )

    def _inject(self, number: int, kind: str, worker: int) -> bool:
        """Injects a fault into `worker`; returns False if it has no such process at the moment."""
        at = time.time()
        attempt, step = faults.progress(self._trial.events("launch", "loop"))
        pid = faults.inject(kind, self._trial, worker)
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

    def _update_faults(self) -> None:
        """Thaws processes whose time is over and prints faults that the gang recovered from."""
        for fault in [fault for fault in self._frozen if time.time() >= fault.thaws]:
            self._frozen.remove(fault)
            # A different process means that the frozen one was killed in the meantime.
            if self._trial.training(fault.worker) == fault.pid:
                faults.send(fault.pid, signal.SIGCONT)
        loops = self._trial.events("loop") if self._open else []
        while self._open and (seconds := faults.recovered_after(self._open[0], loops)) is not None:
            print(self._open.pop(0).line(f"first new step after {seconds:.2f} s"), flush=True)


def _after(seconds: float) -> Callable[[], bool]:
    """Returns a condition that holds once `seconds` have passed."""
    moment = time.monotonic() + seconds
    return lambda: time.monotonic() >= moment
