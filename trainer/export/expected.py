"""What the exported files of a model must answer: what `evaluate` computes, and `predict`.

In float32 on the CPU, whatever the run computed in.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from trainer import trained_model
from trainer.data import fields, pipeline, plans, store, text
from trainer.devices import placement
from trainer.export import examples
from trainer.export.readback import Call
from trainer.flags.run import Input
from trainer.flags.use import Export
from trainer.models.heads import StepOutputs
from trainer.models.networks import Network
from trainer.steps import programs
from trainer.steps.evaluation import EvaluationStep
from trainer.tasks import serving, translator

SAVED_MODEL, KERAS = "saved_model", "model.keras"
VALUES = 1 << 22  # The most numbers that a Keras model is asked for at once, in rows of steps.
CONTINUED, TOKENS = 8, 16  # Texts that are continued, and with how many tokens.


class Likeliest(NamedTuple):
    """Names of numbers that a model prefers; another name will do if it is as likely.

    names: bytes. probabilities: [..., names]. chosen: the preferred numbers, int [...], or [..., k]
    the k likeliest in their order.
    """

    names: Sequence[bytes]
    probabilities: np.ndarray
    chosen: np.ndarray


class Check(NamedTuple):
    """A call and what it must return.

    expected: {output: floats, strings, or names}. Masked floats may be anything. scale: with which
    floats are compared that are values in the units of the data, else None.
    """

    call: Call
    expected: dict[str, np.ndarray | Likeliest]
    scale: fields.Scale | None = None

    def first(self, rows: int) -> "Check":
        """Returns the check of the first rows alone."""
        arguments = {
            name: value[:rows] if value.ndim else value
            for name, value in self.call.arguments.items()
        }
        return Check(
            Call(self.call.signature, arguments),
            {
                name: value._replace(
                    probabilities=value.probabilities[:rows], chosen=value.chosen[:rows]
                )
                if isinstance(value, Likeliest)
                else value[:rows]
                for name, value in self.expected.items()
            },
            self.scale,
        )


def network_of(model: trained_model.TrainedModel, jit: str = "auto") -> Network:
    """Returns the network in float32 on the CPU.

    There "auto" chooses a recurrence that runs on any device.
    """
    return Network(
        model.config.model,
        len(model.dataset.vocabulary),
        model.dataset.outputs,
        device_type="CPU",
        jit=jit,
        head=model.step.task.head,
        second=model.dataset.second,
        frame=model.dataset.frame,
    )


def served_of(model: trained_model.TrainedModel) -> serving.Served:
    """Returns what a SavedModel of the model holds."""
    return model.step.task.served(
        network_of(model), model.weights, model.dataset, model.config.input, compiled=False
    )


def checks(model: trained_model.TrainedModel, options: Export) -> dict[str, list[Check]]:
    """Returns {file: checks}; without SAVED_MODEL if the dataset has no words.

    options: those that the files were written with.
    """
    with tf.device("CPU:0"):
        found = _CHECKS[model.step.task.served](_Reference(model, options))
    return {name: of_file for name, of_file in found.items() if of_file}


class _Reference:
    """The trained model in float32 on the CPU, as `evaluate` computes it there."""

    def __init__(self, model: trained_model.TrainedModel, options: Export):
        self.options = options
        self.model, self.dataset, self.settings = model, model.dataset, model.config.input
        # If it sees a GPU, a layer of Keras would run cuDNN there, with fewer bits than the bound
        # needs.
        jit = "auto" if tf.config.list_logical_devices("GPU") else model.config.run.jit
        cpu = placement.Placement(tf.distribute.OneDeviceStrategy("CPU:0"), "CPU", ("CPU:0",))
        self._step = EvaluationStep(network_of(model, jit), cpu, model.step.task)

    def batch(self, rows: Sequence[np.ndarray], settings: Input | None = None) -> pipeline.Batch:
        """Returns rows of ids or frames as a batch without targets, or with the next tokens.

        They are cut as `settings` say, or not at all.
        """
        longest = max(1, *map(len, rows))
        whole = dataclasses.replace(self.settings, max_length=longest, padding="post")
        target = self.dataset.target
        no_targets = np.zeros(len(rows), np.int32)
        if target.numbers:
            no_targets = np.zeros([len(rows), self.dataset.outputs], np.float32)
        split = store.Split(
            np.concatenate(rows),
            np.cumsum([0, *map(len, rows)]),
            no_targets,
            normalise=self.dataset.normalise,
        )
        return pipeline.loose_batch(
            split, settings or whole, target if target is fields.NEXT_TOKEN else fields.LABEL
        )

    def outcomes(self, batch: pipeline.Batch) -> tuple[np.ndarray, np.ndarray]:
        """Returns (losses [rows], answers [rows, ...]) of the task."""
        return self._step.outcomes(self.model.weights, batch)

    def summed_losses(self, batch: pipeline.Batch) -> np.ndarray:
        """Returns the loss of each row, float64 [rows], in chunks as a text is evaluated.

        A sum of thousands of losses in float32 would not be precise enough.
        """
        carry = self._step.fresh_carry(len(batch.rows))
        total = np.zeros(len(batch.rows))
        size = plans.EVALUATION_CHUNK
        for begin in range(0, batch.inputs.shape[1], size):
            chunk = batch._replace(
                inputs=_filled(batch.inputs[:, begin : begin + size], size),
                targets=_filled(batch.targets[:, begin : begin + size], size),
                lengths=np.clip(batch.lengths - begin, 0, size),
            )
            losses, _, carry = self._step.outcomes_of_chunk(self.model.weights, chunk, carry)
            total += losses
        return total

    def computed(self, function: Callable, batch: pipeline.Batch) -> np.ndarray:
        """Returns function(outputs of the network), compiled as the evaluation is."""

        def run(weights, batch):
            outputs, _ = self._step.network.outputs(
                weights, batch.inputs, batch.lengths, targets=batch.targets
            )
            return function(outputs)

        compiled = programs.function(run, jit_compile=self._step.compiled)
        batch = tf.nest.map_structure(tf.constant, batch)
        return compiled(self.model.weights, batch).numpy()


def _all_first_none(check: Check) -> list[Check]:
    """On no row layers of Keras fail ("Biases must be 1D"), so only a SavedModel can be asked."""
    return [check, check.first(1), check.first(0)]


def _filled(values: np.ndarray, length: int) -> np.ndarray:
    """Returns int32 [rows, length] of values [rows, ...], padded at the end."""
    return np.pad(values, [(0, 0), (0, length - values.shape[1])])


def _strings(values: Sequence[bytes]) -> np.ndarray:
    """Returns bytes objects as an array, which NumPy would cut at a NUL."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


