"""Compiled steps against NumPy, under any split of the batch, and what a step must never do."""

import collections
import functools
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests import numpy_network
from trainer import config
from trainer.data import pipeline
from trainer.data.store import Split
from trainer.devices.placement import Placement, bounds
from trainer.models.networks import Network
from trainer.steps import optimizer, state, steps
from trainer.tasks import table

ROOT = pathlib.Path(__file__).resolve().parents[2]
TASK = table.TASKS["classification"]
VOCABULARY, CLASSES = 20, 3
BATCH = 14  # An odd number of rows for each of 2 replicas, and not the same for each of 4.
# One padded length and the cheapest cell. XLA compiles for seconds what runs for milliseconds: on
# where it matters.
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
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, longest + 1, size)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    labels = generator.integers(0, CLASSES, size).astype(np.int32)
    tokens = generator.integers(1, VOCABULARY, lengths.sum())
    tokens[offsets[:-1]] = 1 + labels  # something to learn
    return Split(tokens.astype(np.int32), offsets, labels)


Made = collections.namedtuple("Made", "steps state batches network config placement")


def make(devices=1, class_weights=(), total=100, **flags):
    """A run as `train` puts it together, on some of this process' logical devices."""
    made_of = config.from_flat({**SMALL, **flags})
    names = tuple(f"/device:CPU:{i}" for i in range(devices))
    spanning = (
        tf.distribute.OneDeviceStrategy(names[0])
        if devices == 1
        else tf.distribute.MirroredStrategy(names)
    )
    placement = Placement(spanning, "CPU", names)
    network = Network(
        made_of.model,
        VOCABULARY,
        CLASSES,
        seed=made_of.run.seed,
        precision=made_of.run.precision,
        jit=made_of.run.jit,
    )
    built = optimizer.Optimizer(made_of.optimizer, network.weights, total)
    run_state = state.State(network, built, TASK)
    batches = pipeline.TrainingBatches(a_split(), made_of.input, made_of.run.seed)
    train_steps = steps.TrainSteps(network, run_state, placement, made_of, class_weights)
    return Made(train_steps, run_state, batches, network, made_of, placement)


def run(made, count, first=0):
    return made.steps.run(made.steps.source(made.batches, first), count)


def weights_of(made):
    return {name: weight.numpy() for name, weight in made.network.weights.items()}


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.tobytes() == other[name].tobytes(), name


# --- Replicas, shards, parts ----------------------------------------------------------------------


@functools.cache
def hundred_steps(**flags):
    """(metrics, weights) of 100 steps with dropout, which every split of the batch must agree
    with.
    """
    made = make(**{"dropout": 0.3, "clip_norm": 0.5, "jit": "on", **flags})
    return run(made, 100), weights_of(made)


