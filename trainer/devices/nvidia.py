"""Names the GPUs, the driver and the CUDA libraries of this machine, without TensorFlow.

The driver describes itself and its GPUs in /proc/driver/nvidia
(https://download.nvidia.com/XFree86/Linux-x86_64/550.54.14/README/procinterface.html).
"""

import importlib.metadata
import pathlib
import re
from collections.abc import Sequence

PROC = pathlib.Path("/proc/driver/nvidia")
# The libraries that tensorflow[and-cuda] installs and that change the last bits of a result.
_LIBRARIES = {"cuDNN": "nvidia-cudnn", "cuBLAS": "nvidia-cublas", "NCCL": "nvidia-nccl"}


def description(files: Sequence[str], proc: pathlib.Path = PROC) -> dict[str, str]:
    """Returns {what: name or version} of everything here that changes the bits of a GPU's result.

    files: the device files of this process, as `accelerator.device_files` returns them.
    """
    return {
        "GPU": ", ".join(sorted(set(gpus(files, proc)))) or "unknown",
        "NVIDIA driver": driver(proc),
        **{name: _version(package) for name, package in _LIBRARIES.items()},
    }


def gpus(files: Sequence[str], proc: pathlib.Path = PROC) -> list[str]:
    """Returns the names of the GPUs whose device files are in `files`, by device number.

    A container may see all GPUs of its node in /proc, but only its own in /dev.
    """
    found = {}
    for path in proc.glob("gpus/*/information"):
        fields = dict(re.findall(r"^([\w ]+?):\s*(.*?)\s*$", _text(path), re.MULTILINE))
        number = fields.get("Device Minor", "")
        if f"/dev/nvidia{number}" in files:
            found[int(number)] = fields.get("Model", "unknown")
    return [found[number] for number in sorted(found)]


def driver(proc: pathlib.Path = PROC) -> str:
    """Returns the version of the driver, such as 550.54.14; "unknown" if it does not say."""
    version = re.search(r"^NVRM version:.*?\s(\d+(?:\.\d+)+)\s", _text(proc / "version"), re.M)
    return version[1] if version else "unknown"


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _version(package: str) -> str:
    """Returns the installed version for any major version of CUDA; the system's is unknown."""
    for cuda in ("cu12", "cu13"):
        try:
            return importlib.metadata.version(f"{package}-{cuda}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"
