"""The story of a run, from a configuration to a trained model: read this first.

A run is a function of (configuration, dataset, step). To continue one, restore a state and ask for the batches from its
step on; that is all a resume is. This file tells the order of events up to the loop, which is in `loop`.
"""

import dataclasses
import logging
import os
import pathlib

import numpy as np

from trainer import checkpoint, fusion, lock, loop, optimizer, restored, state, steps, strategy, tasks
from trainer import config as configuration
from trainer.data import order, pipeline, store
from trainer.exit_codes import BY_NAME, StorageError, TrainerError, UsageError
from trainer.journal import Journal
from trainer.stopping import StopRequest

log = logging.getLogger(__name__)


def train(config: configuration.Config, stop: StopRequest) -> int:
    """Trains, or goes on training, the model in `config.folders.model_dir`; returns the exit code."""
    folder = pathlib.Path(config.folders.model_dir)
    with lock.hold(folder, abandon=lambda: stop.asked) as attempt:
        if attempt is None:
            return loop.say_stopped(stop, 0, "none")
        journal = Journal(folder / "journal.jsonl", attempt)
        outcome = {"code": BY_NAME["bug"], "reason": "unexpected exception"}
        try:
            code = _run(config, loop.Attempt(folder, attempt, journal, stop))
            outcome = {"code": code, "reason": stop.signal.name if stop.asked else "done"}
            return code
        except TrainerError as problem:
            outcome = {"code": problem.code, "reason": str(problem)}
            raise
        except OSError as problem:
            outcome = {"code": StorageError.code, "reason": str(problem)}
            raise StorageError(f"{problem}; the model folder {folder} must stay writable; check free space and permissions, then "
                               "run the same command again") from problem
        except KeyboardInterrupt:
            outcome = {"code": BY_NAME["interrupted"], "reason": "stopped at once, without a checkpoint"}
            raise
        finally:
            journal.write("stop", **outcome)
            journal.close()


def _run(config: configuration.Config, attempt: loop.Attempt) -> int:
    folder, journal = attempt.folder, attempt.journal
    log.info("attempt %d in %s", attempt.number, folder)
    has_checkpoints = bool(checkpoint.list_steps(folder / "checkpoints"))
    config = _settled(config, folder, has_checkpoints)

    # 1. Devices.
    placement = strategy.place(config.run, config.input.batch_size // config.optimizer.accumulate)
    log.info("%d %s replica(s) under %s, %d shard(s) each, %d threads", placement.replicas, placement.device_type,
             type(placement.strategy).__name__, config.run.shards, config.run.threads)

    # 2. Data.
    log.info("opening %s and checking its files", config.folders.data_dir)
    with journal.timed("open_dataset"):
        dataset = store.open_dataset(config.folders.data_dir)
    split = dataset.splits["train"]
    batches = pipeline.TrainingBatches(split, config.input, config.run.seed)
    total = config.run.steps or order.epoch_end(config.run.epochs, len(split), config.input.batch_size)
    log.info("%d training examples, %d classes, vocabulary of %d; batches are padded to %s", len(split), len(dataset.labels),
             len(dataset.vocabulary), ", ".join(map(str, batches.lengths)))

    # 3. Model, optimizer, step.
    network = restored.build_network(config, dataset, placement)
    for layer, implementation, reason in network.kernels:
        log.info("%s: %s of %s: %s", layer, implementation, config.model.cell, reason)
    log.info("%d parameters", network.parameters)
    run_state = state.State(network, optimizer.Optimizer(config.optimizer, network.weights, total))
    weights = tasks.balanced_weights(np.bincount(split.labels, minlength=len(dataset.labels)))
    train_steps = steps.TrainSteps(network, run_state, placement, config,
                                   tuple(weights) if config.optimizer.class_weights == "balanced" else ())
    if train_steps.fused:
        log.info("steps are small: up to %d at a time inside one program", steps.STACK)
    evaluation = loop.Evaluation.of(config, dataset, network, placement)

    # 4. Where the state comes from: the newest valid checkpoint of this folder, or the seed.
    found = checkpoint.newest_valid(folder / "checkpoints", repair=True, attempt=attempt.number)
    if found:
        _check_continues(found, dataset, total)
        with journal.timed("restore", step=found.step):
            run_state.restore(found.tensors, str(found.path))
        log.info("restored step %d of %d from %s", found.step, total, found.path)
    else:
        log.info("no checkpoint yet: initial weights from seed %d", config.run.seed)
        journal.write("initialise", step=0)
    _write_config(config, folder)
    journal.write("start", step=found.step if found else 0, total=total, devices=placement.devices, pid=os.getpid())

    # 5. The loop, and what it leaves behind.
    return loop.Loop(config, attempt, dataset, batches, run_state, train_steps, evaluation, found, total).run()


def _settled(config: configuration.Config, folder: pathlib.Path, has_checkpoints: bool) -> configuration.Config:
    """The configuration with nothing left open: as the run in this folder began, or chosen now for a new one."""
    if has_checkpoints:
        config = configuration.resumed(config, configuration.written_in(folder))
    config = dataclasses.replace(config, run=fusion.settled(config))
    return dataclasses.replace(config, run=strategy.resolve(config.run, config.input.batch_size // config.optimizer.accumulate))


def _write_config(config: configuration.Config, folder: pathlib.Path) -> None:
    with open(folder / "config.json.tmp", "w", encoding="utf-8") as file:
        file.write(configuration.to_json(config))
        file.flush()
        os.fsync(file.fileno())  # Without it no checkpoint could be continued after a loss of power.
    os.replace(folder / "config.json.tmp", folder / "config.json")


def _check_continues(found: checkpoint.Checkpoint, dataset: store.Dataset, total: int) -> None:
    if found.manifest["dataset_digest"] != dataset.digest:
        raise UsageError(f"{dataset.folder} has the digest {dataset.digest[:12]}, the checkpoint {found.path} was made with "
                         f"{found.manifest['dataset_digest'][:12]}: a resume must see the same data. Name that dataset, or another "
                         "--model_dir.")
    if found.step > total:
        raise UsageError(f"{found.path} is beyond the last step of this run, {total}: a run may be made longer, not shorter. "
                         "Raise --steps or --epochs, or name another --model_dir.")
