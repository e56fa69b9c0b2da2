"""Translation: the loss of each word of a target, and the metrics of whole sentences."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data.pipeline import Batch
from trainer.models.heads import StepOutputs
from trainer.tasks import bleu, language_model


def training_sums(
    outputs: StepOutputs, batch: Batch, smoothing: float = 0.0, class_weights: Sequence[float] = ()
) -> dict[str, tf.Tensor]:
    """Returns the sums of the targets' tokens, ends of sentences included, each a float scalar.

    They are those of `language_model.training_sums`.
    """
    return language_model.training_sums(outputs, _told(batch), smoothing)


def outcomes(outputs: StepOutputs, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns (the summed loss of each row [batch], its correct tokens [batch, 1])."""
    return language_model.outcomes(outputs, _told(batch))


def _told(batch: Batch) -> Batch:
    """Returns the targets as the text of a language model."""
    tokens, following, lengths = batch.targets
    return Batch(batch.rows, tokens, lengths, following)


def metrics(sums: Mapping[str, Any]) -> dict[str, float]:
    """Returns the metrics of some steps from their added `training_sums`."""
    return language_model.metrics(sums)


@dataclasses.dataclass(frozen=True)
class Metrics:
    """The exact metrics of some pairs; those of several parts add up.

    tokens: those of the targets, ends of sentences included. quality: that of translations, None
    if nothing was translated; a sum has none.
    """

    tokens: language_model.Metrics
    sentences: int
    quality: bleu.Quality | None = None

    @classmethod
    def of(
        cls, losses: np.ndarray, answers: np.ndarray, batch: Batch, labels: Sequence[str] = ()
    ) -> "Metrics":
        """Returns those of what `outcomes` returned for the rows of a batch."""
        return cls(language_model.Metrics.of(losses, answers, _told(batch)), len(losses))

    def __add__(self, other: "Metrics") -> "Metrics":
        return Metrics(self.tokens + other.tokens, self.sentences + other.sentences)

    def metrics(self) -> dict[str, float]:
        """Returns the metrics that an evaluation records and `--best_metric` can name."""
        found = self.tokens.metrics()
        if self.quality:
            found |= {name: getattr(self.quality, name) for name in bleu.METRICS}
        return found

    def report(self, labels: Sequence[str]) -> dict[str, Any]:
        """Returns what `evaluate --format=json` prints of a split."""
        quality = self.quality._asdict() if self.quality else {}
        return {**self.tokens.report(labels), "sentences": self.sentences, **quality}
