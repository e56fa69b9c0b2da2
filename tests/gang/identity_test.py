"""Which differences between workers matter, and how they are shown."""

import pytest

from trainer import config as configuration
from trainer.gang import identity

CPU = {"accelerator": "CPU"}


def of(dataset="abc", workers=2, hardware=CPU, **flags):
    return identity.of(configuration.from_flat(flags), workers, dataset, hardware)


@pytest.fixture
def hardware(tmp_path):
    """A function that returns the hardware of a machine whose first device is a GPU, if it has one.

    It reads the files of a driver, as a worker does.
    """

    def read(gpu="", driver="550.54.14", **flags):
        if gpu:
            folder = tmp_path / "gpus/0000:01:00.0"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "information").write_text(f"Model: \t\t {gpu}\nDevice Minor: \t 0\n")
            version = f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Thu\n"
            (tmp_path / "version").write_text(version)
        files = ["/dev/nvidia0"] if gpu else []
        run = configuration.Run(**flags)
        return identity.hardware(run, {}, files, ["tensorflow"], tmp_path)

    return read


@pytest.mark.parametrize(
    "flags",
    [
        {"worker_index": 1},
        {"data_dir": "/other"},
        {"model_dir": "/other"},
        {"hosts": "a:1,b:1"},
        {"grace_seconds": 9.0},
        {"supervise": "on"},
    ],
)
def test_paths_and_gang_flags_may_differ(flags):
    assert identity.differences(0, of(), 1, of(**flags)) == ""


@pytest.mark.parametrize(
    "flags, line",
    [
        ({"units": (8, 8)}, "--units: 64 on worker 0, 8,8 on worker 3"),
        ({"learning_rate": 0.5}, "--learning_rate: 0.001 on worker 0, 0.5 on worker 3"),
        ({"threads": 3}, "--threads: 0 on worker 0, 3 on worker 3"),
        # Flags that do not affect the result, but the order of the collectives.
        ({"epochs": 5}, "--epochs: 1 on worker 0, 5 on worker 3"),
        ({"save_steps": 7}, "--save_steps: 500 on worker 0, 7 on worker 3"),
        ({"steps_per_loop": 7}, "--steps_per_loop: 0 on worker 0, 7 on worker 3"),
        ({"dataset": "def"}, "dataset digest: abc on worker 0, def on worker 3"),
        ({"workers": 3}, "number of workers: 2 on worker 0, 3 on worker 3"),
    ],
)
def test_everything_that_affects_the_work_must_be_equal(flags, line):
    difference = identity.differences(0, of(), 3, of(**flags))
    assert difference.splitlines()[:2] == ["worker 3 differs from worker 0:", f"  {line}"]
    assert "Start them with the same flags" in difference


@pytest.mark.parametrize("what", ["code digest", "tensorflow", "keras"])
def test_code_and_packages_must_be_equal(what):
    other = {**of(), what: "another"}
    assert f"{what}: {of()[what]} on worker 0, another on worker 1" in identity.differences(
        0, of(), 1, other
    )


def test_a_flag_that_only_one_worker_has_is_a_difference():
    other = of()
    del other["--units"]
    assert "--units: 64 on worker 0, none on worker 1" in identity.differences(0, of(), 1, other)


def test_versions_are_found_without_importing_the_packages():
    found = of()
    assert found["tensorflow"][:2] == "2." and found["keras"][:2] == "3."


def test_the_code_digest_follows_names_and_contents(tmp_path, monkeypatch):
    digests = set()
    for name, content in (("a.py", "x"), ("a.py", "y"), ("b.py", "y")):
        folder = tmp_path / f"{name}{content}"
        folder.mkdir()
        (folder / name).write_text(content)
        monkeypatch.setattr(identity, "__file__", str(folder / "identity.py"))
        identity.code_digest.cache_clear()
        digests.add(identity.code_digest())
    identity.code_digest.cache_clear()
    assert len(digests) == 3


# --- hardware -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "gpu, flags, found",
    [
        ("", {}, {"accelerator": "CPU"}),
        ("NVIDIA L4", {"accelerator": "cpu"}, {"accelerator": "CPU"}),
        ("NVIDIA L4", {"strategy": "tpu"}, {"accelerator": "TPU"}),
    ],
)
def test_a_run_that_uses_no_gpu_has_no_hardware_but_the_kind(hardware, gpu, flags, found):
    assert hardware(gpu, **flags) == found


def test_a_gpu_run_has_gpu_driver_and_libraries(hardware):
    found = hardware("NVIDIA L4")
    assert (found["accelerator"], found["GPU"], found["NVIDIA driver"]) == (
        "GPU",
        "NVIDIA L4",
        "550.54.14",
    )
    assert {"cuDNN", "cuBLAS", "NCCL"} < set(found)


@pytest.mark.parametrize(
    "one, other, line",
    [
        (("NVIDIA A100",), ("NVIDIA L4",), "GPU: NVIDIA A100 on worker 0, NVIDIA L4 on worker 1"),
        (
            ("NVIDIA L4", "550.54.14"),
            ("NVIDIA L4", "570.86.15"),
            "NVIDIA driver: 550.54.14 on worker 0, 570.86.15 on worker 1",
        ),
        (("NVIDIA L4",), (), "accelerator: GPU on worker 0, CPU on worker 1"),
    ],
)
def test_workers_on_different_devices_are_refused_by_name(hardware, one, other, line):
    first, second = of(hardware=hardware(*one)), of(hardware=hardware(*other))
    told = identity.differences(0, first, 1, second)
    assert f"  {line}\n" in told and told.endswith("on the same kind of device.")
    assert identity.differences(0, first, 1, of(hardware=hardware(*one))) == ""
