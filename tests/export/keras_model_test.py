"""The Keras file computes what the network computes, and needs none of our code."""

import json
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.export.small_models import CLASSES, LENGTH, VOCABULARY, large_weights, probabilities
from trainer.data import fields
from trainer.export import keras_model
from trainer.flags.run import Input, Model
from trainer.models.networks import Network
from trainer.tasks.table import TASKS

CLASSIFICATION = TASKS["classification"]

IDS = np.array(
    [[1, 4, 5, 6, 7, 8, 9], [1, 10, 2, 4, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]],
    np.int32,
)


LENGTHS = np.array([7, 4, 1, 0], np.int32)


NETWORKS = [  # cell, bidirectional, pooling, padding, one_hot, rnn_from_cell, units
    ("simple_rnn", False, "last", "post", True, False, (5,)),
    ("simple_rnn", False, "last", "post", True, True, (5,)),
    ("simple_rnn", True, "max", "post", False, False, (5, 4)),
    ("simple_rnn", True, "last", "pre", True, True, (5,)),
    ("lstm", False, "last", "pre", False, False, (5,)),
    ("lstm", False, "last", "post", False, False, (5, 4)),
    ("lstm", False, "max", "post", False, True, (5,)),
    ("lstm", False, "mean", "post", True, False, (5,)),
    ("lstm", True, "last", "post", False, False, (5, 4)),
    ("lstm", True, "last", "post", False, True, (5,)),
    ("lstm", True, "mean", "post", False, False, (5, 4)),
    ("lstm", True, "max", "pre", False, False, (5,)),
    ("gru", False, "last", "post", False, False, (5,)),
    ("gru", False, "mean", "pre", False, False, (5,)),
    ("gru", True, "last", "post", True, True, (5, 4)),
    ("gru", True, "max", "post", False, False, (5, 4)),
]


@pytest.mark.parametrize(
    "cell, bidirectional, pooling, padding, one_hot, rnn_from_cell, units", NETWORKS
)
def test_the_keras_file_computes_what_the_network_computes(
    cell, bidirectional, pooling, padding, one_hot, rnn_from_cell, units, tmp_path
):
    settings = Model(
        cell=cell,
        bidirectional=bidirectional,
        pooling=pooling,
        one_hot=one_hot,
        rnn_from_cell=rnn_from_cell,
        units=units,
        embedding_size=3,
        dropout=0.5,
    )
    network = Network(settings, VOCABULARY, CLASSES)
    weights = large_weights(network)
    inputs = Input(max_length=LENGTH, padding=padding)
    ids = np.flip(IDS, axis=1) if padding == "pre" else IDS
    lengths = np.full(len(IDS), LENGTH, np.int32) if padding == "pre" else LENGTHS
    keras_model.build(network, weights, inputs, CLASSIFICATION).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    expected = probabilities(network, weights, ids, lengths)
    assert np.ptp(expected, axis=0).min() > 0.01
    np.testing.assert_allclose(loaded(ids).numpy(), expected, atol=1e-6)


FRAMES = [  # flags, shape of a frame, padding
    ({"cell": "lstm", "pooling": "last"}, (3,), "pre"),
    ({"cell": "gru", "frame_encoder": "dense", "bidirectional": True}, (3,), "post"),
    ({"cell": "simple_rnn", "frame_encoder": "convolution", "pooling": "max"}, (4, 3), "post"),
    ({"cell": "gru", "frame_encoder": "convolution", "pooling": "mean"}, (4, 3, 2), "pre"),
]


@pytest.mark.parametrize("flags, frame, padding", FRAMES)
@pytest.mark.parametrize("name", ["classification", "regression"])
def test_the_keras_file_over_frames_computes_what_the_network_computes(
    name, flags, frame, padding, tmp_path
):
    task, generator, features = TASKS[name], np.random.default_rng(3), int(np.prod(frame))
    settings = Model(units=(5,), embedding_size=3, dropout=0.5, **flags)
    network = Network(settings, 0, 2, frame=frame)
    weights = large_weights(network)
    lengths = np.array([5, 1, 3], np.int32)
    steps = np.arange(5) if padding == "post" else np.arange(5)[::-1]
    holds = steps < lengths[:, None]
    raw = generator.normal(40, 9, (3, 5, features)).astype(np.float32)
    scale = fields.Scale(np.full(features, 40, np.float32), np.full(features, 9, np.float32))
    units = fields.Scale(np.float32([100, -1]), np.float32([20, 0.1]))
    read = np.where(holds[:, :, None], scale.applied(raw), 0)
    counting = lengths if padding == "post" else np.full(3, 5, np.int32)
    wanted = network.logits(weights, tf.constant(read), tf.constant(counting)).numpy()
    wanted = units.undone(wanted) if task.target.numbers else tf.nn.softmax(wanted).numpy()
    inputs = Input(max_length=5, padding=padding)
    keras_model.build(
        network, weights, inputs, task, scale, units if task.target.numbers else None
    ).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    given = np.where(holds[:, :, None], raw, np.nan).astype(np.float32)
    assert np.ptp(wanted, axis=0).min() > 0.01
    np.testing.assert_allclose(loaded([given, lengths]).numpy(), wanted, rtol=1e-5, atol=1e-6)
    assert loaded.output_names == ["values" if task.target.numbers else "probabilities"]


