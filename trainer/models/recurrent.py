"""Recurrences over the weights of Keras layers, one table by cell and implementation.

Every implementation of a cell computes the same function of (weights, inputs); they differ in where
they are fast.

Shapes in words: `batch` examples, `time` steps, `in` features, `units` of the state. Weights are
tensors in the shapes and gate orders of Keras 3:

    simple_rnn  kernel [in, units]    recurrent kernel [units, units]    bias [units]
    lstm        kernel [in, 4 units]  recurrent kernel [units, 4 units]  bias [4 units]     gates i
        f c o
    gru         kernel [in, 3 units]  recurrent kernel [units, 3 units]  bias [2, 3 units]  gates z
        r h, reset_after
"""

import functools

import keras
import numpy as np
import tensorflow as tf


def recurrence(cell, implementation):
    """The function `(weights, inputs, reverse=False) -> hidden` of one cell and one implementation.

    weights: the three tensors of the cell (shapes above); inputs: float [batch, time, in]; hidden:
    [batch, time, units] in the dtype of the inputs, hidden[:, t] being the state after step t, zero
    before the first. With `reverse` the steps run from the last to the first: hidden[:, t] is the
    state after steps time-1, ..., t. Nothing is masked: where padding comes after a row's own
    steps, read its state at the last of those.
    """
    return RECURRENCES[cell][implementation]


def choose(cell, device_type, jit):
    """The implementation for a layer, and the reason in one sentence for the log.

    cell: a key of RECURRENCES; device_type: "CPU", "GPU" or "TPU"; jit: "auto", "on" or "off". A
    step around "keras" must not be compiled by XLA, which has no cuDNN; one around "ours" should
    be, unless jit is "off".
    """
    if device_type == "GPU" and cell in _CUDNN_CELLS and jit != "on":
        return "keras", f"cuDNN has a kernel for {cell}, and XLA cannot compile it"
    if jit == "off" and device_type != "TPU":
        return "keras", "without XLA the plain layer of Keras is about as fast as ours"
    return (
        "ours",
        f"compiled by XLA for {device_type}, with the input of all steps projected in one product",
    )


def bidirectional(run, forward, backward, inputs, lengths=None):
    """Both directions of a recurrence, aligned in time: [batch, time, 2 units], the forward half
    first.

    run: what `recurrence` returned; forward, backward: the weights of each direction; inputs:
    [batch, time, in]; lengths: int32 [batch], how many steps of each row come before its padding,
    None if there is no padding or it counts as steps. The backward direction starts at a row's last
    step before the padding.
    """
    if lengths is None:
        return tf.concat([run(forward, inputs), run(backward, inputs, reverse=True)], axis=-1)
    turn = functools.partial(tf.reverse_sequence, seq_lengths=lengths, seq_axis=1, batch_axis=0)
    return tf.concat([run(forward, inputs), turn(run(backward, turn(inputs)))], axis=-1)


def last(hidden, lengths=None):
    """The state after the last step of each row: [batch, units]; zero, the state before any step,
    where length is 0.

    hidden: [batch, time, units]; lengths: int32 [batch], None if every row fills the array; so in
    all poolings.
    """
    if lengths is None:
        return hidden[:, -1]
    is_last = tf.range(tf.shape(hidden)[1]) == lengths[:, None] - 1
    return tf.reduce_sum(tf.where(is_last[:, :, None], hidden, 0), axis=1)


def ends(hidden, lengths=None):
    """The state of each direction after its last step, from the output of `bidirectional`: [batch,
    2 units].

    The forward direction ends at length - 1, the backward direction at 0.
    """
    forward, backward = tf.split(hidden, 2, axis=-1)
    first = backward[:, 0] if lengths is None else tf.where(lengths[:, None] > 0, backward[:, 0], 0)
    return tf.concat([last(forward, lengths), first], axis=-1)


def maximum(hidden, lengths=None):
    """The largest value of each unit over the steps of each row: [batch, units]; zero where length
    is 0.
    """
    if lengths is None:
        return tf.reduce_max(hidden, axis=1)
    highest = tf.reduce_max(tf.where(_is_step(hidden, lengths), hidden, hidden.dtype.min), axis=1)
    return tf.where(lengths[:, None] > 0, highest, 0)


