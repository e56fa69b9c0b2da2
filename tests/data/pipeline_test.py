"""Batches: which examples a step sees, how they are cut and filled up, and that nothing but the
step decides it.
"""

import collections

import keras
import numpy as np
import pytest

from tests.data.order_test import twin_example, twin_key, twin_permute
from trainer import config
from trainer.data import order, pipeline
from trainer.data.store import Split
from trainer.devices.placement import bounds


def split_of(sequences, labels=None):
    offsets = np.concatenate([[0], np.cumsum([len(sequence) for sequence in sequences])]).astype(
        np.int64
    )
    labels = np.arange(len(sequences)) % 7 if labels is None else labels
    return Split(np.concatenate(sequences).astype(np.int32), offsets, np.asarray(labels, np.int32))


def random_split(size, longest=40, seed=0):
    """Example i begins with the token 1000 + i, so that a batch tells which examples it holds."""
    lengths = np.random.default_rng(seed).integers(1, longest + 1, size)
    return split_of(
        [
            np.concatenate([[1000 + i], 1 + np.arange(length - 1) % 50])
            for i, length in enumerate(lengths)
        ]
    )


def settings(**changes):
    return config.Input(**{"batch_size": 8, "max_length": 40, **changes})


def of_step(split, seed=3, **changes):
    return pipeline.TrainingBatches(split, settings(**changes), seed)


# --- Cutting and filling up -----------------------------------------------------------------------

ROWS = [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4, 5]]


@pytest.mark.parametrize(
    "truncate, padding, length, expected",
    [
        ("end", "post", 3, [[1, 0, 0], [1, 2, 0], [1, 2, 3], [1, 2, 3]]),
        ("end", "pre", 3, [[0, 0, 1], [0, 1, 2], [1, 2, 3], [1, 2, 3]]),
        ("start", "post", 3, [[1, 0, 0], [1, 2, 0], [1, 2, 3], [3, 4, 5]]),
        ("start", "pre", 3, [[0, 0, 1], [0, 1, 2], [1, 2, 3], [3, 4, 5]]),
        ("start", "post", 1, [[1], [2], [3], [5]]),
        ("end", "pre", 1, [[1], [1], [1], [1]]),
        ("end", "post", 5, [[1, 0, 0, 0, 0], [1, 2, 0, 0, 0], [1, 2, 3, 0, 0], [1, 2, 3, 4, 5]]),
        (
            "start",
            "pre",
            6,
            [[0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 1, 2], [0, 0, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]],
        ),
    ],
)
def test_sides_of_truncation_and_padding(truncate, padding, length, expected):
    padded = pipeline.pad(
        split_of(ROWS), np.arange(4), length, settings(truncate=truncate, padding=padding)
    )
    assert padded.tolist() == expected
    assert padded.dtype == np.int32


@pytest.mark.parametrize("truncate, expected", [("end", [1, 2, 0, 0]), ("start", [4, 5, 0, 0])])
def test_what_is_longer_than_max_length_is_cut_however_wide_the_batch_is(truncate, expected):
    padded = pipeline.pad(
        split_of(ROWS), np.array([3]), 4, settings(truncate=truncate, max_length=2)
    )
    assert padded.tolist() == [expected]


@pytest.mark.parametrize("truncate", ["start", "end"])
@pytest.mark.parametrize("padding", ["pre", "post"])
def test_padding_is_that_of_keras(truncate, padding):
    generator = np.random.default_rng(1)
    sequences = [generator.integers(1, 90, generator.integers(1, 20)) for _ in range(60)]
    examples = generator.permutation(60)[:45]
    ours = pipeline.pad(
        split_of(sequences), examples, 11, settings(truncate=truncate, padding=padding)
    )
    theirs = keras.utils.pad_sequences(
        [sequences[i] for i in examples],
        11,
        padding=padding,
        truncating={"start": "pre", "end": "post"}[truncate],
    )
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "lengths, max_length, count, expected",
    [
        # quartiles 26, 51, 76, 100; the last is not rounded beyond max_length
        (range(1, 101), 100, 4, [32, 56, 80, 100]),
        ([5, 5, 5, 5], 100, 4, [8]),  # equal ones fall together
        ([3] * 50 + [30] * 50, 100, 6, [8, 32]),
        ([1], 1, 6, [1]),
        ([40] * 99 + [1], 40, 6, [40]),
        ([5], 3, 6, [3]),  # below the grain
    ],
)
def test_padded_lengths_are_quantiles_rounded_up(lengths, max_length, count, expected):
    cut = np.minimum(list(lengths), max_length)
    assert pipeline.padded_lengths(cut, max_length, count).tolist() == expected


