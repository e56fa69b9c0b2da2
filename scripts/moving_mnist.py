#!/usr/bin/env python3
"""Makes videos of handwritten digits that move, for `trainer prepare --source=arrays`.

    scripts/moving_mnist.py --mnist=mnist.npz --output=FOLDER [--train=5000 --test=1000]

The recipe is that of Srivastava, Mansimov and Salakhutdinov, Unsupervised Learning of Video
Representations using LSTMs, 2015, section 4.1 (https://arxiv.org/abs/1502.04681): a digit starts at
a random place of a square of 64 x 64 pixels, moves with a constant velocity in a random direction,
and bounces off the edges. Here is one digit in each video, so that one can ask which digit it is.
The step is a tenth of the way that a digit can go. A test video shows a test digit.

The same seed makes the same bytes. FOLDER holds x_train.npy, uint8 [videos, frames, size, size],
y_train.npy, x_test.npy and y_test.npy.
"""

import argparse
import pathlib
import sys

import numpy as np

STEP = 0.1


def places(generator: np.random.Generator, videos: int, frames: int) -> np.ndarray:
    """Returns where digits are: float64 [videos, frames, 2], from 0 to 1 in both directions."""
    place = generator.random((videos, 2))
    angle = generator.random(videos) * 2 * np.pi
    velocity = STEP * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    found = np.empty((videos, frames, 2))
    for frame in range(frames):
        found[:, frame] = place
        place = place + velocity
        # A digit that reaches an edge stops there for a frame and turns round.
        beyond = (place <= 0) | (place >= 1)
        velocity = np.where(beyond, -velocity, velocity)
        place = np.clip(place, 0, 1)
    return found


def videos_of(digits: np.ndarray, at: np.ndarray, size: int) -> np.ndarray:
    """Returns uint8 [videos, frames, size, size] of digits [videos, side, side] at `places`."""
    side = digits.shape[1]
    corners = (at * (size - side)).astype(int)
    found = np.zeros((*at.shape[:2], size, size), np.uint8)
    for video, digit in enumerate(digits):
        for frame, (top, left) in enumerate(corners[video]):
            found[video, frame, top : top + side, left : left + side] = digit
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mnist", required=True, help="the archive with x_train, y_train, ...")
    parser.add_argument("--output", required=True, help="a folder that does not exist yet")
    parser.add_argument("--train", type=int, default=5000, help="training videos")
    parser.add_argument("--test", type=int, default=1000, help="test videos")
    parser.add_argument("--frames", type=int, default=10, help="frames of a video")
    parser.add_argument("--size", type=int, default=64, help="height and width in pixels")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    folder = pathlib.Path(given.output)
    if folder.exists():
        parser.error(f"--output={folder}: exists already. Name another folder.")
    if min(given.train, given.test, given.frames) < 1:
        parser.error("--train, --test and --frames must be at least 1.")
    try:
        mnist = np.load(given.mnist, allow_pickle=False)
        sets = {split: (mnist[f"x_{split}"], mnist[f"y_{split}"]) for split in ("train", "test")}
    except (OSError, ValueError, KeyError) as problem:
        parser.error(f"--mnist={given.mnist}: {problem}. Name the mnist.npz of Keras.")
    side = sets["train"][0].shape[1]
    if given.size < side:
        parser.error(f"--size={given.size}: a digit has {side} pixels. Choose a larger size.")
    folder.mkdir(parents=True)
    for number, (split, (digits, labels)) in enumerate(sets.items()):
        generator = np.random.default_rng([given.seed, number])
        chosen = generator.integers(0, len(digits), getattr(given, split))
        at = places(generator, len(chosen), given.frames)
        np.save(folder / f"x_{split}.npy", videos_of(digits[chosen], at, given.size))
        np.save(folder / f"y_{split}.npy", labels[chosen])
    return 0


if __name__ == "__main__":
    sys.exit(main())