def mean(hidden, lengths=None):
    """The mean of each unit over the steps of each row: [batch, units]; zero where length is 0."""
    wide = tf.cast(hidden, _sum_dtype(hidden.dtype))
    if lengths is None:
        return tf.cast(tf.reduce_mean(wide, axis=1), hidden.dtype)
    total = tf.reduce_sum(tf.where(_is_step(hidden, lengths), wide, 0), axis=1)
    return tf.cast(total / tf.cast(tf.maximum(lengths, 1), wide.dtype)[:, None], hidden.dtype)


def _is_step(hidden, lengths):
    return tf.sequence_mask(lengths, tf.shape(hidden)[1])[:, :, None]


def _sum_dtype(dtype):
    """What adds up over time does so in at least 32 bits: bfloat16 loses whatever is below 1/256 of
    the sum.
    """
    return tf.float32 if dtype.size < 4 else dtype


def _scan(step, state, sequence, widths, *, reverse):
    """Runs `state, outputs = step(t, state)` over the time of a sequence and stacks the outputs.

    state: tuple of [batch, units]; sequence: any tensor [time, batch, ...]; widths: those of the
    outputs, each [batch, width]. Returns [time, batch, width] for each output, in the dtype of the
    sequence.
    """
    time = tf.shape(sequence)[0]
    stacks = tuple(
        tf.TensorArray(sequence.dtype, time, element_shape=[None, width]) for width in widths
    )

    def body(i, state, stacks):
        t = time - 1 - i if reverse else i
        state, outputs = step(t, state)
        outputs = (tf.cast(output, sequence.dtype) for output in outputs)
        return (
            i + 1,
            state,
            tuple(stack.write(t, output) for stack, output in zip(stacks, outputs, strict=True)),
        )

    # A TPU needs the bound on the iterations to be known before the loop.
    *_, stacks = tf.while_loop(
        lambda i, *_: i < time, body, (0, state, stacks), maximum_iterations=time
    )
    return [stack.stack() for stack in stacks]


