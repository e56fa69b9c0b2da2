"""Many whole train steps inside one program: for steps that take no longer than calling a program.

A TPU runs all of its steps this way.
"""

import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data import fields, pipeline
from trainer.data.pipeline import Batch
from trainer.data.plans import Length
from trainer.devices.placement import Placement
from trainer.models.encoder import Carry
from trainer.steps.gradient import Computed, Gradient
from trainer.steps.parts import part_of
from trainer.steps.programs import compiles, function
from trainer.steps.state import CARRY, State
from trainer.steps.update import StepMetrics, Update, loss_scale

# Batches that a program takes at once: a call costs as much as a small step.
STACK = 32

# The padded length of each batch of a stack, as a number of the plan's lengths: int32 [STACK]; ()
# if all batches have the length of the stack.
Choices = tf.Tensor | tuple[()]


def stack_bytes(rows: int, length: Length, form: fields.Form) -> int:
    """Returns the bytes of a stack of batches of `rows` rows padded to `length`: a call's input."""
    return STACK * rows * pipeline.row_bytes(length, form)


class Stacks:
    """Batches in stacks, handed out up to a given number of steps at a time."""

    def __init__(self, stacks: tf.data.Dataset):
        """stacks: as `TrainingBatches.stacks` makes them."""
        self._stacks = iter(stacks)
        self._stack: Any = None
        self._first = self._end = 0

    def take(self, most: int) -> tuple[Batch, tf.Tensor, int, int]:
        """Returns (stack, lengths, first, end): the next steps, batches [first, end) of `stack`.

        They are at most `most`, and fewer at the end of a stack. `lengths` is the second part of an
        element of `TrainingBatches.stacks`.
        """
        if self._first == self._end:
            *self._stack, count = next(self._stacks)
            self._first, self._end = 0, int(count)
        first, self._first = self._first, min(self._end, self._first + most)
        return *self._stack, first, self._first


