"""A trained model, opened for use: its configuration, its dataset and the weights of one of its
checkpoints.
"""

import dataclasses
import pathlib

import tensorflow as tf

from trainer import config as configuration
from trainer import resuming
from trainer.data import store
from trainer.devices import strategy
from trainer.exit_codes import UsageError
from trainer.model_folder import attempts, checkpoint
from trainer.models.networks import Network
from trainer.steps import state as states
from trainer.steps.steps import EvaluationStep


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """weights: {logical name: tensor}, averaged ones where the run keeps them."""

    config: configuration.Config
    dataset: store.Dataset
    network: Network
    weights: dict[str, tf.Tensor]
    step: EvaluationStep
    checkpoint_step: int


def open_model(settings) -> TrainedModel:
    """The model in `settings.model_dir`; `settings` has data_dir, checkpoint ("auto", "newest",
    "best") and perhaps devices.

    Raises UsageError where there is no model, or the dataset is another one than it was trained on;
    DataError where every checkpoint is damaged.
    """
    folder = pathlib.Path(settings.model_dir)
    config = configuration.from_flat(resuming.written_in(folder))
    found = _checkpoint(folder, settings.checkpoint)
    placement = strategy.place(
        dataclasses.replace(
            config.run,
            devices=getattr(settings, "devices", 0) or 1,
            strategy="auto",
            accelerator="auto",
            shards=1,
        ),
        ROWS_AT_LEAST,
    )
    dataset = store.open_dataset(settings.data_dir or config.folders.data_dir)
    if dataset.digest != found.manifest["dataset_digest"]:
        raise UsageError(
            f"{dataset.folder} has the digest {dataset.digest[:12]}, {found.path} was trained on "
            f"{found.manifest['dataset_digest'][:12]}: ids would mean other words. Name the "
            "dataset of the training."
        )
    network = build_network(config, dataset, placement)
    weights = states.evaluation_weights(found.tensors)
    return TrainedModel(
        config,
        dataset,
        network,
        {name: tf.constant(weights[name]) for name in network.weights},
        EvaluationStep(network, placement),
        found.step,
    )


ROWS_AT_LEAST = 64  # Rows that an evaluation batch surely has: the bound for the number of devices.


def build_network(
    config: configuration.Config, dataset: store.Dataset, placement: strategy.Placement
) -> Network:
    """The network of a run over a dataset, with initial weights."""
    return Network(
        config.model,
        len(dataset.vocabulary),
        len(dataset.labels),
        seed=config.run.seed,
        precision=config.run.precision,
        device_type=placement.device_type,
        jit=config.run.jit,
    )


def _checkpoint(folder: pathlib.Path, which: str) -> checkpoint.Checkpoint:
    fences = attempts.fences(folder)
    best = (
        None
        if which == "newest"
        else checkpoint.newest_valid(folder / "best", fences=fences, repair=False)
    )
    if best:
        return best
    if which == "best":
        raise UsageError(
            f"--checkpoint=best: {folder} has no best checkpoint. One is kept where a validation "
            "split is evaluated. "
            "Use --checkpoint=newest."
        )
    newest = checkpoint.newest_valid(folder / "checkpoints", fences=fences, repair=False)
    if newest is None:
        raise UsageError(
            f"--model_dir={folder}: holds no checkpoint yet. Train first, or wait for the first "
            "save."
        )
    return newest
