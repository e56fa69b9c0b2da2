"""The story of a run, from a configuration to a trained model: read this first.

A run is a function of (configuration, dataset, step). To continue one, restore a state and ask for
the batches from its step on; that is all a resume is. This file tells the order of events up to the
loop, which is in `loop`.
"""

import contextlib
import logging
import os
import pathlib
import traceback

import numpy as np

from trainer import config as configuration
from trainer import loop, resuming, trained_model
from trainer.channel import Channel
from trainer.data import order, pipeline, store
from trainer.devices import resources, strategy
from trainer.doctor import command as doctor
from trainer.exit_codes import (
    BY_NAME,
    DataError,
    PeerLostError,
    StorageError,
    TrainerError,
    UsageError,
)
from trainer.model_folder import checkpoint, commits, lock
from trainer.model_folder.journal import Journal
from trainer.steps import optimizer, state, steps
from trainer.stopping import StopRequest
from trainer.tasks import classification

log = logging.getLogger(__name__)

LAST_LINES = 10  # of a traceback, in the journal


def train(
    config: configuration.Config, stop: StopRequest, supervisor: Channel, began: float
) -> int:
    """Trains, or goes on training, the model in `config.folders.model_dir`; returns the exit code.

    In a gang this is one of its workers, each with the same state; the first of them, the chief,
    writes to the folder. `began`: when this process did, a moment of time.monotonic().
    """
    folder = pathlib.Path(config.folders.model_dir)
    worker, workers = member = strategy.member(os.environ)
    with (
        lock.hold(folder, abandon=lambda: stop.asked)
        if worker == 0
        else contextlib.nullcontext(lock.Guest()) as held
    ):
        if held is None:
            return loop.say_stopped(stop, 0, "none")
        journal = Journal(
            folder / "journal.jsonl" if worker == 0 else os.devnull, held.number, began=began
        )
        journal.lap("launch")
        outcome = {"code": BY_NAME["bug"], "reason": "unexpected exception"}
        try:
            code = _run(config, loop.Attempt(folder, held, journal, stop, supervisor), member)
            outcome = {"code": code, "reason": stop.signal.name if stop.asked else "done"}
            if code == PeerLostError.code:
                outcome |= {"reason": "the workers meet again", "meets_again": True}
            return code
        except TrainerError as problem:
            outcome = {"code": problem.code, "reason": str(problem)}
            raise
        except strategy.LOST_PEER as problem:
            if workers == 1:
                raise
            outcome = {"code": PeerLostError.code, "reason": strategy.told_by(problem)}
            raise PeerLostError(
                f"worker {worker} of {workers} lost another one ({strategy.told_by(problem)}): a "
                "step needs all of them. "
                "Start the missing one again; the run goes on from its newest checkpoint."
            ) from problem
        except OSError as problem:
            outcome = {"code": StorageError.code, "reason": str(problem)}
            raise StorageError(
                f"{problem}; the model folder {folder} must stay writable; check free space and "
                "permissions, then "
                "run the same command again"
            ) from problem
        except Exception as problem:
            outcome["reason"] = f"{type(problem).__name__}: {problem}"
            outcome["last_lines"] = traceback.format_exc().splitlines()[-LAST_LINES:]
            raise
        except KeyboardInterrupt:
            outcome = {
                "code": BY_NAME["interrupted"],
                "reason": "stopped at once, without a checkpoint",
            }
            raise
        finally:
            journal.lap("stop", **outcome)
            journal.close()


