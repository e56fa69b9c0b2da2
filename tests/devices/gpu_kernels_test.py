"""A step for GPUs, traced on a machine without one: what would run where.

TensorFlow's wheel for GPUs says it: `scripts/test.sh --gpu_wheel` runs these tests with it.
"""

import collections
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
OPTIONS = {
    "plain": {},
    "pre": {"padding": "pre"},
    "one_hot": {"one_hot": True},
    "bidirectional": {"bidirectional": True},
    "max": {"pooling": "max"},
    "dropout": {"dropout": 0.2},
    "word_dropout": {"word_dropout": 0.1},
    "clip_norm": {"clip_norm": 1.0},
    "ema": {"ema": 0.9},
    "smoothing": {"label_smoothing": 0.1},
    "class_weights": {"class_weights": (1.0, 2.0, 0.5)},
    "accumulate": {"accumulate": 2},
    "jit": {"jit": "on"},
    "streams": {"streams": True, "dropout": 0.2},
    "streams, tied": {"streams": True, "tied_embedding": True},
}
# Every option once more, in as few traces as there can be: a trace takes seconds.
TOGETHER = {
    "one_hot, pre, sgd": {"one_hot": True, "padding": "pre", "optimizer": "sgd"},
    "jit, max": {"jit": "on", "pooling": "max"},
    "all others": {
        "units": (4, 5),
        "bidirectional": True,
        "pooling": "mean",
        "dropout": 0.2,
        "word_dropout": 0.1,
        "optimizer": "adamw",
        "clip_norm": 1.0,
        "ema": 0.9,
        "label_smoothing": 0.1,
        "class_weights": (1.0, 2.0, 0.5),
        "accumulate": 2,
    },
}
CASES = [("float32", flags) for flags in OPTIONS.values()] + [
    (precision, flags)
    for precision in ("float32", "bfloat16", "float16", "float64")
    for flags in TOGETHER.values()
]
NAMES = [f"float32-{name}" for name in OPTIONS] + [
    f"{precision}-{name}"
    for precision in ("float32", "bfloat16", "float16", "float64")
    for name in TOGETHER
]
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


def gpus(count):
    return tuple(f"/job:localhost/replica:0/task:0/device:GPU:{number}" for number in range(count))


def traced(placement, **flags):
    """Returns the program of a run's loop."""
    made = runs.make(
        placement=placement, **{"jit": "auto", "precision": "float32", "batch_size": 16, **flags}
    )
    source = made.steps.source(made.batches, 0)
    loop = made.steps._loop.get_concrete_function(source, tf.constant(1, tf.int32))
    return gpu_kernels.Program(loop, on_host=ON_THE_HOST)


@pytest.mark.parametrize("precision, flags", CASES, ids=NAMES)
@pytest.mark.parametrize("cell", CELLS)
def test_a_step_runs_on_the_gpu_with_few_launches_and_no_waits(cell, precision, flags):
    (name,) = gpus(1)
    alone = Placement(tf.distribute.OneDeviceStrategy(name), "GPU", (name,))
    program = traced(alone, cell=cell, precision=precision, **flags)
    found = program.findings()
    assert not found.without_kernel
    assert ON_THE_HOST.keys() <= found.ops.keys()
    has_cudnn = cell != "simple_rnn" and "jit" not in flags
    assert has_cudnn == bool(found.ops["CudnnRNNV3"])
    for gradient in program.functions("shard_gradient"):
        waits = program.findings(gradient).to_host
        assert waits.total() <= 2, waits
    # The rest of a step waits for nothing: not for a figure, not for the condition of the loop.
    assert not program.findings(without=["shard_gradient"]).to_host
    update = program.findings(
        program.that_holds("IteratorGetNext"), without=["shard_gradient", "while_"]
    )
    assert update.launches["XLA"] == 1 and update.launches.total() <= 5, update.launches


def spanning(workers):
    """Returns a placement on GPUs of one process, added up as `workers` workers add up."""
    names = gpus(4)
    if workers == 1:
        return Placement(tf.distribute.MirroredStrategy(names), "GPU", names)
    # What MultiWorkerMirroredStrategy is made of, without the servers of the other workers.
    extended = collective_all_reduce_strategy.CollectiveAllReduceStrategy._from_local_devices(
        list(names), communication_options=strategy.communication_options(on_gpus=True)
    )
    return Placement(extended, "GPU", names)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("flags", [{"cell": "lstm"}, {"cell": "gru", "bidirectional": True}])
def test_several_gpus_add_up_by_nccl_and_no_cpu_lies_between_gradient_and_update(workers, flags):
    program = traced(spanning(workers), **flags)
    step = program.that_holds("IteratorGetNext")
    calls = collections.defaultdict(list)
    for node in step.node_def:
        for name in program.called_by(node):
            calls["gradient" if "shard_gradient" in name else "update"].append(node)
    gradients = [node.name for node in calls["gradient"]]
    assert len(calls["gradient"]) == len(calls["update"]) == 4
    assert not program.findings().without_kernel
    for number, update in enumerate(calls["update"]):
        assert update.device.endswith(f"GPU:{number}")
        way = list(gpu_kernels.between(step, gradients, update.name))
        (reduced,) = (node for node in way if node.op.startswith("Collective"))
        assert reduced.op == "CollectiveReduceV2"
        assert reduced.attr["communication_hint"].s == b"nccl"
        # Its own sum on its own device, and nothing of the others.
        assert {node.device for node in way} == {update.device}
        assert not {"Add", "AddV2", "AddN", "Sum"} & {node.op for node in way}


@pytest.mark.parametrize(
    "python_function, missing, waits",
    [
        # Kernels that compare int32 take them from the host's memory.
        (lambda x: tf.equal(tf.argmax(x, -1, tf.int32), 1), [], [("ArgMax", "Equal", "int32")]),
        (lambda x: tf.equal(tf.argmax(x, -1, tf.int64), 1), [], []),
        (
            lambda x: tf.strings.as_string(x),
            [("AsString", "float")],
            [("Arg", "AsString", "float")],
        ),
        (lambda x: tf.range(tf.size(x)), [], []),
        # A condition that the host computes from numbers of its own.
        (lambda x: tf.while_loop(lambda i: i < tf.size(x), lambda i: (i + 1,), (0,)), [], []),
        (
            lambda x: tf.while_loop(lambda x: tf.reduce_all(x < 1), lambda x: (x + x,), (x,)),
            [],
            [("All", "Return", "bool")],
        ),
    ],
    ids=["int32", "int64", "string", "size", "number", "condition"],
)
def test_what_only_the_host_can_do_is_found(python_function, missing, waits):
    traced = tf.function(python_function, autograph=False)
    spec = tf.TensorSpec([None, 3], tf.float32)
    found = gpu_kernels.Program(traced.get_concrete_function(spec)).findings()
    assert list(found.without_kernel) == missing
    assert list(found.to_host) == waits


def test_launches_are_counted_op_by_op_and_a_compiled_function_is_one():
    @tf.function(autograph=False)
    def by_op(x):
        return tf.tanh(tf.exp(x)) + tf.exp(x)

    compiled = tf.function(lambda x: by_op(x), autograph=False, jit_compile=True)
    both = tf.function(lambda x: by_op(x) + compiled(x), autograph=False)
    spec = tf.TensorSpec([None], tf.float32)
    program = gpu_kernels.Program(both.get_concrete_function(spec))
    assert program.findings().launches == {"Exp": 2, "Tanh": 1, "AddV2": 2, "XLA": 1}
