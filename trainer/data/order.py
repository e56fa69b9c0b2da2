"""The order of examples, computed from the position alone: no shuffle buffer, no iterator state,
nothing to save.

Position p of a run is epoch p // n, place p % n; each epoch is a keyed permutation of the n
examples, and epochs are joined end to end. Any slice of positions can be asked for, in any order,
by any worker.
"""

import numpy as np

# 2**64 / golden ratio: the increment of SplitMix64, so that rounds and parts get unlike keys.
_WEYL = 0x9E3779B97F4A7C15
_ROUND_KEYS = tuple(np.uint64(turn * _WEYL % 2**64) for turn in range(6))


def mix(values: np.ndarray) -> np.ndarray:
    """A bijection of uint64 in which every input bit affects every output bit: the finalizer of
    SplitMix64.

    Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014; constants of
    Stafford's variant 13.
    """
    values = values ^ (values >> np.uint64(30))
    values = values * np.uint64(0xBF58476D1CE4E5B9)
    values = values ^ (values >> np.uint64(27))
    values = values * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def key(*parts: int) -> np.uint64:
    """One uint64 from several integers, for example (seed, epoch); different parts give unrelated
    keys.
    """
    folded = np.zeros(1, np.uint64)
    for part in parts:
        folded = mix(folded + np.uint64((part + _WEYL) % 2**64))
    return folded[0]


def permute(places: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """Where a keyed permutation of range(size) sends each place.

    A Feistel network over the smallest even number of bits that holds `size`; an output that is not
    below `size` is sent through again until it is (cycle walking: Black and Rogaway, Ciphers with
    Arbitrary Finite Domains, CT-RSA 2002, sections 5 and 6), which is at most four times on
    average.

    Args:
      places: int64 [n], each in [0, size).
      size: number of elements, at least 1.
      keys: uint64 [n] or scalar; equal keys select the same permutation.

    Returns:
      int64 [n], each in [0, size).
    """
    half = np.uint64(max(1, (int(size - 1).bit_length() + 1) // 2))
    result = places.astype(np.uint64)
    keys = np.broadcast_to(np.asarray(keys, np.uint64), result.shape)
    outside = np.ones(result.shape, bool)
    while outside.any():
        result[outside] = _feistel(result[outside], half, keys[outside])
        outside = result >= np.uint64(size)
    return result.astype(np.int64)


def _feistel(values: np.ndarray, half: np.uint64, keys: np.ndarray) -> np.ndarray:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for round_key in _ROUND_KEYS:
        left, right = right, left ^ (mix(right + keys + round_key) & mask)
    return (left << half) | right


def examples_at(positions: np.ndarray, size: int, seed: int) -> np.ndarray:
    """The example at each position of a run.

    With 3 examples, positions 0 1 2 are some order of 0 1 2, positions 3 4 5 another.

    Args:
      positions: int64 [n], from 0 upwards.
      size: examples of the split.
      seed: selects the order.

    Returns:
      int64 [n], each in [0, size).
    """
    epochs, places = np.divmod(np.asarray(positions, np.int64), size)
    distinct, which = np.unique(epochs, return_inverse=True)
    keys = np.array([key(seed, int(epoch)) for epoch in distinct], np.uint64)
    return permute(places, size, keys[which])


def epoch_end(epoch: int, size: int, batch_size: int) -> int:
    """The step (counted from 1) after which epoch `epoch` (from 1) has been seen: ceil(epoch * size
    / batch_size).
    """
    return -(-epoch * size // batch_size)


def epoch_of(step: int, size: int, batch_size: int) -> int:
    """The epoch (from 1) that step `step` (from 1) belongs to: the first whose end is not before
    the step.

    The step that crosses from one epoch to the next counts for the one it completes.
    """
    return ((step - 1) * batch_size) // size + 1
