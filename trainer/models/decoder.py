"""The decoder of a network: it tells a second sequence, the target, from the states of the first.

The word before -> embedding -> a stack of recurrent layers, each started from the end of the source
-> attention over the states of the encoder -> both combined -> the score of each word.

While it learns, the decoder reads the true words. So every layer runs over all steps at once, and
attention comes after the recurrence: two products for all steps. Luong, Pham and Manning, Effective
Approaches to Attention-based Neural Machine Translation, 2015, sections 3.1 and 3.3, without the
feeding of what was attended to into the next step.

Shapes in words: `batch` sentences, `source` and `target` steps, `width` of the encoder, `units` of
the decoder, `embedding` width of the embedding.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from trainer.flags.run import Model
from trainer.models import heads, recurrent, shapes, vocabulary
from trainer.models.encoder import of_layer
from trainer.models.heads import StepOutputs
from trainer.models.noise import Noise, drop

# {name of `shapes.decoder_layers` / part of its state: [rows, units]}.
State = dict[str, tf.Tensor]


class Memory(NamedTuple):
    """What a decoder knows of its sources.

    values: [batch, source, width], the states of the encoder. keys: [batch, source, units], what
    the states of the decoder are multiplied with. holds: bool [batch, source], False for padding.
    end: [batch, width], the state of each direction after its last step.
    """

    values: tf.Tensor
    keys: tf.Tensor
    holds: tf.Tensor
    end: tf.Tensor


@dataclasses.dataclass(frozen=True)
class Decoder:
    """One output for each step of the target; a head of networks as those in `heads`.

    recurrence: computes each layer; seed: of the dropout.
    """

    settings: Model
    seed: int
    recurrence: recurrent.Recurrence

    def __call__(
        self,
        weights: Mapping[str, tf.Tensor],
        states: tf.Tensor,
        lengths: tf.Tensor,
        noise: Noise | None = None,
        targets: Any = None,
    ) -> StepOutputs:
        """Returns the outputs of each step of the target, which is read while it is told.

        targets: `pipeline.Sentences`, whose `tokens`, int32 [batch, target], come before the words
        to tell. The other arguments are those of `heads.Pooled`.
        """
        memory = self.memory(weights, states, lengths, noise)
        combined, _ = self._read(weights, memory, targets.tokens, noise)
        return self._outputs(weights, combined)

    def memory(
        self,
        weights: Mapping[str, tf.Tensor],
        states: tf.Tensor,
        lengths: tf.Tensor,
        noise: Noise | None = None,
    ) -> Memory:
        """Returns what the decoder knows of its sources; the arguments are those of a call."""
        at_the_end = heads.ends if self.settings.bidirectional else heads.last
        values = self._drop(states, "memory", noise)
        keys = values
        if self.settings.attention == "general":
            keys = _times(values, weights["attention/kernel"])
        holds = tf.range(tf.shape(states)[1]) < lengths[:, None]
        return Memory(values, keys, holds, at_the_end(states, lengths))

    def start(self, weights: Mapping[str, tf.Tensor], memory: Memory) -> State:
        """Returns the state before the first word of each sentence."""
        found = {}
        for number, name in enumerate(shapes.decoder_layers(self.settings)):
            kernel, bias = (weights[f"start_{number}/{part}"] for part in ("kernel", "bias"))
            hidden = tf.tanh(tf.matmul(memory.end, kernel) + bias)
            hidden = tf.cast(hidden, recurrent.sum_dtype(hidden.dtype))
            rest = tf.zeros_like(hidden)
            found |= {key: rest for key in self._parts(name)} | {self._parts(name)[0]: hidden}
        return found

    def step(
        self, weights: Mapping[str, tf.Tensor], memory: Memory, ids: tf.Tensor, state: State
    ) -> tuple[tf.Tensor, State]:
        """Returns (scores [rows, words], at least float32, the state) after one more word each.

        ids: int32 [rows], where rows are batch * beams: those of a sentence beside each other. They
        are several queries of one memory, which is not repeated.
        """
        values, after = self._embed(weights, ids), {}
        for name in shapes.decoder_layers(self.settings):
            parts = self._parts(name)
            new = recurrent.one_step(self.settings.cell)(
                of_layer(weights, name), values, tuple(state[part] for part in parts)
            )
            values = tf.cast(new[0], values.dtype)
            after |= dict(zip(parts, new))
        batch = tf.shape(memory.values)[0]
        queries = tf.reshape(values, [batch, tf.shape(ids)[0] // batch, values.shape[-1]])
        combined, _ = self._combined(weights, memory, queries)
        outputs = self._outputs(weights, tf.reshape(combined, [-1, combined.shape[-1]]))
        return vocabulary.scores(*outputs), after

    def attention(
        self, weights: Mapping[str, tf.Tensor], memory: Memory, tokens: tf.Tensor
    ) -> tf.Tensor:
        """Returns how much each step of the target attends to each of the source.

        It is [batch, target, source]: 1 in sum over the steps of a source, 0 without attention.
        tokens: int32 [batch, target], the words that are read.
        """
        return self._read(weights, memory, tokens)[1]

    def _read(
        self,
        weights: Mapping[str, tf.Tensor],
        memory: Memory,
        tokens: tf.Tensor,
        noise: Noise | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns what comes before the scores [batch, target, embedding], and `attention`."""
        state = self.start(weights, memory)
        values = self._embed(weights, tokens)
        place = "target_embedding"
        for name in shapes.decoder_layers(self.settings):
            values = self._drop(values, place, noise)
            values, _ = self.recurrence(
                of_layer(weights, name),
                values,
                state=tuple(state[part] for part in self._parts(name)),
            )
            place = f"{name}/output"
        combined, attended = self._combined(weights, memory, values)
        return self._drop(combined, "logits", noise), attended

    def _combined(
        self, weights: Mapping[str, tf.Tensor], memory: Memory, queries: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns (states and what they attend to, combined [batch, n, embedding]; the weights of
        the attention [batch, n, source]) of queries [batch, n, units].
        """
        if self.settings.attention == "none":
            shape = [tf.shape(memory.values)[0], tf.shape(queries)[1], tf.shape(memory.values)[1]]
            attended = tf.zeros(shape, queries.dtype)
        else:
            scores = tf.matmul(queries, memory.keys, transpose_b=True)
            scores = tf.cast(scores, recurrent.sum_dtype(scores.dtype))
            scores = tf.where(memory.holds[:, None, :], scores, scores.dtype.min / 2)
            attended = tf.cast(tf.nn.softmax(scores), queries.dtype)
            queries = tf.concat([tf.matmul(attended, memory.values), queries], axis=-1)
        combined = _times(queries, weights["combine/kernel"]) + weights["combine/bias"]
        return tf.tanh(combined), attended

    def _outputs(self, weights: Mapping[str, tf.Tensor], combined: tf.Tensor) -> StepOutputs:
        if not self.settings.tied_embedding:
            return StepOutputs(combined, weights["logits/kernel"], weights["logits/bias"], True)
        return StepOutputs(combined, self._embeddings(weights), weights["logits/bias"], False)

    def _embed(self, weights: Mapping[str, tf.Tensor], ids: tf.Tensor) -> tf.Tensor:
        return tf.gather(self._embeddings(weights), ids)

    def _embeddings(self, weights: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns the embedding of the target's words: its own, or that of the source."""
        own = weights.get("target_embedding/embeddings")
        return weights["embedding/embeddings"] if own is None else own

    def _parts(self, name: str) -> list[str]:
        """Returns the names of the parts of a layer's state, the hidden one first."""
        return [f"{name}/{part}" for part in shapes.STATE[self.settings.cell]]

    def _drop(self, values: tf.Tensor, place: str, noise: Noise | None) -> tf.Tensor:
        return drop(
            values,
            place,
            noise,
            rate=self.settings.dropout,
            seed=self.seed,
            all_steps=self.settings.variational_dropout,
        )


def _times(values: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Returns values [batch, steps, in] times kernel [in, out], in one product of all rows."""
    product = tf.matmul(tf.reshape(values, [-1, values.shape[-1]]), kernel)
    return tf.reshape(product, [*tf.unstack(tf.shape(values)[:2]), kernel.shape[-1]])