SPLITS = [
    {"devices": 2, "shards": 2, "accumulate": 2},
    {"devices": 4},
    {"fuse": "on"},
    pytest.param({"devices": 2}, marks=pytest.mark.slow),
    pytest.param({"shards": 3}, marks=pytest.mark.slow),
    pytest.param({"accumulate": 3}, marks=pytest.mark.slow),
    pytest.param({"devices": 4, "shards": 3}, marks=pytest.mark.slow),
    pytest.param({"shards": 2, "accumulate": 3}, marks=pytest.mark.slow),
    pytest.param({"devices": 2, "accumulate": 3, "jit": "off"}, marks=pytest.mark.slow),
    pytest.param(
        {"devices": 4, "cell": "lstm", "bidirectional": True, "pooling": "max"},
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize("split", SPLITS)
def test_any_split_of_the_batch_takes_the_same_hundred_steps(split):
    """In float64 sums in another order differ in the last digits; a gradient summed twice or
    another mask shows.
    """
    whole = {
        name: value
        for name, value in split.items()
        if name not in ("devices", "shards", "accumulate", "fuse")
    }
    (expected, weights), (metrics, ours) = hundred_steps(**whole), hundred_steps(**split)
    np.testing.assert_array_equal(metrics.sums["count"], np.full(100, BATCH))
    np.testing.assert_array_equal(metrics.sums["correct"], expected.sums["correct"])
    np.testing.assert_allclose(metrics.sums["loss_sum"], expected.sums["loss_sum"], rtol=1e-9)
    np.testing.assert_allclose(metrics.gradient_norm, expected.gradient_norm, rtol=1e-9)
    for name, weight in weights.items():
        np.testing.assert_allclose(ours[name], weight, rtol=1e-7, atol=1e-9, err_msg=name)
    assert (
        metrics.sums["loss_sum"][-20:].mean() < 0.8 * metrics.sums["loss_sum"][:20].mean()
    )  # and they train


@pytest.mark.parametrize(
    "split, jit",
    [
        ({"devices": 2}, "off"),
        pytest.param({"devices": 4, "shards": 2}, "on", marks=pytest.mark.slow),
    ],
)
def test_in_float32_a_hundred_losses_agree_to_four_digits(split, jit):
    expected, metrics = (
        hundred_steps(precision="float32", jit=jit, **changes)[0] for changes in ({}, split)
    )
    np.testing.assert_allclose(metrics.sums["loss_sum"], expected.sums["loss_sum"], rtol=1e-4)


# --- The gradient ---------------------------------------------------------------------------------


def numpy_gradients(made, batch, weights, smoothing=0.0, class_weights=None):
    """(loss sum, {name: gradient of the mean loss}) of a batch, from the equations."""

    def loss(weights):
        scores = numpy_network.logits(made.config.model, weights, batch.tokens, batch.lengths)
        return numpy_network.loss_sum(scores, batch.labels, smoothing, class_weights)

    weights = {name: weight.astype(np.float64) for name, weight in weights.items()}
    found = numpy_network.gradients(loss, weights)
    return loss(weights), {name: gradient / len(batch.labels) for name, gradient in found.items()}


def norm_of(gradients):
    return np.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))


def one_plain_step(**flags):
    """A step of SGD at rate 1 without momentum takes exactly the gradient away.

    Returns (what ran, the batch, weights before, metrics, {name: what was taken away}).
    """
    made = make(optimizer="sgd", momentum=0.0, **{"learning_rate": 1.0, **flags})
    before = weights_of(made)
    while not (metrics := run(made, 1)).gradient_norm[0]:
        pass  # The first loss scales may be too large for float16: such a step takes nothing.
    after = weights_of(made)
    moved = {name: before[name].astype(np.float64) - after[name] for name in before}
    return made, made.batches.batch(0), before, metrics, moved


