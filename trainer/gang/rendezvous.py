"""Who leads, and is the gang complete? Pure decisions about the workers that one worker sees while
it meets the others.

The lowest index that is there leads. Nobody forms a gang beside one that is running: a worker that
comes to a running gang waits until that gang asks it in.
"""

import dataclasses
from collections.abc import Mapping, Sequence

# How much longer than its own limit a worker waits for those who are here, but not ready yet.
LEADER_SECONDS = 30.0


@dataclasses.dataclass(frozen=True)
class Wait:
    """Somebody is still to come, or the leader still to speak."""


@dataclasses.dataclass(frozen=True)
class Form:
    """This worker leads and starts the gang with `members`, in order of rank."""

    members: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class GiveUp:
    """The time is over. `missing`: who did not come; () where they are here but the leader did not
    start the gang.
    """

    missing: tuple[int, ...]


def decide(
    index: int, workers: int, minimum: int, seen: Mapping[int, str], remaining: float
) -> Wait | Form | GiveUp:
    """What worker `index` should do now.

    Args:
      workers: how many there are in all. minimum: --min_workers, 0: all of them. seen: {index:
        state} of all that are connected, this one included; states are "ready" (meeting, no
        training process),
        "busy" (its training process is still being ended) and "running" (in a gang at work).
      remaining: seconds until the limit of the wait; negative beyond it.
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
    """How often in a row the gang has started without a new checkpoint, when it starts now.

    before: that number at its last start, when `saved_before` was the step of the newest checkpoint
    (0: none).
    """
    return 0 if first or saved_now > saved_before else before + 1


def named(indices: Sequence[int], addresses: Sequence[str], reasons: Mapping[int, str]) -> str:
    """Workers in words: "worker 1 (host:2222, connection refused), worker 3 (...)"."""
    return ", ".join(
        f"worker {index} ({', '.join(filter(None, (addresses[index], reasons.get(index))))})"
        for index in indices
    )
