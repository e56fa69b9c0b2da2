"""Many tensors in one vector, so that replicas and workers add up all of them in one go."""

from collections.abc import Iterable, Sequence

import tensorflow as tf


def pack(tensors: Iterable[tf.Tensor]) -> tf.Tensor:
    """Returns the values of all `tensors`, end to end: [number of values]."""
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)


def unpack(vector: tf.Tensor, shapes: Sequence[tf.TensorShape]) -> list[tf.Tensor]:
    """Returns the tensors of these shapes that `pack` made `vector` from."""
    parts = tf.split(vector, [shape.num_elements() for shape in shapes])
    return [tf.reshape(part, shape) for part, shape in zip(parts, shapes)]
