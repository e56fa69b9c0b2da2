"""TensorBoard's view of an evaluation, one for each kind of task.

A view collects the outcome of every row of an evaluation and is written as a whole.
"""

import codecs
import heapq
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from trainer.data import store, text
from trainer.data.pipeline import Batch
from trainer.reporting import pictures
from trainer.reporting.progress import number
from trainer.reporting.summaries import Summaries
from trainer.tasks import classification, language_model, regression, tagging, translation
from trainer.tasks.serving import LanguageModel, Served
from trainer.tasks.translator import Translator

MISTAKES = 12  # The costliest mistakes are listed, at most this many.
CURVES = 20  # Classes with a precision-recall curve: those with the most examples.
POINTS = 5_000  # Of a picture of predicted against true values, at most.
SHOWN_TOKENS = 80  # At most, of each listed text.
SHOWN_PAIRS, ATTENTION_PICTURES = 8, 3  # Sentences of an evaluation: translated, and drawn.
SHOWN_WORDS = 40  # At most, of each side of a picture.


class View(Protocol):
    """Collects one evaluation of `split` of `dataset`; call it with the outcomes of each batch."""

    def __init__(self, dataset: store.Dataset, split: str): ...

    def __call__(
        self, examples: np.ndarray, batch: Batch, losses: np.ndarray, answers: np.ndarray
    ) -> None:
        """Takes the rows of a batch that count.

        examples: int64 [rows], their numbers in the split; losses [rows] and answers [rows, ...]:
        what `Task.outcomes` returned.
        """

    def write(
        self, summaries: Summaries, step: int, found: Any, served: Callable[[], Served]
    ) -> None:
        """Writes what it collected.

        found: the exact metrics of the split. served: makes what answers with the weights that were
        evaluated.
        """


class Costliest:
    """The examples of a split with the highest losses, at most MISTAKES."""

    def __init__(self, dataset: store.Dataset, split: store.Split):
        self._dataset, self._split = dataset, split
        # A heap of (loss, example, what was told of it).
        self._found: list[tuple[float, int, tuple[float, ...]]] = []

    def add(self, loss: float, example: int, told: Sequence[float]) -> None:
        """Takes an example and numbers that tell what was made of it."""
        keep = heapq.heappush if len(self._found) < MISTAKES else heapq.heappushpop
        keep(self._found, (float(loss), int(example), tuple(map(float, told))))

    def write(
        self,
        summaries: Summaries,
        tag: str,
        described: Callable[..., tuple[str, str, str]],
        step: int,
    ) -> None:
        """Writes them, the costliest first: texts as a list, sequences of frames as a picture.

        described: (example, what was told) -> (what it is, what it was taken for, more of that).
        """
        found = sorted(self._found, reverse=True)
        texts = [(*described(example, told), loss) for loss, example, told in found]
        if not self._dataset.input.numbers:
            # A Markdown list: a table would squeeze the other columns.
            lines = [
                f"1. **{_as_markdown(right)}**, taken for **{_as_markdown(told)}**{more}, loss "
                f"{loss:.3f}: {_as_markdown(_text_of(self._dataset, self._split, example))}"
                for (right, told, more, loss), (_, example, _) in zip(texts, found)
            ]
            summaries.text(tag, "\n".join(lines) or "No mistake.", step)
        elif found:
            sequences = [_frames_of(self._dataset, self._split, example) for _, example, _ in found]
            captions = [f"{right} > {told}{more}" for right, told, more, _ in texts]
            summaries.image(tag, pictures.sequences(sequences, captions), step)


