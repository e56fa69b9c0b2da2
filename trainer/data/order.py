"""Computes the order of examples from the position alone.

There is no shuffle buffer, no iterator state and nothing to save. Position p of a run is place
p % n of epoch p // n. Each epoch is a keyed permutation of the n examples, and epochs are joined
end to end. Any worker can compute any slice of positions, in any order.
"""

import numpy as np

# 2**64 / golden ratio: the increment of SplitMix64, so that rounds and parts get unlike keys.
_WEYL = 0x9E3779B97F4A7C15
_ROUND_KEYS = tuple(np.uint64(turn * _WEYL % 2**64) for turn in range(6))


def mix(values: np.ndarray) -> np.ndarray:
    """Maps uint64 values one to one, such that every input bit affects every output bit.

    The finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators,
    OOPSLA 2014) with the constants of Stafford's variant 13.
    """
    values = values ^ (values >> np.uint64(30))
    values = values * np.uint64(0xBF58476D1CE4E5B9)
    values = values ^ (values >> np.uint64(27))
    values = values * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def key(*parts: int) -> np.uint64:
    """Returns one uint64 made from several integers, for example (seed, epoch).

    Different integers give unrelated keys.
    """
    folded = np.zeros(1, np.uint64)
    for part in parts:
        folded = mix(folded + np.uint64((part + _WEYL) % 2**64))
    return folded[0]


def permute(places: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """Returns the place to which a keyed permutation of range(size) moves each place.

    A Feistel network over the smallest even number of bits that holds `size`. An output that is not
    below `size` goes through the network again until it is (cycle walking: Black and Rogaway,
    Ciphers with Arbitrary Finite Domains, CT-RSA 2002, sections 5 and 6), which takes at most four
    passes on average.

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
    """Returns the example at each position of a run.

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
    """Returns the step (from 1) that completes epoch `epoch` (from 1).

    It is ceil(epoch * size / batch_size).
    """
    return -(-epoch * size // batch_size)


def epoch_of(step: int, size: int, batch_size: int) -> int:
    """Returns the epoch (from 1) of step `step` (from 1): the first that ends at or after the step.

    A step that crosses from one epoch into the next belongs to the one that it completes.
    """
    return ((step - 1) * batch_size) // size + 1
