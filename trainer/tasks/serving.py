"""What a trained model answers to raw input: for `predict`, and inside an exported SavedModel.

Each class holds what reads the input, weights and functions of them, so that both give the same
answers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from trainer.data import fields, store, text
from trainer.exit_codes import DataError
from trainer.flags.run import Input
from trainer.flags.use import Export, Predict
from trainer.models import decoding, vocabulary
from trainer.models.encoder import Carry
from trainer.models.networks import Network
from trainer.reporting.progress import number
from trainer.tasks import readers
from trainer.tasks.readers import Frames, Text, contents, padded

SAMPLE_TOKENS = 200  # Of a text that is shown while a model trains.
SUMMED_STEPS = 64  # Of a text, whose losses are added in float32.
LIKELIEST = 10  # Next tokens that are shown with their probabilities.


class Served(Protocol):
    """A model with what reads its input; a `tf.Module`, so that it can be saved.

    reads: the kind of input; `Text`s if that is tokens, else `Frames`. options: the flags that it
    obeys, beside those that every task has, of the commands that use a trained model. between: what
    `--format=text` prints between two answers.
    """

    reads: fields.Input
    options: frozenset[str]
    between: str

    def __init__(
        self,
        network: Network,
        weights: Mapping[str, tf.Tensor],
        dataset: store.Dataset,
        settings: Input,
        compiled: bool,
    ):
        """compiled: whether XLA compiles what it computes; a SavedModel is not compiled."""

    def answers(
        self, examples: Sequence[Text] | Sequence[Frames], options: Predict
    ) -> list[dict[str, Any]]:
        """Returns what `--format=jsonl` prints of each example.

        Raises DataError if the model can make nothing of one.
        """

    def shown(self, answer: Mapping[str, Any]) -> str:
        """Returns what `--format=text` prints of an answer, with the ends of its lines."""

    def signatures(self, options: Export) -> dict[str, Callable]:
        """Returns the signatures of a SavedModel; `serving_default` among them."""


def module_state(module, network, weights, dataset, settings) -> None:
    """Gives a module what all that is served holds; the arguments are those of `Served`."""
    module.weights = {
        name: tf.Variable(weight, trainable=False) for name, weight in weights.items()
    }
    module._network, module._settings, module._labels = network, settings, dataset.labels


def tokens_state(module, network, weights, dataset, settings) -> None:
    """The same for a module that reads texts and nothing else."""
    module.tokenizer = text.tokenizer_of(dataset)
    module_state(module, network, weights, dataset, settings)


# --- A label or values for each example -----------------------------------------------------------


class _OfExamples(tf.Module):
    """What models have in common that tell something of each whole example."""

    options = frozenset()
    between = ""
    _said_of_input = ("text",)  # By the text form, at the end of a line.

    def __init__(self, network, weights, dataset, settings, compiled=False):
        super().__init__()
        module_state(self, network, weights, dataset, settings)
        self.reader = readers.of_dataset(dataset, settings)
        self.reads = self.reader.reads
        self._told = tf.function(
            self._tell, autograph=False, jit_compile=compiled, reduce_retracing=True
        )

    def signatures(self, options):
        def served(*raw: tf.Tensor) -> dict[str, tf.Tensor]:
            return self._outputs(self._tell(*self.reader.prepared(*raw)))

        return {
            "serving_default": tf.function(
                served, input_signature=self.reader.signature, autograph=False
            )
        }

    def answers(self, examples, options):
        batch = self.reader.batch(examples)
        rows = self._told(tf.constant(batch.inputs), tf.constant(batch.lengths)).numpy()
        return [
            {**self.reader.repeated(example), **self._answer(row)}
            for example, row in zip(examples, rows)
        ]

    def shown(self, answer):
        said = [str(answer[name]) for name in self._said_of_input if name in answer]
        one_line = [" ".join(each.splitlines()) for each in said]
        return "\t".join([*self._cells(answer), *one_line]) + "\n"


class Classifier(_OfExamples):
    """From texts or frames to the probabilities of the classes and the likeliest label."""

    _said_of_input = ("text", "sequence")

    def _tell(self, inputs: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(self._network.logits(self.weights, inputs, lengths))

    def _outputs(self, probabilities: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns {"probabilities": float32 [N, classes], "label": string [N]}."""
        labels = tf.gather(tf.constant(self._labels), tf.argmax(probabilities, axis=1))
        return {"probabilities": probabilities, "label": labels}

    def _answer(self, chances: np.ndarray) -> dict[str, Any]:
        best = int(chances.argmax())
        return {
            "label": self._labels[best],
            "probability": float(chances[best]),
            "probabilities": {label: float(chance) for label, chance in zip(self._labels, chances)},
        }

    def _cells(self, answer: Mapping[str, Any]) -> list[str]:
        return [answer["label"], f"{answer['probability']:.4f}"]


