"""Stand-in until the real one is merged."""

import tensorflow as tf

from trainer.models import dropout


def generate(
    step, first_scores, state, *, rows, count, banned, ends_with, seed, temperature, top_k, top_p
):
    vocabulary = first_scores.shape[-1]
    ban = tf.reduce_any(tf.equal(tf.range(vocabulary)[:, None], tf.constant(banned)), axis=1)
    out = tf.TensorArray(tf.int32, count, element_shape=[None])

    def body(i, scores, state, done, out):
        scores = tf.where(ban, tf.constant(-1e30, scores.dtype), scores)
        p = tf.cumsum(tf.nn.softmax(scores / tf.maximum(temperature, 1e-6)), axis=-1)
        key = dropout._key(77, seed, i, rows)
        u = (tf.cast(tf.bitwise.right_shift(key, dropout._word(8)), tf.float32) + 0.5) * 2.0**-24
        drawn = tf.reduce_sum(tf.cast(p < u[:, None] * p[:, -1:], tf.int32), axis=-1)
        greedy = tf.argmax(scores, axis=-1, output_type=tf.int32)
        ids = tf.where(temperature > 0, tf.minimum(drawn, vocabulary - 1), greedy)
        ids = tf.where(done, 0, ids)
        done = done | (ids == ends_with)
        scores, state = step(ids, state)
        return i + 1, scores, state, done, out.write(i, ids)

    *_, out = tf.while_loop(
        lambda i, *_: i < count,
        body,
        (0, first_scores, state, tf.zeros_like(rows, tf.bool), out),
        maximum_iterations=count,
    )
    return tf.transpose(out.stack())
