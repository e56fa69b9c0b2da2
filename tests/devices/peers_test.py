"""What a training process knows of the others."""

import json

import pytest
import tensorflow as tf

from trainer.devices import peers


@pytest.mark.parametrize(
    "tf_config, expected",
    [
        (None, (0, 1)),
        ("", (0, 1)),
        ("{}", (0, 1)),
        (
            json.dumps(
                {
                    "cluster": {"worker": ["a:1", "b:1", "c:1"]},
                    "task": {"type": "worker", "index": 2},
                }
            ),
            (2, 3),
        ),
        # As Vertex AI and TFJob set it for one replica, and for a chief with workers.
        ('{"cluster": {"chief": ["a:1"]}, "task": {"type": "chief", "index": 0}}', (0, 1)),
        (
            '{"cluster": {"worker": ["b:1"], "chief": ["a:1"]}, "task": {"type": "worker", '
            '"index": 0}}',
            (1, 2),
        ),
    ],
)
def test_tf_config_names_the_worker_and_how_many_there_are(tf_config, expected):
    environ = {} if tf_config is None else {"TF_CONFIG": tf_config}
    assert peers.member(environ) == expected


@pytest.mark.parametrize(
    "message, reason",
    [
        (
            "Collective ops is aborted by: Connection reset by peer\nThe error could be from a "
            "previous operation. Restart your program to reset.\n\t [[{{node Reduce}}]]",
            "Connection reset by peer",
        ),
        (
            "failed to connect to all addresses\nAdditional information",
            "failed to connect to all addresses",
        ),
    ],
)
def test_the_reason_of_a_lost_peer_is_one_line(message, reason):
    problem = tf.errors.UnavailableError(None, None, message)
    assert isinstance(problem, peers.LOST_PEER)
    assert peers.reason_of(problem) == reason


@pytest.mark.parametrize(
    "mistake", [tf.errors.InvalidArgumentError, tf.errors.ResourceExhaustedError]
)
def test_an_error_of_this_process_is_not_a_lost_peer(mistake):
    assert not issubclass(mistake, peers.LOST_PEER)
