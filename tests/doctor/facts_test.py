"""Facts gathered from real folders, from packages and from TensorFlow in a child process."""

import ctypes
import errno
import fcntl
import os
import subprocess
import sys

import pytest

from tests import commands, datasets
from trainer import resuming
from trainer.devices import accelerator
from trainer.doctor import facts
from trainer.flags import run as configuration

# --- packages, workers, data ----------------------------------------------------------------------


def test_packages_are_those_that_are_installed():
    import keras

    found = facts.packages()
    assert found["keras"] == keras.__version__
    assert len(set(accelerator.TENSORFLOWS) & set(found)) == 1 and set(found) <= {
        *accelerator.TENSORFLOWS,
        "keras",
        "tensorboard",
    }


@pytest.mark.parametrize(
    "flags, environ, workers",
    [
        ({}, {}, 1),
        ({"num_workers": 3}, {}, 3),
        ({}, {"TF_CONFIG": '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"index": 0}}'}, 2),
        ({"num_workers": 4}, {"TF_CONFIG": '{"cluster": {"worker": ["a:1", "b:1"]}}'}, 4),
        ({}, {"TF_CONFIG": "{}"}, 1),
        ({}, {"TF_CONFIG": '{"cluster": {"chief": ["a:1"]}, "task": {"type": "chief"}}'}, 1),
        ({}, {"TF_CONFIG": "no json"}, 1),
    ],
)
def test_workers_are_counted_from_flags_and_tf_config(flags, environ, workers):
    assert facts.workers(configuration.Gang(**flags), environ) == workers


@pytest.mark.parametrize(
    "tf_config, told",
    [
        ("", ""),
        ('{"cluster": {"chief": ["a:1"]}, "task": {"type": "chief", "index": 0}}', ""),
        ("no json", "TF_CONFIG=no json: cannot be read"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"index": 3}}', "its task is worker 3"),
    ],
)
def test_a_tf_config_that_train_refuses_is_known(tf_config, told):
    found = facts.refused_gang(configuration.Gang(), {"TF_CONFIG": tf_config})
    assert found.startswith(told) or told in found
    assert bool(found) == bool(told)


def test_a_dataset_is_measured_and_a_damaged_one_named(tmp_path):
    made = datasets.write(tmp_path / "d", datasets.random_splits(), vocabulary_size=30, classes=3)
    tokens = len(made.splits["train"].inputs)
    assert (
        facts.data(str(tmp_path / "d"))
        == facts.described(str(tmp_path / "d"))
        == facts.Data(50, 30, 3, tokens, "shuffled")
    )
    (tmp_path / "d/vocabulary.txt").write_text("short\n")
    assert "vocabulary.txt" in facts.data(str(tmp_path / "d"))
    assert "no dataset.json" in facts.data(str(tmp_path)) and "no dataset.json" in facts.described(
        str(tmp_path)
    )
    assert facts.data("") == "--data_dir is not given"


@pytest.mark.parametrize("values", [(), ("mass", "age")])
def test_a_dataset_of_frames_is_measured_in_frames(values, tmp_path):
    labels = () if values else ("a", "b", "c")
    splits = datasets.random_frames(features=6, values=len(values))
    made = datasets.write_numbers(
        tmp_path / "d", splits, shape=(2, 3), labels=labels, values=values
    )
    frames = len(made.splits["train"].inputs)
    found = facts.data(str(tmp_path / "d"))
    assert found == facts.Data(
        40, 0, len(labels), frames, "shuffled", frame=(2, 3), values=len(values)
    )
    assert found.outputs == len(labels or values)


def test_an_epoch_of_a_text_has_as_many_steps_as_its_streams_have_whole_chunks(tmp_path):
    text = datasets.random_text(1000)
    datasets.write_text(tmp_path / "d", {"train": [text, text]}, vocabulary_size=30)
    found = facts.data(str(tmp_path / "d"))
    assert found == facts.Data(2, 30, 0, 2002, "streams") and found.outputs == 30
    # 2002 tokens in 3 streams are 667 in each: 13 whole chunks of 50.
    assert found.epochs(configuration.Input(batch_size=3, max_length=50)).end(2) == 26


