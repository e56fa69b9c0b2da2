"""The loss of the next token and its metrics, against NumPy written from the definitions."""

import json
import math

import numpy as np
import pytest
import tensorflow as tf

from trainer.data.pipeline import Batch
from trainer.models.heads import StepOutputs
from trainer.tasks import language_model

GENERATOR = np.random.default_rng(0)
ROWS, LENGTH, WIDTH, WORDS = 5, 7, 3, 11
STATES = GENERATOR.normal(size=(ROWS, LENGTH, WIDTH))
TABLE = GENERATOR.normal(size=(WORDS, WIDTH))
BIAS = GENERATOR.normal(size=WORDS)
TARGETS = GENERATOR.integers(0, WORDS, (ROWS, LENGTH)).astype(np.int32)
LENGTHS = np.array([7, 1, 4, 0, 2], np.int32)
BATCH = Batch(np.arange(ROWS, dtype=np.int32), np.ones_like(TARGETS), LENGTHS, TARGETS)


def outputs_of(transposed, states=STATES):
    table = TABLE.T if transposed else TABLE
    return StepOutputs(tf.constant(states), tf.constant(table), tf.constant(BIAS), transposed)


def tokens(smoothing=0.0):
    """Returns [(row, loss, whether right)] of each token that counts, one by one."""
    found = []
    for row, length in enumerate(LENGTHS):
        for step in range(length):
            scores = TABLE @ STATES[row, step] + BIAS
            log_p = scores - np.log(np.exp(scores).sum())
            target = np.full(WORDS, smoothing / WORDS)
            target[TARGETS[row, step]] += 1 - smoothing
            right = scores.argmax() == TARGETS[row, step]
            found.append((row, -(target * log_p).sum(), right))
    return found


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_training_sums_are_those_of_each_token_by_itself(transposed, smoothing):
    _, losses, right = zip(*tokens(smoothing))
    sums = language_model.training_sums(outputs_of(transposed), BATCH, smoothing)
    np.testing.assert_allclose(sums["loss_sum"], sum(losses), rtol=1e-12)
    assert [float(sums[name]) for name in ("correct", "count")] == [sum(right), LENGTHS.sum()]


@pytest.mark.parametrize("transposed", [False, True])
def test_outcomes_are_sums_over_the_tokens_of_each_row(transposed):
    losses, right = np.zeros(ROWS), np.zeros(ROWS)
    for row, loss, is_right in tokens():
        losses[row] += loss
        right[row] += is_right
    found, correct = language_model.outcomes(outputs_of(transposed), BATCH)
    np.testing.assert_allclose(found, losses, rtol=1e-12)
    np.testing.assert_array_equal(correct, right[:, None])


def test_padded_steps_have_no_influence_whatever_they_hold():
    states, targets = STATES.copy(), TARGETS.copy()
    beyond = np.arange(LENGTH) >= LENGTHS[:, None]
    states[beyond], targets[beyond] = 1e30, 0
    for ours, theirs in (
        (BATCH, outputs_of(True)),
        (BATCH._replace(targets=targets), outputs_of(True, states)),
    ):
        sums = language_model.training_sums(theirs, ours)
        np.testing.assert_allclose(sums["loss_sum"], sum(loss for _, loss, _ in tokens()))


def test_metrics_are_means_over_the_tokens_and_those_of_their_mean_loss():
    """A uniform guess among 8 words costs 3 bits, and its perplexity is 8."""
    found = language_model.of_sums(10 * math.log(8), 4, 10)
    assert found == pytest.approx(
        {"loss": math.log(8), "perplexity": 8, "bits": 3, "accuracy": 0.4}, rel=1e-14
    )
    assert language_model.metrics(
        {"loss_sum": tf.constant(10 * math.log(8)), "correct": tf.constant(4), "count": 10}
    ) == pytest.approx(found, rel=1e-6)


@pytest.mark.parametrize(
    "loss, perplexity",
    [(0.0, 1.0), (708.0, math.exp(708.0)), (1e5, math.inf), (math.inf, math.inf)],
)
def test_a_perplexity_too_large_for_a_number_is_infinite(loss, perplexity):
    assert language_model.of_sums(3 * loss, 0, 3)["perplexity"] == perplexity


def test_a_loss_that_is_no_number_has_no_perplexity_either():
    found = language_model.of_sums(math.nan, 0, 3)
    assert all(math.isnan(found[name]) for name in ("loss", "perplexity", "bits"))


def test_the_report_has_the_metrics_and_how_many_tokens():
    losses, correct = (value.numpy() for value in language_model.outcomes(outputs_of(True), BATCH))
    metrics = language_model.Metrics.of(losses, correct, BATCH)
    _, costs, right = zip(*tokens())
    report = metrics.report(())
    assert report == pytest.approx(
        {
            "loss": np.mean(costs),
            "perplexity": np.exp(np.mean(costs)),
            "bits": np.mean(costs) / np.log(2),
            "accuracy": np.mean(right),
            "tokens": LENGTHS.sum(),
        },
        rel=1e-12,
    )
    assert json.loads(json.dumps(report)) == report


def test_a_row_without_a_token_counts_nothing():
    """Parts of a short text have such rows."""
    empty = BATCH._replace(lengths=np.zeros(ROWS, np.int32))
    losses, correct = (value.numpy() for value in language_model.outcomes(outputs_of(True), empty))
    nothing = language_model.Metrics.of(losses, correct, empty)
    assert nothing == language_model.Metrics(0.0, 0, 0)
    some = language_model.Metrics(2.0, 1, 3)
    assert (some + nothing).metrics() == some.metrics()
