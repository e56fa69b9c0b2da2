"""Plans: which examples a step sees and how long they are padded, by the step alone."""

import collections
import re

import numpy as np
import pytest

from tests.data.order_test import twin_example, twin_key, twin_permute
from trainer.data import fields, order, plans
from trainer.data.store import Split
from trainer.exit_codes import UsageError
from trainer.flags.run import Input


def split_of(sequences, labels=None):
    offsets = np.concatenate([[0], np.cumsum([len(sequence) for sequence in sequences])]).astype(
        np.int64
    )
    labels = np.arange(len(sequences)) % 7 if labels is None else labels
    return Split(np.concatenate(sequences).astype(np.int32), offsets, np.asarray(labels, np.int32))


def random_split(size, longest=40, seed=0):
    """Example i begins with the token 1000 + i, so that a batch shows which examples it holds."""
    lengths = np.random.default_rng(seed).integers(1, longest + 1, size)
    return split_of(
        [
            np.concatenate([[1000 + i], 1 + np.arange(length - 1) % 50])
            for i, length in enumerate(lengths)
        ]
    )


def settings(**changes):
    return Input(**{"batch_size": 8, "max_length": 40, **changes})


def plan_of(split, seed=3, **changes):
    return plans.ShuffledPlan(split, settings(**changes), seed)


# --- Padded lengths -------------------------------------------------------------------------------


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
    assert plans.padded_lengths(cut, max_length, count).tolist() == expected


@pytest.mark.parametrize("seed", range(5))
def test_padded_lengths_are_few_rise_and_hold_every_example(seed):
    generator = np.random.default_rng(seed)
    cut = np.minimum(generator.geometric(0.02, 3000), 200)
    lengths = plans.padded_lengths(cut, 200)
    assert len(lengths) <= plans.LENGTHS
    assert (np.diff(lengths) > 0).all()
    assert lengths[-1] >= cut.max()
    assert all(length % plans.GRAIN == 0 or length == 200 for length in lengths)


# --- The examples of a step -----------------------------------------------------------------------


