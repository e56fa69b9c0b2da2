"""The program as `python -m trainer`, from any folder."""

import os
import subprocess
import sys

import pytest

import trainer
from tests import commands


@pytest.mark.parametrize(
    "arguments, code, out, err",
    [
        (["--version"], 0, f"rnn-trainer {trainer.__version__}\n", ""),
        (["dance"], 2, "", "error: dance: no such command"),
    ],
)
def test_it_runs_the_command_line_and_exits_with_its_code(tmp_path, arguments, code, out, err):
    answer = subprocess.run(
        [sys.executable, "-m", "trainer", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(commands.PROJECT)},
    )
    assert (answer.returncode, answer.stdout) == (code, out)
    assert answer.stderr.startswith(err) and bool(answer.stderr) == bool(err)


def test_importing_it_runs_nothing():
    import trainer.__main__  # noqa: F401
