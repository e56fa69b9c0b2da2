"""Digits that move as the recipe says."""

import subprocess
import sys

import numpy as np
import pytest

from scripts import moving_mnist


def test_digits_stay_inside_move_evenly_and_turn_at_the_edges():
    found = moving_mnist.places(np.random.default_rng(0), 200, 40)
    assert found.shape == (200, 40, 2) and found.min() >= 0 and found.max() <= 1
    steps = np.diff(found, axis=1)
    inside = (found > 0).all(-1) & (found < 1).all(-1)
    free = inside[:, :-1] & inside[:, 1:]
    np.testing.assert_allclose(np.linalg.norm(steps, axis=-1)[free], moving_mnist.STEP)
    turned = np.sign(steps[:, 1:]) != np.sign(steps[:, :-1])
    assert turned.any() and not turned[free[:, 1:] & free[:, :-1]].any()


def test_a_video_shows_its_digit_once_in_every_frame():
    digits = np.arange(1, 3 * 4 + 1, dtype=np.uint8).reshape(3, 2, 2)
    at = np.array([[[0, 0], [1, 1]], [[0, 1], [1, 0]], [[0.5, 0.5], [0.5, 0.5]]])
    videos = moving_mnist.videos_of(digits, at, 6)
    assert videos.shape == (3, 2, 6, 6) and videos.dtype == np.uint8
    for digit, video, corners in zip(digits, videos, (at * 4).astype(int)):
        for frame, (top, left) in zip(video, corners):
            np.testing.assert_array_equal(frame[top : top + 2, left : left + 2], digit)
            assert frame.sum() == digit.sum()


@pytest.fixture
def mnist(tmp_path):
    chance = np.random.default_rng(0)
    arrays = {
        f"{name}_{split}": chance.integers(0, 10, shape).astype(np.uint8)
        for split in ("train", "test")
        for name, shape in (("x", (20, 28, 28)), ("y", (20,)))
    }
    np.savez(tmp_path / "mnist.npz", **arrays)
    return tmp_path / "mnist.npz"


def make(mnist, output, *flags):
    command = [sys.executable, moving_mnist.__file__, f"--mnist={mnist}", f"--output={output}"]
    return subprocess.run([*command, *flags], capture_output=True, text=True)


def test_the_same_seed_makes_the_same_files(mnist, tmp_path):
    for name in ("a", "b"):
        assert make(mnist, tmp_path / name, "--train=3", "--test=2", "--frames=4").returncode == 0
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["x_test.npy", "x_train.npy", "y_test.npy", "y_train.npy"]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert np.load(tmp_path / "a/x_train.npy").shape == (3, 4, 64, 64)


def test_a_folder_that_exists_a_small_size_and_another_file_are_refused(mnist, tmp_path):
    for flags, message in (
        ([tmp_path], "exists already"),
        ([tmp_path / "new", "--size=20"], "a digit has 28 pixels"),
        ([tmp_path / "new", "--train=0"], "at least 1"),
    ):
        found = make(mnist, *flags)
        assert found.returncode == 2 and message in found.stderr
    found = make(__file__, tmp_path / "new")
    assert found.returncode == 2 and "Name the mnist.npz of Keras" in found.stderr
    assert not (tmp_path / "new").exists()
