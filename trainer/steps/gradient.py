"""The gradient of a batch: what a replica computes, and its sum over replicas and workers.

The gradient of each shard (a fixed slice of a replica's rows) is a sum over its rows, packed into
one vector together with the sums of the task. Vectors are added up over shards, over the parts of
an accumulated batch, then over replicas and workers.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from trainer import config as configuration
from trainer.data import pipeline
from trainer.data.pipeline import Batch
from trainer.devices import exchange
from trainer.devices.placement import Placement
from trainer.models.networks import Network, Noise
from trainer.steps.packing import pack
from trainer.steps.parts import part_of
from trainer.steps.programs import compiles, compiles_elementwise, function
from trainer.tasks.table import LOSS_SUM, Task

EMBEDDING = "embedding/embeddings"  # The first weight of a network that trains an embedding.

# What one replica computes: a packed vector [values], and () or the gradient of the embedding by
# the row: (rows [tokens, width], ids int64 [tokens]).
Computed = tuple[tf.Tensor, tuple[tf.Tensor, ...]]


class Gradient:
    """Computes the packed gradient of a batch.

    The packed vector holds the gradient of the summed loss, times the loss scale, by each weight in
    the order of `network.weights`, then the sums of the task.

    exchange: what a step sends to other workers. If it sends the embedding by the row, the vector
    of a replica is without that gradient, and `whole` puts it in front.
    """

    def __init__(
        self,
        network: Network,
        placement: Placement,
        config: configuration.Config,
        task: Task,
        class_weights: Sequence[float] = (),
    ):
        self._network = network
        self._placement = placement
        self._task = task
        self._names = list(network.weights)
        self._shards = config.run.shards
        self._parts = config.optimizer.accumulate
        self._smoothing = config.optimizer.label_smoothing
        self._class_weights = tuple(class_weights)
        compiled = compiles(network, placement)
        self._compiles_masks = compiles_elementwise(network, placement) and not compiled
        self.exchange = _exchange(network, placement, config)
        # Traced once, for batches of any size; XLA compiles each size when it comes. A TPU needs
        # the sizes in the trace.
        signature = [
            list(network.weights.values()),
            tf.TensorSpec([], tf.int64),
            tf.TensorSpec([], tf.float32),
            pipeline.SIGNATURE,
        ]
        self._of_shard = function(
            self._shard_gradient,
            jit_compile=compiled,
            input_signature=None if placement.device_type == "TPU" else signature,
        )

    def of_replica(
        self, weights: list[tf.Tensor], step: tf.Tensor, scale: tf.Tensor, batch: Batch
    ) -> Computed:
        """Inside `strategy.run`: returns what this replica computes of its rows of `batch`.

        Args: as in `of_rows`, but `batch` holds the rows of this worker.
        """
        rows = part_of(batch, self._placement.local_replica(), self._placement.replicas)
        return self.of_rows(weights, step, scale, rows)

    def of_rows(
        self, weights: list[tf.Tensor], step: tf.Tensor, scale: tf.Tensor, rows: Batch
    ) -> Computed:
        """Inside `strategy.run`: returns what this replica computes of `rows`.

        Shards are computed side by side, the parts of an accumulated batch one after the other.

        Args:
          weights: in their shapes and in the order of `network.weights`.
          step: int64 scalar, from 0; dropout depends on it.
          scale: float32 scalar, the factor of the loss.
          rows: those of this replica.
        """
        if self._parts == 1:
            return self._of_shards(weights, step, scale, rows)

        def total_of(part: int | tf.Tensor) -> tf.Tensor:
            return self._of_shards(weights, step, scale, part_of(rows, part, self._parts))[0]

        _, total = tf.while_loop(
            lambda part, _: part < self._parts,
            lambda part, total: (part + 1, total + total_of(part)),
            (tf.constant(1), total_of(0)),
        )
        return total, ()

    def over_workers(self, packed: Any, slices: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
        """Outside `strategy.run`: adds up the vectors and joins the slices of all replicas.

        Args: what `strategy.run(self.of_replica, ...)` returned. Returns the arguments of `whole`,
        a value for each replica.
        """
        return self._placement.total(packed), tuple(map(self._placement.gathered, slices))

    def whole(self, vector: tf.Tensor, slices: tuple[tf.Tensor, ...]) -> tf.Tensor:
        """Inside `strategy.run`: returns the packed vector [values] of the whole batch.

        Args: what `over_workers` returned.
        """
        if not slices:
            return vector
        rows, ids = slices
        embedding = tf.math.unsorted_segment_sum(
            rows, ids, self._network.weights[EMBEDDING].shape[0]
        )
        return tf.concat([tf.reshape(embedding, [-1]), vector], axis=0)

    def over_replicas(self, packed: tf.Tensor) -> tf.Tensor:
        """Inside `strategy.run` of a single worker: returns the sum of the replicas' vectors."""
        if self._placement.replicas == 1:
            return packed
        return tf.distribute.get_replica_context().all_reduce("SUM", packed)

    def _of_shards(
        self, weights: list[tf.Tensor], step: tf.Tensor, scale: tf.Tensor, rows: Batch
    ) -> Computed:
        shards = [part_of(rows, shard, self._shards) for shard in range(self._shards)]
        vectors, slices = zip(*(self._of_shard(weights, step, scale, shard) for shard in shards))
        vector = vectors[0] if len(vectors) == 1 else tf.add_n(vectors)
        return vector, tuple(tf.concat(column, axis=0) for column in zip(*slices))

    def _shard_gradient(
        self, weights: list[tf.Tensor], step: tf.Tensor, scale: tf.Tensor, batch: Batch
    ) -> Computed:
        named = dict(zip(self._names, weights))
        with tf.GradientTape() as tape:
            tape.watch(weights)
            logits = self._network.logits(
                named,
                batch.inputs,
                batch.lengths,
                Noise(batch.rows, step, compiled=self._compiles_masks),
            )
            sums = self._task.training_sums(
                logits, batch.targets, self._smoothing, self._class_weights
            )
            scaled = sums[LOSS_SUM] * tf.cast(scale, sums[LOSS_SUM].dtype)
        gradients = tape.gradient(scaled, weights)
        slices = ()
        if self.exchange.embedding_by_row:
            embedding, *gradients = gradients
            slices = embedding.values, tf.cast(embedding.indices, tf.int64)
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        return pack(gradients + [sums[name] for name in self._task.sums]), slices


def _exchange(
    network: Network, placement: Placement, config: configuration.Config
) -> exchange.Exchange:
    embedding = network.weights.get(EMBEDDING)
    # The parts of an accumulated batch are added up before they are sent.
    if embedding is None or config.optimizer.accumulate > 1:
        return exchange.exchange(network.parameters, 0, 0, 0, placement.workers)
    tokens = -(-config.input.batch_size // placement.workers) * config.input.max_length
    return exchange.exchange(network.parameters, *embedding.shape, tokens, placement.workers)