# --- A label or values for each example -----------------------------------------------------------


def _of_examples(
    reference: _Reference, told: Callable[[np.ndarray], dict[str, np.ndarray | Likeliest]]
) -> dict[str, list[Check]]:
    """Returns the checks of a model that tells something of each whole example.

    told: returns what a SavedModel tells, of the answers of an evaluation; a Keras model tells the
    first of it.
    """
    dataset, settings = reference.dataset, reference.settings
    if dataset.input.numbers:
        rows = examples.sequences_of_frames(dataset, settings.max_length)
        raw, given = _raw_frames(rows), _raw_frames(rows, settings)
    else:
        texts, rows = examples.texts_of_examples(dataset)
        raw = {"text": _strings(texts)} if texts else None
    batch = reference.batch(rows, settings)
    if not dataset.input.numbers:
        given = {"ids": batch.inputs}
    _, answers = reference.outcomes(batch)
    wanted = told(answers)
    [output, *_] = wanted
    by_array = Check(Call("", given), {output: wanted[output]}, dataset.standardise)
    found = {SAVED_MODEL: [], KERAS: [by_array, by_array.first(1)]}
    if raw:
        check = Check(Call("serving_default", raw), wanted, dataset.standardise)
        found[SAVED_MODEL] = _all_first_none(check)
    return found


def _raw_frames(rows: Sequence[np.ndarray], settings: Input | None = None) -> dict[str, np.ndarray]:
    """Returns the arguments that sequences of frames are; with `settings` cut and padded.

    Padding is no number, so that none of it can have an influence.
    """
    lengths = np.array(list(map(len, rows)))
    steps, longest = lengths, lengths.max()
    if settings:
        steps = np.minimum(lengths, settings.max_length)
        longest = settings.max_length if settings.padding == "pre" else steps.max()
    frames = np.full((len(rows), longest, rows[0].shape[1]), np.nan, np.float32)
    for place, (row, count) in enumerate(zip(rows, steps)):
        kept = row[len(row) - count :] if settings and settings.truncate == "start" else row[:count]
        before = longest - count if settings and settings.padding == "pre" else 0
        frames[place, before : before + count] = kept
    return {"frames": frames, "lengths": steps.astype(np.int32)}


def _of_classifier(reference: _Reference) -> dict[str, list[Check]]:
    names = [label.encode() for label in reference.dataset.labels]

    def told(probabilities: np.ndarray) -> dict[str, np.ndarray | Likeliest]:
        label = Likeliest(names, probabilities, probabilities.argmax(axis=1))
        return {"probabilities": probabilities, "label": label}

    return _of_examples(reference, told)


