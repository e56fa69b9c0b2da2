"""Every recurrence against its equations in float64 NumPy, derived by complex steps, and against
the Keras layer.
"""

import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.models import recurrent

LAYERS = {"simple_rnn": keras.layers.SimpleRNN, "lstm": keras.layers.LSTM, "gru": keras.layers.GRU}
GATES = {"simple_rnn": 1, "lstm": 4, "gru": 3}
# (batch, time, in, units)
SHAPES = [(3, 7, 5, 4), (1, 1, 1, 1), (2, 9, 1, 3), (1, 5, 3, 1), (4, 1, 3, 2)]


def random_weights(rng, cell, width, units):
    shapes = [(width, GATES[cell] * units), (units, GATES[cell] * units)]
    shapes.append((2, 3 * units) if cell == "gru" else (GATES[cell] * units,))
    return [rng.normal(size=shape) for shape in shapes]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_recurrence(cell, weights, inputs, reverse=False):
    """The equations as they stand, step by step. Works on complex numbers too."""
    kernel, recurrent_kernel, bias = weights
    hidden = memory = np.zeros([inputs.shape[0], recurrent_kernel.shape[0]])
    states = {}
    for t in range(inputs.shape[1])[:: -1 if reverse else 1]:
        x = inputs[:, t] @ kernel
        h = hidden @ recurrent_kernel
        if cell == "simple_rnn":
            hidden = np.tanh(x + h + bias)
        elif cell == "lstm":
            i, f, c, o = np.split(x + h + bias, 4, axis=1)
            memory = sigmoid(f) * memory + sigmoid(i) * np.tanh(c)
            hidden = sigmoid(o) * np.tanh(memory)
        else:
            (xz, xr, xh), (hz, hr, hh) = (
                np.split(x + bias[0], 3, axis=1),
                np.split(h + bias[1], 3, axis=1),
            )
            z = sigmoid(xz + hz)
            hidden = z * hidden + (1 - z) * np.tanh(xh + sigmoid(xr + hr) * hh)
        states[t] = hidden
    return np.stack([states[t] for t in range(inputs.shape[1])], axis=1)


def complex_step_gradients(function, arrays):
    """The derivatives of a real scalar function, exact to rounding: Im f(x + ih) / h needs no
    difference of neighbours (Squire and Trapp 1998, doi 10.1137/S003614459631241X)."""
    gradients = [np.zeros_like(array) for array in arrays]
    for k, array in enumerate(arrays):
        for place in np.ndindex(array.shape):
            moved = [other.astype(complex) for other in arrays]
            moved[k][place] += 1e-30j
            gradients[k][place] = function(*moved).imag / 1e-30
    return gradients


def hidden_and_gradients(run, direction, *tensors):
    """The hidden states, and the gradients of sum(hidden * direction) by the inputs and the
    weights.
    """
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        hidden = run(tensors[1:], tensors[0])
        scalar = tf.reduce_sum(hidden * direction)
    return [hidden, *tape.gradient(scalar, tensors)]


def evaluate(how, run, direction, *arrays):
    function = functools.partial(hidden_and_gradients, run)
    if how != "eager":
        unknown = [
            tf.TensorSpec([None, None, array.shape[-1]], array.dtype)
            for array in (direction, arrays[0])
        ]
        known = [tf.TensorSpec(array.shape, array.dtype) for array in arrays[1:]]
        function = tf.function(function, input_signature=unknown + known, jit_compile=how == "xla")
    return function(*(tf.constant(array) for array in (direction, *arrays)))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", LAYERS)
@pytest.mark.parametrize(
    "how, shapes", [("eager", SHAPES), ("graph", SHAPES[:1]), ("xla", SHAPES[:2])]
)
def test_hidden_states_and_gradients_equal_the_equations(cell, reverse, how, shapes):
    for batch, time, width, units in shapes:
        rng = np.random.default_rng(time)
        arrays = [rng.normal(size=(batch, time, width)), *random_weights(rng, cell, width, units)]
        direction = rng.normal(size=(batch, time, units))

        def scalar(inputs, *weights):
            return np.sum(numpy_recurrence(cell, weights, inputs, reverse) * direction)

        truth = [
            numpy_recurrence(cell, arrays[1:], arrays[0], reverse),
            *complex_step_gradients(scalar, arrays),
        ]
        run = functools.partial(recurrent.recurrence(cell, "ours"), reverse=reverse)
        for ours, true in zip(evaluate(how, run, direction, *arrays), truth, strict=True):
            np.testing.assert_allclose(ours, true, rtol=1e-12, atol=1e-12)


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


@pytest.mark.parametrize("cell", LAYERS)
def test_both_implementations_agree_in_reverse_and_in_float32(cell):
    rng = np.random.default_rng(0)
    inputs = tf.constant(rng.normal(size=(3, 8, 2)), tf.float32)
    weights = [tf.constant(weight, tf.float32) for weight in random_weights(rng, cell, 2, 5)]
    ours, twin = (
        recurrent.recurrence(cell, name)(weights, inputs, reverse=True)
        for name in ("ours", "keras")
    )
    np.testing.assert_allclose(ours, twin, rtol=1e-5, atol=1e-6)


