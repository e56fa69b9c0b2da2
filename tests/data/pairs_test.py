"""The shapes of batches of pairs, against all chains that there are."""

import itertools

import numpy as np
import pytest

from trainer.data import pairs


def padded(sources, targets, chain):
    """Returns the steps of both sides together after padding."""
    return sum(
        next(sum(shape) for shape in chain if source <= shape[0] and target <= shape[1])
        for source, target in zip(sources, targets)
    )


def least(sources, targets, count):
    """Returns the least number of padded steps over all chains of at most `count` shapes."""
    top = (max(sources), max(targets))
    candidates = list(itertools.product(sorted(set(sources)), sorted(set(targets))))
    return min(
        padded(sources, targets, [*chain, top])
        for size in range(count)
        for chain in itertools.combinations(candidates, size)
        if all(one[0] <= other[0] and one[1] <= other[1] for one, other in zip(chain, chain[1:]))
    )


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_no_other_chain_of_shapes_pads_less(seed, count):
    generator = np.random.default_rng(seed)
    sources = generator.integers(1, 7, 20)
    targets = np.maximum(1, sources + generator.integers(-2, 3, 20))
    chain = pairs.shapes(sources, targets, count)
    assert len(chain) <= count and chain[-1] == (sources.max(), targets.max())
    assert padded(sources, targets, chain) == least(sources.tolist(), targets.tolist(), count)


def test_shapes_rise_on_both_sides():
    generator = np.random.default_rng(0)
    sources = generator.poisson(12, 5000) + 1
    targets = np.maximum(1, generator.normal(sources * 1.2, 3).astype(int))
    chain = pairs.shapes(sources, targets, 6)
    assert len(chain) == 6
    for (source, target), (longer_source, longer_target) in zip(chain, chain[1:]):
        assert source <= longer_source and target <= longer_target


@pytest.mark.parametrize(
    "sources, targets, chain",
    [
        ([3], [5], [(3, 5)]),
        ([2, 2, 2], [4, 4, 4], [(2, 4)]),
        ([1, 9], [1, 9], [(1, 1), (9, 9)]),
        ([1, 9], [9, 1], [(9, 1), (9, 9)]),  # Neither lies inside the other.
    ],
)
def test_there_are_no_more_shapes_than_there_is_use_for(sources, targets, chain):
    found = pairs.shapes(np.array(sources), np.array(targets), 6)
    assert padded(sources, targets, found) == padded(sources, targets, chain)
    assert found[-1] == chain[-1]


def test_long_texts_have_a_bounded_number_of_candidates():
    generator = np.random.default_rng(0)
    sources, targets = generator.integers(1, 3000, (2, 1000))
    assert len(pairs.shapes(sources, targets, 6)) <= 6


def test_shapes_are_counted_without_a_table_of_all_lengths():
    """It would have 10^14 entries here."""
    sources, targets = np.array([1, 10_000_000, 2]), np.array([10_000_000, 1, 3])
    chain = pairs.shapes(sources, targets, 6)
    assert chain[0] == (2, 3) and chain[-1] == (10_000_000, 10_000_000)


def test_a_pair_goes_into_the_first_shape_that_holds_both_sides():
    chain = [(3, 4), (5, 8), (9, 9)]
    sources, targets = np.array([3, 1, 4, 5, 1, 9]), np.array([4, 5, 1, 8, 9, 1])
    assert pairs.first_holding(sources, targets, chain).tolist() == [0, 1, 1, 1, 2, 2]
