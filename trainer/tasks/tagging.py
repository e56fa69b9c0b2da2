"""Tagging: a class for each step; metrics of the steps, and of the spans that tags stand for."""

import collections
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data.pipeline import Batch
from trainer.models.heads import StepOutputs
from trainer.tasks import classification


def training_sums(
    outputs: StepOutputs, batch: Batch, smoothing: float = 0.0, class_weights: Sequence[float] = ()
) -> dict[str, tf.Tensor]:
    """Returns the sums of a step's tokens: those of `classification.training_sums`, each a float
    scalar, with a token in the place of an example.
    """
    scores, tags, counts = _flat(outputs, batch)
    losses = classification.cross_entropy(scores, tags, smoothing)
    if class_weights:
        losses *= tf.gather(tf.constant(class_weights, losses.dtype), tags)
    right = tf.equal(tf.argmax(scores, -1, tf.int64), tf.cast(tags, tf.int64))
    return {
        "loss_sum": tf.reduce_sum(losses * counts),
        "correct": tf.reduce_sum(tf.cast(right, counts.dtype) * counts),
        "count": tf.reduce_sum(counts),
    }


def outcomes(outputs: StepOutputs, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns (summed loss of each row [batch], likeliest tag of each step [batch, length]).

    Tags are numbers of the type of the losses, so that both travel together.
    """
    scores, tags, counts = _flat(outputs, batch)
    shape = tf.shape(batch.inputs)
    losses = classification.cross_entropy(scores, tags) * counts
    likeliest = tf.cast(tf.argmax(scores, -1, tf.int64), losses.dtype)
    return tf.reduce_sum(tf.reshape(losses, shape), axis=1), tf.reshape(likeliest, shape)


def _flat(outputs: StepOutputs, batch: Batch) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns scores [steps, tags], tags int32 [steps], 1 for each step that counts [steps]."""
    scores = outputs.scores()
    scores = tf.cast(scores, tf.float64 if scores.dtype == tf.float64 else tf.float32)
    counts = tf.range(tf.shape(batch.inputs)[1]) < batch.lengths[:, None]
    return (
        tf.reshape(scores, [-1, scores.shape[-1]]),
        tf.reshape(batch.targets, [-1]),
        tf.cast(tf.reshape(counts, [-1]), scores.dtype),
    )


metrics = classification.metrics


# --- Spans ----------------------------------------------------------------------------------------

Span = tuple[str, int, int]  # kind, first step, end (exclusive)


def has_spans(labels: Sequence[str]) -> bool:
    """Returns whether tags stand for spans: each is O, B-KIND or I-KIND, and not all are O."""
    return any(label != "O" for label in labels) and all(
        re.fullmatch(r"O|[BI]-.+", label) for label in labels
    )


def spans(tags: Sequence[str]) -> set[Span]:
    """Returns the spans of a sentence in BIO (IOB2); an I without its beginning begins one.

    That is how `conlleval` of the CoNLL-2000 shared task reads them (Tjong Kim Sang and Buchholz,
    Introduction to the CoNLL-2000 Shared Task: Chunking, 2000).
    """
    found, begin, kind = set(), 0, ""
    for step, tag in enumerate([*tags, "O"]):
        prefix, _, of = tag.partition("-")
        if kind and (prefix != "I" or of != kind):
            found.add((kind, begin, step))
            kind = ""
        if prefix != "O" and not kind:
            begin, kind = step, of
    return found


@dataclasses.dataclass(frozen=True)
class Metrics:
    """The exact metrics of some sentences; those of several parts add up.

    steps: classification of each token by itself. spans: {kind: int64 [3] right, predicted, true}
    of whole spans, {} if tags stand for none. sentences: how many.
    """

    steps: classification.Metrics
    spans: Mapping[str, np.ndarray]
    sentences: int

    @classmethod
    def of(
        cls, losses: np.ndarray, answers: np.ndarray, batch: Batch, labels: Sequence[str]
    ) -> "Metrics":
        """Returns those of what `outcomes` returned for the rows of a batch; `labels`: the tags."""
        holds = np.arange(batch.inputs.shape[1])[None, :] < batch.lengths[:, None]
        predicted, true = answers.astype(np.int64), np.asarray(batch.targets)
        confusion = np.zeros((len(labels), len(labels)), np.int64)
        np.add.at(confusion, (true[holds], predicted[holds]), 1)
        found = collections.defaultdict(lambda: np.zeros(3, np.int64))
        if has_spans(labels):
            for ours, theirs, length in zip(predicted, true, batch.lengths):
                guessed = spans([labels[tag] for tag in ours[:length]])
                wanted = spans([labels[tag] for tag in theirs[:length]])
                for place, members in enumerate((guessed & wanted, guessed, wanted)):
                    for kind, _, _ in members:
                        found[kind][place] += 1
        steps = classification.Metrics(float(losses.sum(dtype=np.float64)), confusion)
        return cls(steps, dict(found), len(losses))

    def __add__(self, other: "Metrics") -> "Metrics":
        zero = np.zeros(3, np.int64)
        return Metrics(
            self.steps + other.steps,
            {
                kind: self.spans.get(kind, zero) + other.spans.get(kind, zero)
                for kind in {**self.spans, **other.spans}
            },
            self.sentences + other.sentences,
        )

    @property
    def span_f1(self) -> float:
        """F1 over the spans of all kinds together; 0 if there are none."""
        return _f1(sum(self.spans.values(), np.zeros(3, np.int64)))

    def metrics(self) -> dict[str, float]:
        """Returns the metrics that an evaluation records and `--best_metric` can name."""
        return {**self.steps.metrics(), "span_f1": self.span_f1}

    def report(self, labels: Sequence[str]) -> dict[str, Any]:
        """Returns what `evaluate --format=json` prints of a split; `labels`: the tags."""
        of_steps = self.steps.report(labels)
        tags = {
            label: {"tokens" if name == "examples" else name: value for name, value in row.items()}
            for label, row in of_steps["classes"].items()
        }
        kinds = {
            kind: {
                "precision": float(right / max(1, predicted)),
                "recall": float(right / max(1, true)),
                "f1": _f1(np.array([right, predicted, true])),
                "spans": int(true),
            }
            for kind, (right, predicted, true) in sorted(self.spans.items())
        }
        return {
            "examples": self.sentences,
            "tokens": self.steps.examples,
            **self.metrics(),
            "tags": tags,
            **({"spans": kinds} if kinds else {}),
        }


def _f1(counts: np.ndarray) -> float:
    """Returns F1 of int64 [3] right, predicted, true."""
    right, predicted, true = counts
    return float(2 * right / max(1, predicted + true))
