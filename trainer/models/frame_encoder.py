"""What the first recurrent layer reads of frames: the frames, a dense layer, or convolutions.

Dense: relu(x W + b) of each frame (`--frame_encoder=dense`). Convolution: two layers, each of which
looks at 3 x 3 places of a picture at every second place in both directions, with relu, then the
dense layer over all that they found. Every frame is encoded by itself.
"""

from collections.abc import Mapping

import tensorflow as tf

from trainer.flags.run import Model
from trainer.models import shapes


def encoded(
    settings: Model, weights: Mapping[str, tf.Tensor], inputs: tf.Tensor, frame: tuple[int, ...]
) -> tf.Tensor:
    """Returns what is read of frames: [batch, length, width].

    weights: {logical name: tensor}, in the type of `inputs`. inputs: float [batch, length,
    features], frames of the shape `frame`, flat.
    """
    if settings.frame_encoder == "none":
        return inputs
    rows, steps, features = tf.unstack(tf.shape(inputs)[:2]) + [inputs.shape[-1]]
    # One frame after the other, whichever sequence it is of.
    values = tf.reshape(inputs, [-1, features])
    if settings.frame_encoder == "convolution":
        values = tf.reshape(values, [-1, *shapes.picture(frame)])
        for name in shapes.convolutions():
            values = tf.nn.relu(_convolution(values, *of_layer(weights, name)))
        values = tf.reshape(values, [-1, values.shape[1] * values.shape[2] * values.shape[3]])
    kernel, bias = of_layer(weights, shapes.FRAME_DENSE)
    values = tf.nn.relu(tf.matmul(values, kernel) + bias)
    return tf.reshape(values, [rows, steps, kernel.shape[-1]])


def of_layer(weights: Mapping[str, tf.Tensor], name: str) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns (kernel, bias) of a layer."""
    return weights[f"{name}/kernel"], weights[f"{name}/bias"]


def _convolution(pictures: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Returns [frames, height / 2, width / 2, filters] of [frames, height, width, channels].

    kernel: [1, 3, 3, channels, filters]. The places around each one become a row of a matrix, and
    one product has them all: XLA on CPU takes 1.4 times as long for its own convolution, which has
    no vector code in float64 and bfloat16.
    """
    size, stride = shapes.KERNEL, shapes.STRIDE
    height, width, _ = pictures.shape[1:]
    (rows, above), (columns, left) = (_places(length) for length in (height, width))
    padded = tf.pad(pictures, [[0, 0], above, left, [0, 0]])
    around = [
        padded[:, row : row + stride * rows - 1 : stride, at : at + stride * columns - 1 : stride]
        for row in range(size)
        for at in range(size)
    ]
    matrix = tf.reshape(tf.concat(around, axis=-1), [-1, size * size * pictures.shape[-1]])
    product = tf.matmul(matrix, tf.reshape(kernel, [matrix.shape[-1], kernel.shape[-1]])) + bias
    return tf.reshape(product, [-1, rows, columns, kernel.shape[-1]])


def _places(length: int) -> tuple[int, tuple[int, int]]:
    """Returns (how many places are looked at along a side, zeros before and after it).

    They are those of `padding="same"` in Keras.
    """
    places = shapes.places(length)
    zeros = max(0, (places - 1) * shapes.STRIDE + shapes.KERNEL - length)
    return places, (zeros // 2, zeros - zeros // 2)
