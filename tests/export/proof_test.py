"""A difference between an export and its model is found, whatever causes it."""

import dataclasses
import types

import numpy as np
import pytest
import tensorflow as tf

from tests import datasets
from tests.export.small_models import VOCABULARY, a_model, answers_from_here, probabilities
from trainer import config as configuration
from trainer.data import text
from trainer.exit_codes import TrainerError
from trainer.export import command as export
from trainer.export import keras_model, proof, readback


def spoil_probability(answer):
    return answer._replace(probabilities=answer.probabilities + np.float32(2e-5))


def spoil_with_nan(answer):
    return answer._replace(probabilities=answer.probabilities * np.float32("nan"))


def spoil_shape(answer):
    return answer._replace(probabilities=answer.probabilities[:, :1])


def spoil_label(answer):
    return answer._replace(labels=[*answer.labels[:-1], "another"])


@pytest.mark.parametrize(
    "spoil, file, told",
    [
        (spoil_probability, "model.keras", "model.keras: a probability differs by 2.*e-05"),
        (spoil_probability, "saved_model", "saved_model: a probability differs by 2.*e-05"),
        (spoil_with_nan, "model.keras", "differs by nan"),
        (spoil_shape, "saved_model", "differs by inf"),
        (spoil_label, "saved_model", "the labels are .*'another'"),
    ],
)
def test_a_difference_is_an_error_and_nothing_appears(
    spoil, file, told, words, monkeypatch, tmp_path
):
    model = a_model(words, jit="off")
    batch = proof.examples_of(words, model.config.input).batch
    found = probabilities(model.network, model.weights, batch.inputs, batch.lengths)
    labels = [words.labels[row.argmax()] for row in found]

    def answers(groups):
        for path, calls in groups.items():
            right = [readback.Answer(found[: len(rows)], labels[: len(rows)]) for rows in calls]
            yield (
                path,
                [
                    spoil(answer) if path.endswith(file) and answer.labels else answer
                    for answer in right
                ],
            )

    monkeypatch.setattr(readback, "answers", lambda groups: dict(answers(groups)))
    monkeypatch.setattr(export, "_write", lambda model, folder: None)
    with pytest.raises(TrainerError, match=told) as caught:
        export.export(model, tmp_path / "out")
    assert caught.value.code == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("gpus, implementation", [([], "keras"), (["GPU:0"], "ours")])
def test_beside_a_gpu_the_expectation_is_computed_without_layers_of_keras(
    gpus, implementation, without_words, monkeypatch
):
    """They would run cuDNN on the GPU, even where the CPU was asked for."""
    model, networks = a_model(without_words, jit="off"), []

    def step(network, placement, task):
        networks.append(network)
        return types.SimpleNamespace(outcomes=lambda weights, batch: (None, None))

    monkeypatch.setattr(proof, "EvaluationStep", step)
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: gpus)
    proof._expected(model, proof.examples_of(without_words, model.config.input).batch)
    [network] = networks
    assert {chosen for _, chosen, _ in network.implementations} == {implementation}


def test_weights_that_were_not_trained_are_found_out(without_words, monkeypatch, tmp_path):
    real = keras_model.build
    monkeypatch.setattr(readback, "answers", answers_from_here)
    monkeypatch.setattr(
        keras_model,
        "build",
        lambda network, weights, settings: real(
            network, {name: weight * 1.001 for name, weight in weights.items()}, settings
        ),
    )
    with pytest.raises(TrainerError, match="model.keras: a probability differs"):
        export.export(a_model(without_words), tmp_path / "out")


def test_rows_come_from_the_whole_of_a_held_out_split(tmp_path):
    counts = {"train": 5, "test": 3 * proof.ROWS}
    splits = {
        name: ([[1, 4 + row % 7] for row in range(count)], np.zeros(count))
        for name, count in counts.items()
    }
    dataset = datasets.write(tmp_path / "data", splits, vocabulary_size=VOCABULARY, classes=2)
    dataset = dataclasses.replace(
        dataset, description={**dataset.description, "tokenizer": text.settings("words")}
    )
    texts, batch = proof.examples_of(dataset, configuration.Input())
    assert len(texts) == len(batch.rows) == proof.ROWS + len(proof.CORNER_CASES)
    last = (3 * proof.ROWS - 1) % 7
    assert (texts[0], texts[proof.ROWS - 1]) == (b"w4", f"w{4 + last}".encode())
