"""Everything that the next step depends on, under names that are the same on any number of devices.

`State.named` is the one list of what a checkpoint holds; saving and restoring go through it.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
import tensorflow as tf

from trainer.data import fields
from trainer.exit_codes import DataError
from trainer.models.networks import Network
from trainer.steps import optimizer as optimizers
from trainer.tasks.table import Task

LOSS_SCALE = "optimizer/loss_scale"
CARRY = "carry/"  # The beginning of the names of what streams carry.

Value = TypeVar("Value")


class State:
    """Weights, optimizer slots, the step, the sums of the epoch in progress, what streams carry.

    step: int64, steps done. epoch: {name: scalar} of the task's sums over the steps of the epoch.
    weights: {logical name: variable} in the order of `network.weights`. loss_scale: float32 under
    float16, else None. streams: rows of the global batch if each is a stream, whose next chunk
    begins with the state that this one ended with, else 0. carry: {name: variable [streams, units]}
    of these states, of all workers; {} without streams.
    """

    def __init__(
        self,
        network: Network,
        optimizer: optimizers.Optimizer,
        task: Task,
        variable: Callable[[tf.Tensor, str], tf.Variable],
        streams: int = 0,
    ):
        """variable: as `Placement.variable`; makes all variables but those of `optimizer`."""
        self.network = network
        self.optimizer = optimizer
        self.task = task
        self.weights = {
            name: variable(value, name) for name, value in network.initial_weights().items()
        }
        self.step = variable(tf.zeros([], tf.int64), "step")
        self.epoch = {
            name: variable(tf.zeros([], dtype), name) for name, dtype in task.sums.items()
        }
        self.loss_scale = None
        if network.compute_dtype == "float16":
            self.loss_scale = variable(tf.constant(optimizers.LARGEST_LOSS_SCALE), "loss_scale")
        self.streams = streams
        self.carry = {}
        if streams:
            self.carry = {
                name: variable(tf.zeros([streams, spec.shape[-1]], spec.dtype), name)
                for name, spec in network.carried.items()
            }

    @property
    def form(self) -> fields.Form:
        """What its batches hold."""
        return self.task.form(self.network)

    def named(self) -> dict[str, tf.Variable]:
        """Returns {logical name: variable} of the whole state."""
        return {
            **{f"model/{name}": weight for name, weight in self.weights.items()},
            **{f"optimizer/{name}": variable for name, variable in self.optimizer.named().items()},
            **({LOSS_SCALE: self.loss_scale} if self.loss_scale is not None else {}),
            "step": self.step,
            **{f"epoch/{name}": total for name, total in self.epoch.items()},
            **{f"{CARRY}{name}": rows for name, rows in self.carry.items()},
        }

    def values(self) -> dict[str, tf.Tensor]:
        """Returns {logical name: tensor} of the whole state, arrays flat, for a step to update."""
        return {
            name: tf.reshape(variable, [-1])
            if variable.shape.rank
            else tf.convert_to_tensor(variable)
            for name, variable in self.named().items()
        }

    def assign(self, values: Mapping[str, tf.Tensor]) -> None:
        """Sets the state to `values`, which `values()` returned or a step made from it."""
        for name, variable in self.named().items():
            variable.assign(tf.reshape(values[name], variable.shape))

    def snapshot(self) -> dict[str, np.ndarray]:
        """Returns copies of all values, which later steps do not change."""
        return {name: np.array(variable.numpy()) for name, variable in self.named().items()}

    def restore(self, tensors: Mapping[str, np.ndarray], origin: str) -> None:
        """Sets the state to the values of a checkpoint.

        Raises DataError, which names `origin`, if they do not fit.
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
                    f"{tuple(variable.shape)}. Use the configuration that wrote it."
                )
            variable.assign(tensors[name])

    def take(self, weights: Mapping[str, np.ndarray]) -> None:
        """Sets some weights of a new state, and their averages, to given values."""
        variables = self.named()
        for name, value in weights.items():
            for place in (f"model/{name}", f"optimizer/{name}/average"):
                if place in variables:
                    variables[place].assign(value)

    def scaling(self) -> dict[str, float]:
        """Returns the loss scale and the steps without an update so far; {} except under float16.

        Such a step, one of `skipped_steps`, had a gradient that overflowed.
        """
        if self.loss_scale is None:
            return {}
        skipped = self.step.numpy() - self.optimizer.iteration.numpy()
        return {"loss_scale": float(self.loss_scale.numpy()), "skipped_steps": float(skipped)}

    def evaluation_weights(self) -> dict[str, tf.Tensor]:
        """Returns {weight: value} to evaluate with: the averages if the run keeps them."""
        weights = evaluation_weights(self.named())
        return {name: tf.convert_to_tensor(weight) for name, weight in weights.items()}

    def begin_epoch(self) -> None:
        """Sets the sums of the epoch to zero, and what streams carry: they begin elsewhere."""
        for variable in (*self.epoch.values(), *self.carry.values()):
            variable.assign(tf.zeros_like(variable))


def evaluation_weights(named: Mapping[str, Value]) -> dict[str, Value]:
    """Returns {weight: value} to evaluate with from a whole state, given by its logical names.

    They are the averaged weights if the state has them.
    """
    names = [name.removeprefix("model/") for name in named if name.startswith("model/")]
    return {name: named.get(f"optimizer/{name}/average", named[f"model/{name}"]) for name in names}
