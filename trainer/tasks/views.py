"""TensorBoard's view of an evaluation, one for each kind of task.

A view collects the outcome of every row of an evaluation and is written as a whole.
"""

import heapq
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from trainer.data import store, text
from trainer.data.pipeline import Batch
from trainer.reporting import pictures
from trainer.reporting.summaries import Summaries
from trainer.tasks import classification, language_model, tagging, translation
from trainer.tasks.serving import LanguageModel, Served
from trainer.tasks.translator import Translator

MISTAKES = 12  # The costliest mistakes are listed, at most this many.
CURVES = 20  # Classes with a precision-recall curve: those with the most examples.
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


class ClassesView:
    """A class for each text: confusion matrix, precision-recall curves, the costliest mistakes."""

    def __init__(self, dataset: store.Dataset, split: str):
        self._dataset = dataset
        self._split = dataset.splits[split]
        self._labels: list[np.ndarray] = []
        self._probabilities: list[np.ndarray] = []
        # A heap of the costliest: (loss, example, predicted class, its probability).
        self._mistakes: list[tuple[float, int, int, float]] = []

    def __call__(
        self, examples: np.ndarray, batch: Batch, losses: np.ndarray, probabilities: np.ndarray
    ) -> None:
        labels = batch.targets
        self._labels.append(labels)
        self._probabilities.append(probabilities.astype(np.float32))
        predicted = probabilities.argmax(axis=1)
        for row in np.flatnonzero(predicted != labels):
            mistake = (
                float(losses[row]),
                int(examples[row]),
                int(predicted[row]),
                float(probabilities[row].max()),
            )
            keep = heapq.heappush if len(self._mistakes) < MISTAKES else heapq.heappushpop
            keep(self._mistakes, mistake)

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
        summaries.text("mistakes", self._list(), step)

    def _list(self) -> str:
        """Returns the mistakes as a Markdown list: a table would squeeze the other columns."""
        names = self._dataset.labels
        lines = [
            f"1. **{names[self._split.targets[example]]}**, taken for **{names[predicted]}** at "
            f"{chance:.3f}, loss {loss:.3f}: "
            + _as_markdown(_text_of(self._dataset, self._split, example))
            for loss, example, predicted, chance in sorted(self._mistakes, reverse=True)
        ]
        return "\n".join(lines) or "No mistake."


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
        for number, each in enumerate(explained[:ATTENTION_PICTURES]):
            if each.words and each.shares.any():  # There is none with --attention=none.
                words, sources = (
                    [token.replace(text.JOINER, "") for token in tokens[:SHOWN_WORDS]]
                    for tokens in (each.words, each.sources)
                )
                shares = each.shares[:SHOWN_WORDS, :SHOWN_WORDS]
                picture = pictures.attention(shares, words, sources)
                summaries.image(f"attention/{number}", picture, step)


def _text_of(dataset: store.Dataset, split: store.Split, example: int) -> str:
    """Returns the text of an example, as far as its first SHOWN_TOKENS tokens tell it."""
    begin, end = split.offsets[example : example + 2]
    # The first is the start id.
    ids = split.inputs[begin + 1 : min(end, begin + 1 + SHOWN_TOKENS)]
    tokens = tf.constant([[dataset.vocabulary[i] for i in ids]], tf.string)
    [shown] = text.joined(dataset.tokenizer, tokens).numpy()
    more = " …" if end - begin - 1 > SHOWN_TOKENS else ""
    return " ".join((shown.decode() + more).split())


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
