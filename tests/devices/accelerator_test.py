"""Which accelerators were requested, which are there, and what a run may use."""

import pytest

from trainer.devices import accelerator
from trainer.devices.accelerator import Evidence

GPU_POD = {"NVIDIA_VISIBLE_DEVICES": "GPU-8a6cd1f2"}


@pytest.mark.parametrize(
    "environ, files, given",
    [
        ({}, [], {}),
        (GPU_POD, [], {"GPU": Evidence("NVIDIA_VISIBLE_DEVICES=GPU-8a6cd1f2", True)}),
        (
            {"NVIDIA_VISIBLE_DEVICES": "0,1"},
            ["/dev/nvidia0"],
            {"GPU": Evidence("NVIDIA_VISIBLE_DEVICES=0,1", True)},
        ),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, [], {}),  # from the CUDA base image: not a request
        ({"NVIDIA_VISIBLE_DEVICES": "void"}, [], {}),
        (
            {"NVIDIA_VISIBLE_DEVICES": "all"},
            ["/dev/nvidia0", "/dev/nvidia1"],
            {"GPU": Evidence("/dev/nvidia0", False)},
        ),
        ({**GPU_POD, "CUDA_VISIBLE_DEVICES": ""}, ["/dev/nvidia0"], {}),  # hidden on purpose
        ({**GPU_POD, "CUDA_VISIBLE_DEVICES": "-1"}, [], {}),
        (
            {**GPU_POD, "CUDA_VISIBLE_DEVICES": "1"},
            [],
            {"GPU": Evidence("NVIDIA_VISIBLE_DEVICES=GPU-8a6cd1f2", True)},
        ),
        (
            {"TPU_WORKER_HOSTNAMES": "localhost"},
            [],
            {"TPU": Evidence("TPU_WORKER_HOSTNAMES=localhost", True)},
        ),
        ({"TPU_TOPOLOGY": ""}, ["/dev/accel0"], {"TPU": Evidence("/dev/accel0", False)}),
        (
            {"TPU_ACCELERATOR_TYPE": "v5litepod-8", "CUDA_VISIBLE_DEVICES": ""},
            [],
            {"TPU": Evidence("TPU_ACCELERATOR_TYPE=v5litepod-8", True)},
        ),
    ],
)
def test_variables_and_device_files_show_the_accelerators_of_a_process(environ, files, given):
    assert accelerator.given(environ, files) == given


@pytest.mark.parametrize(
    "wanted, visible, kind",
    [
        ("auto", {"CPU": 1, "GPU": 0, "TPU": 0}, "CPU"),
        ("auto", {"CPU": 1, "GPU": 2, "TPU": 0}, "GPU"),
        ("cpu", {"CPU": 1, "GPU": 2, "TPU": 0}, "CPU"),
        ("gpu", {"CPU": 1, "GPU": 2, "TPU": 0}, "GPU"),
        ("tpu", {"CPU": 1, "GPU": 2, "TPU": 8}, "TPU"),
    ],
)
def test_a_visible_accelerator_is_chosen(wanted, visible, kind):
    assert accelerator.refusal(wanted, visible) is None
    assert accelerator.chosen(wanted, visible) == kind


@pytest.mark.parametrize(
    "wanted, visible, parts",
    [
        (
            "gpu",
            {"CPU": 1, "GPU": 0, "TPU": 0},
            ["--accelerator=gpu: TensorFlow sees 1 CPU.", "nvidia.com/gpu", "--accelerator=cpu"],
        ),
        (
            "gpu",
            {"CPU": 1, "GPU": 0, "TPU": 8},
            ["--accelerator=gpu: TensorFlow sees 1 CPU, 8 TPU.", "tensorflow[and-cuda]"],
        ),
        (
            "tpu",
            {"CPU": 1, "GPU": 2, "TPU": 0},
            [
                "--accelerator=tpu: TensorFlow sees 1 CPU, 2 GPU.",
                "google.com/tpu",
                "tensorflow-tpu",
            ],
        ),
        ("gpu", {}, ["sees no device"]),
    ],
)
def test_an_accelerator_that_is_not_visible_is_refused_with_a_remedy(wanted, visible, parts):
    message = accelerator.refusal(wanted, visible)
    assert all(part in message for part in parts)
