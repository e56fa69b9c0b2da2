"""The doctor as a command, and its checks at the start of a run."""

import types

import pytest

from tests import commands, datasets
from trainer.doctor import command, facts
from trainer.exit_codes import StorageError, UsageError
from trainer.flags import run as configuration

CPU = {"CPU": 1, "GPU": 0, "TPU": 0}


@pytest.fixture
def config(tmp_path):
    datasets.write(tmp_path / "data", datasets.random_splits(), vocabulary_size=30, classes=3)
    return configuration.from_flat(
        {"data_dir": str(tmp_path / "data"), "model_dir": str(tmp_path / "model")}
    )


def doctor(config, *flags, **environ):
    folders = (f"--data_dir={config.folders.data_dir}", f"--model_dir={config.folders.model_dir}")
    return commands.finish(
        commands.start(
            "doctor", *folders, *flags, environment={"KUBECONFIG": "/dev/null", **environ}
        )
    )


def test_a_machine_that_can_train_has_no_error_and_nothing_is_left_behind(config, tmp_path):
    answer = doctor(config)
    assert answer.code == 0, answer.out + answer.err
    assert answer.lines[-1] == "0 error(s), 0 warning(s)"
    subjects = [line[8:].partition(":")[0] for line in answer.lines[:-1]]
    assert subjects == [
        "Python",
        "TensorFlow",
        "Keras",
        "TensorBoard",
        "accelerator",
        "devices given",
        "GPU kernels",
        "implementation of rnn_0",
        "workers",
        "batch",
        "rows of a batch",
        "data",
        "source",
        "model folder",
        "free space",
        "cluster",
    ]
    assert {line[:8].strip() for line in answer.lines[:-1]} <= {"ok", "skipped"}
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_errors_exit_2_and_every_one_is_printed(config, tmp_path):
    (tmp_path / "model").touch()
    answer = doctor(config, "--accelerator=gpu", "--batch_size=1", "--num_workers=2")
    assert answer.code == 2
    errors = [line for line in answer.lines if line.startswith("error")]
    assert len(errors) == int(answer.lines[-1].split()[0]) >= 3
    for told in ("--accelerator=gpu: TensorFlow sees 1 CPU", "2 worker(s)", "Not a directory"):
        assert any(told in line for line in errors)


# --- the start of a run ---------------------------------------------------------------------------


@pytest.fixture
def quiet(monkeypatch):
    for name in (
        "NVIDIA_VISIBLE_DEVICES",
        "TPU_ACCELERATOR_TYPE",
        "TPU_TOPOLOGY",
        "TPU_WORKER_HOSTNAMES",
        "CUDA_VISIBLE_DEVICES",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(command.accelerator, "device_files", lambda: [])


def test_a_healthy_start_has_no_warning(config, quiet):
    assert command.at_start(config, CPU) == []


def test_a_device_that_exists_but_is_not_used_is_a_warning(config, quiet, monkeypatch):
    monkeypatch.setattr(command.accelerator, "device_files", lambda: ["/dev/nvidia0"])
    [warning] = command.at_start(config, CPU)
    assert "a GPU (/dev/nvidia0), but TensorFlow sees 1 CPU" in str(warning)


def test_a_device_that_the_pod_was_given_and_cannot_use_ends_the_start(config, quiet, monkeypatch):
    monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", "GPU-1")
    with pytest.raises(
        UsageError, match="NVIDIA_VISIBLE_DEVICES=GPU-1.*sees 1 CPU.*--accelerator=cpu"
    ):
        command.at_start(config, CPU)
    assert command.at_start(configuration.replace(config, accelerator="cpu"), CPU) == []


def test_two_tensorflows_end_the_start(config, quiet, monkeypatch):
    found = {
        "tensorflow": "2.21.0",
        "tensorflow-cpu": "2.21.0",
        "keras": "3.15.1",
        "tensorboard": "2.21.0",
    }
    monkeypatch.setattr(facts, "packages", lambda: found)
    with pytest.raises(UsageError, match="tensorflow 2.21.0 and tensorflow-cpu 2.21.0"):
        command.at_start(config, CPU)


def test_a_full_disk_ends_the_start_as_failed_storage(config, quiet, monkeypatch):
    monkeypatch.setattr(facts.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=0))
    with pytest.raises(StorageError, match="free space: 0 B free.*not one fits"):
        command.at_start(config, CPU)
