"""Mean and deviation of columns of numbers that come in blocks, in float64 and in flat memory.

Blocks are joined as Chan, Golub and LeVeque (1979) do it. Numbers are taken relative to the first
row. So a column that never changes has a deviation of exactly 0, and a large offset costs no
digits.
"""

import math

import numpy as np


class Moments:
    """The moments of the rows that were added."""

    def __init__(self):
        self._count = 0
        self._pivot = self._mean = self._squares = np.zeros(0)

    def add(self, rows: np.ndarray) -> None:
        """Counts rows in: float [rows, columns]."""
        if not len(rows):
            return
        rows = rows.astype(np.float64)
        if not self._count:
            self._pivot = rows[0].copy()
            self._mean = self._squares = np.zeros(rows.shape[1])
        rows -= self._pivot
        mean = rows.mean(axis=0)
        rows -= mean
        squares = np.square(rows, out=rows).sum(axis=0)
        total, apart = self._count + len(rows), mean - self._mean
        self._mean = self._mean + apart * (len(rows) / total)
        self._squares = (
            self._squares + squares + np.square(apart) * (self._count * len(rows) / total)
        )
        self._count = total

    @property
    def constant(self) -> np.ndarray:
        """Whether each column never changes, or by too little for float32: bool [columns]."""
        return np.float32(self._deviation()) == 0

    def scale(self, together: bool = False) -> tuple[list[float], list[float]]:
        """Returns mean and deviation of each column, as float32 holds them.

        A column that never changes gets the deviation 1. together: all columns get the same two
        numbers, those of all their values.
        """
        mean, deviation = self._pivot + self._mean, self._deviation()
        if together:
            center = mean.mean()
            spread = math.sqrt(np.mean(np.square(deviation) + np.square(mean - center)))
            mean, deviation = np.full_like(mean, center), np.full_like(deviation, spread)
        deviation = np.where(np.float32(deviation) == 0, 1.0, deviation)
        return _shortest(mean), _shortest(deviation)

    def _deviation(self) -> np.ndarray:
        return np.sqrt(self._squares / max(1, self._count))


def _shortest(values: np.ndarray) -> list[float]:
    """Returns numbers as float32 holds them, with the fewest digits that tell them apart."""
    return [float(str(value)) for value in values.astype(np.float32)]
