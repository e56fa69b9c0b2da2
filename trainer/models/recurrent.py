"""Recurrences over the weights of Keras layers, one table by cell and implementation.

Every implementation of a cell computes the same function of (weights, inputs); they differ in where they are fast.

Shapes in words: `batch` examples, `time` steps, `in` features, `units` of the state. Weights are tensors in the shapes
and gate orders of Keras 3:

    simple_rnn  kernel [in, units]    recurrent kernel [units, units]    bias [units]
    lstm        kernel [in, 4 units]  recurrent kernel [units, 4 units]  bias [4 units]     gates i f c o
    gru         kernel [in, 3 units]  recurrent kernel [units, 3 units]  bias [2, 3 units]  gates z r h, reset_after
"""

import functools

import keras
import tensorflow as tf


def recurrence(cell, implementation):
    """The function `(weights, inputs, reverse=False) -> hidden` of one cell and one implementation.

    weights: the three tensors of the cell (shapes above); inputs: float [batch, time, in]; hidden: [batch, time, units]
    in the dtype of the inputs, hidden[:, t] being the state after step t, zero before the first. With `reverse` the
    steps run from the last to the first: hidden[:, t] is the state after steps time-1, ..., t. Nothing is masked:
    where padding comes after a row's own steps, read its state at the last of those.
    """
    return RECURRENCES[cell][implementation]


def choose(cell, device_type, jit):
    """The implementation for a layer, and the reason in one sentence for the log.

    cell: a key of RECURRENCES; device_type: "CPU", "GPU" or "TPU"; jit: "auto", "on" or "off". A step around "ours" is
    to be compiled by XLA, unless jit is "off"; a step around "keras" is not.
    """
    if device_type == "TPU":
        return "ours", "a TPU runs only what XLA compiles"
    if jit == "on":
        return "ours", "XLA was asked for, and it can compile no cuDNN kernel and runs the loop of the Keras layer slowly"
    if device_type == "GPU" and cell in _CUDNN_CELLS:
        return "keras", "cuDNN has a kernel for this cell, and XLA cannot compile it"
    if jit == "off":
        return "keras", "without XLA the Keras layer is as fast as ours"
    return "ours", f"compiled by XLA for {device_type}, with the input of all steps projected in one product"


def bidirectional(run, forward, backward, inputs, lengths=None):
    """Both directions of a recurrence, aligned in time: [batch, time, 2 units], the forward half first.

    run: what `recurrence` returned; forward, backward: the weights of each direction; inputs: [batch, time, in];
    lengths: int32 [batch], how many steps of each row come before its padding, None if there is no padding or it counts
    as steps. The backward direction starts at a row's last step before the padding.
    """
    if lengths is None:
        return tf.concat([run(forward, inputs), run(backward, inputs, reverse=True)], axis=-1)
    turn = functools.partial(tf.reverse_sequence, seq_lengths=lengths, seq_axis=1, batch_axis=0)
    return tf.concat([run(forward, inputs), turn(run(backward, turn(inputs)))], axis=-1)


def last(hidden, lengths=None):
    """The state after the last step of each row: [batch, units]; zero, the state before any step, where length is 0.

    hidden: [batch, time, units]; lengths: int32 [batch], None if every row fills the array; so in all poolings.
    """
    if lengths is None:
        return hidden[:, -1]
    is_last = tf.range(tf.shape(hidden)[1]) == lengths[:, None] - 1
    return tf.reduce_sum(tf.where(is_last[:, :, None], hidden, 0), axis=1)


def ends(hidden, lengths=None):
    """The state of each direction after its last step, from the output of `bidirectional`: [batch, 2 units].

    The forward direction ends at length - 1, the backward direction at 0.
    """
    forward, backward = tf.split(hidden, 2, axis=-1)
    first = backward[:, 0] if lengths is None else tf.where(lengths[:, None] > 0, backward[:, 0], 0)
    return tf.concat([last(forward, lengths), first], axis=-1)


def maximum(hidden, lengths=None):
    """The largest value of each unit over the steps of each row: [batch, units]; zero where length is 0."""
    if lengths is None:
        return tf.reduce_max(hidden, axis=1)
    highest = tf.reduce_max(tf.where(_is_step(hidden, lengths), hidden, hidden.dtype.min), axis=1)
    return tf.where(lengths[:, None] > 0, highest, 0)


def mean(hidden, lengths=None):
    """The mean of each unit over the steps of each row: [batch, units]; zero where length is 0."""
    if lengths is None:
        return tf.reduce_mean(hidden, axis=1)
    total = tf.reduce_sum(tf.where(_is_step(hidden, lengths), hidden, 0), axis=1)
    return total / tf.cast(tf.maximum(lengths, 1), hidden.dtype)[:, None]


