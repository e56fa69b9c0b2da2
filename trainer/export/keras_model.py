"""A network as plain Keras layers that hold its weights: a file that needs no code of ours."""

import math
from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from trainer.data import fields, text
from trainer.flags.run import Input
from trainer.models import heads, shapes
from trainer.models.networks import Network, recurrent_weights
from trainer.tasks.table import Task


def build(
    network: Network,
    weights: Mapping[str, tf.Tensor],
    settings: Input,
    task: Task,
    normalise: fields.Scale | None = None,
    standardise: fields.Scale | None = None,
) -> keras.Model:
    """Returns a Keras model, without dropout: ids int32 [N, length] -> what the task's head gives.

    Its output is `probabilities` or `log_probabilities`, of each row [N, classes] or each step [N,
    length, classes]; or `values` [N, values], in the units of the data. Ids are cut and padded as
    in training. With padding=post id 0 counts nowhere and any length will do; with padding=pre
    every id counts and the length is max_length.

    A network over frames takes (frames float32 [N, length, features] as they were read, lengths
    int32 [N], steps that count), padded as in training: behind the steps, or before them.

    normalise, standardise: those of the dataset.

    A network with a decoder has a second input, target_ids int32 [N, steps], the words that come
    before those whose probabilities it gives, [N, steps, ids].
    """
    pre = settings.padding == "pre"
    length = settings.max_length if pre else None
    layers = dict(network.layers())
    if network.frame:
        inputs, read, mask = _frames(network, layers, length, normalise)
    else:
        inputs = keras.Input([length], dtype="int32", name="ids")
        read, mask = layers["embedding"](inputs), keras.ops.not_equal(inputs, text.PADDING)
    mask = None if pre else mask
    if task.target.sequence:
        target_ids = keras.Input([None], dtype="int32", name="target_ids")
        inputs, states = [inputs, target_ids], _decoded(network, layers, read, mask, target_ids)
    else:
        states = _encoded(network, layers, read, mask, pooled=task.head is heads.Pooled)
    if "projection" in layers:
        states = layers["projection"](states)
    logits = layers["logits"](states)
    output = _OUTPUTS[task.keras_activation]
    if standardise:
        scale, mean = standardise.deviation.tolist(), standardise.mean.tolist()
        last = keras.layers.Rescaling(scale, mean, name=output, dtype=logits.dtype)
    else:
        last = keras.layers.Activation(task.keras_activation, name=output, dtype=logits.dtype)
    model = keras.Model(inputs, last(logits), name=task.name)
    values = _with_kernel_of_logits(weights)
    for name, layer in layers.items():
        for key, variable in _trained(name, layer).items():
            variable.assign(values[key])
    return model


def _frames(
    network: Network,
    layers: Mapping[str, keras.Layer],
    length: int | None,
    normalise: fields.Scale | None,
) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
    """Returns (inputs, what the first recurrent layer reads, bool [N, length] steps that count).

    length: of the steps if they are padded in front, else None.
    """
    features = math.prod(network.frame)
    frames = keras.Input([length, features], dtype="float32", name="frames")
    lengths = keras.Input([], dtype="int32", name="lengths")
    # The numbers of the steps, from 1. The layers of Keras do not tell an unknown length.
    steps = keras.ops.cumsum(keras.ops.ones_like(frames[:, :, 0], dtype="int32"), axis=1)
    counted = keras.ops.expand_dims(lengths, 1)
    mask = steps <= counted if length is None else steps > length - counted
    read = frames
    if normalise:
        # Not a layer Normalization: it squares deviations, and none is below 1e-7 for it.
        mean, deviation = (np.asarray(part) for part in (normalise.mean, normalise.deviation))
        read = keras.ops.divide(keras.ops.subtract(read, mean), deviation)
    read = keras.ops.where(keras.ops.expand_dims(mask, -1), read, 0.0)
    convolutions = [name for name in shapes.convolutions() if name in layers]
    if convolutions:
        read = keras.layers.Reshape((-1, *shapes.picture(network.frame)))(read)
        for name in convolutions:
            read = layers[name](read)
        read = keras.layers.Reshape((-1, math.prod(read.shape[2:])))(read)
    if shapes.FRAME_DENSE in layers:
        read = layers[shapes.FRAME_DENSE](read)
    return [frames, lengths], read, mask


def _encoded(
    network: Network,
    layers: dict[str, keras.Layer],
    states: tf.Tensor,
    mask: tf.Tensor | None,
    pooled: bool,
) -> tf.Tensor:
    """Returns the states of an encoder, [N, length, width], or what is pooled of them.

    states: what the first recurrent layer reads.
    """
    *_, last = recurrent = [name for name in layers if name.startswith("rnn_")]
    pooling = _POOLING[network.settings.pooling] if pooled else _none
    if pooling is _last:
        layers[last] = _returning_the_last_state(layers[last])
    for name in recurrent:
        states = layers[name](states, mask=mask)
    return pooling(states, mask)


