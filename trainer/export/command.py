"""A checkpoint becomes files that load without this package, proved equal to the trained model
before they appear.

    EXPORT_DIR/saved_model/     text string[N] -> probabilities float32[N, classes], label string[N]
    EXPORT_DIR/model.keras      ids int32[N, length] -> probabilities float32[N, classes]
    EXPORT_DIR/vocabulary.txt   line i (from 0) is id i
    EXPORT_DIR/labels.txt       line i (from 0) is class i

The SavedModel holds the dataset's own tokenizer and our function of the weights, the one that
training computes, traced without XLA. The Keras model holds the layers that the weights belong to;
it computes the same in another way. Both are float32, whatever the precision of the training. A
dataset of ids without words (an imdb.npz alone) gives the Keras model only.
"""

import logging
import os
import pathlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from trainer import config as configuration
from trainer import trained_model
from trainer.data import pipeline, store, text
from trainer.devices import strategy
from trainer.exit_codes import BY_NAME, StorageError, TrainerError, UsageError
from trainer.export import readback
from trainer.models.networks import Network, recurrent_weights
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
        "[padding] [unknown]",
        "word " * 10_000,
    )
) + (b"\xff bad \xc3", b"\xed\xa0\x80", b"cut \xe2\x82", b"\xf4\x90\x80\x80")


def command(settings: configuration.Export) -> int:
    """`trainer export`: prints what was written and the largest difference seen."""
    folder = pathlib.Path(settings.export_dir).resolve()
    _refuse_content(folder)
    model = trained_model.open_model(settings)
    for name, difference in export(model, folder).items():
        print(f"{name} {folder / name} max_difference {number(difference)}")
    print(f"step {model.checkpoint_step}")
    return BY_NAME["done"]


