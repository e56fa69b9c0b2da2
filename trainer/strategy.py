"""From a configuration to a tf.distribute strategy, and what it makes of devices, replicas and rows.

The state of a run lives once, in plain variables on the first device; a strategy carries the weights of a step to its
replicas and adds up what they return. Nothing here is read before TensorFlow has been told threads and devices.
"""

import dataclasses
import os

import tensorflow as tf

from trainer import accelerator
from trainer import config as configuration
from trainer.exit_codes import UsageError


@dataclasses.dataclass(frozen=True)
class Placement:
    """A strategy and the devices it spans. `device_type` is "CPU" or "GPU"."""

    strategy: tf.distribute.Strategy
    device_type: str
    devices: tuple[str, ...]

    @property
    def replicas(self) -> int:
        return len(self.devices)


def resolve(run: configuration.Run, rows: int) -> configuration.Run:
    """`run` with the numbers that decide bits filled in where they are 0: threads from this machine, shards from both.

    rows: of the global batch that are worked through at once, --batch_size / --accumulate. A shard has at least 16 of
    them, or splitting costs more than it gains; on one device more shards than threads gain nothing.
    """
    threads = run.threads or len(os.sched_getaffinity(0))
    shards = run.shards or max(1, min(threads, rows // (16 * max(1, run.devices))))
    return dataclasses.replace(run, threads=threads, shards=shards)


def place(run: configuration.Run, rows: int) -> Placement:
    """Prepares TensorFlow for `run`, whose threads and shards are resolved, and makes the strategy.

    `rows` as in `resolve`. Raises UsageError where the devices asked for are not there, or rows are too few for them.
    """
    _set_threads(run)
    device_type = _device_type(run)
    if run.deterministic and device_type == "GPU":
        tf.config.experimental.enable_op_determinism()  # On CPU nothing needs it.
    wanted = run.devices or (visible()[device_type] if run.strategy != "one_device" and device_type != "CPU" else 1)
    if device_type == "CPU":
        _split_cpu(wanted)
    devices = [device.name for device in tf.config.list_logical_devices(device_type)][:wanted]
    if len(devices) < wanted:
        raise UsageError(f"--devices={wanted}: TensorFlow sees {len(devices)} {device_type} device(s). "
                         "Ask for fewer, or make the others visible.")
    if rows < wanted * run.shards:
        raise UsageError(f"--batch_size: {rows} row(s) at a time for {wanted} device(s) with --shards={run.shards}, which "
                         "need at least one row each. Raise it, or lower one of them or --accumulate.")
    if wanted == 1 and run.strategy != "mirrored":
        return Placement(tf.distribute.OneDeviceStrategy(devices[0]), device_type, tuple(devices))
    return Placement(tf.distribute.MirroredStrategy(devices), device_type, tuple(devices))


def visible() -> dict[str, int]:
    """{"CPU", "GPU", "TPU": devices} that TensorFlow sees in this machine or container."""
    return {kind: len(tf.config.list_physical_devices(kind)) for kind in accelerator.KINDS}


def _device_type(run: configuration.Run) -> str:
    """"CPU" or "GPU". Raises UsageError where it is not there, or there is no strategy for it."""
    seen = visible()
    problem = accelerator.refusal(run.accelerator, seen)
    if problem:
        raise UsageError(problem)
    kind = accelerator.chosen(run.accelerator, seen)
    if kind == "TPU":
        raise UsageError(f"--accelerator=tpu: TensorFlow sees {accelerator.in_words(seen)}, and this version has strategies for CPUs "
                         "and GPUs only. Say --accelerator=cpu, or use a machine with GPUs.")
    if kind == "CPU" and seen["GPU"]:
        _hide_gpus()
    return kind


def bounds(rows: int, parts: int) -> list[tuple[int, int]]:
    """[first, end) of each part when `rows` rows are dealt out as evenly as possible: 5 rows, 2 parts: (0, 2), (2, 5)."""
    edges = [rows * part // parts for part in range(parts + 1)]
    return list(zip(edges, edges[1:]))


def _set_threads(run: configuration.Run) -> None:
    # The bits of a large product depend on the number of threads that share it, so it is fixed; the number of threads
    # that run operations side by side changes no bit, and every shard needs one.
    intra, inter = run.threads, max(2, run.threads, run.shards)
    if (tf.config.threading.get_intra_op_parallelism_threads(), tf.config.threading.get_inter_op_parallelism_threads()) == (intra, inter):
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(intra)
        tf.config.threading.set_inter_op_parallelism_threads(inter)
    except RuntimeError:
        raise UsageError(f"--threads={intra}: TensorFlow runs already with another number in this process. "
                         "Start a process of its own.") from None


def _hide_gpus() -> None:
    """Keeps what names no device from running on a GPU."""
    try:
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError:
        raise UsageError("--accelerator=cpu: TensorFlow runs already with GPUs in this process. Start a process of its own.") from None


def _split_cpu(wanted: int) -> None:
    """Makes `wanted` logical CPU devices, unless this process has as many already."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    configured = tf.config.get_logical_device_configuration(cpu) or []
    if wanted > max(1, len(configured)):
        try:
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * wanted)
        except RuntimeError:
            pass  # TensorFlow runs already with fewer: the caller counts what there is and says so.
