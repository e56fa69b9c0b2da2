"""Small runs, put together as `train` puts them together, and their gradients in NumPy."""

import collections
import functools
import json
import math
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import tensorflow as tf

from tests import numpy_network
from trainer.data import fields, pipeline, plans
from trainer.data.store import Split
from trainer.devices.placement import Placement
from trainer.flags import run as config
from trainer.models.networks import Network
from trainer.steps import optimizer, state, training
from trainer.tasks import table

ROOT = pathlib.Path(__file__).resolve().parents[2]
TASK = table.TASKS["classification"]
LANGUAGE_MODEL = table.TASKS["language_model"]
TRANSLATION = table.TASKS["translation"]
REGRESSION = table.TASKS["regression"]
VOCABULARY, CLASSES = 20, 3
BATCH = 14  # An odd number of rows for each of 2 replicas, and not the same for each of 4.
# One padded length and the cheapest cell. XLA takes seconds to compile what runs for milliseconds:
# it is on only if a test is about it.
SMALL = {
    "cell": "simple_rnn",
    "units": (4,),
    "embedding_size": 3,
    "batch_size": BATCH,
    "max_length": 8,
    "precision": "float64",
    "shards": 1,
    "learning_rate": 0.01,
    "jit": "off",
}


def a_split(size=60, longest=14):
    """Returns a split whose labels can be learned."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, longest + 1, size)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    labels = generator.integers(0, CLASSES, size).astype(np.int32)
    tokens = generator.integers(1, VOCABULARY, lengths.sum())
    tokens[offsets[:-1]] = 1 + labels  # Something to learn.
    return Split(tokens.astype(np.int32), offsets, labels)


def a_text(size=600):
    """Returns a text of which most tokens follow from the one before."""
    generator, tokens = np.random.default_rng(0), np.zeros(size, np.int32)
    for place in range(1, size):
        follows = 1 + (3 * tokens[place - 1] + 1) % (VOCABULARY - 1)
        tokens[place] = follows if generator.random() < 0.8 else generator.integers(1, VOCABULARY)
    tokens[0] = 1
    return Split(tokens, np.array([0, size], np.int64))


def some_pairs(size=60, longest=7):
    """Returns pairs whose targets can be learned: the source backwards, each id one higher."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, longest + 1, size)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    sources = [
        np.concatenate([[1], generator.integers(4, VOCABULARY, length - 1)]) for length in lengths
    ]
    targets = [
        np.concatenate([[1], 4 + (source[:0:-1] - 3) % (VOCABULARY - 4)]) for source in sources
    ]
    sources, targets = (np.concatenate(side).astype(np.int32) for side in (sources, targets))
    return Split(sources, offsets, targets, offsets)


def a_sequence_split(shape, values=0, size=60, longest=8):
    """Returns sequences of frames, float32 [steps, features] each, whose targets can be learned.

    values: numbers of a target of values; 0: labels.
    """
    generator, features = np.random.default_rng(0), math.prod(shape)
    lengths = generator.integers(1, longest + 1, size)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    labels = generator.integers(0, CLASSES, size).astype(np.int32)
    frames = generator.normal(size=(lengths.sum(), features)) + np.repeat(labels, lengths)[:, None]
    targets = labels
    if values:
        targets = (labels[:, None] - 1 + 0.1 * generator.normal(size=(size, values))).astype("f")
    return Split(frames.astype(np.float32), offsets, targets)


def pairs_of(split, settings, seed=0):
    """Returns the training batches of a split of pairs."""
    plan = plans.ShuffledPlan(split, settings, seed)
    return pipeline.TrainingBatches(split, settings, plan, fields.TEXT)


def streams_of(split, settings, seed=0):
    """Returns the chunks of a text."""
    plan = plans.StreamsPlan(split, settings, seed)
    return pipeline.StreamBatches(split, settings, plan, fields.NEXT_TOKEN)


def batches_of(split, settings, seed=0, target=fields.LABEL):
    """Returns the training batches of a split."""
    plan = plans.ShuffledPlan(split, settings, seed)
    return pipeline.TrainingBatches(split, settings, plan, target)


# Every option of a step that a TPU has to compile, at once.
TPU_OPTIONS = {
    "cell": "lstm",
    "precision": "bfloat16",
    "bidirectional": True,
    "dropout": 0.2,
    "word_dropout": 0.1,
    "clip_norm": 1.0,
    "ema": 0.9,
    "pooling": "max",
    "accumulate": 2,
}

# Makes the variables of a replica that is alone.
variable = Placement(None, "CPU", ("CPU:0",)).variable

Made = collections.namedtuple("Made", "steps state batches network config placement")


