"""The outcomes of an evaluation against NumPy."""

import math
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from tests import numpy_network
from tests.steps import runs
from trainer.data import fields, pipeline, plans
from trainer.data.store import Dataset, Split
from trainer.evaluate import metrics
from trainer.models.networks import Network
from trainer.steps.evaluation import EvaluationStep
from trainer.tasks import table


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


# --- Streams --------------------------------------------------------------------------------------


def text_in_parts(made, size):
    """Returns (loss sum, right tokens) of a text by NumPy: each part in one pass from zero."""
    tokens = runs.a_text(size).inputs
    edges = (size - 1) * np.arange(plans.EVALUATION_PARTS + 1) // plans.EVALUATION_PARTS
    weights, loss, right = runs.weights_of(made), 0.0, 0
    for begin, end in zip(edges, edges[1:]):
        if begin == end:
            continue
        inputs, targets = tokens[None, begin:end], tokens[begin + 1 : end + 1]
        [scores], _ = numpy_network.step_scores(made.config.model, weights, inputs)
        loss += numpy_network.loss_sum(scores, targets)
        right += (scores.argmax(axis=-1) == targets).sum()
    return loss, right


def text_dataset(size):
    description = {
        "format": 2,
        "task": "language_model",
        "target": "next_token",
        "order": "streams",
    }
    return Dataset(
        pathlib.Path("text"),
        description,
        "",
        (),
        ("w",) * runs.VOCABULARY,
        {"test": runs.a_text(size)},
    )


@pytest.mark.parametrize(
    "devices, flags",
    [
        (1, {"cell": "lstm", "units": (4, 3)}),
        (2, {"cell": "gru", "tied_embedding": True}),
        (3, {}),
        (1, {"jit": "on"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("chunk", [64, 5])
def test_the_metrics_of_a_text_are_those_of_its_parts_in_one_pass(
    monkeypatch, devices, flags, chunk
):
    """Whatever the chunk, the number of replicas and the rows of other batches."""
    monkeypatch.setattr(plans, "EVALUATION_CHUNK", chunk)
    made, size = runs.make(devices, streams=True, dropout=0.5, **flags), 503
    step = EvaluationStep(made.network, made.placement, runs.LANGUAGE_MODEL)
    dataset = text_dataset(size)
    for rows in (1, 256):
        batches = pipeline.evaluation_batches(dataset, "test", made.config.input, rows)
        found = metrics(step, made.state.evaluation_weights(), dataset, batches)
        loss, right = text_in_parts(made, size)
        assert (found.tokens, found.correct) == (size - 1, right)
        assert found.loss_sum == pytest.approx(loss, rel=1e-11)
        assert found.metrics()["perplexity"] == pytest.approx(
            math.exp(loss / (size - 1)), rel=1e-11
        )


@pytest.mark.parametrize("size", [2, 9, 17, 40])
def test_a_text_with_parts_of_no_token_has_the_metrics_of_the_others(size):
    made = runs.make(2, streams=True)
    step = EvaluationStep(made.network, made.placement, runs.LANGUAGE_MODEL)
    dataset = text_dataset(size)
    batches = pipeline.evaluation_batches(dataset, "test", made.config.input, 256)
    found = metrics(step, made.state.evaluation_weights(), dataset, batches)
    loss, right = text_in_parts(made, size)
    assert (found.tokens, found.correct) == (size - 1, right)
    assert found.loss_sum == pytest.approx(loss, rel=1e-11)


@pytest.mark.parametrize("devices", [1, 2])
def test_warming_up_compiles_the_chunks_of_a_text_and_leaves_no_trace_in_its_metrics(devices):
    made = runs.make(devices, streams=True)
    step = EvaluationStep(made.network, made.placement, runs.LANGUAGE_MODEL)
    dataset, weights = text_dataset(300), made.state.evaluation_weights()
    batches = pipeline.evaluation_batches(dataset, "test", made.config.input, 256)
    [length] = batches.plan.lengths
    step.warm_up(weights, int(length), batches.plan.batch_size, streams=True)
    first, second = (metrics(step, weights, dataset, batches) for _ in range(2))
    assert first == second
    assert first.loss_sum == pytest.approx(text_in_parts(made, 300)[0], rel=1e-11)


@pytest.mark.parametrize("devices, rows", [(1, 5), (3, 5), (2, 16)])
def test_tags_of_a_batch_come_back_in_the_order_of_its_rows(devices, rows):
    """Answers as wide as the batch is long, on replicas with unequal rows."""
    made = runs.make(devices)
    task = table.TASKS["tagging"]
    network = Network(
        made.config.model, runs.VOCABULARY, 4, precision="float64", jit="off", head=task.head
    )
    split, weights = runs.a_split(rows), network.initial_weights()
    split = Split(split.inputs, split.offsets, split.inputs % 4)
    batch = pipeline.batch_of(
        split, np.arange(rows)[::-1], 8, made.config.input, target=fields.TAGS
    )
    losses, tags = EvaluationStep(network, made.placement, task).outcomes(weights, batch)
    given = {name: weight.numpy() for name, weight in weights.items()}
    scores, _ = numpy_network.step_scores(made.config.model, given, batch.inputs)
    log_p = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    costs = -np.take_along_axis(log_p, batch.targets[..., None], axis=-1)[..., 0]
    holds = np.arange(8) < batch.lengths[:, None]
    np.testing.assert_allclose(losses, (costs * holds).sum(axis=1), rtol=1e-11)
    np.testing.assert_array_equal(tags[holds], scores.argmax(axis=-1)[holds])
