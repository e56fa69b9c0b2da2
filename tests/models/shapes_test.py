"""Sizes from settings alone against the networks and checkpoints themselves."""

import pytest

from trainer import config as configuration
from trainer.models import shapes
from trainer.models.networks import Network
from trainer.steps import optimizer, state
from trainer.tasks import table

VARIANTS = [
    {},
    {"cell": "gru", "units": (5, 3)},
    {"cell": "simple_rnn", "one_hot": True},
    {"bidirectional": True, "units": (4, 6), "optimizer": "adamw", "ema": 0.9},
    {"cell": "gru", "bidirectional": True, "optimizer": "sgd"},
    {"optimizer": "sgd", "momentum": 0.0, "precision": "float64"},
]


@pytest.mark.parametrize("flags", VARIANTS, ids=str)
def test_sizes_are_those_of_the_network_and_of_its_state(flags):
    config = configuration.from_flat({"units": (8,), "embedding_size": 6, **flags})
    network = Network(config.model, 20, 3, precision=config.run.precision)
    assert shapes.parameters(config.model, 20, 3) == network.parameters
    saved = state.State(
        network,
        optimizer.Optimizer(config.optimizer, network.weights, 10),
        table.TASKS["classification"],
    ).snapshot()
    arrays = sum(array.nbytes for name, array in saved.items() if array.ndim)
    assert shapes.checkpoint_bytes(config, 20, 3) == arrays
