"""The steps of a TPU compile for real chips: by libtpu, which needs none to compile.

It lives in an environment of its own: `scripts/test.sh --tpu_compiler` makes it and runs these
tests.
"""

import json
import os
import pathlib
import subprocess

import pytest
import tensorflow as tf

from tests.steps import runs

pytestmark = pytest.mark.tpu_compiler

CHIPS = {"v5e:2x2": "TPU v5 lite", "v6e:2x2": "TPU v6 lite"}
CELLS = "lstm", "gru", "simple_rnn"
PROGRAMS = {
    f"{cell}-{precision}": {"cell": cell, "precision": precision}
    for cell in CELLS
    for precision in ("float32", "bfloat16")
} | {
    "options": runs.TPU_OPTIONS,
    "streams": {"streams": True, "cell": "lstm", "tied_embedding": True, "dropout": 0.2},
    "frames": {"frame": (4, 5), "frame_encoder": "convolution", "values": 2, "cell": "gru"},
}
HERE = pathlib.Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def compiler():
    """Returns the interpreter that has libtpu."""
    folder = os.environ.get("RNN_TRAINER_TPU_COMPILER")
    if not folder:
        pytest.fail("RNN_TRAINER_TPU_COMPILER names no environment: run scripts/test.sh")
    return f"{folder}/bin/python"


@pytest.fixture(scope="module", params=PROGRAMS)
def program(request, tmp_path_factory):
    """Returns the file of a program of many steps, as TensorFlow hands it to XLA."""
    flags = {"max_length": 16, "batch_size": 16, "jit": "auto", **PROGRAMS[request.param]}
    made = runs.make(device_type="TPU", **flags)
    stack, lengths, _, _ = made.steps.source(made.batches, 0).take(1)
    steps = tf.function(made.steps.steps, jit_compile=True, autograph=False)
    first, end = tf.constant(0), tf.constant(3)
    lowered = steps.experimental_get_compiler_ir(made.state.values(), stack, lengths, first, end)
    path = tmp_path_factory.mktemp("programs") / f"{request.param}.hlo"
    path.write_bytes(lowered(stage="hlo_serialized"))
    return path


@pytest.mark.parametrize("chip", CHIPS)
def test_many_steps_of_every_length_compile_into_one_program_of_a_tpu(program, chip, compiler):
    done = subprocess.run(
        [compiler, HERE / "tpu_compiler.py", chip, program],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (found,) = map(json.loads, done.stdout.splitlines())
    print(program.stem, found)
    assert found["device"] == CHIPS[chip]
