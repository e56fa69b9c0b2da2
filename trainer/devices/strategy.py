"""Turns a configuration into a placement: threads, devices and a tf.distribute strategy.

TensorFlow takes the number of threads and of logical devices only until its runtime starts, so call
`place` before anything that computes. `visible` may be called earlier: it lists devices, and starts
nothing but a TPU.

No TPU was available: the TPU step was tested compiled by XLA on CPU, and the choice of devices and
its error messages were tested as they are.
"""

import contextlib
import functools
import os
from collections.abc import Mapping

import tensorflow as tf

from trainer.devices import accelerator
from trainer.devices.placement import Placement
from trainer.exit_codes import UsageError
from trainer.flags.run import Run

_NO_TPU = (tf.errors.OpError, RuntimeError, ValueError)  # What TensorFlow raises without a TPU.


def place(run: Run, rows: int, member: tuple[int, int] = (0, 1)) -> Placement:
    """Sets TensorFlow's threads and devices for `run` and returns the placement.

    Args:
      run: with the threads and shards that `resources.settled` fills in.
      rows: rows of the global batch that are computed at once, --batch_size / --accumulate.
      member: (worker, workers). With several workers TF_CONFIG names them, and this call waits
        until all of them have made it.

    Raises UsageError if the requested devices are not there, or if rows are too few for them.
    """
    worker, workers = member
    _set_threads(run)
    _set_matmul_precision(run)
    if _wants_tpu(run):
        return _place_on_tpu(run, rows)
    device_type = _device_type(run)
    if run.deterministic and device_type == "GPU":
        tf.config.experimental.enable_op_determinism()  # A CPU does not need it.
    gpus = tf.config.list_physical_devices("GPU") if device_type == "GPU" else []
    wanted = run.devices or (len(gpus) if run.strategy != "one_device" and gpus else 1)
    if workers > 1:
        return _place_worker(run, rows, worker, workers, gpus)
    if device_type == "CPU":
        _split_cpu(wanted)
    else:
        _take_gpus(gpus[:wanted])
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


def _place_worker(run: Run, rows: int, worker: int, workers: int, gpus: list) -> Placement:
    wanted = run.devices or max(1, len(gpus))
    if wanted > max(1, len(gpus)):
        raise UsageError(
            f"--devices={wanted}: each of {workers} workers has {len(gpus)} GPU(s); a worker "
            "without a GPU is one replica on its CPU. Ask for fewer, or start more workers."
        )
    _refuse_empty_shards(run, rows, workers * wanted)
    if gpus:
        _take_gpus(gpus[:wanted])
    spanning = tf.distribute.MultiWorkerMirroredStrategy(
        communication_options=communication_options(on_gpus=bool(gpus))
    )
    return Placement(
        spanning, "GPU" if gpus else "CPU", tuple(spanning.extended.worker_devices), worker, workers
    )


def communication_options(on_gpus: bool) -> tf.distribute.experimental.CommunicationOptions:
    """Returns how workers add up: GPUs by NCCL, CPUs by TensorFlow's ring over gRPC.

    AUTO would mean the ring on GPUs too, by way of the memory of the host.
    """
    kind = tf.distribute.experimental.CommunicationImplementation
    return tf.distribute.experimental.CommunicationOptions(
        implementation=kind.NCCL if on_gpus else kind.RING
    )


def _refuse_empty_shards(run: Run, rows: int, replicas: int) -> None:
    if rows < replicas * run.shards:
        raise UsageError(
            f"--batch_size: {rows} row(s) at a time for {replicas} device(s) with "
            f"--shards={run.shards}: every shard of every device needs at least one row. Raise "
            "it, or lower --devices, --shards or --accumulate."
        )


def visible(run: Run | None = None) -> dict[str, int]:
    """Returns {"CPU", "GPU", "TPU": number of devices} that TensorFlow sees here.

    run: if it is for a TPU, that is initialised first, because TensorFlow may list it only then.
    """
    if run and _wants_tpu(run):
        _set_threads(run)
        with contextlib.suppress(*_NO_TPU):
            _tpu()
    return {kind: len(tf.config.list_physical_devices(kind)) for kind in accelerator.KINDS}


