"""Text in, labels and probabilities out."""

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

ROWS = 64


def command(settings: configuration.Predict, words: Sequence[str]) -> int:
    """`trainer predict`: a line per text, from the arguments, a file or standard input."""
    model = trained_model.open_model(settings)
    tokenizer = text.tokenizer_of(model.dataset)
    at_a_terminal = not words and not settings.input and sys.stdin.isatty()
    for group in _groups(
        _arguments(words) if words else _lines(settings.input), 1 if at_a_terminal else ROWS
    ):
        for row, chances in zip(group, probabilities(model, tokenizer, group)):
            print(_formatted(row, chances, model.dataset.labels, settings.format), flush=True)
    return BY_NAME["done"]


def probabilities(
    model: trained_model.TrainedModel, tokenizer: text.Tokenizer, texts: Sequence[str]
) -> np.ndarray:
    """float [texts, classes]."""
    ragged = tokenizer.encode(tf.constant(list(texts)))
    rows = store.Split(
        ragged.values.numpy(), ragged.row_splits.numpy(), np.zeros(len(texts), np.int32)
    )
    _, chances = model.step.outcomes(model.weights, pipeline.loose_batch(rows, model.config.input))
    return chances


def _groups(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    texts = iter(texts)
    while group := list(itertools.islice(texts, size)):
        yield group


def _arguments(words: Sequence[str]) -> Sequence[str]:
    """The texts on the command line as they are."""
    for number, word in enumerate(words, start=1):
        try:
            word.encode("utf-8")
        # Python keeps the bytes that it cannot decode as lone surrogates.
        except UnicodeEncodeError:
            raise DataError(
                f"text {number} on the command line is no UTF-8 ({word!r}): texts must be UTF-8. "
                "Convert it."
            ) from None
    return words


def _lines(path: str) -> Iterator[str]:
    """Lines of a file or of standard input, without their ends; an empty line is an empty text."""
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
                        f"{name}:{number} is no UTF-8 ({problem.reason} at byte {problem.start}): "
                        "texts must be UTF-8. "
                        "Convert the file."
                    ) from None
    except OSError as problem:
        raise UsageError(
            f"--input={path}: {problem.strerror}. Name a file that can be read."
        ) from None


def _formatted(row: str, chances: np.ndarray, labels: Sequence[str], form: str) -> str:
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
