"""The contenders of `bench.py language`: one language model, written for each library.

An embedding, one LSTM and a dense layer over the vocabulary read streams of a random text in
chunks, carry the state from chunk to chunk, and are trained with Adam. Each contender is a process
of its own and prints tokens per second.

    python scripts/bench_language.py NAME SHAPE DATA_DIR STEPS
"""

import json
import pathlib
import random
import sys
import time
from typing import NamedTuple

PROJECT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from scripts.bench_libraries import WARM, prepared, trained_rate  # noqa: E402


class Shape(NamedTuple):
    """vocabulary: words beside the reserved ids; steps: of a measurement."""

    vocabulary: int
    width: int
    units: int
    streams: int
    chunk: int
    steps: int


SHAPES = {
    "characters": Shape(65, 64, 256, 64, 64, 60),
    "words": Shape(10_000, 256, 256, 32, 35, 40),
}
COUNTED = "tokens"


def make_data(shape: Shape, folder: pathlib.Path) -> str:
    """Prepares a random text of that many words; returns the dataset's folder."""
    generator = random.Random(0)
    words = [f"w{number}" for number in range(shape.vocabulary)]
    text = folder / "text.txt"
    with open(text, "w") as file:
        for _ in range(shape.streams * shape.chunk * (shape.steps + 4 * WARM) // 1000 + 1):
            file.write(" ".join(generator.choices(words, k=1000)) + "\n")
    source = ("--task=language_model", "--source=text", "--tokenizer=spaces")
    return prepared(folder, [*source, f"--raw_data={text}"])


def streams_of(shape: Shape, data_dir: str):
    """Returns int [streams, chunks * chunk + 1], the tokens of each stream, and the vocabulary."""
    import numpy as np

    from trainer.data import store

    dataset = store.open_dataset(data_dir)
    tokens = np.asarray(dataset.splits["train"].inputs)
    part = len(tokens) // shape.streams
    chunks = (part - 1) // shape.chunk
    rows = tokens[: part * shape.streams].reshape(shape.streams, part)
    return rows[:, : chunks * shape.chunk + 1], len(dataset.vocabulary)


def ours(shape: Shape, data_dir: str, steps: int, shards: int = 1) -> float:
    """`trainer train` as a user runs it."""
    flags = [
        *(f"--batch_size={shape.streams}", f"--max_length={shape.chunk}"),
        *(f"--units={shape.units}", f"--embedding_size={shape.width}"),
    ]
    return trained_rate(data_dir, steps, shape.streams * shape.chunk, shards, flags)


def ours_two(shape: Shape, data_dir: str, steps: int) -> float:
    """The same in two shards on two cores."""
    return ours(shape, data_dir, steps, shards=2)


def keras_fit(shape: Shape, data_dir: str, steps: int, jit: bool = False) -> float:
    """A stateful Keras LSTM under `fit`."""
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    rows, vocabulary = streams_of(shape, data_dir)
    model = keras.Sequential(
        [
            keras.layers.Embedding(vocabulary, shape.width),
            keras.layers.LSTM(shape.units, return_sequences=True, stateful=True),
            keras.layers.Dense(vocabulary),
        ]
    )
    model.build((shape.streams, shape.chunk))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=jit)

    def batches():
        while True:
            for at in range(0, rows.shape[1] - shape.chunk, shape.chunk):
                yield (rows[:, at : at + shape.chunk], rows[:, at + 1 : at + 1 + shape.chunk])

    spec = tf.TensorSpec([shape.streams, shape.chunk], tf.int32)
    data = tf.data.Dataset.from_generator(batches, output_signature=(spec, spec)).prefetch(2)
    model.fit(data, steps_per_epoch=WARM, shuffle=False, verbose=0)
    began = time.monotonic()
    model.fit(data, steps_per_epoch=steps, shuffle=False, verbose=0)
    return steps * shape.streams * shape.chunk / (time.monotonic() - began)


def pytorch(shape: Shape, data_dir: str, steps: int) -> float:
    """nn.LSTM with the state detached and carried on, as PyTorch's own example does it."""
    import torch

    torch.set_num_threads(1)
    rows, vocabulary = streams_of(shape, data_dir)
    text = torch.as_tensor(rows.T.copy()).long()
    embedding = torch.nn.Embedding(vocabulary, shape.width)
    lstm = torch.nn.LSTM(shape.width, shape.units)
    dense = torch.nn.Linear(shape.units, vocabulary)
    parameters = [
        parameter for layer in (embedding, lstm, dense) for parameter in layer.parameters()
    ]
    optimizer = torch.optim.Adam(parameters, 1e-3)
    state = tuple(torch.zeros(1, shape.streams, shape.units) for _ in range(2))
    for step in range(WARM + steps):
        if step == WARM:
            began = time.monotonic()
        at = step * shape.chunk % (len(text) - shape.chunk)
        hidden, state = lstm(embedding(text[at : at + shape.chunk]), state)
        state = tuple(part.detach() for part in state)
        scores = dense(hidden).view(-1, vocabulary)
        targets = text[at + 1 : at + 1 + shape.chunk].reshape(-1)
        loss = torch.nn.functional.cross_entropy(scores, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return steps * shape.streams * shape.chunk / (time.monotonic() - began)


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
