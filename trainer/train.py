"""The story of a run, from a configuration to a trained model: read this first.

A run is a function of (configuration, dataset, step). To continue one, restore a state and ask for
the batches from its step on: a resume is nothing more. This file tells the order of events up to
the loop, which is in `loop`.
"""

import contextlib
import logging
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from trainer import fine_tuning, loop, outcome, recorder, resuming
from trainer.channel import Channel
from trainer.data import excerpt, fields, pipeline, plans, store
from trainer.devices import hardware, peers, resources, strategy
from trainer.devices.placement import Placement
from trainer.doctor import command as doctor
from trainer.evaluate import Evaluator
from trainer.exit_codes import DataError, UsageError
from trainer.flags.run import Config, Optimizer, Run
from trainer.keeper import Keeper
from trainer.model_folder import checkpoint, commits, lock
from trainer.model_folder import journal as journals
from trainer.model_folder.journal import Journal
from trainer.models import networks
from trainer.steps import optimizer, state, training
from trainer.stopping import StopRequest
from trainer.tasks import classification, table

log = logging.getLogger(__name__)


def train(config: Config, stop: StopRequest, supervisor: Channel, began: float) -> int:
    """Trains the model in `config.folders.model_dir`, or continues to; returns the exit code.

    In a gang this process is one of the workers, which all have the same state; the first of them,
    the chief, writes to the folder. began: when this process started, by time.monotonic().
    """
    folder = pathlib.Path(config.folders.model_dir)
    worker, _ = member = peers.member(os.environ)
    with (
        lock.hold(folder, abandon=lambda: stop.asked)
        if worker == 0
        else contextlib.nullcontext(lock.Guest()) as held
    ):
        if held is None:
            return recorder.print_stopped(stop, 0, None)
        path = folder / "journal.jsonl" if worker == 0 else os.devnull
        journal = Journal(path, held.number, began=began)
        journal.lap("launch")
        with outcome.recorded(journal, stop, folder, member) as end:
            end.code = _run(config, loop.Attempt(folder, held, journal, stop, supervisor), member)
        return end.code


def _run(config: Config, attempt: loop.Attempt, member: tuple[int, int]) -> int:
    folder, journal, supervisor = attempt.folder, attempt.journal, attempt.supervisor
    worker, workers = member
    if worker == 0:
        log.info("attempt %d in %s", attempt.held.number, folder)
    has_checkpoints = bool(checkpoint.list_steps(folder / "checkpoints"))
    config = resources.settled(config, has_checkpoints, workers)

    # 1. Devices, and the other workers.
    for finding in doctor.at_start(config, strategy.visible(config.run)):
        log.warning("%s", finding)
    supervisor.beat("meet")
    placement = strategy.place(config.run, config.rows_at_once, member)
    log.info("%s", _devices(placement, config.run))
    if placement.device_type != "CPU" and config.run.shards > 1:
        log.warning(
            "--shards=%d on a %s: shards are computed one after the other there. A new run would "
            "choose 1",
            config.run.shards,
            placement.device_type,
        )
    journal.lap("meet" if placement.workers > 1 else "devices")

    # 2. Data.
    log.info("opening %s and checking its files", config.folders.data_dir)
    dataset = store.open_dataset(config.folders.data_dir)
    journal.lap("open_dataset")
    task = table.task_of(dataset, config)
    config = task.settled(config, dataset.frame)
    batches = pipeline.training_batches(dataset, config.input, config.run.seed)
    plan = batches.plan
    total = plan.epochs.total_steps(config.run)
    log.info("%s", _data(dataset, plan))

    # 3. Model, optimizer, step.
    network = networks.of_run(
        config,
        len(dataset.vocabulary),
        dataset.outputs,
        placement.device_type,
        task.head,
        dataset.second,
        dataset.frame,
    )
    for layer, implementation, reason in network.implementations:
        log.info("%s: %s of %s: %s", layer, implementation, config.model.cell, reason)
    updates = optimizer.Optimizer(config.optimizer, network.weights, total, placement.variable)
    streams = plan.batch_size if dataset.order == fields.STREAMS else 0
    run_state = state.State(network, updates, task, placement.variable, streams)
    train_steps = training.train_steps(
        run_state, placement, config, plan.lengths, _class_weights(config.optimizer, dataset)
    )
    for line in _step(network, train_steps, placement.workers):
        log.info("%s", line)
    evaluator = Evaluator.of_run(config, dataset, network, placement)
    journal.lap("build")

    # 4. Where the state comes from: the newest valid checkpoint of this folder, or the seed, with
    #    weights of the model that --init_from names.
    supervisor.beat("restore")
    found = _newest(placement, attempt)
    step = found.step if found else 0
    if found:
        _check_continues(found, dataset, total)
        run_state.restore(found.tensors, str(found.path))
        log.info("restored step %d of %d from %s", step, total, found.path)
        origin = fine_tuning.resumed(config, run_state)
    else:
        log.info("no checkpoint yet: initial weights from seed %d", config.run.seed)
        origin = fine_tuning.begun(config, dataset, run_state)
    journal.lap("restore" if found else "initialise", step=step)
    _refuse_unequal_states(placement, run_state)
    attempt.held.began(step)
    facts = fine_tuning.facts(dataset, origin)
    if placement.is_chief:
        excerpt.keep(dataset, folder)
        resuming.write(config, folder, facts)
    device = hardware.here(config.run)
    if found and placement.is_chief:
        _warn_of_another_device(folder, device)
    journal.lap(
        "start", step=step, total=total, devices=placement.devices, hardware=device, pid=os.getpid()
    )

    # 5. The loop, and what it leaves behind.
    record = recorder.Recorder(
        config,
        folder,
        attempt.held.number,
        journal,
        dataset.vocabulary,
        run_state,
        plan.epochs,
        writes=placement.is_chief,
        step=step,
        total=total,
    )
    keeper = Keeper(
        config,
        folder,
        attempt.held,
        dataset.digest,
        evaluator.split if evaluator else "",
        found,
        writes=placement.is_chief,
        on_saved=record.journal_save,
        facts=facts,
    )
    return loop.Loop(
        config.run,
        attempt,
        placement,
        run_state,
        train_steps,
        batches,
        plan.epochs,
        evaluator,
        keeper,
        record,
        step,
        total,
    ).run()


