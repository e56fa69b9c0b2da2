"""Losses and metrics against NumPy written from the definitions, and against Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.data.pipeline import Batch
from trainer.tasks import classification

GENERATOR = np.random.default_rng(0)
LOGITS = GENERATOR.normal(0, 3, (40, 4))
LABELS = GENERATOR.integers(0, 4, 40).astype(np.int32)


def batch_of(labels):
    """Returns a batch of which the task may read nothing but the targets."""
    return Batch(None, None, None, labels)


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_cross_entropy_is_taken_against_the_smoothed_target(smoothing):
    target = (1 - smoothing) * np.eye(4)[LABELS] + smoothing / 4
    expected = -(target * log_softmax(LOGITS)).sum(axis=-1)
    np.testing.assert_allclose(
        classification.cross_entropy(tf.constant(LOGITS), LABELS, smoothing), expected, rtol=1e-13
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_is_that_of_keras(smoothing):
    expected = keras.losses.categorical_crossentropy(
        np.eye(4)[LABELS], LOGITS, from_logits=True, label_smoothing=smoothing
    )
    np.testing.assert_allclose(
        classification.cross_entropy(tf.constant(LOGITS), LABELS, smoothing), expected, rtol=1e-12
    )


@pytest.mark.parametrize(
    "logits, label, loss",
    [
        ([0.0, 0.0], 0, np.log(2)),
        ([1000.0, 0.0], 0, 0.0),  # no overflow
        ([1000.0, 0.0], 1, 1000.0),
        ([-1e30, 0.0], 0, 1e30),
        ([-np.inf, 0.0], 1, 0.0),  # a class that cannot be, and is not
    ],
)
def test_cross_entropy_of_extreme_scores_is_finite(logits, label, loss):
    scores = tf.constant([logits])
    with tf.GradientTape() as tape:
        tape.watch(scores)
        found = classification.cross_entropy(scores, [label])
    np.testing.assert_allclose(found, [loss], rtol=1e-6)
    assert np.isfinite(tape.gradient(found, scores)).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_training_sums_are_loss_right_predictions_and_examples(smoothing):
    target = (1 - smoothing) * np.eye(4)[LABELS] + smoothing / 4
    sums = classification.training_sums(tf.constant(LOGITS), batch_of(LABELS), smoothing)
    np.testing.assert_allclose(sums["loss_sum"], -(target * log_softmax(LOGITS)).sum(), rtol=1e-13)
    assert sums["correct"] == (LOGITS.argmax(axis=1) == LABELS).sum()
    assert sums["count"] == 40


def test_class_weights_multiply_losses_and_not_counts_as_in_keras():
    weights = (0.5, 2.0, 0.0, 1.0)
    sums = classification.training_sums(
        tf.constant(LOGITS), batch_of(LABELS), class_weights=weights
    )
    theirs = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
    expected = theirs(LABELS, LOGITS, sample_weight=np.array(weights)[LABELS])
    np.testing.assert_allclose(sums["loss_sum"] / sums["count"], expected, rtol=1e-12)
    assert [float(sums[name]) for name in ("correct", "count")] == [
        (LOGITS.argmax(axis=1) == LABELS).sum(),
        40,
    ]


@pytest.mark.parametrize(
    "counts, weights",
    [
        ([50, 50], [1, 1]),
        ([90, 10], [100 / 180, 5]),
        ([1, 2, 3], [2, 1, 2 / 3]),
        ([4, 0, 4], [1, 0, 1]),  # a class that only another split has
    ],
)
def test_balanced_weights_are_the_inverse_of_a_classs_share(counts, weights):
    np.testing.assert_allclose(classification.balanced_weights(counts), weights, rtol=1e-14)
    # mean 1 over the examples
    assert np.dot(classification.balanced_weights(counts), counts) == pytest.approx(sum(counts))


# --- Metrics --------------------------------------------------------------------------------------


def test_metrics_of_rows_add_up_over_any_split_of_them():
    losses, probabilities = -log_softmax(LOGITS)[np.arange(40), LABELS], np.exp(log_softmax(LOGITS))
    whole = classification.Metrics.of(losses, probabilities, batch_of(LABELS))
    parts = [
        classification.Metrics.of(losses[rows], probabilities[rows], batch_of(LABELS[rows]))
        for rows in (slice(0, 7), slice(7, 8), slice(8, 40))
    ]
    together = parts[0] + parts[1] + parts[2]
    expected = np.zeros((4, 4), int)
    for truth, predicted in zip(LABELS, LOGITS.argmax(axis=1)):
        expected[truth, predicted] += 1
    for metrics in (whole, together):
        np.testing.assert_array_equal(metrics.confusion, expected)
        np.testing.assert_allclose(metrics.loss, losses.mean(), rtol=1e-13)


def test_the_metrics_of_a_small_table_by_hand():
    """Rows: true class; columns: predicted. Class 2 is never predicted.

    Class 3 neither occurs nor is predicted.
    """
    metrics = classification.Metrics(
        5.0, np.array([[3, 1, 0, 0], [2, 2, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    )
    assert metrics.examples == 10
    assert metrics.loss == 0.5
    assert metrics.accuracy == 0.5
    np.testing.assert_allclose(metrics.precision, [3 / 6, 2 / 4, 0, 0])
    np.testing.assert_allclose(metrics.recall, [3 / 4, 2 / 4, 0, 0])
    np.testing.assert_allclose(metrics.f1, [0.6, 0.5, 0, 0])
    assert metrics.macro_f1 == pytest.approx(1.1 / 3)  # class 3 does not count
    assert metrics.metrics() == {"loss": 0.5, "accuracy": 0.5, "macro_f1": metrics.macro_f1}


def test_a_class_that_is_predicted_without_having_examples_lowers_the_macro_f1():
    assert classification.Metrics(0.0, np.array([[3, 1], [0, 0]])).macro_f1 == pytest.approx(
        (6 / 7 + 0) / 2
    )


def test_metrics_are_those_of_keras():
    metrics = classification.Metrics.of(np.zeros(40), np.exp(log_softmax(LOGITS)), batch_of(LABELS))
    f1 = keras.metrics.F1Score(average=None)
    f1.update_state(np.eye(4)[LABELS], tf.nn.softmax(LOGITS))
    np.testing.assert_allclose(metrics.f1, f1.result(), rtol=1e-6)
    accuracy = keras.metrics.SparseCategoricalAccuracy()
    accuracy.update_state(LABELS, LOGITS)
    assert metrics.accuracy == pytest.approx(float(accuracy.result()))


def test_the_report_has_the_numbers_of_each_class_and_computes_them_once(monkeypatch):
    """Of 4,000 classes each number is a sum over 16 million pairs."""
    generator = np.random.default_rng(0)
    confusion = generator.integers(0, 5, (30, 30))
    confusion[7] = confusion[:, 8] = 0
    labels = [f"class {i}" for i in range(30)]
    counted = []
    ratio = classification._ratio
    monkeypatch.setattr(classification, "_ratio", lambda *a: counted.append(0) or ratio(*a))
    report = classification.Metrics(1.0, confusion).report(labels)["classes"]
    assert list(report) == labels and len(counted) < 10
    for i, row in enumerate(report.values()):
        right, predicted, true = confusion[i, i], confusion[:, i].sum(), confusion[i].sum()
        expected = {
            "precision": right / max(1, predicted),
            "recall": right / max(1, true),
            "f1": 2 * right / max(1, predicted + true),
            "examples": true,
        }
        assert row == pytest.approx(expected, rel=1e-15)