def _decoded(
    network: Network,
    layers: Mapping[str, keras.Layer],
    read: tf.Tensor,
    mask: tf.Tensor,
    target_ids: tf.Tensor,
) -> tf.Tensor:
    """Returns what a decoder makes of the words before, [N, steps, embedding], as `Decoder`."""
    memory = _encoded(network, layers, read, mask, pooled=False)
    end = _ends(memory, mask, network.settings.bidirectional)
    states = layers.get("target_embedding", layers["embedding"])(target_ids)
    for number, name in enumerate(shapes.decoder_layers(network.settings)):
        hidden = layers[f"start_{number}"](end)
        parts = len(shapes.STATE[network.settings.cell])
        rest = [keras.ops.zeros_like(hidden) for _ in range(parts - 1)]
        states = layers[name](states, initial_state=[hidden, *rest])
    if network.settings.attention != "none":
        keys = layers["attention"](memory) if "attention" in layers else memory
        scores = keras.ops.matmul(states, keras.ops.transpose(keys, [0, 2, 1]))
        scores = keras.ops.where(keras.ops.expand_dims(mask, 1), scores, -1e30)
        context = keras.ops.matmul(keras.ops.softmax(scores), memory)
        states = keras.ops.concatenate([context, states], axis=-1)
    return layers["combine"](states)


def _ends(states: tf.Tensor, mask: tf.Tensor, bidirectional: bool) -> tf.Tensor:
    """Returns the state of each direction after its last step [N, width], as `heads.ends`."""
    counts = keras.ops.cast(mask, states.dtype)
    after = keras.ops.pad(counts[:, 1:], [[0, 0], [0, 1]])
    is_last = keras.ops.expand_dims(counts - after, -1)
    forward = keras.ops.sum(states * is_last, axis=1)
    if not bidirectional:
        return forward
    units = states.shape[-1] // 2
    return keras.ops.concatenate([forward[:, :units], states[:, 0, units:]], axis=-1)


def _with_kernel_of_logits(weights: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Returns the weights with a kernel of the logits: of a tied embedding that turned round."""
    if "logits/kernel" in weights:
        return dict(weights)
    embeddings = weights.get("target_embedding/embeddings", weights["embedding/embeddings"])
    return {**weights, "logits/kernel": tf.transpose(embeddings)}


def _returning_the_last_state(layer: keras.Layer) -> keras.Layer:
    """Returns the layer with `return_sequences=False`.

    Taking the last output of a masked sequence is not the same: cuDNN puts zeros there, other
    implementations repeat the last state.
    """
    config = layer.get_config()
    both = isinstance(layer, keras.layers.Bidirectional)
    for direction in (
        [config[key]["config"] for key in ("layer", "backward_layer")] if both else [config]
    ):
        direction["return_sequences"] = False
    return type(layer).from_config(config)


def _maximum(states: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    """Pools states [N, length, units] under a bool mask [N, length], as `heads.maximum`."""
    if mask is None:
        return keras.ops.max(states, axis=1)
    # No cell's state is below -1.
    highest = keras.ops.max(keras.ops.where(keras.ops.expand_dims(mask, -1), states, -1.0), axis=1)
    return keras.ops.where(keras.ops.any(mask, axis=1, keepdims=True), highest, 0.0)


def _mean(states: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    """Pools states [N, length, units] under a bool mask [N, length], as `heads.mean`."""
    if mask is None:
        return keras.ops.mean(states, axis=1)
    counts = keras.ops.cast(mask, states.dtype)
    total = keras.ops.sum(states * keras.ops.expand_dims(counts, -1), axis=1)
    return total / keras.ops.maximum(keras.ops.sum(counts, axis=1, keepdims=True), 1.0)


def _last(states: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    """Returns states as they are: the last layer returns the last one only."""
    return states


def _none(states: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    """Returns the states of all steps."""
    return states


_OUTPUTS = {"softmax": "probabilities", "log_softmax": "log_probabilities", "linear": "values"}
_POOLING: dict[str, Callable] = {"last": _last, "max": _maximum, "mean": _mean}


def _trained(name: str, layer: keras.Layer) -> dict[str, keras.Variable]:
    """Returns {logical name: variable} of the trained weights of a built layer."""
    if name.startswith(("rnn_", "decoder_")):
        return recurrent_weights(name, layer)
    return {f"{name}/{variable.name}": variable for variable in layer.trainable_variables}
