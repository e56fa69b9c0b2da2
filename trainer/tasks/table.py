"""What differs between tasks: one frozen record for each; no other module distinguishes them.

Names and directions of the metrics of a task are in `config.TASKS`, which needs no TensorFlow.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from trainer.data.store import Dataset
from trainer.tasks import classification

# Sums that every task has: the summed loss, whose gradient a step takes, and its divisor.
LOSS_SUM, COUNT = "loss_sum", "count"


@dataclasses.dataclass(frozen=True)
class Task:
    """What a run learns.

    sums: {name: type over an epoch} of what a step adds up, in the order of a packed vector.
    training_sums: (logits, labels, smoothing, class weights) -> {name: scalar}, one for each of
      `sums`; the sums of any split of the rows add up to those of all rows.
    metrics: {name: sum} -> {metric: value} of training steps.
    outcomes: (logits, labels) -> (losses [batch], answers [batch, ...]) of an evaluation.
    exact_metrics: the metrics of a whole split, with `of`, `+` and `metrics`.
    """

    sums: Mapping[str, tf.DType]
    training_sums: Callable[..., dict[str, tf.Tensor]]
    metrics: Callable[[Mapping[str, Any]], dict[str, float]]
    outcomes: Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
    exact_metrics: type[classification.Metrics]


TASKS = {
    "classification": Task(
        sums={LOSS_SUM: tf.float64, "correct": tf.int64, COUNT: tf.int64},
        training_sums=classification.training_sums,
        metrics=classification.metrics,
        outcomes=classification.outcomes,
        exact_metrics=classification.Metrics,
    )
}

_BY_FORMAT = {1: "classification"}  # Format 1 of dataset.json: a label for each text.


def task_of(dataset: Dataset) -> Task:
    """Returns the task that a dataset was prepared for."""
    return TASKS[_BY_FORMAT[dataset.description["format"]]]