def test_one_trace_serves_every_batch_and_length():
    rng = np.random.default_rng(0)
    weights = [tf.constant(weight) for weight in random_weights(rng, "lstm", 2, 3)]
    traces = []

    @tf.function(jit_compile=True, input_signature=[tf.TensorSpec([None, None, 2], tf.float64)])
    def hidden(inputs):
        traces.append(inputs)
        return recurrent.recurrence("lstm", "ours")(weights, inputs)

    assert [hidden(np.zeros(shape)).shape for shape in ((1, 4, 2), (5, 2, 2))] == [
        (1, 4, 3),
        (5, 2, 3),
    ]
    assert len(traces) == 1


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
    truth = evaluate("graph", run, direction, *arrays)
    weights = [tf.constant(weight, tf.float32) for weight in arrays[1:]]
    compiled = tf.function(functools.partial(hidden_and_gradients, run), jit_compile=jit)
    halves = compiled(tf.cast(direction, dtype), tf.cast(arrays[0], dtype), *weights)
    for half, true in zip(halves, truth, strict=True):
        assert np.max(np.abs(tf.cast(half, tf.float64) - true)) < bound * np.max(np.abs(true))


def test_the_cell_state_goes_on_counting_in_bfloat16():
    # Each step adds 0.0005 to a cell that forgets nothing; in bfloat16 the sum would stop growing
    # at 0.125.
    bias = np.array([0, 30, np.arctanh(0.001), 30], "float32")
    weights = [tf.zeros([1, 4]), tf.zeros([1, 4]), tf.constant(bias)]
    run = tf.function(recurrent.recurrence("lstm", "ours"))
    hidden = run(weights, tf.zeros([1, 1000, 1], tf.bfloat16))
    np.testing.assert_allclose(tf.cast(hidden[0, -1, 0], tf.float32), np.tanh(0.5), rtol=0.01)


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
        return hidden, recurrent.ends(hidden, lengths)

    hidden, ends = (compiled if how == "xla" else both)(tf.constant(inputs), tf.constant(lengths))
    for row, length in enumerate(lengths):
        alone = inputs[row : row + 1, :length]
        first = numpy_recurrence(cell, forward, alone)[0]
        second = numpy_recurrence(cell, backward, alone, reverse=True)[0]
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
        numpy_recurrence("gru", forward, inputs),
        numpy_recurrence("gru", backward, inputs, reverse=True),
    ]
    np.testing.assert_allclose(hidden, np.concatenate(truth, axis=-1), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        recurrent.ends(hidden),
        np.concatenate([truth[0][:, -1], truth[1][:, 0]], axis=-1),
        rtol=1e-12,
        atol=1e-12,
    )


POOLINGS = {
    "last": (recurrent.last, lambda steps: steps[-1]),
    "maximum": (recurrent.maximum, lambda steps: steps.max(axis=0)),
    "mean": (recurrent.mean, lambda steps: steps.mean(axis=0)),
    "ends": (recurrent.ends, lambda steps: np.concatenate([steps[-1, :2], steps[0, 2:]])),
}


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("jit", [False, True])
def test_pooling_sees_the_steps_of_a_row_and_no_padding(name, jit):
    pool, truth = POOLINGS[name]
    lengths = np.array([5, 2, 1, 0], "int32")
    # below zero, so that no zero of a mask is a maximum
    hidden = np.random.default_rng(0).normal(size=(4, 5, 4)) - 3
    padding = np.arange(5) >= lengths[:, None]
    hidden[padding] = np.nan

    @tf.function(jit_compile=jit)
    def pooled_and_gradient(hidden):
        with tf.GradientTape() as tape:
            tape.watch(hidden)
            pooled = pool(hidden, lengths)
            scalar = tf.reduce_sum(pooled)
        return pooled, tape.gradient(scalar, hidden)

    pooled, gradient = pooled_and_gradient(tf.constant(hidden))
    for row, length in enumerate(lengths):
        expected = truth(hidden[row, :length]) if length else np.zeros(4)
        np.testing.assert_allclose(pooled[row], expected, rtol=1e-12)
        np.testing.assert_allclose(
            np.sum(gradient[row], axis=0), np.ones(4) if length else np.zeros(4), rtol=1e-12
        )
    assert np.all(gradient.numpy()[padding] == 0)


@pytest.mark.parametrize("name", POOLINGS)
def test_pooling_without_lengths_takes_every_step(name):
    pool, truth = POOLINGS[name]
    hidden = np.random.default_rng(0).normal(size=(3, 5, 4))
    np.testing.assert_allclose(
        pool(tf.constant(hidden)), [truth(row) for row in hidden], rtol=1e-12
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", POOLINGS)
def test_pooling_works_in_half_precision(name, dtype):
    pooled = POOLINGS[name][0](tf.ones([2, 3, 4], dtype), tf.constant([3, 1]))
    assert pooled.dtype.name == dtype and np.all(tf.cast(pooled, tf.float32) == 1)


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
def test_the_kernel_is_chosen_by_cell_device_and_jit(cell, device_type, jit, implementation):
    assert recurrent.choose(cell, device_type, jit)[0] == implementation


def test_every_choice_is_in_the_table_and_has_a_reason():
    for cell, device_type, jit in itertools.product(
        LAYERS, ["CPU", "GPU", "TPU"], ["auto", "on", "off"]
    ):
        implementation, reason = recurrent.choose(cell, device_type, jit)
        assert callable(recurrent.recurrence(cell, implementation)) and len(reason) > 20
