"""The outcomes of an evaluation against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from tests import numpy_network
from tests.steps import runs
from trainer.steps.evaluation import EvaluationStep


@pytest.mark.parametrize(
    "devices, jit",
    [(1, "on"), (1, "off"), (4, "off"), pytest.param(2, "on", marks=pytest.mark.slow)],
)
def test_outcomes_are_those_of_each_row_on_any_number_of_replicas(devices, jit):
    made = runs.make(devices, dropout=0.5, jit=jit)  # which plays no part
    batch = made.batches.batch(0)
    given = {
        name: np.random.default_rng(1).normal(size=weight.shape)
        for name, weight in made.network.weights.items()
    }
    step = EvaluationStep(made.network, made.placement, runs.TASK)
    weights = {name: tf.constant(value) for name, value in given.items()}
    losses, probabilities = step.outcomes(weights, batch)
    for one, other in zip(step.outcomes(step.placed(weights), batch), (losses, probabilities)):
        np.testing.assert_array_equal(one, other)
    scores = numpy_network.logits(made.config.model, given, batch.inputs, batch.lengths)
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, shares, rtol=1e-10)
    np.testing.assert_allclose(
        losses, -np.log(shares[np.arange(runs.BATCH), batch.targets]), rtol=1e-10
    )
