"""One compiled evaluation step: the outcome of each row of a batch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data import pipeline
from trainer.data.pipeline import Batch
from trainer.data.plans import Length
from trainer.devices.placement import Placement
from trainer.models.encoder import Carry
from trainer.models.networks import Network
from trainer.steps.parts import part_of
from trainer.steps.programs import compiles, function
from trainer.tasks.table import Task


class EvaluationStep:
    """Computes the outcome of each row with given weights, over the replicas of a placement.

    network: computes the outputs. placement: as given. task: makes outcomes of them. compiled:
    whether XLA compiles it.
    """

    def __init__(self, network: Network, placement: Placement, task: Task):
        self.task = task
        self.network = network
        self.placement = placement
        self.compiled = compiles(network, placement)
        retraces = placement.device_type == "TPU"  # A TPU needs the lengths in the trace.
        self._outcomes = function(
            self._outcomes_of, jit_compile=self.compiled, reduce_retracing=not retraces
        )
        self._replicas = function(self._outcomes_of_replicas, reduce_retracing=not retraces)
        self._copies = function(self._copies_of_replicas)

    def placed(self, weights: Mapping[str, tf.Tensor]) -> Mapping[str, Any]:
        """Returns `weights` on the device of each replica, for `outcomes` of many batches.

        Otherwise they travel to every replica with every batch.
        """
        if self.placement.replicas == 1 and self.placement.device_type != "TPU":
            return weights
        return self._copies(dict(weights))

    def outcomes(self, weights: Mapping[str, Any], batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Returns (losses [batch], answers [batch, ...]) of the task, in the order of the rows.

        Each worker computes its own rows, and all workers get all outcomes. weights: {logical name:
        tensor}, or what `placed` returned.
        """
        losses, answers, _ = self.outcomes_of_chunk(weights, batch, {})
        return losses, answers

    def fresh_carry(self, rows: int) -> Any:
        """Returns what `rows` streams carry before their first chunk, for `outcomes_of_chunk`."""
        first, end = self.placement.rows(rows)
        zeros = {
            name: tf.zeros([end - first, spec.shape[-1]], spec.dtype)
            for name, spec in self.network.carried.items()
        }

        def own() -> Carry:
            return part_of(zeros, self.placement.local_replica(), self.placement.replicas)

        return self.placement.strategy.run(function(own))

    def outcomes_of_chunk(
        self, weights: Mapping[str, Any], batch: Batch, carry: Any
    ) -> tuple[np.ndarray, np.ndarray, Any]:
        """Returns what `outcomes` returns, and what the rows carry to their next chunk.

        carry: `fresh_carry`, or what was returned for the chunk before. It stays where the rows are
        computed.
        """
        first, end = self.placement.rows(len(batch.rows))
        own = tf.nest.map_structure(lambda values: values[first:end], batch)
        losses, answers, carry = self._replicas(weights, own, carry)
        losses, answers = (
            np.concatenate(self.placement.strategy.experimental_local_results(per_replica))
            for per_replica in (losses, answers)
        )
        # Rows of other workers are 0: the sum is what each row's own worker computed, bit for bit.
        outcomes = np.zeros((len(batch.rows), 1 + answers.shape[1]), answers.dtype)
        outcomes[first:end, 0], outcomes[first:end, 1:] = losses, answers
        outcomes = self.placement.sum_over_workers(outcomes)
        return outcomes[:, 0], outcomes[:, 1:], carry

    def warm_up(
        self, weights: Mapping[str, tf.Tensor], length: Length, rows: int, streams: bool = False
    ) -> None:
        """Compiles the step for batches of `rows` rows padded to `length`."""
        batch = pipeline.blank(length, rows, self.task.form(self.network))
        carry = self.fresh_carry(rows) if streams else {}
        self.outcomes_of_chunk(self.placed(weights), batch, carry)

    def _copies_of_replicas(self, weights: Mapping[str, tf.Tensor]) -> Mapping[str, Any]:
        return self.placement.strategy.run(
            lambda values: tf.nest.map_structure(tf.identity, values), args=(weights,)
        )

    def _outcomes_of_replicas(
        self, weights: Mapping[str, tf.Tensor], batch: Batch, carry: Carry
    ) -> tuple[tf.Tensor, tf.Tensor, Carry]:
        def replica(
            weights: Mapping[str, tf.Tensor], batch: Batch, carry: Carry
        ) -> tuple[tf.Tensor, tf.Tensor, Carry]:
            number, replicas = self.placement.local_replica(), self.placement.replicas
            return self._outcomes(weights, part_of(batch, number, replicas), carry)

        return self.placement.strategy.run(replica, args=(weights, batch, carry))

    def _outcomes_of(
        self, weights: Mapping[str, tf.Tensor], batch: Batch, carry: Carry
    ) -> tuple[tf.Tensor, tf.Tensor, Carry]:
        outputs, carry = self.network.outputs(
            weights, batch.inputs, batch.lengths, carry=carry, targets=batch.targets
        )
        return *self.task.outcomes(outputs, batch), carry
