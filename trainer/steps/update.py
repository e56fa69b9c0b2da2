"""From the packed gradient of a batch to the next state and the metrics of the step.

One update: divide by the number of examples, clip, optimizer, sums of the epoch. Under float16 the
loss was scaled, and a step whose gradient overflows nevertheless makes no update.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from trainer.flags.run import Optimizer
from trainer.models.encoder import Carry
from trainer.steps import optimizer as optimizers
from trainer.steps.packing import unpack
from trainer.steps.state import CARRY, LOSS_SCALE, State
from trainer.tasks.table import COUNT


class StepMetrics(NamedTuple):
    """Metrics of n steps, each float64 [n].

    sums: {name: values} of the sums that the task names.
    gradient_norm: before clipping; 0 if the step made no update because its gradient overflowed
      float16.
    input_seconds: how long the step waited for its batch.
    """

    sums: dict[str, np.ndarray]
    gradient_norm: np.ndarray
    input_seconds: np.ndarray


class Update:
    """The update of `state` as a pure function of its values: the same arithmetic in any program.

    width: numbers in the row of metrics of a step: the sums of the task, then the norm.
    """

    def __init__(self, state: State, settings: Optimizer, refuses_not_finite: bool = False):
        """refuses_not_finite: a step whose loss or gradient is not finite leaves all as it was."""
        self._refuses_not_finite = refuses_not_finite
        self._optimizer = state.optimizer
        self._clip_norm = settings.clip_norm
        self._names = list(state.network.weights)
        self._sums = list(state.task.sums)
        sizes = [weight.shape.num_elements() for weight in state.network.weights.values()]
        self._shapes = [tf.TensorShape([size]) for size in sizes]
        self._shapes += [tf.TensorShape([])] * len(self._sums)
        self.width = len(self._sums) + 1

    def after(
        self, values: Mapping[str, tf.Tensor], packed: tf.Tensor, carry: Carry
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Returns (the state's values after a step, float64 [width] its row of metrics).

        Args:
          values: {logical name: tensor}, as `State.values` returns them.
          packed: [values], the packed gradient and sums of the whole batch.
          carry: what all of its rows carry to the next chunk; {} if they are no streams.
        """
        tensors = unpack(packed, self._shapes)
        gradients = tensors[: len(self._names)]
        sums = dict(zip(self._sums, tensors[len(self._names) :]))
        factor = 1 / (sums[COUNT] * tf.cast(loss_scale(values), sums[COUNT].dtype))
        gradients = [gradient * factor for gradient in gradients]
        moving = self._optimizer.moving(values, dict(zip(self._names, gradients)))
        gradients = list(moving.values())
        norm = optimizers.global_norm(gradients)
        gradients = optimizers.clip(gradients, norm, self._clip_norm)
        after = self._optimizer.updated(values, dict(zip(self._names, gradients)))
        after["step"] = values["step"] + 1
        if LOSS_SCALE in values:
            after, norm = _unless_overflowed(values, after, norm)
        # Streams go on also after a step without an update.
        for name, rows in carry.items():
            # A loop must know the shape, which a trace for any number of rows does not.
            after[f"{CARRY}{name}"] = tf.reshape(rows, values[f"{CARRY}{name}"].shape)
        for name, value in sums.items():
            total = values[f"epoch/{name}"]
            after[f"epoch/{name}"] = total + tf.cast(value, total.dtype)
        row = tf.stack([tf.cast(value, tf.float64) for value in (*sums.values(), norm)])
        if self._refuses_not_finite:
            finite = tf.reduce_all(tf.math.is_finite(row))
            after = {name: tf.where(finite, value, values[name]) for name, value in after.items()}
        return after, row

    def metrics(self, rows: np.ndarray, input_seconds: np.ndarray) -> StepMetrics:
        """Returns the metrics of n steps from their rows [n, width] and their waits [n]."""
        *sums, gradient_norm = rows.T
        return StepMetrics(dict(zip(self._sums, sums)), gradient_norm, input_seconds)


def loss_scale(values: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Returns the factor by which a step multiplies its loss: a float32 scalar, 1 if not scaled."""
    return values[LOSS_SCALE] if LOSS_SCALE in values else tf.ones([])


def _unless_overflowed(
    before: Mapping[str, tf.Tensor], after: Mapping[str, tf.Tensor], norm: tf.Tensor
) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """Returns (values, norm): without the update if the gradient overflowed.

    The norm is 0 then if a smaller scale may help, else it stays as it is and ends the run.
    """
    scale, fits = before[LOSS_SCALE], tf.math.is_finite(norm)
    kept = {name: tf.where(fits, value, before[name]) for name, value in after.items()}
    kept |= {
        "step": after["step"],
        LOSS_SCALE: optimizers.next_loss_scale(scale, fits, after["step"]),
    }
    return kept, tf.where(fits | (scale <= optimizers.SMALLEST_LOSS_SCALE), norm, 0)
