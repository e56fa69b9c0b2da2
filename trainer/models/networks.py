"""Networks: an encoder and a head over the weights of Keras layers.

Keras layers make the initial weights; pure functions of the weights compute. These take the weights
as tensors, so that the same code serves a gradient over shards, a copy on another device and the
averaged weights of an evaluation.
"""

import zlib
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from trainer.flags.run import Config, Model
from trainer.models import decoder, recurrent, shapes
from trainer.models.decoder import Decoder
from trainer.models.encoder import Carry, Encoder
from trainer.models.heads import PerStep, Pooled, StepOutputs
from trainer.models.noise import Noise

Head = type[Pooled] | type[PerStep] | type[Decoder]

# Initial values of an embedding lie between plus and minus this: as in Keras, or with a decoder.
# From values as small as those of Keras a decoder tells the same words whatever it reads, for the
# first thousand steps.
_LIMIT, _LIMIT_OF_PAIRS = 0.05, 0.3

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
    carries. implementations: [(layer, implementation, reason)] for the log. jit, second, frame: as
    given.
    """

    def __init__(
        self,
        settings: Model,
        vocabulary_size: int,
        classes: int,
        *,
        seed: int = 0,
        precision: str = "float32",
        device_type: str = "CPU",
        jit: str = "auto",
        head: Head = Pooled,
        second: str = "",
        frame: tuple[int, ...] = (),
    ):
        """second, frame: as in `shapes.weights`; the other arguments are those of the class."""
        self.settings = settings
        self.vocabulary_size = vocabulary_size
        self.classes = classes
        self.compute_dtype = precision
        self.jit = jit
        self._seed = seed
        self._dtype = "float64" if precision == "float64" else "float32"
        implementation, reason = recurrent.choose(settings.cell, device_type, jit, precision)
        recurrence = recurrent.recurrence(settings.cell, implementation)
        self.implementations = [
            (name, implementation, reason) for name in shapes.layer_names(settings)
        ]
        self.second = second
        self.frame = frame
        self._encoder = Encoder(settings, vocabulary_size, recurrence, seed, precision, frame)
        self._head = head(settings, seed, recurrence)
        self.weights = {
            name: tf.TensorSpec(shape, self._dtype)
            for name, shape in shapes.weights(
                settings, vocabulary_size, classes, second, frame
            ).items()
        }
        self.carried = {
            name: tf.TensorSpec([None, units], self._dtype)
            for name, units in shapes.carried(settings).items()
        }

    @property
    def parameters(self) -> int:
        """The number of trained values."""
        return shapes.parameters(
            self.settings, self.vocabulary_size, self.classes, self.second, self.frame
        )

    def outputs(
        self,
        weights: Mapping[str, tf.Tensor],
        inputs: tf.Tensor,
        lengths: tf.Tensor,
        noise: Noise | None = None,
        carry: Carry | None = None,
        targets: Any = None,
    ) -> tuple[tf.Tensor | StepOutputs, Carry]:
        """Returns (what the head makes of the states, the carry after the last step).

        Args:
          weights: {logical name: tensor}, as in `self.weights`.
          inputs: int32 [batch, length] tokens, or float [batch, length, features] frames; steps
            beyond `lengths` have no influence.
          lengths: int32 [batch], steps of each row that count.
          noise: turns dropout on.
          carry: as in `Encoder`.
          targets: those of the batch, for a head that reads them while it tells them.

        Returns:
          Of a pooled head the scores of the classes, [batch, classes]: float64 at that precision,
          else float32. Of one per step `StepOutputs`.
        """
        weights = self._cast(weights)
        states, after = self._encoder(weights, inputs, lengths, noise, carry)
        outputs = self._head(weights, states, lengths, noise, targets)
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
        weights = self._cast(weights)
        states, after = self._encoder.step(weights, tokens, carry)
        return self._head(weights, states[:, None], tf.ones_like(tokens)), after

    # --- a second sequence, whose head is a `Decoder` ---------------------------------------------

    def memory(
        self, weights: Mapping[str, tf.Tensor], tokens: tf.Tensor, lengths: tf.Tensor
    ) -> decoder.Memory:
        """Returns what the decoder knows of sources; the arguments are those of `outputs`."""
        weights = self._cast(weights)
        states, _ = self._encoder(weights, tokens, lengths)
        return self._head.memory(weights, states, lengths)

    def decoder_start(
        self, weights: Mapping[str, tf.Tensor], memory: decoder.Memory
    ) -> decoder.State:
        """Returns the state before the first word of each sentence."""
        return self._head.start(self._cast(weights), memory)

    def decoder_step(
        self,
        weights: Mapping[str, tf.Tensor],
        memory: decoder.Memory,
        ids: tf.Tensor,
        state: decoder.State,
    ) -> tuple[tf.Tensor, decoder.State]:
        """Returns (scores, the state) after one more word of each row, as `Decoder.step`."""
        return self._head.step(self._cast(weights), memory, ids, state)

    def attention(
        self,
        weights: Mapping[str, tf.Tensor],
        tokens: tf.Tensor,
        lengths: tf.Tensor,
        words: tf.Tensor,
    ) -> tf.Tensor:
        """Returns how much each step of `words`, int32 [batch, target], attends to each token.

        It is [batch, target, length], as `Decoder.attention`.
        """
        memory = self.memory(weights, tokens, lengths)
        return tf.cast(self._head.attention(self._cast(weights), memory, words), self._dtype)

    def _cast(self, weights: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns the weights in the type of the arithmetic."""
        return {name: tf.cast(weight, self.compute_dtype) for name, weight in weights.items()}

    def logits(
        self,
        weights: Mapping[str, tf.Tensor],
        inputs: tf.Tensor,
        lengths: tf.Tensor,
        noise: Noise | None = None,
    ) -> tf.Tensor:
        """Returns the scores of the classes, all multiplied: [batch, classes], or with a head per
        step [batch, length, classes]; float64 at that precision, else float32.

        Args: as in `outputs`.
        """
        outputs, _ = self.outputs(weights, inputs, lengths, noise)
        if isinstance(outputs, StepOutputs):
            outputs = tf.cast(outputs.scores(), self._dtype)
        return outputs

    def initial_weights(self) -> dict[str, tf.Tensor]:
        """Returns {logical name: tensor}: the initial values of `weights`, from the seed alone."""
        weights = {}
        for name, layer in self.layers():
            if isinstance(layer, keras.layers.Embedding):
                # The identity matrix of a large vocabulary is large, and nothing reads it.
                if not self.settings.one_hot:
                    layer.build(None)
                    weights[f"{name}/embeddings"] = layer.embeddings
            elif isinstance(layer, keras.layers.Dense | keras.layers.Conv3D):
                axes = [None] * (layer.input_spec.min_ndim - 1)
                layer.build((*axes, self._inputs_of(name)))
                weights |= {f"{name}/{weight.name}": weight for weight in layer.trainable_variables}
            else:
                layer.build((None, None, self._inputs_of(name)))
                weights |= recurrent_weights(name, layer)
        # The output of a tied embedding has no kernel of its own.
        weights = {name: value for name, value in weights.items() if name in self.weights}
        return {name: tf.convert_to_tensor(weight.value) for name, weight in weights.items()}

    def _inputs_of(self, name: str) -> int:
        """Returns the width of what a layer with a kernel reads."""
        kernels = (
            weight.shape[-2]
            for key, weight in self.weights.items()
            if key.startswith(f"{name}/") and key.endswith("/kernel")
        )
        return next(kernels, self.settings.embedding_size)

    def layers(self) -> list[tuple[str, keras.Layer]]:
        """Returns fresh Keras layers by name, in order: embedding, rnn_0, ..., logits.

        In the place of the embedding a network over frames has the layers of its frame encoder,
        frame_convolution_0, ..., frame_dense, as far as `weights` has them.

        Before the logits come those of a decoder: target_embedding, start_0, decoder_0, ...,
        attention, combine; as far as `weights` has them.

        A tied embedding may have a `projection` before the logits, which is as wide as itself. The
        kernel of the logits is then the embedding turned round. Initial values come from the seed.
        """
        settings = self.settings
        if self.frame:
            first = self._frame_layers()
        elif settings.one_hot:
            embedding = keras.layers.Embedding(
                self.vocabulary_size,
                self.vocabulary_size,
                embeddings_initializer=keras.initializers.Identity(),
                trainable=False,
                name="embedding",
                dtype=self._dtype,
            )
            first = [("embedding", embedding)]
        else:
            first = [("embedding", self._embedding("embedding", self.vocabulary_size))]
        rnns = [
            (name, self._recurrent_layer(name, units))
            for name, units in zip(shapes.layer_names(settings), settings.units)
        ]
        before = self._decoder_layers() if self.second else self._projection()
        logits = self._dense("logits", self.classes)
        return [*first, *rnns, *before, ("logits", logits)]

    def _frame_layers(self) -> list[tuple[str, keras.Layer]]:
        settings = self.settings
        if settings.frame_encoder == "none":
            return []
        # A convolution of one step of time, so that it takes pictures in a sequence.
        layers = [
            (
                name,
                keras.layers.Conv3D(
                    filters,
                    (1, shapes.KERNEL, shapes.KERNEL),
                    (1, shapes.STRIDE, shapes.STRIDE),
                    padding="same",
                    activation="relu",
                    kernel_initializer=keras.initializers.GlorotUniform(seed=self._seed_of(name)),
                    name=name,
                    dtype=self._dtype,
                ),
            )
            for name, filters in zip(shapes.convolutions(), shapes.FILTERS)
            if settings.frame_encoder == "convolution"
        ]
        dense = self._dense(shapes.FRAME_DENSE, settings.embedding_size, activation="relu")
        return [*layers, (shapes.FRAME_DENSE, dense)]

    def _projection(self) -> list[tuple[str, keras.Layer]]:
        if "projection/kernel" not in self.weights:
            return []
        width = self.settings.embedding_size
        return [("projection", self._dense("projection", width, use_bias=False))]

    def _decoder_layers(self) -> list[tuple[str, keras.Layer]]:
        layers = {}
        if self.second == "own":
            layers["target_embedding"] = self._embedding("target_embedding", self.classes)
        widths = shapes.decoder_layers(self.settings)
        for number, (name, units) in enumerate(widths.items()):
            layers[f"start_{number}"] = self._dense(f"start_{number}", units, activation="tanh")
            layers[name] = self._one_direction(name, units)
        if self.settings.attention == "general":
            layers["attention"] = self._dense("attention", units, use_bias=False)
        width = self.settings.embedding_size
        layers["combine"] = self._dense("combine", width, activation="tanh")
        return list(layers.items())

    def _embedding(self, name: str, words: int) -> keras.layers.Embedding:
        limit = _LIMIT_OF_PAIRS if self.second else _LIMIT
        return keras.layers.Embedding(
            words,
            self.settings.embedding_size,
            name=name,
            dtype=self._dtype,
            embeddings_initializer=keras.initializers.RandomUniform(
                -limit, limit, seed=self._seed_of(name)
            ),
        )

    def _dense(self, name: str, width: int, **options: Any) -> keras.layers.Dense:
        return keras.layers.Dense(
            width,
            name=name,
            dtype=self._dtype,
            kernel_initializer=keras.initializers.GlorotUniform(seed=self._seed_of(name)),
            **options,
        )

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
    config: Config,
    vocabulary_size: int,
    classes: int,
    device_type: str,
    head: Head = Pooled,
    second: str = "",
    frame: tuple[int, ...] = (),
) -> Network:
    """Returns the network of a run for a dataset of the given sizes and a task with that head.

    second, frame: as in `shapes.weights`.
    """
    return Network(
        config.model,
        vocabulary_size,
        classes,
        seed=config.run.seed,
        precision=config.run.precision,
        device_type=device_type,
        jit=config.run.jit,
        head=head,
        second=second,
        frame=frame,
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