class ClassesView:
    """A class for each example: confusion matrix, curves of precision, the costliest mistakes."""

    def __init__(self, dataset: store.Dataset, split: str):
        self._dataset = dataset
        self._split = dataset.splits[split]
        self._labels: list[np.ndarray] = []
        self._probabilities: list[np.ndarray] = []
        self._mistakes = Costliest(dataset, self._split)

    def __call__(
        self, examples: np.ndarray, batch: Batch, losses: np.ndarray, probabilities: np.ndarray
    ) -> None:
        labels = batch.targets
        self._labels.append(labels)
        self._probabilities.append(probabilities.astype(np.float32))
        predicted = probabilities.argmax(axis=1)
        for row in np.flatnonzero(predicted != labels):
            told = predicted[row], probabilities[row].max()
            self._mistakes.add(losses[row], examples[row], told)

    def write(
        self,
        summaries: Summaries,
        step: int,
        found: classification.Metrics,
        served: Callable[[], Served],
    ) -> None:
        """Writes confusion matrix, precision-recall curves and the costliest mistakes."""
        summaries.image(
            "confusion", pictures.confusion_matrix(found.confusion, self._dataset.labels), step
        )
        labels, probabilities = np.concatenate(self._labels), np.concatenate(self._probabilities)
        for index in curves_for(found.confusion.sum(axis=1)):
            summaries.pr_curve(
                self._dataset.labels[index], labels == index, probabilities[:, index], step
            )
        self._mistakes.write(summaries, "mistakes", self._described, step)

    def _described(self, example: int, told: Sequence[float]) -> tuple[str, str, str]:
        names, (predicted, chance) = self._dataset.labels, told
        right = names[self._split.targets[example]]
        return right, names[int(predicted)], f" at {chance:.3f}"


