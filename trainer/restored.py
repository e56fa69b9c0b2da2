"""A trained model, opened for use: its configuration, its dataset and the weights of one of its checkpoints."""

import dataclasses
import pathlib

import numpy as np
import tensorflow as tf

from trainer import checkpoint
from trainer import config as configuration
from trainer import state as states
from trainer import strategy
from trainer.data import store
from trainer.exit_codes import UsageError
from trainer.models.networks import Network
from trainer.steps import EvaluationStep


@dataclasses.dataclass(frozen=True)
class Model:
    """weights: {logical name: tensor}, averaged ones where the run keeps them."""

    config: configuration.Config
    dataset: store.Dataset
    network: Network
    weights: dict[str, tf.Tensor]
    step: EvaluationStep
    checkpoint_step: int


def open_model(settings) -> Model:
    """The model in `settings.model_dir`; `settings` has data_dir, checkpoint ("auto", "newest", "best") and perhaps devices.

    Raises UsageError where there is no model, or the dataset is another one than it was trained on; DataError where every
    checkpoint is damaged.
    """
    folder = pathlib.Path(settings.model_dir)
    path = folder / "config.json"
    if not path.exists():
        raise UsageError(f"--model_dir={folder}: holds no config.json, so nothing was trained there. Name a folder of `train`.")
    config = configuration.from_flat(configuration.flags_from_json(path.read_text(encoding="utf-8"), str(path)))
    found = _checkpoint(folder, settings.checkpoint)
    placement = strategy.place(
        dataclasses.replace(config.run, devices=getattr(settings, "devices", 0) or 1, strategy="auto", shards=1), ROWS_AT_LEAST)
    dataset = store.open_dataset(settings.data_dir or config.folders.data_dir)
    if dataset.digest != found.manifest["dataset_digest"]:
        raise UsageError(f"{dataset.folder} has the digest {dataset.digest[:12]}, {found.path} was trained on "
                         f"{found.manifest['dataset_digest'][:12]}: ids would mean other words. Name the dataset of the training.")
    network = build_network(config, dataset, placement)
    weights = states.evaluation_weights(found.tensors)
    return Model(config, dataset, network, {name: tf.constant(weights[name]) for name in network.weights},
                 EvaluationStep(network, placement), found.step)


ROWS_AT_LEAST = 64  # Rows that an evaluation batch surely has: the bound for the number of devices.


def build_network(config: configuration.Config, dataset: store.Dataset, placement: strategy.Placement) -> Network:
    """The network of a run over a dataset, with initial weights."""
    return Network(config.model, len(dataset.vocabulary), len(dataset.labels), seed=config.run.seed,
                   precision=config.run.precision, device_type=placement.device_type, jit=config.run.jit)


def best_folder(folder: pathlib.Path) -> pathlib.Path | None:
    """The newest checkpoint under best/, or None."""
    steps = checkpoint.list_steps(folder / "best")
    return checkpoint.folder_of(folder / "best", steps[-1]) if steps else None


def _checkpoint(folder: pathlib.Path, which: str) -> checkpoint.Checkpoint:
    best = best_folder(folder)
    if which == "best" and not best:
        raise UsageError(f"--checkpoint=best: {folder} has no best checkpoint. One is kept where a validation split is evaluated. "
                         "Use --checkpoint=newest.")
    if best and which != "newest":
        return checkpoint.load(best)
    newest = checkpoint.newest_valid(folder / "checkpoints", repair=False)
    if newest is None:
        raise UsageError(f"--model_dir={folder}: holds no checkpoint yet. Train first, or wait for the first save.")
    return newest
