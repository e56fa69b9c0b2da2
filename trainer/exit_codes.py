"""One table of exit codes, and the exception that ends a run with each of them.

The codes are a contract with whatever started the process: a shell, a supervisor, a Kubernetes
podFailurePolicy. An error message says the value that was seen, the rule it breaks and the remedy,
in that order.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ExitCode:
    """One row: `code`, what it means, and what a cluster should do with a worker that ends with
    it.
    """

    code: int
    name: str
    meaning: str
    on_cluster: str


TABLE = (
    ExitCode(0, "done", "done; also when the run was finished already", "done"),
    ExitCode(1, "bug", "unexpected exception", "counted retry"),
    ExitCode(
        2,
        "usage",
        "bad usage or configuration, or a resume whose configuration, dataset or code differs",
        "fail the job",
    ),
    ExitCode(
        3, "data", "bad data (file and line named), or every checkpoint damaged", "fail the job"
    ),
    ExitCode(4, "diverged", "loss or gradient became NaN or Inf", "fail the job"),
    ExitCode(5, "in_use", "model folder in use by a live run, after waiting", "fail the job"),
    ExitCode(74, "storage", "storage failed after retries", "counted retry"),
    ExitCode(
        75,
        "peer_lost",
        "peer lost, rendezvous timeout or hang; taken over by a later attempt",
        "retry, not counted",
    ),
    ExitCode(76, "restart_limit", "restart limit reached without a new checkpoint", "fail the job"),
    ExitCode(130, "interrupted", "stopped by Ctrl-C, checkpoint committed", "-"),
    ExitCode(
        143,
        "terminated",
        "stopped by SIGTERM, checkpoint committed (or nothing to save yet)",
        "retry, not counted",
    ),
)
BY_NAME = {row.name: row.code for row in TABLE}


class TrainerError(Exception):
    """An expected failure: printed as one message without a traceback; the process exits with
    `code`.
    """

    code = BY_NAME["bug"]


class UsageError(TrainerError):
    """A flag, value, flagfile or configuration that cannot be used."""

    code = BY_NAME["usage"]


class DataError(TrainerError):
    """Input that cannot be read as the user said, or prepared files and checkpoints that are
    damaged.
    """

    code = BY_NAME["data"]


class DivergedError(TrainerError):
    """The loss or a gradient became NaN or Inf."""

    code = BY_NAME["diverged"]


class FolderInUseError(TrainerError):
    """Another live run holds the model folder."""

    code = BY_NAME["in_use"]


class PeerLostError(TrainerError):
    """Another worker of the gang died, left or hangs."""

    code = BY_NAME["peer_lost"]


class StorageError(TrainerError):
    """A write failed after retries (disk full, permission, remote store away)."""

    code = BY_NAME["storage"]


class TakenOverError(TrainerError):
    """A later attempt took the model folder over: this process is the peer that was lost, and the
    run goes on without it.
    """

    code = BY_NAME["peer_lost"]
