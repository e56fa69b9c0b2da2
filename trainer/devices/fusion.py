"""Decides whether the steps of a run are so small that many of them run inside one program.

A step that takes about a millisecond is bound by what surrounds it: calls of programs, copies of
weights, threads that wait for each other. One program of many steps on one thread has none of that,
but uses only one thread.
"""

import math

from trainer.flags.run import Config
from trainer.models import shapes

# Most multiplications in the forward pass of a step that is fused. At about this size two shards
# side by side become as fast as one program.
SMALL = 16_000_000


def pays(config: Config) -> bool:
    """Returns whether fused steps are faster.

    They are if a step is small, compiled by XLA, in one part, on one device, and if all steps have
    one length. Each length needs a program of its own, and the order of batches mixes lengths.
    Convolutions are never small.
    """
    run = config.run
    # If the configuration asks for more threads or shards, they are used.
    one_thread = run.threads <= 1 and run.shards <= 1
    one_device = run.devices <= 1 and run.strategy in ("auto", "one_device")
    one_length = config.input.padding == "pre"
    one_part = run.jit != "off" and config.optimizer.accumulate == 1
    small = config.model.frame_encoder != "convolution" and multiplications(config) <= SMALL
    return one_thread and one_device and one_length and one_part and small


def multiplications(config: Config) -> int:
    """Returns rows x length x weights of the recurrent kernels: what a forward pass multiplies.

    A one-hot embedding is as wide as the vocabulary, and a frame as wide as it has features, which
    the configuration does not know. They count like --embedding_size.
    """
    layers = shapes.recurrent_layers(config.model, config.model.embedding_size)
    kernels = sum(math.prod(shape) for name, shape in layers.items() if name.endswith("kernel"))
    return config.input.batch_size * config.input.max_length * kernels
