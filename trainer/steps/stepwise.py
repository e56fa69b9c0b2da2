"""Train steps one after the other: gradient and update are two programs in a compiled loop."""

import time
from collections.abc import Iterator

import tensorflow as tf

from trainer.data import pipeline
from trainer.data.pipeline import Batch
from trainer.data.plans import Length
from trainer.devices.placement import Placement
from trainer.models.encoder import Carry
from trainer.steps.gradient import Computed, Gradient
from trainer.steps.programs import compiles_elementwise, function
from trainer.steps.state import State
from trainer.steps.update import StepMetrics, Update


class Stepwise:
    """Runs train steps on `state` on any number of replicas and workers: see `TrainSteps`."""

    def __init__(self, state: State, placement: Placement, gradient: Gradient, update: Update):
        self._state = state
        self._placement = placement
        self._gradient = gradient
        self._update = update
        self.exchange = gradient.exchange
        on_gpu = placement.device_type == "GPU"
        self._clock = _clock if on_gpu else tf.timestamp
        # Whether a step is finite is known on its device. A GPU would be waited for at every step,
        # so there the loop goes on, and a step that is not finite makes no update.
        self._ends_early = not on_gpu
        # A program for each replica: it holds the variables of that replica.
        self._applied = [
            function(self._apply, jit_compile=compiles_elementwise(state.network, placement))
            for _ in placement.devices
        ]
        self._loop = function(self._run)
        self._warm = function(self._gradient_of_replicas, reduce_retracing=True)

    def source(self, batches: pipeline.TrainingBatches, first_step: int) -> Iterator[Batch]:
        """Returns this worker's rows of the batches from `first_step` on."""
        return iter(batches.dataset(first_step, self._placement.rows(batches.plan.batch_size)))

    def run(self, source: Iterator[Batch], steps: int) -> StepMetrics:
        """Runs at most `steps` steps; on a CPU a step that is not finite is the last."""
        table = self._loop(source, tf.constant(steps, tf.int32)).numpy()
        return self._update.metrics(table[:, :-1], table[:, -1])

    def warm_up(self, length: Length, rows: int) -> None:
        """Compiles the gradient of `rows` rows padded to `length`; changes no state."""
        weights = [
            tf.zeros(weight.shape, weight.dtype) for weight in self._state.network.weights.values()
        ]
        batch = pipeline.blank(length, rows, self._state.form)
        self._warm(weights, tf.zeros([], tf.int64), tf.ones([]), batch, self._own_carry())

    def _gradient_of_replicas(
        self,
        weights: list[tf.Tensor],
        step: tf.Tensor,
        scale: tf.Tensor,
        batch: Batch,
        carry: Carry,
    ) -> Computed:
        """Returns what each replica computes, as `strategy.run` returns it."""
        return self._placement.strategy.run(
            self._gradient.of_replica, args=(weights, step, scale, batch, carry)
        )

    def _own_carry(self) -> Carry:
        """Returns what the streams of this worker carry."""
        first, end = self._placement.rows(self._state.streams)
        return {name: rows[first:end] for name, rows in self._state.carry.items()}

    def _replica_gradient(self, batch: Batch) -> Computed:
        """Inside `strategy.run`: returns what this replica computes with its copy of the state."""
        weights = [tf.convert_to_tensor(weight) for weight in self._state.weights.values()]
        step = tf.convert_to_tensor(self._state.step)
        scale = (
            tf.ones([])
            if self._state.loss_scale is None
            else tf.convert_to_tensor(self._state.loss_scale)
        )
        return self._gradient.of_replica(weights, step, scale, batch, self._own_carry())

    def _replica_update(self, computed: Computed) -> tf.Tensor:
        """Inside `strategy.run`: updates this replica's copy of the state; returns the metrics."""
        packed = self._gradient.whole(computed.vector, computed.slices)
        return self._applied[self._placement.index_of_replica()](packed, computed.carry)

    def _apply(self, packed: tf.Tensor, carry: Carry) -> tf.Tensor:
        """Updates the state by the packed vector of a whole batch and what its rows carry on.

        Returns the row of metrics.
        """
        values, row = self._update.after(self._state.values(), packed, carry)
        self._state.assign(values)
        return row

    def _run(self, iterator: Iterator[Batch], steps: tf.Tensor) -> tf.Tensor:
        """Returns float64 [steps done, width + 1]: rows of metrics, then seconds of waiting."""

        def one(done, _, table):
            asked = self._clock()
            batch = next(iterator)
            with tf.control_dependencies([batch.inputs]):
                waited = self._clock() - asked
            strategy = self._placement.strategy
            computed = strategy.run(self._replica_gradient, args=(batch,))
            summed = self._gradient.over_workers(computed)
            row = self._placement.first(strategy.run(self._replica_update, args=(summed,)))
            table = table.write(done, tf.concat([row, [waited]], axis=0))
            goes_on = tf.reduce_all(tf.math.is_finite(row)) if self._ends_early else True
            return done + 1, goes_on, table

        table = tf.TensorArray(
            tf.float64, steps, dynamic_size=False, element_shape=[self._update.width + 1]
        )
        done, _, table = tf.while_loop(
            lambda done, goes_on, _: (
                tf.logical_and(done < steps, goes_on) if self._ends_early else done < steps
            ),
            one,
            (tf.constant(0), tf.constant(True), table),
        )
        return table.stack()[:done]


def _clock() -> tf.Tensor:
    """Returns the time in seconds even if TensorFlow must be deterministic.

    It forbids `tf.timestamp` then, although no result is computed from it.
    """
    return tf.ensure_shape(tf.numpy_function(time.time, [], tf.float64), [])
