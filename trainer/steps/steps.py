"""n compiled train steps and one compiled evaluation step, under any strategy.

A step: the gradient of each shard (a fixed slice of a replica's rows) as a sum over its rows,
packed into one vector together with the sums of loss, correct predictions and examples; vectors
added up over shards, then over replicas; then one update: divide by the number of examples, clip,
optimizer, sums of the epoch. Gradients and update are XLA programs of their own; the shards of a
replica run side by side. Where steps are so small that calling programs takes longer than they do,
many whole steps run inside one program (`--fuse`). Under float16 the loss is scaled, and a step
whose gradient overflows all the same makes no update.
"""

import time
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from trainer import config as configuration
from trainer.data import pipeline
from trainer.data.pipeline import Batch
from trainer.devices import exchange
from trainer.devices.placement import Placement
from trainer.models.networks import Network, Noise
from trainer.steps import optimizer as optimizers
from trainer.steps.state import State
from trainer.tasks.table import COUNT, LOSS_SUM, Task

EMBEDDING = "embedding/embeddings"  # The first of a network's weights, where it is trained.
LOSS_SCALE = "optimizer/loss_scale"
# Batches that a program of many steps takes at once: a call costs as much as a small step.
STACK = 32


class StepMetrics(NamedTuple):
    """Metrics of n steps, each float64 [n].

    sums: {name: values}, those of the task. gradient_norm: before clipping; 0 where the step made no update because its gradient overflowed
    float16. input_seconds: how long the step waited for its batch.
    """

    sums: dict[str, np.ndarray]
    gradient_norm: np.ndarray
    input_seconds: np.ndarray


def pack(tensors) -> tf.Tensor:
    """All values in one vector."""
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)


def unpack(vector: tf.Tensor, shapes) -> list[tf.Tensor]:
    """The inverse of `pack`."""
    parts = tf.split(vector, [shape.num_elements() for shape in shapes])
    return [tf.reshape(part, shape) for part, shape in zip(parts, shapes)]