def _is_step(hidden, lengths):
    return tf.sequence_mask(lengths, tf.shape(hidden)[1])[:, :, None]


def _scan(step, state, sequences, widths, reverse):
    """Runs `state, outputs = step(state, *slices)` over time and stacks the outputs.

    state: tuple of [batch, ...]; sequences: tensors [time, batch, ...], whose slices at one time the step gets; widths:
    the last dimension of each output, which are [batch, width]. Returns the outputs as [time, batch, width] each.
    """
    time, batch = tf.unstack(tf.shape(sequences[0])[:2])
    dtype = sequences[0].dtype
    read = [tf.TensorArray(s.dtype, time, element_shape=s.shape[1:]).unstack(s).read for s in sequences]
    outputs = tuple(tf.TensorArray(dtype, time, element_shape=[None, width]) for width in widths)

    def body(i, state, outputs):
        t = time - 1 - i if reverse else i
        state, values = step(state, *(r(t) for r in read))
        return i + 1, state, tuple(array.write(t, value) for array, value in zip(outputs, values, strict=True))

    # The bound lets XLA allocate, and a TPU needs it.
    *_, outputs = tf.while_loop(lambda i, *_: i < time, body, (0, state, outputs), maximum_iterations=time)
    return [array.stack() for array in outputs]


def _before(states, reverse):
    """The states [time, batch, units] each step started from: shifted by one against its direction, zero at the first."""
    zero = tf.zeros_like(states[:1])
    return tf.concat([states[1:], zero] if reverse else [zero, states[:-1]], axis=0)


def _zeros(inputs, units):
    return tf.zeros([tf.shape(inputs)[1], units], inputs.dtype)


def _rows(sequence):
    """[time, batch, width] as one matrix [time * batch, width]."""
    return tf.reshape(sequence, [-1, sequence.shape[-1]])


def _project(sequence, matrix, **transpose):
    """The product of every step with `matrix`, in one call."""
    product = tf.matmul(_rows(sequence), matrix, **transpose)
    return tf.reshape(product, tf.concat([tf.shape(sequence)[:2], tf.shape(product)[1:]], axis=0))


def _product_over_time(left, right):
    """The sum over steps and batch of the outer products of two sequences: [left width, right width]."""
    return tf.matmul(_rows(left), _rows(right), transpose_a=True)


def _simple_rnn(kernel, recurrent, bias, inputs, reverse):
    """h' = tanh(x W + h U + b)"""
    units = recurrent.shape[0]

    def step(state, projected):
        hidden = tf.tanh(projected + tf.matmul(state[0], recurrent))
        return (hidden,), (hidden,)

    [hidden] = _scan(step, (_zeros(inputs, units),), [_project(inputs, kernel) + bias], [units], reverse)

    def gradient(d_hidden):
        def step_back(d_state, d_output, output):
            delta = (d_state[0] + d_output) * (1 - output * output)
            return (tf.matmul(delta, recurrent, transpose_b=True),), (delta,)

        [delta] = _scan(step_back, (_zeros(inputs, units),), [d_hidden, hidden], [units], not reverse)
        return (
            _product_over_time(inputs, delta),
            _product_over_time(_before(hidden, reverse), delta),
            tf.reduce_sum(delta, axis=[0, 1]),
            _project(delta, kernel, transpose_b=True),
        )

    return hidden, gradient


def _lstm(kernel, recurrent, bias, inputs, reverse):
    """i f g o = x W + h U + b; c' = sigmoid(f) c + sigmoid(i) tanh(g); h' = sigmoid(o) tanh(c')

    Hochreiter and Schmidhuber 1997 (doi 10.1162/neco.1997.9.8.1735) with the forget gate of Gers et al. 2000.
    """
    units = recurrent.shape[0]

    def step(state, projected):
        hidden, cell = state
        i, f, g, o = tf.split(projected + tf.matmul(hidden, recurrent), 4, axis=-1)
        i, f, g, o = tf.sigmoid(i), tf.sigmoid(f), tf.tanh(g), tf.sigmoid(o)
        cell = f * cell + i * g
        hidden = o * tf.tanh(cell)
        return (hidden, cell), (hidden, cell, tf.concat([i, f, g, o], axis=-1))

    zero = _zeros(inputs, units)
    hidden, cells, gates = _scan(
        step, (zero, zero), [_project(inputs, kernel) + bias], [units, units, 4 * units], reverse
    )

    def gradient(d_hidden):
        def step_back(d_state, d_output, cell, previous, gates):
            d_hidden, d_cell = d_state
            i, f, g, o = tf.split(gates, 4, axis=-1)
            d_hidden += d_output
            output = tf.tanh(cell)
            d_cell += d_hidden * o * (1 - output * output)
            delta = tf.concat(
                [
                    d_cell * g * i * (1 - i),
                    d_cell * previous * f * (1 - f),
                    d_cell * i * (1 - g * g),
                    d_hidden * output * o * (1 - o),
                ],
                axis=-1,
            )
            return (tf.matmul(delta, recurrent, transpose_b=True), d_cell * f), (delta,)

        sequences = [d_hidden, cells, _before(cells, reverse), gates]
        [delta] = _scan(step_back, (zero, zero), sequences, [4 * units], not reverse)
        return (
            _product_over_time(inputs, delta),
            _product_over_time(_before(hidden, reverse), delta),
            tf.reduce_sum(delta, axis=[0, 1]),
            _project(delta, kernel, transpose_b=True),
        )

    return hidden, gradient


