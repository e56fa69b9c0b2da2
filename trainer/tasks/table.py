"""What differs between tasks: one frozen record for each; no other module distinguishes them.

Names and directions of the metrics of a task are in `config.TASKS`, which needs no TensorFlow.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import tensorflow as tf

from trainer import config as configuration
from trainer.data import fields
from trainer.data.store import Dataset
from trainer.exit_codes import UsageError
from trainer.models import heads, networks
from trainer.models.decoder import Decoder
from trainer.tasks import (
    classification,
    language_model,
    serving,
    tagging,
    translation,
    translator,
    views,
)

# Sums that every task has: the summed loss, whose gradient a step takes, and its divisor.
LOSS_SUM, COUNT = "loss_sum", "count"
_SUMS = {LOSS_SUM: tf.float64, "correct": tf.int64, COUNT: tf.int64}


class Metrics(Protocol):
    """The exact metrics of some rows; those of several parts add up with `+`."""

    @classmethod
    def of(cls, losses, answers, batch, labels) -> "Metrics":
        """Returns those of what `Task.outcomes` returned for a batch; `labels`: the classes."""

    def __add__(self, other: "Metrics") -> "Metrics": ...

    def metrics(self) -> dict[str, float]:
        """Returns {metric: value}, the metrics of the task in `config.TASKS`."""

    def report(self, labels) -> dict[str, Any]:
        """Returns what `evaluate --format=json` prints; a dict in it is a table by row."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What a run learns.

    name: as in `config.TASKS`.
    target: what is told about an example.
    head: makes the outputs of a network.
    counts: what COUNT counts, in words.
    sums: {name: type over an epoch} of what a step adds up, in the order of a packed vector.
    training_sums: (outputs, batch, smoothing, class weights) -> {name: scalar}, one for each of
      `sums`; the sums of any split of the rows add up to those of all rows.
    metrics: {name: sum} -> {metric: value} of training steps.
    outcomes: (outputs, batch) -> (losses [batch], answers [batch, ...]) of an evaluation.
    exact_metrics: the metrics of a whole split.
    served: answers to texts, for `predict` and `export`.
    keras_activation: what an exported Keras model makes of the scores, by its name in Keras.
    view: what TensorBoard shows of an evaluation.
    refused: {flag: (its default, why no other value fits the task)}.
    """

    name: str
    target: fields.Target
    head: networks.Head
    counts: str
    sums: Mapping[str, tf.DType]
    training_sums: Callable[..., dict[str, tf.Tensor]]
    metrics: Callable[[Mapping[str, Any]], dict[str, float]]
    outcomes: Callable[..., tuple[tf.Tensor, tf.Tensor]]
    exact_metrics: type[Metrics]
    served: type[serving.Served]
    keras_activation: str
    view: type[views.View]
    refused: Mapping[str, tuple[Any, str]]

    @property
    def best_metric(self) -> str:
        """The metric of --best_metric unless the flag names another one."""
        return next(iter(configuration.TASKS[self.name]))

    def form(self, network: networks.Network) -> fields.Form:
        """Returns what the batches hold that `network` is trained on."""
        return fields.Form(
            self.target,
            math.prod(network.frame) if network.frame else 0,
            network.classes if self.target.numbers else 0,
        )

    def settled(self, config: configuration.Config) -> configuration.Config:
        """Returns `config` with --best_metric filled in.

        Raises UsageError if a flag does not fit the task.
        """
        values = configuration.to_flat(config)
        for flag, (default, why) in self.refused.items():
            if values[flag] != default:
                raise UsageError(
                    f"--{flag}={configuration.as_text(values[flag])}: the dataset is one of "
                    f"{self.name}, and {why}. Leave the flag out."
                )
        metric = config.run.best_metric or self.best_metric
        if metric not in configuration.TASKS[self.name]:
            raise UsageError(
                f"--best_metric={metric}: is no metric of {self.name}, which has "
                f"{', '.join(configuration.TASKS[self.name])}. Name one of them."
            )
        run = dataclasses.replace(config.run, best_metric=metric)
        return dataclasses.replace(config, run=run)


_PER_STEP = {
    "padding": ("post", "every step of a sequence has a target, so padding must not count as one"),
    "pooling": ("last", "every step has an output of its own, so nothing is pooled"),
}
_NOT_TIED = {"tied_embedding": (False, "its outputs are classes and not the words that it reads")}
_NO_SECOND = {"attention": ("general", "there is no second sequence that could attend to a first")}
TASKS = {
    task.name: task
    for task in (
        Task(
            name="classification",
            target=fields.LABEL,
            head=heads.Pooled,
            counts="examples",
            sums=_SUMS,
            training_sums=classification.training_sums,
            metrics=classification.metrics,
            outcomes=classification.outcomes,
            exact_metrics=classification.Metrics,
            served=serving.TextClassifier,
            keras_activation="softmax",
            view=views.ClassesView,
            refused={**_NOT_TIED, **_NO_SECOND},
        ),
        Task(
            name="language_model",
            target=fields.NEXT_TOKEN,
            head=heads.PerStep,
            counts="tokens",
            sums=_SUMS,
            training_sums=language_model.training_sums,
            metrics=language_model.metrics,
            outcomes=language_model.outcomes,
            exact_metrics=language_model.Metrics,
            served=serving.LanguageModel,
            keras_activation="log_softmax",
            view=views.TextView,
            refused={
                **_PER_STEP,
                **_NO_SECOND,
                "bidirectional": (False, "a model that tells the next token must not see it"),
                "class_weights": ("none", "the words of a vocabulary have no class weights"),
            },
        ),
        Task(
            name="tagging",
            target=fields.TAGS,
            head=heads.PerStep,
            counts="tokens",
            sums=_SUMS,
            training_sums=tagging.training_sums,
            metrics=tagging.metrics,
            outcomes=tagging.outcomes,
            exact_metrics=tagging.Metrics,
            served=serving.Tagger,
            keras_activation="softmax",
            view=views.TagsView,
            refused={**_PER_STEP, **_NOT_TIED, **_NO_SECOND},
        ),
        Task(
            name="translation",
            target=fields.TEXT,
            head=Decoder,
            counts="tokens",
            sums=_SUMS,
            training_sums=translation.training_sums,
            metrics=translation.metrics,
            outcomes=translation.outcomes,
            exact_metrics=translation.Metrics,
            served=translator.Translator,
            keras_activation="log_softmax",
            view=views.PairsView,
            refused={
                "padding": ("post", "attention would see padding before a sentence"),
                "pooling": ("last", "a translation begins with the end of its source"),
                "one_hot": (False, "both sides need an embedding that is trained"),
                "class_weights": ("none", "the words of a vocabulary have no class weights"),
            },
        ),
    )
}

# Flags of the commands that use a trained model, which only some tasks obey.
OPTIONS = frozenset().union(*(task.served.options for task in TASKS.values()))


def task_of(dataset: Dataset) -> Task:
    """Returns the task that a dataset was prepared for."""
    try:
        return TASKS[dataset.task]
    except KeyError:
        raise UsageError(
            f"{dataset.folder} was prepared for {dataset.task}, and this version knows "
            f"{', '.join(TASKS)}. Use the version that prepared it."
        ) from None
