"""The network against NumPy written from the equations, and against Keras layers with a mask."""

import itertools
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import numpy_network
from trainer.flags.run import Model
from trainer.models import dropout, shapes
from trainer.models.heads import PerStep
from trainer.models.networks import Network, Noise

CELLS = ("simple_rnn", "lstm", "gru")
VOCABULARY, CLASSES = 6, 3
LENGTHS = np.array([3, 1, 4])
LABELS = np.array([0, 2, 1])
ROWS, TIME = 3, 4
PADDED = np.arange(TIME) >= LENGTHS[:, None]
TOKENS = np.where(PADDED, 0, np.random.default_rng(0).integers(1, VOCABULARY, (ROWS, TIME))).astype(
    np.int32
)


def network_of(precision="float64", jit="on", seed=0, **changes):
    settings = Model(**{"cell": "lstm", "units": (3, 2), "embedding_size": 4, **changes})
    return Network(settings, VOCABULARY, CLASSES, seed=seed, precision=precision, jit=jit)


def random_weights(network, seed=0):
    """Returns weights that are larger than initial ones and not zero, so that every term counts."""
    generator = np.random.default_rng(seed)
    return {
        name: generator.normal(0, 0.7, weight.shape) for name, weight in network.weights.items()
    }


def tensors(weights, dtype=tf.float64):
    return {name: tf.constant(weight, dtype) for name, weight in weights.items()}


def logits_and_gradients(network, weights, tokens, lengths, noise=None):
    weights = tensors(weights)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        logits = network.logits(weights, tf.constant(tokens), tf.constant(lengths, tf.int32), noise)
        loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(LABELS, logits))
    return logits, {
        name: tf.convert_to_tensor(value) for name, value in tape.gradient(loss, weights).items()
    }


