"""Classification of texts: losses, and metrics as sums that are divided once at the end.

Sums and counts add up to the same metrics over any split of the rows into batches, shards, replicas
and workers.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data.pipeline import Batch


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor, smoothing: float = 0.0) -> tf.Tensor:
    """Returns the cross-entropy of each example against its label, in nats.

    With smoothing e, the target is (1 - e) at the label plus e / classes everywhere: Szegedy et
    al., Rethinking the Inception Architecture, 2016, section 7.

    Args:
      logits: float [batch, classes].
      labels: int32 [batch].

    Returns:
      float [batch].
    """
    log_p = tf.nn.log_softmax(logits)
    chosen = _chosen(log_p, labels)
    if not smoothing:
        return -chosen
    return -(1 - smoothing) * chosen - smoothing * tf.reduce_mean(log_p, axis=-1)


@tf.custom_gradient
def _chosen(values: tf.Tensor, columns: tf.Tensor) -> tuple[tf.Tensor, Callable]:
    """Returns values [rows] of float [rows, n], each from its row's column of int32 [rows].

    The gradient of `tf.gather` would compute shapes on a GPU, and the CPU would wait for them.
    """

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
        is_chosen = tf.one_hot(columns, values.shape[-1], True, False, dtype=tf.bool)
        return tf.where(is_chosen, upstream[:, None], tf.zeros([], values.dtype)), None

    return tf.gather(values, columns, batch_dims=1), gradient


def training_sums(
    logits: tf.Tensor, batch: Batch, smoothing: float = 0.0, class_weights: Sequence[float] = ()
) -> dict[str, tf.Tensor]:
    """Returns the sums of a step's rows, each a scalar of the type of `logits` [batch, classes].

    loss_sum: of the losses. correct: right predictions. count: examples. `class_weights`, one per
    class, multiply the losses but not the counts, as Keras' class_weight does.
    """
    labels = batch.targets
    losses = cross_entropy(logits, labels, smoothing)
    if class_weights:
        losses *= tf.gather(tf.constant(class_weights, logits.dtype), labels)
    # A GPU compares int64, but would leave int32 to the CPU.
    predicted = tf.argmax(logits, -1, tf.int64)
    correct = tf.cast(tf.equal(predicted, tf.cast(labels, tf.int64)), logits.dtype)
    return {
        "loss_sum": tf.reduce_sum(losses),
        "correct": tf.reduce_sum(correct),
        "count": tf.cast(tf.size(labels), logits.dtype),
    }


def metrics(sums: Mapping[str, Any]) -> dict[str, float]:
    """Returns loss and accuracy from the added `training_sums` of some steps."""
    return {
        "loss": float(sums["loss_sum"] / sums["count"]),
        "accuracy": float(sums["correct"] / sums["count"]),
    }


def outcomes(logits: tf.Tensor, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns (losses [batch], probabilities [batch, classes])."""
    return cross_entropy(logits, batch.targets), tf.nn.softmax(logits)


def balanced_weights(label_counts: np.ndarray) -> list[float]:
    """Returns examples / (classes * examples of the class), scikit-learn's 'balanced' weights.

    Their mean over the examples is 1. A class without examples does not count as a class; its
    weight, 0, is never used.
    """
    counts = np.asarray(label_counts, np.float64)
    return _ratio(np.full(len(counts), counts.sum() / np.count_nonzero(counts)), counts).tolist()


@dataclasses.dataclass(frozen=True)
class Metrics:
    """The exact metrics of some rows; those of several parts add up.

    confusion: int64 [classes, classes], true class in rows, predicted class in columns.
    """

    loss_sum: float
    confusion: np.ndarray

    @classmethod
    def of(
        cls, losses: np.ndarray, probabilities: np.ndarray, batch: Batch, labels: Sequence[str] = ()
    ) -> "Metrics":
        """Returns those of losses [rows], probabilities [rows, classes] and the rows of a batch."""
        classes = probabilities.shape[1]
        confusion = np.zeros((classes, classes), np.int64)
        np.add.at(confusion, (batch.targets, probabilities.argmax(axis=1)), 1)
        return cls(float(losses.sum(dtype=np.float64)), confusion)

    def __add__(self, other: "Metrics") -> "Metrics":
        return Metrics(self.loss_sum + other.loss_sum, self.confusion + other.confusion)

    @property
    def examples(self) -> int:
        return int(self.confusion.sum())

    @property
    def loss(self) -> float:
        return self.loss_sum / self.examples

    @property
    def accuracy(self) -> float:
        return float(np.trace(self.confusion) / self.examples)

    @property
    def precision(self) -> np.ndarray:
        """float64 [classes]; 0 for a class that is never predicted."""
        return _ratio(np.diag(self.confusion), self.confusion.sum(axis=0))

    @property
    def recall(self) -> np.ndarray:
        """float64 [classes]; 0 for a class that has no examples."""
        return _ratio(np.diag(self.confusion), self.confusion.sum(axis=1))

    @property
    def f1(self) -> np.ndarray:
        """float64 [classes]: 2 true positives / (predicted + examples), 0 if both are 0."""
        return _ratio(
            2 * np.diag(self.confusion), self.confusion.sum(axis=0) + self.confusion.sum(axis=1)
        )

    @property
    def macro_f1(self) -> float:
        """Mean F1 over the classes that have examples or predictions."""
        present = self.confusion.sum(axis=0) + self.confusion.sum(axis=1) > 0
        return float(self.f1[present].mean())

    def metrics(self) -> dict[str, float]:
        """Returns the metrics that an evaluation records and `--best_metric` can name."""
        return {"loss": self.loss, "accuracy": self.accuracy, "macro_f1": self.macro_f1}

    def report(self, labels: Sequence[str]) -> dict[str, Any]:
        """Returns what `evaluate --format=json` prints of a split; `labels`: the classes."""
        # Each is a sum over the whole matrix: once, not once for each class.
        rows = zip(labels, self.precision, self.recall, self.f1, self.confusion.sum(axis=1))
        return {
            "examples": self.examples,
            **self.metrics(),
            "classes": {
                label: {
                    "precision": float(precision),
                    "recall": float(recall),
                    "f1": float(f1),
                    "examples": int(examples),
                }
                for label, precision, recall, f1, examples in rows
            },
        }


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros(len(above)), where=below > 0)
