"""The contenders of `bench.py translation`: one network, written for each library.

A GRU in both directions reads the source. A GRU, started from its end, tells the target, and
attends to the source after the recurrence. Random sentences of one length each, Adam. Each
contender is a process of its own and prints tokens of the target per second.

    python scripts/bench_translation.py NAME SHAPE DATA_DIR STEPS
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
    """vocabulary: words of each side; units: of a direction; steps: of a measurement."""

    vocabulary: int
    width: int
    units: int
    rows: int
    source: int
    target: int
    steps: int


SHAPES = {"captions": Shape(8_000, 128, 160, 64, 14, 14, 60)}

COUNTED = "tokens"


def make_data(shape: Shape, folder: pathlib.Path) -> str:
    """Prepares random pairs of sentences; returns the dataset's folder."""
    generator = random.Random(0)
    words = [f"w{number}" for number in range(shape.vocabulary - 4)]
    for name, length in (("source", shape.source), ("target", shape.target)):
        with open(folder / f"{name}.txt", "w") as file:
            for _ in range(shape.rows * (shape.steps + 4 * WARM)):
                file.write(" ".join(generator.choices(words, k=length - 1)) + "\n")
    source = ("--task=translation", "--source=parallel", "--tokenizer=spaces")
    files = (f"--raw_data={folder}/source.txt", f"--target_data={folder}/target.txt")
    return prepared(folder, [*source, *files])


def sentences_of(shape: Shape, data_dir: str):
    """Returns sources [pairs, source], targets and what follows each of them [pairs, target]."""
    import numpy as np

    from trainer.data import store

    split = store.open_dataset(data_dir).splits["train"]
    sources = np.asarray(split.inputs).reshape(-1, shape.source)
    targets = np.asarray(split.targets).reshape(-1, shape.target)
    following = np.concatenate([targets[:, 1:], np.ones_like(targets[:, :1])], axis=1)
    return sources, targets, following


def ours(shape: Shape, data_dir: str, steps: int, shards: int = 1) -> float:
    """`trainer train` as a user runs it."""
    flags = [
        *("--cell=gru", "--bidirectional", f"--batch_size={shape.rows}"),
        *(f"--units={shape.units}", f"--embedding_size={shape.width}"),
    ]
    return trained_rate(data_dir, steps, shape.rows * shape.target, shards, flags)


def ours_two(shape: Shape, data_dir: str, steps: int) -> float:
    """The same in two shards on two cores."""
    return ours(shape, data_dir, steps, shards=2)


def keras_fit(shape: Shape, data_dir: str, steps: int) -> float:
    """Keras layers under `fit`, put together as the tutorial of TensorFlow does it."""
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    layers = keras.layers
    source, target = keras.Input([None], dtype="int32"), keras.Input([None], dtype="int32")
    embedded = layers.Embedding(shape.vocabulary, shape.width, mask_zero=True)(source)
    encoder = layers.GRU(shape.units, return_sequences=True, return_state=True)
    memory, *ends = layers.Bidirectional(encoder)(embedded)
    start = layers.Dense(2 * shape.units, "tanh")(layers.Concatenate()(ends))
    words = layers.Embedding(shape.vocabulary, shape.width, mask_zero=True)(target)
    states = layers.GRU(2 * shape.units, return_sequences=True)(words, initial_state=start)
    attended = layers.MultiHeadAttention(1, 2 * shape.units)(query=states, value=memory)
    combined = layers.Dense(shape.width, "tanh")(layers.Concatenate()([attended, states]))
    model = keras.Model([source, target], layers.Dense(shape.vocabulary)(combined))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    sources, targets, following = sentences_of(shape, data_dir)
    data = tf.data.Dataset.from_tensor_slices(((sources, targets), following))
    data = data.batch(shape.rows, drop_remainder=True).repeat().prefetch(2)
    model.fit(data, steps_per_epoch=WARM, verbose=0)
    began = time.monotonic()
    model.fit(data, steps_per_epoch=steps, verbose=0)
    return steps * shape.rows * shape.target / (time.monotonic() - began)


def pytorch(shape: Shape, data_dir: str, steps: int, word_by_word: bool = False) -> float:
    """Layers of PyTorch, the decoder over all words at once.

    word_by_word: a loop over the words with attention in each step, as in PyTorch's own tutorial.
    """
    import torch
    from torch import nn

    torch.set_num_threads(1)
    units = 2 * shape.units
    source_words, target_words = (nn.Embedding(shape.vocabulary, shape.width) for _ in range(2))
    encoder = nn.GRU(shape.width, shape.units, batch_first=True, bidirectional=True)
    begin, general = nn.Linear(units, units), nn.Linear(units, units, bias=False)
    width = shape.width + units * word_by_word
    decoder = nn.GRU(width, units, batch_first=True)
    combine, output = nn.Linear(2 * units, shape.width), nn.Linear(shape.width, shape.vocabulary)
    layers = (source_words, target_words, encoder, begin, general, decoder, combine, output)
    optimizer = torch.optim.Adam([each for layer in layers for each in layer.parameters()], 1e-3)
    rows = [torch.as_tensor(each).long() for each in sentences_of(shape, data_dir)]

    def attended(states, keys, memory):
        return torch.softmax(states @ keys.transpose(1, 2), dim=-1) @ memory

    def scores_of(source, target):
        memory, ends = encoder(source_words(source))
        state = torch.tanh(begin(torch.cat(list(ends), dim=-1)))[None]
        keys, words = general(memory), target_words(target)
        if not word_by_word:
            states, _ = decoder(words, state)
            context = attended(states, keys, memory)
            return output(torch.tanh(combine(torch.cat([context, states], dim=-1))))
        steps = []
        for at in range(words.shape[1]):
            context = attended(state.transpose(0, 1), keys, memory)
            read = torch.cat([words[:, at : at + 1], context], dim=-1)
            states, state = decoder(read, state)
            steps.append(output(torch.tanh(combine(torch.cat([context, states], dim=-1)))))
        return torch.cat(steps, dim=1)

    for step in range(WARM + steps):
        if step == WARM:
            began = time.monotonic()
        at = step * shape.rows % (len(rows[0]) - shape.rows + 1)
        source, target, following = (each[at : at + shape.rows] for each in rows)
        scores = scores_of(source, target).reshape(-1, shape.vocabulary)
        loss = nn.functional.cross_entropy(scores, following.reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return steps * shape.rows * shape.target / (time.monotonic() - began)


def pytorch_loop(shape: Shape, data_dir: str, steps: int) -> float:
    """The same word by word."""
    return pytorch(shape, data_dir, steps, word_by_word=True)


CONTENDERS = {
    "ours": (ours, 1),
    "keras_fit": (keras_fit, 1),
    "pytorch": (pytorch, 1),
    "pytorch_loop": (pytorch_loop, 1),
    "ours_two_shards": (ours_two, 2),
}


if __name__ == "__main__":
    contender, shape_name, data, count = sys.argv[1:]
    run, _ = CONTENDERS[contender]
    print(json.dumps({"per_second": run(SHAPES[shape_name], data, int(count))}))
