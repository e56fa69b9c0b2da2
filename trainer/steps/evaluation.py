"""One compiled evaluation step: the outcome of each row of a batch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data import pipeline
from trainer.data.pipeline import Batch
from trainer.devices.placement import Placement
from trainer.models.networks import Network
from trainer.steps.parts import part_of
from trainer.steps.programs import compiles, function
from trainer.tasks.table import Task


class EvaluationStep:
    """Computes the outcome of each row with given weights, over the replicas of a placement."""

    def __init__(self, network: Network, placement: Placement, task: Task):
        self.task = task
        self._network = network
        self._placement = placement
        retraces = placement.device_type == "TPU"  # A TPU needs the lengths in the trace.
        self._outcomes = function(
            self._outcomes_of,
            jit_compile=compiles(network, placement),
            reduce_retracing=not retraces,
        )
        self._replicas = function(self._outcomes_of_replicas, reduce_retracing=not retraces)
        self._copies = function(self._copies_of_replicas)

    def placed(self, weights: Mapping[str, tf.Tensor]) -> Mapping[str, Any]:
        """Returns `weights` on the device of each replica, for `outcomes` of many batches.

        Otherwise they travel to every replica with every batch.
        """
        if self._placement.replicas == 1 and self._placement.device_type != "TPU":
            return weights
        return self._copies(dict(weights))

    def outcomes(self, weights: Mapping[str, Any], batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Returns (losses [batch], probabilities [batch, classes]), in the order of the rows.

        Each worker computes its own rows, and all workers get all outcomes. weights: {logical name:
        tensor}, or what `placed` returned.
        """
        first, end = self._placement.rows(len(batch.rows))
        own = tf.nest.map_structure(lambda values: values[first:end], batch)
        per_replica = zip(
            *map(self._placement.strategy.experimental_local_results, self._replicas(weights, own))
        )
        losses, probabilities = map(np.concatenate, zip(*per_replica))
        # Rows of other workers are 0: the sum is what each row's own worker computed, bit for bit.
        outcomes = np.zeros((len(batch.rows), 1 + probabilities.shape[1]), probabilities.dtype)
        outcomes[first:end, 0], outcomes[first:end, 1:] = losses, probabilities
        outcomes = self._placement.sum_over_workers(outcomes)
        return outcomes[:, 0], outcomes[:, 1:]

    def warm_up(self, weights: Mapping[str, tf.Tensor], length: int, rows: int) -> None:
        """Compiles the step for batches of `rows` rows padded to `length`."""
        self.outcomes(self.placed(weights), pipeline.blank(length, rows))

    def _copies_of_replicas(self, weights: Mapping[str, tf.Tensor]) -> Mapping[str, Any]:
        return self._placement.strategy.run(
            lambda values: tf.nest.map_structure(tf.identity, values), args=(weights,)
        )

    def _outcomes_of_replicas(
        self, weights: Mapping[str, tf.Tensor], batch: Batch
    ) -> tuple[tf.Tensor, tf.Tensor]:
        def replica(weights: Mapping[str, tf.Tensor], batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
            number, replicas = self._placement.local_replica(), self._placement.replicas
            return self._outcomes(weights, part_of(batch, number, replicas))

        return self._placement.strategy.run(replica, args=(weights, batch))

    def _outcomes_of(
        self, weights: Mapping[str, tf.Tensor], batch: Batch
    ) -> tuple[tf.Tensor, tf.Tensor]:
        logits = self._network.logits(weights, batch.inputs, batch.lengths)
        return self.task.outcomes(logits, batch.targets)
