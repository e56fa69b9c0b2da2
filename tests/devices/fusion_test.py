"""Which runs take many steps inside one program. What follows from it: resources_test."""

import pytest

from trainer.devices import fusion
from trainer.flags import run as config

# The published IMDB program: 32 rows of 32 tokens, embedding of 16, LSTM of 32.
SMALL = {
    "batch_size": 32,
    "max_length": 32,
    "padding": "pre",
    "embedding_size": 16,
    "units": (32,),
    "cell": "lstm",
}


@pytest.mark.parametrize(
    "changes, product",
    [
        ({}, 32 * 32 * 4 * 32 * (16 + 32)),
        ({"cell": "gru"}, 32 * 32 * 3 * 32 * (16 + 32)),
        ({"cell": "simple_rnn", "max_length": 7, "batch_size": 5}, 5 * 7 * 32 * (16 + 32)),
        ({"bidirectional": True}, 32 * 32 * 2 * 4 * 32 * (16 + 32)),
        ({"units": (32, 8)}, 32 * 32 * 4 * (32 * (16 + 32) + 8 * (32 + 8))),
        ({"units": (32, 8), "bidirectional": True}, 32 * 32 * 8 * (32 * (16 + 32) + 8 * (64 + 8))),
    ],
)
def test_the_multiplications_of_a_step(changes, product):
    assert fusion.multiplications(config.from_flat({**SMALL, **changes})) == product


@pytest.mark.parametrize(
    "changes, pays",
    [
        ({}, True),
        ({"threads": 1, "shards": 1, "devices": 1, "strategy": "one_device"}, True),
        ({"dropout": 0.3, "clip_norm": 1.0, "ema": 0.9, "precision": "float16"}, True),
        ({"batch_size": 128}, False),  # large steps use more threads better
        ({"units": (128,)}, False),
        ({"padding": "post"}, False),  # several lengths
        ({"threads": 2}, False),  # threads that the flags ask for are used
        ({"shards": 2}, False),
        ({"accumulate": 2}, False),
        ({"jit": "off"}, False),
        ({"frame_encoder": "dense"}, True),
        ({"frame_encoder": "convolution"}, False),  # never small
        ({"devices": 2}, False),
        ({"strategy": "mirrored"}, False),
        ({"strategy": "tpu"}, False),
    ],
)
def test_fused_steps_pay_if_steps_are_small_whole_compiled_and_of_one_length(changes, pays):
    assert fusion.pays(config.from_flat({**SMALL, **changes})) is pays
