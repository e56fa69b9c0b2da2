"""Steps over frames, with classes and with values, in any division of rows and steps."""

import functools

import numpy as np
import pytest

from tests.steps import runs

KINDS = {
    "values": {"frame": (5,), "values": 2, "frame_encoder": "dense"},
    "classes": {"frame": (3, 4), "frame_encoder": "convolution", "cell": "gru"},
}


@functools.cache
def six_steps(kind, **division):
    made = runs.make(**{"dropout": 0.3, "clip_norm": 0.5, **KINDS[kind], **division})
    return runs.run(made, 6), made.state.snapshot()


@pytest.mark.parametrize(
    "kind, division",
    [
        ("values", {"devices": 2, "shards": 2}),
        ("classes", {"accumulate": 3}),
        *(
            pytest.param(kind, division, marks=pytest.mark.slow)
            for kind in KINDS
            for division in ({"device_type": "TPU"}, {"devices": 4, "device_type": "GPU"})
        ),
    ],
)
def test_any_division_of_the_sequences_takes_the_same_steps(kind, division):
    (expected, whole), (metrics, ours) = six_steps(kind), six_steps(kind, **division)
    assert expected.sums.keys() == metrics.sums.keys()
    for name, sums in expected.sums.items():
        np.testing.assert_allclose(metrics.sums[name], sums, rtol=1e-11, err_msg=name)
    assert ours.keys() == whole.keys()
    for name, value in whole.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-7, atol=1e-11, err_msg=name)


def test_a_step_over_frames_moves_by_the_gradient_of_numpy():
    made, batch, before, metrics, moved = runs.one_plain_step(frame=(3,), frame_encoder="dense")
    loss, gradients = runs.numpy_gradients(made, batch, before)
    assert metrics.sums["loss_sum"][0] == pytest.approx(loss, rel=1e-12)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(moved[name], gradient, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("kind", [pytest.param("values", marks=pytest.mark.slow), "classes"])
def test_neither_the_length_of_a_loop_nor_a_resume_changes_a_bit(kind):
    flags = {**KINDS[kind], "precision": "float32", "dropout": 0.3, "ema": 0.9}
    whole = runs.make(**flags)
    runs.run(whole, 5)
    ours = runs.make(**flags)
    runs.run(ours, 2)
    resumed = runs.make(**flags)
    resumed.state.restore(ours.state.snapshot(), "the snapshot")
    runs.run(resumed, 3, first=2)
    runs.assert_same_bits(resumed.state.snapshot(), whole.state.snapshot())


def test_what_can_be_learned_is_learned():
    found = runs.run(runs.make(**KINDS["values"], units=(16,), learning_rate=0.03), 80).sums
    losses = found["loss_sum"] / found["count"]
    assert losses[-10:].mean() < 0.2 * losses[:5].mean()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_fused_steps_are_those_of_separate_programs(kind):
    flags = {**KINDS[kind], "jit": "on", "padding": "pre"}
    ours, expected = runs.make(**flags, fuse="on"), runs.make(**flags)
    metrics, theirs = runs.run(ours, 40), runs.run(expected, 40)
    np.testing.assert_allclose(metrics.sums["loss_sum"], theirs.sums["loss_sum"], rtol=1e-11)