class TrainSteps:
    """Runs train steps on `state`; `run(source, n)` is the only thing that changes it.

    fused: whether many steps run inside one program: on one CPU if asked for, on TPUs always.
    exchange: what a step sends to other workers.
    """

    def __init__(
        self,
        network: Network,
        state: State,
        placement: Placement,
        config: configuration.Config,
        class_weights: tuple[float, ...] = (),
    ):
        self._network = network
        self._state = state
        self._task = state.task
        self._placement = placement
        self._shards = config.run.shards
        self._settings = config.optimizer
        self._class_weights = class_weights
        self.exchange = self._exchange(config)
        on_tpu = placement.device_type == "TPU"
        jit = compiles(network) and not on_tpu  # What a TPU strategy runs is compiled as a whole.
        self._names = list(network.weights)
        self._columns = len(state.task.sums) + 1  # and the gradient's norm
        sizes = [weight.value.shape.num_elements() for weight in network.weights.values()]
        self._sizes = [tf.TensorShape([size]) for size in sizes] + [tf.TensorShape([])] * len(
            state.task.sums
        )
        weights = [
            tf.TensorSpec(weight.value.shape, weight.value.dtype)
            for weight in network.weights.values()
        ]
        self._gradient = _function(
            self._shard_gradient,
            jit_compile=jit,
            input_signature=[
                weights,
                tf.TensorSpec([], tf.int64),
                tf.TensorSpec([], tf.float32),
                pipeline.SIGNATURE,
            ],
        )
        self._update = _function(self._apply, jit_compile=jit)
        self._clock = _clock if placement.device_type == "GPU" else tf.timestamp
        self._loop = _function(self._run)
        self._warm = _function(self._gradient_of_replicas, reduce_retracing=True)
        self.fused = on_tpu or (
            config.run.fuse == "on"
            and jit
            and placement.device_type == "CPU"
            and placement.replicas == placement.workers == 1
        )
        rows, number = [STACK, config.input.batch_size], tf.TensorSpec([], tf.int32)
        stack = tf.nest.map_structure(
            lambda spec: tf.TensorSpec(rows + spec.shape[1:].as_list(), spec.dtype),
            pipeline.SIGNATURE,
        )
        # One trace for all lengths, or the order in which they come would decide what is compiled.
        # A TPU wants them in the trace.
        self._program = _function(
            self._run_stack,
            jit_compile=jit,
            input_signature=None if on_tpu else [stack, number, number],
        )

    def source(self, batches: pipeline.TrainingBatches, first_step: int):
        """The batches from `first_step` on, in the form in which `run` takes them."""
        if self.fused:
            return Stacks(batches.stacks(first_step, STACK))
        return iter(batches.dataset(first_step, self._placement.rows(batches.batch_size)))

    def run(self, source, steps: int) -> StepMetrics:
        """Runs at most `steps` steps on batches from `source`: fewer where one is not finite, which
        is then the last.
        """
        table = (
            self._run_fused(source, steps)
            if self.fused
            else self._loop(source, tf.constant(steps, tf.int32)).numpy()
        )
        *sums, gradient_norm, input_seconds = table.T
        return StepMetrics(dict(zip(self._task.sums, sums)), gradient_norm, input_seconds)

    def warm_up(self, length: int, rows: int) -> None:
        """Compiles what depends on the shape of batches, of `rows` rows padded to `length`, and
        changes nothing.
        """
        if self.fused:
            blank = _blank(length, rows)
            self._program(
                tf.nest.map_structure(lambda values: tf.repeat(values[None], STACK, axis=0), blank),
                tf.constant(0),
                tf.constant(0),
            )
            return
        weights = [tf.zeros_like(weight.value) for weight in self._network.weights.values()]
        self._warm(weights, _blank(length, rows))

    def _gradient_of_replicas(self, weights, batch):
        step, scale = tf.zeros([], tf.int64), tf.ones([])
        return self._placement.strategy.run(
            self._replica_gradient, args=(weights, step, scale, batch)
        )

    # --- one step, from the inside out ------------------------------------------------------------

    def _shard_gradient(self, weights, step, scale, batch: Batch):
        """Gradient of the summed loss of a shard's rows, times `scale`, and its sums.

        Returns (packed vector, ()), or (packed vector without the embedding, (rows [tokens, width],
        ids [tokens])).
        """
        named = dict(zip(self._names, weights))
        with tf.GradientTape() as tape:
            tape.watch(weights)
            logits = self._network.logits(
                named, batch.tokens, batch.lengths, Noise(batch.rows, step)
            )
            sums = self._task.training_sums(
                logits, batch.labels, self._settings.label_smoothing, self._class_weights
            )
            scaled = sums[LOSS_SUM] * tf.cast(scale, sums[LOSS_SUM].dtype)
        gradients = tape.gradient(scaled, weights)
        slices = ()
        if self.exchange.embedding_by_row:
            embedding, *gradients = gradients
            slices = embedding.values, tf.cast(embedding.indices, tf.int64)
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        return pack(gradients + [sums[name] for name in self._task.sums]), slices

    def _replica_gradient(self, weights, step, scale, batch: Batch):
        """As `_shard_gradient`, of this replica's rows: its shards side by side, its parts one
        after the other.
        """
        rows = _part(batch, self._placement.local_replica(), self._placement.replicas)
        parts = self._settings.accumulate
        if parts == 1:
            return self._sharded(weights, step, scale, rows)

        def add(part, total):
            return part + 1, total + self._sharded(weights, step, scale, _part(rows, part, parts))[
                0
            ]

        total, _ = self._sharded(weights, step, scale, _part(rows, 0, parts))
        return tf.while_loop(lambda part, _: part < parts, add, (tf.constant(1), total))[1], ()

    def _sharded(self, weights, step, scale, rows: Batch):
        shards = [_part(rows, shard, self._shards) for shard in range(self._shards)]
        vectors, slices = zip(*(self._gradient(weights, step, scale, shard) for shard in shards))
        return _add(vectors), tuple(tf.concat(column, axis=0) for column in zip(*slices))

    def _over_workers(self, packed, slices):
        """The packed vector of the whole batch, from what each replica of each worker has
        computed.
        """
        vector = self._placement.total(packed)
        if not slices:
            return vector
        rows, ids = map(self._placement.gathered, slices)
        embedding = tf.math.unsorted_segment_sum(
            rows, ids, self._network.weights[EMBEDDING].value.shape[0]
        )
        return tf.concat([tf.reshape(embedding, [-1]), vector], axis=0)

    def _exchange(self, config: configuration.Config) -> exchange.Exchange:
        embedding = self._network.weights.get(EMBEDDING)
        # Parts of a batch are added up before they are sent.
        if embedding is None or config.optimizer.accumulate > 1:
            return exchange.exchange(self._network.parameters, 0, 0, 0, self._placement.workers)
        tokens = -(-config.input.batch_size // self._placement.workers) * config.input.max_length
        return exchange.exchange(
            self._network.parameters, *embedding.value.shape, tokens, self._placement.workers
        )

    def _next(self, values, packed):
        """(the state's values after a step, its metrics): the update by the packed sums of a whole
        batch.
        """
        parts = unpack(packed, self._sizes)
        gradients = parts[: len(self._names)]
        sums = dict(zip(self._task.sums, parts[len(self._names) :]))
        factor = 1 / (sums[COUNT] * tf.cast(self._scale(values), sums[COUNT].dtype))
        gradients = [gradient * factor for gradient in gradients]
        norm = optimizers.global_norm(gradients)
        gradients = optimizers.clip(gradients, norm, self._settings.clip_norm)
        after = self._state.optimizer.updated(values, dict(zip(self._names, gradients)))
        after["step"] = values["step"] + 1
        if LOSS_SCALE in values:
            after, norm = self._if_it_fits(values, after, norm)
        for name, value in sums.items():
            total = values[f"epoch/{name}"]
            after[f"epoch/{name}"] = total + tf.cast(value, total.dtype)
        return after, tf.stack([tf.cast(value, tf.float64) for value in (*sums.values(), norm)])

    def _if_it_fits(self, before, after, norm):
        """The values without the update if the gradient overflowed, and the norm; 0 where a smaller
        scale may help.
        """
        scale, fits = before[LOSS_SCALE], tf.math.is_finite(norm)
        kept = {name: tf.where(fits, value, before[name]) for name, value in after.items()}
        kept |= {
            "step": after["step"],
            LOSS_SCALE: optimizers.next_loss_scale(scale, fits, after["step"]),
        }
        return kept, tf.where(fits | (scale <= optimizers.SMALLEST_LOSS_SCALE), norm, 0)

    def _scale(self, values):
        return values[LOSS_SCALE] if LOSS_SCALE in values else tf.ones([])

    def _weights(self, values):
        """The weights in their shapes, in the order of their gradients."""
        return [
            tf.reshape(values[f"model/{name}"], weight.value.shape)
            for name, weight in self._network.weights.items()
        ]

    def _apply(self, packed):
        """Updates the state by the packed sums of a whole batch; returns the step's metrics."""
        values, row = self._next(self._state.values(), packed)
        self._state.assign(values)
        return row

    def _run(self, iterator, steps):
        def one(done, _, metrics):
            asked = self._clock()
            batch = next(iterator)
            with tf.control_dependencies([batch.tokens]):
                waited = self._clock() - asked
            weights = [
                tf.convert_to_tensor(weight.value) for weight in self._network.weights.values()
            ]
            step = tf.convert_to_tensor(self._state.step)
            scale = (
                tf.ones([])
                if self._state.loss_scale is None
                else tf.convert_to_tensor(self._state.loss_scale)
            )
            gradient = self._placement.strategy.run(
                self._replica_gradient, args=(weights, step, scale, batch)
            )
            row = self._update(self._over_workers(*gradient))
            metrics = metrics.write(done, tf.concat([row, [waited]], axis=0))
            return done + 1, tf.reduce_all(tf.math.is_finite(row)), metrics

        metrics = tf.TensorArray(
            tf.float64, steps, dynamic_size=False, element_shape=[self._columns + 1]
        )
        done, _, metrics = tf.while_loop(
            lambda done, finite, _: tf.logical_and(done < steps, finite),
            one,
            (tf.constant(0), tf.constant(True), metrics),
        )
        return metrics.stack()[:done]

    # --- many steps in one program ----------------------------------------------------------------

    def _run_stack(self, stack: Batch, first, end):
        """Runs steps on batches [first, end) of a stack. Returns (metrics [stack, sums and norm], steps
        done).
        """
        strategy = self._placement.strategy
        outcome = strategy.run(self._replica_steps, args=(self._state.values(), stack, first, end))
        values, metrics, done = tf.nest.map_structure(
            lambda value: strategy.experimental_local_results(value)[0], outcome
        )
        self._state.assign(values)
        return metrics, done

    def _replica_steps(self, values, stack: Batch, first, end):
        """The same steps on every replica, each with its own part of each batch.

        First and end are numbers that the program is given, not part of it: whichever way steps are
        cut into calls, each of them is the same machine code on the same numbers.
        """

        def one(at, _, values, metrics):
            batch = tf.nest.map_structure(lambda entries: entries[at], stack)
            packed, _ = self._replica_gradient(
                self._weights(values), values["step"], self._scale(values), batch
            )
            values, row = self._next(values, self._over_replicas(packed))
            metrics = tf.tensor_scatter_nd_update(metrics, [[at]], row[None])
            return at + 1, tf.reduce_all(tf.math.is_finite(row)), values, metrics

        metrics = tf.zeros([tf.shape(stack.rows)[0], self._columns], tf.float64)
        at, _, values, metrics = tf.while_loop(
            lambda at, finite, *_: tf.logical_and(at < end, finite),
            one,
            (first, tf.constant(True), values, metrics),
        )
        return values, metrics, at - first

    def _over_replicas(self, packed):
        return (
            packed
            if self._placement.replicas == 1
            else tf.distribute.get_replica_context().all_reduce("SUM", packed)
        )

    def _run_fused(self, stacks: "Stacks", steps: int) -> np.ndarray:
        parts, left = [np.zeros([0, self._columns + 1])], steps
        while left:
            asked = time.monotonic()
            stack, first, end = stacks.take(left)
            waited = time.monotonic() - asked
            metrics, done = (
                tensor.numpy()
                for tensor in self._program(stack, tf.constant(first), tf.constant(end))
            )
            waits = np.zeros([done, 1])
            waits[0] = waited
            parts.append(np.concatenate([metrics[first : first + done], waits], axis=1))
            left -= done
            if not np.isfinite(parts[-1]).all():
                break
        return np.concatenate(parts)


class Stacks:
    """Batches in stacks, given out up to a number of steps at a time."""

    def __init__(self, stacks: tf.data.Dataset):
        """stacks: as `TrainingBatches.stacks` makes them."""
        self._stacks = iter(stacks)
        self._next = self._end = 0

    def take(self, most: int) -> tuple[Batch, int, int]:
        """(stack, first, end): the next at most `most` steps, which are batches [first, end) of
        `stack`.
        """
        if self._next == self._end:
            self._stack, count = next(self._stacks)
            self._next, self._end = 0, int(count)
        first, self._next = self._next, min(self._end, self._next + most)
        return self._stack, first, self._next


class EvaluationStep:
    """What a network makes of each row of a batch, computed with given weights, over the replicas
    of a placement.
    """

    def __init__(self, network: Network, placement: Placement, task: Task):
        self._network = network
        self._placement = placement
        self.task = task
        on_tpu = placement.device_type == "TPU"
        self._outcomes = _function(
            self._outcomes_of,
            jit_compile=compiles(network) and not on_tpu,
            reduce_retracing=not on_tpu,
        )
        self._replicas = _function(self._outcomes_of_replicas, reduce_retracing=not on_tpu)

    def outcomes(self, weights, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """(losses [batch], probabilities [batch, classes]), in the order of the rows; each worker
        computes its own rows.
        """
        first, end = self._placement.rows(len(batch.rows))
        own = tf.nest.map_structure(lambda values: values[first:end], batch)
        per_replica = zip(
            *map(self._placement.strategy.experimental_local_results, self._replicas(weights, own))
        )
        losses, probabilities = map(np.concatenate, zip(*per_replica))
        # Zero where the row is another worker's: the sum is what its own worker computed, bit for
        # bit.
        outcomes = np.zeros((len(batch.rows), 1 + probabilities.shape[1]), probabilities.dtype)
        outcomes[first:end, 0], outcomes[first:end, 1:] = losses, probabilities
        outcomes = self._placement.sum_over_workers(outcomes)
        return outcomes[:, 0], outcomes[:, 1:]

    def warm_up(self, weights, length: int, rows: int) -> None:
        """Compiles the step for batches of `rows` rows padded to `length`, and forgets the
        result.
        """
        self.outcomes(weights, _blank(length, rows))

    def _outcomes_of_replicas(self, weights, batch: Batch):
        def replica(weights, batch):
            return self._outcomes(
                weights, _part(batch, self._placement.local_replica(), self._placement.replicas)
            )

        return self._placement.strategy.run(replica, args=(weights, batch))

    def _outcomes_of(self, weights, batch):
        logits = self._network.logits(weights, batch.tokens, batch.lengths)
        return self.task.outcomes(logits, batch.labels)


def _function(python_function, **options):
    """A tf.function whose loops are written as such: to rewrite sources, AutoGraph takes longer
    than all else at a start.
    """
    return tf.function(python_function, autograph=False, **options)


def compiles(network: Network) -> bool:
    """Whether the programs around `network` are compiled by XLA."""
    return all(implementation == "ours" for _, implementation, _ in network.implementations)


def _blank(length: int, rows: int) -> Batch:
    """A batch of padding, for its shape."""
    return Batch(
        tf.range(rows),
        tf.zeros([rows, length], tf.int32),
        tf.ones([rows], tf.int32),
        tf.zeros([rows], tf.int32),
    )


def _slice(values, part, parts: int):
    """Rows [n * part / parts, n * (part + 1) / parts) of n: the same bounds as
    `placement.bounds`.
    """
    if values.shape[0] is not None and values.shape[0] % parts == 0:
        # A size that does not hang on `part`: inside a program of XLA the number of a replica is
        # not known.
        size = values.shape[0] // parts
        return tf.slice(
            values,
            [part * size] + [0] * (values.shape.rank - 1),
            [size] + [-1] * (values.shape.rank - 1),
        )
    rows = tf.shape(values)[0]
    return values[rows * part // parts : rows * (part + 1) // parts]


def _part(batch: Batch, part, parts: int) -> Batch:
    if parts == 1:
        return batch
    return tf.nest.map_structure(lambda values: _slice(values, part, parts), batch)


def _clock() -> tf.Tensor:
    """tf.timestamp for where TensorFlow forbids it: it is no deterministic operation, though
    nothing computes with it.
    """
    return tf.ensure_shape(tf.numpy_function(time.time, [], tf.float64), [])


def _add(vectors):
    return vectors[0] if len(vectors) == 1 else tf.add_n(vectors)
