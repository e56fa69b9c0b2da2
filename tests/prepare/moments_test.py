"""Moments of blocks are those of all rows, as NumPy computes them in float64."""

import numpy as np
import pytest

from trainer.prepare.moments import Moments


def of(rows, sizes):
    moments = Moments()
    for block in np.split(rows, np.cumsum(sizes)[:-1]):
        moments.add(block)
    return moments


@pytest.mark.parametrize("sizes", [[400], [1] * 400, [3, 0, 390, 7]])
@pytest.mark.parametrize("offset", [0, 1e6])
def test_blocks_of_any_size_add_up(sizes, offset):
    rows = (np.random.default_rng(0).normal(size=(400, 3)) + offset).astype(np.float32)
    mean, deviation = of(rows, sizes).scale()
    np.testing.assert_allclose(mean, rows.astype(float).mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(deviation, rows.astype(float).std(axis=0), rtol=1e-6)
    mean, deviation = of(rows, sizes).scale(together=True)
    np.testing.assert_allclose(mean, [rows.astype(float).mean()] * 3, rtol=1e-6)
    np.testing.assert_allclose(deviation, [rows.astype(float).std()] * 3, rtol=1e-6)


def test_a_column_that_never_changes_is_known_exactly_whatever_its_value():
    rows = np.stack([np.full(10_000, 0.1), np.arange(10_000)], axis=1).astype(np.float32)
    moments = of(rows, [3333, 3333, 3334])
    assert moments.constant.tolist() == [True, False]
    mean, deviation = moments.scale()
    assert mean[0] == 0.1 and deviation[0] == 1
    assert ((rows[:, 0] - np.float32(mean[0])) == 0).all()
