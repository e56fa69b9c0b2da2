"""How raw input becomes what a network reads: texts and frames, in NumPy and inside a SavedModel.

Both ways cut, pad and normalise as the batches of the training are made.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from trainer.data import fields, pipeline, store, text
from trainer.data.pipeline import Batch
from trainer.flags.run import Input


class Text(NamedTuple):
    """A text to answer. place: where it comes from, for errors. number: its own, for the seed."""

    content: str
    place: str
    number: int


class Frames(NamedTuple):
    """A sequence of frames to answer: float32 [steps, features], as they were read.

    place: as of `Text`. id: what tells it apart from the others.
    """

    frames: np.ndarray
    place: str
    id: str | int


class Reader(Protocol):
    """Reads raw input of one kind; a `tf.Module`, so that it can be saved.

    reads: the kind. signature: the types of the arguments of `prepared`.
    """

    reads: fields.Input
    signature: Sequence[tf.TensorSpec]

    def prepared(self, *raw: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns (inputs [N, length, ...], int32 [N] steps that count) with TensorFlow ops."""

    def batch(self, examples: Sequence[Any]) -> Batch:
        """Returns `Text`s or `Frames` as one batch, padded to one of a few lengths."""

    def repeated(self, example: Any) -> Mapping[str, Any]:
        """Returns the part of an answer that says what it is an answer to."""


def of_dataset(dataset: store.Dataset, settings: Input) -> Reader:
    """Returns what reads input of the kind that a dataset has."""
    return (FrameReader if dataset.input.numbers else TextReader)(dataset, settings)


class TextReader(tf.Module):
    """Reads texts."""

    reads = fields.TOKENS
    signature = (tf.TensorSpec([None], tf.string, "text"),)

    def __init__(self, dataset: store.Dataset, settings: Input):
        super().__init__()
        self.tokenizer = text.tokenizer_of(dataset)
        self._settings = settings

    def prepared(self, texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns (ids int32 [N, length], int32 [N] ids that count) of string [N]."""
        return pad_ragged(self.tokenizer.encode(texts), self._settings)

    def batch(self, examples: Sequence[Text]) -> Batch:
        return batch_of(self.tokenizer.encode(contents(examples)), self._settings)

    def repeated(self, example: Text) -> dict[str, str]:
        return {"text": example.content}


class FrameReader(tf.Module):
    """Reads frames, which it normalises as the dataset says."""

    reads = fields.FRAMES

    def __init__(self, dataset: store.Dataset, settings: Input):
        super().__init__()
        self._settings, self._normalise = settings, dataset.normalise
        self._features = dataset.form.features
        self.signature = (
            tf.TensorSpec([None, None, self._features], tf.float32, "frames"),
            tf.TensorSpec([None], tf.int32, "lengths"),
        )

    def prepared(self, frames: tf.Tensor, lengths: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns (inputs float32 [N, length, features], int32 [N] steps that count).

        frames: float32 [N, steps, features], as they were read; lengths: int32 [N], steps of each
        row. What lies behind them has no influence, whatever it is.
        """
        most = self._settings.max_length
        # A network reads at least one step.
        frames = tf.pad(frames, [[0, 0], [0, tf.cast(tf.shape(frames)[1] < 1, tf.int32)], [0, 0]])
        full = tf.clip_by_value(lengths, 0, tf.shape(frames)[1])
        kept = tf.minimum(full, most)
        # The largest of no lengths is the smallest integer.
        length = tf.maximum(tf.reduce_max(kept), 1)
        if self._settings.padding == "pre":
            length = tf.constant(most)
        place = tf.range(length)[None, :]
        if self._settings.padding == "pre":
            place -= (length - kept)[:, None]
        holds = tf.logical_and(place >= 0, place < kept[:, None])
        if self._settings.truncate == "start":
            place += (full - kept)[:, None]
        values = tf.gather(frames, tf.where(holds, place, 0), batch_dims=1)
        if self._normalise:
            values = (values - self._normalise.mean) / self._normalise.deviation
        counting = tf.fill([tf.shape(kept)[0]], most) if self._settings.padding == "pre" else kept
        return tf.where(holds[:, :, None], values, 0), counting

    def batch(self, examples: Sequence[Frames]) -> Batch:
        frames = [np.asarray(example.frames, np.float32) for example in examples]
        rows = store.Split(
            np.concatenate(frames),
            np.cumsum([0, *map(len, frames)]),
            np.zeros(len(frames), np.int32),
            normalise=self._normalise,
        )
        return pipeline.loose_batch(rows, self._settings)

    def repeated(self, example: Frames) -> dict[str, str | int]:
        return {"sequence": example.id}


def contents(texts: Sequence[Text]) -> tf.Tensor:
    """Returns what the texts say: string [N]."""
    return tf.constant([shown.content for shown in texts], tf.string)


def batch_of(ids: tf.RaggedTensor, settings: Input) -> Batch:
    """Returns rows of ids as one batch, padded to one of a few lengths, without targets."""
    rows = store.Split(ids.values.numpy(), ids.row_splits.numpy(), np.zeros(ids.nrows(), np.int32))
    return pipeline.loose_batch(rows, settings)


def pad_ragged(ids: tf.RaggedTensor, settings: Input) -> tuple[tf.Tensor, tf.Tensor]:
    """Cuts and pads ids as training batches are, with TensorFlow ops.

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
    return padded(ids)


def padded(ids: tf.RaggedTensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns (int32 [N, length], int32 [N] ids of each row) of int32 [N, tokens]; length >= 1."""
    lengths = tf.cast(ids.row_lengths(), tf.int32)
    # The largest of no lengths is the smallest integer.
    longest = tf.maximum(tf.reduce_max(lengths), 1)
    return ids.to_tensor(text.PADDING, shape=tf.stack([-1, longest])), lengths
