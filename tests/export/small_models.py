"""Small networks with weights that tell rows apart, and datasets for the tests of export."""

import csv
import json
import pathlib

import numpy as np
import tensorflow as tf

from trainer import config as configuration
from trainer import trained_model
from trainer.data import store
from trainer.devices.placement import Placement
from trainer.export import proof, readback
from trainer.models.networks import Network
from trainer.prepare import command as prepare
from trainer.steps.evaluation import EvaluationStep
from trainer.tasks import table

VOCABULARY, CLASSES, LENGTH = 11, 3, 7


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
        for case in proof.CORNER_CASES
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
        configuration.Prepare(
            data_dir=str(folder / "data"),
            raw_data=str(path),
            tokenizer=tokenizer,
            vocabulary_size=300,
            encoding_errors="replace",
        )
    )


def is_utf8(case: bytes) -> bool:
    return case.decode("utf-8", "replace").encode() == case


def a_model(dataset: store.Dataset, **flags) -> trained_model.TrainedModel:
    """A trained model as `trained_model.open_model` would return it."""
    config = configuration.from_flat(
        {"units": (6,), "embedding_size": 5, "max_length": 20, **flags}
    )
    network = Network(
        config.model, len(dataset.vocabulary), len(dataset.labels), precision=config.run.precision
    )
    on_cpu = Placement(tf.distribute.OneDeviceStrategy("CPU:0"), "CPU", ("CPU:0",))
    step = EvaluationStep(network, on_cpu, table.task_of(dataset))
    return trained_model.TrainedModel(config, dataset, network, large_weights(network), step, 7)


def answers_from_here(groups):
    """`readback.answers` of this process, which spares the seconds that a fresh one takes to
    start.
    """
    found = {}
    for path, calls in json.loads(json.dumps(groups, default=readback._plain)).items():
        call = (readback._saved_model if pathlib.Path(path).is_dir() else readback._keras_model)(
            path
        )
        found[path] = [readback.Answer(*call(group)) for group in calls]
    return found
