"""Recurrences over the weights of Keras layers: one table by cell and implementation.

Every implementation of a cell computes the same function. They differ in speed: "ours" is fast when
XLA compiles it, "keras" when cuDNN has a kernel for the cell.

Shapes in words: `batch` examples, `time` steps, `in` features, `units` of the state. Weights are
tensors in the shapes and gate orders of Keras 3; a state is a tuple of [batch, units]:

    cell        kernel          recurrent kernel   bias          gates    state
    simple_rnn  [in, units]     [units, units]     [units]       -        hidden
    lstm        [in, 4 units]   [units, 4 units]   [4 units]     i f c o  hidden, memory
    gru         [in, 3 units]   [units, 3 units]   [2, 3 units]  z r h    hidden

The gru is the form with `reset_after`: the reset gate comes after the recurrent product.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import keras
import numpy as np
import tensorflow as tf

Weights = Sequence[tf.Tensor]  # kernel, recurrent kernel, bias
State = tuple[tf.Tensor, ...]


class Recurrence(Protocol):
    """A cell that runs over the steps of a sequence."""

    def __call__(
        self, weights: Weights, inputs: tf.Tensor, reverse: bool = False, state: State | None = None
    ) -> tuple[tf.Tensor, State]:
        """Returns the hidden state after every step, and the whole state after the last step.

        It stands for this loop, and is differentiable in weights, inputs and state:

            for t in reversed(range(time)) if reverse else range(time):
                state = cell(weights, inputs[:, t], state)
                hidden[:, t] = state[0]
            return hidden, state

        Args:
          weights: the three tensors of the cell.
          inputs: float [batch, time, in].
          reverse: run the steps from the last to the first.
          state: the state before the first step, None for zero.

        Returns:
          hidden: [batch, time, units] in the dtype of the inputs.
          final: the state after the last step, in that dtype but at least float32.

        No step is masked. If padding follows a row's own steps, read the hidden state at the last
        of those.
        """


# The implementation "keras", in float32 whatever the type of its inputs.
KERAS_IN_FLOAT32 = "keras in float32"


def recurrence(cell: str, implementation: str) -> Recurrence:
    """Returns the recurrence of a cell.

    implementation: of the cell in RECURRENCES, or KERAS_IN_FLOAT32.
    """
    if implementation == KERAS_IN_FLOAT32:
        return _in_float32(RECURRENCES[cell]["keras"])
    return RECURRENCES[cell][implementation]


def one_step(cell: str) -> Callable[[Weights, tf.Tensor, State], State]:
    """Returns a function (weights, inputs [batch, in], state) -> state of one step of a cell.

    It computes what the recurrence "ours" computes at each step, for programs that choose the next
    input after the step. The hidden state is the first part of the state. There is no gradient of
    our own.
    """
    return _STEPS[cell]


def choose(cell: str, device_type: str, jit: str, precision: str = "float32") -> tuple[str, str]:
    """Returns the implementation for a layer, and the reason in one sentence for the log.

    cell: a key of RECURRENCES; device_type: "CPU", "GPU" or "TPU"; jit: "auto", "on" or "off". XLA
    must not compile a step that uses "keras", because it has no cuDNN. It should compile a step
    that uses "ours", unless jit is "off".
    """
    if device_type == "GPU" and cell in _CUDNN_CELLS and jit != "on":
        if precision == "bfloat16":
            return (
                KERAS_IN_FLOAT32,
                f"cuDNN has a kernel for {cell}, whose gradients in bfloat16 are wrong and do not "
                "repeat",
            )
        return "keras", f"cuDNN has a kernel for {cell}, and XLA cannot compile it"
    if jit == "off" and device_type != "TPU":
        return "keras", "without XLA the plain layer of Keras is about as fast as ours"
    return (
        "ours",
        f"compiled by XLA for {device_type}, with the input of all steps projected in one product",
    )


def bidirectional(
    run: Recurrence,
    forward: Weights,
    backward: Weights,
    inputs: tf.Tensor,
    lengths: tf.Tensor | None = None,
) -> tf.Tensor:
    """Returns the hidden states of both directions, aligned in time: [batch, time, 2 units].

    The forward half comes first. forward, backward: the weights of each direction; inputs: [batch,
    time, in]; lengths: int32 [batch], how many steps of each row come before its padding, None if
    there is no padding or it counts as steps. The backward direction starts at a row's last step
    before the padding.
    """
    ahead, _ = run(forward, inputs)
    if lengths is None:
        back, _ = run(backward, inputs, reverse=True)
        return tf.concat([ahead, back], axis=-1)
    turn = functools.partial(tf.reverse_sequence, seq_lengths=lengths, seq_axis=1, batch_axis=0)
    back, _ = run(backward, turn(inputs))
    return tf.concat([ahead, turn(back)], axis=-1)


def sum_dtype(dtype: tf.DType) -> tf.DType:
    """Returns the dtype for sums over time: at least 32 bits.

    A sum in bfloat16 loses every term below 1/256 of it.
    """
    return tf.float32 if dtype.size < 4 else dtype


def _scan(
    step: Callable, state: State, sequence: tf.Tensor, widths: Sequence[int], *, reverse: bool
) -> tuple[State, list[tf.Tensor]]:
    """Runs `state, outputs = step(t, state)` over the time of a sequence.

    state: tuple of [batch, units]; sequence: any tensor [time, batch, ...]; widths: those of the
    outputs, each [batch, width]. Returns the last state, and [time, batch, width] for each output,
    in the dtype of the sequence.
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

    # A TPU must know a bound on the iterations before the loop.
    _, state, stacks = tf.while_loop(
        lambda i, *_: i < time, body, (0, state, stacks), maximum_iterations=time
    )
    outputs = [stack.stack() for stack in stacks]
    for output in outputs:
        # The loop forgets its length. A TPU needs every length that the trace knows.
        output.set_shape([sequence.shape[0], None, None])
    return state, outputs


