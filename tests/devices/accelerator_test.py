"""Which accelerators were requested, which are there, and what a run may use."""

import pytest

from trainer.devices import accelerator
from trainer.devices.accelerator import Evidence

POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
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
        # A pod that gets its GPUs by CDI, and one of GKE, whose plugin sets no variable.
        (
            {"NVIDIA_VISIBLE_DEVICES": "void", **POD},
            ["/dev/nvidia0"],
            {"GPU": Evidence("/dev/nvidia0", True)},
        ),
        (POD, ["/dev/nvidia0"], {"GPU": Evidence("/dev/nvidia0", True)}),
        (POD, [], {}),
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
        ({}, ["/dev/vfio/0", "/dev/vfio/1"], {"TPU": Evidence("/dev/vfio/0", False)}),
        ({}, ["/dev/dxg"], {"GPU": Evidence("/dev/dxg", False)}),
        (
            {"TPU_ACCELERATOR_TYPE": "v5litepod-8", "CUDA_VISIBLE_DEVICES": ""},
            [],
            {"TPU": Evidence("TPU_ACCELERATOR_TYPE=v5litepod-8", True)},
        ),
    ],
)
def test_variables_and_device_files_show_the_accelerators_of_a_process(environ, files, given):
    assert accelerator.given(environ, files) == given


GOOGLE, NVIDIA = "0x1ae0\n", "0x10de\n"


@pytest.mark.parametrize(
    "environ, there, expected",
    [
        ({}, [], False),
        ({}, ["dev/nvidia0"], False),
        ({}, ["dev/accel0"], True),
        ({"TPU_TOPOLOGY": "2x2"}, [], True),
        ({}, ["dev/vfio/14"], True),  # Whose device cannot be told.
    ],
)
def test_a_machine_may_have_a_tpu_if_anything_says_so(environ, there, expected, tmp_path):
    for name in there:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert accelerator.may_have_tpu(environ, tmp_path) is expected


@pytest.mark.parametrize(
    "there, vendors, found",
    [
        ([], {}, []),
        (["dev/nvidia0", "dev/nvidia1", "dev/nvidiactl", "dev/null"], {}, ["nvidia0", "nvidia1"]),
        (["dev/accel0"], {}, ["accel0"]),
        # A newer TPU VM: `vfio/vfio` is the driver itself.
        (
            ["dev/vfio/vfio", "dev/vfio/0", "dev/vfio/1"],
            {0: GOOGLE, 1: GOOGLE},
            ["vfio/0", "vfio/1"],
        ),
        # A host that hands a GPU to a virtual machine.
        (["dev/vfio/vfio", "dev/vfio/14"], {14: NVIDIA}, []),
        (["dev/vfio/14"], {}, []),  # a container that does not see /sys
        (["dev/dxg", "usr/lib/wsl/lib/libcuda.so.1"], {}, ["dxg"]),
        (["dev/dxg"], {}, []),  # a GPU of another vendor
    ],
)
def test_device_files_are_those_of_gpus_and_tpus_only(there, vendors, found, tmp_path):
    files = {path: "" for path in there}
    for group, vendor in vendors.items():
        files[f"sys/kernel/iommu_groups/{group}/devices/0000:00:04.0/vendor"] = vendor
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert accelerator.device_files(tmp_path) == [f"/dev/{name}" for name in found]


@pytest.mark.parametrize(
    "wanted, strategy, environ, files, distributions, kind",
    [
        ("auto", "auto", {}, [], ["tensorflow"], "CPU"),
        ("auto", "auto", {}, ["/dev/nvidia0"], ["tensorflow"], "GPU"),
        ("auto", "mirrored", GPU_POD, [], ["tf-nightly"], "GPU"),
        ("auto", "auto", {"CUDA_VISIBLE_DEVICES": ""}, ["/dev/nvidia0"], ["tensorflow"], "CPU"),
        # A GPU that the installed TensorFlow cannot use.
        ("auto", "auto", {}, ["/dev/nvidia0"], ["tensorflow-cpu"], "CPU"),
        ("auto", "auto", {}, ["/dev/nvidia0"], ["tensorflow-tpu"], "CPU"),
        ("auto", "auto", {}, ["/dev/nvidia0"], [], "CPU"),
        ("cpu", "auto", {}, ["/dev/nvidia0"], ["tensorflow"], "CPU"),
        ("gpu", "auto", {}, [], ["tensorflow-cpu"], "GPU"),
        # A TPU is used only if --strategy says so.
        ("auto", "auto", {"TPU_TOPOLOGY": "2x4"}, ["/dev/accel0"], ["tensorflow-tpu"], "CPU"),
        ("auto", "tpu", {}, [], ["tensorflow-tpu"], "TPU"),
        ("auto", "tpu", {}, ["/dev/nvidia0"], ["tensorflow"], "TPU"),
        ("tpu", "tpu", {}, [], [], "TPU"),
    ],
)
def test_what_a_run_computes_on_is_known_before_tensorflow_is_imported(
    wanted, strategy, environ, files, distributions, kind
):
    assert accelerator.expected(wanted, strategy, environ, files, distributions) == kind


def test_the_installed_tensorflow_is_found_without_importing_it(installed):
    versions = {"tensorflow-cpu": "2.21.0", "tf-nightly": "2.22.0"}
    installed(versions)
    assert accelerator.installed() == ("tensorflow-cpu", "tf-nightly")


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


def test_a_run_under_the_strategy_of_tpus_uses_a_tpu_and_needs_one():
    there, missing = {"CPU": 1, "GPU": 0, "TPU": 8}, {"CPU": 1, "GPU": 1, "TPU": 0}
    assert accelerator.refusal("auto", there, "tpu") is None
    assert accelerator.chosen("auto", there, "tpu") == "TPU"
    message = accelerator.refusal("auto", missing, "tpu")
    assert message.startswith(
        "--strategy=tpu: TensorFlow sees 1 CPU, 1 GPU. Install tensorflow-tpu"
    )
    assert "google.com/tpu" in message and message.endswith(
        "leave --strategy out to train on something else."
    )
