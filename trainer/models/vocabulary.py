"""The cross-entropy of each step over a large vocabulary, without the scores of all steps at once.

The scores of 64 rows, 200 steps and 20,000 words take 1 GB. A loss is a sum over steps, so they are
computed slice by slice of the time, and only one slice exists at any moment.

Shapes in words: `batch` rows, `time` steps, `width` of the states. A table holds the output weights
of each word, [vocabulary, width], or [width, vocabulary] if `transposed`.
"""

from collections.abc import Callable

import tensorflow as tf

from trainer.models.recurrent import sum_dtype

_BYTES_OF_A_SLICE = 64 * 2**20  # of float32 scores
_FEWEST_ROWS = 256  # Products of fewer rows are slower than the memory is worth.


def slices(
    rows_per_step: int | tf.Tensor, steps: int | tf.Tensor, vocabulary: int
) -> tuple[int | tf.Tensor, int | tf.Tensor]:
    """Returns how many slices the steps are cut into, and how many steps each slice has.

    One slice if its scores fit into 64 MB, else the fewest that do, of whole steps and at least 256
    rows. All slices have equally many steps: (3, 4) holds 10 steps with two to spare. Less than one
    step per slice is to spare. The arguments are ints or int32 scalars, and so are the results.
    """
    ints = isinstance(rows_per_step, int) and isinstance(steps, int)
    least, most = (min, max) if ints else (tf.minimum, tf.maximum)
    rows = most(rows_per_step, 1)
    fitting = most(_BYTES_OF_A_SLICE // (4 * vocabulary) // rows, 1)
    count = most(least(-(-steps // fitting), steps // -(-_FEWEST_ROWS // rows)), 1)
    size = most(-(-steps // count), 1)
    return most(-(-steps // size), 1), size


def training_sums(
    states: tf.Tensor,
    table: tf.Tensor,
    bias: tf.Tensor,
    targets: tf.Tensor,
    counted: tf.Tensor,
    smoothing: float = 0.0,
    transposed: bool = False,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the sum of the losses in nats, and how many steps are predicted right.

    Both are scalars in the dtype of the states, but at least float32. The loss has a gradient by
    states, table and bias. It is computed on the way forward, with the scores of each slice, so
    nothing is computed twice.

    Args:
      states: float [batch, time, width].
      table: float [vocabulary, width]; scores are states @ transpose(table) + bias.
      bias: float [vocabulary].
      targets: int32 [batch, time], below the vocabulary also for steps that do not count.
      counted: bool [batch, time], False for the padding.
      smoothing: of the labels, as in `classification.cross_entropy`.
      transposed: whether `table` is [width, vocabulary].

    A step is right if no score is higher than that of its target.
    """
    words = bias.shape[0]
    wide = sum_dtype(states.dtype)

    def function(states, table, bias):
        cut = _Cut(states, targets, counted, words)
        columns = tf.cast(table, states.dtype)

        def body(i, loss_sum, correct, d_states, d_table, d_bias):
            rows, target, counts = cut.slice(i)
            shifted, log_sums = _shifted(scores(rows, columns, bias, transposed))
            losses, right = _losses(shifted, log_sums, target, smoothing)
            is_target = tf.one_hot(target, words, True, False, dtype=tf.bool)
            delta = tf.exp(shifted - log_sums) - smoothing / words
            delta = tf.where(is_target, delta - (1 - smoothing), delta) * counts[:, None]
            d_bias += tf.reduce_sum(delta, axis=0)
            delta = tf.cast(delta, states.dtype)
            left, right_hand = (rows, delta) if transposed else (delta, rows)
            return (
                i + 1,
                loss_sum + tf.reduce_sum(losses * counts),
                correct + tf.reduce_sum(right * counts),
                d_states.write(i, tf.matmul(delta, columns, transpose_b=transposed)),
                d_table + tf.cast(tf.matmul(left, right_hand, transpose_a=True), wide),
                d_bias,
            )

        start = (
            tf.zeros([], wide),
            tf.zeros([], wide),
            tf.TensorArray(states.dtype, cut.count, element_shape=[None, states.shape[-1]]),
            tf.zeros(table.shape, wide),
            tf.zeros(bias.shape, wide),
        )
        loss_sum, correct, d_states, d_table, d_bias = cut.loop(body, start)
        gradients = (cut.joined(d_states.stack()), d_table, d_bias)

        def gradient(upstream, _):
            return [
                tf.cast(tf.cast(value, wide) * upstream, tensor.dtype)
                for value, tensor in zip(gradients, (states, table, bias))
            ]

        return (loss_sum, correct), gradient

    return tf.custom_gradient(function)(states, table, bias)


def outcomes(
    states: tf.Tensor,
    table: tf.Tensor,
    bias: tf.Tensor,
    targets: tf.Tensor,
    counted: tf.Tensor,
    transposed: bool = False,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns for each row the sum of its losses, and how many of its steps are predicted right.

    Both are [batch], in the dtype of the states but at least float32. The arguments are those of
    `training_sums`. There is no gradient.
    """
    cut = _Cut(states, targets, counted, bias.shape[0])
    columns = tf.cast(table, states.dtype)
    wide = sum_dtype(states.dtype)
    batch = tf.shape(states)[0]

    def over_steps(values):
        return tf.reduce_sum(tf.reshape(values, [cut.size, batch]), axis=0)

    def body(i, loss_sums, correct):
        rows, target, counts = cut.slice(i)
        shifted, log_sums = _shifted(scores(rows, columns, bias, transposed))
        losses, right = _losses(shifted, log_sums, target)
        return i + 1, loss_sums + over_steps(losses * counts), correct + over_steps(right * counts)

    return cut.loop(body, (tf.zeros([batch], wide), tf.zeros([batch], wide)))


def scores(
    states: tf.Tensor, table: tf.Tensor, bias: tf.Tensor, transposed: bool = False
) -> tf.Tensor:
    """Returns the score of each word: [rows, vocabulary] of states [rows, width].

    The product is computed in the dtype of the states. The result has at least float32.
    """
    product = tf.matmul(states, tf.cast(table, states.dtype), transpose_b=not transposed)
    wide = sum_dtype(states.dtype)
    return tf.cast(product, wide) + tf.cast(bias, wide)


class _Cut:
    """The steps of a batch in slices [size * batch, ...], one step after the other.

    Slices that are longer than the time end with steps that do not count.
    """

    def __init__(self, states: tf.Tensor, targets: tf.Tensor, counted: tf.Tensor, vocabulary: int):
        self._batch, self._time = _lengths(states)
        self.count, self.size = slices(self._batch, self._time, vocabulary)
        # A GPU gathers by int64, but would leave int32 to the CPU.
        self._parts = [
            self._cut(part)
            for part in (
                states,
                tf.cast(targets, tf.int64),
                tf.cast(counted, sum_dtype(states.dtype)),
            )
        ]

    def slice(self, i: tf.Tensor) -> list[tf.Tensor]:
        """Returns slice i of the states, of the targets, and the factor 1 of steps that count."""
        return [part[i] for part in self._parts]

    def loop(self, body: Callable, start: tuple) -> tuple:
        """Returns the last of `i + 1, *values = body(i, *values)` over all slices i."""
        _, *last = tf.while_loop(
            lambda i, *_: i < self.count, body, (0, *start), maximum_iterations=self.count
        )
        return tuple(last)

    def joined(self, parts: tf.Tensor) -> tf.Tensor:
        """Returns [batch, time, width] of the slices [count, size * batch, width]."""
        width = parts.shape[-1]
        by_time = tf.reshape(parts, [self.count * self.size, self._batch, width])
        return tf.transpose(by_time[: self._time], [1, 0, 2])

    def _cut(self, sequence):
        after = sequence.shape[2:]
        by_time = tf.transpose(sequence, [1, 0, *range(2, sequence.shape.rank)])
        filling = [self.count * self.size - self._time, self._batch, *after]
        filled = tf.concat([by_time, tf.zeros(filling, sequence.dtype)], axis=0)
        return tf.reshape(filled, [self.count, self.size * self._batch, *after])


def _lengths(states):
    """Returns batch and time: two ints if the trace knows both, else two int32 scalars."""
    known = states.shape[:2]
    return tuple(known) if known.is_fully_defined() else tf.unstack(tf.shape(states)[:2])


def _shifted(values):
    """Returns the scores [rows, vocabulary] minus the highest of their row, and log(sum(exp)) of
    that: [rows, 1].
    """
    shifted = values - tf.reduce_max(values, axis=-1, keepdims=True)
    return shifted, tf.math.log(tf.reduce_sum(tf.exp(shifted), axis=-1, keepdims=True))


def _losses(shifted, log_sums, targets, smoothing=0.0):
    """Returns the losses and 1 for each row that is right, else 0: two [rows]."""
    of_target = tf.gather(shifted, targets, batch_dims=1)
    losses = log_sums[:, 0] - (1 - smoothing) * of_target
    if smoothing:
        losses -= smoothing * tf.reduce_mean(shifted, axis=-1)
    return losses, tf.cast(of_target >= 0, shifted.dtype)