class Regressor(_OfExamples):
    """From texts or frames to values in the units of the data."""

    def __init__(self, network, weights, dataset, settings, compiled=False):
        self._scale, self._names = dataset.standardise, dataset.values
        super().__init__(network, weights, dataset, settings, compiled)

    def _tell(self, inputs: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        told = tf.cast(self._network.logits(self.weights, inputs, lengths), tf.float32)
        return told * self._scale.deviation + self._scale.mean

    def _outputs(self, values: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns {"values": float32 [N, values]}, in the order of dataset.json."""
        return {"values": values}

    def _answer(self, values: np.ndarray) -> dict[str, Any]:
        return {"values": {name: float(value) for name, value in zip(self._names, values)}}

    def _cells(self, answer: Mapping[str, Any]) -> list[str]:
        return [number(value) for value in answer["values"].values()]


# --- A tag for each token -------------------------------------------------------------------------


class Tagger(tf.Module):
    """From tokens to their likeliest tags."""

    reads = fields.TOKENS
    options = frozenset()
    between = "\n"

    def __init__(self, network, weights, dataset, settings, compiled=False):
        super().__init__()
        tokens_state(self, network, weights, dataset, settings)
        self._chances = tf.function(
            self._probabilities, autograph=False, jit_compile=compiled, reduce_retracing=True
        )

    def _probabilities(self, tokens: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(self._network.logits(self.weights, tokens, lengths))

    def signatures(self, options):
        return {"serving_default": self.tag}

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.string, "tokens")])
    def tag(self, tokens: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns {"tags": string [N, length], "probability": float32 [N, length] of each tag}.

        tokens: string [N, length], "" where a row is shorter; there the tag is "" and has 0.
        """
        longest = tf.shape(tokens)[1]
        # A network reads at least one step.
        tokens = tf.pad(tokens, [[0, 0], [0, tf.cast(longest < 1, tf.int32)]])
        holds = tf.not_equal(tokens, "")
        ids = tf.where(holds, self.tokenizer.encode_tokens(tokens), text.PADDING)
        lengths = tf.reduce_sum(tf.cast(holds, tf.int32), axis=1)
        probabilities = self._probabilities(ids, lengths)
        tags = tf.gather(tf.constant(self._labels), tf.argmax(probabilities, axis=-1))
        return {
            "tags": tf.where(holds, tags, "")[:, :longest],
            "probability": tf.where(holds, tf.reduce_max(probabilities, axis=-1), 0)[:, :longest],
        }

    def answers(self, texts, options):
        sentences = tf.strings.split(contents(texts))
        ids = sentences.with_flat_values(self.tokenizer.encode_tokens(sentences.flat_values))
        # A length of a power of two, so that XLA compiles few shapes.
        longest = rounded(int(tf.reduce_max(ids.row_lengths())))
        rows = ids.to_tensor(text.PADDING, shape=[None, longest])
        lengths = tf.cast(ids.row_lengths(), tf.int32)
        likeliest = tf.argmax(self._chances(rows, lengths), axis=-1).numpy()
        return [
            {
                "tokens": [token.decode() for token in sentence.numpy()],
                "tags": [self._labels[tag] for tag in tags[: len(sentence)]],
            }
            for sentence, tags in zip(sentences, likeliest)
        ]

    def shown(self, answer):
        pairs = zip(answer["tokens"], answer["tags"])
        return "".join(f"{token} {tag}\n" for token, tag in pairs)


# --- The next token -------------------------------------------------------------------------------


class LanguageModel(tf.Module):
    """From the beginning of a text to what follows, and from a text to its probability.

    Every text begins with START, and is read whole, however long it is.
    """

    reads = fields.TOKENS
    options = frozenset({"tokens", "temperature", "top_k", "top_p", "seed", "score"})
    between = ""

    def __init__(self, network, weights, dataset, settings, compiled=False):
        super().__init__()
        tokens_state(self, network, weights, dataset, settings)
        # An example of a text read in streams is a piece of it: its end is no end of a text.
        self._ends = dataset.order == fields.SHUFFLED
        compile = {"autograph": False, "jit_compile": compiled, "reduce_retracing": True}
        self._scored = tf.function(self._scores, **compile)
        self._next = tf.function(self._next_probabilities, **compile)
        self._continuation = tf.function(self._continued, **compile)

    def signatures(self, options):
        return {"serving_default": self.score, "continue": self.continuation, "next": self.next}

    # --- signatures -------------------------------------------------------------------------------

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def score(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns {"log_probability", "perplexity": float32 [N]} of string [N].

        The logarithm is natural. Of examples that each end by themselves (`prepare --lines`) the
        end counts as a token.
        """
        found = self._scores(*self._with_targets(self.tokenizer.encode(texts)))
        return dict(zip(("log_probability", "perplexity"), found))

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, "text"),
            tf.TensorSpec([], tf.int32, "tokens"),
            tf.TensorSpec([], tf.float32, "temperature"),
            tf.TensorSpec([], tf.int64, "seed"),
        ]
    )
    def continuation(
        self, texts: tf.Tensor, tokens: tf.Tensor, temperature: tf.Tensor, seed: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Returns {"text": string [N]}: what follows each of string [N], at most `tokens` tokens.

        temperature 0 takes the likeliest token each time; the same seed draws the same tokens.
        """
        ids = self.tokenizer.encode(texts)
        rows, least = tf.range(ids.nrows(tf.int32)), tf.maximum(tokens, 1)
        found = self._continued(
            *padded(ids), rows, least, temperature, tf.constant(0), tf.constant(1.0), seed
        )
        return {"text": self._shown(ids, found[:, : tf.maximum(tokens, 0)])}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def next(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns {"tokens": string [N, 10], "probabilities": float32 [N, 10]} of string [N].

        They are the likeliest next tokens, the likeliest first.
        """
        ids, probabilities = self._next_probabilities(*padded(self.tokenizer.encode(texts)))
        return {"tokens": self.tokenizer.tokens(ids), "probabilities": probabilities}

    # --- what they compute ------------------------------------------------------------------------

    def _with_targets(self, ids: tf.RaggedTensor) -> tuple[tf.Tensor, ...]:
        """Returns (inputs, targets int32 [N, length], int32 [N] tokens that count)."""
        ends = tf.fill([ids.nrows(), 1], text.START)
        whole = tf.concat([ids, ends], axis=1) if self._ends else ids
        inputs, lengths = padded(whole[:, :-1])
        return inputs, padded(whole[:, 1:])[0], lengths

    def _scores(
        self, inputs: tf.Tensor, targets: tf.Tensor, lengths: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns (natural logarithm of the probability [N], perplexity of a token [N])."""
        outputs, _ = self._network.outputs(self.weights, inputs, lengths)
        rows, steps = tf.unstack(tf.shape(inputs))
        counted = tf.range(steps) < lengths[:, None]
        # A float32 that adds thousands of losses one by one loses their last digits.
        size = tf.minimum(steps, SUMMED_STEPS)
        parts = -(-steps // size)

        def cut(values: tf.Tensor) -> tf.Tensor:
            """Returns [rows * parts, size, ...] of [rows, steps, ...]."""
            spare = [[0, 0], [0, parts * size - steps]] + [[0, 0]] * (values.shape.rank - 2)
            shape = tf.concat([[rows * parts, size], values.shape[2:]], axis=0)
            return tf.reshape(tf.pad(values, spare), shape)

        of_parts, _ = vocabulary.outcomes(
            cut(outputs.states),
            outputs.weights,
            outputs.bias,
            cut(targets),
            cut(counted),
            transposed=outputs.transposed,
        )
        sums = tf.reduce_sum(tf.cast(tf.reshape(of_parts, [rows, parts]), tf.float64), axis=1)
        per_token = sums / tf.cast(tf.maximum(lengths, 1), tf.float64)
        return tf.cast(-sums, tf.float32), tf.cast(tf.exp(per_token), tf.float32)

    def _step(self, ids: tf.Tensor, carry: Carry) -> tuple[tf.Tensor, Carry]:
        """Returns (scores [rows, vocabulary], carry) after one more token of each row [rows]."""
        scores, carry = self._network.step(self.weights, ids, carry)
        return tf.cast(scores, tf.float32), carry

    def _read(self, ids: tf.Tensor, lengths: tf.Tensor) -> tuple[tf.Tensor, Carry]:
        """Returns (scores of the next token [N, vocabulary], carry) after the ids of each row.

        Every row has at least one id. The scores are multiplied once, after all ids are read.
        """
        rows, length = tf.unstack(tf.shape(ids))
        carry = {
            name: tf.zeros([rows, spec.shape[-1]], spec.dtype)
            for name, spec in self._network.carried.items()
        }
        outputs, carry = self._network.step_outputs(self.weights, ids[:, 0], carry)

        def one(at, states, carry):
            after, new_carry = self._network.step_outputs(self.weights, ids[:, at], carry)
            reads = (at < lengths)[:, None]
            carry = {name: tf.where(reads, new_carry[name], carry[name]) for name in carry}
            return at + 1, tf.where(reads[:, None], after.states, states), carry

        _, states, carry = tf.while_loop(
            lambda at, *_: at < length,
            one,
            (tf.constant(1), outputs.states, carry),
            maximum_iterations=length,
        )
        scores = outputs._replace(states=states).scores()
        return tf.cast(scores[:, 0], tf.float32), carry

    def _next_probabilities(
        self, ids: tf.Tensor, lengths: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns (ids int32 [N, 10], their probabilities [N, 10]), the likeliest first."""
        scores, _ = self._read(ids, lengths)
        found = tf.math.top_k(tf.nn.softmax(scores), min(LIKELIEST, self._network.classes))
        return found.indices, found.values

    def _continued(
        self,
        ids: tf.Tensor,
        lengths: tf.Tensor,
        rows: tf.Tensor,
        count: int | tf.Tensor,
        temperature: tf.Tensor,
        top_k: tf.Tensor,
        top_p: tf.Tensor,
        seed: tf.Tensor,
    ) -> tf.Tensor:
        """Returns int32 [N, count] ids that follow, padding after the end of a text."""
        scores, carry = self._read(ids, lengths)
        return decoding.generate(
            self._step,
            scores,
            carry,
            rows=rows,
            count=count,
            banned=(text.PADDING, text.UNKNOWN, text.UNUSED),
            ends_with=text.START,
            seed=seed,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
        )

    def _shown(self, ids: tf.RaggedTensor, found: tf.Tensor) -> tf.Tensor:
        """Returns the texts that `found`, int32 [N, count], stands for after `ids`: string [N].

        They are put together with what is before them, so that a word is set off from it and a mark
        is not.
        """
        real = tf.logical_and(found != text.PADDING, found != text.START)
        more = tf.ragged.boolean_mask(found, real)
        more = more.with_row_splits_dtype(ids.row_splits.dtype)  # Bytes have splits of int32.
        before = self.tokenizer.decode(ids[:, 1:])
        whole = self.tokenizer.decode(tf.concat([ids[:, 1:], more], axis=1))
        length = tf.strings.length(before)
        return tf.strings.substr(whole, length, tf.strings.length(whole) - length)

    def sample(self, seed: int) -> str:
        """Returns a text that the model makes from nothing, about as `predict ""` does."""
        options = Predict(tokens=SAMPLE_TOKENS, temperature=0.8, seed=seed)
        [answer] = self.answers([Text("", "", 0)], options)
        return answer["continuation"]

    # --- predict ----------------------------------------------------------------------------------

    def answers(self, texts, options):
        ids = self.tokenizer.encode(contents(texts))
        return (self._scored_texts if options.score else self._continued_texts)(texts, ids, options)

    def _scored_texts(self, texts, ids, options):
        inputs, targets, lengths = self._with_targets(ids)
        pad = [[0, 0], [0, rounded(inputs.shape[1]) - inputs.shape[1]]]
        found = self._scored(tf.pad(inputs, pad), tf.pad(targets, pad), lengths)
        return [
            {"text": shown.content, "log_probability": float(log_p), "perplexity": float(each)}
            for shown, log_p, each in zip(texts, *(values.numpy() for values in found))
        ]

    def _continued_texts(self, texts, ids, options):
        _refuse_unknown(texts, ids)
        rows, lengths = padded(ids)
        rows = tf.pad(rows, [[0, 0], [0, rounded(rows.shape[1]) - rows.shape[1]]])
        found = self._continuation(
            rows,
            lengths,
            tf.constant([shown.number for shown in texts]),
            options.tokens,
            tf.constant(options.temperature, tf.float32),
            tf.constant(options.top_k),
            tf.constant(options.top_p, tf.float32),
            tf.constant(options.seed, tf.int64),
        )
        following = [shown.decode("utf-8", "replace") for shown in self._shown(ids, found).numpy()]
        likeliest, probabilities = (value.numpy() for value in self._next(rows, lengths))
        names = self.tokenizer.tokens(likeliest).numpy()
        return [
            {
                "text": shown.content,
                "continuation": continuation,
                "next": {
                    name.decode("utf-8", "replace"): float(chance)
                    for name, chance in zip(of_text, chances)
                },
            }
            for shown, continuation, of_text, chances in zip(texts, following, names, probabilities)
        ]

    def shown(self, answer):
        one_line = " ".join(answer["text"].splitlines())
        if "continuation" in answer:
            return f"{one_line}\t{answer['continuation']}\n"
        return f"{answer['log_probability']:.4f}\t{answer['perplexity']:.4f}\t{one_line}\n"


def rounded(length: int) -> int:
    """Returns a power of two, at least 16, that holds `length`: XLA compiles few shapes."""
    return max(16, 1 << (length - 1).bit_length())


def _refuse_unknown(texts: Sequence[Text], ids: tf.RaggedTensor) -> None:
    """Raises DataError if a text has tokens and the vocabulary has none of them."""
    for shown, row in zip(texts, ids):
        found = row.numpy()[1:]
        if len(found) and (found == text.UNKNOWN).all():
            raise DataError(
                f"{shown.place}: no token of {shown.content!r} is in the vocabulary of the model, "
                "so it knows nothing that could follow. Begin with words that the training text "
                "has."
            )
