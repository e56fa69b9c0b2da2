"""The order against a twin in plain Python integers, a frozen table and the laws of every order."""

import itertools

import numpy as np
import pytest

from trainer.data import order

TWO_64 = 2**64
GOLDEN = 0x9E3779B97F4A7C15


# --- The twin: the same function written again, one position at a time, in big integers -----------


def twin_mix(value):
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % TWO_64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % TWO_64
    return value ^ (value >> 31)


def twin_key(*parts):
    key = 0
    for part in parts:
        key = twin_mix((key + part + GOLDEN) % TWO_64)
    return key


def twin_permute(place, size, key):
    half = 1
    while 4**half < size:
        half += 1
    while True:
        left, right = divmod(place, 2**half)
        for turn in range(6):
            left, right = right, left ^ (twin_mix((right + key + turn * GOLDEN) % TWO_64) % 2**half)
        place = left * 2**half + right
        if place < size:
            return place


def twin_example(position, size, seed):
    epoch, place = divmod(position, size)
    return twin_permute(place, size, twin_key(seed, epoch))


def test_mix_is_the_published_finalizer():
    """SplitMix64 of Vigna (prng.di.unimi.it) prints these numbers for the seed 1234567.

    Each step adds GOLDEN to the state, then applies the finalizer.
    """
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    states = np.array([(1234567 + (i + 1) * GOLDEN) % TWO_64 for i in range(5)], np.uint64)
    assert order.mix(states).tolist() == published
    assert [twin_mix(int(state)) for state in states] == published


@pytest.mark.parametrize(
    "parts", [(0,), (0, 0), (1, 2), (2, 1), (7, 2**40, 3), (2**63, 5), (2**64 - 1, 2**64 - 1)]
)
def test_a_key_is_the_twins(parts):
    assert int(order.key(*parts)) == twin_key(*parts)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 100, 1000, 25_000, 2**31 + 11, 2**40 - 1])
@pytest.mark.parametrize("seed", [0, 1, 2**32 + 7])
def test_the_order_is_the_twins(size, seed):
    positions = np.concatenate([np.arange(40), np.arange(40) + 3 * size, [size - 1, size, 2**45]])
    assert order.examples_at(positions, size, seed).tolist() == [
        twin_example(int(p), size, seed) for p in positions
    ]


# A run of a week must be able to resume under a newer version, so these rows never change. They
# come from the twin above (`twin_example`), which shares no line with the module.
FROZEN = [
    # (size, seed, first position, the examples from there on)
    (1, 0, 0, [0, 0, 0]),
    (3, 0, 0, [0, 1, 2, 0, 2, 1]),
    (10, 0, 0, [4, 0, 7, 3, 1, 9, 2, 6, 8, 5]),
    (10, 1, 0, [6, 1, 8, 0, 4, 9, 2, 5, 3, 7]),
    (10, 0, 10, [5, 4, 6, 7, 8, 9, 2, 1, 3, 0]),
    (25_000, 0, 0, [19237, 18709, 19829, 22124, 24757, 20386]),
    (25_000, 0, 24_998, [8553, 9644, 7774, 18007, 23621, 15882]),
    (25_000, 42, 250_000, [20210, 3184, 5758, 21232, 5689, 21461]),
    (
        3_000_000_000,
        7,
        5_999_999_998,
        [2696143336, 466041662, 802373419, 2634418169, 1438227017, 515704760],
    ),
]


@pytest.mark.parametrize("size, seed, first, examples", FROZEN)
def test_the_order_never_changes(size, seed, first, examples):
    assert (
        order.examples_at(np.arange(first, first + len(examples)), size, seed).tolist() == examples
    )


# --- What every order satisfies -------------------------------------------------------------------


@pytest.mark.parametrize("size", [*range(1, 20), 63, 64, 65, 255, 257, 1023, 1025, 4097])
@pytest.mark.parametrize("seed", [0, 3])
def test_an_epoch_holds_each_example_once(size, seed):
    for epoch in (0, 1, 17, 10**6):
        examples = order.examples_at(np.arange(epoch * size, (epoch + 1) * size), size, seed)
        assert sorted(examples) == list(range(size))


