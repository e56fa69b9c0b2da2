"""Which functions become programs of XLA, and how they are traced."""

import dataclasses

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
