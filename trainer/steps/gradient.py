"""The gradient of a batch: what a replica computes, and its sum over replicas and workers.

The gradient of each shard (a fixed slice of a replica's rows) is a sum over its rows, packed into
one vector together with the sums of the task. Vectors are added up over shards, over the parts of
an accumulated batch, then over replicas and workers.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from trainer.data import pipeline
from trainer.data.pipeline import Batch
from trainer.devices import exchange
from trainer.devices.placement import Placement
from trainer.flags.run import Config
from trainer.models.encoder import Carry
from trainer.models.networks import Network, Noise
from trainer.steps.packing import pack
from trainer.steps.parts import part_of, put_part
from trainer.steps.programs import compiles, compiles_elementwise, function
from trainer.tasks.table import LOSS_SUM, Task

EMBEDDING = "embedding/embeddings"  # The first weight of a network that trains an embedding.


class Computed(NamedTuple):
    """What one replica computes of its rows.

    vector: [values], packed. slices: () or the gradient of the embedding by the row: (rows [tokens,
    width], ids int64 [tokens]). carry: {} or what its streams carry to the next chunk, [rows, ...].
    """

    vector: tf.Tensor
    slices: tuple[tf.Tensor, ...]
    carry: Carry


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
        config: Config,
        task: Task,
        class_weights: Sequence[float] = (),
        carries: bool = False,
    ):
        """carries: whether rows are streams, each of which begins with the state before it."""
        self._network = network
        self._placement = placement
        self._task = task
        self._names = list(network.weights)
        self._shards = config.run.shards
        self._parts = config.optimizer.accumulate
        self._smoothing = config.optimizer.label_smoothing
        self._class_weights = tuple(class_weights)
        self._rows = config.input.batch_size
        self._carried = network.carried if carries else {}
        compiled = compiles(network, placement)
        self._compiles_masks = compiles_elementwise(network, placement) and not compiled
        self.exchange = _exchange(network, placement, config)
        # Traced once, for batches of any size; XLA compiles each size when it comes. A TPU needs
        # the sizes in the trace.
        signature = [
            list(network.weights.values()),
            tf.TensorSpec([], tf.int64),
            tf.TensorSpec([], tf.float32),
            pipeline.signature(task.form(network)),
            self._carried,
        ]
        self._of_shard = function(
            self._shard_gradient,
            jit_compile=compiled,
            input_signature=None if placement.device_type == "TPU" else signature,
        )

    def of_replica(
        self,
        weights: list[tf.Tensor],
        step: tf.Tensor,
        scale: tf.Tensor,
        batch: Batch,
        carry: Carry,
    ) -> Computed:
        """Inside `strategy.run`: returns what this replica computes of its rows of `batch`.

        Args: as in `of_rows`, but `batch` and `carry` hold the rows of this worker.
        """
        rows = part_of((batch, carry), self._placement.local_replica(), self._placement.replicas)
        return self.of_rows(weights, step, scale, *rows)

    def of_rows(
        self, weights: list[tf.Tensor], step: tf.Tensor, scale: tf.Tensor, rows: Batch, carry: Carry
    ) -> Computed:
        """Inside `strategy.run`: returns what this replica computes of `rows`.

        Shards are computed side by side, the parts of an accumulated batch one after the other.

        Args:
          weights: in their shapes and in the order of `network.weights`.
          step: int64 scalar, from 0; dropout depends on it.
          scale: float32 scalar, the factor of the loss.
          rows: those of this replica.
          carry: the states that these rows begin with; {} if they are no streams.
        """
        if self._parts == 1:
            return self._of_shards(weights, step, scale, rows, carry)

        def part(number: int | tf.Tensor) -> Computed:
            return self._of_shards(
                weights, step, scale, *part_of((rows, carry), number, self._parts)
            )

        def one(number, total, carry_after):
            computed = part(number)
            after = put_part(carry_after, computed.carry, number, self._parts)
            return number + 1, total + computed.vector, after

        first = part(0)
        _, total, carry_after = tf.while_loop(
            lambda number, *_: number < self._parts,
            one,
            (tf.constant(1), first.vector, put_part(carry, first.carry, 0, self._parts)),
        )
        return Computed(total, (), carry_after)

    def over_workers(self, computed: Computed) -> Computed:
        """Outside `strategy.run`: adds up the vectors and joins the rows of all replicas.

        computed: what `strategy.run(self.of_replica, ...)` returned. Returns a value for each
        replica.
        """
        if self._placement.replicas == self._placement.workers == 1:
            return computed
        run = self._placement.strategy.run
        total = self._placement.total(run(self._with_carry, args=(computed.vector, computed.carry)))
        vector, carry = run(self._without_carry, args=(total,))
        return Computed(vector, tuple(map(self._placement.gathered, computed.slices)), carry)

    def whole(self, vector: tf.Tensor, slices: tuple[tf.Tensor, ...]) -> tf.Tensor:
        """Inside `strategy.run`: returns the packed vector [values] of the whole batch.

        Args: those of what `over_workers` returned.
        """
        if not slices:
            return vector
        rows, ids = slices
        embedding = tf.math.unsorted_segment_sum(
            rows, ids, self._network.weights[EMBEDDING].shape[0]
        )
        return tf.concat([tf.reshape(embedding, [-1]), vector], axis=0)

    def over_replicas(self, computed: Computed) -> Computed:
        """Inside `strategy.run` of a single worker: as `over_workers`."""
        if self._placement.replicas == 1:
            return computed
        vector = self._with_carry(computed.vector, computed.carry)
        vector = tf.distribute.get_replica_context().all_reduce("SUM", vector)
        vector, carry = self._without_carry(vector)
        return computed._replace(vector=vector, carry=carry)

    def _with_carry(self, vector: tf.Tensor, carry: Carry) -> tf.Tensor:
        """Inside `strategy.run`: returns `vector` and behind it the carry of all rows, packed.

        It is zero but for the rows of this replica, so a sum over all replicas joins the rows: in
        the exchange of the gradient, however many rows each of them has.
        """
        if not self._carried:
            return vector
        first, end = self._placement.rows(self._rows)
        zeros = {
            name: tf.zeros([end - first, spec.shape[-1]], spec.dtype)
            for name, spec in self._carried.items()
        }
        own = put_part(zeros, carry, self._placement.local_replica(), self._placement.replicas)
        others = [[first, self._rows - end], [0, 0]]
        return pack([vector, *(tf.pad(rows, others) for rows in own.values())])

    def _without_carry(self, packed: tf.Tensor) -> tuple[tf.Tensor, Carry]:
        """Returns (the vector, the carry of all rows) of a sum of what `_with_carry` returned."""
        if not self._carried:
            return packed, {}
        shapes = {name: [self._rows, spec.shape[-1]] for name, spec in self._carried.items()}
        vector, *parts = tf.split(packed, [-1, *map(math.prod, shapes.values())])
        return vector, {name: tf.reshape(part, shapes[name]) for name, part in zip(shapes, parts)}

    def _of_shards(
        self, weights: list[tf.Tensor], step: tf.Tensor, scale: tf.Tensor, rows: Batch, carry: Carry
    ) -> Computed:
        shards = [part_of((rows, carry), shard, self._shards) for shard in range(self._shards)]
        found = [Computed(*self._of_shard(weights, step, scale, *shard)) for shard in shards]
        vectors = [computed.vector for computed in found]
        return Computed(
            vectors[0] if len(vectors) == 1 else tf.add_n(vectors),
            tuple(
                tf.concat(column, axis=0)
                for column in zip(*(computed.slices for computed in found))
            ),
            {
                name: tf.concat([computed.carry[name] for computed in found], axis=0)
                for name in carry
            },
        )

    def _shard_gradient(
        self,
        weights: list[tf.Tensor],
        step: tf.Tensor,
        scale: tf.Tensor,
        batch: Batch,
        carry: Carry,
    ) -> Computed:
        named = dict(zip(self._names, weights))
        with tf.GradientTape() as tape:
            tape.watch(weights)
            outputs, carry = self._network.outputs(
                named,
                batch.inputs,
                batch.lengths,
                Noise(batch.rows, step, compiled=self._compiles_masks),
                carry,
                batch.targets,
            )
            sums = self._task.training_sums(outputs, batch, self._smoothing, self._class_weights)
            scaled = sums[LOSS_SUM] * tf.cast(scale, sums[LOSS_SUM].dtype)
        gradients = tape.gradient(scaled, weights)
        slices = ()
        if self.exchange.embedding_by_row:
            embedding, *gradients = gradients
            slices = embedding.values, tf.cast(embedding.indices, tf.int64)
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        packed = pack(gradients + [sums[name] for name in self._task.sums])
        return Computed(packed, slices, carry)


def _exchange(network: Network, placement: Placement, config: Config) -> exchange.Exchange:
    embedding = network.weights.get(EMBEDDING)
    # The parts of an accumulated batch are added up before they are sent. As the weights of the
    # output an embedding has a gradient in every row; the one of both sides has two of them.
    whole = config.model.tied_embedding or network.second == "shared"
    if embedding is None or config.optimizer.accumulate > 1 or whole:
        return exchange.exchange(network.parameters, 0, 0, 0, placement.workers)
    tokens = -(-config.input.batch_size // placement.workers) * config.input.max_length
    return exchange.exchange(network.parameters, *embedding.shape, tokens, placement.workers)
