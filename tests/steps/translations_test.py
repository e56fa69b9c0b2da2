"""Translations of a split are those of each source by itself, on any number of replicas."""

import pytest
import tensorflow as tf

from tests.export.small_models import a_model, some_pairs
from trainer.data import text
from trainer.devices.placement import Placement
from trainer.flags.use import Predict
from trainer.steps import translations
from trainer.steps.evaluation import EvaluationStep
from trainer.steps.translations import Translations
from trainer.tasks import bleu, serving


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    dataset = some_pairs(tmp_path_factory.mktemp("pairs"))
    model = a_model(dataset, cell="gru", bidirectional=True)
    # Else the likeliest translation of most sources is the empty one.
    bias = model.weights["logits/bias"].numpy()
    bias[text.START] -= 2
    model.weights["logits/bias"] = tf.constant(bias)
    return model


def placed(replicas):
    devices = tuple(f"/device:CPU:{number}" for number in range(replicas))
    one = tf.distribute.OneDeviceStrategy(devices[0])
    return Placement(
        one if replicas == 1 else tf.distribute.MirroredStrategy(devices), "CPU", devices
    )


def of_test(model, replicas=1, beam=2, **options):
    step = EvaluationStep(model.network, placed(replicas), model.step.task)
    return Translations(
        step, model.dataset, "test", model.config.input, beam=beam, penalty=1.0, **options
    )


def by_themselves(model):
    """Returns what `predict` answers to each source of the split, one after the other."""
    split = model.dataset.splits["test"]
    rows = tf.RaggedTensor.from_row_splits(split.inputs, split.offsets)
    served = model.served()
    sources = [shown.decode() for shown in served.tokenizer.decode(rows[:, 1:]).numpy()]
    options = Predict(beam=2)
    return [
        served.answers([serving.Text(source, "", 0)], options)[0]["translation"]
        for source in sources
    ]


@pytest.mark.parametrize("replicas", [1, 2])
def test_each_source_of_a_split_is_translated_as_by_itself(replicas, model, monkeypatch):
    monkeypatch.setattr(translations, "ROWS", 3)  # Several blocks, some of them not full.
    found = of_test(model, replicas).texts(model.weights)
    assert found == by_themselves(model)
    assert len(set(found)) > 3


def test_the_first_examples_are_those_of_the_whole_split(model):
    whole = of_test(model).texts(model.weights)
    assert of_test(model, examples=3).texts(model.weights) == whole[:3]


def test_nothing_comes_of_an_evaluation_that_is_given_up(model):
    some = of_test(model)
    assert some.texts(model.weights, lambda: True) is None
    assert some.quality(model.weights, lambda: True) is None


@pytest.mark.skipif(not bleu.is_installed(), reason=bleu.INSTALL)
def test_the_quality_is_that_of_the_texts_and_their_references(model):
    some = of_test(model)
    found = some.quality(model.weights)
    references = model.dataset.target_texts("test")
    assert found == bleu.quality(some.texts(model.weights), references, lowercase=True)
    assert "case:lc" in found.signature  # As the tokenizer takes them.
    assert text.lowers(model.dataset.tokenizer)