def assert_is_numpys(found, network, weights, tokens, lengths, masks=None):
    def loss(weights):
        return numpy_network.loss_sum(
            numpy_network.logits(network.settings, weights, tokens, lengths, masks), LABELS
        )

    logits, gradients = found
    np.testing.assert_allclose(
        logits,
        numpy_network.logits(network.settings, weights, tokens, lengths, masks),
        rtol=1e-12,
        atol=1e-14,
    )
    for name, expected in numpy_network.gradients(loss, weights).items():
        np.testing.assert_allclose(gradients[name], expected, rtol=1e-10, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
@pytest.mark.parametrize("cell", CELLS)
def test_logits_and_gradients_are_those_of_the_equations(cell, pooling, bidirectional, one_hot):
    network = network_of(
        cell=cell, pooling=pooling, bidirectional=bidirectional, one_hot=one_hot, units=(3,)
    )
    weights = random_weights(network)
    # Zeros in front count as tokens.
    in_front = np.stack([np.roll(row, TIME - length) for row, length in zip(TOKENS, LENGTHS)])
    for tokens, lengths in ((TOKENS, LENGTHS), (in_front, np.full(ROWS, TIME))):
        assert_is_numpys(
            logits_and_gradients(network, weights, tokens, lengths),
            network,
            weights,
            tokens,
            lengths,
        )


VARIANTS = [
    {"cell": "simple_rnn", "pooling": "last"},
    {"cell": "simple_rnn", "pooling": "max", "bidirectional": True},
    {"cell": "lstm", "pooling": "mean"},
    {"cell": "lstm", "pooling": "last", "bidirectional": True},
    {"cell": "gru", "pooling": "max"},
    {"cell": "gru", "pooling": "last", "bidirectional": True},
]


@pytest.mark.parametrize("jit", ["on", "off"])  # ours, and the Keras layer
@pytest.mark.parametrize("changes", VARIANTS)
def test_a_stack_of_layers_is_that_of_the_equations(changes, jit):
    network = network_of(jit=jit, **changes)
    weights = random_weights(network)
    assert_is_numpys(
        logits_and_gradients(network, weights, TOKENS, LENGTHS), network, weights, TOKENS, LENGTHS
    )


@pytest.mark.parametrize(
    "cell, pooling, bidirectional, one_hot",
    [
        ("simple_rnn", "last", False, True),
        ("lstm", "mean", False, False),
        ("gru", "max", True, False),
    ],
)
def test_compiled_by_xla_logits_and_gradients_are_the_same(cell, pooling, bidirectional, one_hot):
    network = network_of(
        cell=cell, pooling=pooling, bidirectional=bidirectional, one_hot=one_hot, units=(3,)
    )
    weights = random_weights(network)
    compiled = tf.function(
        lambda: logits_and_gradients(network, weights, TOKENS, LENGTHS), jit_compile=True
    )
    assert_is_numpys(compiled(), network, weights, TOKENS, LENGTHS)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
def test_the_network_is_its_own_keras_layers_with_a_mask(cell, bidirectional, pooling):
    """Keras computes every step of the padding too, and its mask carries the state over them."""
    network = network_of(cell=cell, bidirectional=bidirectional, pooling=pooling)
    (_, embedding), *rnns, (_, dense) = network.layers()
    mask = tf.constant(TOKENS != 0)
    states = embedding(TOKENS)
    for _, rnn in rnns:
        states = rnn(states, mask=mask)
    pool = {
        "mean": lambda row: tf.reduce_mean(row, axis=0),
        "max": lambda row: tf.reduce_max(row, axis=0),
        # The backward half, if any, ends at the first token.
        "last": lambda row: tf.concat([row[-1, :2], row[0, 2:]], axis=0),
    }[pooling]
    pooled = tf.stack([pool(row[:length]) for row, length in zip(states, LENGTHS)])
    initial = network.initial_weights()
    ours = network.logits(initial, tf.constant(TOKENS), tf.constant(LENGTHS, tf.int32))
    np.testing.assert_allclose(ours, dense(pooled), rtol=1e-12, atol=1e-15)


# --- Padding --------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", VARIANTS)
def test_tokens_beyond_a_rows_length_have_no_influence(changes):
    network = network_of(units=(3,), **changes)
    weights = random_weights(network)
    without_three = np.where(TOKENS == 3, 1, TOKENS)
    with_garbage, without = (
        logits_and_gradients(network, weights, np.where(PADDED, filler, without_three), LENGTHS)
        for filler in (3, 0)
    )
    np.testing.assert_array_equal(with_garbage[0], without[0])
    for name in weights:
        np.testing.assert_array_equal(with_garbage[1][name], without[1][name])
    assert not with_garbage[1]["embedding/embeddings"][3].numpy().any()


@pytest.mark.parametrize("changes", VARIANTS)
def test_more_padding_changes_nothing(changes):
    network = network_of(**changes, units=(3,), dropout=0.3, word_dropout=0.3)
    weights = random_weights(network)
    noise = Noise(tf.range(ROWS), tf.constant(9, tf.int64))
    wider = np.pad(TOKENS, [(0, 0), (0, 5)])
    narrow, wide = (
        logits_and_gradients(network, weights, tokens, LENGTHS, noise) for tokens in (TOKENS, wider)
    )
    np.testing.assert_allclose(narrow[0], wide[0], rtol=1e-14)
    for name in weights:
        np.testing.assert_allclose(narrow[1][name], wide[1][name], rtol=1e-12, atol=1e-15)


# --- Weights --------------------------------------------------------------------------------------

SHAPES = [
    (
        {"cell": "lstm", "units": (5,)},
        {
            "embedding/embeddings": (6, 4),
            "rnn_0/kernel": (4, 20),
            "rnn_0/recurrent_kernel": (5, 20),
            "rnn_0/bias": (20,),
            "logits/kernel": (5, 3),
            "logits/bias": (3,),
        },
    ),
    (
        {"cell": "simple_rnn", "units": (5,), "one_hot": True},
        {
            "rnn_0/kernel": (6, 5),
            "rnn_0/recurrent_kernel": (5, 5),
            "rnn_0/bias": (5,),
            "logits/kernel": (5, 3),
            "logits/bias": (3,),
        },
    ),
    (
        {"cell": "gru", "units": (5, 2), "bidirectional": True},
        {
            "embedding/embeddings": (6, 4),
            "rnn_0/forward/kernel": (4, 15),
            "rnn_0/forward/recurrent_kernel": (5, 15),
            "rnn_0/forward/bias": (2, 15),
            "rnn_0/backward/kernel": (4, 15),
            "rnn_0/backward/recurrent_kernel": (5, 15),
            "rnn_0/backward/bias": (2, 15),
            "rnn_1/forward/kernel": (10, 6),
            "rnn_1/forward/recurrent_kernel": (2, 6),
            "rnn_1/forward/bias": (2, 6),
            "rnn_1/backward/kernel": (10, 6),
            "rnn_1/backward/recurrent_kernel": (2, 6),
            "rnn_1/backward/bias": (2, 6),
            "logits/kernel": (4, 3),
            "logits/bias": (3,),
        },
    ),
]


@pytest.mark.parametrize("changes, shapes", SHAPES)
@pytest.mark.parametrize("from_cell", [False, True])
def test_names_and_shapes_of_weights(changes, shapes, from_cell):
    network = network_of(**changes, rnn_from_cell=from_cell)
    assert {name: tuple(weight.shape) for name, weight in network.weights.items()} == shapes
    assert network.parameters == sum(np.prod(shape) for shape in shapes.values())


def test_names_do_not_depend_on_what_was_built_before_in_the_process():
    keras.Sequential([keras.layers.Embedding(3, 2), keras.layers.LSTM(2)])
    one, two = network_of(), network_of()
    assert list(one.weights.items()) == list(two.weights.items())
    assert list(one.weights) == list(one.initial_weights())


def values(network):
    return {name: weight.numpy() for name, weight in network.initial_weights().items()}


@pytest.mark.parametrize(
    "cell, bidirectional", [("simple_rnn", False), ("lstm", True), ("gru", False)]
)
def test_a_layer_built_from_its_cell_is_the_layer(cell, bidirectional):
    direct, from_cell = (
        network_of(cell=cell, bidirectional=bidirectional, rnn_from_cell=built)
        for built in (False, True)
    )
    for name, weight in values(direct).items():
        np.testing.assert_array_equal(weight, values(from_cell)[name])
    weights = random_weights(direct)
    results = [
        logits_and_gradients(network, weights, TOKENS, LENGTHS) for network in (direct, from_cell)
    ]
    np.testing.assert_array_equal(results[0][0], results[1][0])
    for name in weights:
        np.testing.assert_array_equal(results[0][1][name], results[1][1][name])


def test_a_keras_layer_built_from_its_cell_computes_what_the_layer_does():
    inputs = np.random.default_rng(1).normal(size=(ROWS, TIME, 4))
    outputs = []
    for built in (False, True):
        _, (_, rnn), *_ = network_of(cell="simple_rnn", rnn_from_cell=built).layers()
        outputs.append(rnn(inputs, mask=tf.constant(TOKENS != 0)))
    np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize(
    "changes",
    [{}, {"bidirectional": True}, {"cell": "gru"}, {"cell": "simple_rnn", "one_hot": True}],
)
def test_the_initial_weights_depend_on_the_seed_alone(changes):
    one, same, other = (values(network_of(seed=seed, **changes)) for seed in (5, 5, 6))
    keras.utils.set_random_seed(1)
    after_use_of_the_global_seed = values(network_of(seed=5, **changes))
    for name in one:
        np.testing.assert_array_equal(one[name], same[name])
        np.testing.assert_array_equal(one[name], after_use_of_the_global_seed[name])
        if not name.endswith("bias"):
            assert not np.intersect1d(one[name], other[name]).size, name


@pytest.mark.parametrize("cell", CELLS)
def test_no_two_weights_start_with_equal_numbers(cell):
    """The widths give kernels of both layers, both directions and recurrent kernels one shape."""
    network = network_of(cell=cell, units=(4, 4, 4), bidirectional=True, embedding_size=8)
    drawn = [
        weight.ravel() for name, weight in values(network).items() if not name.endswith("bias")
    ]
    assert len(drawn) == 14
    for one, other in itertools.combinations(drawn, 2):
        assert not np.intersect1d(one, other).size


def test_initial_weights_have_the_distributions_of_keras():
    """Embedding uniform in +-0.05, kernels Glorot uniform, recurrent kernels orthogonal, biases 0.

    The bias of the forget gates is 1.
    """
    weights = values(network_of(units=(30,), embedding_size=40, precision="float64"))
    embedding = weights["embedding/embeddings"]
    assert 0.045 < np.abs(embedding).max() <= 0.05 and abs(embedding.mean()) < 0.01
    kernel, limit = weights["rnn_0/kernel"], np.sqrt(6 / (40 + 120))
    assert (
        0.99 * limit < np.abs(kernel).max() <= limit
        and abs(kernel.std() - limit / np.sqrt(3)) < 0.02 * limit
    )
    recurrent = weights["rnn_0/recurrent_kernel"]
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(30), atol=1e-6)
    np.testing.assert_array_equal(weights["rnn_0/bias"], np.repeat([0, 1, 0, 0], 30))
    assert not weights["logits/bias"].any()


