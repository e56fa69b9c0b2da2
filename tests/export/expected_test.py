"""What an export must answer is computed as `evaluate` computes it, for every task."""

import types

import numpy as np
import pytest
import tensorflow as tf

from tests.export.small_models import OPTIONS, a_model
from trainer.export import expected
from trainer.tasks import table


def test_every_task_has_checks():
    assert {task.served for task in table.TASKS.values()} == expected._CHECKS.keys()


@pytest.mark.parametrize("gpus, implementation", [([], "keras"), (["GPU:0"], "ours")])
def test_beside_a_gpu_the_expectation_is_computed_without_layers_of_keras(
    gpus, implementation, without_words, monkeypatch
):
    """They would run cuDNN on the GPU, even where the CPU was asked for."""
    networks = []

    def step(network, placement, task):
        networks.append(network)
        return types.SimpleNamespace(outcomes=lambda weights, batch: (None, None))

    model = a_model(without_words, jit="off")
    monkeypatch.setattr(expected, "EvaluationStep", step)
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: gpus)
    expected._Reference(model, OPTIONS)
    [network] = networks
    assert {chosen for _, chosen, _ in network.implementations} == {implementation}


def test_a_text_has_the_probability_of_all_its_tokens_however_many_they_are(a_text):
    checks = expected.checks(a_model(a_text, max_length=4), OPTIONS)[expected.SAVED_MODEL]
    [long] = [
        check
        for check in checks
        if check.call.signature == "serving_default"
        and [value.size for value in check.call.arguments.values()] == [1]
        and len(next(iter(check.call.arguments.values()))[0]) > 10_000
    ]
    per_token = -long.expected["log_probability"] / 10_001  # The end of the text counts too.
    np.testing.assert_allclose(long.expected["perplexity"], np.exp(per_token), rtol=1e-5)


@pytest.mark.slow
def test_a_large_vocabulary_gives_fewer_rows_to_the_keras_file(a_text, tagged, monkeypatch):
    for dataset in (a_text, tagged):
        whole, _ = expected.checks(a_model(dataset), OPTIONS)[expected.KERAS]
        [values] = whole.expected.values()
        assert len(values) > 3
        monkeypatch.setattr(expected, "VALUES", 3 * values[0].size)
        fewer, one = expected.checks(a_model(dataset), OPTIONS)[expected.KERAS]
        assert [len(check.call.arguments["ids"]) for check in (fewer, one)] == [3, 1]
        monkeypatch.undo()


def test_a_check_of_fewer_rows_keeps_what_is_not_of_a_row(a_text):
    *_, check = expected.checks(a_model(a_text), OPTIONS)[expected.SAVED_MODEL]
    assert check.call.signature == "continue" and check.call.arguments["text"].shape == (0,)
    assert check.call.arguments["temperature"] == np.float32(0.8)
    assert check.expected["text"].shape == (0,)