class ValuesView:
    """Values of each example: predicted against true ones, and the costliest examples."""

    def __init__(self, dataset: store.Dataset, split: str):
        self._dataset = dataset
        self._split = dataset.splits[split]
        # Points from all over the split, without more memory for a larger one.
        self._every = -(-len(self._split) // POINTS)
        self._points: list[tuple[np.ndarray, np.ndarray]] = []
        self._costliest = Costliest(dataset, self._split)

    def __call__(
        self, examples: np.ndarray, batch: Batch, losses: np.ndarray, predicted: np.ndarray
    ) -> None:
        values = self._in_units(predicted)
        shown = examples % self._every == 0
        self._points.append((np.asarray(self._split.targets[examples[shown]]), values[shown]))
        for loss, example, told in zip(losses, examples, values):
            self._costliest.add(loss, example, told)

    def write(
        self,
        summaries: Summaries,
        step: int,
        found: regression.Metrics,
        served: Callable[[], Served],
    ) -> None:
        """Writes a picture for each value, and the costliest examples."""
        true, predicted = (np.concatenate(side) for side in zip(*self._points))
        for place, name in enumerate(self._dataset.values):
            picture = pictures.scatter(true[:, place], predicted[:, place], name)
            summaries.image(f"predicted/{name}", picture, step)
        self._costliest.write(summaries, "costliest", self._described, step)

    def _in_units(self, standardised: np.ndarray) -> np.ndarray:
        return self._dataset.standardise.undone(standardised)

    def _described(self, example: int, told: Sequence[float]) -> tuple[str, str, str]:
        right = self._split.targets[example]
        shown = (" ".join(number(float(value)) for value in side) for side in (right, told))
        return (*shown, "")


class TagsView:
    """A tag for each token: the confusion matrix of the tags."""

    def __init__(self, dataset: store.Dataset, split: str):
        self._labels = dataset.labels

    def __call__(
        self, examples: np.ndarray, batch: Batch, losses: np.ndarray, answers: np.ndarray
    ) -> None:
        pass

    def write(
        self, summaries: Summaries, step: int, found: tagging.Metrics, served: Callable[[], Served]
    ) -> None:
        """Writes the confusion matrix."""
        picture = pictures.confusion_matrix(found.steps.confusion, self._labels)
        summaries.image("confusion", picture, step)


class TextView:
    """The next token of a text: what the model writes by itself."""

    def __init__(self, dataset: store.Dataset, split: str):
        # A dataset that was prepared from ids alone has no words to write.
        self._has_words = dataset.tokenizer["name"] != "none"

    def __call__(
        self, examples: np.ndarray, batch: Batch, losses: np.ndarray, answers: np.ndarray
    ) -> None:
        pass

    def write(
        self,
        summaries: Summaries,
        step: int,
        found: language_model.Metrics,
        served: Callable[[], LanguageModel],
    ) -> None:
        """Writes a text that the model makes; the step is the seed."""
        if not self._has_words:
            return
        lines = served().sample(step).splitlines()
        summaries.text("sample", "  \n".join(map(_as_markdown, lines)), step)


class PairsView:
    """A translation for each source: those of a few sentences, and what their words attend to."""

    def __init__(self, dataset: store.Dataset, split: str):
        self._dataset, self._split = dataset, dataset.splits[split]
        last = len(self._split) - 1
        self._examples = np.unique(np.linspace(0, last, SHOWN_PAIRS).astype(np.int64))
        references = dataset.target_texts(split)
        self._references = [references[example] for example in self._examples]

    def __call__(
        self, examples: np.ndarray, batch: Batch, losses: np.ndarray, answers: np.ndarray
    ) -> None:
        pass

    def write(
        self,
        summaries: Summaries,
        step: int,
        found: translation.Metrics,
        served: Callable[[], Translator],
    ) -> None:
        """Writes a list of translations beside their references, and pictures of attention."""
        explained = served().explained(self._split, self._examples)
        lines = [
            f"1. {_shortened(_text_of(self._dataset, self._split, example))}: "
            f"**{_shortened(each.translation)}**, reference: {_shortened(reference)}"
            for example, reference, each in zip(self._examples, self._references, explained)
        ]
        summaries.text("translations", "\n".join(lines), step)
        for place, each in enumerate(explained[:ATTENTION_PICTURES]):
            if each.words and each.shares.any():  # There is none with --attention=none.
                words, sources = (
                    [token.replace(text.JOINER, "") for token in tokens[:SHOWN_WORDS]]
                    for tokens in (each.words, each.sources)
                )
                shares = each.shares[:SHOWN_WORDS, :SHOWN_WORDS]
                picture = pictures.attention(shares, words, sources)
                summaries.image(f"attention/{place}", picture, step)


def _text_of(dataset: store.Dataset, split: store.Split, example: int) -> str:
    """Returns the text of an example, as far as its first SHOWN_TOKENS tokens tell it."""
    begin, end = split.offsets[example : example + 2]
    # The first is the start id.
    ids = split.inputs[begin + 1 : min(end, begin + 1 + SHOWN_TOKENS)]
    if dataset.tokenizer["name"] == "bytes":  # Their names in the vocabulary are 0x00 ... 0xff.
        told = bytes(int(i) - text.FIRST_ID for i in ids if i >= text.FIRST_ID)
    else:
        tokens = tf.constant([[dataset.vocabulary[i] for i in ids]], tf.string)
        [told] = text.joined(dataset.tokenizer, tokens).numpy()
    is_cut = end - begin - 1 > SHOWN_TOKENS
    # The last character may be cut in two: it is left out.
    shown = codecs.getincrementaldecoder("utf-8")("replace").decode(told, final=not is_cut)
    return " ".join((shown + (" …" if is_cut else "")).split())


def _frames_of(dataset: store.Dataset, split: store.Split, example: int) -> np.ndarray:
    """Returns the frames of an example as they were read: [steps, *shape of a frame]."""
    begin, end = split.offsets[example : example + 2]
    return np.asarray(split.inputs[begin:end]).reshape(-1, *dataset.frame)


def _shortened(shown: str) -> str:
    """Returns the Markdown of a sentence, cut to a readable length."""
    words = shown.split()
    return _as_markdown(" ".join([*words[:SHOWN_TOKENS], *(["…"] * (len(words) > SHOWN_TOKENS))]))


def _as_markdown(shown: str) -> str:
    """Returns the Markdown that TensorBoard renders as `shown`."""
    shown = shown.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"[\\`*_\[\]]", r"\\\g<0>", shown)


def curves_for(examples: Sequence[int]) -> list[int]:
    """Returns the classes that get a curve, given the number of examples of each.

    The second of two classes; of more, the most frequent ones.
    """
    if len(examples) == 2:
        return [1]  # The curve of the other class shows the same decisions.
    return sorted(np.argsort(-np.asarray(examples), kind="stable")[:CURVES].tolist())
