"""Everything that the next step depends on, under logical names that are the same on any number of
devices.

`named` is the one list of what a checkpoint holds; save and restore go through it.
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from trainer.exit_codes import DataError
from trainer.models.networks import Network
from trainer.steps import optimizer as optimizers
from trainer.tasks.table import Task


class State:
    """Weights, optimizer slots, the step, and the sums of the epoch in progress.

    step: int64, steps done. epoch: {the task's sums: over the steps of the current epoch}.
    loss_scale: float32 under float16, else None.
    """

    def __init__(self, network: Network, optimizer: optimizers.Optimizer, task: Task):
        self.network = network
        self.optimizer = optimizer
        self.task = task
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
        self.epoch = {
            name: tf.Variable(0, dtype=dtype, trainable=False, name=name)
            for name, dtype in task.sums.items()
        }
        self.loss_scale = None
        if network.compute_dtype == "float16":
            self.loss_scale = tf.Variable(
                optimizers.LARGEST_LOSS_SCALE, trainable=False, name="loss_scale"
            )

    def named(self) -> dict[str, tf.Variable]:
        """{logical name: variable} of the whole state."""
        return {
            **{f"model/{name}": weight.value for name, weight in self.network.weights.items()},
            **{f"optimizer/{name}": variable for name, variable in self.optimizer.named().items()},
            **({"optimizer/loss_scale": self.loss_scale} if self.loss_scale is not None else {}),
            "step": self.step,
            **{f"epoch/{name}": total for name, total in self.epoch.items()},
        }

    def values(self) -> dict[str, tf.Tensor]:
        """{logical name: tensor} of the whole state, arrays flat: a step computes the next ones of
        them.
        """
        return {
            name: tf.reshape(variable, [-1])
            if variable.shape.rank
            else tf.convert_to_tensor(variable)
            for name, variable in self.named().items()
        }

    def assign(self, values: Mapping[str, tf.Tensor]) -> None:
        """Takes over what `values` returned, or what a step made of it."""
        for name, variable in self.named().items():
            variable.assign(tf.reshape(values[name], variable.shape))

    def snapshot(self) -> dict[str, np.ndarray]:
        """Copies of all values, which later steps do not change."""
        return {name: np.array(variable.numpy()) for name, variable in self.named().items()}

    def restore(self, tensors: Mapping[str, np.ndarray], origin: str) -> None:
        """Takes over the values of a checkpoint; `origin` is named where they do not fit
        (DataError).
        """
        variables = self.named()
        if set(variables) != set(tensors):
            raise DataError(
                f"{origin} holds other tensors than this model has: missing "
                f"{sorted(set(variables) - set(tensors))}, "
                f"unknown {sorted(set(tensors) - set(variables))}. Use the trainer that wrote it."
            )
        for name, variable in variables.items():
            if variable.shape != tensors[name].shape:
                raise DataError(
                    f"{origin}: {name} has shape {tensors[name].shape}, the model's is "
                    f"{tuple(variable.shape)}. "
                    "Use the configuration that wrote it."
                )
            variable.assign(tensors[name])

    def scaling(self) -> dict[str, float]:
        """Under float16 the loss scale, and the steps so far that made no update because their
        gradient overflowed.
        """
        if self.loss_scale is None:
            return {}
        skipped = self.step.numpy() - self.optimizer.iteration.numpy()
        return {"loss_scale": float(self.loss_scale.numpy()), "skipped_steps": float(skipped)}

    def evaluation_weights(self) -> dict[str, tf.Tensor]:
        """{weight: value} to evaluate with: averaged ones where the run keeps them."""
        named = self.named()
        return {
            name: tf.convert_to_tensor(
                named.get(f"optimizer/{name}/average", named[f"model/{name}"])
            )
            for name in self.network.weights
        }

    def begin_epoch(self) -> None:
        """Sets the sums of the epoch to zero."""
        for total in self.epoch.values():
            total.assign(tf.zeros_like(total))


def evaluation_weights(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{weight: value} for evaluate, predict and export from the tensors of a checkpoint: averaged
    ones where there are.
    """
    names = [name.removeprefix("model/") for name in tensors if name.startswith("model/")]
    return {
        name: tensors.get(f"optimizer/{name}/average", tensors[f"model/{name}"]) for name in names
    }