def test_the_model_to_start_from_is_counted_by_its_checkpoints_or_named(tmp_path):
    model = str(tmp_path / "model")
    assert facts.source("") == "--init_from is not given"
    assert "--init_from=" in facts.source(model) and "no config.json" in facts.source(model)
    (tmp_path / "model").mkdir()
    resuming.write(configuration.from_flat({}), tmp_path / "model")
    assert "holds no checkpoint yet" in facts.source(model)
    (tmp_path / "model/best/step-00000003").mkdir(parents=True)
    assert facts.source(model) == 1


# --- the model folder -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [".", "run", "deep/er/run"])
def test_a_good_folder_passes_and_is_left_as_it_was(tmp_path, name):
    found = facts.folder(str(tmp_path / name))
    assert found.problems == {} and found.probed == tmp_path and found.free > 0
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    assert facts.folder(str(tmp_path / "file")).problems == {"make a folder in": "Not a directory"}


_CAPBSET_DROP = 24  # linux/prctl.h
_OPEN_EVERYTHING = (1, 2)  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH of linux/capability.h


def _be_ordinary() -> None:
    """Takes away what opens every folder to root, from the program that is executed next."""
    for capability in _OPEN_EVERYTHING:
        ctypes.CDLL(None).prctl(_CAPBSET_DROP, capability, 0, 0, 0)


@pytest.fixture
def closed(tmp_path):
    """A folder that a process that ran `_be_ordinary` cannot search."""
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0)
    look = [sys.executable, "-c", "import os, sys; os.listdir(sys.argv[1])", folder]
    found = subprocess.run(look, preexec_fn=_be_ordinary, capture_output=True, text=True)
    if not found.returncode:
        pytest.skip("no folder is closed to this user")
    assert "PermissionError" in found.stderr
    yield folder
    folder.chmod(0o700)


@pytest.mark.parametrize("name", ["", "run", "deep/er/run"])
def test_a_place_below_a_folder_that_is_closed_to_the_user_is_a_finding(closed, name):
    program = (
        "import sys; from trainer.doctor import facts\n"
        "found = facts.folder(sys.argv[1])\n"
        "print(found.probed, dict(found.problems))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, closed / name],
        preexec_fn=_be_ordinary,
        cwd=commands.PROJECT,
        capture_output=True,
        text=True,
    )
    told = "{'make a folder in': 'Permission denied'}"
    assert found.stdout.strip() == f"{closed} {told}", found.stderr


@pytest.mark.parametrize(
    "module, function, what",
    [(os, "fsync", "sync"), (fcntl, "flock", "lock"), (os, "rename", "rename a folder in")],
)
def test_what_the_file_system_refuses_is_named_with_its_reason(
    tmp_path, monkeypatch, module, function, what
):
    def refuse(*arguments):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(module, function, refuse)
    assert facts.folder(str(tmp_path)).problems == {what: "Operation not supported"}
    assert not list(tmp_path.iterdir())


def test_a_lock_that_two_get_at_once_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *arguments: None)
    assert facts.folder(str(tmp_path)).problems == {"lock": "two holders got the same lock"}


def test_committed_checkpoints_are_counted(tmp_path):
    for name in (
        "checkpoints/step-00000001",
        "checkpoints/step-00000002",
        "best/step-00000001",
        "checkpoints/step-00000003.tmp-2",
        "checkpoints/step-00000004.damaged-1",
    ):
        (tmp_path / name).mkdir(parents=True)
    assert facts.checkpoints(str(tmp_path)) == 3
    assert facts.checkpoints(str(tmp_path / "nowhere")) == 0


# --- TensorFlow -----------------------------------------------------------------------------------


def test_a_child_that_dies_at_the_import_becomes_a_fact(tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho noise >&2\necho 'Illegal instruction' >&2\nkill -ILL $$\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    assert (
        facts.sight(configuration.Run(), "lstm")
        == "importing TensorFlow ended with code -4: Illegal instruction"
    )


def test_what_a_child_sees_becomes_facts(tmp_path, monkeypatch):
    """The child is the real program, `python -m trainer.doctor.sight`."""
    monkeypatch.chdir(commands.PROJECT)
    seen = facts.sight(configuration.Run(jit="off"), "gru")
    assert isinstance(seen, facts.Sight), seen
    assert seen.visible["CPU"] >= 1 and seen.backend == "tensorflow"
    assert seen.implementation[0] == "keras" and seen.implementation[1]


def test_an_import_that_never_ends_becomes_a_fact(tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 60\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(facts, "_SIGHT_SECONDS", 0.2)
    told = "importing TensorFlow took more than 0.2 s"
    assert facts.sight(configuration.Run(), "lstm") == told