def make(
    devices=1,
    class_weights=(),
    total=100,
    device_type="CPU",
    placement=None,
    streams=False,
    pairs=False,
    frame=(),
    values=0,
    **flags,
):
    """Returns a run on some of this process' logical devices.

    device_type: what the run takes them for; a step for a GPU runs on a CPU too. placement: another
    one than that. streams: a language model of `a_text` in place of a classifier of `a_split`.
    pairs: a translation of `some_pairs`. frame: frames of this shape, of `a_sequence_split`, and
    that many `values` if its target is not a label.
    """
    task = LANGUAGE_MODEL if streams else TRANSLATION if pairs else REGRESSION if values else TASK
    made_of = config.from_flat({**SMALL, **flags})
    placement = placement or _placement(devices, device_type)
    network = Network(
        made_of.model,
        0 if frame else VOCABULARY,
        VOCABULARY if streams or pairs else values or CLASSES,
        seed=made_of.run.seed,
        precision=made_of.run.precision,
        device_type=placement.device_type,
        jit=made_of.run.jit,
        head=task.head,
        second="own" if pairs else "",
        frame=frame,
    )
    built = optimizer.Optimizer(made_of.optimizer, network.weights, total, placement.variable)
    rows = made_of.input.batch_size if streams else 0
    run_state = state.State(network, built, task, placement.variable, rows)
    read, split = batches_of, a_split
    if streams or pairs:
        read, split = (streams_of, a_text) if streams else (pairs_of, some_pairs)
    if frame:
        read = functools.partial(batches_of, target=task.target)
        split = functools.partial(a_sequence_split, frame, values)
    batches = read(split(), made_of.input, made_of.run.seed)
    train_steps = training.train_steps(
        run_state, placement, made_of, batches.plan.lengths, class_weights
    )
    return Made(train_steps, run_state, batches, network, made_of, placement)


def _placement(devices, device_type):
    names = tuple(f"/device:CPU:{i}" for i in range(devices))
    spanning = (
        tf.distribute.OneDeviceStrategy(names[0])
        if devices == 1
        else tf.distribute.MirroredStrategy(names)
    )
    return Placement(spanning, device_type, names)


def run(made, count, first=0):
    return made.steps.run(made.steps.source(made.batches, first), count)


def weights_of(made):
    return {name: weight.numpy() for name, weight in made.state.weights.items()}


def carry_of(made):
    return {name: rows.numpy() for name, rows in made.state.carry.items()}


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.tobytes() == other[name].tobytes(), name


def numpy_gradients(made, batch, weights, smoothing=0.0, class_weights=None, carry=None):
    """Returns (loss sum, {name: gradient of the mean loss}) of a batch, from the equations.

    carry: what streams carry into the batch, a constant.
    """
    settings, targets = made.config.model, batch.targets.ravel()

    def loss(weights):
        if carry is None:
            scores = numpy_network.logits(
                settings, weights, batch.inputs, batch.lengths, frame=made.network.frame
            )
        else:
            scores, _ = numpy_network.step_scores(settings, weights, batch.inputs, carry)
            scores = scores.reshape(*scores.shape[:-3], targets.size, VOCABULARY)
        return numpy_network.loss_sum(scores, targets, smoothing, class_weights)

    weights = {name: weight.astype(np.float64) for name, weight in weights.items()}
    found = numpy_network.gradients(loss, weights)
    return loss(weights), {name: gradient / targets.size for name, gradient in found.items()}


def norm_of(gradients):
    return np.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))


def one_plain_step(**flags):
    """Takes a step of SGD at rate 1 without momentum, which subtracts exactly the gradient.

    Returns (the run, the batch, weights before, metrics, {name: what was subtracted}).
    """
    made = make(optimizer="sgd", momentum=0.0, **{"learning_rate": 1.0, **flags})
    before = weights_of(made)
    while not (metrics := run(made, 1)).gradient_norm[0]:
        pass  # The first loss scales may be too large for float16: such a step makes no update.
    after = weights_of(made)
    moved = {name: before[name].astype(np.float64) - after[name] for name in before}
    return made, made.batches.batch(0), before, metrics, moved


# --- Compiling ------------------------------------------------------------------------------------

COMPILES = """
import json, os, pathlib, sys
sys.path.insert(0, ".")
import tensorflow as tf
[cpu] = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tests.steps import runs
dump = pathlib.Path(sys.argv[1])

def programs():
    # XLA writes a file for each program that it compiles.
    return sorted(path.name for path in dump.glob("*.before_optimizations.txt"))

made = runs.make(**json.loads(sys.argv[2]))
for length in made.batches.plan.lengths:
    made.steps.warm_up(int(length), made.batches.plan.batch_size)
warm = programs()
iterator = made.steps.source(made.batches, 0)
seen = {made.batches.plan.padded_length(step) for step in range(20)}
made.steps.run(iterator, 1)
first = programs()
made.steps.run(iterator, 19)
found = {"lengths": sorted(map(int, seen)), "warm": warm, "first": first, "all": programs()}
print(json.dumps(found))
"""


def compiled(tmp_path, **flags):
    """Returns the programs that XLA compiles by the end of each stage of a run of 20 steps."""
    environment = {**os.environ, "XLA_FLAGS": f"--xla_dump_to={tmp_path} --xla_dump_hlo_as_text"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILES, str(tmp_path), json.dumps(flags)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def kinds(names):
    """Returns {function: programs} by the name that TensorFlow gives a function's program."""
    return collections.Counter(
        re.search(r"(shard_gradient|apply|run_stack)", name)[1] for name in names
    )
