"""The scripts as a newcomer meets them.

They say in words what the machine lacks, and one command trains a good model.
"""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

SCRIPTS = pathlib.Path(__file__).resolve().parents[1] / "scripts"


def call(script: str, *arguments: str, cwd, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [shutil.which("bash"), SCRIPTS / script, *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def bare_path(tmp_path) -> pathlib.Path:
    """Returns a folder to use as PATH: it has the tools of every system, but no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("basename", "cat", "cmp", "dirname"):
        (folder / tool).symlink_to(shutil.which(tool))
    return folder


def interpreter(folder: pathlib.Path, version: str, fails_on: str) -> None:
    """Writes a `python3` that claims to be `version`.

    A program given by `-c` fails if it holds `fails_on`.
    """
    program = folder / "python3"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo "Python {version}"\n'
        f'case "$2" in *{fails_on}*) exit 1;; esac\n'
    )
    program.chmod(0o755)


@pytest.mark.parametrize("script", ["smoke.sh", "test.sh"])
@pytest.mark.parametrize(
    "version, fails_on, message",
    [
        (None, None, "found no python3, needs Python 3.10 to 3.13"),
        ("3.9.2", "version_info", "found Python 3.9.2, needs Python 3.10 to 3.13"),
        ("3.11.2", "ensurepip", "apt-get install python3-venv"),
    ],
)
def test_a_script_names_what_to_install_on_a_machine_that_lacks_it(
    script, version, fails_on, message, bare_path, tmp_path
):
    if version:
        interpreter(bare_path, version, fails_on)
    answer = call(
        script,
        cwd=tmp_path,
        PATH=str(bare_path),
        PYTHON="python3",
        RNN_TRAINER_VENV=str(tmp_path / "venv"),
    )
    assert answer.returncode == 2
    assert answer.stderr.startswith(f"{script}: ") and message in answer.stderr
    assert not (tmp_path / "venv").exists()


def test_tensorboard_needs_a_folder_that_exists(tmp_path):
    assert "which model?" in call("tensorboard.sh", cwd=tmp_path).stderr
    assert "nowhere: no such folder" in call("tensorboard.sh", "nowhere", cwd=tmp_path).stderr


@pytest.mark.slow
def test_one_command_trains_a_classifier_that_labels_sentences_correctly(tmp_path):
    if not pathlib.Path(sys.prefix, "rnn-trainer-cpu").exists():
        pytest.skip("needs an environment that scripts/test.sh has set up")
    sentences = "An excellent, moving film.", "Boring and awful, a waste of time."
    answer = call(
        "smoke.sh",
        *sentences,
        cwd=tmp_path,
        RNN_TRAINER_VENV=sys.prefix,
        RNN_TRAINER_RUNS=str(tmp_path / "runs"),
    )
    assert answer.returncode == 0, answer.stderr
    predicted = dict(
        reversed(line.split("\t")[::2]) for line in answer.stdout.splitlines() if "\t" in line
    )
    assert predicted == {sentences[0]: "positive", sentences[1]: "negative"}
    assert "scripts/tensorboard.sh" in answer.stderr
    (data, model) = sorted((tmp_path / "runs").iterdir(), key=lambda path: path.name != "data")
    assert data.name == "data" and list(model.glob("checkpoints/step-*"))