def _of_regressor(reference: _Reference) -> dict[str, list[Check]]:
    scale = reference.dataset.standardise
    return _of_examples(reference, lambda told: {"values": scale.undone(told)})


# --- A tag for each token -------------------------------------------------------------------------


def _of_tagger(reference: _Reference) -> dict[str, list[Check]]:
    tokenizer = text.tokenizer_of(reference.dataset)

    def check(sentences: list[list[bytes]]) -> tuple[Check, Check]:
        lengths = np.array(list(map(len, sentences)))
        holds = np.arange(lengths.max()) < lengths[:, None]
        tokens = np.full(holds.shape, b"", object)
        tokens[holds] = [token for sentence in sentences for token in sentence]
        flat = tokenizer.encode_tokens(tf.constant(tokens[holds].tolist())).numpy()
        inputs = np.where(holds, text.UNKNOWN, text.PADDING).astype(np.int32)
        inputs[holds] = flat
        batch = pipeline.Batch(
            np.arange(len(sentences), dtype=np.int32),
            inputs,
            lengths.astype(np.int32),
            np.zeros_like(inputs),
        )
        _, tags = reference.outcomes(batch)
        probabilities = reference.computed(lambda outputs: tf.nn.softmax(outputs.scores()), batch)
        by_ids = Check(
            Call("", {"ids": inputs}), {"probabilities": _counting(probabilities, holds)}
        )
        # Where a row is padded the only tag is the empty one.
        of_all = np.concatenate([~holds[:, :, None], holds[:, :, None] * probabilities], axis=2)
        names = [b"", *(label.encode() for label in reference.dataset.labels)]
        chosen = np.where(holds, 1 + tags.astype(int), 0)
        return (
            Check(
                Call("serving_default", {"tokens": tokens}),
                {
                    "tags": Likeliest(names, of_all, chosen),
                    "probability": np.where(holds, probabilities.max(axis=2), 0),
                },
            ),
            by_ids,
        )

    by_tokens, by_ids = check(examples.sentences(reference.dataset))
    long, _ = check([examples.long_sentence(reference.dataset)])
    return {SAVED_MODEL: [*_all_first_none(by_tokens), long], KERAS: _fitting(by_ids)}


# --- The next token -------------------------------------------------------------------------------


def _of_language_model(reference: _Reference) -> dict[str, list[Check]]:
    texts, rows = examples.texts_of_pieces(reference.dataset)
    batch = reference.batch(rows)
    holds = np.arange(batch.inputs.shape[1]) < batch.lengths[:, None]
    ids = batch.inputs[: _rows_that_fit(holds.shape[1], reference.dataset.outputs)]
    log_p = reference.computed(
        lambda outputs: tf.nn.log_softmax(outputs.scores()),
        pipeline.Batch(*(values[: len(ids)] for values in batch)),
    )
    by_ids = Check(
        Call("", {"ids": ids}), {"log_probabilities": _counting(log_p, holds[: len(ids)])}
    )
    found = {SAVED_MODEL: [], KERAS: [by_ids, by_ids.first(1)]}
    if texts:
        found[SAVED_MODEL] = [
            *_all_first_none(_score(reference, texts, rows)),
            _score(reference, *examples.long_text(reference.dataset)),
            *_all_first_none(_next(reference, texts, batch)),
            *_continuations(reference, texts),
        ]
    return found


def _score(reference: _Reference, texts: list[bytes], rows: list[np.ndarray]) -> Check:
    batch = reference.batch(rows)
    if reference.dataset.order == fields.STREAMS:
        batch = batch._replace(lengths=batch.lengths - 1)  # The end of a piece is no end of a text.
    losses = reference.summed_losses(batch)
    return Check(
        Call("serving_default", {"text": _strings(texts)}),
        {"log_probability": -losses, "perplexity": np.exp(losses / np.maximum(batch.lengths, 1))},
    )


def _next(reference: _Reference, texts: list[bytes], batch: pipeline.Batch) -> Check:
    last = tf.constant(batch.lengths - 1)

    def probabilities(outputs: StepOutputs) -> tf.Tensor:
        states = tf.gather(outputs.states, last, batch_dims=1)
        return tf.nn.softmax(outputs._replace(states=states[:, None]).scores()[:, 0])

    of_all = reference.computed(probabilities, batch)
    tokenizer = text.tokenizer_of(reference.dataset)
    names = tokenizer.tokens(tf.range(of_all.shape[1])).numpy()
    chosen = np.argsort(-of_all, axis=1, kind="stable")[:, : serving.LIKELIEST]
    return Check(
        Call("next", {"text": _strings(texts)}),
        {
            "tokens": Likeliest(names, of_all, chosen),
            "probabilities": np.take_along_axis(of_all, chosen, axis=1),
        },
    )