def _parts(sequence: tf.Tensor, t: tf.Tensor, count: int, dtype: tf.DType) -> list[tf.Tensor]:
    """Returns the `count` parts of a sequence [time, batch, count * width] at time t.

    Each part is [batch, width] and is cut from the sequence by itself, for speed: if one slice of a
    sequence is split, XLA on CPU computes the place of the slice again for each element, and the
    step does not become vector code (2.5 times slower).
    """
    size = [1, tf.shape(sequence)[1], sequence.shape[-1] // count]
    slices = (tf.slice(sequence, [t, 0, part * size[-1]], size) for part in range(count))
    return [tf.cast(tf.squeeze(part, axis=0), dtype) for part in slices]


def _at(sequence: tf.Tensor, t: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Returns the slice of a sequence at time t: [batch, width]."""
    return _parts(sequence, t, 1, dtype)[0]


def _times(state: tf.Tensor, matrix: tf.Tensor, **transpose: bool) -> tf.Tensor:
    """Returns the product of a state and weights, multiplied in the dtype of the weights."""
    return tf.cast(tf.matmul(tf.cast(state, matrix.dtype), matrix, **transpose), state.dtype)


def _rows(sequence: tf.Tensor) -> tf.Tensor:
    """Returns [time, batch, width] as one matrix [time * batch, width]."""
    return tf.reshape(sequence, [-1, sequence.shape[-1]])


def _project(sequence: tf.Tensor, matrix: tf.Tensor, **transpose: bool) -> tf.Tensor:
    """Returns the product of every step with a matrix, in one call: [time, batch, its width]."""
    product = tf.matmul(_rows(sequence), matrix, **transpose)
    return tf.reshape(product, [*tf.unstack(tf.shape(sequence)[:2]), product.shape[-1]])


def _outer(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """Returns the sum over steps and batch of the outer products of two sequences.

    It is [left width, right width].
    """
    return tf.matmul(_rows(left), _rows(right), transpose_a=True)


def _total(sequence: tf.Tensor) -> tf.Tensor:
    """Returns the sum over steps and batch: [width]."""
    return tf.cast(
        tf.reduce_sum(tf.cast(sequence, sum_dtype(sequence.dtype)), axis=[0, 1]), sequence.dtype
    )


def _before(states: tf.Tensor, start: tf.Tensor, reverse: bool) -> tf.Tensor:
    """Returns the states before the steps: shifted by one step, [batch, units] `start` first."""
    first = tf.cast(start, states.dtype)[None]
    return tf.concat([states[1:], first] if reverse else [first, states[:-1]], axis=0)


# `_simple_rnn`, `_lstm` and `_gru` return (hidden, *final) and their gradient, in the form of
# `tf.custom_gradient`; the function of their cell computes one step.
# Sequences are [time, batch, ...]. `start` and `final` are the states before and after all steps.


def _simple_rnn_cell(projected: tf.Tensor, recurrent: tf.Tensor, hidden: tf.Tensor) -> tf.Tensor:
    return tf.tanh(projected + _times(hidden, recurrent))


def _simple_rnn(
    kernel: tf.Tensor,
    recurrent: tf.Tensor,
    bias: tf.Tensor,
    inputs: tf.Tensor,
    *start: tf.Tensor,
    reverse: bool,
) -> tuple[State, Callable]:
    """h = tanh(x W + h U + b), and its gradient.

    Elman 1990 (doi 10.1207/s15516709cog1402_1).
    """
    units = recurrent.shape[0]
    dtype = start[0].dtype
    projected = _project(inputs, kernel) + bias

    def step(t, state):
        hidden = _simple_rnn_cell(_at(projected, t, dtype), recurrent, *state)
        return (hidden,), (hidden,)

    final, [hidden] = _scan(step, start, inputs, [units], reverse=reverse)

    def gradient(d_hidden, *d_final):
        def step_back(t, d_state):
            output = _at(hidden, t, dtype)
            delta = (d_state[0] + _at(d_hidden, t, dtype)) * (1 - output * output)
            return (_times(delta, recurrent, transpose_b=True),), (delta,)

        d_start, [delta] = _scan(step_back, d_final, inputs, [units], reverse=not reverse)
        d_recurrent = _outer(_before(hidden, start[0], reverse), delta)
        return (
            _outer(inputs, delta),
            d_recurrent,
            _total(delta),
            _project(delta, kernel, transpose_b=True),
            *d_start,
        )

    return (hidden, *final), gradient


def _lstm_factors(units: int, dtype: tf.DType) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns scale and shift of the gates.

    sigmoid(x) = (tanh(x / 2) + 1) / 2, so that all gates are one tanh, one pass over one array.
    """
    scale = tf.constant(np.repeat([0.5, 0.5, 1, 0.5], units), dtype)
    shift = tf.constant(np.repeat([0.5, 0.5, 0, 0.5], units), dtype)
    return scale, shift


def _lstm_cell(
    projected: tf.Tensor,
    recurrent: tf.Tensor,
    hidden: tf.Tensor,
    cell: tf.Tensor,
    scale: tf.Tensor,
    shift: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns the next hidden and memory, and the gates [batch, 4 units]."""
    gates = tf.tanh((projected + _times(hidden, recurrent)) * scale) * scale + shift
    i, f, g, o = tf.split(gates, 4, axis=-1)
    next_cell = f * cell + i * g
    hidden = o * tf.tanh(next_cell)
    return hidden, next_cell, gates


def _lstm(
    kernel: tf.Tensor,
    recurrent: tf.Tensor,
    bias: tf.Tensor,
    inputs: tf.Tensor,
    *start: tf.Tensor,
    reverse: bool,
) -> tuple[State, Callable]:
    """c = f c + i g and h = o tanh(c), and its gradient.

    i, f, o = sigmoid and g = tanh of x W + h U + b. Gers, Schmidhuber and Cummins 2000 (doi
    10.1162/089976600300015015).
    """
    units = recurrent.shape[0]
    dtype = start[0].dtype
    projected = _project(inputs, kernel) + bias
    factors = _lstm_factors(units, dtype)

    def step(t, state):
        cell = state[1]
        *state, gates = _lstm_cell(_at(projected, t, dtype), recurrent, *state, *factors)
        return tuple(state), (state[0], cell, gates)

    final, [hidden, cells_before, gates] = _scan(
        step, start, inputs, [units, units, 4 * units], reverse=reverse
    )

    def gradient(d_hidden, *d_final):
        def step_back(t, d_state):
            i, f, g, o = _parts(gates, t, 4, dtype)
            cell = _at(cells_before, t, dtype)
            squashed = tf.tanh(f * cell + i * g)
            d_h = d_state[0] + _at(d_hidden, t, dtype)
            d_c = d_state[1] + d_h * o * (1 - squashed * squashed)
            d_i, d_f = d_c * g * i * (1 - i), d_c * cell * f * (1 - f)
            d_g, d_o = d_c * i * (1 - g * g), d_h * squashed * o * (1 - o)
            delta = tf.concat([d_i, d_f, d_g, d_o], axis=-1)
            return (_times(delta, recurrent, transpose_b=True), d_c * f), (delta,)

        d_start, [delta] = _scan(step_back, d_final, inputs, [4 * units], reverse=not reverse)
        d_recurrent = _outer(_before(hidden, start[0], reverse), delta)
        return (
            _outer(inputs, delta),
            d_recurrent,
            _total(delta),
            _project(delta, kernel, transpose_b=True),
            *d_start,
        )

    return (hidden, *final), gradient


def _gru_cell(
    projected: list[tf.Tensor], recurrent: tf.Tensor, inner_bias: tf.Tensor, hidden: tf.Tensor
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Returns the next hidden, and [z, r, g, hg]; projected: [xz, xr, xg], each [batch, units]."""
    xz, xr, xg = projected
    hz, hr, hg = tf.split(_times(hidden, recurrent) + inner_bias, 3, axis=-1)
    z, r = tf.sigmoid(xz + hz), tf.sigmoid(xr + hr)
    g = tf.tanh(xg + r * hg)
    hidden = z * hidden + (1 - z) * g
    return hidden, [z, r, g, hg]


def _gru(
    kernel: tf.Tensor,
    recurrent: tf.Tensor,
    bias: tf.Tensor,
    inputs: tf.Tensor,
    *start: tf.Tensor,
    reverse: bool,
) -> tuple[State, Callable]:
    """h = z h + (1 - z) g, and its gradient.

    g = tanh(xg + r hg), z = sigmoid(xz + hz) and r = sigmoid(xr + hr), of [xz xr xg] = x W +
    bias[0] and [hz hr hg] = h U + bias[1]. Cho et al. 2014 (arXiv 1406.1078), with the reset after
    the product, as in cuDNN.
    """
    units = recurrent.shape[0]
    dtype = start[0].dtype
    projected = _project(inputs, kernel) + bias[0]
    inner_bias = tf.cast(bias[1], dtype)

    def step(t, state):
        hidden, gates = _gru_cell(_parts(projected, t, 3, dtype), recurrent, inner_bias, *state)
        return (hidden,), (hidden, tf.concat(gates, axis=-1))

    final, [hidden, gates] = _scan(step, start, inputs, [units, 4 * units], reverse=reverse)

    def gradient(d_hidden, *d_final):
        hidden_before = _before(hidden, start[0], reverse)

        def step_back(t, d_state):
            z, r, g, hg = _parts(gates, t, 4, dtype)
            d_h = d_state[0] + _at(d_hidden, t, dtype)
            d_z = d_h * (_at(hidden_before, t, dtype) - g) * z * (1 - z)
            d_g = d_h * (1 - z) * (1 - g * g)
            d_r = d_g * hg * r * (1 - r)
            delta_x, delta_h = (
                tf.concat([d_z, d_r, d_g], axis=-1),
                tf.concat([d_z, d_r, d_g * r], axis=-1),
            )
            return (d_h * z + _times(delta_h, recurrent, transpose_b=True),), (delta_x, delta_h)

        d_start, [delta_x, delta_h] = _scan(
            step_back, d_final, inputs, [3 * units, 3 * units], reverse=not reverse
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
            *d_start,
        )

    return (hidden, *final), gradient


# Each step returns the state after it. `projected` is x W + b, with the first bias of a gru.


def _simple_rnn_step(
    projected: tf.Tensor, recurrent: tf.Tensor, bias: tf.Tensor, state: State
) -> State:
    return (_simple_rnn_cell(projected, recurrent, *state),)


def _lstm_step(projected: tf.Tensor, recurrent: tf.Tensor, bias: tf.Tensor, state: State) -> State:
    factors = _lstm_factors(recurrent.shape[0], projected.dtype)
    return _lstm_cell(projected, recurrent, *state, *factors)[:2]


def _gru_step(projected: tf.Tensor, recurrent: tf.Tensor, bias: tf.Tensor, state: State) -> State:
    inner_bias = tf.cast(bias[1], projected.dtype)
    return _gru_cell(tf.split(projected, 3, axis=-1), recurrent, inner_bias, *state)[:1]


def _projected_first(step: Callable) -> Callable[[Weights, tf.Tensor, State], State]:
    """Returns a step above as a function of weights, inputs [batch, in] and state."""

    def run(weights, inputs, state):
        kernel, recurrent, bias = (tf.cast(weight, inputs.dtype) for weight in weights)
        dtype = sum_dtype(inputs.dtype)
        outer_bias = bias[0] if bias.shape.rank == 2 else bias
        projected = tf.cast(tf.matmul(inputs, kernel) + outer_bias, dtype)
        return step(projected, recurrent, bias, tuple(tf.cast(part, dtype) for part in state))

    return run


def _ours(cell: Callable, parts: int) -> Recurrence:
    """Returns the recurrence of a cell above, with the gradient written there.

    parts: how many tensors its state has. Inside, sequences are [time, batch, ...], so that a step
    is one run of memory. Everything that needs no state is computed for all steps at once: the
    product with the kernel before the loop, and the products for the gradients of weights and
    inputs after the backward loop. A gradient that is not used is dead code.
    """

    def run(weights, inputs, reverse=False, state=None):
        if state is None:
            shape = [tf.shape(inputs)[0], weights[1].shape[0]]
            start = parts * [tf.zeros(shape, sum_dtype(inputs.dtype))]
        else:
            start = _start(state, inputs, sum_dtype(inputs.dtype))
        weights = [tf.cast(weight, inputs.dtype) for weight in weights]
        function = tf.custom_gradient(lambda *tensors: cell(*tensors, reverse=reverse))
        hidden, *final = function(*weights, tf.transpose(inputs, [1, 0, 2]), *start)
        return tf.transpose(hidden, [1, 0, 2]), tuple(final)

    return run


def _keras(layer_class: type[keras.layers.RNN]) -> Recurrence:
    """Returns the recurrence of a Keras layer, which uses cuDNN's kernel if there is one.

    It is also the twin that defines the meaning.
    """

    def run(weights, inputs, reverse=False, state=None):
        layer = _keras_layer(layer_class, weights[1].shape[0], inputs.shape[-1], inputs.dtype.name)
        # Not `go_backwards`: its output stays in the order of the steps, and it takes another path
        # through cuDNN.
        turn = functools.partial(tf.reverse, axis=[1]) if reverse else tf.identity
        weights = [tf.cast(weight, inputs.dtype) for weight in weights]
        variables = [variable.value for variable in layer.non_trainable_variables]
        start = None if state is None else _start(state, inputs, inputs.dtype)
        (hidden, *final), _ = layer.stateless_call(
            weights, variables, turn(inputs), initial_state=start
        )
        return turn(hidden), tuple(tf.cast(part, sum_dtype(inputs.dtype)) for part in final)

    return run


def _in_float32(recurrence: Recurrence) -> Recurrence:
    """Returns a recurrence that computes in float32, whatever the type of its inputs.

    In bfloat16 the gradients of cuDNN 9.28 are wrong by many orders of magnitude and differ from
    run to run (seen on an H100 with the layers of Keras alone); in float16 and float32 they are
    right and repeat.
    """

    def run(weights, inputs, reverse=False, state=None):
        exact = tuple(tf.cast(weight, tf.float32) for weight in weights)
        hidden, final = recurrence(exact, tf.cast(inputs, tf.float32), reverse, state)
        return tf.cast(hidden, inputs.dtype), final

    return run


@functools.cache
def _keras_layer(
    layer_class: type[keras.layers.RNN], units: int, width: int, dtype: str
) -> keras.layers.RNN:
    """Returns a built layer whose own weights are never used.

    `stateless_call` puts the caller's weights in their place.
    """
    with tf.init_scope():
        # Not the default initializer: it needs a QR decomposition, which has no bfloat16 kernel.
        layer = layer_class(
            units,
            return_sequences=True,
            return_state=True,
            recurrent_initializer="zeros",
            dtype=dtype,
        )
        layer.build((None, None, width))
    return layer


def _start(state: State, inputs: tf.Tensor, dtype: tf.DType) -> list[tf.Tensor]:
    """Returns the parts of a state in `dtype`, for the rows of the inputs [batch, time, in].

    If a trace knows the number of rows of the state but not of the inputs, the loop refuses the
    state. `tf.broadcast_to` forgets that number; it raises if the numbers differ.
    """
    rows = tf.shape(inputs)[0]
    return [tf.broadcast_to(tf.cast(part, dtype), [rows, part.shape[-1]]) for part in state]


_STEPS = {
    "simple_rnn": _projected_first(_simple_rnn_step),
    "lstm": _projected_first(_lstm_step),
    "gru": _projected_first(_gru_step),
}
_CUDNN_CELLS = ("lstm", "gru")
RECURRENCES = {
    "simple_rnn": {"ours": _ours(_simple_rnn, parts=1), "keras": _keras(keras.layers.SimpleRNN)},
    "lstm": {"ours": _ours(_lstm, parts=2), "keras": _keras(keras.layers.LSTM)},
    "gru": {"ours": _ours(_gru, parts=1), "keras": _keras(keras.layers.GRU)},
}
