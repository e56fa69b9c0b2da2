"""Checks that a run uses the accelerator that its user requested or that its machine has.

A job that requests a GPU and silently trains on the CPU costs the price of the one and the time of
the other.
"""

import glob
from collections.abc import Mapping, Sequence
from typing import NamedTuple

KINDS = ("CPU", "GPU", "TPU")
_DEVICE_FILES = {"GPU": "/dev/nvidia[0-9]*", "TPU": "/dev/accel[0-9]*"}
# Values that request nothing: every CUDA base image sets `all`, and the device plugin sets `void`
# in a container without GPUs
# (https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/docker-specialized.html).
_NO_GPU_ASKED = ("", "all", "none", "void")
# What GKE's device plugin sets in containers with google.com/tpu
# (https://cloud.google.com/kubernetes-engine/docs/concepts/tpus).
_TPU_VARIABLES = ("TPU_ACCELERATOR_TYPE", "TPU_TOPOLOGY", "TPU_WORKER_HOSTNAMES")


class Evidence(NamedTuple):
    """A sign of an accelerator: a variable or a device file.

    asked: whether it was requested for this process; otherwise the machine merely has it.
    """

    text: str
    asked: bool


def device_files() -> list[str]:
    """Returns the device files of accelerators that are visible here, such as /dev/nvidia0."""
    return sorted(path for pattern in _DEVICE_FILES.values() for path in glob.glob(pattern))


def given(environ: Mapping[str, str], files: Sequence[str]) -> dict[str, Evidence]:
    """Returns {"GPU" or "TPU": evidence} of the accelerators that this process was given.

    environ: the environment variables; files: as `device_files` returns them. An empty
    CUDA_VISIBLE_DEVICES, or -1, hides GPUs on purpose.
    """
    evidence = [
        ("GPU" if path.startswith("/dev/nvidia") else "TPU", Evidence(path, asked=False))
        for path in reversed(files)
    ]
    gpus = environ.get("NVIDIA_VISIBLE_DEVICES", "")
    if gpus not in _NO_GPU_ASKED:
        evidence.append(("GPU", Evidence(f"NVIDIA_VISIBLE_DEVICES={gpus}", asked=True)))
    evidence += [
        ("TPU", Evidence(f"{name}={environ[name]}", asked=True))
        for name in _TPU_VARIABLES
        if environ.get(name)
    ]
    hidden = environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1")
    # A request comes after a device file and replaces it.
    return {kind: one for kind, one in evidence if not (kind == "GPU" and hidden)}


def chosen(wanted: str, visible: Mapping[str, int]) -> str:
    """Returns the kind of device that a run uses: "CPU", "GPU" or "TPU".

    wanted: --accelerator; auto means GPU if TensorFlow sees one, else CPU.
    visible: {"CPU", "GPU", "TPU": number of devices} that TensorFlow sees.
    """
    if wanted != "auto":
        return wanted.upper()
    return "GPU" if visible.get("GPU") else "CPU"


def refusal(wanted: str, visible: Mapping[str, int]) -> str | None:
    """Returns why a run with --accelerator=`wanted` must not start; None if it may.

    visible: as in `chosen`.
    """
    if wanted in ("auto", "cpu") or visible.get(wanted.upper()):
        return None
    return (
        f"--accelerator={wanted}: TensorFlow sees {in_words(visible)}. A command that requests a "
        f"{wanted.upper()} must not compute on something else. {remedy(wanted.upper())}"
    )


def in_words(visible: Mapping[str, int]) -> str:
    """Returns `1 CPU, 2 GPU`, or `no device`."""
    return ", ".join(f"{count} {kind}" for kind, count in visible.items() if count) or "no device"


def remedy(kind: str) -> str:
    """Returns what to do if a "GPU" or "TPU" is not visible."""
    return {
        "GPU": "Install tensorflow[and-cuda] and no other TensorFlow package, and check that "
        "nvidia-smi works and that the pod requests nvidia.com/gpu; or use --accelerator=cpu.",
        "TPU": "Install tensorflow-tpu and no other TensorFlow package, and check that the pod "
        "requests google.com/tpu or that the container on a TPU VM is privileged; or use "
        "--accelerator=cpu.",
    }[kind]