def _newest(placement: Placement, attempt: loop.Attempt) -> checkpoint.Checkpoint | None:
    """Returns the newest valid checkpoint, None if there is none.

    The chief finds it, and every worker reads the one that the chief has found.
    """
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
            f"worker {placement.worker} cannot read the checkpoint of step {step}, from which the "
            f"chief continues ({problem}): all workers must see the same folder as "
            f"--model_dir={attempt.folder}. Put it on storage that they share."
        ) from None


def _refuse_unequal_states(placement: Placement, run_state: state.State) -> None:
    """Raises UsageError if the workers begin with different states."""
    if placement.workers == 1:
        return
    digest = checkpoint.state_digest(run_state.snapshot())
    if not placement.all_have(digest):
        raise UsageError(
            f"worker {placement.worker} of {placement.workers} begins with the state "
            f"{digest[:12]}, other workers with another one: all must begin with the same bits. "
            "Run the same image on the same kind of machine everywhere."
        )


def _check_continues(found: checkpoint.Checkpoint, dataset: store.Dataset, total: int) -> None:
    """Raises UsageError if the run cannot continue from `found`."""
    if found.manifest["dataset_digest"] != dataset.digest:
        raise UsageError(
            f"{dataset.folder} has the digest {dataset.digest[:12]}, the checkpoint {found.path} "
            f"was made with {found.manifest['dataset_digest'][:12]}: a resume must see the same "
            "data. Name that dataset, or another --model_dir."
        )
    if found.step > total:
        raise UsageError(
            f"{found.path} is beyond the last step of this run, {total}: a run may be made longer, "
            "not shorter. Raise --steps or --epochs, or name another --model_dir."
        )


def _warn_of_another_device(folder: pathlib.Path, device: Mapping[str, str]) -> None:
    before = journals.last(folder / "journal.jsonl", "start") or {}
    changes = hardware.changes(before.get("hardware", device), device)
    if changes:
        log.warning(
            "this run goes on with another device (%s): it sees the same examples, and its digest "
            "will be another one than without the change",
            changes,
        )


def _class_weights(settings: Optimizer, dataset: store.Dataset) -> tuple[float, ...]:
    """Returns the weight of each class in the loss; () if all weigh the same."""
    if settings.class_weights != "balanced":
        return ()
    counts = np.bincount(dataset.splits["train"].targets, minlength=dataset.outputs)
    return tuple(classification.balanced_weights(counts))


# --- sentences for the log ------------------------------------------------------------------------


def _devices(placement: Placement, run: Run) -> str:
    return (
        f"{placement.replicas} {placement.device_type} replica(s) under "
        f"{type(placement.strategy).__name__}, {run.shards} shard(s) each, {run.threads} threads"
        + (f"; worker {placement.worker} of {placement.workers}" if placement.workers > 1 else "")
        + ("" if placement.device_type == "CPU" else f"; float32 products {_products(run)}")
    )


def _products(run: Run) -> str:
    """Returns how an accelerator multiplies."""
    if run.matmul_precision == "highest":
        return "with all digits"
    return "rounded to TF32 on a GPU, to bfloat16 on a TPU (--matmul_precision=highest: not)"


def _data(dataset: store.Dataset, plan: plans.Plan) -> str:
    split = dataset.splits["train"]
    lengths = ", ".join(
        " x ".join(map(str, length)) if isinstance(length, tuple) else str(length)
        for length in plan.lengths
    )
    if dataset.order == fields.STREAMS:
        read = f"read in {plan.batch_size} streams, {lengths} tokens a step"
    else:
        read = f"batches are padded to {lengths}: {plan.padding():.0%} padding"
    told = ""
    if dataset.labels:
        told = f", {len(dataset.labels)} classes"
    elif dataset.values:
        told = f", {len(dataset.values)} values"
    if dataset.frame:
        size = " x ".join(map(str, dataset.frame))
        inputs = f"{len(split.inputs)} frames of {size} features{told}"
    else:
        vocabulary = f"vocabulary of {len(dataset.vocabulary)}"
        inputs = f"{len(split.inputs)} tokens{told}, {vocabulary}"
    target = (
        f"; targets of {len(split.targets)} tokens, vocabulary of {dataset.outputs}"
        if dataset.target.sequence
        else ""
    )
    return f"{len(split)} training examples, {inputs}{target}; {read}"


def _step(network: networks.Network, train_steps: training.TrainSteps, workers: int) -> list[str]:
    lines = [f"{network.parameters} parameters"]
    if workers > 1:
        exchange = train_steps.exchange
        how = "by the row" if exchange.embedding_by_row else "whole"
        embedding = "" if network.frame else f", the gradient of the embedding {how}"
        lines.append(f"a step sends {exchange.bytes / 1e6:.3g} MB to other workers{embedding}")
    return lines
