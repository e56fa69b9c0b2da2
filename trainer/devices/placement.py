"""Where a run computes: its strategy, devices, replicas and workers, and what all of them share.

Every replica keeps a copy of the state on its own device. A strategy adds up what the replicas
compute, on their devices, and each of them makes the same update of its copy. So all copies stay
equal, and no weights travel.
"""

import contextlib
import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike


@dataclasses.dataclass(frozen=True)
class Placement:
    """A strategy, the devices of this worker that it spans, and which worker of how many this is.

    device_type: "CPU", "GPU" or "TPU". All workers have the same number of devices.
    """

    strategy: tf.distribute.Strategy
    device_type: str
    devices: tuple[str, ...]
    worker: int = 0
    workers: int = 1

    @property
    def replicas(self) -> int:
        """Returns the number of replicas of this worker."""
        return len(self.devices)

    @property
    def is_chief(self) -> bool:
        """Returns whether this is the worker that writes."""
        return self.worker == 0

    def rows(self, batch_size: int) -> tuple[int, int]:
        """Returns [first, end) of the rows of a global batch that this worker computes."""
        return bounds(batch_size, self.workers)[self.worker]

    def local_replica(self) -> tf.Tensor:
        """Returns the number of the current replica among those of this worker, an int32 scalar.

        Call it inside `strategy.run`.
        """
        replica = tf.convert_to_tensor(tf.distribute.get_replica_context().replica_id_in_sync_group)
        return replica - self.worker * self.replicas

    def index_of_replica(self) -> int:
        """Returns `local_replica()` as a number of Python: not on a TPU, which traces once for all.

        Call it inside `strategy.run`.
        """
        context = tf.distribute.get_replica_context()
        number = int(tf.get_static_value(tf.convert_to_tensor(context.replica_id_in_sync_group)))
        return number - self.worker * self.replicas

    def variable(self, value: tf.Tensor | float, name: str) -> tf.Variable:
        """Returns a variable of which each replica has a copy of its own, beginning as `value`.

        Inside `strategy.run` it is the copy of that replica, elsewhere that of the first one; an
        `assign` inside changes one copy, elsewhere all of them.
        """
        several = self.replicas > 1 or self.device_type == "TPU"
        with self.strategy.scope() if several else contextlib.nullcontext():
            return tf.Variable(
                value,
                trainable=False,
                name=name,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )

    def total(self, per_replica: Any) -> Any:
        """Returns the sum of what `strategy.run` returned, over all replicas of all workers.

        Every replica of every worker has the same bits of it, on its device: like the argument, the
        result is a value per replica, for `strategy.run` or `first`.
        """
        # Not `strategy.reduce`: it takes the sum to the CPU, and with it all that is added up.
        return self.strategy.extended.reduce_to("SUM", per_replica, destinations=per_replica)

    def gathered(self, per_replica: Any) -> Any:
        """Returns what `strategy.run` returned, joined along the first axis, for every replica.

        The order is worker by worker, and replica by replica within a worker.
        """

        def joined(values: tf.Tensor) -> tf.Tensor:
            return tf.distribute.get_replica_context().all_gather(values, axis=0)

        return self.strategy.run(joined, args=(per_replica,))

    def first(self, per_replica: Any) -> Any:
        """Returns the first replica's part of what `strategy.run` returned."""
        return tf.nest.map_structure(
            lambda value: self.strategy.experimental_local_results(value)[0], per_replica
        )

    def everyones(self, values: ArrayLike) -> np.ndarray:
        """Returns float64 [workers, n]: the n numbers of each worker.

        All workers must call it, each with its own `values`; all get the same table.
        """
        values = np.asarray(values, np.float64)
        if self.workers == 1:
            return values[None]
        table = np.zeros((self.workers, len(values)))
        table[self.worker] = values
        return self.sum_over_workers(table)

    def all_have(self, digest: str | None) -> bool:
        """Returns whether all workers have the same hexadecimal digest, or none has any.

        All workers must call it.
        """
        words = np.frombuffer(bytes.fromhex(digest or "00" * 32), "<u4")
        return bool((self.everyones(words) == words).all())

    def sum_over_workers(self, values: np.ndarray) -> np.ndarray:
        """Returns the sum of the arrays of all workers.

        All workers must call it; all get the same bits.
        """
        return values if self.workers == 1 else self._sum_over_workers(tf.constant(values)).numpy()

    @tf.function(reduce_retracing=True, autograph=False)
    def _sum_over_workers(self, values: tf.Tensor) -> tf.Tensor:
        # Every replica must take part in a reduction; the first of each worker brings the values.
        return self.first(
            self.total(
                self.strategy.run(lambda: values * tf.cast(self.local_replica() == 0, values.dtype))
            )
        )


def bounds(rows: int, parts: int) -> list[tuple[int, int]]:
    """Returns [first, end) of each part when `rows` rows are split as evenly as possible.

    5 rows in 2 parts: (0, 2), (2, 5).
    """
    edges = [rows * part // parts for part in range(parts + 1)]
    return list(zip(edges, edges[1:]))