def _gru(kernel, recurrent, bias, inputs, reverse):
    """z r = sigmoid(x W + b0 + h U + b1); g = tanh(x W + b0 + r (h U + b1)); h' = z h + (1 - z) g

    Cho et al. 2014 (arXiv 1406.1078), the reset after the product as in cuDNN and Keras' `reset_after=True`.
    """
    units = recurrent.shape[0]

    def step(state, projected):
        [hidden] = state
        xz, xr, xg = tf.split(projected, 3, axis=-1)
        hz, hr, hg = tf.split(tf.matmul(hidden, recurrent) + bias[1], 3, axis=-1)
        z, r = tf.sigmoid(xz + hz), tf.sigmoid(xr + hr)
        g = tf.tanh(xg + r * hg)
        hidden = z * hidden + (1 - z) * g
        return (hidden,), (hidden, tf.concat([z, r, g, hg], axis=-1))

    zero = _zeros(inputs, units)
    hidden, gates = _scan(step, (zero,), [_project(inputs, kernel) + bias[0]], [units, 4 * units], reverse)

    def gradient(d_hidden):
        def step_back(d_state, d_output, previous, gates):
            z, r, g, hg = tf.split(gates, 4, axis=-1)
            d_hidden = d_state[0] + d_output
            dg = d_hidden * (1 - z) * (1 - g * g)
            dz = d_hidden * (previous - g) * z * (1 - z)
            dr = dg * hg * r * (1 - r)
            inner = tf.concat([dz, dr, dg * r], axis=-1)
            d_previous = d_hidden * z + tf.matmul(inner, recurrent, transpose_b=True)
            return (d_previous,), (tf.concat([dz, dr, dg], axis=-1), inner)

        previous = _before(hidden, reverse)
        outer, inner = _scan(
            step_back, (zero,), [d_hidden, previous, gates], [3 * units, 3 * units], not reverse
        )
        return (
            _product_over_time(inputs, outer),
            _product_over_time(previous, inner),
            tf.stack([tf.reduce_sum(outer, axis=[0, 1]), tf.reduce_sum(inner, axis=[0, 1])]),
            _project(outer, kernel, transpose_b=True),
        )

    return hidden, gradient


def _ours(cell):
    """The batch-major face of a time-major recurrence with a gradient of its own."""

    def run(weights, inputs, reverse=False):
        function = tf.custom_gradient(lambda *tensors: cell(*tensors, reverse=reverse))
        weights = [tf.cast(weight, inputs.dtype) for weight in weights]
        return tf.transpose(function(*weights, tf.transpose(inputs, [1, 0, 2])), [1, 0, 2])

    return run


def _keras(layer_class):
    """The Keras layer, which takes the kernel of cuDNN where there is one; also the twin that says what is meant."""

    def run(weights, inputs, reverse=False):
        layer = _keras_layer(layer_class, weights[1].shape[0], inputs.shape[-1], inputs.dtype.name)
        # Not `go_backwards`: its output stays in the order of the steps, and its path through cuDNN is another.
        turn = functools.partial(tf.reverse, axis=[1]) if reverse else tf.identity
        state = [variable.value for variable in layer.non_trainable_variables]
        hidden, _ = layer.stateless_call(list(weights), state, turn(inputs))
        return turn(hidden)

    return run


@functools.cache
def _keras_layer(layer_class, units, width, dtype):
    """A built layer whose own weights are never used: `stateless_call` puts the caller's in their place."""
    with tf.init_scope():
        layer = layer_class(units, return_sequences=True, dtype=dtype)
        layer.build((None, None, width))
    return layer


_CUDNN_CELLS = ("lstm", "gru")
RECURRENCES = {
    "simple_rnn": {"ours": _ours(_simple_rnn), "keras": _keras(keras.layers.SimpleRNN)},
    "lstm": {"ours": _ours(_lstm), "keras": _keras(keras.layers.LSTM)},
    "gru": {"ours": _ours(_gru), "keras": _keras(keras.layers.GRU)},
}
