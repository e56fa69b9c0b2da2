"""Which functions become programs of XLA, and how they are traced."""

import dataclasses
import json
import subprocess
import sys

import pytest
import tensorflow as tf

from tests.steps import runs
from trainer.steps import programs


@pytest.mark.parametrize(
    "jit, device_type, expected",
    [
        ("on", "CPU", True),
        ("on", "GPU", True),
        ("off", "CPU", False),  # The layers of Keras.
        ("on", "TPU", False),  # Its strategy compiles the whole.
    ],
)
def test_our_own_layers_are_compiled_each_program_by_itself(jit, device_type, expected):
    made = runs.make(jit=jit)
    placement = dataclasses.replace(made.placement, device_type=device_type)
    assert programs.compiles(made.network, placement) is expected


def test_a_condition_on_a_tensor_is_not_rewritten():
    """AutoGraph would make it a `tf.cond`, after reading and rewriting the sources."""
    sign = programs.function(lambda x: 1 if x > 0 else -1)
    with pytest.raises(tf.errors.OperatorNotAllowedInGraphError):
        sign(tf.constant(3))


DETERMINISTIC = """
import json, sys
import numpy as np, tensorflow as tf
tf.config.experimental.enable_op_determinism()
from tests.steps import runs
for flags in json.loads(sys.argv[1]):
    made = runs.make(device_type="GPU", **flags)
    made.steps.warm_up(8, runs.BATCH)
    print(np.isfinite(runs.run(made, 2).sums["loss_sum"]).all())
"""


def test_whole_steps_of_a_gpu_run_while_tensorflow_must_be_deterministic():
    """An operation without a deterministic kernel would raise an error, also on this CPU."""
    cases = [
        {"cell": "lstm", "jit": "auto", "dropout": 0.2, "word_dropout": 0.1, "clip_norm": 1.0},
        {"cell": "gru", "jit": "auto", "bidirectional": True, "precision": "bfloat16"},
        {"cell": "lstm", "jit": "auto", "precision": "float16", "ema": 0.9},
        {"cell": "simple_rnn", "jit": "auto", "one_hot": True, "pooling": "max"},
    ]
    done = subprocess.run(
        [sys.executable, "-c", DETERMINISTIC, json.dumps(cases)],
        cwd=runs.ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True"] * len(cases)
