"""A network built from its configuration: Keras layers hold the weights, pure functions of the
weights compute.

Tokens -> embedding (trainable, or frozen one-hot) -> a stack of recurrent layers, each in one or
both directions -> pooling over time -> logits. Dropout lies after the embedding, between layers and
before the output; word dropout takes out whole embeddings, as in Iyyer et al., Deep Unordered
Composition Rivals Syntactic Methods, 2015, section 3.1.

The functions take the weights as tensors, so that the same code serves a gradient over shards, a
copy on another device and the averaged weights of an evaluation.
"""

import zlib
from collections.abc import Mapping
from typing import NamedTuple

import keras
import tensorflow as tf

from trainer import config as configuration
from trainer.models import dropout, recurrent

DIRECTIONS = ("forward", "backward")


class Noise(NamedTuple):
    """Where the dropout of a step comes from: int32 [batch] rows of the global batch, int64 scalar
    step.
    """

    rows: tf.Tensor
    step: tf.Tensor


class Network:
    """The network of `settings`.

    weights: {logical name: Keras variable} of everything that is trained, in a fixed order,
    initialised from `seed` alone. implementations: [(layer, implementation, reason)] for the log.
    """

    def __init__(
        self,
        settings: configuration.Model,
        vocabulary_size: int,
        classes: int,
        *,
        seed: int = 0,
        precision: str = "float32",
        device_type: str = "CPU",
        jit: str = "auto",
    ):
        self.settings = settings
        self.vocabulary_size = vocabulary_size
        self.classes = classes
        self.compute_dtype = precision
        self._seed = seed
        self._dtype = "float64" if precision == "float64" else "float32"
        self._implementation, reason = recurrent.choose(settings.cell, device_type, jit)
        self._recurrence = recurrent.recurrence(settings.cell, self._implementation)
        self.implementations = [(name, self._implementation, reason) for name in self._rnn_names()]
        self.weights = self._build()

    @property
    def parameters(self) -> int:
        """Number of trained values."""
        return sum(int(tf.size(weight.value)) for weight in self.weights.values())

    def logits(
        self,
        weights: Mapping[str, tf.Tensor],
        tokens: tf.Tensor,
        lengths: tf.Tensor,
        noise: Noise | None = None,
    ):
        """Scores of the classes.

        Args:
          weights: {logical name: tensor}, as in `self.weights`.
          tokens: int32 [batch, length]; what lies beyond `lengths` has no influence.
          lengths: int32 [batch], tokens of each row that count.
          noise: turns dropout on.

        Returns:
          [batch, classes], float32 or, at that precision, float64.
        """
        weights = {name: tf.cast(weight, self.compute_dtype) for name, weight in weights.items()}
        states = self._drop(
            self._drop_words(self._embed(weights, tokens), noise), noise, "embedding"
        )
        for layer, name in enumerate(self._rnn_names()):
            states = self._run_layer(
                weights, name, states if layer == 0 else self._drop(states, noise, name), lengths
            )
        pooled = self._drop(self._pool(states, lengths), noise, "logits")
        scores = tf.matmul(pooled, weights["logits/kernel"]) + weights["logits/bias"]
        return tf.cast(scores, self._dtype)

    def layers(self) -> list[tuple[str, keras.Layer]]:
        """Fresh Keras layers by name, in order, with initial values from the seed: [embedding,
        rnn_0, ..., logits].
        """
        settings = self.settings
        if settings.one_hot:
            embedding = keras.layers.Embedding(
                self.vocabulary_size,
                self.vocabulary_size,
                embeddings_initializer=keras.initializers.Identity(),
                trainable=False,
                name="embedding",
                dtype=self._dtype,
            )
        else:
            embedding = keras.layers.Embedding(
                self.vocabulary_size,
                settings.embedding_size,
                name="embedding",
                dtype=self._dtype,
                embeddings_initializer=keras.initializers.RandomUniform(
                    seed=self._seed_of("embedding")
                ),
            )
        rnns = [
            (name, self._recurrent_layer(name, units))
            for name, units in zip(self._rnn_names(), settings.units)
        ]
        logits = keras.layers.Dense(
            self.classes,
            name="logits",
            dtype=self._dtype,
            kernel_initializer=keras.initializers.GlorotUniform(seed=self._seed_of("logits")),
        )
        return [("embedding", embedding), *rnns, ("logits", logits)]

    # --- computing --------------------------------------------------------------------------------

    def _embed(self, weights, tokens):
        if self.settings.one_hot:
            return tf.one_hot(tokens, self.vocabulary_size, dtype=self.compute_dtype)
        return tf.gather(weights["embedding/embeddings"], tokens)

    def _run_layer(self, weights, name, inputs, lengths):
        if not self.settings.bidirectional:
            return self._recurrence(_cell_weights(weights, name), inputs)
        forward, backward = (
            _cell_weights(weights, f"{name}/{direction}") for direction in DIRECTIONS
        )
        return recurrent.bidirectional(self._recurrence, forward, backward, inputs, lengths)

    def _pool(self, states, lengths):
        if self.settings.pooling == "last":
            return (recurrent.ends if self.settings.bidirectional else recurrent.last)(
                states, lengths
            )
        return {"max": recurrent.maximum, "mean": recurrent.mean}[self.settings.pooling](
            states, lengths
        )

    def _drop(self, values, noise, place):
        return self._masked(
            values, tf.unstack(tf.shape(values))[1:], self.settings.dropout, noise, place
        )

    def _drop_words(self, vectors, noise):
        return self._masked(
            vectors, [tf.shape(vectors)[1], 1], self.settings.word_dropout, noise, "words"
        )

    def _masked(self, values, shape_after_rows, rate, noise, place):
        if noise is None or not rate:
            return values
        return values * dropout.keep_mask(
            shape_after_rows,
            noise.rows,
            seed=self._seed,
            step=noise.step,
            layer=zlib.crc32(place.encode()),
            rate=rate,
            dtype=values.dtype,
        )

    # --- building ---------------------------------------------------------------------------------

    def _rnn_names(self):
        return [f"rnn_{layer}" for layer in range(len(self.settings.units))]

    def _seed_of(self, name: str) -> int:
        """An own seed for every weight, so that no two layers start with the same numbers."""
        return zlib.crc32(f"{self._seed}/{name}".encode())

    def _recurrent_layer(self, name, units):
        if not self.settings.bidirectional:
            return self._one_direction(name, units)
        forward, backward = (
            self._one_direction(f"{name}_{direction}", units) for direction in DIRECTIONS
        )
        backward.go_backwards = True
        return keras.layers.Bidirectional(
            forward, backward_layer=backward, name=name, dtype=self._dtype
        )

    def _one_direction(self, name, units):
        layer_type, cell_type = {
            "simple_rnn": (keras.layers.SimpleRNN, keras.layers.SimpleRNNCell),
            "lstm": (keras.layers.LSTM, keras.layers.LSTMCell),
            "gru": (keras.layers.GRU, keras.layers.GRUCell),
        }[self.settings.cell]
        start = {
            "kernel_initializer": keras.initializers.GlorotUniform(
                seed=self._seed_of(f"{name}/kernel")
            ),
            "recurrent_initializer": keras.initializers.Orthogonal(
                seed=self._seed_of(f"{name}/recurrent_kernel")
            ),
            "dtype": self._dtype,
        }
        if self.settings.rnn_from_cell:
            return keras.layers.RNN(
                cell_type(units, **start), return_sequences=True, name=name, dtype=self._dtype
            )
        return layer_type(units, return_sequences=True, name=name, **start)

    def _build(self) -> dict[str, keras.Variable]:
        weights, width = {}, self.vocabulary_size
        for name, layer in self.layers():
            if name == "embedding":
                width = layer.output_dim
                # The identity matrix of a large vocabulary is large, and nobody reads it.
                if not self.settings.one_hot:
                    layer.build(None)
                    weights["embedding/embeddings"] = layer.embeddings
            elif name == "logits":
                layer.build((None, width))
                weights |= {"logits/kernel": layer.kernel, "logits/bias": layer.bias}
            else:
                layer.build((None, None, width))
                weights |= recurrent_weights(name, layer)
                width = layer.compute_output_shape((None, None, width))[-1]
        return weights


def of_run(
    config: configuration.Config, vocabulary_size: int, classes: int, device_type: str
) -> Network:
    """Returns the network of a run, with initial weights; for a dataset of the given sizes."""
    return Network(
        config.model,
        vocabulary_size,
        classes,
        seed=config.run.seed,
        precision=config.run.precision,
        device_type=device_type,
        jit=config.run.jit,
    )


def recurrent_weights(name: str, layer) -> dict[str, keras.Variable]:
    """{logical name: variable} of a recurrent layer, wrapped for both directions or not."""
    if isinstance(layer, keras.layers.Bidirectional):
        halves = (layer.forward_layer, layer.backward_layer)
        return {
            key: value
            for direction, half in zip(DIRECTIONS, halves)
            for key, value in recurrent_weights(f"{name}/{direction}", half).items()
        }
    cell = layer.cell
    return {
        f"{name}/kernel": cell.kernel,
        f"{name}/recurrent_kernel": cell.recurrent_kernel,
        f"{name}/bias": cell.bias,
    }


def _cell_weights(weights, name):
    return tuple(weights[f"{name}/{part}"] for part in ("kernel", "recurrent_kernel", "bias"))
