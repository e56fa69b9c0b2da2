"""The choice which runs take many steps inside one program."""

import dataclasses

import pytest

from trainer import config
from trainer.devices import fusion

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
    "changes, settled",
    [
        ({}, ("on", 1, 1)),
        ({"threads": 1}, ("on", 1, 1)),
        ({"dropout": 0.3, "clip_norm": 1.0, "ema": 0.9, "precision": "float16"}, ("on", 1, 1)),
        ({"batch_size": 128}, ("off", 0, 0)),  # large steps use more threads better
        ({"units": (128,)}, ("off", 0, 0)),
        ({"padding": "post"}, ("off", 0, 0)),  # several lengths
        ({"threads": 2}, ("off", 2, 0)),  # a run uses the threads that it asks for
        ({"shards": 2}, ("off", 0, 2)),
        ({"accumulate": 2}, ("off", 0, 0)),
        ({"jit": "off"}, ("off", 0, 0)),
        ({"devices": 2}, ("off", 0, 0)),
        ({"strategy": "mirrored"}, ("off", 0, 0)),
        # always fused there, with the threads of the host
        ({"strategy": "tpu"}, ("off", 0, 1)),
        ({"strategy": "tpu", "batch_size": 128, "units": (512,)}, ("off", 0, 1)),
        ({"fuse": "off"}, ("off", 0, 0)),
        ({"fuse": "on", "padding": "post", "units": (128,)}, ("on", 1, 1)),
        ({"fuse": "on", "threads": 2, "shards": 3}, ("on", 2, 3)),
    ],
)
def test_small_steps_are_fused_on_one_thread_and_all_others_stay_as_they_are(changes, settled):
    asked = config.from_flat({**SMALL, **changes})
    run = fusion.settled(asked)
    assert (run.fuse, run.threads, run.shards) == settled
    assert run == dataclasses.replace(
        asked.run, fuse=run.fuse, threads=run.threads, shards=run.shards
    )


def test_several_workers_take_their_steps_one_by_one():
    assert fusion.settled(config.from_flat(SMALL), workers=2).fuse == "off"
