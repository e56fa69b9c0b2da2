"""A trained model opened for use: its configuration, its dataset and weights of a checkpoint."""

import dataclasses
import pathlib

import tensorflow as tf

from trainer import config as configuration
from trainer import resuming
from trainer.data import store
from trainer.devices import strategy
from trainer.exit_codes import UsageError
from trainer.model_folder import attempts, checkpoint
from trainer.models import networks
from trainer.steps import state as states
from trainer.steps.evaluation import EvaluationStep
from trainer.tasks import serving, table


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """What a run has learned. weights: {logical name: tensor}, averages if the run keeps them."""

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
    settings: configuration.Evaluate | configuration.Predict | configuration.Export,
    devices: int = 1,
    rows: int = 1,
) -> TrainedModel:
    """Returns the model in `settings.model_dir`, from the checkpoint that `settings` names.

    Its step runs on `devices` devices, in batches of at least `rows` rows.

    Raises UsageError if there is no model or if the dataset differs from the one it was trained on,
    DataError if every checkpoint is damaged.
    """
    folder = pathlib.Path(settings.model_dir)
    config = configuration.from_flat(resuming.written_in(folder))
    found = checkpoint_in(folder, settings.checkpoint)
    run = dataclasses.replace(
        config.run, devices=devices, strategy="auto", accelerator=settings.accelerator, shards=1
    )
    placement = strategy.place(run, rows)
    dataset = store.open_dataset(settings.data_dir or config.folders.data_dir)
    if dataset.digest != found.manifest["dataset_digest"]:
        raise UsageError(
            f"{dataset.folder} has the digest {dataset.digest[:12]}, {found.path} was trained on "
            f"{found.manifest['dataset_digest'][:12]}: ids would mean other words. Name the "
            "dataset that the model was trained on."
        )
    task = table.task_of(dataset)
    network = networks.of_run(
        config, len(dataset.vocabulary), dataset.outputs, placement.device_type, task.head
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