# --- Dropout --------------------------------------------------------------------------------------

SEED = 11


def masks_of(network, rows, step):
    """Returns the factors after the embedding, between layers and before the output, by place."""
    settings, wide = network.settings, 2 if network.settings.bidirectional else 1
    width = VOCABULARY if settings.one_hot else settings.embedding_size
    shapes = {"embedding": (TIME, width), "rnn_1": (TIME, 3 * wide), "logits": (2 * wide,)}
    return {
        place: dropout.keep_mask(
            shape,
            rows,
            seed=SEED,
            step=step,
            layer=zlib.crc32(place.encode()),
            rate=settings.dropout,
            dtype=tf.float64,
        ).numpy()
        for place, shape in shapes.items()
    }


@pytest.mark.parametrize(
    "changes", [{}, {"bidirectional": True, "pooling": "max"}, {"cell": "gru", "one_hot": True}]
)
def test_dropout_lies_after_the_embedding_between_layers_and_before_the_output(changes):
    network = network_of(dropout=0.4, seed=SEED, **changes)
    weights = random_weights(network)
    rows, step = tf.constant([7, 0, 100]), tf.constant(12, tf.int64)
    found = logits_and_gradients(network, weights, TOKENS, LENGTHS, Noise(rows, step))
    assert_is_numpys(found, network, weights, TOKENS, LENGTHS, masks_of(network, rows, step))


