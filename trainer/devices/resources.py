"""Settles fused steps, threads and shards of a run, before TensorFlow starts.

All three affect the last bits of the result. They are chosen once, at the first start of a run, and
every resume keeps them.
"""

import dataclasses
import os

from trainer import resuming
from trainer.devices import accelerator, fusion
from trainer.flags.run import Config

SHARD_ROWS = 16  # The fewest rows of a shard that is worth splitting off.


def settled(config: Config, has_checkpoints: bool, workers: int = 1) -> Config:
    """Returns `config` with `fuse`, `threads` and `shards` filled in.

    A run that has checkpoints keeps the values in its config.json. A new run keeps those of its
    flags, and chooses the rest:

    - fuse: "on" with one worker if `fusion.pays`. The machine does not matter.
    - threads: the cores that this process may use; 1 for a fused run.
    - shards: as many as threads, but each with at least SHARD_ROWS rows of a replica. 1 for a fused
      run, and on an accelerator, which computes all rows at once and shards one after the other.

    Raises UsageError if the folder has checkpoints of a run with another configuration.
    """
    if has_checkpoints:
        config = resuming.resumed(config, resuming.written_in(config.folders.model_dir))
    run = config.run
    fuse, threads, shards = run.fuse, run.threads, run.shards
    kind = accelerator.here(run.accelerator, run.strategy)
    if fuse == "auto":
        fuse = "on" if kind == "CPU" and workers == 1 and fusion.pays(config) else "off"
    if kind != "CPU":
        shards = shards or 1
    elif fuse == "on":
        threads, shards = threads or 1, shards or 1
    threads = threads or len(os.sched_getaffinity(0))
    rows = config.rows_at_once // workers // max(1, run.devices)
    shards = shards or max(1, min(threads, rows // SHARD_ROWS))
    return dataclasses.replace(
        config, run=dataclasses.replace(run, fuse=fuse, threads=threads, shards=shards)
    )
