"""What the files of NVIDIA's driver say."""

import pytest

from trainer.devices import nvidia

CLOSED = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n"
    "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n"
)
OPEN = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  "
    "(dvs-builder@U22)  Thu Jan 23 22:50:36 UTC 2025\n"
)


def information(model: str, minor: int) -> str:
    """A file of the driver, with its tabs and blanks."""
    return (
        f"Model: \t\t {model}\nIRQ:   \t\t 16\nGPU UUID: \t GPU-ab12\nVideo BIOS: \t 92.00.36\n"
        f"Bus Type: \t PCIe\nDMA Size: \t 47 bits\nBus Location: \t 0000:0{minor}:00.0\n"
        f"Device Minor: \t {minor}\nGPU Excluded:\t No\n"
    )


@pytest.fixture
def proc(tmp_path):
    """The folder of the driver of a machine with an L4 between two A100."""
    for minor, model in enumerate(["NVIDIA A100-SXM4-40GB", "NVIDIA L4", "NVIDIA A100-SXM4-40GB"]):
        folder = tmp_path / f"gpus/0000:0{9 - minor}:00.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text(information(model, minor))
    (tmp_path / "version").write_text(CLOSED)
    return tmp_path


def test_gpus_are_named_in_the_order_of_their_device_files(proc):
    files = ["/dev/nvidia0", "/dev/nvidia1", "/dev/nvidia2"]
    assert nvidia.gpus(files, proc) == ["NVIDIA A100-SXM4-40GB", "NVIDIA L4"] + [
        "NVIDIA A100-SXM4-40GB"
    ]


def test_a_container_names_its_own_gpus_only(proc):
    assert nvidia.gpus(["/dev/nvidia1"], proc) == ["NVIDIA L4"]
    assert nvidia.gpus([], proc) == []


@pytest.mark.parametrize(
    "text, version",
    [(CLOSED, "535.104.05"), (OPEN, "570.86.15"), ("", "unknown"), ("NVRM version: ?", "unknown")],
)
def test_the_driver_has_a_version(text, version, tmp_path):
    (tmp_path / "version").write_text(text)
    assert nvidia.driver(tmp_path) == version


def test_a_description_has_hardware_driver_and_libraries(proc, installed):
    versions = {"nvidia-cudnn-cu12": "9.3.0.75", "nvidia-nccl-cu13": "2.27.7"}
    installed(versions)
    assert nvidia.description(["/dev/nvidia2", "/dev/nvidia0"], proc) == {
        "GPU": "NVIDIA A100-SXM4-40GB",
        "NVIDIA driver": "535.104.05",
        "cuDNN": "9.3.0.75",
        "cuBLAS": "unknown",
        "NCCL": "2.27.7",
    }


def test_without_the_files_of_a_driver_everything_is_unknown(tmp_path):
    found = nvidia.description(["/dev/nvidia0"], tmp_path / "none")
    assert found["GPU"] == found["NVIDIA driver"] == "unknown"
