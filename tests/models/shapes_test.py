"""Names, shapes and sizes from settings alone, against the networks and checkpoints themselves."""

import itertools

import numpy as np
import pytest

from tests.steps import runs
from trainer.exit_codes import UsageError
from trainer.flags import run as configuration
from trainer.models import recurrent, shapes
from trainer.models.decoder import Decoder
from trainer.models.networks import Network
from trainer.steps import optimizer, state
from trainer.tasks import table

SETTINGS = [
    {"cell": cell, "bidirectional": bidirectional, "one_hot": one_hot, "units": units}
    for cell, bidirectional, one_hot, units in itertools.product(
        recurrent.RECURRENCES, [False, True], [False, True], [(5,), (5, 3, 4)]
    )
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_table_is_the_weights_that_the_network_builds_in_their_order(settings):
    model = configuration.Model(embedding_size=6, **settings)
    network = Network(model, 20, 3)
    built = {name: tuple(weight.shape) for name, weight in network.initial_weights().items()}
    assert list(shapes.weights(model, 20, 3).items()) == list(built.items())
    assert shapes.parameters(model, 20, 3) == sum(map(np.prod, built.values()))


@pytest.mark.parametrize("second", ["own", "shared"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("tied_embedding", [False, True])
@pytest.mark.parametrize("attention", ["general", "dot", "none"])
def test_with_a_decoder_the_table_is_what_the_network_builds(
    second, bidirectional, tied_embedding, attention
):
    model = configuration.Model(
        embedding_size=6,
        units=(5, 3),
        bidirectional=bidirectional,
        tied_embedding=tied_embedding,
        attention=attention,
    )
    network = Network(model, 20, 30, head=Decoder, second=second)
    built = {name: tuple(weight.shape) for name, weight in network.initial_weights().items()}
    assert list(shapes.weights(model, 20, 30, second).items()) == list(built.items())
    assert network.parameters == sum(map(np.prod, built.values()))
    assert ("target_embedding/embeddings" in built) == (second == "own")
    assert ("attention/kernel" in built) == (attention == "general")


@pytest.mark.parametrize("encoder", ["none", "dense", "convolution"])
@pytest.mark.parametrize("frame", [(6, 5), (3, 9, 2)])
@pytest.mark.parametrize("cell", recurrent.RECURRENCES)
def test_over_frames_the_table_is_what_the_network_builds(encoder, frame, cell):
    model = configuration.Model(
        embedding_size=6, units=(5, 3), cell=cell, bidirectional=True, frame_encoder=encoder
    )
    network = Network(model, 0, 2, frame=frame)
    built = {name: tuple(weight.shape) for name, weight in network.initial_weights().items()}
    assert list(shapes.weights(model, 0, 2, frame=frame).items()) == list(built.items())
    assert network.parameters == sum(map(np.prod, built.values()))
    assert "embedding/embeddings" not in built


@pytest.mark.parametrize("frame", [(28,), (2, 3, 4, 5)])
def test_convolutions_over_what_is_no_picture_are_refused(frame):
    model = configuration.Model(frame_encoder="convolution")
    with pytest.raises(
        UsageError, match="^--frame_encoder=convolution: a frame of the dataset"
    ) as e:
        shapes.weights(model, 0, 2, frame=frame)
    assert str(list(frame)) in str(e.value) and "--frame_encoder=dense" in str(e.value)


@pytest.mark.parametrize(
    "names, depths",
    [
        ([], []),
        (["logits/kernel", "logits/bias"], [0, 0]),
        (["embedding/embeddings", "rnn_0/kernel", "rnn_0/bias", "logits/bias"], [2, 1, 1, 0]),
        (["rnn_0/kernel", "rnn_1/kernel", "logits/kernel"], [2, 1, 0]),  # one-hot
        (["rnn_0/forward/kernel", "rnn_0/backward/bias", "projection/kernel"], [1, 1, 0]),
        (["embedding/embeddings", "rnn_2/kernel", "rnn_10/kernel", "rnn_0/bias"], [4, 2, 1, 3]),
        (["attention/kernel", "rnn_0/kernel", "rnn_0_more/kernel"], [0, 1, 0]),
        (["target_embedding/embeddings", "decoder_0/kernel", "rnn_0/kernel"], [0, 0, 1]),
        (["frame_dense/kernel", "rnn_0/bias", "rnn_1/bias", "logits/bias"], [3, 2, 1, 0]),
        (
            [
                "frame_convolution_0/bias",
                "frame_convolution_1/kernel",
                "frame_dense/bias",
                "rnn_0/x",
            ],
            [4, 3, 2, 1],
        ),
    ],
)
def test_depths_count_the_layers_from_the_output_down(names, depths):
    assert shapes.depths(names) == dict(zip(names, depths, strict=True))


def test_the_parameters_are_the_number_that_papers_count():
    """An LSTM has 4 (n m + n n + n) weights: Gers, Schmidhuber and Cummins 2000."""
    model = configuration.Model(cell="lstm", units=(32,), embedding_size=16)
    lstm = 4 * (32 * 16 + 32 * 32 + 32)
    assert shapes.parameters(model, 1000, 2) == 1000 * 16 + lstm + 32 * 2 + 2


@pytest.mark.parametrize("cell, parts", [("simple_rnn", 1), ("lstm", 2), ("gru", 1)])
def test_what_streams_carry_is_the_state_of_each_layer(cell, parts):
    model = configuration.Model(cell=cell, units=(5, 3))
    found = shapes.carried(model)
    assert list(found.values()) == [5] * parts + [3] * parts
    assert {name.partition("/")[0] for name in found} == {"rnn_0", "rnn_1"}


@pytest.mark.parametrize(
    "flags",
    [
        {"cell": "gru", "units": (5, 3)},
        {"cell": "lstm", "tied_embedding": True},
        {"tied_embedding": True, "embedding_size": 8, "optimizer": "sgd", "precision": "float64"},
        {"cell": "simple_rnn", "ema": 0.9, "precision": "bfloat16"},
    ],
    ids=str,
)
def test_the_bytes_of_a_checkpoint_with_streams_are_those_of_the_state(flags):
    config = configuration.from_flat({"units": (8,), "embedding_size": 6, "batch_size": 7, **flags})
    task = table.TASKS["language_model"]
    network = Network(config.model, 20, 20, precision=config.run.precision, head=task.head)
    saved = state.State(
        network,
        optimizer.Optimizer(config.optimizer, network.weights, 10, runs.variable),
        task,
        runs.variable,
        streams=7,
    ).snapshot()
    arrays = sum(array.nbytes for array in saved.values() if array.ndim)
    assert shapes.checkpoint_bytes(config, 20, 20, streams=True) == arrays


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"cell": "gru", "units": (5, 3)},
        {"cell": "simple_rnn", "one_hot": True},
        {"bidirectional": True, "units": (4, 6), "optimizer": "adamw", "ema": 0.9},
        {"cell": "gru", "bidirectional": True, "optimizer": "sgd"},
        {"optimizer": "sgd", "momentum": 0.0, "precision": "float64"},
    ],
    ids=str,
)
def test_the_bytes_of_a_checkpoint_are_those_of_the_state(flags):
    config = configuration.from_flat({"units": (8,), "embedding_size": 6, **flags})
    network = Network(config.model, 20, 3, precision=config.run.precision)
    saved = state.State(
        network,
        optimizer.Optimizer(config.optimizer, network.weights, 10, runs.variable),
        table.TASKS["classification"],
        runs.variable,
    ).snapshot()
    arrays = sum(array.nbytes for name, array in saved.items() if array.ndim)
    assert shapes.checkpoint_bytes(config, 20, 3) == arrays


def test_the_bytes_of_a_checkpoint_over_frames_are_those_of_the_state():
    flags = {"frame_encoder": "convolution", "units": (4,), "embedding_size": 6, "ema": 0.9}
    saved = runs.make(frame=(4, 5), values=2, **flags)
    arrays = sum(array.nbytes for array in saved.state.snapshot().values() if array.ndim)
    assert shapes.checkpoint_bytes(saved.config, 0, 2, frame=(4, 5)) == arrays
