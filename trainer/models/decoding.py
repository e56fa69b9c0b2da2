"""Text generated token by token, in one compiled program.

A step is a function (ids int32 [rows], state) -> (scores float [rows, vocabulary], state); a state
is any nest of tensors [rows, ...].
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.models import dropout

PADDING = 0  # What follows the end of a row.

Step = Callable[[tf.Tensor, Any], tuple[tf.Tensor, Any]]


def generate(
    step: Step,
    first_scores: tf.Tensor,
    state: Any,
    *,
    rows: tf.Tensor,
    count: int | tf.Tensor,
    banned: Sequence[int] = (),
    ends_with: int | None = None,
    seed: int | tf.Tensor,
    temperature: float | tf.Tensor,
    top_k: int | tf.Tensor = 0,
    top_p: float | tf.Tensor = 1.0,
) -> tf.Tensor:
    """Returns the tokens that follow a prompt: int32 [rows, count].

    A token is drawn by a number that depends only on the seed, its position and its row, so a
    row's text depends on no other row. The text is the same for the same seed.

    Args:
      step: what the model computes of a token. It is called count - 1 times.
      first_scores: float [rows, vocabulary], those after the prompt; the vocabulary is static.
      state: the state after the prompt.
      rows: int32 [rows], the number of each row, part of its seed.
      count: at least 1, an int or an int32 scalar. In a program that XLA compiles, a scalar must
        be known when it compiles: an argument of the program is, and each value compiles anew.
      banned: ids that are never generated, and not all that there are.
      ends_with: the id that ends a row. Padding follows it. None if no id does.
      seed: int64 scalar, like all below a number or a tensor.
      temperature: float32 scalar, divides the scores. 0 takes the highest score, the first of ties.
      top_k: int32 scalar. Only the k highest scores are drawn from, and those equal to the last of
        them. 0 for all.
      top_p: float32 scalar, in (0, 1]. Only the most probable ids are drawn from, the fewest whose
        probabilities (after temperature and top_k) add up to p. 1 for all.
    """
    bans = np.zeros(first_scores.shape[-1], "float32")
    bans[list(banned)] = -np.inf
    temperature = tf.cast(temperature, tf.float32)

    def choose(scores, position, finished):
        scores = tf.cast(scores, tf.float32) + bans
        ids = tf.cond(
            temperature > 0,
            lambda: _sample(
                scores, dropout.uniform(seed, position, rows), temperature, top_k, top_p
            ),
            lambda: tf.argmax(scores, axis=-1, output_type=tf.int32),
        )
        ids = tf.where(finished, PADDING, ids)
        return ids, finished if ends_with is None else finished | (ids == ends_with)

    def body(position, ids, state, finished, written):
        scores, state = step(ids, state)
        ids, finished = choose(scores, position, finished)
        return position + 1, ids, state, finished, written.write(position, ids)

    ids, finished = choose(first_scores, 0, tf.zeros_like(rows, tf.bool))
    written = tf.TensorArray(tf.int32, count, element_shape=ids.shape).write(0, ids)
    *_, written = tf.while_loop(
        lambda position, *_: position < count,
        body,
        (1, ids, state, finished, written),
        maximum_iterations=count - 1,
    )
    return tf.transpose(written.stack())


def _sample(scores, uniform, temperature, top_k, top_p):
    """Returns an id for each row: int32 [rows].

    scores: float32 [rows, vocabulary]; uniform: float32 [rows], in [0, 1).
    """
    highest = tf.reduce_max(scores, axis=-1, keepdims=True)

    def kept(weights, mass, least):
        return tf.where(scores >= _threshold(scores, highest, mass, least), weights, 0)

    def of_top_k(weights):
        return kept(weights, tf.ones_like(weights), tf.cast(top_k, tf.float32))

    def of_top_p(weights):
        return kept(weights, weights, top_p * tf.reduce_sum(weights, axis=-1, keepdims=True))

    weights = tf.exp((scores - highest) / temperature)
    weights = tf.cond(tf.convert_to_tensor(top_k) > 0, lambda: of_top_k(weights), lambda: weights)
    weights = tf.cond(tf.convert_to_tensor(top_p) < 1, lambda: of_top_p(weights), lambda: weights)
    # The first id at which the cumulative distribution exceeds the number. Sums in parallel round,
    # and may exceed it beside the right place, or nowhere: only ids with a weight are taken.
    cumulative = tf.cumsum(weights, axis=-1)
    ids = tf.range(scores.shape[-1])
    possible = weights > 0
    beyond = possible & (cumulative > uniform[:, None] * cumulative[:, -1:])
    first = tf.reduce_min(tf.where(beyond, ids, ids.dtype.max), axis=-1)
    return tf.minimum(first, tf.reduce_max(tf.where(possible, ids, 0), axis=-1))


def _threshold(scores, highest, mass, least):
    """Returns for each row the highest threshold with enough mass at and above it: [rows, 1].

    scores, mass: float32 [rows, vocabulary]; highest: [rows, 1]; least: the mass that is enough,
    [rows, 1] or a scalar. It is the lowest number if all of the mass is less.

    Bisection over the bits of the threshold is exact, and needs no sort.
    """

    def body(i, low, high):
        # Half of the sum would overflow.
        middle = (low & high) + tf.bitwise.right_shift(low ^ high, 1)
        at_and_above = tf.where(scores >= _float(middle), mass, 0)
        enough = tf.reduce_sum(at_and_above, axis=-1, keepdims=True) >= least
        return i + 1, tf.where(enough, middle, low), tf.where(enough, high, middle)

    low = tf.fill(tf.shape(highest), _order(tf.constant(-np.inf, tf.float32)))
    _, low, _ = tf.while_loop(lambda i, *_: i < 32, body, (0, low, _order(highest) + 1))
    return _float(low)


def _order(values):
    """Returns int32 in the same order as float32 values, with no number between neighbours."""
    bits = tf.bitcast(values, tf.int32)
    return tf.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def _float(order):
    """Returns the float32 of what `_order` returned."""
    return tf.bitcast(tf.where(order < 0, order ^ 0x7FFFFFFF, order), tf.float32)
