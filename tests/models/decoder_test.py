"""The decoder against NumPy written from the equations, and step by step against itself."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests import numpy_recurrence
from trainer.data.pipeline import Sentences
from trainer.flags.run import Model
from trainer.models import shapes
from trainer.models.decoder import Decoder
from trainer.models.networks import Network
from trainer.models.noise import Noise

SOURCE_WORDS, TARGET_WORDS = 6, 7
LENGTHS = np.array([3, 1, 4], "int32")
GENERATOR = np.random.default_rng(0)
SOURCE = np.where(
    np.arange(4) < LENGTHS[:, None], GENERATOR.integers(1, SOURCE_WORDS, (3, 4)), 0
).astype("int32")
TARGET = GENERATOR.integers(1, TARGET_WORDS, (3, 5)).astype("int32")


def network_of(precision="float64", jit="on", second="own", **changes):
    settings = {"cell": "gru", "units": (3,), "embedding_size": 4, "bidirectional": True, **changes}
    source = TARGET_WORDS if second == "shared" else SOURCE_WORDS
    return Network(
        Model(**settings),
        source,
        TARGET_WORDS,
        precision=precision,
        jit=jit,
        head=Decoder,
        second=second,
    )


def random_weights(network):
    generator = np.random.default_rng(1)
    return {name: generator.normal(0, 0.7, spec.shape) for name, spec in network.weights.items()}


def sentences(tokens=TARGET):
    lengths = np.full(len(tokens), tokens.shape[1], "int32")
    return Sentences(tf.constant(tokens), tf.constant(tokens), tf.constant(lengths))


def scores_of(network, weights, source=SOURCE, lengths=LENGTHS, target=TARGET, noise=None):
    outputs, carry = network.outputs(
        {name: tf.constant(value, network.compute_dtype) for name, value in weights.items()},
        tf.constant(source),
        tf.constant(lengths),
        noise,
        targets=sentences(target),
    )
    assert not carry
    return outputs.scores()


def layer(weights, name):
    return [weights[f"{name}/{part}"] for part in ("kernel", "recurrent_kernel", "bias")]


def numpy_scores(settings, weights):
    """Returns the scores [batch, target, words], sentence by sentence."""
    return np.concatenate(
        [
            numpy_sentence(settings, weights, source[None, :length], target[None])
            for source, length, target in zip(SOURCE, LENGTHS, TARGET)
        ]
    )


def numpy_sentence(settings, weights, source, target):
    states = weights["embedding/embeddings"][source]
    for number in range(len(settings.units)):
        directions = shapes.DIRECTIONS if settings.bidirectional else [""]
        halves = [
            numpy_recurrence.run(
                settings.cell,
                layer(weights, f"rnn_{number}/{way}".rstrip("/")),
                states,
                reverse=way == "backward",
            )[0]
            for way in directions
        ]
        states = np.concatenate(halves, axis=-1)
    ends = [halves[0][:, -1], *(half[:, 0] for half in halves[1:])]
    end = np.concatenate(ends, axis=-1)
    table = weights.get("target_embedding/embeddings", weights["embedding/embeddings"])
    queries = table[target]
    for number in range(len(settings.units)):
        start = np.tanh(end @ weights[f"start_{number}/kernel"] + weights[f"start_{number}/bias"])
        state = [start] + ([0 * start] if settings.cell == "lstm" else [])
        queries, _ = numpy_recurrence.run(
            settings.cell, layer(weights, f"decoder_{number}"), queries, state=state
        )
    if settings.attention != "none":
        keys = states @ weights["attention/kernel"] if "attention/kernel" in weights else states
        scores = queries @ keys.transpose(0, 2, 1)
        odds = np.exp(scores)
        attended = odds / odds.sum(axis=-1, keepdims=True)
        queries = np.concatenate([attended @ states, queries], axis=-1)
    combined = np.tanh(queries @ weights["combine/kernel"] + weights["combine/bias"])
    kernel = weights["logits/kernel"] if "logits/kernel" in weights else table.T
    return combined @ kernel + weights["logits/bias"]


VARIANTS = [
    {},
    {"second": "shared", "tied_embedding": True},
    {"cell": "lstm", "attention": "dot", "units": (3, 2)},
    {"cell": "simple_rnn", "attention": "none", "bidirectional": False},
    {"cell": "lstm", "bidirectional": False, "tied_embedding": True},
]


@pytest.mark.parametrize("jit", ["on", "off"])  # ours, and the Keras layer
@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_scores_and_gradients_are_those_of_the_equations(changes, jit):
    network = network_of(jit=jit, **changes)
    weights = random_weights(network)
    factors = np.random.default_rng(2).normal(size=(*TARGET.shape, TARGET_WORDS))

    def numpy_sum(*values):
        named = dict(zip(weights, values))
        return (numpy_scores(network.settings, named) * factors).sum()

    tensors = {name: tf.constant(value) for name, value in weights.items()}
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        scores = scores_of(network, tensors)
        total = tf.reduce_sum(scores * factors)
    gradients = tape.gradient(total, tensors)
    np.testing.assert_allclose(scores, numpy_scores(network.settings, weights), rtol=1e-11)
    truth = numpy_recurrence.gradients(numpy_sum, list(weights.values()))
    for (name, found), expected in zip(gradients.items(), truth):
        found = tf.convert_to_tensor(found)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_compiled_by_xla_the_scores_are_the_same(cell):
    network = network_of(cell=cell, variational_dropout=True, dropout=0.3)
    weights = random_weights(network)
    noise = Noise(tf.range(3), tf.constant(4, tf.int64))
    compiled = tf.function(lambda: scores_of(network, weights, noise=noise), jit_compile=True)
    plain = scores_of(network, weights, noise=noise)
    np.testing.assert_allclose(compiled(), plain, rtol=1e-12)
    assert not np.allclose(plain, scores_of(network, weights))


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_word_by_word_the_scores_are_those_of_all_words_at_once(changes):
    network = network_of(**changes)
    weights = {name: tf.constant(value) for name, value in random_weights(network).items()}
    whole = scores_of(network, weights).numpy()
    memory = network.memory(weights, tf.constant(SOURCE), tf.constant(LENGTHS))
    state = network.decoder_start(weights, memory)
    for step in range(TARGET.shape[1]):
        scores, state = network.decoder_step(weights, memory, tf.constant(TARGET[:, step]), state)
        np.testing.assert_allclose(scores, whole[:, step], rtol=1e-11)


def test_beams_of_a_sentence_are_queries_of_one_memory():
    network = network_of()
    weights = {name: tf.constant(value) for name, value in random_weights(network).items()}
    memory = network.memory(weights, tf.constant(SOURCE), tf.constant(LENGTHS))
    state = network.decoder_start(weights, memory)
    beams = {name: tf.repeat(values, 2, axis=0) for name, values in state.items()}
    ids = tf.constant([1, 2, 3, 4, 5, 6])
    both, _ = network.decoder_step(weights, memory, ids, beams)
    for beam in range(2):
        alone, _ = network.decoder_step(weights, memory, ids[beam::2], state)
        np.testing.assert_allclose(both[beam::2], alone, rtol=1e-12)


def test_padding_of_the_source_has_no_influence():
    network = network_of(units=(3, 2))
    weights = random_weights(network)
    wide = np.pad(SOURCE, [[0, 0], [0, 3]], constant_values=5)
    np.testing.assert_allclose(
        scores_of(network, weights, source=wide), scores_of(network, weights), rtol=1e-12
    )


def test_a_step_attends_to_the_words_of_its_source_and_to_nothing_else():
    network = network_of()
    weights = {name: tf.constant(value) for name, value in random_weights(network).items()}
    found = network.attention(
        weights, tf.constant(SOURCE), tf.constant(LENGTHS), tf.constant(TARGET)
    ).numpy()
    assert found.shape == (3, 5, 4)
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-12)
    for row, step in itertools.product(range(3), range(5)):
        assert (found[row, step, LENGTHS[row] :] == 0).all()
    assert (found[1, :, 0] == 1).all()


def test_a_later_word_has_no_influence_on_an_earlier_score():
    network = network_of()
    weights = random_weights(network)
    other = TARGET.copy()
    other[:, 3:] = 1
    np.testing.assert_array_equal(
        scores_of(network, weights, target=other)[:, :3], scores_of(network, weights)[:, :3]
    )


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_in_other_precisions_the_scores_are_about_the_same(precision):
    weights = random_weights(network_of())
    found = scores_of(network_of(precision=precision), weights)
    np.testing.assert_allclose(
        tf.cast(found, tf.float64),
        scores_of(network_of(), weights),
        atol=0.5 if precision == "bfloat16" else 1e-4,
    )
