"""The encoder of a network: from tokens or frames to the states of its last recurrent layer.

Tokens -> embedding (trained, or one-hot), or frames -> `frame_encoder`; then a stack of recurrent
layers, each in one or both directions. Dropout lies after the embedding and between layers. Word
dropout takes out whole embeddings, as in Iyyer et al., Deep Unordered Composition Rivals Syntactic
Methods, 2015, section 3.1.
"""

import dataclasses
from collections.abc import Mapping

import tensorflow as tf

from trainer.flags.run import Model
from trainer.models import frame_encoder, recurrent, shapes
from trainer.models.noise import Noise, drop

# {name of `shapes.carried`: [batch, units]}: states that go on from one chunk of a text to the
# next.
Carry = dict[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Encoder:
    """The embedding and the recurrent layers of `settings`, as a pure function of their weights.

    recurrence: computes each layer; seed: of the dropout; dtype: of all arithmetic; frame: the
    shape of a frame, () if the inputs are tokens.
    """

    settings: Model
    vocabulary_size: int
    recurrence: recurrent.Recurrence
    seed: int
    dtype: str
    frame: tuple[int, ...] = ()

    def __call__(
        self,
        weights: Mapping[str, tf.Tensor],
        inputs: tf.Tensor,
        lengths: tf.Tensor,
        noise: Noise | None = None,
        carry: Carry | None = None,
    ) -> tuple[tf.Tensor, Carry]:
        """Returns (the states of the last layer [batch, length, width], the carry after them).

        The width is that of `units`, or twice that in both directions, the forward half first.
        States beyond a row's length have no meaning.

        Args:
          weights: {logical name: tensor}.
          inputs: int32 [batch, length] tokens, or float [batch, length, features] frames.
          lengths: int32 [batch], steps of each row that count.
          noise: turns dropout on.
          carry: the states of all layers before the first step, in one direction; None for zero.
            If it is given, the states after the last step are returned with its names, else {}.
        """
        rate = self.settings.dropout
        states = drop(
            self._embed(weights, inputs),
            "words",
            noise,
            rate=self.settings.word_dropout,
            seed=self.seed,
            whole_steps=True,
        )
        after = {}
        for layer, name in enumerate(shapes.layer_names(self.settings)):
            place = name if layer else "embedding"  # What the first layer sees is the embedding.
            states = drop(
                states,
                place,
                noise,
                rate=rate,
                seed=self.seed,
                all_steps=self.settings.variational_dropout,
            )
            states, final = self._run_layer(weights, name, states, lengths, carry)
            after |= final
        return states, after

    def step(
        self, weights: Mapping[str, tf.Tensor], tokens: tf.Tensor, carry: Carry
    ) -> tuple[tf.Tensor, Carry]:
        """Returns (the states of the last layer [batch, width], the carry) after one more token.

        It computes what a call with this token alone does, in one direction and without noise.

        Args:
          weights: {logical name: tensor}.
          tokens: int32 [batch].
          carry: the states of all layers before it.
        """
        values, after = self._embed(weights, tokens), {}
        for name in shapes.layer_names(self.settings):
            names = [f"{name}/{part}" for part in shapes.STATE[self.settings.cell]]
            state = recurrent.one_step(self.settings.cell)(
                of_layer(weights, name), values, tuple(carry[part] for part in names)
            )
            values = tf.cast(state[0], self.dtype)
            after |= dict(zip(names, state))
        return values, after

    def _embed(self, weights, inputs):
        if self.frame:
            frames = tf.cast(inputs, self.dtype)
            return frame_encoder.encoded(self.settings, weights, frames, self.frame)
        if self.settings.one_hot:
            return tf.one_hot(inputs, self.vocabulary_size, dtype=self.dtype)
        return tf.gather(weights["embedding/embeddings"], inputs)

    def _run_layer(self, weights, name, inputs, lengths, carry):
        """Returns (states, the part of the carry that belongs to the layer)."""
        if self.settings.bidirectional:
            forward, backward = (of_layer(weights, f"{name}/{way}") for way in shapes.DIRECTIONS)
            return recurrent.bidirectional(self.recurrence, forward, backward, inputs, lengths), {}
        if not carry:
            states, _ = self.recurrence(of_layer(weights, name), inputs)
            return states, {}
        names = [f"{name}/{part}" for part in shapes.STATE[self.settings.cell]]
        states, final = self.recurrence(
            of_layer(weights, name), inputs, state=tuple(carry[part] for part in names)
        )
        return states, dict(zip(names, final))


def of_layer(weights: Mapping[str, tf.Tensor], name: str) -> recurrent.Weights:
    """Returns the weights of the recurrent layer `name`."""
    return tuple(weights[f"{name}/{part}"] for part in ("kernel", "recurrent_kernel", "bias"))
