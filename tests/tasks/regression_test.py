"""Losses against Keras and metrics against their definitions, in the units of the data."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.data.pipeline import Batch
from trainer.tasks import regression

GENERATOR = np.random.default_rng(0)
ROWS = 50
MEAN, DEVIATION = np.array([3e4, -0.2, 7.0]), np.array([2e3, 1e-3, 1.0])
NAMES = ("mass", "slope", "constant")
TARGETS = GENERATOR.normal(size=(ROWS, 3))
TARGETS[:, 2] = 0.5
PREDICTED = TARGETS + GENERATOR.normal(0, 1.5, TARGETS.shape)
IN_UNITS = regression.InUnits(NAMES, DEVIATION)


def batch_of(targets):
    return Batch(None, None, None, targets)


def metrics_of(rows=slice(None), targets=TARGETS, predicted=PREDICTED):
    losses = ((predicted - targets) ** 2).mean(axis=1)
    return IN_UNITS.of(losses[rows], predicted[rows], batch_of(targets[rows]))


@pytest.mark.parametrize(
    "loss, theirs", [("squared", keras.losses.MeanSquaredError), ("huber", keras.losses.Huber)]
)
def test_losses_and_their_gradients_are_those_of_keras(loss, theirs):
    outputs, batch = tf.constant(PREDICTED), batch_of(TARGETS)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(outputs)
        ours = regression.training_sums(outputs, batch, loss=loss)["loss_sum"]
        wanted = theirs(reduction="sum", dtype="float64")(TARGETS, outputs)
    np.testing.assert_allclose(ours, wanted, rtol=1e-12)
    gradients = tape.gradient(ours, outputs), tape.gradient(wanted, outputs)
    np.testing.assert_allclose(*gradients, rtol=1e-12, atol=1e-15)
    losses, predicted = regression.outcomes(outputs, batch, loss=loss)
    np.testing.assert_allclose(tf.reduce_sum(losses), wanted, rtol=1e-12)
    np.testing.assert_array_equal(predicted, PREDICTED)


def test_metrics_are_those_of_the_definitions_in_the_units_of_the_data():
    """As scikit-learn has them, with uniform averages over the values."""
    true, predicted = (values * DEVIATION + MEAN for values in (TARGETS, PREDICTED))
    errors = predicted - true
    rmse, mae = np.sqrt((errors**2).mean(axis=0)), np.abs(errors).mean(axis=0)
    around = ((true - true.mean(axis=0)) ** 2).sum(axis=0)
    r2 = [*(1 - (errors**2).sum(axis=0)[:2] / around[:2]), 0.0]  # A constant that is not told.
    found = metrics_of()
    for name, wanted in (("rmse", rmse), ("mae", mae), ("r2", r2)):
        np.testing.assert_allclose(getattr(found, name), wanted, rtol=1e-9, err_msg=name)
        assert found.metrics()[name] == pytest.approx(np.mean(wanted), rel=1e-9)
    assert found.loss == pytest.approx(((PREDICTED - TARGETS) ** 2).mean(), rel=1e-12)
    report = found.report()
    assert list(report["values"]) == list(NAMES) and report["examples"] == ROWS
    assert report["values"]["mass"] == pytest.approx(
        {"rmse": rmse[0], "mae": mae[0], "r2": r2[0]}, rel=1e-9
    )


def test_a_constant_that_is_told_exactly_has_an_r2_of_one():
    assert metrics_of(predicted=TARGETS).r2.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("cuts", [(1, 2), (7, 30), (25, 49)])
def test_any_split_of_the_rows_adds_up(cuts):
    parts = [slice(0, cuts[0]), slice(*cuts), slice(cuts[1], ROWS)]
    far = TARGETS + 1e6  # A mean far from the training split's.
    for targets in (TARGETS, far):
        one, two, three = (metrics_of(rows, targets, targets + 1) for rows in parts)
        whole = dataclasses.asdict(metrics_of(targets=targets, predicted=targets + 1))
        for added in (one + two + three, three + (two + one)):
            for name, value in dataclasses.asdict(added).items():
                if name != "names":
                    np.testing.assert_allclose(value, whole[name], rtol=1e-9, err_msg=name)
        assert (one + two + three).squares[2] == 0


def test_the_error_of_training_steps_is_in_the_units_of_the_data():
    sums = regression.training_sums(tf.constant(PREDICTED), batch_of(TARGETS), deviation=DEVIATION)
    found = regression.metrics({name: value.numpy() for name, value in sums.items()})
    exact = metrics_of().metrics()
    assert found == pytest.approx({name: exact[name] for name in ("loss", "mae")}, rel=1e-12)
