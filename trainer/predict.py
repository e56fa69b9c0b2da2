"""Answers of a trained model to texts from the arguments, a file or standard input."""

import dataclasses
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence

from trainer import config as configuration
from trainer import trained_model
from trainer.exit_codes import BY_NAME, DataError, UsageError
from trainer.tasks import serving

TEXTS_PER_BATCH = 64


def command(settings: configuration.Predict, words: Sequence[str]) -> int:
    """`trainer predict`: prints what the model answers to each text, in the order of the texts."""
    model = trained_model.open_model(settings, examples=trained_model.Examples.UNUSED)
    served = model.served()
    _refuse_options(settings, served, model.dataset.task)
    at_a_terminal = not words and not settings.input and sys.stdin.isatty()
    texts = _arguments(words) if words else _lines(settings.input)
    # A person at a terminal gets each answer at once.
    before = ""
    for group in _groups(texts, 1 if at_a_terminal else TEXTS_PER_BATCH):
        for answer in served.answers(group, settings):
            if settings.format == "jsonl":
                print(json.dumps(answer, ensure_ascii=False), flush=True)
            else:
                print(before, served.shown(answer), sep="", end="", flush=True)
                before = served.between
    return BY_NAME["done"]


def _refuse_options(settings: configuration.Predict, served: serving.Served, task: str) -> None:
    """Raises UsageError if a flag was given that the model has no use for."""
    fields = {field.name: field for field in dataclasses.fields(settings)}
    for name in serving.OPTIONS - served.options:
        value = getattr(settings, name)
        if value != fields[name].default:
            raise UsageError(
                f"--{name}={configuration.as_text(value)}: the model was trained for {task}, which "
                "would ignore it. Leave the flag out."
            )


def _groups(texts: Iterable[serving.Text], size: int) -> Iterator[list[serving.Text]]:
    """Yields `size` texts at a time, at last fewer."""
    texts = iter(texts)
    while group := list(itertools.islice(texts, size)):
        yield group


def _arguments(words: Sequence[str]) -> list[serving.Text]:
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
    return [
        serving.Text(word, f"text {number + 1} on the command line", number)
        for number, word in enumerate(words)
    ]


def _lines(path: str) -> Iterator[serving.Text]:
    """Yields the lines of a file or of standard input; an empty line is an empty text.

    Raises DataError if a line is not UTF-8, UsageError if the file cannot be read.
    """
    name = path or "standard input"
    try:
        with open(path, "rb") if path else sys.stdin.buffer as file:
            for number, line in enumerate(file, start=1):
                try:
                    content = line.removesuffix(b"\n").removesuffix(b"\r")
                    yield serving.Text(
                        content.decode("utf-8-sig" if number == 1 else "utf-8"),
                        f"{name}:{number}",
                        number - 1,
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
