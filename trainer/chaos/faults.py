"""What is done to a gang to disturb it, and when it has recovered: decided from its journal
alone.
"""

import dataclasses
import os
import signal
from collections.abc import Callable, Iterable, Mapping

from trainer.chaos.jobs import Gang, since_epoch

# What is done to one worker: a signal, to its training process or to its supervisor.
KINDS: Mapping[str, tuple[signal.Signals, Callable[[Gang, int], int | None]]] = {
    "kill_training": (signal.SIGKILL, Gang.training),
    "kill_worker": (signal.SIGKILL, Gang.supervisor),
    "freeze_training": (signal.SIGSTOP, Gang.training),
    "terminate_worker": (signal.SIGTERM, Gang.supervisor),
}
# Supervisors end what is frozen for 10 s: some freezes are shorter than that.
FROZEN_SECONDS = (1.0, 14.0)


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault. `at`, `thaws`: seconds since the epoch. `attempt`, `step`: how far the run had
    come by its journal.
    """

    number: int
    kind: str
    worker: int
    pid: int
    at: float
    thaws: float | None
    attempt: int
    step: int

    def told(self, ended: str) -> str:
        """Its line on stdout."""
        return f"fault {self.number} {self.kind} worker {self.worker} at step {self.step}: {ended}"


def inject(kind: str, gang: Gang, worker: int) -> int | None:
    """Does it; returns the id of the process that it was done to, None where there is no such
    process at the moment.
    """
    number, process = KINDS[kind]
    pid = process(gang, worker)
    return pid if pid and send(pid, number) else None


def send(pid: int, number: signal.Signals) -> bool:
    """Sends a signal; whether there was a process to take it."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def progress(events: Iterable[Mapping]) -> tuple[int, int]:
    """(newest attempt, newest step told of) in lines of a journal."""
    return max((event["attempt"] for event in events), default=0), max(
        (event.get("step", 0) for event in events), default=0
    )


def recovered_after(fault: Fault, loops: Iterable[Mapping]) -> float | None:
    """Seconds from the fault to the first new step, None while there is none. `loops`: lines about
    steps.

    A step is new where a later attempt made it. A frozen process may go on without one: then where
    it was made after the thaw.
    """
    for event in loops:
        moment = since_epoch(event)
        if event["attempt"] > fault.attempt or fault.thaws is not None and moment > fault.thaws:
            return moment - fault.at
    return None
