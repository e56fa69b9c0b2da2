"""A difference between an export and its model is found, whatever causes it."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.export.small_models import OPTIONS, a_model
from trainer.data import fields
from trainer.exit_codes import TrainerError
from trainer.export import command as export
from trainer.export import expected, keras_model, proof, readback
from trainer.export.expected import KERAS, SAVED_MODEL, Check, Likeliest

# {name of a fixture: flags of its model}
MODELS = {
    "words": {"jit": "off"},
    "a_text": {"tied_embedding": True},
    "tagged": {"bidirectional": True},
    "pairs": {"bidirectional": True, "cell": "gru"},
    "pictures": {"frame_encoder": "convolution", "cell": "simple_rnn"},
    "values": {"frame_encoder": "dense", "cell": "gru"},
}


@pytest.fixture(scope="module")
def proved(request):
    """Returns a function from the name of a dataset to (its model, the checks of its export)."""
    made = {}

    def of(name):
        if name not in made:
            model = a_model(request.getfixturevalue(name), **MODELS[name])
            made[name] = model, expected.checks(model, OPTIONS)
        return made[name]

    return of


def right(check: Check) -> readback.Answer:
    """The answer that a check expects."""
    return {
        output: np.array(value.names, object)[value.chosen]
        if isinstance(value, Likeliest)
        else np.ma.filled(value, 0)
        for output, value in check.expected.items()
    }


def larger(values):
    return values + np.float32(2e-5) * np.maximum(1, np.abs(values))


def much_larger(values):
    return values * 1.001


def nan(values):
    return np.where(np.arange(values.size).reshape(values.shape) == 1, np.nan, values)


def shorter(values):
    return values[:, :1]


def another(strings):
    strings = strings.copy()
    strings.ravel()[-1] = b"another"
    return strings


@pytest.mark.parametrize(
    "name, file, place, output, spoil, told",
    [
        ("words", KERAS, 0, "probabilities", larger, "model.keras: probabilities differs by 2.*e-"),
        ("words", SAVED_MODEL, 0, "probabilities", nan, "probabilities differs by nan"),
        ("words", SAVED_MODEL, 0, "probabilities", shorter, "differs by inf"),
        ("words", SAVED_MODEL, 1, "label", another, "label differs .*b'another'"),
        ("tagged", KERAS, 0, "probabilities", larger, "model.keras: probabilities differs by 2.*e"),
        ("tagged", SAVED_MODEL, 0, "tags", another, "tags differs .*b'another'"),
        ("tagged", SAVED_MODEL, 0, "tags", shorter, "tags differs .*shapes"),
        ("tagged", SAVED_MODEL, 3, "probability", nan, "probability differs by nan"),
        ("a_text", KERAS, 1, "log_probabilities", larger, "log_probabilities differs by 2.*e-05"),
        ("a_text", SAVED_MODEL, 0, "log_probability", larger, "log_probability differs by"),
        ("a_text", SAVED_MODEL, 3, "perplexity", much_larger, "perplexity differs by"),
        ("a_text", SAVED_MODEL, 4, "tokens", another, "next: tokens differs .*b'another'"),
        ("a_text", SAVED_MODEL, 4, "probabilities", larger, "next: probabilities differs by"),
        ("a_text", SAVED_MODEL, 7, "text", another, "continue: text differs .*b'another'"),
        ("a_text", SAVED_MODEL, 10, "text", another, "continue: text differs .*b'another'"),
        ("pairs", KERAS, 1, "log_probabilities", larger, "log_probabilities differs by 2.*e-05"),
        ("pairs", SAVED_MODEL, 0, "translation", another, "translation differs .*b'another'"),
        ("pairs", SAVED_MODEL, 1, "score", much_larger, "score differs by .*at most 0.0001"),
        ("pictures", KERAS, 0, "probabilities", larger, "model.keras: probabilities differs by"),
        ("values", SAVED_MODEL, 0, "values", much_larger, "values differs by"),
        ("values", KERAS, 1, "values", shorter, "differs by inf"),
    ],
)
def test_a_difference_is_an_error_and_nothing_appears(
    name, file, place, output, spoil, told, proved, monkeypatch, tmp_path
):
    model, checks = proved(name)
    answers = {of_file: [right(check) for check in checks[of_file]] for of_file in checks}
    monkeypatch.setattr(expected, "checks", lambda model, options: checks)
    monkeypatch.setattr(
        readback, "answers", lambda calls: dict(zip(calls, answers.values(), strict=True))
    )
    monkeypatch.setattr(export, "_write", lambda model, folder, options: None)
    assert export.export(model, tmp_path / "right", OPTIONS) == dict.fromkeys(checks, 0.0)
    answers[file][place][output] = spoil(answers[file][place][output])
    with pytest.raises(TrainerError, match=told) as caught:
        export.export(model, tmp_path / "out", OPTIONS)
    assert caught.value.code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["right"]


@pytest.mark.parametrize("name", MODELS)
def test_each_weight_of_a_keras_file_is_proved(name, proved):
    model, checks = proved(name)
    check = checks[KERAS][0]

    def answer(weights):
        network, task = expected.network_of(model), model.step.task
        dataset = model.dataset
        built = keras_model.build(
            network, weights, model.config.input, task, dataset.normalise, dataset.standardise
        )
        given = list(check.call.arguments.values())
        return {built.output_names[0]: built(given if len(given) > 1 else given[0]).numpy()}

    proof._checked(KERAS, check, answer(model.weights))
    for weight in model.weights:
        with pytest.raises(TrainerError, match="differs"):
            proof._checked(KERAS, check, answer(changed(model.weights, weight)))


@pytest.mark.parametrize("name", MODELS)
def test_each_weight_of_a_saved_model_is_proved(name, proved):
    model, checks = proved(name)
    check = checks[SAVED_MODEL][0]

    def answer(weights):
        served = expected.served_of(dataclasses.replace(model, weights=weights))
        given = [
            tf.constant(values.ravel().tolist(), tf.string, values.shape)
            if values.dtype == object
            else tf.constant(values)
            for values in check.call.arguments.values()
        ]
        found = served.signatures(OPTIONS)[check.call.signature](*given)
        return {output: value.numpy() for output, value in found.items()}

    proof._checked(SAVED_MODEL, check, answer(model.weights))
    for weight in model.weights:
        with pytest.raises(TrainerError, match="differs"):
            proof._checked(SAVED_MODEL, check, answer(changed(model.weights, weight)))


def changed(weights, name):
    return {**weights, name: weights[name] * 1.001}


def test_an_output_that_is_missing_is_an_error(proved):
    _, checks = proved("tagged")
    check = checks[SAVED_MODEL][0]
    answer = right(check)
    del answer["tags"]
    with pytest.raises(TrainerError, match="outputs are"):
        proof._checked(SAVED_MODEL, check, answer)


@pytest.mark.parametrize(
    "found, passes", [(b"a", True), (b"b", True), (b"c", False), (b"d", False)]
)
def test_of_names_that_are_equally_likely_either_will_do(found, passes):
    wanted = Likeliest([b"a", b"b", b"c"], np.array([[0.4, 0.4 - 1e-7, 0.2 + 1e-7]]), np.array([0]))
    assert proof._as_likely(np.array([found], object), wanted) == passes


def test_values_are_compared_in_deviations(values):
    """However far from 0 they lie, and however near it one of them is."""
    scale = values.standardise
    wanted = scale.undone(np.float32([[0.5, -1]]))
    check = Check(readback.Call("", {}), {"values": wanted}, scale)
    for apart, passes in ((0.1, True), (2.0, False)):
        answer = {"values": wanted + np.float32(apart * proof.BOUND) * scale.deviation}
        if passes:
            assert proof._checked(KERAS, check, answer) < proof.BOUND
        else:
            with pytest.raises(TrainerError, match="values differs"):
                proof._checked(KERAS, check, answer)


@pytest.mark.parametrize("mean, deviation", [(1013, 6), (310, 0.5), (1023.5, 0.5)])
def test_rounding_in_the_units_of_the_data_is_no_difference(mean, deviation):
    """A number of float32 next to the right one may be further away, in deviations, than the bound:
    of pressures in hectopascals and temperatures in kelvin.
    """
    scale = fields.Scale(np.float32([mean]), np.float32([deviation]))
    wanted = scale.undone(np.linspace(-3, 3, 601, dtype=np.float32)[:, None])
    check = Check(readback.Call("", {}), {"values": wanted}, scale)
    for direction in (np.inf, -np.inf):
        next_number = np.nextafter(wanted, np.float32(direction))
        assert np.ptp([scale.applied(next_number), scale.applied(wanted)], axis=0).max() > 1e-5
        assert proof._checked(KERAS, check, {"values": next_number}) < 1e-6
    wrong = wanted + np.float32(2e-5 * mean)
    with pytest.raises(TrainerError, match="values differs"):
        proof._checked(KERAS, check, {"values": wrong})
    with pytest.raises(TrainerError, match="values differs by nan"):
        proof._checked(KERAS, check, {"values": wanted * np.float32(np.nan)})


def test_what_does_not_count_may_be_anything_and_infinities_are_equal():
    wanted = np.ma.array([[1.0, 5.0]], mask=[[False, True]])
    assert proof._difference(np.array([[1.0, np.nan]]), wanted) == 0
    assert proof._difference(np.array([np.inf]), np.array([np.inf])) == 0
    assert np.isnan(proof._difference(np.array([np.nan]), np.array([np.inf])))
