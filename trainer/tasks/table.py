"""What differs between tasks: one frozen record for each; no other module distinguishes them.

Names and directions of the metrics of a task are in `flags.tasks.TASKS`, which needs no TensorFlow.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import tensorflow as tf

from trainer.data import fields
from trainer.data.store import Dataset
from trainer.exit_codes import UsageError
from trainer.flags import run as configuration
from trainer.flags import tasks
from trainer.flags.knobs import as_given
from trainer.models import heads, networks
from trainer.models.decoder import Decoder
from trainer.tasks import (
    classification,
    language_model,
    regression,
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

    def __add__(self, other: "Metrics") -> "Metrics": ...

    def metrics(self) -> dict[str, float]:
        """Returns {metric: value}, the metrics of the task in `flags.tasks.TASKS`."""

    def report(self, labels) -> dict[str, Any]:
        """Returns what `evaluate --format=json` prints; a dict in it is a table by row."""


class MakesMetrics(Protocol):
    """A class of `Metrics`, or what makes them in the units of a dataset."""

    def of(self, losses, answers, batch, labels) -> Metrics:
        """Returns those of what `Task.outcomes` returned for a batch; `labels`: the classes."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What a run learns.

    name: as in `flags.tasks.TASKS`.
    inputs: what it can read of an example.
    target: what is told about an example.
    head: makes the outputs of a network.
    counts: what COUNT counts, in words.
    sums: {name: type over an epoch} of what a step adds up, in the order of a packed vector.
    training_sums: (outputs, batch, smoothing, class weights) -> {name: scalar}, one for each of
      `sums`; the sums of any split of the rows add up to those of all rows.
    metrics: {name: sum} -> {metric: value} of training steps.
    outcomes: (outputs, batch) -> (losses [batch], answers [batch, ...]) of an evaluation.
    exact_metrics: makes the metrics of a whole split.
    bound: (dataset, configuration of a run) -> {field: value} of what depends on them.
    served: answers to raw input, for `predict` and `export`.
    keras_activation: what an exported Keras model makes of the scores, by its name in Keras.
    view: what TensorBoard shows of an evaluation.
    refused: {flag: (its default, why no other value fits the task)}.
    """

    name: str
    inputs: tuple[fields.Input, ...]
    target: fields.Target
    head: networks.Head
    counts: str
    sums: Mapping[str, tf.DType]
    training_sums: Callable[..., dict[str, tf.Tensor]]
    metrics: Callable[[Mapping[str, Any]], dict[str, float]]
    outcomes: Callable[..., tuple[tf.Tensor, tf.Tensor]]
    exact_metrics: MakesMetrics
    bound: Callable[[Dataset, configuration.Config], dict[str, Any]]
    served: type[serving.Served]
    keras_activation: str
    view: type[views.View]
    refused: Mapping[str, tuple[Any, str]]

    @property
    def best_metric(self) -> str:
        """The metric of --best_metric unless the flag names another one."""
        return next(iter(tasks.TASKS[self.name]))

    def form(self, network: networks.Network) -> fields.Form:
        """Returns what the batches hold that `network` is trained on."""
        return fields.Form(
            self.target,
            math.prod(network.frame) if network.frame else 0,
            network.classes if self.target.numbers else 0,
        )

    def settled(
        self, config: configuration.Config, frame: tuple[int, ...] = ()
    ) -> configuration.Config:
        """Returns `config` with --best_metric filled in.

        frame: the shape of a frame of the dataset; () if its inputs are tokens.

        Raises UsageError if a flag does not fit the task or the inputs.
        """
        _refuse(config, f"one of {self.name}", self.refused)
        if frame:
            _refuse(config, "one of frames", REFUSED_OF_FRAMES)
        else:
            _refuse(config, "one of tokens", REFUSED_OF_TOKENS)
        metric = config.run.best_metric or self.best_metric
        if metric not in tasks.TASKS[self.name]:
            raise UsageError(
                f"--best_metric={metric}: is no metric of {self.name}, which has "
                f"{', '.join(tasks.TASKS[self.name])}. Name one of them."
            )
        run = dataclasses.replace(config.run, best_metric=metric)
        return dataclasses.replace(config, run=run)


def _refuse(
    config: configuration.Config, kind: str, refused: Mapping[str, tuple[Any, str]]
) -> None:
    """Raises UsageError if a flag is not at its default; `refused`: as in `Task`."""
    values = configuration.to_flat(config)
    for flag, (default, why) in refused.items():
        if values[flag] != default:
            raise UsageError(
                f"{as_given(flag, values[flag])}: the dataset is {kind}, and "
                f"{why}. Leave the flag out."
            )


def _unbound(dataset: Dataset, config: configuration.Config) -> dict[str, Any]:
    return {}


def _bound_regression(dataset: Dataset, config: configuration.Config) -> dict[str, Any]:
    """Returns what knows the loss of the run, and the units of the data."""
    loss, deviation = config.optimizer.regression_loss, dataset.standardise.deviation
    return {
        "training_sums": functools.partial(
            regression.training_sums, loss=loss, deviation=deviation
        ),
        "outcomes": functools.partial(regression.outcomes, loss=loss),
        "exact_metrics": regression.InUnits(dataset.values, deviation),
    }


# {flag: (its default, why no other value fits)} of inputs of each kind, whatever the task.
REFUSED_OF_FRAMES = {
    "one_hot": (False, "a frame is no id of a vocabulary"),
    "word_dropout": (0.0, "there are no words to drop"),
}
REFUSED_OF_TOKENS = {"frame_encoder": ("none", "tokens have an embedding in its place")}

_PER_STEP = {
    "padding": ("post", "every step of a sequence has a target, so padding must not count as one"),
    "pooling": ("last", "every step has an output of its own, so nothing is pooled"),
}
_NOT_TIED = {"tied_embedding": (False, "its outputs are classes and not the words that it reads")}
_NO_SECOND = {
    "attention": ("general", "there is no second sequence that could attend to a first"),
    "translate_examples": (200, "nothing is translated"),
}
_CROSS_ENTROPY = {"regression_loss": ("squared", "its loss is the cross-entropy")}
_BOTH = (fields.TOKENS, fields.FRAMES)
TASKS = {
    task.name: task
    for task in (
        Task(
            name="classification",
            inputs=_BOTH,
            target=fields.LABEL,
            head=heads.Pooled,
            counts="examples",
            sums=_SUMS,
            training_sums=classification.training_sums,
            metrics=classification.metrics,
            outcomes=classification.outcomes,
            exact_metrics=classification.Metrics,
            bound=_unbound,
            served=serving.Classifier,
            keras_activation="softmax",
            view=views.ClassesView,
            refused={**_NOT_TIED, **_NO_SECOND, **_CROSS_ENTROPY},
        ),
        Task(
            name="regression",
            inputs=_BOTH,
            target=fields.VALUES,
            head=heads.Pooled,
            counts="examples",
            sums={LOSS_SUM: tf.float64, "absolute": tf.float64, COUNT: tf.int64},
            training_sums=regression.training_sums,
            metrics=regression.metrics,
            outcomes=regression.outcomes,
            exact_metrics=regression.Metrics,
            bound=_bound_regression,
            served=serving.Regressor,
            keras_activation="linear",
            view=views.ValuesView,
            refused={
                "tied_embedding": (False, "its outputs are values and not the words that it reads"),
                **_NO_SECOND,
                "label_smoothing": (0.0, "values have no classes that could share a probability"),
                "class_weights": ("none", "values have no classes"),
            },
        ),
        Task(
            name="language_model",
            inputs=(fields.TOKENS,),
            target=fields.NEXT_TOKEN,
            head=heads.PerStep,
            counts="tokens",
            sums=_SUMS,
            training_sums=language_model.training_sums,
            metrics=language_model.metrics,
            outcomes=language_model.outcomes,
            exact_metrics=language_model.Metrics,
            bound=_unbound,
            served=serving.LanguageModel,
            keras_activation="log_softmax",
            view=views.TextView,
            refused={
                **_PER_STEP,
                **_NO_SECOND,
                **_CROSS_ENTROPY,
                "bidirectional": (False, "a model that tells the next token must not see it"),
                "class_weights": ("none", "the words of a vocabulary have no class weights"),
            },
        ),
        Task(
            name="tagging",
            inputs=(fields.TOKENS,),
            target=fields.TAGS,
            head=heads.PerStep,
            counts="tokens",
            sums=_SUMS,
            training_sums=tagging.training_sums,
            metrics=tagging.metrics,
            outcomes=tagging.outcomes,
            exact_metrics=tagging.Metrics,
            bound=_unbound,
            served=serving.Tagger,
            keras_activation="softmax",
            view=views.TagsView,
            refused={**_PER_STEP, **_NOT_TIED, **_NO_SECOND, **_CROSS_ENTROPY},
        ),
        Task(
            name="translation",
            inputs=(fields.TOKENS,),
            target=fields.TEXT,
            head=Decoder,
            counts="tokens",
            sums=_SUMS,
            training_sums=translation.training_sums,
            metrics=translation.metrics,
            outcomes=translation.outcomes,
            exact_metrics=translation.Metrics,
            bound=_unbound,
            served=translator.Translator,
            keras_activation="log_softmax",
            view=views.PairsView,
            refused={
                **_CROSS_ENTROPY,
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


def task_of(dataset: Dataset, config: configuration.Config) -> Task:
    """Returns the task that a dataset was prepared for, as a run with `config` learns it."""
    task = TASKS.get(dataset.task)
    if task is None or dataset.input not in task.inputs:
        raise UsageError(
            f"{dataset.folder} was prepared for {dataset.task} of {dataset.input.kind}, and this "
            f"version knows {', '.join(TASKS)}, of frames "
            f"{' and '.join(name for name, each in TASKS.items() if fields.FRAMES in each.inputs)}"
            ". Use the version that prepared it."
        )
    return dataclasses.replace(task, **task.bound(dataset, config))