@pytest.mark.parametrize("changes", [{}, {"cell": "gru", "one_hot": True}])
def test_word_dropout_drops_whole_embeddings(changes):
    network = network_of(dropout=0.4, word_dropout=0.3, seed=SEED, **changes)
    weights = random_weights(network)
    rows, step = tf.constant([7, 0, 100]), tf.constant(12, tf.int64)
    masks = masks_of(network, rows, step)
    words = dropout.keep_mask(
        (TIME,), rows, seed=SEED, step=step, layer=zlib.crc32(b"words"), rate=0.3, dtype=tf.float64
    ).numpy()
    assert 0 < np.count_nonzero(words[~PADDED]) < LENGTHS.sum()
    masks["embedding"] = masks["embedding"] * words[:, :, None]
    found = logits_and_gradients(network, weights, TOKENS, LENGTHS, Noise(rows, step))
    assert_is_numpys(found, network, weights, TOKENS, LENGTHS, masks)


def test_without_noise_nothing_is_dropped():
    weights = random_weights(network_of())
    plain, dropping = (network_of(dropout=rate, word_dropout=rate) for rate in (0.0, 0.5))
    noise = Noise(tf.range(ROWS), tf.constant(0, tf.int64))
    expected = logits_and_gradients(plain, weights, TOKENS, LENGTHS)[0]
    np.testing.assert_array_equal(
        logits_and_gradients(dropping, weights, TOKENS, LENGTHS)[0], expected
    )
    np.testing.assert_array_equal(
        logits_and_gradients(plain, weights, TOKENS, LENGTHS, noise)[0], expected
    )


def test_a_row_is_dropped_alike_in_any_part_of_the_batch():
    """Its mask depends on its number in the global batch, the step and the seed."""

    def logits(seed=0, step=5, chosen=slice(None)):
        network = network_of(dropout=0.5, seed=seed)
        noise = Noise(tf.constant([10, 11, 12])[chosen], tf.constant(step, tf.int64))
        return network.logits(
            tensors(weights), TOKENS[chosen], tf.constant(LENGTHS, tf.int32)[chosen], noise
        ).numpy()

    weights = random_weights(network_of())
    whole = logits()
    np.testing.assert_allclose(logits(chosen=slice(1, 3)), whole[1:3], rtol=1e-14)
    assert not np.isclose(logits(step=6), whole).any(axis=1).all()
    assert not np.isclose(logits(seed=1), whole).any(axis=1).all()


# --- Precision and implementations ----------------------------------------------------------------

# A float32 has 24 bits, a bfloat16 8, a float16 11. The sums here are short, so a few units in the
# last place are enough.
BOUNDS = {"float32": 1e-6, "bfloat16": 4e-2, "float16": 4e-3}


@pytest.mark.parametrize("precision, bound", BOUNDS.items())
@pytest.mark.parametrize("cell", CELLS)
def test_logits_in_each_precision_are_near_those_in_float64(precision, bound, cell):
    reference, network = network_of(cell=cell), network_of(precision, cell=cell)
    weights = random_weights(reference)
    assert {weight.dtype for weight in network.weights.values()} == {tf.float32}
    logits = network.logits(
        tensors(weights, tf.float32), tf.constant(TOKENS), tf.constant(LENGTHS, tf.int32)
    )
    assert logits.dtype == tf.float32
    expected = numpy_network.logits(reference.settings, weights, TOKENS, LENGTHS)
    assert 0 < np.abs(logits - expected).max() < bound * np.abs(expected).max()