def _parts(sequence, t, count, dtype):
    """The slice of a sequence [time, batch, count * width] at time t, in its parts: [batch, width]
    each.

    Each part is cut from the sequence by itself, for speed: where one slice of a sequence is split,
    XLA on CPU works out the place of the slice for each element anew, and the step does not become
    vector code (2.5 times slower).
    """
    size = [1, tf.shape(sequence)[1], sequence.shape[-1] // count]
    slices = (tf.slice(sequence, [t, 0, part * size[-1]], size) for part in range(count))
    return [tf.cast(tf.squeeze(part, axis=0), dtype) for part in slices]


def _at(sequence, t, dtype):
    """The slice of a sequence at time t: [batch, width]."""
    return _parts(sequence, t, 1, dtype)[0]


def _zeros(inputs, units):
    """The state before the first step: [batch, units]."""
    return tf.zeros([tf.shape(inputs)[1], units], _sum_dtype(inputs.dtype))


def _times(state, matrix, **transpose):
    """The product of a state and weights, multiplied in the dtype of the weights."""
    return tf.cast(tf.matmul(tf.cast(state, matrix.dtype), matrix, **transpose), state.dtype)


def _rows(sequence):
    """[time, batch, width] as one matrix [time * batch, width]."""
    return tf.reshape(sequence, [-1, sequence.shape[-1]])


def _project(sequence, matrix, **transpose):
    """The product of every step with a matrix, in one call: [time, batch, width of the product]."""
    product = tf.matmul(_rows(sequence), matrix, **transpose)
    return tf.reshape(product, [*tf.unstack(tf.shape(sequence)[:2]), product.shape[-1]])


def _outer(left, right):
    """The sum over steps and batch of the outer products of two sequences: [left width, right
    width].
    """
    return tf.matmul(_rows(left), _rows(right), transpose_a=True)


def _total(sequence):
    """The sum over steps and batch: [width]."""
    return tf.cast(
        tf.reduce_sum(tf.cast(sequence, _sum_dtype(sequence.dtype)), axis=[0, 1]), sequence.dtype
    )


def _before(states, reverse):
    """The states that the steps started from: shifted by one step, zero at the first."""
    zero = tf.zeros_like(states[:1])
    return tf.concat([states[1:], zero] if reverse else [zero, states[:-1]], axis=0)


def _simple_rnn(kernel, recurrent, bias, inputs, reverse):
    """h = tanh(x W + h U + b), and its gradient. Elman 1990 (doi 10.1207/s15516709cog1402_1)."""
    units = recurrent.shape[0]
    zero = _zeros(inputs, units)
    projected = _project(inputs, kernel) + bias

    def step(t, state):
        hidden = tf.tanh(_at(projected, t, zero.dtype) + _times(state[0], recurrent))
        return (hidden,), (hidden,)

    [hidden] = _scan(step, (zero,), inputs, [units], reverse=reverse)

    def gradient(d_hidden):
        def step_back(t, d_state):
            output = _at(hidden, t, zero.dtype)
            delta = (d_state[0] + _at(d_hidden, t, zero.dtype)) * (1 - output * output)
            return (_times(delta, recurrent, transpose_b=True),), (delta,)

        [delta] = _scan(step_back, (zero,), inputs, [units], reverse=not reverse)
        d_recurrent = _outer(_before(hidden, reverse), delta)
        return (
            _outer(inputs, delta),
            d_recurrent,
            _total(delta),
            _project(delta, kernel, transpose_b=True),
        )

    return hidden, gradient


def _lstm(kernel, recurrent, bias, inputs, reverse):
    """c = f c + i g, h = o tanh(c), where i, f, o = sigmoid and g = tanh of x W + h U + b; and its
    gradient.

    Gers, Schmidhuber and Cummins 2000 (doi 10.1162/089976600300015015).
    """
    units = recurrent.shape[0]
    zero = _zeros(inputs, units)
    projected = _project(inputs, kernel) + bias
    # sigmoid(x) = (tanh(x / 2) + 1) / 2, so that all gates are one tanh, one pass over one array.
    scale = tf.constant(np.repeat([0.5, 0.5, 1, 0.5], units), zero.dtype)
    shift = tf.constant(np.repeat([0.5, 0.5, 0, 0.5], units), zero.dtype)

    def step(t, state):
        hidden, cell = state
        gates = (
            tf.tanh((_at(projected, t, zero.dtype) + _times(hidden, recurrent)) * scale) * scale
            + shift
        )
        i, f, g, o = tf.split(gates, 4, axis=-1)
        next_cell = f * cell + i * g
        hidden = o * tf.tanh(next_cell)
        return (hidden, next_cell), (hidden, cell, gates)

    hidden, cells_before, gates = _scan(
        step, (zero, zero), inputs, [units, units, 4 * units], reverse=reverse
    )

    def gradient(d_hidden):
        def step_back(t, d_state):
            i, f, g, o = _parts(gates, t, 4, zero.dtype)
            cell = _at(cells_before, t, zero.dtype)
            squashed = tf.tanh(f * cell + i * g)
            d_h = d_state[0] + _at(d_hidden, t, zero.dtype)
            d_c = d_state[1] + d_h * o * (1 - squashed * squashed)
            d_i, d_f = d_c * g * i * (1 - i), d_c * cell * f * (1 - f)
            d_g, d_o = d_c * i * (1 - g * g), d_h * squashed * o * (1 - o)
            delta = tf.concat([d_i, d_f, d_g, d_o], axis=-1)
            return (_times(delta, recurrent, transpose_b=True), d_c * f), (delta,)

        [delta] = _scan(step_back, (zero, zero), inputs, [4 * units], reverse=not reverse)
        d_recurrent = _outer(_before(hidden, reverse), delta)
        return (
            _outer(inputs, delta),
            d_recurrent,
            _total(delta),
            _project(delta, kernel, transpose_b=True),
        )

    return hidden, gradient


def _gru(kernel, recurrent, bias, inputs, reverse):
    """h = z h + (1 - z) g, g = tanh(xg + r hg), z = sigmoid(xz + hz), r = sigmoid(xr + hr); and its
    gradient.

    [xz xr xg] = x W + bias[0] and [hz hr hg] = h U + bias[1]. Cho et al. 2014 (arXiv 1406.1078),
    with the reset after the product, as in cuDNN.
    """
    units = recurrent.shape[0]
    zero = _zeros(inputs, units)
    projected = _project(inputs, kernel) + bias[0]
    inner_bias = tf.cast(bias[1], zero.dtype)

    def step(t, state):
        [hidden] = state
        xz, xr, xg = _parts(projected, t, 3, zero.dtype)
        hz, hr, hg = tf.split(_times(hidden, recurrent) + inner_bias, 3, axis=-1)
        z, r = tf.sigmoid(xz + hz), tf.sigmoid(xr + hr)
        g = tf.tanh(xg + r * hg)
        hidden = z * hidden + (1 - z) * g
        return (hidden,), (hidden, tf.concat([z, r, g, hg], axis=-1))

    hidden, gates = _scan(step, (zero,), inputs, [units, 4 * units], reverse=reverse)

    def gradient(d_hidden):
        hidden_before = _before(hidden, reverse)

        def step_back(t, d_state):
            z, r, g, hg = _parts(gates, t, 4, zero.dtype)
            d_h = d_state[0] + _at(d_hidden, t, zero.dtype)
            d_z = d_h * (_at(hidden_before, t, zero.dtype) - g) * z * (1 - z)
            d_g = d_h * (1 - z) * (1 - g * g)
            d_r = d_g * hg * r * (1 - r)
            delta_x, delta_h = (
                tf.concat([d_z, d_r, d_g], axis=-1),
                tf.concat([d_z, d_r, d_g * r], axis=-1),
            )
            return (d_h * z + _times(delta_h, recurrent, transpose_b=True),), (delta_x, delta_h)

        delta_x, delta_h = _scan(
            step_back, (zero,), inputs, [3 * units, 3 * units], reverse=not reverse
        )
        d_recurrent, d_bias = (
            _outer(hidden_before, delta_h),
            tf.stack([_total(delta_x), _total(delta_h)]),
        )
        return (
            _outer(inputs, delta_x),
            d_recurrent,
            d_bias,
            _project(delta_x, kernel, transpose_b=True),
        )

    return hidden, gradient


def _ours(cell):
    """A cell above, [time, batch, ...] inside so that a step is one run of memory, with the
    gradient written there.

    What needs no state is done for all steps at once: the product with the kernel before the loop,
    and after the loop backwards the products that make the gradients of weights and inputs. Where
    nobody asks for one, it is dead code.
    """

    def run(weights, inputs, reverse=False):
        function = tf.custom_gradient(lambda *tensors: cell(*tensors, reverse=reverse))
        weights = [tf.cast(weight, inputs.dtype) for weight in weights]
        return tf.transpose(function(*weights, tf.transpose(inputs, [1, 0, 2])), [1, 0, 2])

    return run


def _keras(layer_class):
    """The Keras layer, which takes the kernel of cuDNN where there is one; also the twin that says
    what is meant.
    """

    def run(weights, inputs, reverse=False):
        layer = _keras_layer(layer_class, weights[1].shape[0], inputs.shape[-1], inputs.dtype.name)
        # Not `go_backwards`: its output stays in the order of the steps, and its path through cuDNN
        # is another.
        turn = functools.partial(tf.reverse, axis=[1]) if reverse else tf.identity
        weights = [tf.cast(weight, inputs.dtype) for weight in weights]
        state = [variable.value for variable in layer.non_trainable_variables]
        hidden, _ = layer.stateless_call(weights, state, turn(inputs))
        return turn(hidden)

    return run


@functools.cache
def _keras_layer(layer_class, units, width, dtype):
    """A built layer whose own weights are never used: `stateless_call` puts the caller's in their
    place.
    """
    with tf.init_scope():
        # Not the default initializer: it orthogonalizes, and that has no kernel for bfloat16.
        layer = layer_class(
            units, return_sequences=True, recurrent_initializer="zeros", dtype=dtype
        )
        layer.build((None, None, width))
    return layer


_CUDNN_CELLS = ("lstm", "gru")
RECURRENCES = {
    "simple_rnn": {"ours": _ours(_simple_rnn), "keras": _keras(keras.layers.SimpleRNN)},
    "lstm": {"ours": _ours(_lstm), "keras": _keras(keras.layers.LSTM)},
    "gru": {"ours": _ours(_gru), "keras": _keras(keras.layers.GRU)},
}
