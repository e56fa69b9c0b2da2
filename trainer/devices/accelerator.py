"""Checks that a run uses the accelerator that its user requested or that its machine has.

A job that requests a GPU and silently trains on the CPU costs the price of the one and the time of
the other.
"""

import importlib.metadata
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

KINDS = ("CPU", "GPU", "TPU")
# The distributions that install TensorFlow; the trainer is tested with the first three.
TENSORFLOWS = (
    "tensorflow",
    "tensorflow-cpu",
    "tensorflow-tpu",
    "tensorflow-gpu",
    "tensorflow-rocm",
    "tf-nightly",
)
_WITHOUT_GPU = ("tensorflow-cpu", "tensorflow-tpu")
_GOOGLE = "0x1ae0"  # PCI vendor of TPUs (https://pci-ids.ucw.cz/read/PC/1ae0).
# Values that say nothing about a request: every CUDA base image sets `all`, and `void` stands both
# in a container without GPUs and in one that gets its GPUs by CDI, the default of the GPU operator
# (https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/docker-specialized.html).
_NO_GPU_ASKED = ("", "all", "none", "void")
# Kubernetes sets it in every container (https://kubernetes.io/docs/concepts/containers/container-environment/).
_IN_POD = "KUBERNETES_SERVICE_HOST"
# What GKE's device plugin sets in containers with google.com/tpu
# (https://cloud.google.com/kubernetes-engine/docs/concepts/tpus).
_TPU_VARIABLES = ("TPU_ACCELERATOR_TYPE", "TPU_TOPOLOGY", "TPU_WORKER_HOSTNAMES")


class Evidence(NamedTuple):
    """A sign of an accelerator: a variable or a device file.

    asked: whether it was requested for this process; otherwise the machine merely has it.
    """

    text: str
    asked: bool


def device_files(root: pathlib.Path = pathlib.Path("/")) -> list[str]:
    """Returns the device files of accelerators that are visible here, such as /dev/nvidia0.

    root: the folder that holds `dev`, `sys` and `usr`; another one in tests.
    """
    found = [*root.glob("dev/nvidia[0-9]*"), *root.glob("dev/accel[0-9]*")]
    # VFIO hands any kind of device to a program. A TPU VM of v5p, v6e or later has its TPUs there,
    # a host of virtual machines has their network cards and GPUs.
    found += [path for path in root.glob("dev/vfio/[0-9]*") if _holds_tpu(root, path.name)]
    # Windows shares its GPU with WSL through one file, whatever the vendor. Only NVIDIA's driver
    # brings this library.
    if (root / "usr/lib/wsl/lib/libcuda.so.1").exists():
        found += root.glob("dev/dxg")
    return sorted(f"/{path.relative_to(root)}" for path in found)


def _holds_tpu(root: pathlib.Path, group: str) -> bool:
    """Whether an IOMMU group, /dev/vfio/`group`, has a device of Google."""
    vendors = root.glob(f"sys/kernel/iommu_groups/{group}/devices/*/vendor")
    return any(vendor.read_text().strip() == _GOOGLE for vendor in vendors)


def may_have_tpu(environ: Mapping[str, str], root: pathlib.Path = pathlib.Path("/")) -> bool:
    """Returns whether this machine has a TPU, or a device that could be one.

    environ: the environment variables; root: as in `device_files`.
    """
    return "TPU" in given(environ, device_files(root)) or any(root.glob("dev/vfio/[0-9]*"))


def installed() -> tuple[str, ...]:
    """Returns those of TENSORFLOWS that are installed here; more than one is a mistake."""
    return tuple(name for name in TENSORFLOWS if _is_installed(name))


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def given(environ: Mapping[str, str], files: Sequence[str]) -> dict[str, Evidence]:
    """Returns {"GPU" or "TPU": evidence} of the accelerators that this process was given.

    environ: the environment variables; files: as `device_files` returns them. An empty
    CUDA_VISIBLE_DEVICES, or -1, hides GPUs on purpose. A container has the device files of the GPUs
    that its pod requested, and of no other.
    """
    evidence = [
        (
            "GPU" if path.startswith(("/dev/nvidia", "/dev/dxg")) else "TPU",
            Evidence(path, asked=path.startswith("/dev/nvidia") and bool(environ.get(_IN_POD))),
        )
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


def expected(
    wanted: str,
    strategy: str,
    environ: Mapping[str, str],
    files: Sequence[str],
    distributions: Sequence[str],
) -> str:
    """Returns what a run will compute on, before TensorFlow is imported: "CPU", "GPU" or "TPU".

    It is what `chosen` returns later, unless a driver or CUDA is missing; then the run warns.

    Args:
      wanted, strategy: --accelerator and --strategy.
      environ, files: as in `given`.
      distributions: the installed ones of TensorFlow, as `installed` returns them.
    """
    usable = "GPU" in given(environ, files) and not set(distributions) <= set(_WITHOUT_GPU)
    return chosen(wanted, {"GPU": int(usable)}, strategy)


def here(wanted: str, strategy: str) -> str:
    """Returns what `expected` returns for this process."""
    return expected(wanted, strategy, os.environ, device_files(), installed())


def chosen(wanted: str, visible: Mapping[str, int], strategy: str = "auto") -> str:
    """Returns the kind of device that a run uses: "CPU", "GPU" or "TPU".

    wanted: --accelerator; auto means TPU under --strategy=tpu, else GPU if TensorFlow sees one,
    else CPU. visible: {"CPU", "GPU", "TPU": number of devices} that TensorFlow sees.
    """
    if wanted != "auto":
        return wanted.upper()
    if strategy == "tpu":
        return "TPU"
    return "GPU" if visible.get("GPU") else "CPU"


def refusal(wanted: str, visible: Mapping[str, int], strategy: str = "auto") -> str | None:
    """Returns why a run with --accelerator=`wanted` must not start; None if it may.

    visible, strategy: as in `chosen`.
    """
    if wanted == "auto" and strategy == "tpu" and not visible.get("TPU"):
        return (
            f"--strategy=tpu: TensorFlow sees {in_words(visible)}. {_REMEDIES['TPU']}; or leave "
            "--strategy out to train on something else."
        )
    if wanted in ("auto", "cpu") or visible.get(wanted.upper()):
        return None
    return (
        f"--accelerator={wanted}: TensorFlow sees {in_words(visible)}. A command that requests a "
        f"{wanted.upper()} must not compute on something else. {remedy(wanted.upper())}"
    )


def in_words(visible: Mapping[str, int]) -> str:
    """Returns `1 CPU, 2 GPU`, or `no device`."""
    return ", ".join(f"{count} {kind}" for kind, count in visible.items() if count) or "no device"


_REMEDIES = {
    "GPU": "Install tensorflow[and-cuda] and no other TensorFlow package, and check that "
    "nvidia-smi works and that the pod requests nvidia.com/gpu",
    "TPU": "Install tensorflow-tpu and no other TensorFlow package, and check that the pod "
    "requests google.com/tpu or that the container on a TPU VM is privileged",
}


def remedy(kind: str) -> str:
    """Returns what to do if a "GPU" or "TPU" is not visible."""
    return f"{_REMEDIES[kind]}; or use --accelerator=cpu."
