"""Tensors in one vector."""

import numpy as np
import tensorflow as tf

from trainer.steps import packing


def test_what_is_packed_comes_out_again():
    tensors = [
        tf.reshape(tf.range(6.0), [2, 3]),
        tf.constant(7.0),
        tf.range(8.0, 12.0),
        tf.zeros([0, 3]),
        tf.ones([1, 1, 2]),
    ]
    packed = packing.pack(tensors)
    assert packed.shape == (6 + 1 + 4 + 0 + 2,)
    for one, other in zip(
        packing.unpack(packed, [tensor.shape for tensor in tensors]), tensors, strict=True
    ):
        np.testing.assert_array_equal(one, other)
