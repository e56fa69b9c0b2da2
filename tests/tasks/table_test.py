"""What every task must satisfy; a task without an entry in `CASES` fails."""

import types

import numpy as np
import pytest
import tensorflow as tf

from trainer import config
from trainer.tasks import table

GENERATOR = np.random.default_rng(0)
ROWS = 40
PARTS = [slice(0, 7), slice(7, 8), slice(8, ROWS)]


def classification_sums(logits, labels):
    """The sums of a step from their definitions."""
    odds = np.exp(logits)
    chances = (odds / odds.sum(axis=1, keepdims=True))[np.arange(len(labels)), labels]
    correct = (logits.argmax(axis=1) == labels).sum()
    return {"loss_sum": -np.log(chances).sum(), "correct": correct, "count": len(labels)}


# {task: (outputs of a network, targets, the NumPy twin of its sums)}
CASES = {
    "classification": (
        GENERATOR.normal(0, 3, (ROWS, 4)),
        GENERATOR.integers(0, 4, ROWS).astype(np.int32),
        classification_sums,
    )
}


def sums_of(task, outputs, targets):
    found = task.training_sums(tf.constant(outputs), targets)
    return {name: float(value) for name, value in found.items()}


def exact_of(task, outputs, targets):
    losses, answers = (value.numpy() for value in task.outcomes(tf.constant(outputs), targets))
    return task.exact_metrics.of(losses, answers, targets)


def test_every_task_has_metrics_with_a_direction_and_a_case_here():
    assert set(table.TASKS) == set(config.TASKS) == set(CASES)
    directions = {better for metrics in config.TASKS.values() for better in metrics.values()}
    assert directions == {"lower", "higher"}


@pytest.mark.parametrize("name", table.TASKS)
def test_the_sums_of_a_step_are_those_that_the_task_names_and_those_of_numpy(name):
    task, (outputs, targets, twin) = table.TASKS[name], CASES[name]
    assert {table.LOSS_SUM, table.COUNT} <= set(task.sums)
    found = sums_of(task, outputs, targets)
    assert set(found) == set(task.sums)
    assert found == pytest.approx(twin(outputs, targets), rel=1e-12)


@pytest.mark.parametrize("name", table.TASKS)
def test_sums_and_exact_metrics_add_up_over_any_split_of_the_rows(name):
    task, (outputs, targets, _) = table.TASKS[name], CASES[name]
    parts = [sums_of(task, outputs[part], targets[part]) for part in PARTS]
    together = {sum_: sum(part[sum_] for part in parts) for sum_ in task.sums}
    assert together == pytest.approx(sums_of(task, outputs, targets), rel=1e-12)
    one, two, three = (exact_of(task, outputs[part], targets[part]) for part in PARTS)
    whole = exact_of(task, outputs, targets)
    assert (one + two + three).metrics() == pytest.approx(whole.metrics(), rel=1e-12)


@pytest.mark.parametrize("name", table.TASKS)
def test_training_and_evaluation_produce_the_metrics_of_the_task(name):
    task, (outputs, targets, _) = table.TASKS[name], CASES[name]
    exact = exact_of(task, outputs, targets).metrics()
    assert set(exact) == set(config.TASKS[name])
    training = task.metrics(sums_of(task, outputs, targets))
    # Without smoothing and class weights, a metric of both kinds is one number.
    assert training == pytest.approx({metric: exact[metric] for metric in training}, rel=1e-12)
    assert training


def test_format_1_of_a_dataset_is_classification():
    dataset = types.SimpleNamespace(description={"format": 1})
    assert table.task_of(dataset) is table.TASKS["classification"]
