"""The contenders of `bench.py rows`: an LSTM that reads images row by row, and tells a class.

28 rows of 28 numbers, as the images of MNIST; here they are random. Each contender is a process of
its own and prints examples per second.

    python scripts/bench_rows.py NAME SHAPE DATA_DIR STEPS
"""

import json
import pathlib
import sys
import time
from typing import NamedTuple

PROJECT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from scripts.bench_libraries import WARM, prepared, trained_rate  # noqa: E402


class Shape(NamedTuple):
    """rows: of a batch; length, features: of an example; steps: of a measurement."""

    rows: int
    length: int
    features: int
    units: int
    classes: int
    steps: int


SHAPES = {"images": Shape(128, 28, 28, 128, 10, 150)}
COUNTED = "examples"


def make_data(shape: Shape, folder: pathlib.Path) -> str:
    """Prepares random examples; returns the dataset's folder."""
    import numpy as np

    generator, count = np.random.default_rng(0), shape.rows * 60
    x = generator.random((count, shape.length, shape.features), np.float32)
    y = generator.integers(0, shape.classes, count)
    np.savez(folder / "random.npz", x=x, y=y)
    return prepared(folder, ["--source=arrays", f"--raw_data={folder}/random.npz"])


def arrays_of(shape: Shape, data_dir: str):
    """Returns float32 [examples, length, features], as a model sees them, and int32 [examples]."""
    import numpy as np

    from trainer.data import store

    split = store.open_dataset(data_dir).splits["train"]
    frames = split.normalise.applied(np.asarray(split.inputs))
    return frames.reshape(-1, shape.length, shape.features), np.asarray(split.targets)


def ours(shape: Shape, data_dir: str, steps: int, shards: int = 1) -> float:
    """`trainer train` as a user runs it."""
    flags = [f"--batch_size={shape.rows}", f"--units={shape.units}"]
    return trained_rate(data_dir, steps, shape.rows, shards, flags)


def ours_two(shape: Shape, data_dir: str, steps: int) -> float:
    """The same in two shards on two cores."""
    return ours(shape, data_dir, steps, shards=2)


def keras_fit(shape: Shape, data_dir: str, steps: int) -> float:
    """A Keras LSTM under `fit`."""
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = keras.Sequential(
        [
            keras.Input([shape.length, shape.features]),
            keras.layers.LSTM(shape.units),
            keras.layers.Dense(shape.classes),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    data = tf.data.Dataset.from_tensor_slices(arrays_of(shape, data_dir))
    data = data.shuffle(10_000).batch(shape.rows, drop_remainder=True).repeat().prefetch(2)
    model.fit(data, steps_per_epoch=WARM, verbose=0)
    began = time.monotonic()
    model.fit(data, steps_per_epoch=steps, verbose=0)
    return steps * shape.rows / (time.monotonic() - began)


def pytorch(shape: Shape, data_dir: str, steps: int) -> float:
    """PyTorch's LSTM."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    lstm = nn.LSTM(shape.features, shape.units, batch_first=True)
    output = nn.Linear(shape.units, shape.classes)
    optimizer = torch.optim.Adam([*lstm.parameters(), *output.parameters()], 1e-3)
    frames, labels = (torch.as_tensor(each) for each in arrays_of(shape, data_dir))
    labels = labels.long()
    for step in range(WARM + steps):
        if step == WARM:
            began = time.monotonic()
        at = step * shape.rows % (len(labels) - shape.rows + 1)
        states, _ = lstm(frames[at : at + shape.rows])
        loss = nn.functional.cross_entropy(output(states[:, -1]), labels[at : at + shape.rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return steps * shape.rows / (time.monotonic() - began)


CONTENDERS = {
    "ours": (ours, 1),
    "keras_fit": (keras_fit, 1),
    "pytorch": (pytorch, 1),
    "ours_two_shards": (ours_two, 2),
}


if __name__ == "__main__":
    contender, shape_name, data, count = sys.argv[1:]
    run, _ = CONTENDERS[contender]
    print(json.dumps({"per_second": run(SHAPES[shape_name], data, int(count))}))
