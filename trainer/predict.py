"""Labels and probabilities of texts, from the arguments, a file or standard input."""

import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from trainer import config as configuration
from trainer import trained_model
from trainer.data import pipeline, store, text
from trainer.exit_codes import BY_NAME, DataError, UsageError

TEXTS_PER_BATCH = 64


def command(settings: configuration.Predict, words: Sequence[str]) -> int:
    """`trainer predict`: prints a line per text."""
    model = trained_model.open_model(settings)
    tokenizer = text.tokenizer_of(model.dataset)
    at_a_terminal = not words and not settings.input and sys.stdin.isatty()
    texts = _arguments(words) if words else _lines(settings.input)
    # A person at a terminal gets each answer at once.
    for group in _groups(texts, 1 if at_a_terminal else TEXTS_PER_BATCH):
        for row, chances in zip(group, probabilities(model, tokenizer, group)):
            print(_formatted(row, chances, model.dataset.labels, settings.format), flush=True)
    return BY_NAME["done"]


def probabilities(
    model: trained_model.TrainedModel, tokenizer: text.Tokenizer, texts: Sequence[str]
) -> np.ndarray:
    """Returns the probability of each class for each text: float [texts, classes]."""
    ragged = tokenizer.encode(tf.constant(list(texts)))
    rows = store.Split(
        ragged.values.numpy(), ragged.row_splits.numpy(), np.zeros(len(texts), np.int32)
    )
    _, chances = model.step.outcomes(model.weights, pipeline.loose_batch(rows, model.config.input))
    return chances


def _groups(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """Yields `size` texts at a time, at last fewer."""
    texts = iter(texts)
    while group := list(itertools.islice(texts, size)):
        yield group


def _arguments(words: Sequence[str]) -> Sequence[str]:
    """Returns the texts on the command line unchanged; raises DataError if one is not UTF-8."""
    for number, word in enumerate(words, start=1):
        try:
            word.encode("utf-8")
        # Python keeps the bytes that it cannot decode as lone surrogates.
        except UnicodeEncodeError:
            raise DataError(
                f"text {number} on the command line is not valid UTF-8 ({word!r}): texts must be "
                "UTF-8. Convert it."
            ) from None
    return words


def _lines(path: str) -> Iterator[str]:
    """Yields the lines of a file or of standard input; an empty line is an empty text.

    Raises DataError if a line is not UTF-8, UsageError if the file cannot be read.
    """
    name = path or "standard input"
    try:
        with open(path, "rb") if path else sys.stdin.buffer as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield (
                        line.removesuffix(b"\n")
                        .removesuffix(b"\r")
                        .decode("utf-8-sig" if number == 1 else "utf-8")
                    )
                except UnicodeDecodeError as problem:
                    raise DataError(
                        f"{name}:{number} is not valid UTF-8 ({problem.reason} at byte "
                        f"{problem.start}): texts must be UTF-8. Convert the file."
                    ) from None
    except OSError as problem:
        raise UsageError(
            f"--input={path}: {problem.strerror}. Name a file that can be read."
        ) from None


def _formatted(row: str, chances: np.ndarray, labels: Sequence[str], form: str) -> str:
    """Returns the line for one text; form: "text" or "jsonl"."""
    best = int(chances.argmax())
    if form == "jsonl":
        return json.dumps(
            {
                "text": row,
                "label": labels[best],
                "probability": float(chances[best]),
                "probabilities": {label: float(chance) for label, chance in zip(labels, chances)},
            },
            ensure_ascii=False,
        )
    one_line = " ".join(row.splitlines())
    return f"{labels[best]}\t{chances[best]:.4f}\t{one_line}"
