"""A trained model opened for use: its configuration, its dataset and weights of a checkpoint.

A model folder stands alone: it keeps what texts are read with (`data.excerpt`). Only who reads
examples needs the folder of the dataset.
"""

import dataclasses
import enum
import logging
import pathlib

import tensorflow as tf

from trainer import resuming
from trainer.data import excerpt, store
from trainer.devices import strategy
from trainer.exit_codes import DataError, TrainerError, UsageError
from trainer.flags import run as configuration
from trainer.flags.knobs import as_given
from trainer.flags.use import Evaluate, Export, Predict
from trainer.model_folder import attempts, checkpoint
from trainer.models import networks
from trainer.steps import state as states
from trainer.steps.evaluation import EvaluationStep
from trainer.tasks import serving, table

log = logging.getLogger(__name__)

Settings = Evaluate | Predict | Export


class Examples(enum.Enum):
    """What a command does with the examples of a dataset."""

    NEEDED = enum.auto()
    WELCOME = enum.auto()  # It reads them if the folder of the dataset is there.
    UNUSED = enum.auto()


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """What a run has learned.

    weights: {logical name: tensor}, averages if the run keeps them. dataset: without splits if it
    comes from the model folder.
    """

    config: configuration.Config
    dataset: store.Dataset
    network: networks.Network
    weights: dict[str, tf.Tensor]
    step: EvaluationStep
    checkpoint_step: int

    def served(self) -> serving.Served:
        """Returns what answers to texts with this model."""
        return self.step.task.served(
            self.network, self.weights, self.dataset, self.config.input, self.step.compiled
        )


def open_model(
    settings: Settings, devices: int = 1, rows: int = 1, examples: Examples = Examples.NEEDED
) -> TrainedModel:
    """Returns the model in `settings.model_dir`, from the checkpoint that `settings` names.

    Its step runs on `devices` devices, in batches of at least `rows` rows.

    Raises UsageError if there is no model, if the dataset differs from the one it was trained on,
    or if a flag in `settings` is one that the model ignores; DataError if every checkpoint, the
    configuration or the dataset is damaged.
    """
    folder = pathlib.Path(settings.model_dir)
    config = configuration.from_flat(resuming.written_in(folder))
    found = checkpoint_in(folder, settings.checkpoint)
    run = dataclasses.replace(
        config.run, devices=devices, strategy="auto", accelerator=settings.accelerator, shards=1
    )
    placement = strategy.place(run, rows)
    dataset = _dataset(settings, config, found, examples)
    task = table.task_of(dataset, config)
    _refuse_ignored(settings, task)
    network = networks.of_run(
        config,
        len(dataset.vocabulary),
        dataset.outputs,
        placement.device_type,
        task.head,
        dataset.second,
        dataset.frame,
    )
    weights = states.evaluation_weights(found.tensors)
    return TrainedModel(
        config,
        dataset,
        network,
        {name: tf.constant(weights[name]) for name in network.weights},
        EvaluationStep(network, placement, task),
        found.step,
    )


def _refuse_ignored(settings: Settings, task: table.Task) -> None:
    """Raises UsageError if a flag was given that only other tasks obey."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        ignored = field.name in table.OPTIONS - task.served.options
        if ignored and value != field.default:
            raise UsageError(
                f"{as_given(field.name, value)}: the model was trained for "
                f"{task.name}, which would ignore it. Leave the flag out."
            )


def _dataset(
    settings: Settings,
    config: configuration.Config,
    found: checkpoint.Checkpoint,
    examples: Examples,
) -> store.Dataset:
    """Returns the dataset of the model, as far as the command needs it.

    --data_dir is always read if it is given.
    """
    folder = settings.data_dir or config.folders.data_dir
    if settings.data_dir:
        return _with_examples(folder, found)
    if examples is Examples.NEEDED:
        try:
            return _with_examples(folder, found)
        except UsageError as problem:
            raise UsageError(
                f"{problem} This command reads examples, which the model folder does not hold."
            ) from None
    if examples is Examples.WELCOME:
        try:
            return _with_examples(folder, found)
        except TrainerError as problem:
            absent = problem
    try:
        kept = excerpt.opened(pathlib.Path(settings.model_dir), found.manifest["dataset_digest"])
    except DataError as problem:
        try:
            dataset = _with_examples(folder, found)
        except TrainerError:
            raise problem from None
        log.warning("%s Until then %s is read", problem, folder)
        return dataset
    if kept is None:  # An older version trained the model.
        return _with_examples(folder, found)
    if examples is Examples.WELCOME:
        log.warning("%s The model is used without examples of its dataset", absent)
    return kept


def _with_examples(folder: str, found: checkpoint.Checkpoint) -> store.Dataset:
    """Returns the dataset in `folder`; raises UsageError if it is not the one of the checkpoint."""
    dataset = store.open_dataset(folder)
    if dataset.digest != found.manifest["dataset_digest"]:
        raise UsageError(
            f"{dataset.folder} has the digest {dataset.digest[:12]}, {found.path} was trained on "
            f"{found.manifest['dataset_digest'][:12]}: its inputs would mean something else. Name "
            "the dataset that the model was trained on."
        )
    return dataset


def checkpoint_in(
    folder: pathlib.Path, which: str, flag: str = "model_dir"
) -> checkpoint.Checkpoint:
    """Returns the checkpoint that --checkpoint names: "best", "newest" or "auto".

    Raises UsageError, which names `flag`, if there is none; DataError if none is valid.
    """
    fences = attempts.fences(folder)
    if which != "newest":
        best = checkpoint.newest_valid(folder / "best", fences=fences, repair=False)
        if best:
            return best
    if which == "best":
        raise UsageError(
            f"--checkpoint=best: {folder} has no best checkpoint. A run keeps one if it evaluates "
            "a validation split. Use --checkpoint=newest."
        )
    newest = checkpoint.newest_valid(folder / "checkpoints", fences=fences, repair=False)
    if newest is None:
        raise UsageError(
            f"--{flag}={folder}: holds no checkpoint yet. Train first, or wait for the first save."
        )
    return newest
