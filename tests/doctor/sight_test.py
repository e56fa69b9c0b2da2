"""The program that imports TensorFlow for the doctor, called as a function and as a process."""

import json
import os
import subprocess
import sys

import pytest

from tests import commands
from trainer.doctor import sight


@pytest.mark.parametrize(
    "cell, jit, implementation", [("lstm", "auto", "ours"), ("gru", "off", "keras")]
)
def test_tensorflow_reports_what_it_sees_and_which_implementation_it_would_use(
    cell, jit, implementation
):
    seen = sight.look("auto", cell, jit)
    assert (
        seen["visible"]["CPU"] >= 1
        and seen["backend"] == "tensorflow"
        and seen["implementation"][0] == implementation
    )


def test_as_a_program_it_prints_the_same_as_one_line_of_json():
    command = [sys.executable, "-m", "trainer.doctor.sight", "cpu", "lstm", "auto"]
    answer = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=commands.PROJECT,
        env={**os.environ, "PYTHONPATH": str(commands.PROJECT)},
        timeout=commands.SECONDS,
    )
    assert answer.returncode == 0, answer.stderr
    seen = json.loads(answer.stdout.splitlines()[-1])
    assert set(seen) == {"visible", "backend", "implementation"}
    assert set(seen["visible"]) == {"CPU", "GPU", "TPU"} and len(seen["implementation"]) == 2
