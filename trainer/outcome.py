"""How a training process ends: the last line of its journal, and the error that it exits with."""

import contextlib
import dataclasses
import pathlib
import traceback
from collections.abc import Iterator
from typing import Any

from trainer import failures
from trainer.devices import peers
from trainer.exit_codes import BY_NAME, PeerLostError, TrainerError
from trainer.model_folder.journal import Journal
from trainer.stopping import StopRequest

LAST_LINES = 10  # of a traceback, in the journal


@dataclasses.dataclass
class End:
    """The exit code of a run; the block inside `recorded` sets it."""

    code: int = BY_NAME["bug"]


@contextlib.contextmanager
def recorded(
    journal: Journal, stop: StopRequest, folder: pathlib.Path, member: tuple[int, int]
) -> Iterator[End]:
    """Writes how the block ended into `journal` and closes it.

    Raises PeerLostError if TensorFlow lost another worker; for an OSError DataError if it is about
    a file outside the model folder, else StorageError; every other exception as it is. member:
    (worker, workers).
    """
    end = End()
    fields: dict[str, Any] = {"code": end.code, "reason": "unexpected exception"}
    try:
        yield end
        fields = {"code": end.code, "reason": stop.signal.name if stop.asked else "done"}
        if end.code == PeerLostError.code:
            fields |= {"reason": "the workers meet again", "meets_again": True}
    except TrainerError as problem:
        fields = {"code": problem.code, "reason": str(problem)}
        raise
    except peers.LOST_PEER as problem:
        worker, workers = member
        if workers == 1:
            raise
        reason = peers.reason_of(problem)
        fields = {"code": PeerLostError.code, "reason": reason}
        raise PeerLostError(
            f"worker {worker} of {workers} lost another worker ({reason}): a step needs all of "
            "them. Start the missing worker again; the run continues from its newest checkpoint."
        ) from problem
    except OSError as problem:
        failure = failures.of_run(problem, folder)
        fields = {"code": failure.code, "reason": str(problem)}
        raise failure from problem
    except Exception as problem:
        fields["reason"] = f"{type(problem).__name__}: {problem}"
        fields["last_lines"] = traceback.format_exc().splitlines()[-LAST_LINES:]
        raise
    except KeyboardInterrupt:
        fields = {"code": BY_NAME["interrupted"], "reason": "stopped at once, without a checkpoint"}
        raise
    finally:
        journal.lap("stop", **fields)
        journal.close()
