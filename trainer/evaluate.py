"""Exact metrics of a model over a split: every row counts once.

They depend neither on the batch size nor on the number of replicas.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from trainer import config as configuration
from trainer import trained_model
from trainer.data.pipeline import EvaluationBatches
from trainer.data.store import Dataset
from trainer.devices.placement import Placement
from trainer.exit_codes import BY_NAME, UsageError
from trainer.models.networks import Network
from trainer.reporting.progress import number
from trainer.steps.evaluation import EvaluationStep
from trainer.tasks import table
from trainer.tasks.classification import Metrics
from trainer.tasks.views import EvaluationView

ROWS_PER_BATCH = 256  # It affects speed and memory, and no metric.


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Evaluates one split of a dataset; while training, again and again with new weights."""

    dataset: Dataset
    split: str
    batches: EvaluationBatches
    step: EvaluationStep

    @classmethod
    def of_run(
        cls, config: configuration.Config, dataset: Dataset, network: Network, placement: Placement
    ) -> "Evaluator | None":
        """Returns the evaluator that a training run asks for, None if it evaluates nothing.

        Raises UsageError if the split does not exist, or if a test split would stop the run early.
        """
        run = config.run
        default = next((name for name in ("validation", "test") if name in dataset.splits), "")
        split = run.eval_split or default
        if split and split not in dataset.splits:
            raise UsageError(
                f"--eval_split={split}: the dataset has {', '.join(dataset.splits)}. Name one of "
                "them."
            )
        if run.early_stop_patience and split in ("", "test"):
            raise UsageError(
                f"--early_stop_patience={run.early_stop_patience}: needs a validation split, since "
                "stopping by the test split would choose the model by the metrics that judge it. "
                "Prepare one with --validation_fraction."
            )
        if not split or run.eval_steps == -1:
            return None
        batches = EvaluationBatches(dataset.splits[split], config.input, ROWS_PER_BATCH)
        step = EvaluationStep(network, placement, table.task_of(dataset))
        return cls(dataset, split, batches, step)

    def lengths(self) -> list[int]:
        """Returns the lengths that its batches are padded to."""
        return list(map(int, self.batches.plan.lengths))

    def warm_up(self, weights: Mapping[str, tf.Tensor], length: int) -> None:
        """Compiles the step for batches padded to `length`."""
        self.step.warm_up(weights, length, self.batches.plan.batch_size)

    def view(self) -> EvaluationView:
        """Returns a new view that collects the outcomes of one evaluation."""
        return EvaluationView(self.dataset, self.split)

    def metrics(
        self, weights: Mapping[str, tf.Tensor], abandon: Callable[[], bool], view: EvaluationView
    ) -> Metrics | None:
        """Returns the metrics of `weights`; None if `abandon()` returned true between two batches.

        Shows every batch to `view`.
        """
        return metrics(self.step, weights, self.batches, abandon, view)


def metrics(
    step: EvaluationStep,
    weights: Mapping[str, tf.Tensor],
    batches: EvaluationBatches,
    abandon: Callable[[], bool] = lambda: False,
    view: Callable[..., None] | None = None,
) -> Metrics | None:
    """Returns the metrics of `weights` over all of `batches`, None if `abandon()` returned true.

    `view(examples, labels, losses, probabilities)` is called with every batch: int64 [rows], int32
    [rows], float [rows] and float [rows, classes].
    """
    total, weights = None, step.placed(weights)
    for batch, examples, real in batches:
        if abandon():
            return None
        losses, probabilities = (values[:real] for values in step.outcomes(weights, batch))
        found = step.task.exact_metrics.of(losses, probabilities, batch.targets[:real])
        total = found if total is None else total + found
        if view:
            view(examples, batch.targets[:real], losses, probabilities)
    return total


def command(settings: configuration.Evaluate) -> int:
    """`trainer evaluate`: prints the metrics of a trained model."""
    model = trained_model.open_model(settings, settings.devices or 1, ROWS_PER_BATCH)
    if settings.split not in model.dataset.splits:
        raise UsageError(
            f"--split={settings.split}: the dataset {model.dataset.folder} has "
            f"{', '.join(model.dataset.splits)}. Name one of them, or prepare the dataset with "
            "that split."
        )
    split = model.dataset.splits[settings.split]
    batches = EvaluationBatches(split, model.config.input, ROWS_PER_BATCH)
    found = metrics(model.step, model.weights, batches)
    report = as_report(settings.split, model.checkpoint_step, found, model.dataset.labels)
    print(json.dumps(report, ensure_ascii=False) if settings.format == "json" else as_text(report))
    return BY_NAME["done"]


def as_report(split: str, step: int, found: Metrics, labels: Sequence[str]) -> dict[str, Any]:
    """Returns the object that `--format=json` prints."""
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


def as_text(report: Mapping[str, Any]) -> str:
    """Returns `name value` lines, then a table with a line per class."""
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
