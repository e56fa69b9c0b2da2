"""From a configuration to a tf.distribute strategy, and what it makes of workers, devices, replicas
and rows.

The state of a run lives in plain variables on the first device of each worker; a strategy carries
the weights of a step to its replicas and adds up what they return. Every worker adds the same sums
to the same state, so that all stay equal. Nothing here is read before TensorFlow has been told
threads and devices.

What concerns TPUs has been run without one only: the compiled step by XLA on CPU, the choices and
refusals as they are.
"""

import dataclasses
import json
import os
import re
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from trainer import config as configuration
from trainer.devices import accelerator
from trainer.exit_codes import UsageError

# What TensorFlow raises in the workers that are left when another one dies, is cut off or starts
# anew.
LOST_PEER = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
)


def told_by(problem: tf.errors.OpError) -> str:
    """The line of the error of a collective that says what happened; the others say where in the
    graph.
    """
    reason = re.search(r"aborted by: (.*)", problem.message)
    return reason[1] if reason else problem.message.splitlines()[0]


@dataclasses.dataclass(frozen=True)
class Placement:
    """A strategy, the devices of this worker that it spans, and which worker of how many this is.

    device_type: "CPU", "GPU" or "TPU". Workers have equally many devices.
    """

    strategy: tf.distribute.Strategy
    device_type: str
    devices: tuple[str, ...]
    worker: int = 0
    workers: int = 1

    @property
    def replicas(self) -> int:
        """Replicas of this worker."""
        return len(self.devices)

    @property
    def is_chief(self) -> bool:
        """Whether this is the worker that writes."""
        return self.worker == 0

    def rows(self, batch_size: int) -> tuple[int, int]:
        """[first, end) of this worker's rows of a global batch."""
        return bounds(batch_size, self.workers)[self.worker]

    def local_replica(self) -> tf.Tensor:
        """Inside `strategy.run`: the number of the replica among those of this worker, an int32
        scalar.
        """
        replica = tf.convert_to_tensor(tf.distribute.get_replica_context().replica_id_in_sync_group)
        return replica - self.worker * self.replicas

    def total(self, per_replica) -> tf.Tensor:
        """The sum of what `strategy.run` returned, over all replicas of all workers; the same bits
        on each.
        """
        return self.strategy.reduce("SUM", per_replica, axis=None)

    def gathered(self, per_replica) -> tf.Tensor:
        """What `strategy.run` returned, joined along the first axis: replica by replica, worker by
        worker.
        """
        return self.strategy.gather(per_replica, axis=0)

    def everyones(self, values) -> np.ndarray:
        """float64 [workers, n]: the n numbers that each worker gave; all workers must ask, and all
        get the same.
        """
        values = np.asarray(values, np.float64)
        if self.workers == 1:
            return values[None]
        table = np.zeros((self.workers, len(values)))
        table[self.worker] = values
        return self.sum_over_workers(table)

    def all_have(self, digest: str | None) -> bool:
        """Whether all workers came with the same hexadecimal digest, or all with none; all must
        ask.
        """
        words = np.frombuffer(bytes.fromhex(digest or "00" * 32), "<u4")
        return bool((self.everyones(words) == words).all())

    def sum_over_workers(self, values: np.ndarray) -> np.ndarray:
        """The sum of the arrays that the workers gave; all workers must ask, and all get the same
        bits.
        """
        return values if self.workers == 1 else self._sum_over_workers(tf.constant(values)).numpy()

    @tf.function(reduce_retracing=True, autograph=False)
    def _sum_over_workers(self, values):
        # Every replica must take part in a reduction; the first of each worker brings the values.
        return self.total(
            self.strategy.run(lambda: values * tf.cast(self.local_replica() == 0, values.dtype))
        )


