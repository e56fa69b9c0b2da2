"""Many whole train steps inside one program: for steps that take no longer than calling a program.

A TPU runs all of its steps this way.
"""

import time
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from trainer.data import pipeline
from trainer.data.pipeline import Batch
from trainer.devices.placement import Placement
from trainer.steps.gradient import Gradient
from trainer.steps.programs import compiles, function
from trainer.steps.state import State
from trainer.steps.update import StepMetrics, Update, loss_scale

# Batches that a program takes at once: a call costs as much as a small step.
STACK = 32


class Stacks:
    """Batches in stacks, handed out up to a given number of steps at a time."""

    def __init__(self, stacks: tf.data.Dataset):
        """stacks: as `TrainingBatches.stacks` makes them."""
        self._stacks = iter(stacks)
        self._stack: Batch | None = None
        self._first = self._end = 0

    def take(self, most: int) -> tuple[Batch, int, int]:
        """Returns (stack, first, end): the next steps, which are batches [first, end) of `stack`.

        They are at most `most`, and fewer at the end of a stack.
        """
        if self._first == self._end:
            self._stack, count = next(self._stacks)
            self._first, self._end = 0, int(count)
        first, self._first = self._first, min(self._end, self._first + most)
        return self._stack, first, self._first


class Fused:
    """Runs train steps on `state` on the replicas of one worker: see `TrainSteps`."""

    def __init__(
        self,
        state: State,
        placement: Placement,
        gradient: Gradient,
        update: Update,
        batch_size: int,
    ):
        self._state = state
        self._weights = state.network.weights
        self._placement = placement
        self._gradient = gradient
        self._update = update
        self.exchange = gradient.exchange
        stack = tf.nest.map_structure(
            lambda spec: tf.TensorSpec([STACK, batch_size, *spec.shape[1:]], spec.dtype),
            pipeline.SIGNATURE,
        )
        number = tf.TensorSpec([], tf.int32)
        # One trace for all lengths: with a trace for each, the order in which lengths come would
        # affect what is compiled. A TPU needs the lengths in the trace.
        on_tpu = placement.device_type == "TPU"
        self._program = function(
            self._run_stack,
            jit_compile=compiles(state.network, placement),
            input_signature=None if on_tpu else [stack, number, number],
        )

    def source(self, batches: pipeline.TrainingBatches, first_step: int) -> Stacks:
        """Returns the batches from `first_step` on in stacks."""
        return Stacks(batches.stacks(first_step, STACK))

    def run(self, source: Stacks, steps: int) -> StepMetrics:
        """Runs at most `steps` steps; a step that is not finite is the last."""
        rows, waits, left = [np.zeros([0, self._update.width])], [np.zeros([0])], steps
        while left:
            asked = time.monotonic()
            stack, first, end = source.take(left)
            waited = time.monotonic() - asked
            table, done = (
                tensor.numpy()
                for tensor in self._program(stack, tf.constant(first), tf.constant(end))
            )
            rows.append(table[first : first + done])
            waits.append(np.zeros([done]))
            waits[-1][0] = waited
            left -= done
            if not np.isfinite(rows[-1]).all():
                break
        return self._update.metrics(np.concatenate(rows), np.concatenate(waits))

    def warm_up(self, length: int, rows: int) -> None:
        """Compiles the program for batches of `rows` rows padded to `length`; takes no step."""
        stack = tf.nest.map_structure(
            lambda values: tf.repeat(values[None], STACK, axis=0), pipeline.blank(length, rows)
        )
        self._program(stack, tf.constant(0), tf.constant(0))

    def _run_stack(
        self, stack: Batch, first: tf.Tensor, end: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Runs steps on batches [first, end) of a stack.

        Returns (rows of metrics float64 [stack, width], zero for other batches; int32 scalar, steps
        done).
        """
        strategy = self._placement.strategy
        outcome = strategy.run(self._replica_steps, args=(self._state.values(), stack, first, end))
        values, table, done = tf.nest.map_structure(
            lambda value: strategy.experimental_local_results(value)[0], outcome
        )
        self._state.assign(values)
        return table, done

    def _replica_steps(
        self, values: Mapping[str, tf.Tensor], stack: Batch, first: tf.Tensor, end: tf.Tensor
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]:
        """Runs the same steps on every replica, each on its own rows of each batch.

        Returns (the state's values after them, then as `_run_stack`). `first` and `end` are
        arguments of the program, not constants in it: however steps are divided into calls, each
        step is the same machine code on the same numbers.
        """

        def one(at, _, values, table):
            batch = tf.nest.map_structure(lambda entries: entries[at], stack)
            packed, _ = self._gradient.of_replica(
                self._shaped(values), values["step"], loss_scale(values), batch
            )
            values, row = self._update.after(values, self._gradient.over_replicas(packed))
            table = tf.tensor_scatter_nd_update(table, [[at]], row[None])
            return at + 1, tf.reduce_all(tf.math.is_finite(row)), values, table

        table = tf.zeros([tf.shape(stack.rows)[0], self._update.width], tf.float64)
        at, _, values, table = tf.while_loop(
            lambda at, finite, *_: tf.logical_and(at < end, finite),
            one,
            (first, tf.constant(True), values, table),
        )
        return values, table, at - first

    def _shaped(self, values: Mapping[str, tf.Tensor]) -> list[tf.Tensor]:
        """Returns the weights in their shapes, in the order of their gradients."""
        return [
            tf.reshape(values[f"model/{name}"], weight.value.shape)
            for name, weight in self._weights.items()
        ]
