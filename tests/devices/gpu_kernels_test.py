"""A step for GPUs, traced on a machine without one: what would run where.

TensorFlow's wheel for GPUs says it: `scripts/test.sh --gpu_wheel` runs these tests with it.
"""

import sys

import pytest
import tensorflow as tf
from tensorflow.python.distribute import collective_all_reduce_strategy

from tests.devices import gpu_kernels
from tests.steps import runs
from trainer.devices import strategy
from trainer.devices.placement import Placement

pytestmark = pytest.mark.gpu_wheel

CELLS = "lstm", "gru", "simple_rnn"
PRECISIONS = "float32", "bfloat16", "float16", "float64"
OPTIONS = {
    "plain": {},
    "pre": {"padding": "pre"},
    "one_hot": {"one_hot": True},
    "bidirectional": {"bidirectional": True},
    "layers": {"units": (4, 5), "pooling": "max"},
    "dropout": {"dropout": 0.2},
    "word_dropout": {"word_dropout": 0.1},
    "clip_norm": {"clip_norm": 1.0},
    "ema": {"ema": 0.9},
    "smoothing": {"label_smoothing": 0.1},
    "class_weights": {"class_weights": (1.0, 2.0, 0.5)},
    "accumulate": {"accumulate": 2},
    "jit": {"jit": "on"},
    "all": {
        "bidirectional": True,
        "dropout": 0.2,
        "word_dropout": 0.1,
        "clip_norm": 1.0,
        "ema": 0.9,
        "class_weights": (1.0, 2.0, 0.5),
        "accumulate": 2,
        "pooling": "mean",
    },
}
# They run on the CPU of a GPU's machine: all of them for the input.
ON_THE_HOST = {
    "IteratorGetNext": "batches are made on the CPU, ahead of time",
    "PyFunc": "the clock that measures the wait for a batch",
}


@pytest.fixture(autouse=True, scope="module")
def gpu_wheel():
    """Makes Keras take cuDNN, and TensorFlow register what XLA compiles for GPUs."""
    if not tf.sysconfig.get_build_info()["is_cuda_build"]:
        pytest.fail("this TensorFlow has no kernels for GPUs: run scripts/test.sh --gpu_wheel")
    # XLA registers its kernels when it first compiles.
    tf.function(lambda: tf.constant(1.0) + 1, jit_compile=True)()
    with pytest.MonkeyPatch.context() as patch:
        rnn = sys.modules["keras.src.backend.tensorflow.rnn"]
        patch.setattr(rnn, "_is_gpu_available", lambda: True)
        yield


def one_gpu():
    name = "/job:localhost/replica:0/task:0/device:GPU:0"
    return Placement(tf.distribute.OneDeviceStrategy(name), "GPU", (name,))


def traced(placement, **flags):
    """Returns the program of a run's loop."""
    made = runs.make(
        placement=placement, **{"jit": "auto", "precision": "float32", "batch_size": 16, **flags}
    )
    source = made.steps.source(made.batches, 0)
    loop = made.steps._loop.get_concrete_function(source, tf.constant(1, tf.int32))
    return gpu_kernels.Program(loop, on_host=ON_THE_HOST)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("cell", CELLS)
def test_a_step_runs_on_the_gpu_with_few_launches_and_no_waits(cell, precision, option):
    program = traced(one_gpu(), cell=cell, precision=precision, **OPTIONS[option])
    step = program.that_holds("IteratorGetNext")
    found = program.findings()
    assert not found.without_kernel
    assert ON_THE_HOST.keys() <= found.ops.keys()
    assert ("CudnnRNNV3" in found.ops) == (cell != "simple_rnn" and option != "jit")
    gradients = program.functions("shard_gradient")
    assert gradients
    for gradient in gradients:
        assert program.findings(gradient).to_host.total() <= 2
    # The rest of a step waits for nothing: not for a figure, not for the condition of the loop.
    assert not program.findings(without=["shard_gradient"]).to_host
    rest = program.findings(step, without=["shard_gradient", "while_"])
    assert rest.launches["XLA"] == 1 and rest.launches.total() <= 5, rest.launches
