"""Search for likely texts, token by token, in one compiled program: greedy, or with a beam.

A step is as in `decoding`: (ids int32 [rows * size], state) -> (scores float [rows * size,
vocabulary], state), and a state is any nest of tensors [rows * size, ...]. The hypotheses of a row
are beside each other.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from trainer.models.decoding import PADDING, Step


class Hypotheses(NamedTuple):
    """What was found of each row, the best first.

    ids: int32 [rows, size, length]; padding follows the end of a hypothesis. One that was cut off
    has no end mark. scores: float32 [rows, size], log p / ((5 + n) / 6) ** penalty of n tokens with
    the end mark; -inf if fewer than `size` were found.
    """

    ids: tf.Tensor
    scores: tf.Tensor


def likeliest(
    step: Step,
    state: Any,
    *,
    size: int,
    limits: tf.Tensor,
    length: int | tf.Tensor,
    start: int,
    ends_with: int,
    banned: Sequence[int] = (),
    penalty: float = 1.0,
) -> Hypotheses:
    """Returns the hypotheses with the highest scores that a search finds.

    The scores are those of Wu et al., Google's Neural Machine Translation System, 2016, equation
    14, without coverage. What is found for a row depends on no other row.

    With size 1 each token is the likeliest one. Otherwise the search keeps the `size` likeliest
    unfinished hypotheses of a row, until none of them can exceed the best finished one.

    Args:
      step: what the model computes of a token.
      state: the state before the first token.
      size: hypotheses of a row.
      limits: int32 [rows], the most tokens of a row with its end mark. A hypothesis without an end
        is returned only if none ends within the limit. A row of 0 has one empty hypothesis.
      length: at least every limit; in a program that XLA compiles, known when it compiles.
      start: the id before the first token.
      ends_with: the id that ends a row.
      banned: ids that are never found.
      penalty: 0 or more. 0 prefers short texts, 1 is about the mean over the tokens.
    """

    def scored(ids, state):
        """Returns (scores without the banned ids, log_p of such scores [rows, n], state)."""
        scores, state = step(ids, state)
        scores = tf.cast(scores, tf.float32)
        highest = tf.reduce_max(scores, axis=-1, keepdims=True)
        log_sum = tf.math.log(tf.reduce_sum(tf.exp(scores - highest), axis=-1, keepdims=True))
        bans = np.zeros(scores.shape[-1], "float32")
        bans[list(banned)] = -np.inf

        def log_p(some):
            # In this order nothing of a likely word is lost by rounding.
            return (some - highest) - log_sum

        return scores + bans, log_p, state

    search = _greedy if size == 1 else _beam
    return search(scored, state, size, limits, length, start, ends_with, penalty)


def _scale(tokens: int | tf.Tensor, penalty: float) -> tf.Tensor:
    """Returns what the logarithm of the probability of so many tokens is divided by."""
    return tf.pow((5.0 + tf.cast(tokens, tf.float32)) / 6.0, tf.cast(penalty, tf.float32))


def _greedy(scored, state, size, limits, length, start, ends_with, penalty):
    rows = tf.shape(limits)[0]

    def body(at, last, open, found, log_p, tokens, state):
        scores, log_p_of, state = scored(last, state)
        highest = tf.reduce_max(scores, axis=-1)
        # The first of the highest. XLA's argmax on a CPU takes one number at a time.
        places = tf.where(scores >= highest[:, None], tf.range(scores.shape[-1]), scores.shape[-1])
        ids = tf.where(open, tf.reduce_min(places, axis=-1), PADDING)
        found = tf.where(tf.range(length) == at, ids[:, None], found)
        log_p = tf.where(open, log_p + log_p_of(highest[:, None])[:, 0], log_p)
        tokens += tf.cast(open, tf.int32)
        open = open & (ids != ends_with) & (at + 1 < limits)
        return at + 1, ids, open, found, log_p, tokens, state

    _, _, _, found, log_p, tokens, _ = tf.while_loop(
        lambda at, last, open, *_: tf.reduce_any(open),
        body,
        (
            tf.constant(0),
            tf.fill([rows], start),
            limits > 0,
            tf.fill([rows, length], PADDING),
            tf.zeros([rows]),
            tf.zeros([rows], tf.int32),
            state,
        ),
        maximum_iterations=length,
    )
    return Hypotheses(found[:, None], (log_p / _scale(tokens, penalty))[:, None])


def _beam(scored, state, size, limits, length, start, ends_with, penalty):
    rows = tf.shape(limits)[0]
    nothing = tf.fill([rows, size], -np.float32(np.inf))
    no_ids = tf.fill([rows, size, length], PADDING)
    longest = _scale(limits, penalty)

    def body(at, open, open_log_p, ended, ended_scores, last, state):
        scores, log_p_of, state = scored(tf.reshape(last, [-1]), state)
        of_each = min(2 * size, scores.shape[-1])
        # The best 2 * size: at most `size` of them end here, so that `size` go on. First those of
        # each hypothesis, then those of a row.
        highest, words = tf.math.top_k(scores, of_each)
        log_p = tf.reshape(log_p_of(highest), [rows, size, of_each]) + open_log_p[:, :, None]
        log_p, places = tf.math.top_k(tf.reshape(log_p, [rows, size * of_each]), 2 * size)
        words = tf.gather(tf.reshape(words, [rows, size * of_each]), places, batch_dims=1)
        before = places // of_each
        ids = tf.gather(open, before, batch_dims=1)
        ids = tf.where(tf.range(length) == at, words[:, :, None], ids)

        ends = words == ends_with
        candidates = tf.where(ends, log_p / _scale(at + 1, penalty), -np.inf)
        ended_scores, which = tf.math.top_k(tf.concat([ended_scores, candidates], 1), size)
        ended = tf.gather(tf.concat([ended, ids], 1), which, batch_dims=1)

        open_log_p, which = tf.math.top_k(tf.where(ends, -np.inf, log_p), size)
        open, last, before = (
            tf.gather(values, which, batch_dims=1) for values in (ids, words, before)
        )
        at_limit = at + 1 >= limits
        cut = (at_limit & (ended_scores[:, 0] == -np.inf))[:, None]
        ended_scores = tf.where(cut, open_log_p / longest[:, None], ended_scores)
        ended = tf.where(cut[:, :, None], open, ended)
        # A probability never grows: no more than this can come of the best unfinished hypothesis.
        hopeless = at_limit | (open_log_p[:, 0] / longest <= ended_scores[:, 0])
        open_log_p = tf.where(hopeless[:, None], -np.inf, open_log_p)

        flat = tf.reshape(before + size * tf.range(rows)[:, None], [-1])
        state = tf.nest.map_structure(
            lambda values: tf.ensure_shape(tf.gather(values, flat), values.shape), state
        )
        return at + 1, open, open_log_p, ended, ended_scores, last, state

    is_first = tf.range(size) == 0
    empty = (limits <= 0)[:, None]
    _, _, _, ended, ended_scores, _, _ = tf.while_loop(
        lambda at, open, open_log_p, *_: tf.reduce_any(open_log_p[:, 0] > -np.inf),
        body,
        (
            tf.constant(0),
            no_ids,
            tf.where(is_first & ~empty, 0.0, nothing),
            no_ids,
            tf.where(is_first & empty, 0.0, nothing),
            tf.fill([rows, size], start),
            state,
        ),
        maximum_iterations=length,
    )
    return Hypotheses(ended, ended_scores)
