"""Many steps in one program."""

import numpy as np

from tests.steps import runs
from trainer import config
from trainer.steps import fused


def test_a_program_of_many_steps_is_compiled_once_for_each_length_and_holds_all_of_them(tmp_path):
    found = runs.compiled(tmp_path, max_length=16, jit="on", fuse="on")
    assert found["lengths"] == [8, 16]
    assert runs.kinds(found["warm"]) == {"run_stack": 2}
    assert found["all"] == found["warm"]


def test_stacks_are_given_out_in_order_whatever_the_portions():
    batches = runs.batches_of(runs.a_split(), config.Input(batch_size=runs.BATCH, max_length=16))
    stacks, step = fused.Stacks(batches.stacks(3, 5)), 3
    for most in (1, 4, 2, 100, 1, 7, 3, 3, 9):
        stack, first, end = stacks.take(most)
        assert 1 <= end - first <= most
        for at in range(first, end):
            for entries, array in zip(stack, batches.batch(step), strict=True):
                np.testing.assert_array_equal(entries[at], array)
            step += 1


def test_accumulation_inside_one_program_takes_the_same_step():
    """The program of a TPU, compiled by XLA for this CPU: parts, shards, all of static size."""
    flags = {"dropout": 0.3, "clip_norm": 0.5, "jit": "on", "batch_size": 12}
    expected, ours = runs.make(**flags), runs.make(**flags, fuse="on", accumulate=3, shards=2)
    assert isinstance(ours.steps, fused.Fused)
    metrics, whole = runs.run(ours, 3), runs.run(expected, 3)
    np.testing.assert_allclose(metrics.sums["loss_sum"], whole.sums["loss_sum"], rtol=1e-9)
    np.testing.assert_allclose(metrics.gradient_norm, whole.gradient_norm, rtol=1e-9)