def _device_type(run: Run) -> str:
    """Returns "CPU" or "GPU". Raises UsageError if --accelerator names one that is not there."""
    seen = visible(run)
    problem = accelerator.refusal(run.accelerator, seen)
    if problem:
        raise UsageError(problem)
    kind = accelerator.chosen(run.accelerator, seen)
    if kind == "CPU" and seen["GPU"]:
        hide_gpus()
    return kind


def several_hosts(environ: Mapping[str, str]) -> str | None:
    """Returns why the TPU slice of this machine cannot be used; None if it can.

    It cannot if TPU_WORKER_HOSTNAMES names several hosts. GKE sets that variable in every pod with
    google.com/tpu (https://cloud.google.com/kubernetes-engine/docs/concepts/tpus).
    """
    hosts = [name for name in environ.get("TPU_WORKER_HOSTNAMES", "").split(",") if name.strip()]
    if len(hosts) <= 1:
        return None
    return (
        f"--strategy=tpu: TPU_WORKER_HOSTNAMES names {len(hosts)} hosts, {', '.join(hosts)}. "
        "TensorFlow finds the TPUs of several hosts only through the Cloud TPU service, which a "
        "pod does not have. Use a slice of one host, such as v5e-8."
    )


def _wants_tpu(run: Run) -> bool:
    return "tpu" in (run.strategy, run.accelerator)


@functools.cache
def _tpu() -> tf.distribute.cluster_resolver.TPUClusterResolver:
    """Returns the TPU of this host, initialised once. Raises one of `_NO_TPU` if there is none."""
    return tf.distribute.cluster_resolver.TPUClusterResolver.connect("local")


def _place_on_tpu(run: Run, rows: int) -> Placement:
    problem = several_hosts(os.environ)
    if problem:
        raise UsageError(problem)
    flag = "--strategy=tpu" if run.strategy == "tpu" else "--accelerator=tpu"
    try:
        resolver = _tpu()
    except _NO_TPU as missing:
        raise UsageError(
            f"{flag}: TensorFlow finds no TPU on this host ({str(missing).splitlines()[0]}). "
            "Install tensorflow-tpu and no other TensorFlow, and check that the pod requests "
            "google.com/tpu or that the container of a TPU VM is privileged; or leave the flag out "
            "to train on something else."
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
            f"--shards={run.shards}: a TPU's program takes arrays of one size. Use a multiple of "
            f"{len(devices) * run.shards} (times --accumulate)."
        )
    return Placement(strategy, "TPU", devices)


def _set_threads(run: Run) -> None:
    # The last bits of a large product depend on the number of threads that share it, so that number
    # is fixed. The number of threads that run operations side by side does not change the result,
    # and every shard needs one.
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
            f"--threads={intra}: TensorFlow already runs with another number in this process. "
            "Start a new process."
        ) from None


def _set_matmul_precision(run: Run) -> None:
    """Sets the precision of float32 products.

    By default a GPU since Ampere rounds their factors to TF32, which has 11 digits of float32's 24,
    and a TPU to bfloat16. XLA takes the same switch. A CPU always computes with all digits.
    """
    tf.config.experimental.enable_tensor_float_32_execution(run.matmul_precision == "default")


def _take_gpus(gpus: list) -> None:
    """Makes only `gpus` visible, and TensorFlow take their memory as it needs it.

    Otherwise it takes all memory of all GPUs, and a second process finds none.
    """
    try:
        tf.config.set_visible_devices(gpus, "GPU")
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError:
        raise UsageError(
            "--accelerator: TensorFlow already runs with other GPUs in this process. Start a new "
            "process."
        ) from None


def hide_gpus() -> None:
    """Hides the GPUs, or operations that name no device would run on them."""
    try:
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError:
        raise UsageError(
            "TensorFlow already runs with GPUs in this process, which must compute on the CPU. "
            "Start a new process."
        ) from None


def _split_cpu(wanted: int) -> None:
    """Makes `wanted` logical CPU devices, unless this process already has that many."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    configured = tf.config.get_logical_device_configuration(cpu) or []
    if wanted > max(1, len(configured)):
        try:
            tf.config.set_logical_device_configuration(
                cpu, [tf.config.LogicalDeviceConfiguration()] * wanted
            )
        except RuntimeError:
            pass  # TensorFlow already runs with fewer devices: the caller counts them and refuses.