def _continuations(reference: _Reference, texts: list[bytes]) -> list[Check]:
    """`evaluate` draws nothing: they are compared with what this process continues."""
    served = served_of(reference.model)
    some = _strings(texts[:: -(-len(texts) // CONTINUED)])
    found = []
    for temperature, seed in ((0.0, 0), (0.8, 7)):
        arguments = {
            "text": some,
            "tokens": np.array(TOKENS, np.int32),
            "temperature": np.array(temperature, np.float32),
            "seed": np.array(seed, np.int64),
        }
        answer = served.signatures(reference.options)["continue"](
            tf.constant(some.tolist()), *map(tf.constant, list(arguments.values())[1:])
        )
        check = Check(Call("continue", arguments), {"text": answer["text"].numpy()})
        found += _all_first_none(check)
    return found


# --- A text for each text -------------------------------------------------------------------------


def _of_translator(reference: _Reference) -> dict[str, list[Check]]:
    texts, rows = examples.texts_of_sources(reference.dataset)
    batch = reference.batch(rows, reference.settings)
    batch = batch._replace(targets=_translations(reference, batch))
    following, lengths = batch.targets.following, batch.targets.lengths
    # The probability of a sentence that a search found word by word is the one that `evaluate`
    # computes of all its words at once.
    losses, _ = reference.outcomes(batch)
    penalty = ((5 + lengths) / 6) ** reference.options.length_penalty
    words = translator.words_of(tf.constant(following))
    translations = text.target_tokenizer_of(reference.dataset).decode(words).numpy()
    by_text = Check(
        Call("serving_default", {"text": _strings(texts)}),
        {"translation": translations, "score": -losses / penalty},
    )
    steps = following.shape[1]
    fitting = tf.nest.map_structure(
        lambda values: values[: _rows_that_fit(steps, reference.dataset.outputs)], batch
    )
    log_p = reference.computed(lambda outputs: tf.nn.log_softmax(outputs.scores()), fitting)
    holds = np.arange(steps) < fitting.targets.lengths[:, None]
    by_ids = Check(
        Call("", {"ids": fitting.inputs, "target_ids": fitting.targets.tokens}),
        {"log_probabilities": _counting(log_p, holds)},
    )
    return {SAVED_MODEL: _all_first_none(by_text), KERAS: [by_ids, by_ids.first(1)]}


def _translations(reference: _Reference, batch: pipeline.Batch) -> pipeline.Sentences:
    """Returns what this process translates, as the targets of a batch.

    The operations are those of the file: other ones would round otherwise, and of two translations
    that are about as likely find the other.
    """
    network, options = network_of(reference.model), reference.options

    def run(tokens, lengths):
        return translator.hypotheses(
            network,
            reference.model.weights,
            reference.dataset,
            tokens,
            lengths,
            size=options.beam,
            penalty=options.length_penalty,
        ).ids[:, 0]

    ids = programs.function(run)(tf.constant(batch.inputs), tf.constant(batch.lengths)).numpy()
    lengths = np.count_nonzero(ids, axis=1).astype(np.int32)
    before = np.pad(ids[:, :-1], [(0, 0), (1, 0)], constant_values=text.START)
    return pipeline.Sentences(np.where(ids != text.PADDING, before, text.PADDING), ids, lengths)


# --- Outputs of steps -----------------------------------------------------------------------------


def _counting(values: np.ndarray, holds: np.ndarray) -> np.ma.MaskedArray:
    """Returns values [rows, length, n] with the steps masked that do not count."""
    return np.ma.array(values, mask=np.broadcast_to(~holds[:, :, None], values.shape))


def _rows_that_fit(steps: int, outputs: int) -> int:
    return max(1, VALUES // (steps * outputs))


def _fitting(check: Check) -> list[Check]:
    """Returns the checks of a Keras model with outputs of steps: of all rows that fit, and one."""
    _, steps, outputs = check.expected["probabilities"].shape
    return [check.first(_rows_that_fit(steps, outputs)), check.first(1)]


_CHECKS = {
    serving.Classifier: _of_classifier,
    serving.Regressor: _of_regressor,
    serving.Tagger: _of_tagger,
    serving.LanguageModel: _of_language_model,
    translator.Translator: _of_translator,
}
