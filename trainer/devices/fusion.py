"""Whether a run's steps are so small that many of them should run inside one program.

A step that takes about a millisecond is bound by what lies around it: calls of programs, copies of
weights, threads that wait for each other. One program of many steps on one thread has none of that,
but only one thread.
"""

from trainer import config as configuration

# Most multiplications of a step's forward pass; about where two shards side by side catch up with
# one program.
SMALL = 16_000_000


def pays(config: configuration.Config) -> bool:
    """Whether fused steps are the faster ones: on one device, compiled by XLA, in one part, small,
    and of one length.

    Steps of several lengths are programs of their own, and the order of batches mixes them.
    """
    run = config.run
    # Where more were asked for, they are to be used.
    one_thread = run.threads <= 1 and run.shards <= 1
    one_device = run.devices <= 1 and run.strategy in ("auto", "one_device")
    one_length = config.input.padding == "pre"
    one_part = run.jit != "off" and config.optimizer.accumulate == 1
    return (
        one_thread and one_device and one_length and one_part and multiplications(config) <= SMALL
    )


def multiplications(config: configuration.Config) -> int:
    """Multiplications of the recurrent layers in the forward pass of a step at full length: rows x
    length x weights.

    A one-hot embedding, as wide as a vocabulary that the configuration does not know, counts like
    --embedding_size.
    """
    model = config.model
    gates = {"simple_rnn": 1, "gru": 3, "lstm": 4}[model.cell]
    directions = 2 if model.bidirectional else 1
    weights, width = 0, model.embedding_size
    for units in model.units:
        weights += directions * gates * units * (width + units)
        width = directions * units
    return config.input.batch_size * config.input.max_length * weights