def place(run: configuration.Run, rows: int, member: tuple[int, int] = (0, 1)) -> Placement:
    """Prepares TensorFlow for `run`, whose threads and shards are resolved, and makes the strategy.

    rows: as in `resources.resolve`. member: (worker, workers); with several workers TF_CONFIG names
    them, and this call waits until all of them have made it. Raises UsageError where the devices
    asked for are not there, or rows are too few for them.
    """
    worker, workers = member
    _set_threads(run)
    if run.strategy == "tpu":
        return _place_on_tpu(run, rows)
    device_type = _device_type(run)
    if run.deterministic and device_type == "GPU":
        tf.config.experimental.enable_op_determinism()  # On CPU nothing needs it.
    gpus = tf.config.list_physical_devices("GPU") if device_type == "GPU" else []
    wanted = run.devices or (len(gpus) if run.strategy != "one_device" and gpus else 1)
    if workers > 1:
        return _place_worker(run, rows, worker, workers, gpus)
    if device_type == "CPU":
        _split_cpu(wanted)
    devices = [device.name for device in tf.config.list_logical_devices(device_type)][:wanted]
    if len(devices) < wanted:
        raise UsageError(
            f"--devices={wanted}: TensorFlow sees {len(devices)} {device_type} device(s). "
            "Ask for fewer, or make the others visible."
        )
    _refuse_empty_shards(run, rows, wanted)
    if wanted == 1 and run.strategy != "mirrored":
        return Placement(tf.distribute.OneDeviceStrategy(devices[0]), device_type, tuple(devices))
    return Placement(tf.distribute.MirroredStrategy(devices), device_type, tuple(devices))


def _place_worker(
    run: configuration.Run, rows: int, worker: int, workers: int, gpus: list
) -> Placement:
    wanted = run.devices or max(1, len(gpus))
    if wanted > max(1, len(gpus)):
        raise UsageError(
            f"--devices={wanted}: each of {workers} workers has {len(gpus)} GPU(s); without any, a "
            "worker is one replica on "
            "its CPU. Ask for fewer, or start more workers."
        )
    _refuse_empty_shards(run, rows, workers * wanted)
    tf.config.set_visible_devices(gpus[:wanted], "GPU")
    kind = tf.distribute.experimental.CommunicationImplementation
    options = tf.distribute.experimental.CommunicationOptions(
        implementation=kind.AUTO if gpus else kind.RING
    )
    spanning = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    return Placement(
        spanning, "GPU" if gpus else "CPU", tuple(spanning.extended.worker_devices), worker, workers
    )


def _refuse_empty_shards(run: configuration.Run, rows: int, replicas: int) -> None:
    if rows < replicas * run.shards:
        raise UsageError(
            f"--batch_size: {rows} row(s) at a time for {replicas} device(s) with "
            f"--shards={run.shards}, which "
            "need at least one row each. Raise it, or lower one of them or --accumulate."
        )


def member(environ: Mapping[str, str]) -> tuple[int, int]:
    """(worker, workers) that this training process is among those that add up gradients: by
    TF_CONFIG, else alone.

    A supervisor writes TF_CONFIG anew for every generation of a gang.
    """
    task = json.loads(environ.get("TF_CONFIG") or "{}")
    return (task["task"]["index"], len(task["cluster"]["worker"])) if task else (0, 1)


def visible() -> dict[str, int]:
    """{"CPU", "GPU", "TPU": devices} that TensorFlow sees in this machine or container."""
    return {kind: len(tf.config.list_physical_devices(kind)) for kind in accelerator.KINDS}


def _device_type(run: configuration.Run) -> str:
    """ "CPU" or "GPU". Raises UsageError where what was asked for is not there."""
    seen = visible()
    problem = accelerator.refusal(run.accelerator, seen)
    if problem:
        raise UsageError(problem)
    kind = accelerator.chosen(run.accelerator, seen)
    if kind == "CPU" and seen["GPU"]:
        _hide_gpus()
    return kind


