"""The compiled train steps of a run: one gradient and one update, and two ways to run them.

A step: the gradient of each shard (a fixed slice of a replica's rows) as a sum over its rows,
packed into one vector together with the sums of the task; vectors added up over shards, then over
replicas and workers (`gradient`); then one update: divide by the number of examples, clip,
optimizer, sums of the epoch (`update`).

Gradient and update are XLA programs of their own, and the shards of a replica run side by side
(`stepwise`). If steps are so small that calling programs takes longer than they do, many whole
steps run inside one program (`fused`, `--fuse`). Under float16 the loss is scaled, and a step whose
gradient overflows nevertheless makes no update.
"""

import logging
from collections.abc import Sequence
from typing import Any, Protocol

from trainer.data import pipeline
from trainer.data.plans import Length
from trainer.devices.exchange import Exchange
from trainer.devices.placement import Placement
from trainer.flags.run import Config
from trainer.steps.fused import STACK, Fused, stack_bytes
from trainer.steps.gradient import Gradient
from trainer.steps.programs import compiles
from trainer.steps.state import State
from trainer.steps.stepwise import Stepwise
from trainer.steps.update import StepMetrics, Update

log = logging.getLogger(__name__)


class TrainSteps(Protocol):
    """Runs train steps on a state; of its methods, only `run` changes the state.

    exchange: what a step sends to other workers.
    """

    exchange: Exchange

    def source(self, batches: pipeline.TrainingBatches, first_step: int) -> Any:
        """Returns the batches from `first_step` on, in the form that `run` takes."""

    def run(self, source: Any, steps: int) -> StepMetrics:
        """Runs at most `steps` steps on batches from `source`; returns their metrics.

        A step whose loss or gradient is not finite is the last, or it makes no update and the run
        must end after these steps. `steps` 0 traces the loop.
        """

    def warm_up(self, length: Length, rows: int) -> None:
        """Compiles what depends on the shape of batches, of `rows` rows padded to `length`."""


def train_steps(
    state: State,
    placement: Placement,
    config: Config,
    lengths: Sequence[Length],
    class_weights: Sequence[float] = (),
) -> TrainSteps:
    """Returns the train steps of a run, for batches padded to one of `lengths`.

    Many steps run inside one program on a TPU, and on one CPU device if `--fuse` asks for it and
    XLA compiles the network.
    """
    network = state.network
    carries = bool(state.streams)
    gradient = Gradient(network, placement, config, state.task, class_weights, carries)
    on_gpu = placement.device_type == "GPU"  # where a loop does not end with such a step
    update = Update(state, config.optimizer, refuses_not_finite=on_gpu)
    alone_on_cpu = placement.device_type == "CPU" and placement.replicas == placement.workers == 1
    asked = config.run.fuse == "on" and alone_on_cpu and compiles(network, placement)
    if placement.device_type != "TPU" and not asked:
        return Stepwise(state, placement, gradient, update)
    if placement.device_type != "TPU":
        log.info("steps are small: up to %d at a time inside one program", STACK)
        return Fused(state, placement, gradient, update, config.input.batch_size)
    sent = stack_bytes(config.input.batch_size // placement.replicas, max(lengths), state.form)
    log.info(
        "up to %d steps of any of %d lengths inside one program, whose input is %.3g MB for each "
        "core",
        STACK,
        len(lengths),
        sent / 1e6,
    )
    return Fused(state, placement, gradient, update, config.input.batch_size, lengths)
