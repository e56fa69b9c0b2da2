"""Translation of texts: a search for the likeliest sentence that the network tells of a source."""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from trainer.data import fields, pipeline, plans, store, text
from trainer.data.pipeline import Batch
from trainer.flags.use import Predict
from trainer.models import search
from trainer.models.networks import Network
from trainer.tasks import readers, serving

log = logging.getLogger(__name__)


def most_words(dataset: store.Dataset, words: int | tf.Tensor) -> int | tf.Tensor:
    """Returns how many words, with the end, a translation of so many words may have.

    It is half more than the training split has on average, and 8.
    """
    train = dataset.description["splits"]["train"]
    per_thousand = 1500 * train["target_tokens"] // train["tokens"]
    return words * per_thousand // 1000 + 8


def hypotheses(
    network: Network,
    weights: Mapping[str, tf.Tensor],
    dataset: store.Dataset,
    tokens: tf.Tensor,
    lengths: tf.Tensor,
    *,
    size: int,
    penalty: float,
    may_be_unknown: bool = False,
) -> search.Hypotheses:
    """Returns the likeliest translations of sources: `search.likeliest` of size `size`.

    That of a source without words is empty. What is found for a row depends on no other row.

    Args:
      network, weights: with a `Decoder`. dataset: the one that they were trained on.
      tokens: int32 [rows, length] of sources. lengths: int32 [rows], how many of them count.
      size, penalty: as in `search.likeliest`.
      may_be_unknown: whether a translation may have words that the vocabulary does not hold.
    """
    memory = network.memory(weights, tokens, lengths)
    start = network.decoder_start(weights, memory)
    words = tf.logical_and(tokens != text.PADDING, tokens != text.START)
    most = most_words(dataset, lengths)
    return search.likeliest(
        lambda ids, state: network.decoder_step(weights, memory, ids, state),
        tf.nest.map_structure(lambda values: tf.repeat(values, size, axis=0), start),
        size=size,
        limits=tf.where(tf.reduce_any(words, axis=1), most, 0),
        length=most_words(dataset, tf.shape(tokens)[1]),
        start=text.START,
        ends_with=text.START,
        banned=(text.PADDING, text.UNUSED, *([] if may_be_unknown else [text.UNKNOWN])),
        penalty=penalty,
    )


def words_of(ids: tf.Tensor) -> tf.RaggedTensor:
    """Returns the ids of words in int32 [rows, length]: without padding, start and end."""
    return tf.ragged.boolean_mask(ids, (ids != text.PADDING) & (ids != text.START))


class Explained(NamedTuple):
    """A translation, and what its words attend to.

    words: of the translation, with its end. sources: tokens of the source, from the start on.
    shares: float [words, sources], how much each word attends to each token.
    """

    translation: str
    words: list[str]
    sources: list[str]
    shares: np.ndarray


