"""Language models: the loss of the next token, perplexity, and the metrics of a whole text.

Sums and counts of tokens add up to the same metrics over any split into rows and chunks.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data.pipeline import Batch
from trainer.models import vocabulary
from trainer.models.heads import StepOutputs


def training_sums(
    outputs: StepOutputs, batch: Batch, smoothing: float = 0.0, class_weights: Sequence[float] = ()
) -> dict[str, tf.Tensor]:
    """Returns the sums of a step's tokens, each a float scalar.

    loss_sum: of the cross-entropies. correct: tokens whose score is the highest. count: tokens. A
    vocabulary has no class weights.
    """
    counted = steps_that_count(batch)
    loss_sum, correct = vocabulary.training_sums(
        outputs.states,
        outputs.weights,
        outputs.bias,
        batch.targets,
        counted,
        smoothing,
        transposed=outputs.transposed,
    )
    return {
        "loss_sum": loss_sum,
        "correct": tf.cast(correct, loss_sum.dtype),
        "count": tf.cast(tf.reduce_sum(batch.lengths), loss_sum.dtype),
    }


def outcomes(outputs: StepOutputs, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns (the summed loss of each row [batch], its correct tokens [batch, 1])."""
    losses, correct = vocabulary.outcomes(
        outputs.states,
        outputs.weights,
        outputs.bias,
        batch.targets,
        steps_that_count(batch),
        transposed=outputs.transposed,
    )
    return losses, tf.cast(correct, losses.dtype)[:, None]


def steps_that_count(batch: Batch) -> tf.Tensor:
    """Returns bool [batch, length], False where a row is padded at its end."""
    return tf.range(tf.shape(batch.inputs)[1]) < batch.lengths[:, None]


def metrics(sums: Mapping[str, Any]) -> dict[str, float]:
    """Returns the metrics of some steps from their added `training_sums`."""
    return of_sums(float(sums["loss_sum"]), float(sums["correct"]), float(sums["count"]))


def of_sums(loss_sum: float, correct: float, tokens: float) -> dict[str, float]:
    """Returns {metric: value}: loss in nats, perplexity, bits, all per token; accuracy.

    The perplexity is exp(loss), and infinite if that is too large for a number.
    """
    loss = loss_sum / tokens
    return {
        "loss": loss,
        "perplexity": math.inf if loss > 709 else math.exp(loss),
        "bits": loss / math.log(2),
        "accuracy": correct / tokens,
    }


@dataclasses.dataclass(frozen=True)
class Metrics:
    """The exact metrics of some tokens; those of several parts add up."""

    loss_sum: float
    correct: int
    tokens: int

    @classmethod
    def of(
        cls, losses: np.ndarray, answers: np.ndarray, batch: Batch, labels: Sequence[str] = ()
    ) -> "Metrics":
        """Returns those of what `outcomes` returned for the rows of a batch."""
        return cls(
            float(losses.sum(dtype=np.float64)),
            round(answers.sum(dtype=np.float64)),
            int(batch.lengths.sum()),
        )

    def __add__(self, other: "Metrics") -> "Metrics":
        return Metrics(
            self.loss_sum + other.loss_sum, self.correct + other.correct, self.tokens + other.tokens
        )

    def metrics(self) -> dict[str, float]:
        """Returns the metrics that an evaluation records and `--best_metric` can name."""
        return of_sums(self.loss_sum, self.correct, self.tokens)

    def report(self, labels: Sequence[str]) -> dict[str, Any]:
        """Returns what `evaluate --format=json` prints of a split."""
        return {**self.metrics(), "tokens": self.tokens}
