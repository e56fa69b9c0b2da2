"""Exact metrics of a model over a split: every row once, whatever the batch size and the number of
replicas.
"""

import json
from collections.abc import Callable, Mapping

import tensorflow as tf

from trainer import config as configuration
from trainer import trained_model
from trainer.data.pipeline import EvaluationBatches
from trainer.exit_codes import BY_NAME, UsageError
from trainer.reporting.progress import number
from trainer.steps.evaluation import EvaluationStep
from trainer.tasks.classification import Metrics

ROWS = 256  # Rows per batch. It changes no figure, only speed and memory.


def metrics(
    step: EvaluationStep,
    weights: Mapping[str, tf.Tensor],
    batches: EvaluationBatches,
    abandon: Callable[[], bool] = lambda: False,
    view: Callable | None = None,
) -> Metrics | None:
    """Metrics of `weights` over all of `batches`; None where `abandon()` turned true in between.

    `view(examples, labels, losses, probabilities)` is shown every batch: int64 [rows], int32
    [rows], float [rows] and float [rows, classes].
    """
    total = None
    for batch, examples, real in batches:
        if abandon():
            return None
        losses, probabilities = (values[:real] for values in step.outcomes(weights, batch))
        found = step.task.exact_metrics.of(losses, probabilities, batch.labels[:real])
        total = found if total is None else total + found
        if view:
            view(examples, batch.labels[:real], losses, probabilities)
    return total


def command(settings: configuration.Evaluate) -> int:
    """`trainer evaluate`: prints the metrics of a trained model."""
    model = trained_model.open_model(settings)
    if settings.split not in model.dataset.splits:
        raise UsageError(
            f"--split={settings.split}: the dataset {model.dataset.folder} has "
            f"{', '.join(model.dataset.splits)}. "
            "Name one of them, or prepare the dataset with that split."
        )
    split = model.dataset.splits[settings.split]
    found = metrics(model.step, model.weights, EvaluationBatches(split, model.config.input, ROWS))
    report = as_report(settings.split, model.checkpoint_step, found, model.dataset.labels)
    print(json.dumps(report, ensure_ascii=False) if settings.format == "json" else as_text(report))
    return BY_NAME["done"]


def as_report(split: str, step: int, found: Metrics, labels) -> dict:
    """The object that `--format=json` prints."""
    return {
        "split": split,
        "step": step,
        "examples": found.examples,
        **found.metrics(),
        "classes": {
            label: {
                "precision": float(found.precision[i]),
                "recall": float(found.recall[i]),
                "f1": float(found.f1[i]),
                "examples": int(found.confusion[i].sum()),
            }
            for i, label in enumerate(labels)
        },
    }


def as_text(report: dict) -> str:
    """`name value` lines, then a table with a line per class."""
    lines = [
        f"{name} {number(value) if isinstance(value, float) else value}"
        for name, value in report.items()
        if name != "classes"
    ]
    width = max(map(len, ["class", *report["classes"]]))
    lines.append(f"{'class':{width}}  precision  recall  f1      examples")
    for label, row in report["classes"].items():
        lines.append(
            f"{label:{width}}  {row['precision']:<9.4f}  {row['recall']:.4f}  {row['f1']:.4f}  "
            f"{row['examples']}"
        )
    return "\n".join(lines)
