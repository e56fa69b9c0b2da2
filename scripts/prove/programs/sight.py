"""Prints what TensorFlow sees of this machine, as a line of JSON.

python -m scripts.prove.programs.sight ACCELERATOR
"""

import contextlib
import importlib.metadata
import io
import json
import os
import pathlib
import platform
import re
import sys
from typing import Any

from trainer.main import main as trainer

VARIABLES = (
    "XLA_FLAGS",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_CACHE_PATH",
    "LD_LIBRARY_PATH",
    "NCCL_ALGO",
    "NCCL_PROTO",
    "TF_XLA_FLAGS",
)


def versions() -> dict[str, str]:
    """Returns {package: version} of TensorFlow, Keras, and the libraries of the accelerator."""
    found = {"python": platform.python_version()}
    for distribution in importlib.metadata.distributions():
        name = (distribution.metadata["Name"] or "").lower()
        if re.match(r"tensorflow|tf-nightly|keras$|numpy$|nvidia-|libtpu|jax", name):
            found[name] = distribution.version
    return dict(sorted(found.items()))


def mapped(part: str) -> str:
    """Returns the path of the library in this process whose name holds `part`; "" if none."""
    for line in pathlib.Path("/proc/self/maps").read_text().splitlines():
        path = line.split(maxsplit=5)[5] if line.count("/") else ""
        if part in path.rsplit("/", 1)[-1]:
            return path
    return ""


def gpus() -> list[dict[str, Any]]:
    """Returns name and compute capability of every GPU; starts the GPUs."""
    import tensorflow as tf

    found = []
    for gpu in tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(gpu)
        found.append(
            {
                "name": details.get("device_name", gpu.name),
                "capability": list(details.get("compute_capability", ())),
            }
        )
    return found


def tpu() -> dict[str, Any]:
    """Returns the TPU cores that TensorFlow lists before and after their initialisation."""
    import time

    import tensorflow as tf

    before, began = len(tf.config.list_physical_devices("TPU")), time.monotonic()
    tf.distribute.cluster_resolver.TPUClusterResolver.connect("local")
    return {
        "before": before,
        "after": len(tf.config.list_logical_devices("TPU")),
        "seconds": time.monotonic() - began,
    }


def main() -> None:
    [wanted] = sys.argv[1:]
    # It sets variables of TensorFlow before its import, as every command does.
    with contextlib.redirect_stdout(io.StringIO()):
        trainer(["--help"])
    import tensorflow as tf

    seen = {
        "versions": versions(),
        "build": {name: str(value) for name, value in tf.sysconfig.get_build_info().items()},
        "built_for": list(tf.sysconfig.get_build_info().get("cuda_compute_capabilities", ())),
        "visible": {
            kind: len(tf.config.list_physical_devices(kind)) for kind in ("CPU", "GPU", "TPU")
        },
        "gpus": gpus(),
        "tpu": tpu() if wanted == "tpu" else {},
        "variables": {name: os.environ.get(name, "not set") for name in VARIABLES},
    }
    if seen["gpus"]:
        tf.constant(1.0) + 1  # Loads the driver's library.
    seen["libcuda"], seen["cudnn"], seen["nccl"] = map(mapped, ("libcuda.", "libcudnn", "libnccl"))
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
