"""Small networks with weights that tell rows apart, and datasets for the tests of export."""

import csv
import json
import math
import pathlib

import numpy as np
import tensorflow as tf

from tests import datasets
from trainer import trained_model
from trainer.data import store, text
from trainer.devices.placement import Placement
from trainer.export import examples, readback
from trainer.flags import run as configuration
from trainer.flags.prepare import Prepare
from trainer.flags.use import Export
from trainer.models.networks import Network
from trainer.prepare import command as prepare
from trainer.steps.evaluation import EvaluationStep
from trainer.tasks import table

VOCABULARY, CLASSES, LENGTH = 11, 3, 7
OPTIONS = Export()


def large_weights(network: Network) -> dict[str, tf.Tensor]:
    """Weights that tell rows and classes apart far better than initial ones do."""
    generator = np.random.default_rng(5)
    return {
        name: tf.constant(generator.normal(0, 0.7, weight.shape), tf.float32)
        for name, weight in network.weights.items()
    }


def probabilities(network, weights, ids, lengths) -> np.ndarray:
    return tf.nn.softmax(network.logits(weights, tf.constant(ids), tf.constant(lengths))).numpy()


def a_dataset(folder: pathlib.Path, tokenizer: str) -> store.Dataset:
    """Every corner case that a file can hold as a row of a CSV, prepared."""
    rows = [
        case
        for case in (*examples.CORNER_CASES, examples.LONG_TEXT)
        if b"\0" not in case
        and b"\n" not in case
        # Any byte is served, but `prepare` takes none of bad UTF-8.
        and (tokenizer != "bytes" or is_utf8(case))
    ]
    path = folder / "raw.csv"
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(
            [case.decode("utf-8", "surrogateescape"), f"class {row % 3}"]
            for row, case in enumerate(rows)
        )
    return prepare.prepare(
        Prepare(
            data_dir=str(folder / "data"),
            raw_data=str(path),
            tokenizer=tokenizer,
            vocabulary_size=300,
            encoding_errors="replace",
        )
    )


WORDS = {
    "words": "the cat sat on a mat it's".split(),
    "words_and_marks": ["the", "cat", "\uffed,", "(\uffed", "\uffed)", "sat"],
    "spaces": "the cat , ( sat )".split(),
    "characters": list("the casd,é日"),
    "bytes": list(text.BYTE_NAMES),
}
TAGS = ("O", "B-ANIMAL", "I-ANIMAL")


def a_text(folder: pathlib.Path, tokenizer: str, order: str = "shuffled") -> store.Dataset:
    """A dataset of a language model, of random words."""
    ids = np.random.default_rng(3).integers(4, 4 + len(WORDS[tokenizer]), [20, 9])
    splits = {"train": ids[:12], "test": ids[12:]}
    return datasets.write_text(
        folder / "data", splits, order=order, words=WORDS[tokenizer], tokenizer=tokenizer
    )


def a_tagged_text(folder: pathlib.Path) -> store.Dataset:
    """A dataset of tagging: the tag depends on the word."""
    ids = np.random.default_rng(3).integers(4, 4 + len(WORDS["words"]), [20, 9])
    rows = [(row[: 1 + number % 9], row[: 1 + number % 9] % 3) for number, row in enumerate(ids)]
    splits = {"train": rows[:12], "test": rows[12:]}
    return datasets.write_tagged(folder / "data", splits, words=WORDS["words"], labels=TAGS)


def some_pairs(folder: pathlib.Path, words=WORDS["words"], tokenizer="words") -> store.Dataset:
    """A dataset of translation, of random words."""
    splits = datasets.random_pairs(
        vocabulary_size=text.FIRST_ID + len(words), train=12, test=8, longest=9
    )
    return datasets.write_pairs(
        folder / "data", splits, words=words, target_words=words[::-1], tokenizer=tokenizer
    )


def some_frames(folder: pathlib.Path, shape=(3,), values=()) -> store.Dataset:
    """A dataset of frames with labels, or with values that are far from 0."""
    splits = datasets.random_frames(
        features=math.prod(shape), values=len(values), train=12, test=8, longest=9
    )
    labels = () if values else ("a", "b", "c")
    return datasets.write_numbers(
        folder / "data", splits, shape=shape, labels=labels, values=values
    )


def is_utf8(case: bytes) -> bool:
    return case.decode("utf-8", "replace").encode() == case


def a_model(dataset: store.Dataset, **flags) -> trained_model.TrainedModel:
    """A trained model as `trained_model.open_model` would return it."""
    config = configuration.from_flat(
        {"units": (6,), "embedding_size": 5, "max_length": 20, **flags}
    )
    task = table.task_of(dataset, config)
    network = Network(
        config.model,
        len(dataset.vocabulary),
        dataset.outputs,
        precision=config.run.precision,
        head=task.head,
        second=dataset.second,
        frame=dataset.frame,
    )
    on_cpu = Placement(tf.distribute.OneDeviceStrategy("CPU:0"), "CPU", ("CPU:0",))
    step = EvaluationStep(network, on_cpu, task)
    return trained_model.TrainedModel(config, dataset, network, large_weights(network), step, 7)


def answers_from_here(calls):
    """`readback.answers` of this process, which spares the seconds that a fresh one takes to
    start.
    """
    found = {}
    for path, of_path in json.loads(json.dumps(calls, default=readback._plain)).items():
        call = (readback._saved_model if pathlib.Path(path).is_dir() else readback._keras_model)(
            path
        )
        found[path] = [
            call(signature, {name: readback._array(value) for name, value in arguments.items()})
            for signature, arguments in of_path
        ]
    return found
