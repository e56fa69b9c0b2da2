"""A program that prints what TensorFlow sees on this machine, as one line of JSON.

It runs in a process of its own, because importing a broken TensorFlow may end the process.
Arguments: --accelerator, --strategy, --cell and --jit of the run. Output:

    visible         {"CPU", "GPU", "TPU": number of devices}
    problem         why the TPU cannot be initialised; "" if it can, or if the run uses none
    backend         Keras' backend
    implementation  [name, reason] of the recurrent layers on the device that the run would use
    gpus            [[name, [major, minor] of its compute capability]] of each GPU
    built_for       the GPU architectures that this TensorFlow was built for, such as "sm_80"
"""

import json
import sys
from typing import Any


def look(wanted: str, strategy_name: str, cell: str, jit: str) -> dict[str, Any]:
    """Returns what this program prints."""
    import keras
    import tensorflow as tf

    from trainer.devices import accelerator, strategy
    from trainer.models import recurrent

    # GPUs first: initialising a TPU starts TensorFlow's runtime.
    visible, gpus = strategy.visible(), _gpus()
    problem = ""
    if strategy_name == "tpu":
        visible["TPU"], problem = _initialised_tpus()
    kind = accelerator.chosen(wanted, visible, strategy_name)
    return {
        "visible": visible,
        "problem": problem,
        "backend": keras.backend.backend(),
        "implementation": recurrent.choose(cell, kind, jit),
        "gpus": gpus,
        "built_for": list(tf.sysconfig.get_build_info().get("cuda_compute_capabilities", ())),
    }


def _gpus() -> list[tuple[str, tuple[int, int]]]:
    import tensorflow as tf

    found = []
    for gpu in tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(gpu)
        if "compute_capability" in details:  # Not for GPUs of other vendors.
            found.append((details.get("device_name", gpu.name), details["compute_capability"]))
    return found


def _initialised_tpus() -> tuple[int, str]:
    """Returns the number of TPU cores, and why it is 0.

    Before its initialisation a TPU may not be in the list of devices.
    """
    import tensorflow as tf

    try:
        tf.distribute.cluster_resolver.TPUClusterResolver.connect("local")
    except (tf.errors.OpError, RuntimeError, ValueError) as problem:
        return 0, (str(problem).splitlines() or [repr(problem)])[0]
    return len(tf.config.list_logical_devices("TPU")), ""


if __name__ == "__main__":
    print(json.dumps(look(*sys.argv[1:])))
