"""Steps over pairs, in any division of rows and steps."""

import functools

import numpy as np
import pytest

from tests.steps import runs
from trainer.steps.fused import Fused

make = functools.partial(runs.make, pairs=True)
OTHER_NETWORK = {
    "bidirectional": True,
    "tied_embedding": True,
    "attention": "dot",
    "variational_dropout": True,
}


@functools.cache
def eight_steps(**flags):
    """Returns (metrics, snapshot) of eight steps; any division of the rows must agree with them."""
    made = make(**{"dropout": 0.3, "clip_norm": 0.5, "label_smoothing": 0.1, **flags})
    return runs.run(made, 8), made.state.snapshot()


LSTM = {**OTHER_NETWORK, "cell": "lstm", "units": (4, 3)}
DIVISIONS = [
    {"devices": 2, "shards": 2},
    {"accumulate": 3},
    {"device_type": "TPU"},
    {"devices": 4, "device_type": "GPU"},
]


@pytest.mark.parametrize(
    "network, division",
    [
        ({}, {"devices": 2, "shards": 2}),
        *(pytest.param({}, each, marks=pytest.mark.slow) for each in DIVISIONS[1:]),
        *(pytest.param(LSTM, each, marks=pytest.mark.slow) for each in DIVISIONS),
    ],
    ids=str,
)
def test_any_division_of_the_pairs_takes_the_same_steps(network, division):
    (expected, whole), (metrics, ours) = eight_steps(**network), eight_steps(**network, **division)
    np.testing.assert_array_equal(metrics.sums["count"], expected.sums["count"])
    np.testing.assert_array_equal(metrics.sums["correct"], expected.sums["correct"])
    np.testing.assert_allclose(metrics.sums["loss_sum"], expected.sums["loss_sum"], rtol=1e-11)
    np.testing.assert_allclose(metrics.gradient_norm, expected.gradient_norm, rtol=1e-9)
    assert ours.keys() == whole.keys()
    for name, value in whole.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-7, atol=1e-11, err_msg=name)


def test_the_tokens_of_a_step_are_those_of_its_targets():
    made = make()
    metrics = runs.run(made, 4)
    counts = [made.batches.batch(step).targets.lengths.sum() for step in range(4)]
    np.testing.assert_array_equal(metrics.sums["count"], counts)


def test_what_can_be_learned_is_learned():
    losses = runs.run(make(cell="gru", units=(16,), learning_rate=0.03), 150).sums
    per_token = losses["loss_sum"] / losses["count"]
    assert per_token[-10:].mean() < 0.6 * per_token[:10].mean()


@pytest.mark.parametrize(
    "flags",
    [
        {"precision": "float32", **OTHER_NETWORK},
        pytest.param({"precision": "float32", "devices": 2}, marks=pytest.mark.slow),
        pytest.param({"precision": "bfloat16", **LSTM}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_neither_the_length_of_a_loop_nor_a_resume_changes_a_bit(flags):
    whole = make(dropout=0.3, **flags)
    runs.run(whole, 7)
    ours = make(dropout=0.3, **flags)
    runs.run(ours, 3)
    resumed = make(dropout=0.3, **flags)
    resumed.state.restore(ours.state.snapshot(), "the snapshot")
    for first, count in ((3, 1), (4, 3)):
        runs.run(resumed, count, first=first)
    runs.assert_same_bits(resumed.state.snapshot(), whole.state.snapshot())


@pytest.mark.slow
def test_fused_steps_are_those_of_separate_programs():
    flags = {"jit": "on", "dropout": 0.3, "tied_embedding": True}
    ours, expected = make(**flags, fuse="on"), make(**flags)
    assert isinstance(ours.steps, Fused) and not isinstance(expected.steps, Fused)
    metrics, theirs = runs.run(ours, 40), runs.run(expected, 40)
    np.testing.assert_allclose(metrics.sums["loss_sum"], theirs.sums["loss_sum"], rtol=1e-12)
