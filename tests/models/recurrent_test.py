"""Recurrences against the Keras layers that own the weights, in half precision and both directions.

`conformance_test` holds every recurrence against its equations.
"""

import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import numpy_recurrence
from trainer.models import heads, recurrent, shapes

LAYERS = {"simple_rnn": keras.layers.SimpleRNN, "lstm": keras.layers.LSTM, "gru": keras.layers.GRU}


def random_weights(rng, cell, width, units):
    named = shapes.recurrent_layer(cell, width, units)
    return [rng.normal(size=shape) for shape in named.values()]


def hidden_by_equations(*arguments, **options):
    hidden, _ = numpy_recurrence.run(*arguments, **options)
    return hidden


def hidden_and_gradients(run, direction, *tensors):
    """Returns the hidden states, and the gradients of sum(hidden * direction) by all tensors.

    tensors: inputs and weights.
    """
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        hidden, _ = run(tensors[1:], tensors[0])
        scalar = tf.reduce_sum(hidden * direction)
    return [hidden, *tape.gradient(scalar, tensors)]


@pytest.mark.parametrize("implementation", ["ours", "keras"])
@pytest.mark.parametrize("cell", LAYERS)
def test_each_implementation_equals_the_keras_layer_that_owns_the_weights(cell, implementation):
    rng = np.random.default_rng(0)
    layer = LAYERS[cell](
        6, return_sequences=True, dtype="float64", bias_initializer="random_normal"
    )
    inputs, direction = (
        tf.constant(rng.normal(size=(4, 11, 3))),
        tf.constant(rng.normal(size=(4, 11, 6))),
    )
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        hidden = layer(inputs)
        scalar = tf.reduce_sum(hidden * direction)
    variables = [layer.cell.kernel.value, layer.cell.recurrent_kernel.value, layer.cell.bias.value]
    truth = [hidden, *tape.gradient(scalar, [inputs, *variables])]
    run = recurrent.recurrence(cell, implementation)
    tensors = [tf.convert_to_tensor(variable) for variable in variables]
    for value, true in zip(
        hidden_and_gradients(run, direction, inputs, *tensors), truth, strict=True
    ):
        np.testing.assert_allclose(value, true, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype, bound, jit", [("bfloat16", 0.05, True), ("float16", 0.005, False)])
@pytest.mark.parametrize("cell", LAYERS)
def test_half_precision_stays_near_the_equations(cell, dtype, bound, jit):
    rng = np.random.default_rng(0)
    arrays = [
        rng.normal(size=(4, 20, 8)),
        *(0.5 * weight for weight in random_weights(rng, cell, 8, 8)),
    ]
    direction = rng.normal(size=(4, 20, 8))
    run = recurrent.recurrence(cell, "ours")
    truth = hidden_and_gradients(run, *map(tf.constant, (direction, *arrays)))
    weights = [tf.constant(weight, tf.float32) for weight in arrays[1:]]
    compiled = tf.function(functools.partial(hidden_and_gradients, run), jit_compile=jit)
    halves = compiled(tf.cast(direction, dtype), tf.cast(arrays[0], dtype), *weights)
    for half, true in zip(halves, truth, strict=True):
        assert np.max(np.abs(tf.cast(half, tf.float64) - true)) < bound * np.max(np.abs(true))


def test_the_memory_of_an_lstm_keeps_counting_in_bfloat16():
    # Each step adds 0.0005 to a memory that forgets nothing. In bfloat16 the sum would stop growing
    # at 0.125.
    bias = np.array([0, 30, np.arctanh(0.001), 30], "float32")
    weights = [tf.zeros([1, 4]), tf.zeros([1, 4]), tf.constant(bias)]
    run = tf.function(recurrent.recurrence("lstm", "ours"))
    hidden, (_, memory) = run(weights, tf.zeros([1, 1000, 1], tf.bfloat16))
    np.testing.assert_allclose(memory, [[0.5]], rtol=0.01)
    np.testing.assert_allclose(tf.cast(hidden[0, -1, 0], tf.float32), np.tanh(0.5), rtol=0.01)


@pytest.mark.parametrize("cell", LAYERS)
@pytest.mark.parametrize("how", ["eager", "xla"])
def test_steps_one_by_one_are_the_recurrence(cell, how):
    rng = np.random.default_rng(0)
    inputs, weights = rng.normal(size=(3, 5, 4)), random_weights(rng, cell, 4, 2)
    parts = numpy_recurrence.CELLS[cell][1]
    start = [rng.normal(size=(3, 2)) for _ in range(parts)]
    step = recurrent.one_step(cell)
    if how == "xla":
        step = tf.function(step, jit_compile=True)
    state = tuple(map(tf.constant, start))
    for t in range(5):
        state = step([*map(tf.constant, weights)], tf.constant(inputs[:, t]), state)
        hidden, truth = numpy_recurrence.run(cell, weights, inputs[:, : t + 1], state=start)
        _, ours = recurrent.recurrence(cell, "ours")(
            weights, tf.constant(inputs[:, : t + 1]), state=tuple(map(tf.constant, start))
        )
        for part, true, of_ours in zip(state, truth, ours, strict=True):
            np.testing.assert_allclose(part, true, rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(part, of_ours, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cell", LAYERS)
def test_a_step_keeps_its_state_in_32_bits(cell):
    rng = np.random.default_rng(0)
    weights = [tf.constant(weight, tf.float32) for weight in random_weights(rng, cell, 4, 2)]
    inputs = tf.cast(rng.normal(size=(3, 1, 4)), tf.bfloat16)
    start = numpy_recurrence.CELLS[cell][1] * (tf.ones([3, 2]),)
    _, whole = recurrent.recurrence(cell, "ours")(weights, inputs, state=start)
    for part, true in zip(recurrent.one_step(cell)(weights, inputs[:, 0], start), whole):
        assert part.dtype == tf.float32
        np.testing.assert_allclose(part, true, rtol=1e-6)


@pytest.mark.parametrize("cell", LAYERS)
@pytest.mark.parametrize("how", ["eager", "xla"])
def test_both_directions_of_a_padded_row_equal_the_row_alone(cell, how):
    rng = np.random.default_rng(0)
    inputs, lengths = rng.normal(size=(4, 6, 3)), np.array([6, 3, 1, 4], "int32")
    forward, backward = random_weights(rng, cell, 3, 2), random_weights(rng, cell, 3, 2)

    @tf.function(jit_compile=True)
    def compiled(*tensors):
        return both(*tensors)

    def both(inputs, lengths):
        hidden = recurrent.bidirectional(
            recurrent.recurrence(cell, "ours"), forward, backward, inputs, lengths
        )
        return hidden, heads.ends(hidden, lengths)

    hidden, ends = (compiled if how == "xla" else both)(tf.constant(inputs), tf.constant(lengths))
    for row, length in enumerate(lengths):
        alone = inputs[row : row + 1, :length]
        first = hidden_by_equations(cell, forward, alone)[0]
        second = hidden_by_equations(cell, backward, alone, reverse=True)[0]
        aligned = np.concatenate([first, second], axis=1)
        np.testing.assert_allclose(hidden[row, :length], aligned, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(
            ends[row], np.concatenate([first[-1], second[0]]), rtol=1e-12, atol=1e-12
        )


def test_without_lengths_both_directions_run_over_the_whole_array():
    rng = np.random.default_rng(0)
    inputs, forward, backward = (
        rng.normal(size=(2, 5, 3)),
        *(random_weights(rng, "gru", 3, 2) for _ in range(2)),
    )
    hidden = recurrent.bidirectional(
        recurrent.recurrence("gru", "ours"), forward, backward, tf.constant(inputs)
    )
    truth = [
        hidden_by_equations("gru", forward, inputs),
        hidden_by_equations("gru", backward, inputs, reverse=True),
    ]
    np.testing.assert_allclose(hidden, np.concatenate(truth, axis=-1), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        heads.ends(hidden),
        np.concatenate([truth[0][:, -1], truth[1][:, 0]], axis=-1),
        rtol=1e-12,
        atol=1e-12,
    )


@pytest.mark.parametrize(
    "cell, device_type, jit, implementation",
    [
        ("lstm", "CPU", "auto", "ours"),
        ("lstm", "CPU", "off", "keras"),
        ("lstm", "TPU", "auto", "ours"),
        ("gru", "TPU", "off", "ours"),  # a TPU runs only what XLA compiles
        ("lstm", "GPU", "auto", "keras"),
        ("gru", "GPU", "off", "keras"),
        ("lstm", "GPU", "on", "ours"),  # XLA cannot compile cuDNN
        ("simple_rnn", "GPU", "auto", "ours"),  # cuDNN is not used for it
    ],
)
def test_the_implementation_is_chosen_by_cell_device_and_jit(
    cell, device_type, jit, implementation
):
    assert recurrent.choose(cell, device_type, jit)[0] == implementation


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_cudnn_never_computes_in_bfloat16(cell):
    for jit in ("auto", "off"):
        assert recurrent.choose(cell, "GPU", jit, "bfloat16")[0] == recurrent.KERAS_IN_FLOAT32
    for precision in ("float16", "float32", "float64"):
        assert recurrent.choose(cell, "GPU", "auto", precision)[0] == "keras"
    assert recurrent.choose(cell, "CPU", "off", "bfloat16")[0] == "keras"


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_keras_in_float32_rounds_only_what_it_returns(cell):
    chance = np.random.default_rng(0)
    weights = [
        tf.constant(chance.normal(size=shape), tf.float32)
        for shape in shapes.recurrent_layer(cell, 3, 4).values()
    ]
    inputs = tf.constant(chance.normal(size=(2, 5, 3)), tf.bfloat16)
    found = {}
    for name in ("keras", recurrent.KERAS_IN_FLOAT32):
        values = inputs if name != "keras" else tf.cast(inputs, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(weights)
            hidden, final = recurrent.recurrence(cell, name)(weights, values)
            total = tf.reduce_sum(tf.cast(hidden, tf.float32))
        found[name] = hidden, final, tape.gradient(total, weights)
    exact, rounded = found.values()
    assert rounded[0].dtype == tf.bfloat16
    np.testing.assert_array_equal(rounded[0], tf.cast(exact[0], tf.bfloat16))
    for ours, theirs in zip((*rounded[1], *rounded[2]), (*exact[1], *exact[2])):
        assert ours.dtype == tf.float32
        np.testing.assert_array_equal(ours, theirs)


def test_every_choice_is_in_the_table_and_has_a_reason():
    for cell, device_type, jit, precision in itertools.product(
        LAYERS, ["CPU", "GPU", "TPU"], ["auto", "on", "off"], ["float32", "bfloat16"]
    ):
        implementation, reason = recurrent.choose(cell, device_type, jit, precision)
        assert callable(recurrent.recurrence(cell, implementation)) and len(reason) > 20
