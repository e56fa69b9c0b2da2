"""Decides who leads and when a gang starts, from what one worker sees while it meets the others.

The connected worker of the lowest index leads. No worker forms a second gang beside one that runs:
a worker that finds a running gang waits until that gang takes it in.
"""

import dataclasses
from collections.abc import Mapping, Sequence

# How much longer than its own limit a worker waits for workers that are connected but not ready.
LEADER_SECONDS = 30.0


@dataclasses.dataclass(frozen=True)
class Wait:
    """Wait: a worker is missing, or the leader has not started the gang yet."""


@dataclasses.dataclass(frozen=True)
class Form:
    """This worker leads and starts the gang with `members`, in order of rank."""

    members: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class GiveUp:
    """The wait is over.

    missing: the workers that are not connected; () if all are, but the leader did not start the
    gang.
    """

    missing: tuple[int, ...]


def decide(
    index: int, workers: int, minimum: int, seen: Mapping[int, str], remaining: float
) -> Wait | Form | GiveUp:
    """Returns what worker `index` should do now.

    Args:
      workers: how many the job has.
      minimum: --min_workers; 0 means all of them.
      seen: {index: state} of all connected workers, this one included. A worker is "ready" (it
        meets the others and has no training process), "busy" (its training process is still being
        ended) or "running" (in a gang that runs).
      remaining: seconds until the wait is over; negative after that.
    """
    ready = sorted(worker for worker, state in seen.items() if state == "ready")
    leads = index == min(seen) and index in ready
    if leads and len(ready) == workers:
        return Form(tuple(ready))
    if remaining > 0 or "running" in seen.values():
        return Wait()
    enough = len(ready) >= (minimum or workers)
    late = remaining <= -LEADER_SECONDS
    if leads and enough and (late or "busy" not in seen.values()):
        return Form(tuple(ready))
    if not late and (enough or "busy" in seen.values()):
        return Wait()
    return GiveUp(tuple(worker for worker in range(workers) if worker not in seen))


def restarts(before: int, saved_before: int, saved_now: int, first: bool) -> int:
    """Returns how often in a row the gang has restarted without a new checkpoint, if it starts now.

    before, saved_before: that number, and the step of the newest checkpoint, at its last start.
    saved_now: the step of the newest checkpoint. A step is 0 if there is no checkpoint.
    first: whether the gang has never run.
    """
    return 0 if first or saved_now > saved_before else before + 1


def named(indices: Sequence[int], addresses: Sequence[str], reasons: Mapping[int, str]) -> str:
    """Returns workers in words: "worker 1 (host:2222, connection refused), worker 3 (...)"."""
    return ", ".join(
        f"worker {index} ({', '.join(filter(None, (addresses[index], reasons.get(index))))})"
        for index in indices
    )
