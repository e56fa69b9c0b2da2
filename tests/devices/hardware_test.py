"""The device of a run by name, read from the files of a driver as a worker reads them."""

import pytest

from trainer.devices import hardware
from trainer.flags.run import Run


@pytest.fixture
def of(tmp_path):
    """A function: the hardware of a machine whose first device is a GPU, if it has one."""

    def read(gpu="", driver="550.54.14", **flags):
        if gpu:
            folder = tmp_path / "gpus/0000:01:00.0"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "information").write_text(f"Model: \t\t {gpu}\nDevice Minor: \t 0\n")
            version = f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Thu\n"
            (tmp_path / "version").write_text(version)
        files = ["/dev/nvidia0"] if gpu else []
        run = Run(**flags)
        return hardware.of(run, {}, files, ["tensorflow"], tmp_path)

    return read


@pytest.mark.parametrize(
    "gpu, flags, found",
    [
        ("", {}, {"accelerator": "CPU"}),
        ("NVIDIA L4", {"accelerator": "cpu"}, {"accelerator": "CPU"}),
        ("NVIDIA L4", {"strategy": "tpu"}, {"accelerator": "TPU"}),
    ],
)
def test_a_run_that_uses_no_gpu_has_no_hardware_but_the_kind(of, gpu, flags, found):
    assert of(gpu, **flags) == found


def test_a_gpu_run_has_gpu_driver_and_libraries(of):
    found = of("NVIDIA L4")
    assert (found["accelerator"], found["GPU"], found["NVIDIA driver"]) == (
        "GPU",
        "NVIDIA L4",
        "550.54.14",
    )
    assert {"cuDNN", "cuBLAS", "NCCL"} < set(found)


@pytest.mark.parametrize(
    "before, now, told",
    [
        ({"accelerator": "CPU"}, {"accelerator": "CPU"}, ""),
        (
            {"accelerator": "CPU"},
            {"accelerator": "GPU", "GPU": "NVIDIA L4"},
            "accelerator: CPU, now GPU; GPU: none, now NVIDIA L4",
        ),
        (
            {"GPU": "NVIDIA L4", "cuDNN": "9.5"},
            {"GPU": "NVIDIA L4", "cuDNN": "9.6"},
            "cuDNN: 9.5, now 9.6",
        ),
    ],
)
def test_changes_name_what_differs(before, now, told):
    assert hardware.changes(before, now) == told
