"""Many steps in one program."""

import numpy as np
import pytest
import tensorflow as tf

from tests.steps import runs
from trainer.data import fields
from trainer.flags.run import Input
from trainer.steps import fused


def test_a_program_of_many_steps_is_compiled_once_for_each_length_and_holds_all_of_them(tmp_path):
    found = runs.compiled(tmp_path, max_length=16, jit="on", fuse="on")
    assert found["lengths"] == [8, 16]
    assert runs.kinds(found["warm"]) == {"run_stack": 2}
    assert found["all"] == found["warm"]


def test_stacks_are_given_out_in_order_whatever_the_portions():
    batches = runs.batches_of(runs.a_split(), Input(batch_size=runs.BATCH, max_length=16))
    stacks, step = fused.Stacks(batches.stacks(3, 5)), 3
    for most in (1, 4, 2, 100, 1, 7, 3, 3, 9):
        stack, _, first, end = stacks.take(most)
        assert 1 <= end - first <= most
        for at in range(first, end):
            for entries, array in zip(stack, batches.batch(step), strict=True):
                np.testing.assert_array_equal(entries[at], array)
            step += 1


@pytest.mark.parametrize("padding", ["post", "pre"])
def test_on_a_tpu_a_call_takes_as_many_steps_whatever_their_lengths(padding):
    """The program of a TPU runs on this CPU; a stack mixes lengths, each with its own branch."""
    flags = {"max_length": 16, "padding": padding, "dropout": 0.3, "word_dropout": 0.2}
    expected, ours = runs.make(**flags), runs.make(**flags, device_type="TPU")
    lengths = {ours.batches.plan.padded_length(step) for step in range(40)}
    assert lengths == ({8, 16} if padding == "post" else {16})
    source, portions = ours.steps.source(ours.batches, 0), []
    take = source.take
    source.take = lambda most: portions.append(most) or take(most)
    found, metrics = ours.steps.run(source, 40), runs.run(expected, 40)
    assert portions == [40, 40 - fused.STACK]
    np.testing.assert_allclose(found.sums["loss_sum"], metrics.sums["loss_sum"], rtol=1e-10)
    np.testing.assert_allclose(found.gradient_norm, metrics.gradient_norm, rtol=1e-9)
    assert ours.state.step.numpy() == 40


@pytest.mark.parametrize("target", fields.TARGETS.values(), ids=lambda target: target.kind)
@pytest.mark.parametrize("rows, length", [(14, 8), (3, 16)])
def test_the_bytes_of_a_call_are_those_of_its_stack(rows, length, target):
    form = fields.Form(target, values=3 if target.numbers else 0)
    batch = tf.nest.map_structure(
        lambda spec: np.zeros(
            [fused.STACK, rows, *(size or length for size in spec.shape[1:])], spec.dtype.name
        ),
        fused.pipeline.signature(form),
    )
    padded = (length, length) if target.sequence else length
    found = sum(values.nbytes for values in tf.nest.flatten(batch))
    assert fused.stack_bytes(rows, padded, form) == found


def test_a_core_of_a_tpu_gets_its_own_rows_and_no_others():
    made = runs.make(devices=2, device_type="TPU")
    batches, _, _, _ = made.steps.source(made.batches, 0).take(1)
    dealt = made.steps._dealt(batches)
    halves = [made.placement.strategy.experimental_local_results(values) for values in dealt]
    for values, parts in zip(batches, halves, strict=True):
        assert [part.shape[1] for part in parts] == [runs.BATCH // 2] * 2
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), values)
        assert sum(part.numpy().nbytes for part in parts) == values.numpy().nbytes


def test_accumulation_inside_one_program_takes_the_same_step():
    """The program of a TPU, compiled by XLA for this CPU: parts, shards, all of static size."""
    flags = {"dropout": 0.3, "clip_norm": 0.5, "jit": "on", "batch_size": 12}
    expected, ours = runs.make(**flags), runs.make(**flags, fuse="on", accumulate=3, shards=2)
    assert isinstance(ours.steps, fused.Fused)
    metrics, whole = runs.run(ours, 3), runs.run(expected, 3)
    np.testing.assert_allclose(metrics.sums["loss_sum"], whole.sums["loss_sum"], rtol=1e-9)
    np.testing.assert_allclose(metrics.gradient_norm, whole.gradient_norm, rtol=1e-9)


def unknown(traced):
    """Returns [(op, name)] of the nodes of which a trace does not know the shape of each result."""
    graph = traced.graph.as_graph_def(add_shapes=True)
    nodes = [*graph.node, *(node for each in graph.library.function for node in each.node_def)]
    return [
        (node.op, node.name)
        for node in nodes
        for shape in node.attr["_output_shapes"].list.shape
        if shape.unknown_rank or any(axis.size < 0 for axis in shape.dim)
    ]


@pytest.mark.parametrize(
    "flags",
    [
        {"cell": "simple_rnn"},
        {"cell": "lstm"},
        {"cell": "gru"},
        runs.TPU_OPTIONS,
        {"cell": "gru", "frame": (4, 5), "frame_encoder": "convolution", "values": 2},
    ],
    ids=lambda flags: flags["cell"] + "-options" * (len(flags) > 1),
)
def test_a_tpu_knows_every_shape_of_its_program(flags):
    made = runs.make(device_type="TPU", batch_size=16, max_length=16, **flags)
    stack, lengths, _, _ = made.steps.source(made.batches, 0).take(1)
    numbers = tf.constant(0), tf.constant(1)
    assert not unknown(made.steps._program.get_concrete_function(stack, lengths, *numbers))
