"""Compares exported files with the trained model, in a process that cannot import this package."""

import logging
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from trainer import config as configuration
from trainer import trained_model
from trainer.data import pipeline, store, text
from trainer.devices import placement
from trainer.exit_codes import TrainerError
from trainer.export import readback, saved_model
from trainer.models.networks import Network
from trainer.reporting.progress import number
from trainer.steps.evaluation import EvaluationStep

log = logging.getLogger(__name__)


BOUND = 1e-5  # Most that a probability may differ; additions in another order make about 1e-7.


ROWS = 48  # Rows of the dataset that are compared.


# Each model is called on all rows, on the first alone and on none, on which layers of Keras fail
# ("Biases must be 1D").
COUNTS = {"saved_model": (None, 1, 0), "model.keras": (None, 1)}


CORNER_CASES = tuple(
    case.encode()
    for case in (
        "",
        " ",
        "\n\t\u2028\u0085",
        "a\0b",
        "\ufeffbom",
        "İstanbul ISPARTA ẞ ǅ ﬁ",
        "It’s <BR/>it's<br >'quoted'",
        "e\u0301 é Ａ",
        "👩\u200d👩\u200d👧 🏳\ufe0f",
        "日本語 שלום नमस्ते",
        "[padding] [unknown] <unk> <pad>",
        "(3.14, 1,000)… don't\u00a0 \uffed a\uffed!",
        "word " * 10_000,
    )
) + (b"\xff bad \xc3", b"\xed\xa0\x80", b"cut \xe2\x82", b"\xf4\x90\x80\x80")


_REMEDY = (
    "Nothing was published. This is a bug of ours, or of this build of TensorFlow and Keras: try "
    "another build, and report it."
)


def differences(model: trained_model.TrainedModel, folder: pathlib.Path) -> dict[str, float]:
    """Returns {file: largest difference of a probability from the model's, in float32}.

    Raises TrainerError if a file in `folder` cannot be loaded by a process without this package, or
    if it answers something else than the model.
    """
    texts, batch = examples_of(model.dataset, model.config.input)
    log.info(
        "comparing %d examples with the trained model, in a process without this package",
        len(batch.rows),
    )
    expected = _expected(model, batch)
    inputs = (
        {"saved_model": texts, "model.keras": batch.inputs}
        if texts
        else {"model.keras": batch.inputs}
    )
    groups = {
        str(folder / name): [rows[:count] for count in COUNTS[name]]
        for name, rows in inputs.items()
    }
    try:
        answers = readback.answers(groups)
    except RuntimeError as problem:
        raise TrainerError(
            f"the export cannot be used without this package. {_REMEDY}\n{problem}"
        ) from None
    return {
        name: _checked(name, answers[str(folder / name)], expected, model.dataset.labels)
        for name in inputs
    }


def _expected(model: trained_model.TrainedModel, batch: pipeline.Batch) -> np.ndarray:
    """Returns float32 [rows, classes]: what `evaluate` computes, in float32 on the CPU."""
    cpu = placement.Placement(tf.distribute.OneDeviceStrategy("CPU:0"), "CPU", ("CPU:0",))
    # If it sees a GPU, a layer of Keras would run cuDNN there, with fewer bits than BOUND needs.
    jit = "auto" if tf.config.list_logical_devices("GPU") else model.config.run.jit
    with tf.device("CPU:0"):
        step = EvaluationStep(network_of(model, jit), cpu, model.step.task)
        _, probabilities = step.outcomes(model.weights, batch)
        return probabilities


def _checked(
    name: str, answers: Sequence[readback.Answer], expected: np.ndarray, labels: Sequence[str]
) -> float:
    """Returns the largest difference over all answers.

    Raises TrainerError if it is above BOUND, or if a label is not the likeliest class.
    """
    difference = max(
        _difference(answer.probabilities, expected[:count])
        for answer, count in zip(answers, COUNTS[name], strict=True)
    )
    if not difference <= BOUND:
        raise TrainerError(
            f"{name}: a probability differs by {number(difference)} from the trained model's, at "
            f"most {BOUND} is allowed. {_REMEDY}"
        )
    for answer in answers:
        likeliest = [labels[row.argmax()] for row in answer.probabilities]
        if answer.labels and answer.labels != likeliest:
            raise TrainerError(
                f"{name}: the labels are {answer.labels}, the likeliest are {likeliest}. {_REMEDY}"
            )
    return difference


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    return (
        float(np.abs(found - expected).max(initial=0)) if found.shape == expected.shape else np.inf
    )


class Examples(NamedTuple):
    """The same rows as texts and as a batch; `texts` is None if the dataset has no words."""

    texts: list[bytes] | None
    batch: pipeline.Batch


def examples_of(dataset: store.Dataset, settings: configuration.Input) -> Examples:
    """Returns rows from all over a held-out split and, if it has words, hard texts to tokenize."""
    split = next(
        dataset.splits[name] for name in ("test", "validation", "train") if name in dataset.splits
    )
    chosen = np.unique(np.linspace(0, len(split) - 1, ROWS).astype(int))
    rows = [split.tokens[split.offsets[row] : split.offsets[row + 1]] for row in chosen]
    texts = None
    if saved_model.has_words(dataset):
        texts = [*(_decoded(row, dataset) for row in rows), *CORNER_CASES]
        rows = [row.numpy() for row in text.tokenizer_of(dataset).encode(tf.constant(texts))]
    loose = store.Split(
        np.concatenate(rows), np.cumsum([0, *map(len, rows)]), np.zeros(len(rows), np.int32)
    )
    return Examples(texts, pipeline.loose_batch(loose, settings))


def _decoded(ids: np.ndarray, dataset: store.Dataset) -> bytes:
    """Returns a text made of the tokens of `ids`, without the reserved ones."""
    ids = ids[ids >= text.FIRST_ID]
    if dataset.tokenizer["name"] == "bytes":
        return bytes((ids - text.FIRST_ID).tolist())
    tokens = tf.constant([[dataset.vocabulary[entry] for entry in ids]], tf.string)
    return text.joined(dataset.tokenizer, tokens).numpy()[0]


def network_of(model: trained_model.TrainedModel, jit: str = "auto") -> Network:
    """Returns the network in float32 on the CPU.

    There "auto" chooses a recurrence that runs on any device.
    """
    return Network(
        model.config.model,
        len(model.dataset.vocabulary),
        len(model.dataset.labels),
        device_type="CPU",
        jit=jit,
    )