@pytest.mark.parametrize(
    "jit, implementation", [("on", "ours"), ("off", "keras"), ("auto", "ours")]
)
def test_the_network_names_the_implementation_of_each_layer_and_the_reason(jit, implementation):
    implementations = network_of(jit=jit).implementations
    assert [one[:2] for one in implementations] == [
        ("rnn_0", implementation),
        ("rnn_1", implementation),
    ]
    assert all(reason for *_, reason in implementations)


# --- One output for each step ---------------------------------------------------------------------

# A projection comes in if the last layer is not as wide as the embedding.
OUTPUTS = {
    "untied": {"units": (3, 2)},
    "tied": {"units": (3, 4), "tied_embedding": True},
    "projected": {"units": (3, 2), "tied_embedding": True},
}


def language_model(precision="float64", jit="on", **changes):
    settings = Model(**{"cell": "lstm", "embedding_size": 4, **changes})
    return Network(settings, VOCABULARY, VOCABULARY, precision=precision, jit=jit, head=PerStep)


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_initial_weights_of_a_language_model_are_those_of_the_table(name):
    network = language_model(**OUTPUTS[name])
    built = {key: tuple(weight.shape) for key, weight in network.initial_weights().items()}
    table = shapes.weights(network.settings, VOCABULARY, VOCABULARY)
    assert list(built.items()) == list(table.items())
    assert {key: tuple(spec.shape) for key, spec in network.weights.items()} == table
    assert ("logits/kernel" in built) == (name == "untied")
    assert ("projection/kernel" in built) == (name == "projected")
    assert network.parameters == sum(map(np.prod, built.values()))


@pytest.mark.parametrize("jit", ["on", "off"])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", OUTPUTS)
def test_scores_of_each_step_and_their_gradients_are_those_of_the_equations(name, cell, jit):
    network = language_model(cell=cell, jit=jit, **OUTPUTS[name])
    generator, given = np.random.default_rng(3), random_weights(network)
    carry = {
        key: generator.normal(size=(ROWS, spec.shape[-1])) for key, spec in network.carried.items()
    }
    targets = generator.integers(0, VOCABULARY, (ROWS, TIME))
    tokens, lengths = np.maximum(TOKENS, 1), tf.fill([ROWS], TIME)

    def loss(weights):
        scores, _ = numpy_network.step_scores(network.settings, weights, tokens, carry)
        scores = scores.reshape(*scores.shape[:-3], ROWS * TIME, VOCABULARY)
        return numpy_network.loss_sum(scores, targets.ravel())

    expected, after = numpy_network.step_scores(network.settings, given, tokens, carry)
    weights = tensors(given)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        outputs, final = network.outputs(weights, tokens, lengths, carry=tensors(carry))
        total = tf.reduce_sum(
            tf.nn.sparse_softmax_cross_entropy_with_logits(targets, outputs.scores())
        )
    np.testing.assert_allclose(outputs.scores(), expected, rtol=1e-11, atol=1e-13)
    for key, rows in after.items():
        np.testing.assert_allclose(final[key], rows, rtol=1e-11, atol=1e-13, err_msg=key)
    found = tape.gradient(total, weights)
    for key, gradient in numpy_network.gradients(loss, given).items():
        ours = tf.convert_to_tensor(found[key])
        np.testing.assert_allclose(ours, gradient, rtol=1e-9, atol=1e-12, err_msg=key)


def test_logits_of_each_step_are_the_scores_that_an_export_saves():
    network = language_model(precision="bfloat16", **OUTPUTS["projected"])
    weights = network.initial_weights()
    outputs, _ = network.outputs(weights, tf.constant(TOKENS), tf.constant(LENGTHS, tf.int32))
    logits = network.logits(weights, tf.constant(TOKENS), tf.constant(LENGTHS, tf.int32))
    assert outputs.scores().dtype == tf.bfloat16 and logits.dtype == tf.float32
    assert logits.shape == (ROWS, TIME, VOCABULARY)
    np.testing.assert_array_equal(logits, tf.cast(outputs.scores(), tf.float32))


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16", "float64"])
def test_what_is_carried_has_the_names_shapes_and_types_of_its_specification(precision):
    network = language_model(precision=precision, **OUTPUTS["untied"])
    carry = {
        name: tf.zeros([ROWS, spec.shape[-1]], spec.dtype) for name, spec in network.carried.items()
    }
    lengths = tf.fill([ROWS], TIME)
    _, after = network.outputs(network.initial_weights(), TOKENS, lengths, carry=carry)
    assert list(after) == list(network.carried)
    for name, spec in network.carried.items():
        assert spec.is_compatible_with(after[name]) and after[name].dtype == spec.dtype, name
        assert spec.shape[-1] == shapes.carried(network.settings)[name]
