"""Train steps one after the other: gradient and update are two programs in a compiled loop."""

import time
from collections.abc import Iterator

import tensorflow as tf

from trainer.data import pipeline
from trainer.data.pipeline import Batch
from trainer.devices.placement import Placement
from trainer.steps.gradient import Computed, Gradient
from trainer.steps.programs import compiles, function
from trainer.steps.state import State
from trainer.steps.update import StepMetrics, Update


class Stepwise:
    """Runs train steps on `state` on any number of replicas and workers: see `TrainSteps`."""

    def __init__(self, state: State, placement: Placement, gradient: Gradient, update: Update):
        self._state = state
        self._weights = state.network.weights
        self._placement = placement
        self._gradient = gradient
        self._update = update
        self.exchange = gradient.exchange
        self._clock = _clock if placement.device_type == "GPU" else tf.timestamp
        self._applied = function(self._apply, jit_compile=compiles(state.network, placement))
        self._loop = function(self._run)
        self._warm = function(self._gradient_of_replicas, reduce_retracing=True)

    def source(self, batches: pipeline.TrainingBatches, first_step: int) -> Iterator[Batch]:
        """Returns this worker's rows of the batches from `first_step` on."""
        return iter(batches.dataset(first_step, self._placement.rows(batches.plan.batch_size)))

    def run(self, source: Iterator[Batch], steps: int) -> StepMetrics:
        """Runs at most `steps` steps; a step that is not finite is the last."""
        table = self._loop(source, tf.constant(steps, tf.int32)).numpy()
        return self._update.metrics(table[:, :-1], table[:, -1])

    def warm_up(self, length: int, rows: int) -> None:
        """Compiles the gradient of `rows` rows padded to `length`; changes no state."""
        weights = [tf.zeros_like(weight.value) for weight in self._weights.values()]
        self._warm(weights, tf.zeros([], tf.int64), tf.ones([]), pipeline.blank(length, rows))

    def _gradient_of_replicas(
        self, weights: list[tf.Tensor], step: tf.Tensor, scale: tf.Tensor, batch: Batch
    ) -> Computed:
        """Returns what each replica computes, as `strategy.run` returns it."""
        return self._placement.strategy.run(
            self._gradient.of_replica, args=(weights, step, scale, batch)
        )

    def _apply(self, packed: tf.Tensor) -> tf.Tensor:
        """Updates the state by the packed vector of a whole batch; returns the row of metrics."""
        values, row = self._update.after(self._state.values(), packed)
        self._state.assign(values)
        return row

    def _run(self, iterator: Iterator[Batch], steps: tf.Tensor) -> tf.Tensor:
        """Returns float64 [steps done, width + 1]: rows of metrics, then seconds of waiting."""

        def one(done, _, table):
            asked = self._clock()
            batch = next(iterator)
            with tf.control_dependencies([batch.tokens]):
                waited = self._clock() - asked
            weights = [tf.convert_to_tensor(weight.value) for weight in self._weights.values()]
            step = tf.convert_to_tensor(self._state.step)
            scale = (
                tf.ones([])
                if self._state.loss_scale is None
                else tf.convert_to_tensor(self._state.loss_scale)
            )
            computed = self._gradient_of_replicas(weights, step, scale, batch)
            row = self._applied(self._gradient.over_workers(*computed))
            table = table.write(done, tf.concat([row, [waited]], axis=0))
            return done + 1, tf.reduce_all(tf.math.is_finite(row)), table

        table = tf.TensorArray(
            tf.float64, steps, dynamic_size=False, element_shape=[self._update.width + 1]
        )
        done, _, table = tf.while_loop(
            lambda done, finite, _: tf.logical_and(done < steps, finite),
            one,
            (tf.constant(0), tf.constant(True), table),
        )
        return table.stack()[:done]


def _clock() -> tf.Tensor:
    """Returns the time in seconds even if TensorFlow must be deterministic.

    It forbids `tf.timestamp` then, although no result is computed from it.
    """
    return tf.ensure_shape(tf.numpy_function(time.time, [], tf.float64), [])