def export(model: trained_model.TrainedModel, folder: pathlib.Path) -> dict[str, float]:
    """Writes the files of a model into `folder`, which appears whole or not at all.

    Returns:
      {file: largest difference of a probability from the trained model's}.

    Raises:
      UsageError: `folder` has content. TrainerError: a file that was written cannot be loaded
        elsewhere, or computes something else than the model. StorageError: a file cannot be
        written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{folder.name}.tmp-", dir=folder.parent) as beside:
            new = pathlib.Path(beside, folder.name)
            new.mkdir()
            _write(model, new)
            differences = _differences(model, new)
            _publish(new, folder)
    except OSError as problem:
        raise StorageError(
            f"--export_dir={folder}: writing failed ({problem}). Free space or name another "
            "folder, "
            "then run the same command again; nothing was left behind."
        ) from problem
    return differences


# --- What is written ------------------------------------------------------------------------------


def _write(model: trained_model.TrainedModel, folder: pathlib.Path) -> None:
    network = _network(model)
    log.info("writing model.keras")
    keras_model(network, model.weights, model.config.input).save(folder / "model.keras")
    if _has_words(model.dataset):
        log.info("writing saved_model")
        tokenizer = text.tokenizer_of(model.dataset)
        _save(
            TextClassifier(
                network, model.weights, tokenizer, model.config.input, model.dataset.labels
            ),
            folder / "saved_model",
        )
    else:
        log.warning(
            "no saved_model: %s was prepared from ids without words, so no text can be encoded; "
            "model.keras "
            "takes ids",
            model.dataset.folder,
        )
    for name in ("vocabulary.txt", "labels.txt"):
        shutil.copyfile(model.dataset.folder / name, folder / name)


def _has_words(dataset: store.Dataset) -> bool:
    return dataset.tokenizer["name"] != "none"


def _save(classifier: "TextClassifier", path: pathlib.Path) -> None:
    try:
        tf.saved_model.save(classifier, str(path), {"serving_default": classifier.classify})
    except tf.errors.OpError as problem:
        raise OSError(problem.message) from problem


def _network(model: trained_model.TrainedModel, jit: str = "auto") -> Network:
    """The network in float32 on the CPU, where "auto" means a recurrence that needs no kernel of a
    certain device.
    """
    return Network(
        model.config.model,
        len(model.dataset.vocabulary),
        len(model.dataset.labels),
        device_type="CPU",
        jit=jit,
    )


def keras_model(
    network: Network, weights: Mapping[str, tf.Tensor], settings: configuration.Input
) -> keras.Model:
    """A network as plain Keras layers, without dropout: ids int32 [N, length] -> probabilities
    float32 [N, classes].

    Ids are cut and padded as in training. With padding=post id 0 counts nowhere and any length will
    do; with padding=pre every id counts and the length is max_length.
    """
    pre = settings.padding == "pre"
    ids = keras.Input([settings.max_length if pre else None], dtype="int32", name="ids")
    mask = None if pre else keras.ops.not_equal(ids, text.PADDING)
    layers = dict(network.layers())
    states = layers["embedding"](ids)
    *_, last = recurrent = [name for name in layers if name.startswith("rnn_")]
    if network.settings.pooling == "last":
        layers[last] = _returning_the_last_state(layers[last])
    for name in recurrent:
        states = layers[name](states, mask=mask)
    logits = layers["logits"](_POOLING[network.settings.pooling](states, mask))
    model = keras.Model(
        ids,
        keras.layers.Softmax(name="probabilities", dtype=logits.dtype)(logits),
        name="classifier",
    )
    for name, layer in layers.items():
        for key, variable in _trained(name, layer).items():
            variable.assign(weights[key])
    return model


def _returning_the_last_state(layer: keras.Layer) -> keras.Layer:
    """The layer with `return_sequences=False`.

    The last output of a masked sequence is no substitute: cuDNN has zeros there, other kernels the
    last state.
    """
    config = layer.get_config()
    both = isinstance(layer, keras.layers.Bidirectional)
    for direction in (
        [config[key]["config"] for key in ("layer", "backward_layer")] if both else [config]
    ):
        direction["return_sequences"] = False
    return type(layer).from_config(config)


def _maximum(states, mask):
    """[N, units] of states [N, length, units], bool mask [N, length]; as `recurrent.maximum`."""
    if mask is None:
        return keras.ops.max(states, axis=1)
    # No cell's state is below -1.
    highest = keras.ops.max(keras.ops.where(keras.ops.expand_dims(mask, -1), states, -1.0), axis=1)
    return keras.ops.where(keras.ops.any(mask, axis=1, keepdims=True), highest, 0.0)


def _mean(states, mask):
    """[N, units] of states [N, length, units], bool mask [N, length]; as `recurrent.mean`."""
    if mask is None:
        return keras.ops.mean(states, axis=1)
    counts = keras.ops.cast(mask, states.dtype)
    total = keras.ops.sum(states * keras.ops.expand_dims(counts, -1), axis=1)
    return total / keras.ops.maximum(keras.ops.sum(counts, axis=1, keepdims=True), 1.0)


_POOLING = {"last": lambda states, mask: states, "max": _maximum, "mean": _mean}


def _trained(name: str, layer: keras.Layer) -> dict[str, keras.Variable]:
    """{logical name: variable} of what is trained in a built layer."""
    if name.startswith("rnn_"):
        return recurrent_weights(name, layer)
    return {f"{name}/{variable.name}": variable for variable in layer.trainable_variables}


class TextClassifier(tf.Module):
    """What goes into the SavedModel: tokenizer, weights, and one function from texts to
    probabilities and labels.
    """

    def __init__(
        self,
        network: Network,
        weights: Mapping[str, tf.Tensor],
        tokenizer: text.Tokenizer,
        settings: configuration.Input,
        labels,
    ):
        super().__init__()
        self.tokenizer = tokenizer
        self.weights = {
            name: tf.Variable(weight, trainable=False) for name, weight in weights.items()
        }
        self._network, self._settings, self._labels = network, settings, tuple(labels)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def classify(self, texts):
        """string [N] -> {"probabilities": float32 [N, classes], "label": string [N]}."""
        tokens, lengths = pad_ragged(self.tokenizer.encode(texts), self._settings)
        probabilities = tf.nn.softmax(self._network.logits(self.weights, tokens, lengths))
        labels = tf.gather(tf.constant(self._labels), tf.argmax(probabilities, axis=1))
        return {"probabilities": probabilities, "label": labels}


def pad_ragged(ids: tf.RaggedTensor, settings: configuration.Input) -> tuple[tf.Tensor, tf.Tensor]:
    """Cuts and pads ids as the batches of the training are, by TensorFlow ops.

    Args:
      ids: int32 [N, tokens].

    Returns:
      int32 [N, length] and int32 [N], how many of them count in each row. The length is that of the
      longest row, at least 1, or max_length with padding=pre.
    """
    most = settings.max_length
    ids = ids[:, -most:] if settings.truncate == "start" else ids[:, :most]
    if settings.padding == "pre":
        turned = ids[:, ::-1].to_tensor(text.PADDING, shape=[None, most])
        return tf.reverse(turned, axis=[1]), tf.fill([ids.nrows(tf.int32)], most)
    lengths = tf.cast(ids.row_lengths(), tf.int32)
    # The largest of no lengths is the smallest integer.
    longest = tf.maximum(tf.reduce_max(lengths), 1)
    return ids.to_tensor(text.PADDING, shape=tf.stack([-1, longest])), lengths


# --- The proof ------------------------------------------------------------------------------------

_REMEDY = (
    "Nothing was published. This is a mistake of ours, or of this build of TensorFlow and Keras: "
    "try another, "
    "and report it."
)


def _differences(model: trained_model.TrainedModel, folder: pathlib.Path) -> dict[str, float]:
    """{file: largest difference of a probability} between what is in `folder` and the trained model
    in float32.
    """
    texts, batch = examples_of(model.dataset, model.config.input)
    log.info(
        "comparing %d examples with the trained model, in a process without this package",
        len(batch.rows),
    )
    expected = _expected(model, batch)
    inputs = (
        {"saved_model": texts, "model.keras": batch.tokens}
        if texts
        else {"model.keras": batch.tokens}
    )
    groups = {
        str(folder / name): [rows[:count] for count in COUNTS[name]]
        for name, rows in inputs.items()
    }
    try:
        answers = readback.answers(groups)
    except RuntimeError as problem:
        raise TrainerError(
            f"what was written cannot be used without this package. {_REMEDY}\n{problem}"
        ) from None
    return {
        name: _checked(name, answers[str(folder / name)], expected, model.dataset.labels)
        for name in inputs
    }


def _expected(model: trained_model.TrainedModel, batch: pipeline.Batch) -> np.ndarray:
    """float32 [rows, classes]: what `evaluate` computes, in float32 and on the CPU."""
    placement = strategy.Placement(tf.distribute.OneDeviceStrategy("CPU:0"), "CPU", ("CPU:0",))
    with tf.device("CPU:0"):
        step = EvaluationStep(_network(model, model.config.run.jit), placement, model.step.task)
        _, probabilities = step.outcomes(model.weights, batch)
        return probabilities


def _checked(
    name: str, answers: Sequence[readback.Answer], expected: np.ndarray, labels: Sequence[str]
) -> float:
    """The largest difference over all answers; TrainerError if it is above BOUND or a label is not
    the likeliest.
    """
    difference = max(
        _difference(answer.probabilities, expected[:count])
        for answer, count in zip(answers, COUNTS[name], strict=True)
    )
    if not difference <= BOUND:
        raise TrainerError(
            f"{name}: a probability differs by {number(difference)} from the trained model's, at "
            "most "
            f"{BOUND} is allowed. {_REMEDY}"
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
    """The same rows as texts and as a batch; `texts` is None where the dataset has no words."""

    texts: list[bytes] | None
    batch: pipeline.Batch


def examples_of(dataset: store.Dataset, settings: configuration.Input) -> Examples:
    """Rows from all over a held-out split and, where there are words, texts that are hard to
    tokenize.
    """
    split = next(
        dataset.splits[name] for name in ("test", "validation", "train") if name in dataset.splits
    )
    chosen = np.unique(np.linspace(0, len(split) - 1, ROWS).astype(int))
    rows = [split.tokens[split.offsets[row] : split.offsets[row + 1]] for row in chosen]
    texts = None
    if _has_words(dataset):
        texts = [*(_decoded(row, dataset) for row in rows), *CORNER_CASES]
        rows = [row.numpy() for row in text.tokenizer_of(dataset).encode(tf.constant(texts))]
    loose = store.Split(
        np.concatenate(rows), np.cumsum([0, *map(len, rows)]), np.zeros(len(rows), np.int32)
    )
    return Examples(texts, pipeline.loose_batch(loose, settings))


def _decoded(ids: np.ndarray, dataset: store.Dataset) -> bytes:
    """A text made of what `ids` stand for, the reserved ones left out."""
    name, ids = dataset.tokenizer["name"], ids[ids >= text.FIRST_ID]
    if name == "bytes":
        return bytes((ids - text.FIRST_ID).tolist())
    return (
        {"words": " ", "characters": ""}[name]
        .join(dataset.vocabulary[entry] for entry in ids)
        .encode()
    )


# --- The place ------------------------------------------------------------------------------------


def _publish(new: pathlib.Path, folder: pathlib.Path) -> None:
    for path in (*new.rglob("*"), new):
        _fsync(path)
    try:
        os.rename(new, folder)  # An empty folder is replaced.
    except OSError:
        _refuse_content(folder)
        raise
    _fsync(folder.parent)


def _refuse_content(folder: pathlib.Path) -> None:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(
            f"--export_dir={folder}: exists and is not an empty folder. It was left as it is: name "
            "a "
            "folder that does not exist yet, or delete this one first."
        )


def _fsync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