def test_the_keras_file_reads_features_in_any_unit(tmp_path):
    """Also amperes of nanoamperes, whose deviations are below 1e-7, and numbers whose squares are
    beyond float32.
    """
    task, generator = TASKS["classification"], np.random.default_rng(3)
    network = Network(Model(units=(5,), embedding_size=3), 0, 2, frame=(4,))
    weights = large_weights(network)
    scale = fields.Scale(np.float32([4e-9, -3e-8, 1, 2e21]), np.float32([1e-9, 2e-8, 5, 1e20]))
    read = generator.normal(0, 1, (3, 5, 4)).astype(np.float32)
    raw, lengths = scale.undone(read), np.array([5, 4, 5], np.int32)
    holds = np.arange(5) < lengths[:, None]
    read = np.where(holds[:, :, None], scale.applied(raw), 0)
    wanted = tf.nn.softmax(network.logits(weights, tf.constant(read), tf.constant(lengths))).numpy()
    keras_model.build(network, weights, Input(max_length=5), task, scale).save(
        tmp_path / "model.keras"
    )
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded([raw, lengths]).numpy(), wanted, rtol=1e-5, atol=1e-6)


STEPWISE = [  # task, flags of the model
    ("language_model", {"cell": "lstm", "units": (5, 4)}),
    ("language_model", {"cell": "gru", "units": (4,), "one_hot": True}),
    ("language_model", {"cell": "lstm", "units": (5, 4), "tied_embedding": True}),
    ("language_model", {"cell": "gru", "units": (3,), "tied_embedding": True}),
    ("language_model", {"cell": "simple_rnn", "units": (5,), "rnn_from_cell": True}),
    ("tagging", {"cell": "lstm", "units": (5,)}),
    ("tagging", {"cell": "lstm", "units": (5, 4), "bidirectional": True}),
    ("tagging", {"cell": "gru", "units": (5, 4), "bidirectional": True, "rnn_from_cell": True}),
    ("tagging", {"cell": "simple_rnn", "units": (5,), "bidirectional": True, "one_hot": True}),
]


@pytest.mark.parametrize("name, flags", STEPWISE)
def test_the_keras_file_of_steps_computes_what_the_network_computes(name, flags, tmp_path):
    task = TASKS[name]
    classes = VOCABULARY if task.target is fields.NEXT_TOKEN else CLASSES
    settings = Model(embedding_size=3, dropout=0.5, **flags)
    network = Network(settings, VOCABULARY, classes, head=task.head)
    weights = large_weights(network)
    keras_model.build(network, weights, Input(), task).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    logits = network.logits(weights, tf.constant(IDS), tf.constant(LENGTHS))
    wanted, output = {
        "tagging": (tf.nn.softmax(logits), "probabilities"),
        "language_model": (tf.nn.log_softmax(logits), "log_probabilities"),
    }[name]
    counts = np.arange(LENGTH) < LENGTHS[:, None]
    assert loaded.output_names == [output]
    assert np.ptp(wanted.numpy()[counts], axis=0).min() > 0.01
    np.testing.assert_allclose(loaded(IDS).numpy()[counts], wanted.numpy()[counts], atol=1e-5)


def test_a_tied_embedding_is_the_kernel_of_the_logits_turned_round():
    settings = Model(units=(5,), embedding_size=3, tied_embedding=True)
    network = Network(settings, VOCABULARY, VOCABULARY, head=TASKS["language_model"].head)
    weights = large_weights(network)
    model = keras_model.build(network, weights, Input(), TASKS["language_model"])
    kernel = model.get_layer("logits").kernel.numpy()
    np.testing.assert_array_equal(kernel, weights["embedding/embeddings"].numpy().T)
    assert model.get_layer("projection").kernel.shape == (5, 3)


def test_more_padding_behind_changes_nothing():
    settings = Model(cell="gru", units=(5,), bidirectional=True, pooling="mean")
    network = Network(settings, VOCABULARY, CLASSES)
    model = keras_model.build(
        network, large_weights(network), Input(max_length=LENGTH), CLASSIFICATION
    )
    np.testing.assert_allclose(
        model(np.pad(IDS, [(0, 0), (0, 9)])).numpy(), model(IDS).numpy(), atol=1e-6
    )


def test_a_model_with_padding_in_front_takes_max_length_ids_only():
    network = Network(Model(units=(5,)), VOCABULARY, CLASSES)
    model = keras_model.build(
        network, large_weights(network), Input(max_length=LENGTH, padding="pre"), CLASSIFICATION
    )
    with pytest.raises(ValueError, match="shape"):
        model(IDS[:, :-1])


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_last_state_is_asked_of_the_layer_because_cudnn_has_zeros_under_the_mask(bidirectional):
    settings = Model(units=(5, 4), pooling="last", bidirectional=bidirectional)
    network = Network(settings, VOCABULARY, CLASSES)
    model = keras_model.build(network, large_weights(network), Input(), CLASSIFICATION)
    assert [model.get_layer(name).return_sequences for name in ("rnn_0", "rnn_1")] == [True, False]


def test_the_keras_file_is_plain_and_keeps_our_names(tmp_path):
    settings = Model(units=(5, 4), bidirectional=True, pooling="max", dropout=0.5)
    network = Network(settings, VOCABULARY, CLASSES)
    model = keras_model.build(network, large_weights(network), Input(), CLASSIFICATION)
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as file:
        objects = list(objects_in(json.loads(file.read("config.json"))))
    assert {one["module"].partition(".")[0] for one in objects if one["module"]} == {"keras"}
    # PACKAGE>NAME would be a class that somebody registered.
    assert not any(">" in (one["registered_name"] or "") for one in objects)
    assert not {"Dropout", "Lambda"} & {one["class_name"] for one in objects}
    assert {"embedding", "rnn_0", "rnn_1", "logits", "probabilities"} <= {
        layer.name for layer in model.layers
    }


def objects_in(config):
    """Every serialised object in the JSON of a Keras file."""
    if isinstance(config, dict):
        if "registered_name" in config:
            yield config
        for value in config.values():
            yield from objects_in(value)
    elif isinstance(config, list):
        for value in config:
            yield from objects_in(value)
