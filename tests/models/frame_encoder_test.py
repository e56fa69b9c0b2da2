"""What is read of frames, against its definition in NumPy and against layers of Keras."""

import numpy as np
import pytest
import tensorflow as tf

from tests import numpy_network
from trainer.flags.run import Model
from trainer.models import frame_encoder
from trainer.models.networks import Network

ROWS, TIME = 2, 3


def network_of(frame, **changes):
    settings = Model(**{"cell": "simple_rnn", "units": (3,), "embedding_size": 4, **changes})
    return Network(settings, 0, 2, precision="float64", jit="on", frame=frame)


def some(network, frame):
    """Weights and frames, of normal size."""
    generator = np.random.default_rng(1)
    weights = {
        name: generator.normal(0, 0.7, weight.shape) for name, weight in network.weights.items()
    }
    return weights, generator.normal(size=(ROWS, TIME, int(np.prod(frame))))


@pytest.mark.parametrize(
    "encoder, frame",
    [
        ("none", (5,)),
        ("dense", (5,)),
        ("dense", (2, 3)),
        *(("convolution", frame) for frame in ((6, 7), (5, 4, 2), (1, 1), (3, 2, 1))),
    ],
)
def test_what_is_read_is_what_the_equations_say(encoder, frame):
    network = network_of(frame, frame_encoder=encoder)
    weights, frames = some(network, frame)
    found = frame_encoder.encoded(network.settings, weights, tf.constant(frames), frame)
    wanted = [
        [numpy_network.encoded(network.settings, weights, values, frame) for values in row]
        for row in frames
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("jit", [False, True])
def test_convolutions_have_the_gradients_of_the_layers_of_keras(jit):
    frame = (5, 4, 2)
    network = network_of(frame, frame_encoder="convolution")
    weights, frames = some(network, frame)
    weights = {name: tf.constant(value) for name, value in weights.items()}
    names = [name for name in weights if name.startswith("frame_")]
    factors = tf.constant(np.random.default_rng(2).normal(size=(ROWS, TIME, 4)))

    @tf.function(jit_compile=jit)
    def ours(weights, frames):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            read = frame_encoder.encoded(network.settings, weights, frames, frame)
            scalar = tf.reduce_sum(read * factors)
        return tape.gradient(scalar, [weights[name] for name in names])

    layers = [layer for name, layer in network.layers() if name.startswith("frame_")]
    read = tf.reshape(frames, (ROWS, TIME, *frame))
    variables = []
    with tf.GradientTape() as tape:
        for number, layer in enumerate(layers):
            if number == len(layers) - 1:
                read = tf.reshape(read, (ROWS, TIME, -1))
            layer.build(read.shape)
            for variable in layer.trainable_variables:
                variable.assign(weights[f"{layer.name}/{variable.name}"])
                variables.append(variable.value)
            read = layer(read)
        scalar = tf.reduce_sum(read * factors)
    wanted = tape.gradient(scalar, variables)
    for name, one, other in zip(names, ours(weights, tf.constant(frames)), wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("encoder", ["none", "dense"])
def test_logits_and_gradients_over_frames_are_those_of_the_equations(encoder):
    frame, lengths = (5,), np.array([3, 1])
    network = network_of(frame, frame_encoder=encoder, pooling="mean")
    weights, frames = some(network, frame)

    def loss(weights):
        scores = numpy_network.logits(network.settings, weights, frames, lengths, frame=frame)
        return numpy_network.loss_sum(scores, np.array([0, 1]))

    tensors = {name: tf.constant(value) for name, value in weights.items()}
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        logits = network.logits(tensors, tf.constant(frames), tf.constant(lengths, tf.int32))
        total = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits([0, 1], logits))
    gradients = tape.gradient(total, tensors)
    wanted = numpy_network.logits(network.settings, weights, frames, lengths, frame=frame)
    np.testing.assert_allclose(logits, wanted, rtol=1e-12)
    for name, expected in numpy_network.gradients(loss, weights).items():
        np.testing.assert_allclose(gradients[name], expected, rtol=1e-10, atol=1e-13, err_msg=name)


def test_frames_beyond_a_rows_length_have_no_influence():
    frame = (4, 3)
    network = network_of(frame, frame_encoder="convolution", bidirectional=True)
    weights, frames = some(network, frame)
    lengths = tf.constant([3, 1])
    wanted = network.logits(weights, tf.constant(frames), lengths)
    frames[1, 1:] = 7.0
    np.testing.assert_array_equal(network.logits(weights, tf.constant(frames), lengths), wanted)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_frames_are_read_in_the_type_of_the_arithmetic(precision):
    settings = Model(units=(3,), embedding_size=4, frame_encoder="convolution")
    network = Network(settings, 0, 2, precision=precision, jit="on", frame=(4, 4))
    frames = tf.ones([ROWS, TIME, 16])
    found = network.logits(network.initial_weights(), frames, tf.constant([3, 2]))
    assert found.dtype == tf.float32 and np.isfinite(found).all()
