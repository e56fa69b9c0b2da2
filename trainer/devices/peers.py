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
# Types of tasks that train, in the order in which they count (`gang.roster`).
_TRAINING = ("master", "chief", "worker")


def member(environ: Mapping[str, str]) -> tuple[int, int]:
    """Returns (worker, workers): the rank of this training process, and how many add up gradients.

    Both come from TF_CONFIG, which a supervisor writes anew for every generation of a gang. Without
    it, or with one task in it, as Vertex AI and TFJob set it, the process trains alone: (0, 1).
    """
    described = json.loads(environ.get("TF_CONFIG") or "{}")
    cluster, task = described.get("cluster") or {}, described.get("task") or {}
    members = [(kind, rank) for kind in _TRAINING for rank in range(len(cluster.get(kind) or ()))]
    if len(members) <= 1:
        return 0, 1
    return members.index((task.get("type", "worker"), int(task.get("index", 0)))), len(members)


def reason_of(problem: tf.errors.OpError) -> str:
    """Returns the line of a collective's error that explains it.

    The other lines name places in the graph.
    """
    reason = re.search(r"aborted by: (.*)", problem.message)
    return reason[1] if reason else problem.message.splitlines()[0]