@pytest.mark.parametrize("seed", range(5))
def test_padded_lengths_are_few_rise_and_hold_every_example(seed):
    generator = np.random.default_rng(seed)
    cut = np.minimum(generator.geometric(0.02, 3000), 200)
    lengths = pipeline.padded_lengths(cut, 200)
    assert len(lengths) <= pipeline.LENGTHS
    assert (np.diff(lengths) > 0).all()
    assert lengths[-1] >= cut.max()
    assert all(length % pipeline.GRAIN == 0 or length == 200 for length in lengths)


# --- The batch of a step --------------------------------------------------------------------------


@pytest.mark.parametrize("size, batch", [(20, 4), (20, 7), (20, 20), (20, 33), (1, 3), (300, 4)])
@pytest.mark.parametrize("bucket", [False, True])
def test_an_epochs_worth_of_windows_holds_each_example_equally_often(size, batch, bucket):
    """Windows are runs of positions: so many of them that they are whole epochs are balanced
    exactly.
    """
    batches = of_step(random_split(size), batch_size=batch, bucket=bucket)
    steps = batches.window * size  # `size` windows are window * batch epochs
    seen = collections.Counter(
        np.concatenate([batches.examples(step) for step in range(steps)]).tolist()
    )
    assert seen == dict.fromkeys(range(size), steps * batch // size)


@pytest.mark.parametrize("size, batch", [(20, 4), (20, 7), (21, 20), (20, 33), (300, 4)])
def test_without_buckets_each_epoch_holds_each_example_once(size, batch):
    batches = of_step(random_split(size), batch_size=batch, bucket=False)
    positions = np.concatenate([batches.examples(step) for step in range(4 * size)])
    for epoch in positions[: 4 * size].reshape(4, size):
        assert sorted(epoch) == list(range(size))


@pytest.mark.parametrize("size, batch", [(20, 4), (50, 16), (300, 4), (1000, 8)])
def test_with_buckets_an_epoch_is_sharp_to_within_one_window(size, batch):
    batches = of_step(random_split(size), batch_size=batch)
    for epoch in range(1, 4):
        # The first whole windows that hold the epoch.
        steps = -(-epoch * size // batch // batches.window) * batches.window
        seen = np.bincount(
            np.concatenate([batches.examples(step) for step in range(steps)]), minlength=size
        )
        assert seen.min() >= epoch
        assert seen.sum() - epoch * size <= batches.window * batch


@pytest.mark.parametrize(
    "size, batch, window", [(20, 32, 1), (50, 16, 3), (511, 8, 63), (512, 8, 64), (10_000, 8, 64)]
)
def test_a_window_is_no_longer_than_an_epoch(size, batch, window):
    """Else the copies of an example, being equally long, would be sorted into one batch."""
    assert of_step(random_split(size), batch_size=batch).window == window


@pytest.mark.parametrize("size", [48, 50, 100])
def test_an_example_comes_at_most_twice_in_a_batch(size):
    batches = of_step(random_split(size, longest=3), batch_size=16)
    for step in range(300):
        assert np.bincount(batches.examples(step)).max() <= 2


@pytest.mark.parametrize("size, batch", [(100, 8), (1000, 8), (700, 5)])
def test_bucketing_keeps_each_windows_examples(size, batch):
    with_buckets, without = (
        of_step(random_split(size), batch_size=batch, bucket=bucket) for bucket in (True, False)
    )
    for window in range(5):
        steps = range(window * with_buckets.window, (window + 1) * with_buckets.window)
        sorted_out, plain = (
            np.concatenate([each.examples(step) for step in steps])
            for each in (with_buckets, without)
        )
        assert sorted(sorted_out) == sorted(plain)
        assert sorted_out.tolist() != plain.tolist()


def twin_window(split, window, *, seed, batch, cut):
    """The batches of a window, in plain Python: a run must go on under a newer version as it
    began.
    """
    size = len(split)
    count = min(64, max(1, size // batch))
    positions = range(window * count * batch, (window + 1) * count * batch)
    examples = [twin_example(position, size, seed) for position in positions]
    # stable
    examples.sort(
        key=lambda example: min(cut, int(split.offsets[example + 1] - split.offsets[example]))
    )
    batches = [examples[first : first + batch] for first in range(0, count * batch, batch)]
    return [
        batches[twin_permute(place, count, twin_key(seed, window, 64))] for place in range(count)
    ]


@pytest.mark.parametrize(
    "size, batch, seed, cut", [(100, 8, 0, 40), (600, 3, 5, 13), (10, 16, 1, 40)]
)
def test_the_batches_of_a_window_never_change(size, batch, seed, cut):
    split = random_split(size)
    batches = of_step(split, seed, batch_size=batch, max_length=cut)
    for window in (0, 1, 50):
        found = [
            batches.examples(window * batches.window + place).tolist()
            for place in range(batches.window)
        ]
        assert found == twin_window(split, window, seed=seed, batch=batch, cut=cut)


def test_a_window_is_cut_into_batches_of_like_length_in_an_order_of_its_own():
    split = random_split(1000)
    lengths = np.diff(split.offsets)
    batches = of_step(split)
    orders = []
    for window in range(3):
        of_window = [
            lengths[batches.examples(step)] for step in range(window * 64, (window + 1) * 64)
        ]
        ranked = sorted(
            range(64), key=lambda place: (of_window[place].min(), of_window[place].max())
        )
        for shorter, longer in zip(ranked, ranked[1:]):
            assert of_window[shorter].max() <= of_window[longer].min()
        orders.append(ranked)
    assert sorted(orders[0]) != orders[0] != orders[1] != orders[2]


def test_bucketing_saves_padding():
    with_buckets, without = (of_step(random_split(1000), bucket=bucket) for bucket in (True, False))
    padded = [
        sum(each.padded_length(step) for step in range(64)) for each in (with_buckets, without)
    ]
    assert padded[0] < 0.7 * padded[1]


@pytest.mark.parametrize(
    "changes", [{}, {"bucket": False}, {"padding": "pre"}, {"max_length": 13, "truncate": "start"}]
)
def test_a_batch_holds_the_rows_of_its_examples(changes):
    split = random_split(100)
    batches = of_step(split, **changes)
    chosen = settings(**changes)
    for step in range(30):
        examples = batches.examples(step)
        rows, tokens, lengths, labels = batches.batch(step)
        assert rows.tolist() == list(range(8))
        assert labels.tolist() == split.labels[examples].tolist()
        assert tokens.shape[1] == batches.padded_length(step) in batches.lengths
        for row, example in enumerate(examples):
            full = split.tokens[split.offsets[example] : split.offsets[example + 1]]
            kept = (
                full[-chosen.max_length :]
                if chosen.truncate == "start"
                else full[: chosen.max_length]
            )
            padding = [0] * (tokens.shape[1] - len(kept))
            if chosen.padding == "pre":
                # Padding in front counts as tokens.
                assert (
                    tokens[row].tolist() == padding + kept.tolist()
                    and lengths[row] == 40 == tokens.shape[1]
                )
            else:
                assert tokens[row].tolist() == kept.tolist() + padding and lengths[row] == len(kept)


def test_without_buckets_row_r_of_step_s_is_position_s_times_batch_plus_r():
    batches = of_step(random_split(100), bucket=False)
    for step in (0, 1, 11, 12, 13, 10**6):
        positions = np.arange(step * 8, step * 8 + 8)
        np.testing.assert_array_equal(batches.examples(step), order.examples_at(positions, 100, 3))


@pytest.mark.parametrize("replicas", [1, 2, 3, 4, 8, 11])
@pytest.mark.parametrize(
    "changes", [{"batch_size": 8}, {"batch_size": 11}, {"batch_size": 11, "padding": "pre"}]
)
def test_any_split_over_replicas_gives_the_same_rows(replicas, changes):
    batches = of_step(random_split(60), **changes)
    for step in range(20):
        whole = batches.batch(step)
        parts = [batches.batch(step, *edges) for edges in bounds(changes["batch_size"], replicas)]
        for name, joined in zip(whole._fields, zip(*parts)):
            # of one width: padded alike
            np.testing.assert_array_equal(np.concatenate(joined), getattr(whole, name))


@pytest.mark.parametrize("bucket", [False, True])
def test_the_step_alone_decides_its_batch(bucket):
    split = random_split(150)
    one = of_step(split, bucket=bucket)
    whole = [one.batch(step) for step in range(100)]
    for step in np.random.default_rng(0).permutation(100):
        other = of_step(split, bucket=bucket)
        for ours, theirs in zip(other.batch(int(step)), whole[step]):
            np.testing.assert_array_equal(ours, theirs)


def test_another_seed_gives_other_batches():
    split = random_split(500)
    assert (
        of_step(split, seed=1).examples(0).tolist() != of_step(split, seed=2).examples(0).tolist()
    )


def test_batches_are_padded_to_the_few_lengths_and_no_further_than_they_need():
    split = random_split(500)
    batches = of_step(split, bucket=True)
    for step in range(100):
        longest = np.diff(split.offsets)[batches.examples(step)].max()
        assert batches.padded_length(step) == min(
            length for length in batches.lengths if length >= longest
        )


def test_padding_in_front_always_pads_to_max_length():
    batches = of_step(random_split(100, longest=5), padding="pre", max_length=30)
    assert batches.lengths.tolist() == [30]
    assert {batches.batch(step).tokens.shape for step in range(20)} == {(8, 30)}


@pytest.mark.parametrize("first", [0, 5, 70])
def test_the_dataset_carries_the_batches_from_any_step_on(first):
    batches = of_step(random_split(100))
    for step, batch in zip(range(first, first + 6), batches.dataset(first)):
        for tensor, array, spec in zip(batch, batches.batch(step), pipeline.SIGNATURE):
            np.testing.assert_array_equal(tensor.numpy(), array)
            assert spec.is_compatible_with(tensor)


# --- Evaluation and loose texts -------------------------------------------------------------------


@pytest.mark.parametrize(
    "size, batch", [(1, 1), (1, 4), (4, 4), (5, 4), (16, 4), (31, 8), (3, 100)]
)
@pytest.mark.parametrize("padding", ["pre", "post"])
def test_evaluation_holds_each_example_once(size, batch, padding):
    split = random_split(size)
    seen = []
    for padded, examples, real in pipeline.EvaluationBatches(
        split, settings(padding=padding), batch
    ):
        # also the last, so that one shape is compiled
        assert len(padded.tokens) == len(padded.rows) == batch
        assert real == len(examples)
        np.testing.assert_array_equal(padded.labels[:real], split.labels[examples])
        first = np.argmax(padded.tokens[:real] >= 1000, axis=1)
        np.testing.assert_array_equal(padded.tokens[np.arange(real), first] - 1000, examples)
        seen += examples.tolist()
    assert sorted(seen) == list(range(size))


def test_evaluation_sees_what_training_sees_of_an_example():
    split = random_split(40)
    chosen = settings(max_length=9, truncate="start")
    of_example = {}
    for padded, examples, real in pipeline.EvaluationBatches(split, chosen, 16):
        for row, example in enumerate(examples):
            of_example[example] = padded.tokens[row, : padded.lengths[row]].tolist()
    training = pipeline.TrainingBatches(split, chosen, 0)
    for step in range(20):
        batch = training.batch(step)
        for row, example in enumerate(training.examples(step)):
            assert batch.tokens[row, : batch.lengths[row]].tolist() == of_example[example]


@pytest.mark.parametrize(
    "lengths, max_length, padding, expected",
    [
        ([1], 40, "post", 16),
        ([16], 40, "post", 16),
        ([17, 3], 40, "post", 32),
        ([33], 40, "post", 40),  # no power of two beyond max_length
        ([90], 40, "post", 40),
        ([3], 5, "post", 5),
        ([3], 40, "pre", 40),
    ],
)
def test_loose_texts_are_padded_to_a_power_of_two(lengths, max_length, padding, expected):
    split = split_of([1 + np.arange(length) for length in lengths])
    batch = pipeline.loose_batch(split, settings(max_length=max_length, padding=padding))
    assert batch.tokens.shape == (len(lengths), expected)
    assert batch.lengths.tolist() == [
        expected if padding == "pre" else min(length, max_length) for length in lengths
    ]


def test_loose_texts_stay_in_their_order():
    split = random_split(20)
    assert pipeline.loose_batch(split, settings()).tokens[:, 0].tolist() == [
        1000 + i for i in range(20)
    ]
