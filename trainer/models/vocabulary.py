"""Stand-in until the sliced version is merged."""

import tensorflow as tf


def _losses(states, table, bias, targets, counted, smoothing, transposed):
    scores = tf.matmul(states, table, transpose_b=not transposed) + bias
    scores = tf.cast(scores, tf.float64 if states.dtype == tf.float64 else tf.float32)
    log_p = tf.nn.log_softmax(scores)
    chosen = tf.gather(log_p, targets, batch_dims=2)
    losses = -(1 - smoothing) * chosen - smoothing * tf.reduce_mean(log_p, axis=-1)
    right = tf.equal(tf.gather(scores, targets, batch_dims=2), tf.reduce_max(scores, -1))
    zero = tf.zeros_like(losses)
    return tf.where(counted, losses, zero), tf.where(counted & right, tf.ones_like(losses), zero)


def training_sums(states, table, bias, targets, counted, smoothing=0.0, transposed=False):
    losses, right = _losses(states, table, bias, targets, counted, smoothing, transposed)
    return tf.reduce_sum(losses), tf.reduce_sum(right)


def outcomes(states, table, bias, targets, counted, transposed=False):
    losses, right = _losses(states, table, bias, targets, counted, 0.0, transposed)
    return tf.reduce_sum(losses, 1), tf.reduce_sum(right, 1)