@pytest.mark.parametrize("size, batch", [(20, 4), (20, 7), (20, 20), (20, 33), (1, 3), (300, 4)])
@pytest.mark.parametrize("bucket", [False, True])
def test_an_epochs_worth_of_windows_holds_each_example_equally_often(size, batch, bucket):
    """Windows are runs of positions: so many of them that they are whole epochs are balanced
    exactly.
    """
    plan = plan_of(random_split(size), batch_size=batch, bucket=bucket)
    steps = plan.window * size  # `size` windows are window * batch epochs
    seen = collections.Counter(
        np.concatenate([plan.examples(step) for step in range(steps)]).tolist()
    )
    assert seen == dict.fromkeys(range(size), steps * batch // size)


@pytest.mark.parametrize("size, batch", [(20, 4), (20, 7), (21, 20), (20, 33), (300, 4)])
def test_without_buckets_each_epoch_holds_each_example_once(size, batch):
    plan = plan_of(random_split(size), batch_size=batch, bucket=False)
    positions = np.concatenate([plan.examples(step) for step in range(4 * size)])
    for epoch in positions[: 4 * size].reshape(4, size):
        assert sorted(epoch) == list(range(size))


@pytest.mark.parametrize("size, batch", [(20, 4), (50, 16), (300, 4), (1000, 8)])
def test_with_buckets_an_epoch_is_sharp_to_within_one_window(size, batch):
    plan = plan_of(random_split(size), batch_size=batch)
    for epoch in range(1, 4):
        # The first whole windows that hold the epoch.
        steps = -(-epoch * size // batch // plan.window) * plan.window
        seen = np.bincount(
            np.concatenate([plan.examples(step) for step in range(steps)]), minlength=size
        )
        assert seen.min() >= epoch
        assert seen.sum() - epoch * size <= plan.window * batch


@pytest.mark.parametrize(
    "size, batch, window", [(20, 32, 1), (50, 16, 3), (511, 8, 63), (512, 8, 64), (10_000, 8, 64)]
)
def test_a_window_is_no_longer_than_an_epoch(size, batch, window):
    """Else the copies of an example, being equally long, would be sorted into one batch."""
    assert plan_of(random_split(size), batch_size=batch).window == window


@pytest.mark.parametrize("size", [48, 50, 100])
def test_an_example_comes_at_most_twice_in_a_batch(size):
    plan = plan_of(random_split(size, longest=3), batch_size=16)
    for step in range(300):
        assert np.bincount(plan.examples(step)).max() <= 2


@pytest.mark.parametrize("size, batch", [(100, 8), (1000, 8), (700, 5)])
def test_bucketing_keeps_each_windows_examples(size, batch):
    with_buckets, without = (
        plan_of(random_split(size), batch_size=batch, bucket=bucket) for bucket in (True, False)
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
    """Returns the batches of a window, in plain Python: a newer version must see the same ones."""
    size = len(split)
    count = min(64, max(1, size // batch))
    positions = range(window * count * batch, (window + 1) * count * batch)
    examples = [twin_example(position, size, seed) for position in positions]
    # A stable sort.
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
    plan = plan_of(split, seed, batch_size=batch, max_length=cut)
    for window in (0, 1, 50):
        found = [
            plan.examples(window * plan.window + place).tolist() for place in range(plan.window)
        ]
        assert found == twin_window(split, window, seed=seed, batch=batch, cut=cut)


def test_a_window_is_cut_into_batches_of_like_length_in_an_order_of_its_own():
    split = random_split(1000)
    lengths = np.diff(split.offsets)
    plan = plan_of(split)
    orders = []
    for window in range(3):
        of_window = [lengths[plan.examples(step)] for step in range(window * 64, (window + 1) * 64)]
        ranked = sorted(
            range(64), key=lambda place: (of_window[place].min(), of_window[place].max())
        )
        for shorter, longer in zip(ranked, ranked[1:]):
            assert of_window[shorter].max() <= of_window[longer].min()
        orders.append(ranked)
    assert sorted(orders[0]) != orders[0] != orders[1] != orders[2]


def test_bucketing_saves_padding():
    with_buckets, without = (plan_of(random_split(1000), bucket=bucket) for bucket in (True, False))
    padded = [
        sum(each.padded_length(step) for step in range(64)) for each in (with_buckets, without)
    ]
    assert padded[0] < 0.7 * padded[1]


def test_without_buckets_row_r_of_step_s_is_position_s_times_batch_plus_r():
    plan = plan_of(random_split(100), bucket=False)
    for step in (0, 1, 11, 12, 13, 10**6):
        positions = np.arange(step * 8, step * 8 + 8)
        np.testing.assert_array_equal(plan.examples(step), order.examples_at(positions, 100, 3))


def test_another_seed_gives_other_batches():
    split = random_split(500)
    assert (
        plan_of(split, seed=1).examples(0).tolist() != plan_of(split, seed=2).examples(0).tolist()
    )


def test_batches_are_padded_to_the_few_lengths_and_no_further_than_they_need():
    split = random_split(500)
    plan = plan_of(split, bucket=True)
    for step in range(100):
        longest = np.diff(split.offsets)[plan.examples(step)].max()
        assert plan.padded_length(step) == min(
            length for length in plan.lengths if length >= longest
        )


# --- Epochs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size, batch, ends",
    [
        (20, 5, [4, 8, 12]),
        (20, 8, [3, 5, 8]),  # 2.5 steps each: the step that crosses counts for what it completes
        (3, 8, [1, 1, 2]),  # several epochs in a step
        (1, 1, [1, 2, 3]),
    ],
)
def test_an_epoch_ends_with_the_step_that_completes_it(size, batch, ends):
    plan = plan_of(random_split(size), batch_size=batch)
    assert [plan.epochs.end(epoch) for epoch in (1, 2, 3)] == ends
    for step in range(1, ends[-1] + 1):
        epoch = plan.epochs.of(step)
        assert plan.epochs.end(epoch - 1) < step <= plan.epochs.end(epoch)


# --- Streams --------------------------------------------------------------------------------------


def text_of(size):
    """A text whose tokens are their own places."""
    return Split(np.arange(size, dtype=np.int32), np.array([0, size], np.int64))


def streams_of(size, batch, length, seed=3):
    return plans.StreamsPlan(text_of(size), settings(batch_size=batch, max_length=length), seed)


# (tokens, batch_size, max_length, chunks of a part, tokens that an epoch leaves out)
TEXTS = [
    (100, 4, 5, 5, 0),
    (103, 4, 5, 5, 3),
    (124, 4, 5, 6, 4),
    (100, 3, 5, 6, 10),
    (100, 1, 7, 14, 2),
    (7, 7, 1, 1, 0),
    (15, 3, 5, 1, 0),
    (19, 3, 5, 1, 4),
    (5000, 16, 20, 15, 200),
]


def epoch_of(plan, epoch, chunks):
    """The places that each row begins at: int64 [chunks, rows]."""
    return np.stack([plan.examples(epoch * chunks + chunk) for chunk in range(chunks)])


@pytest.mark.parametrize("size, batch, length, chunks, left_out", TEXTS)
def test_within_an_epoch_each_row_reads_on_and_no_token_is_read_twice(
    size, batch, length, chunks, left_out
):
    plan = streams_of(size, batch, length)
    assert plan.size == chunks * batch
    assert [plan.epochs.end(epoch) for epoch in (1, 2, 7)] == [chunks, 2 * chunks, 7 * chunks]
    for epoch in range(6):
        begins = epoch_of(plan, epoch, chunks)
        assert begins.dtype == np.int64 and begins.min() >= 0 and begins.max() < size
        np.testing.assert_array_equal((begins[1:] - begins[:-1]) % size, length)
        read = (begins[:, :, None] + np.arange(length)) % size
        assert np.bincount(read.ravel(), minlength=size).max() == 1
        assert size - read.size == left_out < batch * length + batch


@pytest.mark.parametrize("size, batch, length, chunks, left_out", TEXTS)
def test_parts_of_a_text_are_equal_and_lie_one_after_the_other_in_the_circle(
    size, batch, length, chunks, left_out
):
    plan = streams_of(size, batch, length)
    for epoch in range(4):
        begins = plan.examples(epoch * chunks)
        np.testing.assert_array_equal(np.diff(begins) % size, size // batch)


def test_each_epoch_turns_the_text_so_that_every_token_is_read_sooner_or_later():
    size, chunks = 103, 5
    plan = streams_of(size, 4, 5)
    turns = [int(plan.examples(epoch * chunks)[0]) for epoch in range(200)]
    assert len(set(turns)) > size / 2
    # What one epoch leaves out, others read: on average 100 of 103 tokens.
    seen = np.zeros(size, int)
    for epoch in range(200):
        places = epoch_of(plan, epoch, chunks)[:, :, None] + np.arange(5)
        np.add.at(seen, places.ravel() % size, 1)
    assert seen.min() > 170 and seen.sum() == 200 * 100


@pytest.mark.parametrize("size, batch, length, chunks, left_out", TEXTS)
def test_the_turn_is_the_key_of_seed_epoch_text_and_chunk(size, batch, length, chunks, left_out):
    """A newer version must read the same streams."""
    for seed in (0, 5):
        plan = streams_of(size, batch, length, seed)
        for epoch in (0, 1, 1000):
            turn = twin_key(seed, epoch, size, length) % size
            assert plan.examples(epoch * chunks)[0] == turn


def test_the_seed_and_the_step_alone_determine_the_streams():
    plan, steps = streams_of(1000, 4, 5), np.random.default_rng(0).permutation(300)
    whole = {int(step): plan.examples(int(step)).tolist() for step in steps}
    for step, places in whole.items():
        assert streams_of(1000, 4, 5).examples(step).tolist() == places
    assert streams_of(1000, 4, 5, seed=4).examples(0).tolist() != whole[0]


def test_streams_have_one_length():
    plan = streams_of(100, 4, 5)
    assert plan.lengths == [5] and {plan.padded_length(step) for step in range(20)} == {5}


def test_the_order_of_a_dataset_chooses_its_plan():
    chosen = settings(batch_size=4, max_length=5)
    for name, kind in ((fields.SHUFFLED, plans.ShuffledPlan), (fields.STREAMS, plans.StreamsPlan)):
        assert type(plans.training_plan(text_of(100), name, chosen, 0)) is kind
    assert set(fields.ORDERS) == {fields.SHUFFLED, fields.STREAMS}


@pytest.mark.parametrize(
    "size, batch, length, fits",
    [
        (19, 4, 5, [(3, 5), (4, 4)]),
        (100, 64, 200, [(64, 1)]),  # not one chunk
        (50, 64, 10, [(5, 10)]),  # not one token for each stream
        (7, 8, 8, [(1, 7)]),  # neither
        (1, 2, 2, [(1, 1)]),
    ],
)
def test_a_text_that_is_too_short_is_refused_with_the_most_that_fits(size, batch, length, fits):
    with pytest.raises(UsageError) as refusal:
        streams_of(size, batch, length)
    message = str(refusal.value)
    assert message.startswith(f"--batch_size={batch} x --max_length={length} is {batch * length} ")
    assert f"has only {size}:" in message
    remedy = message.partition("chunk. ")[2]
    named = [(name, int(value)) for name, value in re.findall(r"--(\w+)=(\d+)", remedy)]
    asked = {"batch_size": batch, "max_length": length}
    tries = [dict(named)] if remedy.startswith("Lower both") else [dict([one]) for one in named]
    for changes, pair in zip(tries, fits, strict=True):
        tried = {**asked, **changes}
        assert (tried["batch_size"], tried["max_length"]) == pair
        streams_of(size, *pair)
        if not remedy.startswith("Lower both"):
            [name] = changes
            with pytest.raises(UsageError):
                streams_of(size, *{**tried, name: tried[name] + 1}.values())


@pytest.mark.parametrize("sizes", [range(2, 201), [1000, 16 * 64 + 1, 16 * 64 + 2, 5000]])
def test_an_evaluation_of_a_text_has_every_token_but_the_first_as_a_target_once(sizes):
    for size in sizes:
        plan, targets, ends = plans.StreamEvaluationPlan(text_of(size)), [], None
        assert plan.batch_size == plans.EVALUATION_PARTS == 16
        for starts, lengths, length in plan:
            assert [length] == plan.lengths and 1 <= length <= plans.EVALUATION_CHUNK
            assert len(starts) == len(lengths) == 16 and lengths.dtype == np.int32
            assert lengths.min() >= 0 and lengths.max() <= length
            if ends is not None:  # A chunk goes on where the one before it ended, if at all.
                np.testing.assert_array_equal(starts[lengths > 0], ends[lengths > 0])
            ends = starts + lengths
            for start, count in zip(starts, lengths):
                targets += range(start + 1, start + count + 1)
        assert sorted(targets) == list(range(1, size)), size


def test_the_parts_of_an_evaluation_are_equal_to_within_a_token_and_in_order():
    for size in (2, 17, 33, 1000, 1040):
        sums = np.zeros(16, int)
        for starts, lengths, _ in plans.StreamEvaluationPlan(text_of(size)):
            sums += lengths
            assert (np.diff(starts) >= 0).all()
        assert sums.max() - sums.min() <= 1 and sums.sum() == size - 1


# --- Evaluation and loose texts -------------------------------------------------------------------


@pytest.mark.parametrize(
    "lengths, batch, expected",
    [
        ([9, 2, 5], 1, [([1], 1), ([2], 1), ([0], 1)]),
        ([9, 2, 5], 2, [([1, 2], 2), ([0, 1], 1)]),  # filled up with the shortest
        ([9, 2, 5], 5, [([1, 2, 0, 1, 1], 3)]),
        ([4, 4, 4], 2, [([0, 1], 2), ([2, 0], 1)]),  # ties keep their order
    ],
)
def test_an_evaluation_goes_through_a_split_by_length(lengths, batch, expected):
    split = split_of([np.ones(length) for length in lengths])
    plan = plans.EvaluationPlan(plans.lengths_of(split, settings()), batch)
    assert [(examples.tolist(), real) for examples, real, _ in plan] == expected
    for examples, _, length in plan:
        longest = max(lengths[example] for example in examples)
        assert length == min(each for each in plan.lengths if each >= longest)


def test_padding_in_front_knows_one_length():
    split, chosen = random_split(50, longest=5), settings(padding="pre", max_length=30)
    assert plans.ShuffledPlan(split, chosen, 4).lengths == [30]
    assert plans.EvaluationPlan(plans.lengths_of(split, chosen), 4).lengths == [30]


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
    assert plans.loose_length(split, settings(max_length=max_length, padding=padding)) == expected


# --- Pairs ----------------------------------------------------------------------------------------


def random_pairs(size, longest=30, seed=0):
    """Source i begins with 1000 + i; a target is about as long."""
    sources = random_split(size, longest, seed)
    lengths = np.diff(sources.offsets)
    lengths = np.maximum(1, lengths + np.random.default_rng(seed).integers(-3, 4, size))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Split(sources.inputs, sources.offsets, np.ones(offsets[-1], np.int32), offsets)


def test_an_epoch_sees_every_pair_once_in_few_shapes_that_hold_both_sides():
    split = random_pairs(512)
    plan = plan_of(split)
    sources, targets = np.diff(split.offsets), np.diff(split.target_offsets)
    seen = [plan.examples(step) for step in range(64)]
    assert sorted(np.concatenate(seen)) == list(range(512))
    assert len(plan.lengths) == 6
    for step, examples in enumerate(seen):
        source, target = plan.padded_length(step)
        assert (source, target) in plan.lengths
        assert source >= sources[examples].max() and target >= targets[examples].max()


def test_a_limit_that_cuts_no_pair_changes_no_plan_however_high_it_is():
    split = random_pairs(512)
    plan, limitless = (plan_of(split, max_length=each) for each in (1000, 2**31 - 1))
    assert plan.lengths == limitless.lengths
    for step in range(64):
        np.testing.assert_array_equal(plan.examples(step), limitless.examples(step))


def test_the_share_of_padding_is_that_of_the_batches_of_an_epoch():
    split = random_pairs(512)
    plan = plan_of(split)
    real = len(split.inputs) + len(split.targets)
    padded = sum(8 * sum(plan.padded_length(step)) for step in range(64))
    assert plan.padding() == pytest.approx(1 - real / padded)
    assert 0 < plan.padding() < plan_of(split, bucket=False).padding() < 1


def test_the_padding_of_texts_alone_is_that_of_their_batches():
    split = random_split(80)
    plan = plan_of(split)
    padded = sum(8 * plan.padded_length(step) for step in range(10))
    assert plan.padding() == pytest.approx(1 - len(split.inputs) / padded)


def test_an_evaluation_reads_every_pair_once_in_shapes_that_hold_it():
    split = random_pairs(50)
    plan = plans.EvaluationPlan(plans.lengths_of(split, settings()), 8)
    sources, targets = np.diff(split.offsets), np.diff(split.target_offsets)
    counted = []
    for examples, real, (source, target) in plan:
        assert len(examples) == 8
        counted += examples[:real].tolist()
        assert source >= sources[examples].max() and target >= targets[examples].max()
    assert sorted(counted) == list(range(50))


def test_pairs_are_cut_on_both_sides():
    plan = plan_of(random_pairs(80), max_length=10)
    assert max(plan.lengths) == (10, 10)
