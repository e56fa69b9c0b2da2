"""Raw input is cut, padded and normalised as the batches of the training are."""

import numpy as np
import pytest
import tensorflow as tf

from tests import datasets
from trainer.data import pipeline, store
from trainer.flags.run import Input
from trainer.tasks import readers

EVERY_CUT = [
    (truncate, padding, most)
    for truncate in ("start", "end")
    for padding in ("pre", "post")
    for most in (1, 3, 9)
]


@pytest.mark.parametrize("truncate, padding, max_length", EVERY_CUT)
def test_texts_are_cut_and_padded_as_the_batches_of_the_training_are(truncate, padding, max_length):
    rows = [[1], [1, 4, 5, 6, 7], [1, 8], [1, 9, 10]]
    settings = Input(max_length=max_length, truncate=truncate, padding=padding)
    split = store.Split(
        np.concatenate(rows).astype(np.int32),
        np.cumsum([0, *map(len, rows)]),
        np.zeros(4, np.int32),
    )
    longest = max_length if padding == "pre" else min(max_length, 5)
    expected = pipeline.batch_of(split, np.arange(len(rows)), longest, settings).inputs
    ids, lengths = readers.pad_ragged(tf.ragged.constant(rows, tf.int32), settings)
    np.testing.assert_array_equal(ids, expected)
    counting = [max_length] * 4 if padding == "pre" else [min(max_length, len(row)) for row in rows]
    np.testing.assert_array_equal(lengths, counting)


@pytest.mark.parametrize("padding, length", [("post", 1), ("pre", 4)])
def test_no_texts_are_padded_to_a_length_that_a_network_can_read(padding, length):
    none = tf.RaggedTensor.from_row_splits(tf.zeros([0], tf.int32), tf.zeros([1], tf.int64))
    ids, lengths = readers.pad_ragged(none, Input(max_length=4, padding=padding))
    assert (ids.shape, lengths.shape) == ((0, length), (0,))


@pytest.fixture(scope="module", params=[True, False])
def frames(request, tmp_path_factory):
    """A dataset of frames, normalised and not."""
    folder = tmp_path_factory.mktemp("frames") / "data"
    splits = datasets.random_frames()
    return datasets.write_numbers(
        folder, splits, shape=(3,), labels=("a", "b", "c"), normalise=request.param
    )


@pytest.mark.parametrize("truncate, padding, max_length", EVERY_CUT)
def test_frames_are_prepared_as_the_batches_of_the_training_are(
    truncate, padding, max_length, frames
):
    settings = Input(max_length=max_length, truncate=truncate, padding=padding)
    split = frames.splits["test"]
    raw = [split.inputs[begin:end] for begin, end in zip(split.offsets, split.offsets[1:])]
    longest = max_length if padding == "pre" else min(max_length, max(map(len, raw)))
    expected = pipeline.batch_of(split, np.arange(len(raw)), longest, settings)
    reader = readers.of_dataset(frames, settings)
    # What lies behind a sequence may be anything.
    given = np.full((len(raw), 8, 3), np.nan, np.float32)
    for row, values in zip(given, raw):
        row[: len(values)] = values
    lengths = tf.constant(list(map(len, raw)), tf.int32)
    inputs, counting = reader.prepared(tf.constant(given), lengths)
    np.testing.assert_array_equal(inputs, expected.inputs)
    np.testing.assert_array_equal(counting, expected.lengths)
    batch = reader.batch([readers.Frames(values, "", 0) for values in raw])
    np.testing.assert_array_equal(batch.inputs[:, :longest], expected.inputs)
    np.testing.assert_array_equal(batch.lengths, expected.lengths)


@pytest.mark.parametrize("padding", ["post", "pre"])
def test_no_frames_are_padded_to_a_length_that_a_network_can_read(padding, frames):
    reader = readers.of_dataset(frames, Input(max_length=4, padding=padding))
    for rows, steps in ((0, 0), (2, 0), (2, 3)):
        given = tf.fill([rows, steps, 3], np.nan)
        # No length is below 0 or beyond the steps that there are.
        inputs, _ = reader.prepared(tf.cast(given, tf.float32), tf.fill([rows], -1))
        assert inputs.shape == (rows, 4 if padding == "pre" else 1, 3)
        assert (inputs.numpy() == 0).all()
    _, lengths = reader.prepared(tf.zeros([1, 2, 3]), tf.constant([9]))
    assert lengths.numpy() == (4 if padding == "pre" else 2)
