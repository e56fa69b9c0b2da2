"""The loss and the metrics of targets, against NumPy row by row."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests import numpy_network
from trainer.data import pipeline
from trainer.models.heads import StepOutputs
from trainer.tasks import bleu, translation

WORDS, WIDTH = 7, 3
GENERATOR = np.random.default_rng(0)
LENGTHS = np.array([4, 1, 3], "int32")
HOLDS = np.arange(4) < LENGTHS[:, None]
FOLLOWING = np.where(HOLDS, GENERATOR.integers(1, WORDS, (3, 4)), 0).astype("int32")


def batch_of(rows=slice(None)):
    tokens = np.where(HOLDS, 1, 0).astype("int32")
    # The sources have another length.
    sources = np.ones([3, 6], "int32")
    batch = pipeline.Batch(
        np.arange(3, dtype="int32"),
        sources,
        np.array([6, 2, 3], "int32"),
        pipeline.Sentences(tokens, FOLLOWING, LENGTHS),
    )
    return tf.nest.map_structure(lambda values: values[rows], batch)


def outputs_of(rows=slice(None)):
    generator = np.random.default_rng(1)
    states, table_of, bias = (
        generator.normal(size=shape) for shape in ((3, 4, WIDTH), (WORDS, WIDTH), (WORDS,))
    )
    return StepOutputs(*map(tf.constant, (states[rows], table_of, bias)), transposed=False)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_sums_of_a_step_are_those_of_its_words_and_of_no_padding(smoothing):
    found = translation.training_sums(outputs_of(), batch_of(), smoothing)
    scores = outputs_of().scores().numpy()
    truth = numpy_network.loss_sum(scores[HOLDS], FOLLOWING[HOLDS], smoothing)
    assert float(found["loss_sum"]) == pytest.approx(truth)
    right = scores[HOLDS].argmax(axis=-1) == FOLLOWING[HOLDS]
    assert float(found["correct"]) == right.sum()
    assert float(found["count"]) == 8


def test_any_split_of_the_rows_adds_up_to_the_same_metrics():
    def metrics_of(rows):
        batch = batch_of(rows)
        losses, answers = translation.outcomes(outputs_of(rows), batch)
        return translation.Metrics.of(losses.numpy(), answers.numpy(), batch)

    whole = metrics_of(slice(None))
    parts = metrics_of(slice(0, 1)) + metrics_of(slice(1, 3))
    assert parts.report(()) == pytest.approx(whole.report(()))
    sums = translation.training_sums(outputs_of(), batch_of())
    assert whole.metrics() == pytest.approx(translation.metrics(sums))
    loss = float(sums["loss_sum"]) / 8
    assert whole.metrics()["perplexity"] == pytest.approx(np.exp(loss))
    assert whole.report(())["tokens"] == 8 and whole.report(())["sentences"] == 3


def test_evaluate_prints_the_metrics_of_a_language_model_and_those_of_the_translations():
    losses, answers = translation.outcomes(outputs_of(), batch_of())
    found = translation.Metrics.of(losses.numpy(), answers.numpy(), batch_of())
    tokens = ["loss", "perplexity", "bits", "accuracy", "tokens", "sentences"]
    assert list(found.report(())) == tokens
    assert found.report(())["bits"] == pytest.approx(found.metrics()["loss"] / np.log(2))
    translated = dataclasses.replace(found, quality=bleu.Quality(20.5, 40.25, "of bleu", "of chrf"))
    assert list(translated.report(())) == [*tokens, "bleu", "chrf", "signature", "chrf_signature"]
    assert translated.report(())["bleu"] == translated.metrics()["bleu"] == 20.5
