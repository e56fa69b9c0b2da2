"""Networks: an encoder and a head over the weights of Keras layers.

Keras layers make the initial weights; pure functions of the weights compute. These take the weights
as tensors, so that the same code serves a gradient over shards, a copy on another device and the
averaged weights of an evaluation.
"""

import zlib
from collections.abc import Mapping

import keras
import tensorflow as tf

from trainer import config as configuration
from trainer.models import recurrent, shapes
from trainer.models.encoder import Carry, Encoder
from trainer.models.heads import PerStep, Pooled, StepOutputs
from trainer.models.noise import Noise

# For each cell its layer, and its cell for --rnn_from_cell.
_KERAS = {
    "simple_rnn": (keras.layers.SimpleRNN, keras.layers.SimpleRNNCell),
    "lstm": (keras.layers.LSTM, keras.layers.LSTMCell),
    "gru": (keras.layers.GRU, keras.layers.GRUCell),
}


class Network:
    """The network of `settings`, with the outputs of `head`: `classes` scores a row or a step.

    weights: {logical name: tf.TensorSpec} of everything that is trained, in the order of
    `shapes.weights`. carried: {name: tf.TensorSpec [batch, units]} of the states that a stream
    carries. implementations: [(layer, implementation, reason)] for the log. jit: as given.
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
        head: type[Pooled] | type[PerStep] = Pooled,
    ):
        self.settings = settings
        self.vocabulary_size = vocabulary_size
        self.classes = classes
        self.compute_dtype = precision
        self.jit = jit
        self._seed = seed
        self._dtype = "float64" if precision == "float64" else "float32"
        implementation, reason = recurrent.choose(settings.cell, device_type, jit)
        recurrence = recurrent.recurrence(settings.cell, implementation)
        self.implementations = [
            (name, implementation, reason) for name in shapes.layer_names(settings)
        ]
        self._encoder = Encoder(settings, vocabulary_size, recurrence, seed, precision)
        self._head = head(settings, seed)
        self.weights = {
            name: tf.TensorSpec(shape, self._dtype)
            for name, shape in shapes.weights(settings, vocabulary_size, classes).items()
        }
        self.carried = {
            name: tf.TensorSpec([None, units], self._dtype)
            for name, units in shapes.carried(settings).items()
        }

    @property
    def parameters(self) -> int:
        """The number of trained values."""
        return shapes.parameters(self.settings, self.vocabulary_size, self.classes)

    def outputs(
        self,
        weights: Mapping[str, tf.Tensor],
        tokens: tf.Tensor,
        lengths: tf.Tensor,
        noise: Noise | None = None,
        carry: Carry | None = None,
    ) -> tuple[tf.Tensor | StepOutputs, Carry]:
        """Returns (what the head makes of the states, the carry after the last step).

        Args:
          weights: {logical name: tensor}, as in `self.weights`.
          tokens: int32 [batch, length]; tokens beyond `lengths` have no influence.
          lengths: int32 [batch], tokens of each row that count.
          noise: turns dropout on.
          carry: as in `Encoder`.

        Returns:
          Of a pooled head the scores of the classes, [batch, classes]: float64 at that precision,
          else float32. Of one per step `StepOutputs`.
        """
        weights = {name: tf.cast(weight, self.compute_dtype) for name, weight in weights.items()}
        states, after = self._encoder(weights, tokens, lengths, noise, carry)
        outputs = self._head(weights, states, lengths, noise)
        if not isinstance(outputs, StepOutputs):
            outputs = tf.cast(outputs, self._dtype)
        return outputs, after

    def step(
        self, weights: Mapping[str, tf.Tensor], tokens: tf.Tensor, carry: Carry
    ) -> tuple[tf.Tensor, Carry]:
        """Returns (scores [batch, classes], the carry) after one more token of each row, [batch].

        The head must be one per step. The scores are float64 at that precision, else float32.
        """
        outputs, after = self.step_outputs(weights, tokens, carry)
        return tf.cast(outputs.scores()[:, 0], self._dtype), after

    def step_outputs(
        self, weights: Mapping[str, tf.Tensor], tokens: tf.Tensor, carry: Carry
    ) -> tuple[StepOutputs, Carry]:
        """Returns (the outputs of one step, not multiplied yet, the carry), as `step`."""
        weights = {name: tf.cast(weight, self.compute_dtype) for name, weight in weights.items()}
        states, after = self._encoder.step(weights, tokens, carry)
        return self._head(weights, states[:, None], tf.ones_like(tokens)), after

    def logits(
        self,
        weights: Mapping[str, tf.Tensor],
        tokens: tf.Tensor,
        lengths: tf.Tensor,
        noise: Noise | None = None,
    ) -> tf.Tensor:
        """Returns the scores of the classes, all multiplied: [batch, classes], or with a head per
        step [batch, length, classes]; float64 at that precision, else float32.

        Args: as in `outputs`.
        """
        outputs, _ = self.outputs(weights, tokens, lengths, noise)
        if isinstance(outputs, StepOutputs):
            outputs = tf.cast(outputs.scores(), self._dtype)
        return outputs

    def initial_weights(self) -> dict[str, tf.Tensor]:
        """Returns {logical name: tensor}: the initial values of `weights`, from the seed alone."""
        weights, width = {}, self.vocabulary_size
        for name, layer in self.layers():
            if name == "embedding":
                width = layer.output_dim
                # The identity matrix of a large vocabulary is large, and nothing reads it.
                if not self.settings.one_hot:
                    layer.build(None)
                    weights["embedding/embeddings"] = layer.embeddings
            elif name in ("projection", "logits"):
                layer.build((None, width))
                built = {f"{name}/{weight.name}": weight for weight in layer.trainable_variables}
                # The output of a tied embedding has no kernel of its own.
                weights |= {key: value for key, value in built.items() if key in self.weights}
                width = layer.units
            else:
                layer.build((None, None, width))
                weights |= recurrent_weights(name, layer)
                width = layer.compute_output_shape((None, None, width))[-1]
        return {name: tf.convert_to_tensor(weight.value) for name, weight in weights.items()}

    def layers(self) -> list[tuple[str, keras.Layer]]:
        """Returns fresh Keras layers by name, in order: embedding, rnn_0, ..., logits.

        A tied embedding may have a `projection` before the logits, which is as wide as itself. The
        kernel of the logits is then the embedding turned round. Initial values come from the seed.
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
            for name, units in zip(shapes.layer_names(settings), settings.units)
        ]
        logits = keras.layers.Dense(
            self.classes,
            name="logits",
            dtype=self._dtype,
            kernel_initializer=keras.initializers.GlorotUniform(seed=self._seed_of("logits")),
        )
        return [("embedding", embedding), *rnns, *self._projection(), ("logits", logits)]

    def _projection(self) -> list[tuple[str, keras.Layer]]:
        if "projection/kernel" not in self.weights:
            return []
        layer = keras.layers.Dense(
            self.settings.embedding_size,
            use_bias=False,
            name="projection",
            dtype=self._dtype,
            kernel_initializer=keras.initializers.GlorotUniform(seed=self._seed_of("projection")),
        )
        return [("projection", layer)]

    def _seed_of(self, name: str) -> int:
        """Returns the seed of one weight, so that no two start with the same numbers."""
        return zlib.crc32(f"{self._seed}/{name}".encode())

    def _recurrent_layer(self, name, units):
        if not self.settings.bidirectional:
            return self._one_direction(name, units)
        forward, backward = (
            self._one_direction(f"{name}_{way}", units) for way in shapes.DIRECTIONS
        )
        backward.go_backwards = True
        return keras.layers.Bidirectional(
            forward, backward_layer=backward, name=name, dtype=self._dtype
        )

    def _one_direction(self, name, units):
        layer_type, cell_type = _KERAS[self.settings.cell]
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


def of_run(
    config: configuration.Config,
    vocabulary_size: int,
    classes: int,
    device_type: str,
    head: type[Pooled] | type[PerStep] = Pooled,
) -> Network:
    """Returns the network of a run for a dataset of the given sizes and a task with that head."""
    return Network(
        config.model,
        vocabulary_size,
        classes,
        seed=config.run.seed,
        precision=config.run.precision,
        device_type=device_type,
        jit=config.run.jit,
        head=head,
    )


def recurrent_weights(name: str, layer: keras.Layer) -> dict[str, keras.Variable]:
    """Returns {logical name: variable} of a recurrent layer, in one or both directions."""
    if isinstance(layer, keras.layers.Bidirectional):
        halves = (layer.forward_layer, layer.backward_layer)
        return {
            key: value
            for way, half in zip(shapes.DIRECTIONS, halves)
            for key, value in recurrent_weights(f"{name}/{way}", half).items()
        }
    cell = layer.cell
    return {
        f"{name}/kernel": cell.kernel,
        f"{name}/recurrent_kernel": cell.recurrent_kernel,
        f"{name}/bias": cell.bias,
    }
