"""What a run takes from its machine and what decides bits: threads, shards, fused steps, settled
before TensorFlow starts.
"""

import dataclasses
import os

from trainer import config as configuration
from trainer import resuming
from trainer.devices import fusion


def resolve(run: configuration.Run, rows: int, workers: int = 1) -> configuration.Run:
    """`run` with the numbers that decide bits filled in where they are 0: threads from this
    machine, shards from both.

    rows: of the global batch that are worked through at once, --batch_size / --accumulate; each of
    `workers` has its share of them. A shard has at least 16, or splitting costs more than it gains;
    on one device more shards than threads gain nothing.
    """
    threads = run.threads or len(os.sched_getaffinity(0))
    shards = run.shards or max(1, min(threads, rows // workers // (16 * max(1, run.devices))))
    return dataclasses.replace(run, threads=threads, shards=shards)


def settled(
    config: configuration.Config, has_checkpoints: bool, workers: int = 1
) -> configuration.Config:
    """The configuration with nothing left open: as the run in its model folder began, or chosen now
    for a new one.

    Raises UsageError where the folder has checkpoints of a run with another configuration.
    """
    if has_checkpoints:
        config = resuming.resumed(config, resuming.written_in(config.folders.model_dir))
    config = dataclasses.replace(config, run=fusion.settled(config, workers))
    return dataclasses.replace(config, run=resolve(config.run, config.rows_at_once, workers))
