"""Regression: values of each example, the error of a step, and metrics in the units of the data.

Inside, values are standardised (`store.Split.standardise`): of mean 0 and deviation 1 over the
training split. Sums and counts add up to the same metrics over any split of the rows.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data.pipeline import Batch

SQUARED, HUBER = LOSSES = ("squared", "huber")


def losses_of(outputs: tf.Tensor, targets: tf.Tensor, loss: str = SQUARED) -> tf.Tensor:
    """Returns the loss of each example [batch]: the mean over its values, as in Keras.

    outputs, targets: float [batch, values], standardised. Squared: e^2 of an error e. Huber: e^2 /
    2 if |e| is at most 1, else |e| - 1 / 2. Huber, Robust Estimation of a Location Parameter, 1964.
    """
    errors = outputs - tf.cast(targets, outputs.dtype)
    if loss == HUBER:
        size = tf.abs(errors)
        of_values = tf.where(size <= 1, errors * errors / 2, size - 0.5)
    else:
        of_values = errors * errors
    return _mean(of_values)


def _mean(values: tf.Tensor) -> tf.Tensor:
    """Returns the mean of each row: [batch] of [batch, values].

    Without `keepdims` the gradient would compute shapes on a GPU, and the CPU would wait for them.
    """
    total = tf.squeeze(tf.reduce_sum(values, axis=-1, keepdims=True), axis=-1)
    return total / values.shape[-1]


def training_sums(
    outputs: tf.Tensor,
    batch: Batch,
    smoothing: float = 0.0,
    class_weights: Sequence[float] = (),
    *,
    loss: str = SQUARED,
    deviation: np.ndarray | None = None,
) -> dict[str, tf.Tensor]:
    """Returns the sums of a step's rows, each a scalar of the type of `outputs` [batch, values].

    loss_sum: of the losses. absolute: of the mean absolute error of the values of a row, in the
    units of the data, whose `deviation` [values] is given. count: examples. Values have no classes,
    whose labels could be smoothed or weighted.
    """
    errors = tf.abs(outputs - tf.cast(batch.targets, outputs.dtype))
    if deviation is not None:
        errors *= tf.constant(deviation, outputs.dtype)
    return {
        "loss_sum": tf.reduce_sum(losses_of(outputs, batch.targets, loss)),
        "absolute": tf.reduce_sum(_mean(errors)),
        "count": tf.cast(tf.shape(outputs)[0], outputs.dtype),
    }


def metrics(sums: Mapping[str, Any]) -> dict[str, float]:
    """Returns loss and mean absolute error from the added `training_sums` of some steps."""
    return {
        "loss": float(sums["loss_sum"] / sums["count"]),
        "mae": float(sums["absolute"] / sums["count"]),
    }


def outcomes(
    outputs: tf.Tensor, batch: Batch, *, loss: str = SQUARED
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns (losses [batch], predicted values [batch, values], standardised)."""
    return losses_of(outputs, batch.targets, loss), outputs


@dataclasses.dataclass(frozen=True)
class Metrics:
    """The exact metrics of some rows; those of several parts add up.

    Every array is float64 [values], of standardised values. mean, squares: of the targets, the sum
    of their squared distances from their mean. names: of the values. deviation: of each, in the
    units of the data.
    """

    examples: int
    loss_sum: float
    absolute: np.ndarray
    squared: np.ndarray
    mean: np.ndarray
    squares: np.ndarray
    names: tuple[str, ...]
    deviation: np.ndarray

    @classmethod
    def of(
        cls, losses: np.ndarray, predicted: np.ndarray, batch: Batch, labels: Sequence[str] = ()
    ) -> "Metrics":
        """Returns those of losses [rows], predicted [rows, values] and the rows of a batch.

        Their unit is the deviation of each value: `InUnits` knows the data.
        """
        predicted, targets = (np.asarray(each, np.float64) for each in (predicted, batch.targets))
        errors, mean = predicted - targets, targets.mean(axis=0)
        return cls(
            examples=len(losses),
            loss_sum=float(losses.sum(dtype=np.float64)),
            absolute=np.abs(errors).sum(axis=0),
            squared=(errors**2).sum(axis=0),
            mean=mean,
            squares=((targets - mean) ** 2).sum(axis=0),
            names=tuple(f"value {number}" for number in range(targets.shape[1])),
            deviation=np.ones(targets.shape[1]),
        )

    def __add__(self, other: "Metrics") -> "Metrics":
        # The squares of two parts: Chan, Golub and LeVeque, Updating Formulae and a Pairwise
        # Algorithm for Computing Sample Variances, 1979. No digits cancel, and equal values have 0.
        examples = self.examples + other.examples
        apart = other.mean - self.mean
        return dataclasses.replace(
            self,
            examples=examples,
            loss_sum=self.loss_sum + other.loss_sum,
            absolute=self.absolute + other.absolute,
            squared=self.squared + other.squared,
            mean=self.mean + apart * (other.examples / examples),
            squares=self.squares
            + other.squares
            + apart * apart * (self.examples * other.examples / examples),
        )

    @property
    def loss(self) -> float:
        return self.loss_sum / self.examples

    @property
    def mae(self) -> np.ndarray:
        """float64 [values]: the mean absolute error, in the units of the data."""
        return self.deviation * self.absolute / self.examples

    @property
    def rmse(self) -> np.ndarray:
        """float64 [values]: the root of the mean squared error, in the units of the data."""
        return self.deviation * np.sqrt(self.squared / self.examples)

    @property
    def r2(self) -> np.ndarray:
        """float64 [values]: 1 - squared error / squares of the targets around their mean.

        Of targets that are all equal it is 1 if they are told exactly, else 0, as in scikit-learn.
        """
        equal = self.squares == 0
        share = self.squared / np.where(equal, 1, self.squares)
        return np.where(equal, np.where(self.squared == 0, 1.0, 0.0), 1 - share)

    def metrics(self) -> dict[str, float]:
        """Returns the metrics that an evaluation records and `--best_metric` can name.

        Each is the mean over the values.
        """
        return {"loss": self.loss, **{name: float(of.mean()) for name, of in self._of_values()}}

    def report(self, labels: Sequence[str] = ()) -> dict[str, Any]:
        """Returns what `evaluate --format=json` prints of a split."""
        columns = self._of_values()
        return {
            "examples": self.examples,
            **self.metrics(),
            "values": {
                value: {name: float(of[place]) for name, of in columns}
                for place, value in enumerate(self.names)
            },
        }

    def _of_values(self) -> list[tuple[str, np.ndarray]]:
        return [("rmse", self.rmse), ("mae", self.mae), ("r2", self.r2)]


@dataclasses.dataclass(frozen=True)
class InUnits:
    """Makes the metrics of rows of a dataset, in its units.

    names: of the values. deviation: float [values], of each.
    """

    names: tuple[str, ...]
    deviation: np.ndarray

    def of(
        self, losses: np.ndarray, predicted: np.ndarray, batch: Batch, labels: Sequence[str] = ()
    ) -> Metrics:
        """Returns those of losses [rows], predicted [rows, values] and the rows of a batch."""
        found = Metrics.of(losses, predicted, batch)
        deviation = np.asarray(self.deviation, np.float64)
        return dataclasses.replace(found, names=self.names, deviation=deviation)