@pytest.mark.parametrize(
    "flags",
    [
        {"jit": "on"},
        {"label_smoothing": 0.2, "class_weights": (0.5, 2.0, 1.0)},
        {"shards": 3, "accumulate": 2},
        {"devices": 2, "shards": 2},
        {"cell": "gru", "bidirectional": True, "pooling": "mean"},
        {"cell": "lstm", "padding": "pre", "one_hot": True},
        pytest.param(
            {"cell": "lstm", "units": (3, 2), "bidirectional": True, "devices": 2, "jit": "on"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_step_moves_by_the_gradient_of_the_mean_loss(flags):
    made, batch, before, metrics, moved = one_plain_step(**flags)
    smoothing, class_weights = flags.get("label_smoothing", 0.0), flags.get("class_weights")
    loss_sum, expected = numpy_gradients(made, batch, before, smoothing, class_weights)
    scores = numpy_network.logits(made.config.model, before, batch.tokens, batch.lengths)
    np.testing.assert_allclose(metrics.sums["loss_sum"], [loss_sum], rtol=1e-12)
    np.testing.assert_allclose(metrics.gradient_norm, [norm_of(expected)], rtol=1e-10)
    assert metrics.sums["correct"].tolist() == [(scores.argmax(axis=1) == batch.labels).sum()]
    assert metrics.sums["count"].tolist() == [BATCH]
    assert 0 <= metrics.input_seconds[0] < 60
    for name, gradient in expected.items():
        np.testing.assert_allclose(moved[name], gradient, rtol=1e-9, atol=1e-14, err_msg=name)


def test_a_step_is_clipped_after_the_batch_is_added_up():
    made, batch, before, metrics, moved = one_plain_step(clip_norm=0.05, shards=2)
    _, expected = numpy_gradients(made, batch, before)
    assert norm_of(expected) > 0.1
    # as it was before
    np.testing.assert_allclose(metrics.gradient_norm, [norm_of(expected)], rtol=1e-10)
    for name, gradient in expected.items():
        clipped = 0.05 / norm_of(expected) * gradient
        np.testing.assert_allclose(moved[name], clipped, rtol=1e-9, atol=1e-14, err_msg=name)


def test_three_steps_of_adam_are_those_of_numpy():
    """Gradients from the equations, the update from Kingma and Ba: nothing of ours in between."""
    made = make(warmup_steps=2, ema=0.5)
    weights = weights_of(made)
    m, v, average = (
        {name: np.zeros_like(weight) for name, weight in weights.items()} for _ in range(3)
    )
    for t in range(1, 4):
        _, gradients = numpy_gradients(made, made.batches.batch(t - 1), weights)
        rate = 0.01 * min(1, t / 2)
        for name, g in gradients.items():
            m[name], v[name] = 0.9 * m[name] + 0.1 * g, 0.999 * v[name] + 0.001 * g * g
            correction = np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            weights[name] = weights[name] - rate * correction * m[name] / (np.sqrt(v[name]) + 1e-7)
            average[name] = weights[name] if t == 1 else 0.5 * (average[name] + weights[name])
    run(made, 3)
    found = made.state.snapshot()
    for name in weights:
        np.testing.assert_allclose(found[f"model/{name}"], weights[name], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(found[f"optimizer/{name}/m"], m[name], rtol=1e-8, atol=1e-13)
        np.testing.assert_allclose(found[f"optimizer/{name}/v"], v[name], rtol=1e-8, atol=1e-16)
        np.testing.assert_allclose(
            found[f"optimizer/{name}/average"], average[name], rtol=1e-9, atol=1e-12
        )


# Of the norm of a weight's gradient. Rounding errors of a format with p bits, 2^-p each, add up
# over steps and rows.
BOUNDS = {"float32": 2e-6, "bfloat16": 5e-2, "float16": 5e-3}


@pytest.mark.parametrize("precision, bound", BOUNDS.items())
@pytest.mark.parametrize(
    "cell, jit",
    [
        ("lstm", "off"),
        *(
            pytest.param(cell, "on", marks=pytest.mark.slow)
            for cell in ("simple_rnn", "lstm", "gru")
        ),
    ],
)
def test_gradients_in_each_precision_are_near_those_of_float64(precision, bound, cell, jit):
    made, batch, before, metrics, moved = one_plain_step(precision=precision, cell=cell, jit=jit)
    loss_sum, expected = numpy_gradients(made, batch, before)
    np.testing.assert_allclose(metrics.sums["loss_sum"], [loss_sum], rtol=bound)
    for name, gradient in expected.items():
        assert np.linalg.norm(moved[name] - gradient) < bound * np.linalg.norm(gradient) + 1e-7, (
            name
        )


# --- Loops, stops and resumes ---------------------------------------------------------------------


@functools.cache
def twelve_steps(loops, precision, jit, fuse):
    """(metrics joined, state) of 12 steps with dropout, run in `loops`; None saves and goes on in a
    new object.
    """
    flags = {
        "dropout": 0.4,
        "ema": 0.9,
        "precision": precision,
        "clip_norm": 1.0,
        "jit": jit,
        "fuse": fuse,
        # Batches of two lengths are in stacks of their own.
        "max_length": 16 if fuse == "on" else 8,
    }
    made, step, metrics = make(**flags), 0, []
    iterator = made.steps.source(made.batches, 0)
    for count in loops:
        if count is None:
            saved, made = made.state.snapshot(), make(**flags)
            made.state.restore(saved, "the snapshot")
            iterator = made.steps.source(made.batches, step)
        else:
            metrics.append(made.steps.run(iterator, count)._replace(input_seconds=()))
            step += count
    joined = tf.nest.map_structure(lambda *parts: np.concatenate(parts), *metrics)
    return np.stack(tf.nest.flatten(joined)), made.state.snapshot()


@pytest.mark.parametrize(
    "loops, kind",
    [
        ((1, 1, 1, 1, 1, None, 7), ("float32", "on", "off")),
        ((1, 1, 1, 1, 1, None, 7), ("float32", "on", "on")),
        ((1, 3, None, 8), ("float16", "off", "off")),  # the scale falls in the first steps
        pytest.param((1, 3, None, 8), ("float16", "on", "off"), marks=pytest.mark.slow),
        pytest.param((1, 3, None, 8), ("float16", "on", "on"), marks=pytest.mark.slow),
    ],
)
def test_neither_the_length_of_a_loop_nor_a_resume_changes_a_bit(loops, kind):
    (expected, whole), (metrics, ours) = twelve_steps((12,), *kind), twelve_steps(loops, *kind)
    assert metrics.tobytes() == expected.tobytes()
    assert_same_bits(ours, whole)
    assert ours["step"] == 12


def test_the_sums_of_an_epoch_are_those_of_its_steps():
    made = make()
    run(made, 3)
    made.state.begin_epoch()
    metrics = run(made, 4, first=3)
    sums = {name: total.numpy() for name, total in made.state.epoch.items()}
    assert sums == {
        "loss_sum": metrics.sums["loss_sum"].sum(),
        "correct": metrics.sums["correct"].sum(),
        "count": 4 * BATCH,
    }


@pytest.mark.parametrize("fuse", ["off", "on"])
def test_a_loop_ends_with_the_first_step_that_is_not_finite(fuse):
    made = make(precision="float32", fuse=fuse, jit=fuse)
    iterator = made.steps.source(made.batches, 0)
    made.steps.run(iterator, 3)
    weight = made.network.weights["logits/bias"]
    weight.assign(np.where(np.arange(CLASSES) == 1, np.nan, weight.numpy()))
    metrics = made.steps.run(iterator, 10)
    assert len(metrics.sums["loss_sum"]) == 1 and not np.isfinite(metrics.sums["loss_sum"][0])
    assert made.state.step.numpy() == 4
    if fuse == "off":
        # no batch was lost
        assert next(iterator).labels.numpy().tolist() == made.batches.batch(4).labels.tolist()


def test_a_gradient_that_is_not_finite_ends_a_loop_though_the_loss_is():
    """1e25 overflows when the norm squares it; so does a gradient of Inf."""
    made = make(
        precision="float32", optimizer="sgd", learning_rate=1e-3, one_hot=True, cell="simple_rnn"
    )
    for name in ("rnn_0/kernel", "rnn_0/recurrent_kernel"):
        weight = made.network.weights[name]
        weight.assign(np.zeros(weight.shape))  # tanh stays where its slope is 1
    made.network.weights["logits/kernel"].assign(np.full((4, CLASSES), 1e25) * [1, -1, 0])
    metrics = run(made, 5)
    assert len(metrics.sums["loss_sum"]) == 1
    assert np.isfinite(metrics.sums["loss_sum"][0]) and not np.isfinite(metrics.gradient_norm[0])


# --- float16 --------------------------------------------------------------------------------------


def test_a_gradient_too_large_for_float16_makes_no_update_and_halves_the_scale():
    """Every row whose score is wrong adds, at the largest scale, 2^15 to one gradient: two overflow
    65504.
    """
    made = make(precision="float16", learning_rate=1e-3)
    bias = made.network.weights["logits/bias"]
    bias.assign(np.array([-30.0, -30.0, 30.0]))
    assert (made.batches.batch(0).labels != 2).sum() >= 3
    iterator, scales = made.steps.source(made.batches, 0), []
    before = weights_of(made)
    while not (metrics := made.steps.run(iterator, 1)).gradient_norm[0]:
        assert_same_bits(weights_of(made), before)
        assert made.state.optimizer.iteration.numpy() == 0
        assert np.isfinite(metrics.sums["loss_sum"]).all()
        scales.append(made.state.scaling()["loss_scale"])
    assert scales == [2.0**14, 2.0**13, 2.0**12, 2.0**11][: len(scales)] and len(scales) >= 1
    skipped = len(scales)
    assert made.state.scaling() == {"loss_scale": scales[-1], "skipped_steps": skipped}
    assert (made.state.step.numpy(), made.state.optimizer.iteration.numpy()) == (skipped + 1, 1)
    assert any(
        before[name].tobytes() != weight.tobytes() for name, weight in weights_of(made).items()
    )


def test_small_gradients_survive_float16_because_the_loss_is_scaled():
    """Rows that are right but for e^-12, 6e-6 each; float16 has few digits for that, and none below
    6e-8.
    """
    made = make(precision="float16", optimizer="sgd", momentum=0.0, learning_rate=1e6)
    made.network.weights["logits/bias"].assign(np.array([12.0, 0.0, 0.0]))
    split = a_split()
    split = Split(split.tokens, split.offsets, np.zeros_like(split.labels))
    right = pipeline.TrainingBatches(split, made.config.input, 0)
    before = weights_of(made)
    made.steps.run(iter(right.dataset(0)), 1)
    _, expected = numpy_gradients(made, right.batch(0), before)
    for name in ("rnn_0/kernel", "embedding/embeddings", "logits/kernel"):
        moved = (before[name].astype(np.float64) - made.network.weights[name].numpy()) / 1e6
        assert np.linalg.norm(moved - expected[name]) < 0.02 * np.linalg.norm(expected[name]), name


def test_a_gradient_that_overflows_at_every_scale_is_divergence():
    made = make(precision="float16")
    made.network.weights["rnn_0/kernel"].assign(np.full((3, 4), 60_000.0))
    made.network.weights["logits/kernel"].assign(np.full((4, CLASSES), 60_000.0) * [1, -1, 0])
    made.network.weights["embedding/embeddings"].assign(np.zeros((VOCABULARY, 3)))
    before = weights_of(made)
    metrics = run(made, 40)
    assert len(metrics.gradient_norm) == 16  # 2^15 ... 2^0
    np.testing.assert_array_equal(metrics.gradient_norm[:-1], 0)
    assert (
        not np.isfinite(metrics.gradient_norm[-1]) and np.isfinite(metrics.sums["loss_sum"]).all()
    )
    assert_same_bits(weights_of(made), before)


# --- Packing --------------------------------------------------------------------------------------


def test_what_is_packed_comes_out_again():
    tensors = [
        tf.reshape(tf.range(6.0), [2, 3]),
        tf.constant(7.0),
        tf.range(8.0, 12.0),
        tf.zeros([0, 3]),
        tf.ones([1, 1, 2]),
    ]
    packed = steps.pack(tensors)
    assert packed.shape == (6 + 1 + 4 + 0 + 2,)
    for one, other in zip(
        steps.unpack(packed, [tensor.shape for tensor in tensors]), tensors, strict=True
    ):
        np.testing.assert_array_equal(one, other)


# --- Evaluation -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "devices, jit",
    [(1, "on"), (1, "off"), (4, "off"), pytest.param(2, "on", marks=pytest.mark.slow)],
)
def test_outcomes_are_those_of_each_row_on_any_number_of_replicas(devices, jit):
    made = make(devices, dropout=0.5, jit=jit)  # which plays no part
    batch = made.batches.batch(0)
    given = {
        name: np.random.default_rng(1).normal(size=weight.shape)
        for name, weight in made.network.weights.items()
    }
    losses, probabilities = steps.EvaluationStep(made.network, made.placement, TASK).outcomes(
        {name: tf.constant(value) for name, value in given.items()}, batch
    )
    scores = numpy_network.logits(made.config.model, given, batch.tokens, batch.lengths)
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, shares, rtol=1e-10)
    np.testing.assert_allclose(losses, -np.log(shares[np.arange(BATCH), batch.labels]), rtol=1e-10)


# --- Compiling ------------------------------------------------------------------------------------

COMPILES = """
import json, os, pathlib, sys
sys.path.insert(0, ".")
import tensorflow as tf
[cpu] = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tests.steps import steps_test
dump = pathlib.Path(sys.argv[1])

def programs():
    # XLA writes a file for each program that it compiles.
    return sorted(path.name for path in dump.glob("*.before_optimizations.txt"))

made = steps_test.make(**json.loads(sys.argv[2]))
counts = []
for length in made.batches.lengths:
    made.steps.warm_up(int(length), made.batches.batch_size)
warm = programs()
iterator = made.steps.source(made.batches, 0)
seen = {made.batches.padded_length(step) for step in range(20)}
made.steps.run(iterator, 1)
first = programs()
made.steps.run(iterator, 19)
print(json.dumps({"lengths": sorted(map(int, seen)), "warm": warm, "first": first, "all": programs()}))
"""


def compiled(tmp_path, **flags):
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
    """{function: programs} by the name that TensorFlow gives a function's program."""
    return collections.Counter(
        re.search(r"(shard_gradient|apply|run_stack)", name)[1] for name in names
    )


@pytest.mark.parametrize(
    "flags, gradients",
    [
        pytest.param({"devices": 1, "shards": 1}, 1, marks=pytest.mark.slow),
        pytest.param({"devices": 1, "shards": 3}, 2, marks=pytest.mark.slow),  # 14 rows: 4, 5 and 5
        ({"devices": 2, "shards": 1}, 2),  # a program for each device
    ],
)
def test_each_shape_is_compiled_once_and_before_it_is_needed(tmp_path, flags, gradients):
    found = compiled(tmp_path, max_length=16, jit="on", **flags)
    assert found["lengths"] == [8, 16]
    assert kinds(found["warm"]) == {"shard_gradient": 2 * gradients}
    assert kinds(found["first"]) == {"shard_gradient": 2 * gradients, "apply": 1}
    assert found["all"] == found["first"]


def test_a_program_of_many_steps_is_compiled_once_for_each_length_and_holds_all_of_them(tmp_path):
    found = compiled(tmp_path, max_length=16, jit="on", fuse="on")
    assert found["lengths"] == [8, 16]
    assert kinds(found["warm"]) == {"run_stack": 2}
    assert found["all"] == found["warm"]


# --- Many steps in one program --------------------------------------------------------------------


def test_stacks_are_given_out_in_order_whatever_the_portions():
    batches = pipeline.TrainingBatches(a_split(), config.Input(batch_size=BATCH, max_length=16), 0)
    stacks, step = steps.Stacks(batches.stacks(3, 5)), 3
    for most in (1, 4, 2, 100, 1, 7, 3, 3, 9):
        stack, first, end = stacks.take(most)
        assert 1 <= end - first <= most
        for at in range(first, end):
            for entries, array in zip(stack, batches.batch(step), strict=True):
                np.testing.assert_array_equal(entries[at], array)
            step += 1


@pytest.mark.parametrize(
    "flags, fused",
    [
        ({"fuse": "on", "jit": "on"}, True),
        ({"fuse": "off", "jit": "on"}, False),
        ({"fuse": "on", "jit": "off"}, False),  # Keras' layers, which are not compiled
        ({"fuse": "on", "jit": "on", "devices": 2}, False),  # a run that goes on with more devices
    ],
)
def test_steps_are_fused_on_one_device_where_xla_compiles_them(flags, fused):
    assert make(**flags).steps.fused == fused


# --- What a TPU needs -----------------------------------------------------------------------------


@pytest.mark.parametrize("rows, parts", [(14, 2), (14, 7), (12, 4)])
def test_a_part_whose_number_is_known_only_to_the_program_has_a_size_that_is_known_before(
    rows, parts
):
    """As each replica of a TPU takes its rows: XLA compiles no array whose size it does not
    know.
    """
    batch = pipeline.Batch(
        *(
            tf.constant(array[:rows])
            for array in pipeline.TrainingBatches(a_split(), config.Input(), 0).batch(0)
        )
    )
    part_of = tf.function(lambda part: steps._part(batch, part, parts), jit_compile=True)
    for part, (first, end) in enumerate(bounds(rows, parts)):
        found = part_of(tf.constant(part))
        assert found.rows.shape == (rows // parts,)
        for ours, array in zip(found, batch, strict=True):
            np.testing.assert_array_equal(ours, array[first:end])


def test_accumulation_inside_one_program_takes_the_same_step():
    """The program of a TPU, compiled by XLA for this CPU: parts one after the other, shards, all of
    static size.
    """
    flags = {"dropout": 0.3, "clip_norm": 0.5, "jit": "on", "batch_size": 12}
    expected, ours = make(**flags), make(**flags, fuse="on", accumulate=3, shards=2)
    assert ours.steps.fused
    metrics, whole = run(ours, 3), run(expected, 3)
    np.testing.assert_allclose(metrics.sums["loss_sum"], whole.sums["loss_sum"], rtol=1e-9)
    np.testing.assert_allclose(metrics.gradient_norm, whole.gradient_norm, rtol=1e-9)
