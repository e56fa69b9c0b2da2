"""The encoder against the equations of its recurrences in NumPy, on the steps of each row alone."""

import numpy as np
import pytest
import tensorflow as tf

from tests import numpy_recurrence
from trainer.flags.run import Model
from trainer.models import recurrent, shapes
from trainer.models.encoder import Encoder
from trainer.models.noise import Noise

VOCABULARY = 6
LENGTHS = np.array([5, 2, 1], "int32")
TOKENS = np.random.default_rng(0).integers(1, VOCABULARY, (3, 5)).astype("int32")


def encoder_of(implementation="ours", **changes):
    settings = Model(**{"units": (3, 2), "embedding_size": 4, **changes})
    run = recurrent.recurrence(settings.cell, implementation)
    return Encoder(settings, VOCABULARY, run, seed=7, dtype="float64")


def random_weights(encoder):
    rng = np.random.default_rng(1)
    named = shapes.weights(encoder.settings, VOCABULARY, classes=2)
    return {name: rng.normal(size=shape) for name, shape in named.items()}


def truth(settings, weights, tokens):
    """Returns the states of a row that is alone and has no padding: [1, length, width]."""
    if settings.one_hot:
        states = np.eye(VOCABULARY)[tokens][None]
    else:
        states = weights["embedding/embeddings"][tokens][None]
    for name in shapes.layer_names(settings):
        if settings.bidirectional:
            halves = [
                hidden_states(settings.cell, weights, f"{name}/{way}", states, way == "backward")
                for way in ("forward", "backward")
            ]
            states = np.concatenate(halves, axis=-1)
        else:
            states = hidden_states(settings.cell, weights, name, states)
    return states


def hidden_states(cell, weights, name, inputs, reverse=False):
    parts = [weights[f"{name}/{part}"] for part in ("kernel", "recurrent_kernel", "bias")]
    return numpy_recurrence.run(cell, parts, inputs, reverse)[0]


@pytest.mark.parametrize("cell", recurrent.RECURRENCES)
@pytest.mark.parametrize("changes", [{}, {"bidirectional": True}, {"one_hot": True}], ids=str)
def test_the_states_of_a_padded_row_are_those_of_the_row_alone(cell, changes):
    encoder = encoder_of(cell=cell, **changes)
    weights = random_weights(encoder)
    states, carry = encoder(weights, tf.constant(TOKENS), tf.constant(LENGTHS))
    assert carry == {}
    assert states.dtype == tf.float64
    for row, length in enumerate(LENGTHS):
        alone = truth(encoder.settings, weights, TOKENS[row, :length])[0]
        np.testing.assert_allclose(states[row, :length], alone, rtol=1e-12, atol=1e-14)


def test_dropout_needs_noise_and_a_rate():
    plain, dropping = encoder_of(), encoder_of(dropout=0.5, word_dropout=0.2)
    weights, noise = random_weights(plain), Noise(tf.range(3), tf.constant(5, tf.int64))
    expected, _ = plain(weights, TOKENS, LENGTHS, noise)
    np.testing.assert_array_equal(dropping(weights, TOKENS, LENGTHS)[0], expected)
    assert np.any(dropping(weights, TOKENS, LENGTHS, noise)[0] != expected)


def carried_truth(settings, weights, tokens, carry):
    """Returns (the states of the last layer, the carry after them), each layer from the carry."""
    states, after = weights["embedding/embeddings"][tokens], {}
    for name in shapes.layer_names(settings):
        parts = [weights[f"{name}/{part}"] for part in ("kernel", "recurrent_kernel", "bias")]
        names = [f"{name}/{part}" for part in shapes.STATE[settings.cell]]
        start = [carry[part] for part in names]
        states, final = numpy_recurrence.run(settings.cell, parts, states, state=start)
        after |= dict(zip(names, final))
    return states, after


@pytest.mark.parametrize("implementation", ["ours", "keras"])
@pytest.mark.parametrize("cell", recurrent.RECURRENCES)
def test_a_text_in_chunks_has_the_states_of_the_whole_text(cell, implementation):
    encoder = encoder_of(implementation, cell=cell)
    weights, rng = random_weights(encoder), np.random.default_rng(2)
    text = rng.integers(1, VOCABULARY, (3, 9)).astype("int32")
    first = {
        name: rng.normal(size=(3, units))
        for name, units in shapes.carried(encoder.settings).items()
    }
    expected, end = carried_truth(encoder.settings, weights, text, first)
    found, carry = [], {name: tf.constant(rows) for name, rows in first.items()}
    for chunk in (text[:, :4], text[:, 4:5], text[:, 5:]):
        lengths = np.full(3, chunk.shape[1], "int32")
        states, carry = encoder(weights, tf.constant(chunk), lengths, carry=carry)
        found.append(states)
    np.testing.assert_allclose(np.concatenate(found, axis=1), expected, rtol=1e-11, atol=1e-14)
    assert list(carry) == list(first)
    for name, rows in end.items():
        np.testing.assert_allclose(carry[name], rows, rtol=1e-11, atol=1e-14, err_msg=name)


@pytest.mark.parametrize("cell", recurrent.RECURRENCES)
def test_what_a_text_begins_with_is_a_carry_of_zeros(cell):
    encoder = encoder_of(cell=cell)
    weights = random_weights(encoder)
    zeros = {
        name: tf.zeros([3, units], tf.float64)
        for name, units in shapes.carried(encoder.settings).items()
    }
    expected, nothing = encoder(weights, TOKENS, LENGTHS)
    found, carry = encoder(weights, TOKENS, LENGTHS, carry=zeros)
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-15)
    assert nothing == {} and list(carry) == list(zeros)