def several_hosts(environ: Mapping[str, str]) -> str | None:
    """Why the TPU slice of this machine cannot be trained on, None where it can:
    TPU_WORKER_HOSTNAMES names its hosts.

    GKE sets it in every pod with google.com/tpu
    (https://cloud.google.com/kubernetes-engine/docs/concepts/tpus).
    """
    hosts = [name for name in environ.get("TPU_WORKER_HOSTNAMES", "").split(",") if name.strip()]
    if len(hosts) <= 1:
        return None
    return (
        f"--strategy=tpu: TPU_WORKER_HOSTNAMES names {len(hosts)} hosts, {', '.join(hosts)}. "
        "TensorFlow finds the TPUs of a slice of "
        "several hosts only through the Cloud TPU service, which a pod has none of. Use a slice of "
        "one host, such as v5e-8."
    )


def _place_on_tpu(run: configuration.Run, rows: int) -> Placement:
    problem = several_hosts(os.environ)
    if problem:
        raise UsageError(problem)
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect("local")
    except (tf.errors.OpError, RuntimeError, ValueError) as missing:
        raise UsageError(
            "--strategy=tpu: TensorFlow finds no TPU on this host "
            f"({str(missing).splitlines()[0]}). Install tensorflow-tpu "
            "and no other TensorFlow, and see that the pod asks for google.com/tpu or the "
            "container of a TPU VM is "
            "privileged; or leave --strategy out to train on something else."
        ) from None
    strategy = tf.distribute.TPUStrategy(resolver)
    devices = tuple(device.name for device in tf.config.list_logical_devices("TPU"))
    if run.devices not in (0, len(devices)):
        raise UsageError(
            f"--devices={run.devices}: --strategy=tpu uses all {len(devices)} TPU cores of this "
            "host. Leave the flag out."
        )
    if rows % (len(devices) * run.shards):
        raise UsageError(
            f"--batch_size: {rows} rows at a time for {len(devices)} TPU cores with "
            f"--shards={run.shards}: a TPU's program "
            f"takes arrays of one size. Use a multiple of {len(devices) * run.shards} (times "
            "--accumulate)."
        )
    return Placement(strategy, "TPU", devices)


def bounds(rows: int, parts: int) -> list[tuple[int, int]]:
    """[first, end) of each part when `rows` rows are dealt out as evenly as possible: 5 rows, 2
    parts: (0, 2), (2, 5).
    """
    edges = [rows * part // parts for part in range(parts + 1)]
    return list(zip(edges, edges[1:]))


def _set_threads(run: configuration.Run) -> None:
    # The bits of a large product depend on the number of threads that share it, so it is fixed; the
    # number of threads that run operations side by side changes no bit, and every shard needs one.
    intra, inter = run.threads, max(2, run.threads, run.shards)
    if (
        tf.config.threading.get_intra_op_parallelism_threads(),
        tf.config.threading.get_inter_op_parallelism_threads(),
    ) == (intra, inter):
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(intra)
        tf.config.threading.set_inter_op_parallelism_threads(inter)
    except RuntimeError:
        raise UsageError(
            f"--threads={intra}: TensorFlow runs already with another number in this process. "
            "Start a process of its own."
        ) from None


def _hide_gpus() -> None:
    """Keeps what names no device from running on a GPU."""
    try:
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError:
        raise UsageError(
            "--accelerator=cpu: TensorFlow runs already with GPUs in this process. Start a process "
            "of its own."
        ) from None


def _split_cpu(wanted: int) -> None:
    """Makes `wanted` logical CPU devices, unless this process has as many already."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    configured = tf.config.get_logical_device_configuration(cpu) or []
    if wanted > max(1, len(configured)):
        try:
            tf.config.set_logical_device_configuration(
                cpu, [tf.config.LogicalDeviceConfiguration()] * wanted
            )
        except RuntimeError:
            pass  # TensorFlow runs already with fewer: the caller counts what there is and says so.
