"""The training processes of the other workers: who they are, and how their loss shows.

TensorFlow connects the processes that TF_CONFIG names. If one of them is lost, the next collective
of the others raises one of `LOST_PEER`.
"""

import json
import re
from collections.abc import Mapping

import tensorflow as tf

# TensorFlow raises these in the remaining workers when another one dies, is cut off or restarts.
LOST_PEER = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
)


def member(environ: Mapping[str, str]) -> tuple[int, int]:
    """Returns (worker, workers): the rank of this training process, and how many add up gradients.

    Both come from TF_CONFIG, which a supervisor writes anew for every generation of a gang. Without
    it the process trains alone: (0, 1).
    """
    task = json.loads(environ.get("TF_CONFIG") or "{}")
    return (task["task"]["index"], len(task["cluster"]["worker"])) if task else (0, 1)


def reason_of(problem: tf.errors.OpError) -> str:
    """Returns the line of a collective's error that explains it.

    The other lines name places in the graph.
    """
    reason = re.search(r"aborted by: (.*)", problem.message)
    return reason[1] if reason else problem.message.splitlines()[0]