def _run(config: configuration.Config, attempt: loop.Attempt, member: tuple[int, int]) -> int:
    folder, held, journal, tell_supervisor = (
        attempt.folder,
        attempt.held,
        attempt.journal,
        attempt.supervisor.beat,
    )
    if member[0] == 0:
        log.info("attempt %d in %s", held.number, folder)
    has_checkpoints = bool(commits.list_steps(folder / "checkpoints"))
    config = resources.settled(config, has_checkpoints, member[1])

    # 1. Devices, and the other workers.
    for finding in doctor.at_start(config, strategy.visible()):
        log.warning("%s", finding)
    tell_supervisor("meet")
    placement = strategy.place(config.run, config.rows_at_once, member)
    attempt.stop.listen()
    log.info(
        "%d %s replica(s) under %s, %d shard(s) each, %d threads%s",
        placement.replicas,
        placement.device_type,
        type(placement.strategy).__name__,
        config.run.shards,
        config.run.threads,
        f"; worker {placement.worker} of {placement.workers}" if placement.workers > 1 else "",
    )
    journal.lap("meet" if placement.workers > 1 else "devices")

    # 2. Data.
    log.info("opening %s and checking its files", config.folders.data_dir)
    dataset = store.open_dataset(config.folders.data_dir)
    journal.lap("open_dataset")
    split = dataset.splits["train"]
    batches = pipeline.TrainingBatches(split, config.input, config.run.seed)
    total = config.run.steps or order.epoch_end(
        config.run.epochs, len(split), config.input.batch_size
    )
    log.info(
        "%d training examples, %d classes, vocabulary of %d; batches are padded to %s",
        len(split),
        len(dataset.labels),
        len(dataset.vocabulary),
        ", ".join(map(str, batches.lengths)),
    )

    # 3. Model, optimizer, step.
    network = trained_model.build_network(config, dataset, placement)
    for layer, implementation, reason in network.implementations:
        log.info("%s: %s of %s: %s", layer, implementation, config.model.cell, reason)
    log.info("%d parameters", network.parameters)
    run_state = state.State(network, optimizer.Optimizer(config.optimizer, network.weights, total))
    weights = classification.balanced_weights(
        np.bincount(split.labels, minlength=len(dataset.labels))
    )
    train_steps = steps.TrainSteps(
        network,
        run_state,
        placement,
        config,
        tuple(weights) if config.optimizer.class_weights == "balanced" else (),
    )
    if train_steps.fused:
        log.info("steps are small: up to %d at a time inside one program", steps.STACK)
    if placement.workers > 1:
        log.info(
            "a step sends %.3g MB to other workers, the gradient of the embedding %s",
            train_steps.exchange.bytes / 1e6,
            "by the row" if train_steps.exchange.embedding_by_row else "whole",
        )
    evaluation = loop.Evaluation.of(config, dataset, network, placement)
    journal.lap("build")

    # 4. Where the state comes from: the newest valid checkpoint of this folder, or the seed.
    tell_supervisor("restore")
    found = _newest(placement, attempt)
    if found:
        _check_continues(found, dataset, total)
        run_state.restore(found.tensors, str(found.path))
        journal.lap("restore", step=found.step)
        log.info("restored step %d of %d from %s", found.step, total, found.path)
    else:
        log.info("no checkpoint yet: initial weights from seed %d", config.run.seed)
        journal.lap("initialise", step=0)
    _refuse_unequal_states(placement, run_state)
    held.began(found.step if found else 0)
    if placement.is_chief:
        resuming.write(config, folder)
    journal.lap(
        "start",
        step=found.step if found else 0,
        total=total,
        devices=placement.devices,
        pid=os.getpid(),
    )

    # 5. The loop, and what it leaves behind.
    return loop.Loop(
        config,
        attempt,
        dataset,
        batches,
        run_state,
        train_steps,
        placement,
        evaluation,
        found,
        total,
    ).run()


def _newest(placement: strategy.Placement, attempt: loop.Attempt) -> checkpoint.Checkpoint | None:
    """The checkpoint that the chief finds to be the newest valid one, read by every worker."""
    folder = attempt.folder / "checkpoints"
    found = (
        checkpoint.newest_valid(
            folder, fences=attempt.held.fences, repair=True, attempt=attempt.held.number
        )
        if placement.is_chief
        else None
    )
    step = int(placement.everyones([found.step if found else -1])[0, 0])
    if placement.is_chief or step < 0:
        return found
    try:
        return checkpoint.load(commits.folder_of(folder, step))
    except DataError as problem:
        raise UsageError(
            f"worker {placement.worker} cannot read the checkpoint of step {step} that the chief "
            f"goes on from ({problem}): all "
            f"workers must see the same folder as --model_dir={attempt.folder}. Put it on storage "
            "that they share."
        ) from None


def _refuse_unequal_states(placement: strategy.Placement, run_state: state.State) -> None:
    """Raises UsageError where the workers begin with different states."""
    if placement.workers == 1:
        return
    digest = checkpoint.state_digest(run_state.snapshot())
    if not placement.all_have(digest):
        raise UsageError(
            f"worker {placement.worker} of {placement.workers} begins with the state "
            f"{digest[:12]}, others with another one: all "
            "must begin with the same bits. Run the same image on the same kind of machine "
            "everywhere."
        )


def _check_continues(found: checkpoint.Checkpoint, dataset: store.Dataset, total: int) -> None:
    if found.manifest["dataset_digest"] != dataset.digest:
        raise UsageError(
            f"{dataset.folder} has the digest {dataset.digest[:12]}, the checkpoint {found.path} "
            "was made with "
            f"{found.manifest['dataset_digest'][:12]}: a resume must see the same data. Name that "
            "dataset, or another "
            "--model_dir."
        )
    if found.step > total:
        raise UsageError(
            f"{found.path} is beyond the last step of this run, {total}: a run may be made longer, "
            "not shorter. "
            "Raise --steps or --epochs, or name another --model_dir."
        )
