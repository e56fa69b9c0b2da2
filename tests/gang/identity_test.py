"""Which differences between workers matter, and how they are shown."""

import pytest

from trainer.flags import run as configuration
from trainer.gang import identity

CPU = {"accelerator": "CPU"}


def of(dataset="abc", workers=2, device=CPU, **flags):
    return identity.of(configuration.from_flat(flags), workers, dataset, device)


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


@pytest.mark.parametrize(
    "one, other, line",
    [
        (
            {"accelerator": "GPU", "GPU": "NVIDIA A100"},
            {"accelerator": "GPU", "GPU": "NVIDIA L4"},
            "GPU: NVIDIA A100 on worker 0, NVIDIA L4 on worker 1",
        ),
        (
            {"accelerator": "GPU", "GPU": "NVIDIA L4"},
            CPU,
            "accelerator: GPU on worker 0, CPU on worker 1",
        ),
    ],
)
def test_workers_on_different_devices_are_refused_by_name(one, other, line):
    told = identity.differences(0, of(device=one), 1, of(device=other))
    assert f"  {line}\n" in told and told.endswith("on the same kind of device.")
    assert identity.differences(0, of(device=one), 1, of(device=one)) == ""
