"""The few shapes that batches of pairs are padded to: a length for each side.

Each shape is compiled once. They are a chain: each is at least as long as the one before it on both
sides. A pair goes into the first one that holds it.
"""

import numpy as np

_CANDIDATES = 32  # Lengths of a side that are tried, so that 1,024 shapes are.


def shapes(sources: np.ndarray, targets: np.ndarray, count: int) -> list[tuple[int, int]]:
    """Returns the chain of at most `count` shapes (source, target) with the least padding.

    It is exact, by dynamic programming over all chains of candidates. The candidates of a side are
    its lengths, or quantiles of them if there are more than 32. The last shape holds all pairs.

    Args:
      sources, targets: int [pairs], the lengths of each pair.
    """
    sides = _candidates(sources), _candidates(targets)
    source, target = (axis.ravel() for axis in np.meshgrid(*sides))
    held = _held(sources, targets, *sides).T.ravel()
    work = source + target
    inside = (source[:, None] <= source) & (target[:, None] <= target)  # [smaller, larger]
    cost, before = held * work, []
    for _ in range(count - 1):
        # The pairs that the smaller shape holds already cost what they cost there.
        options = np.where(
            inside, cost[:, None] + (held - held[:, None]) * work, np.iinfo(np.int64).max
        )
        before.append(options.argmin(axis=0))
        cost = options.min(axis=0)
    place = len(work) - 1  # The largest of both sides.
    chain = [place]
    for pointers in reversed(before):
        chain.append(int(pointers[chain[-1]]))
    return sorted({(int(source[at]), int(target[at])) for at in chain if held[at]})


def first_holding(
    sources: np.ndarray, targets: np.ndarray, chain: list[tuple[int, int]]
) -> np.ndarray:
    """Returns the number of the first shape of a chain that holds each pair: int64 [pairs].

    sources, targets: int [pairs], lengths that the last shape holds.
    """
    number = np.zeros(len(sources), np.int64)
    for source, target in chain[:-1]:
        number += (sources > source) | (targets > target)
    return number


def _candidates(lengths: np.ndarray) -> np.ndarray:
    """Returns increasing lengths, the largest included."""
    different = np.unique(lengths).astype(np.int64)
    if len(different) <= _CANDIDATES:
        return different
    shares = np.arange(1, _CANDIDATES + 1) / _CANDIDATES
    return np.unique(np.quantile(lengths, shares, method="higher").astype(np.int64))


def _held(
    sources: np.ndarray, targets: np.ndarray, longest: np.ndarray, longest_targets: np.ndarray
) -> np.ndarray:
    """Returns how many pairs each shape holds: int64 [candidates, candidates of targets].

    longest, longest_targets: the candidates of the sides.
    """
    counts = np.zeros((len(longest), len(longest_targets)), np.int64)
    smallest = np.searchsorted(longest, sources), np.searchsorted(longest_targets, targets)
    np.add.at(counts, smallest, 1)
    return counts.cumsum(axis=0).cumsum(axis=1)
