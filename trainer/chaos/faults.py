"""Faults that are injected into a gang, and their recovery as its journal shows it."""

import dataclasses
import os
import signal
from collections.abc import Callable, Iterable, Mapping

from trainer.chaos.trials import GangTrial, since_epoch

# {kind: a signal, and the process of one worker that receives it}.
KINDS: Mapping[str, tuple[signal.Signals, Callable[[GangTrial, int], int | None]]] = {
    "kill_training": (signal.SIGKILL, GangTrial.training),
    "kill_worker": (signal.SIGKILL, GangTrial.supervisor),
    "freeze_training": (signal.SIGSTOP, GangTrial.training),
    "terminate_worker": (signal.SIGTERM, GangTrial.supervisor),
}
# A supervisor kills a process that stays frozen for 10 s: some freezes are shorter, some longer.
FROZEN_SECONDS = (1.0, 14.0)


@dataclasses.dataclass(frozen=True)
class Fault:
    """A fault that was injected.

    at, thaws: seconds since the epoch; thaws is None unless the process was frozen. attempt, step:
    the newest ones in the journal when the fault was injected.
    """

    number: int
    kind: str
    worker: int
    pid: int
    at: float
    thaws: float | None
    attempt: int
    step: int

    def line(self, outcome: str) -> str:
        """Returns the line that is printed for the fault."""
        return (
            f"fault {self.number} {self.kind} worker {self.worker} at step {self.step}: {outcome}"
        )


def inject(kind: str, gang: GangTrial, worker: int) -> int | None:
    """Injects the fault; returns the id of the affected process, None if it does not exist."""
    number, process = KINDS[kind]
    pid = process(gang, worker)
    return pid if pid and send(pid, number) else None


def send(pid: int, number: signal.Signals) -> bool:
    """Sends a signal; returns whether the process existed."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def progress(events: Iterable[Mapping]) -> tuple[int, int]:
    """Returns the newest attempt and the newest step in lines of a journal; 0 if there are none."""
    return max((event["attempt"] for event in events), default=0), max(
        (event.get("step", 0) for event in events), default=0
    )


def recovered_after(fault: Fault, loops: Iterable[Mapping]) -> float | None:
    """Returns the seconds from the fault to the first new step; None if there is none yet.

    A step is new if a later attempt made it. A process that was frozen may also continue in the
    same attempt: then a step is new if it was made after the thaw.

    Args:
      loops: the `loop` lines of the journal.
    """
    for event in loops:
        moment = since_epoch(event)
        if event["attempt"] > fault.attempt or fault.thaws is not None and moment > fault.thaws:
            return moment - fault.at
    return None
