"""Whether the accelerator that a run asks for, or that its machine was given, is one that it can
use.

A job that asks for a GPU and trains on the CPU without a word costs the price of the one and the
time of the other.
"""

import glob
from collections.abc import Mapping, Sequence
from typing import NamedTuple

KINDS = ("CPU", "GPU", "TPU")
_DEVICE_FILES = {"GPU": "/dev/nvidia[0-9]*", "TPU": "/dev/accel[0-9]*"}
# Values that ask for nothing: `all` is written into every CUDA base image, `void` is what the
# device plugin writes for a container without GPUs
# (https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/docker-specialized.html).
_NO_GPU_ASKED = ("", "all", "none", "void")
# What GKE's device plugin sets in containers with google.com/tpu
# (https://cloud.google.com/kubernetes-engine/docs/concepts/tpus).
_TPU_VARIABLES = ("TPU_ACCELERATOR_TYPE", "TPU_TOPOLOGY", "TPU_WORKER_HOSTNAMES")


class Evidence(NamedTuple):
    """Where an accelerator shows. `asked`: somebody chose it for this process; else it merely is in
    the machine.
    """

    text: str
    asked: bool


def device_files() -> list[str]:
    """The files of accelerators in this machine or container, such as /dev/nvidia0."""
    return sorted(path for pattern in _DEVICE_FILES.values() for path in glob.glob(pattern))


def given(environ: Mapping[str, str], files: Sequence[str]) -> dict[str, Evidence]:
    """{"GPU" or "TPU": evidence} of the accelerators that this process was started with.

    environ: the environment variables; files: as `device_files` returns them. CUDA_VISIBLE_DEVICES
    set to nothing or to -1 hides GPUs on purpose.
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
    # What was asked for comes last and stays.
    return {kind: one for kind, one in evidence if not (kind == "GPU" and hidden)}


def chosen(wanted: str, visible: Mapping[str, int]) -> str:
    """The kind of device that a run uses: what --accelerator says; with auto GPUs where there are
    some, else the CPU.

    visible: {"CPU", "GPU", "TPU": devices} that TensorFlow sees.
    """
    if wanted != "auto":
        return wanted.upper()
    return "GPU" if visible.get("GPU") else "CPU"


def refusal(wanted: str, visible: Mapping[str, int]) -> str | None:
    """Why a run with --accelerator=`wanted` must not start; None where it may. `visible` as in
    `chosen`.
    """
    if wanted in ("auto", "cpu") or visible.get(wanted.upper()):
        return None
    return (
        f"--accelerator={wanted}: TensorFlow sees {in_words(visible)}. A run that asks for a "
        f"{wanted.upper()} must not train on "
        f"something else. {remedy(wanted.upper())}"
    )


def in_words(visible: Mapping[str, int]) -> str:
    """`1 CPU, 2 GPU`."""
    return ", ".join(f"{count} {kind}" for kind, count in visible.items() if count) or "no device"


def remedy(kind: str) -> str:
    """What to do where a "GPU" or "TPU" is not visible."""
    return {
        "GPU": "Install tensorflow[and-cuda] and no other TensorFlow package, see that nvidia-smi "
        "works and that the pod asks for "
        "nvidia.com/gpu; or say --accelerator=cpu.",
        "TPU": "Install tensorflow-tpu and no other TensorFlow package, and see that the pod asks "
        "for google.com/tpu or the "
        "container on a TPU VM is privileged; or say --accelerator=cpu.",
    }[kind]