class Fused:
    """Runs train steps on `state` on the replicas of one worker: see `TrainSteps`.

    lengths: the lengths of the plan if a stack mixes them: each has its own branch in the program,
    so that a call takes as many steps whatever their lengths. () if each stack has one length.
    """

    def __init__(
        self,
        state: State,
        placement: Placement,
        gradient: Gradient,
        update: Update,
        batch_size: int,
        lengths: Sequence[Length] = (),
    ):
        self._state = state
        self._placement = placement
        self._gradient = gradient
        self._update = update
        self._lengths = tuple(lengths)
        self.exchange = gradient.exchange
        stack = tf.nest.map_structure(
            lambda spec: tf.TensorSpec([STACK, batch_size, *spec.shape[1:]], spec.dtype),
            pipeline.signature(state.form),
        )
        number = tf.TensorSpec([], tf.int32)
        # One trace for all lengths: with a trace for each, the order in which lengths come would
        # affect what is compiled. A TPU needs the lengths in the trace.
        on_tpu = placement.device_type == "TPU"
        self._program = function(
            self._run_stack,
            jit_compile=compiles(state.network, placement),
            input_signature=None if on_tpu else [stack, (), number, number],
        )

    def source(self, batches: pipeline.TrainingBatches, first_step: int) -> Stacks:
        """Returns the batches from `first_step` on in stacks."""
        return Stacks(batches.stacks(first_step, STACK, mixed=bool(self._lengths)))

    def run(self, source: Stacks, steps: int) -> StepMetrics:
        """Runs at most `steps` steps; a step that is not finite is the last."""
        rows, waits, left = [np.zeros([0, self._update.width])], [np.zeros([0])], steps
        while left:
            asked = time.monotonic()
            stack, lengths, first, end = source.take(left)
            waited = time.monotonic() - asked
            table, done = (tensor.numpy() for tensor in self._call(stack, lengths, first, end))
            rows.append(table[first : first + done])
            waits.append(np.zeros([done]))
            waits[-1][0] = waited
            left -= done
            if not np.isfinite(rows[-1]).all():
                break
        return self._update.metrics(np.concatenate(rows), np.concatenate(waits))

    def warm_up(self, length: Length, rows: int) -> None:
        """Compiles the program for batches of `rows` rows padded to `length`; takes no step.

        The program of mixed lengths is compiled by the first call, for all of them.
        """
        longest = max(self._lengths, default=length)
        stack = tf.nest.map_structure(
            lambda values: tf.repeat(values[None], STACK, axis=0),
            pipeline.blank(longest, rows, self._state.form),
        )
        self._call(stack, tf.zeros([STACK], tf.int32), 0, 0)

    def _call(
        self, stack: Batch, lengths: tf.Tensor, first: int, end: int
    ) -> tuple[tf.Tensor, tf.Tensor]:
        return self._program(
            self._dealt(stack),
            lengths if self._lengths else (),
            tf.constant(first),
            tf.constant(end),
        )

    def _dealt(self, stack: Batch) -> Any:
        """Returns the stack with each replica's own rows, so that no other rows are sent to it."""
        replicas = self._placement.replicas
        if replicas == 1:
            return stack
        parts = [part_of(stack, number, replicas, axis=1) for number in range(replicas)]
        return self._placement.strategy.experimental_distribute_values_from_function(
            lambda context: parts[context.replica_id_in_sync_group]
        )

    def _run_stack(
        self, stack: Batch, lengths: Choices, first: tf.Tensor, end: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Runs steps on batches [first, end) of a stack.

        Returns (rows of metrics float64 [stack, width], zero for other batches; int32 scalar, steps
        done).
        """
        return self._placement.first(
            self._placement.strategy.run(self._replica_steps, args=(stack, lengths, first, end))
        )

    def _replica_steps(
        self, stack: Batch, lengths: Choices, first: tf.Tensor, end: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Runs the same steps on every replica, each on its own rows and its copy of the state.

        Returns as `_run_stack`.
        """
        values, table, done = self.steps(self._state.values(), stack, lengths, first, end)
        self._state.assign(values)
        return table, done

    def steps(
        self,
        values: Mapping[str, tf.Tensor],
        stack: Batch,
        lengths: Choices,
        first: tf.Tensor,
        end: tf.Tensor,
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]:
        """Inside `strategy.run`: returns (the state's values after steps on batches [first, end)
        of this replica's `stack`, then as `_run_stack`).

        `first` and `end` are arguments of the program, not constants in it: however steps are
        divided into calls, each step is the same machine code on the same numbers.
        """

        def one(at, _, values, table):
            batch = tf.nest.map_structure(lambda entries: entries[at], stack)
            computed = self._computed(values, batch, lengths[at] if self._lengths else None)
            computed = self._gradient.over_replicas(computed)
            values, row = self._update.after(values, computed.vector, computed.carry)
            table = tf.tensor_scatter_nd_update(table, [[at]], row[None])
            return at + 1, tf.reduce_all(tf.math.is_finite(row)), values, table

        table = tf.zeros([tf.shape(stack.rows)[0], self._update.width], tf.float64)
        at, _, values, table = tf.while_loop(
            lambda at, finite, *_: tf.logical_and(at < end, finite),
            one,
            (first, tf.constant(True), values, table),
        )
        return values, table, at - first

    def _computed(
        self, values: Mapping[str, tf.Tensor], batch: Batch, choice: tf.Tensor | None
    ) -> Computed:
        """Returns what this replica computes of a batch, whose length is the `choice` of all."""
        weights, step, scale = self._shaped(values), values["step"], loss_scale(values)
        carry = self._own_carry(values)

        def of_length(length: Length | None = None) -> Computed:
            rows = batch if length is None else pipeline.cut(batch, length)
            return self._gradient.of_rows(weights, step, scale, rows, carry)

        if choice is None:
            return of_length()
        branches = [functools.partial(of_length, length) for length in self._lengths]
        return branches[0]() if len(branches) == 1 else tf.switch_case(choice, branches)

    def _own_carry(self, values: Mapping[str, tf.Tensor]) -> Carry:
        """Returns what the streams of this replica carry."""
        if not self._state.carry:
            return {}
        carry = {
            name: tf.reshape(values[f"{CARRY}{name}"], variable.shape)
            for name, variable in self._state.carry.items()
        }
        return part_of(carry, self._placement.local_replica(), self._placement.replicas)

    def _shaped(self, values: Mapping[str, tf.Tensor]) -> list[tf.Tensor]:
        """Returns the weights in their shapes, in the order of their gradients."""
        return [
            tf.reshape(values[f"model/{name}"], weight.shape)
            for name, weight in self._state.network.weights.items()
        ]