class Translator(tf.Module):
    """From texts to their translations."""

    reads = fields.TOKENS
    options = frozenset({"beam", "length_penalty", "replace_unknown"})
    between = ""

    def __init__(self, network, weights, dataset, settings, compiled=False):
        super().__init__()
        serving.tokens_state(self, network, weights, dataset, settings)
        self._dataset = dataset
        self._targets = text.target_tokenizer_of(dataset)
        compile = {"autograph": False, "jit_compile": compiled, "reduce_retracing": True}
        self._found = tf.function(self._hypotheses, **compile)
        self._attended = tf.function(self._attended_words, **compile)

    def signatures(self, options):
        """Returns "serving_default": string [N] -> "translation" string [N], "score" float32 [N].

        The search is the one that `options` name.
        """

        @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string, "text")])
        def translate(texts: tf.Tensor) -> dict[str, tf.Tensor]:
            rows = readers.pad_ragged(self.tokenizer.encode(texts), self._settings)
            found = self._hypotheses(*rows, options.beam, options.length_penalty, False)
            translations = self._targets.decode(words_of(found.ids[:, 0]))
            return {"translation": translations, "score": found.scores[:, 0]}

        return {"serving_default": translate}

    def answers(self, texts, options):
        contents = readers.contents(texts)
        ids = self.tokenizer.encode(contents)
        for shown, length in zip(texts, ids.row_lengths().numpy()):
            if length > self._settings.max_length:
                log.warning(
                    "%s has %d tokens: it is cut to the %d of --max_length, as in training",
                    shown.place,
                    length - 1,
                    self._settings.max_length,
                )
        tokens, lengths = _few_shapes(readers.batch_of(ids, self._settings))
        found = self._found(
            tokens, lengths, options.beam, options.length_penalty, options.replace_unknown
        )
        translations = self._translations(contents, tokens, lengths, found.ids, options)
        return [
            {"text": shown.content, **best, "alternatives": others}
            for shown, (best, *others) in zip(texts, _sentences(translations, found.scores))
        ]

    def explained(self, split: store.Split, examples: np.ndarray) -> list[Explained]:
        """Returns what the model makes of `examples`, int64 [rows], by the likeliest word each time
        (no beam).
        """
        most = self._settings.max_length
        longest = int(plans.cut_lengths(split, most)[examples].max())
        batch = pipeline.batch_of(
            store.Split(split.inputs, split.offsets, np.zeros(len(split), np.int32)),
            examples,
            longest,
            self._settings,
        )
        tokens, lengths = _few_shapes(batch)
        found = self._found(tokens, lengths, 1, 1.0, False).ids[:, 0]
        shares = self._network.attention(self.weights, tokens, lengths, _before(found)).numpy()
        translations = self._targets.decode(words_of(found)).numpy()
        names = [self._targets.tokens(found).numpy(), self.tokenizer.tokens(tokens).numpy()]
        explained = []
        for row in range(len(batch.rows)):
            counts = int((found[row].numpy() != text.PADDING).sum()), int(lengths[row])
            words, sources = (
                [name.decode("utf-8", "replace") for name in each[row][:count]]
                for each, count in zip(names, counts)
            )
            translation = translations[row].decode("utf-8", "replace")
            of_row = shares[row, : counts[0], : counts[1]]
            explained.append(Explained(translation, words, sources, of_row))
        return explained

    def _hypotheses(self, tokens, lengths, size, penalty, may_be_unknown):
        return hypotheses(
            self._network,
            self.weights,
            self._dataset,
            tokens,
            lengths,
            size=size,
            penalty=penalty,
            may_be_unknown=may_be_unknown,
        )

    def _translations(
        self,
        contents: tf.Tensor,
        tokens: tf.Tensor,
        lengths: tf.Tensor,
        ids: tf.Tensor,
        options: Predict,
    ) -> np.ndarray:
        """Returns the texts of ids int32 [rows, size, length]: string [rows, size]."""
        rows, size, length = ids.shape
        flat = tf.reshape(ids, [rows * size, length])
        words = self._targets.tokens(flat)
        if options.replace_unknown:
            sources = self._source_words(contents, rows, tokens.shape[1])
            each = [tf.repeat(values, size, axis=0) for values in (tokens, lengths, sources)]
            attended = self._attended(each[0], each[1], flat)
            copied = tf.gather(each[2], attended, batch_dims=1)
            words = tf.where(flat == text.UNKNOWN, copied, words)
        holds = tf.logical_and(flat != text.PADDING, flat != text.START)
        texts = text.joined(self._dataset.tokenizer, tf.ragged.boolean_mask(words, holds))
        return tf.reshape(texts, [rows, size]).numpy()

    def _attended_words(self, tokens: tf.Tensor, lengths: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
        """Returns the place of the source's word that each target word attends to most.

        tokens: int32 [rows, source]; ids: int32 [rows, target]. It is int32 [rows, target].
        """
        shares = self._network.attention(self.weights, tokens, lengths, _before(ids))
        words = tf.logical_and(tokens != text.PADDING, tokens != text.START)
        return tf.argmax(tf.where(words[:, None], shares, -1), axis=-1, output_type=tf.int32)

    def _source_words(self, contents: tf.Tensor, rows: int, length: int) -> tf.Tensor:
        """Returns the words of sources beside their tokens: string [rows, length], "" elsewhere."""
        words = self.tokenizer.written(contents)
        words = tf.concat([tf.fill([words.nrows(), 1], ""), words], axis=1)  # START.
        most = self._settings.max_length
        words = words[:, -most:] if self._settings.truncate == "start" else words[:, :most]
        words = words.to_tensor("", shape=[None, length])
        return tf.pad(words, [[0, rows - words.shape[0]], [0, 0]])

    def shown(self, answer):
        return " ".join(answer["translation"].splitlines()) + "\n"


def _before(ids: tf.Tensor) -> tf.Tensor:
    """Returns the token before each of a translation: int32 [rows, length], from START on."""
    return tf.pad(ids[:, :-1], [[0, 0], [1, 0]], constant_values=text.START)


def _few_shapes(batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns tokens and lengths with a power of two of rows: XLA compiles few shapes."""
    rows = len(batch.lengths)
    more = (1 << (rows - 1).bit_length()) - rows
    inputs = np.pad(batch.inputs, [(0, more), (0, 0)])
    return tf.constant(inputs), tf.constant(np.pad(batch.lengths, (0, more)))


def _sentences(translations: np.ndarray, scores: tf.Tensor) -> list[list[dict[str, Any]]]:
    """Returns what was found of each row, the best first."""
    return [
        [
            {"translation": words.decode("utf-8", "replace"), "score": float(score)}
            for words, score in zip(*row)
            if np.isfinite(score)
        ]
        for row in zip(translations, scores.numpy())
    ]