@pytest.mark.parametrize(
    "size, batch", [(10, 1), (10, 3), (10, 10), (10, 25), (7, 32), (1, 4), (97, 32), (128, 32)]
)
def test_epochs_are_joined_without_a_dropped_tail(size, batch):
    steps = [
        order.examples_at(np.arange(step * batch, (step + 1) * batch), size, 5)
        for step in range(3 * size)
    ]
    epochs = np.concatenate(steps).reshape(-1, size)[:3]
    assert [sorted(epoch) for epoch in epochs] == [list(range(size))] * 3


def test_any_positions_can_be_computed_in_any_order():
    size, positions = 50, np.arange(400)
    whole = order.examples_at(positions, size, 9)
    for chosen in (
        positions[::-1],
        positions[3::7],
        np.array([399, 0, 399]),
        np.array([], np.int64),
    ):
        np.testing.assert_array_equal(order.examples_at(chosen, size, 9), whole[chosen])


def test_each_epoch_and_seed_has_a_different_order():
    orders = {
        tuple(order.examples_at(np.arange(epoch * 30, (epoch + 1) * 30), 30, seed))
        for seed in range(20)
        for epoch in range(20)
    }
    assert len(orders) == 400


def test_keys_of_different_parts_differ():
    pairs, triples = itertools.product(range(50), repeat=2), itertools.product(range(10), repeat=3)
    parts = [*((n,) for n in range(50)), *pairs, *triples]
    assert len({int(order.key(*each)) for each in parts}) == len(parts)


@pytest.mark.parametrize("size", [2, 3, 5, 8, 17, 40])
def test_every_example_is_as_likely_at_every_place(size):
    """A chi-squared of n - 1 degrees of freedom lies within six standard deviations of its mean.

    A standard deviation is sqrt(2 (n - 1)).
    """
    epochs = 200 * size
    table = order.examples_at(np.arange(epochs * size), size, 1).reshape(epochs, size)
    for place in {0, size // 2, size - 1}:
        seen = np.bincount(table[:, place], minlength=size)
        chi_squared = ((seen - 200) ** 2 / 200).sum()
        assert abs(chi_squared - (size - 1)) < 6 * np.sqrt(2 * (size - 1)), place


def test_every_order_of_four_examples_occurs_about_equally_often():
    table = order.examples_at(np.arange(4 * 24 * 200), 4, 2).reshape(-1, 4)
    _, seen = np.unique(table, axis=0, return_counts=True)
    assert len(seen) == 24
    assert ((seen - 200) ** 2 / 200).sum() - 23 < 6 * np.sqrt(2 * 23)


def test_neighbours_are_separated():
    """Places and examples are uncorrelated.

    In a random order of 10,000 about two examples stand next to their neighbour.
    """
    examples = order.examples_at(np.arange(10_000), 10_000, 0)
    assert (np.abs(np.diff(examples)) == 1).sum() < 15
    assert abs(np.corrcoef(np.arange(10_000), examples)[0, 1]) < 6 / np.sqrt(10_000)


# --- Steps and epochs -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "epoch, size, batch, step",
    [
        (1, 25_000, 32, 782),  # 781.25: the step that completes it
        (10, 25_000, 32, 7813),  # not 10 * 782: nothing is dropped
        (1, 64, 32, 2),
        (2, 64, 32, 4),
        (1, 3, 8, 1),
        (3, 3, 8, 2),  # one step ends two epochs
    ],
)
def test_an_epoch_ends_with_the_step_that_completes_it(epoch, size, batch, step):
    assert order.epoch_end(epoch, size, batch) == step


@pytest.mark.parametrize(
    "size, batch", [(10, 1), (10, 3), (10, 10), (10, 25), (7, 32), (97, 32), (128, 32)]
)
def test_a_step_belongs_to_the_first_epoch_that_has_not_ended_before_it(size, batch):
    for step in range(1, 100):
        first = next(
            epoch for epoch in itertools.count(1) if order.epoch_end(epoch, size, batch) >= step
        )
        assert order.epoch_of(step, size, batch) == first
