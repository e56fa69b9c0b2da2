"""Exact metrics of a model over a split: every row counts once.

They depend neither on the batch size nor on the number of replicas.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from trainer import shown, streams, trained_model
from trainer.data import fields, pipeline
from trainer.data.pipeline import EvaluationBatches, StreamEvaluationBatches
from trainer.data.plans import Length
from trainer.data.store import Dataset
from trainer.devices.placement import Placement
from trainer.exit_codes import BY_NAME, UsageError
from trainer.flags.run import Config, Input
from trainer.flags.use import Evaluate
from trainer.models.networks import Network
from trainer.reporting.progress import number
from trainer.steps.evaluation import EvaluationStep
from trainer.steps.translations import Translations
from trainer.tasks import bleu, table
from trainer.tasks.serving import Served
from trainer.tasks.table import Metrics
from trainer.tasks.views import View

log = logging.getLogger(__name__)

# Fewer if rows are large (`pipeline.EVALUATION_BYTES`). It affects speed and memory, and no metric.
ROWS_PER_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Evaluates one split of a dataset; while training, again and again with new weights."""

    dataset: Dataset
    split: str
    batches: EvaluationBatches | StreamEvaluationBatches
    step: EvaluationStep
    settings: Input
    translations: Translations | None = None
    _served: list[Served] = dataclasses.field(default_factory=list)

    @classmethod
    def of_run(
        cls, config: Config, dataset: Dataset, network: Network, placement: Placement
    ) -> "Evaluator | None":
        """Returns the evaluator that a training run asks for, None if it evaluates nothing.

        Raises UsageError if the split does not exist, if a test split would stop the run early, or
        if nothing computes the metric of the best checkpoint.
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
        batches = _batches(dataset, split, config.input, placement)
        step = EvaluationStep(network, placement, table.task_of(dataset, config))
        translations = _translations_of_run(config, step, dataset, split)
        return cls(dataset, split, batches, step, config.input, translations)

    def lengths(self) -> list[Length]:
        """Returns the lengths that its batches are padded to."""
        return self.batches.plan.lengths

    def warm_up(self, weights: Mapping[str, tf.Tensor], length: Length) -> None:
        """Compiles the step for batches padded to `length`."""
        streams = self.dataset.order == fields.STREAMS
        self.step.warm_up(weights, length, self.batches.plan.batch_size, streams)

    def view(self) -> View:
        """Returns a new view that collects the outcomes of one evaluation."""
        return self.step.task.view(self.dataset, self.split)

    def served(self, weights: Mapping[str, tf.Tensor]) -> Served:
        """Returns what answers to texts with `weights`; the same object each time."""
        if not self._served:
            self._served.append(
                self.step.task.served(
                    self.step.network, weights, self.dataset, self.settings, self.step.compiled
                )
            )
        [served] = self._served
        for name, variable in served.weights.items():
            variable.assign(weights[name])
        return served

    def metrics(
        self, weights: Mapping[str, tf.Tensor], abandon: Callable[[], bool], view: View
    ) -> Metrics | None:
        """Returns the metrics of `weights`; None if `abandon()` returned true between two batches.

        Shows every batch to `view`.
        """
        found = metrics(self.step, weights, self.dataset, self.batches, abandon, view)
        return _with_quality(found, self.translations, weights, abandon)


def _batches(
    dataset: Dataset, split: str, settings: Input, placement: Placement
) -> EvaluationBatches | StreamEvaluationBatches:
    """Returns the batches of an evaluation, with a row for each replica of all workers at least."""
    replicas = placement.workers * placement.replicas
    return pipeline.evaluation_batches(dataset, split, settings, ROWS_PER_BATCH, replicas)


def _translations_of_run(
    config: Config, step: EvaluationStep, dataset: Dataset, split: str
) -> Translations | None:
    """Returns what a training run translates at each evaluation, None if it translates nothing."""
    if not dataset.target.sequence:
        return None
    run = config.run
    wanted = run.best_metric in bleu.METRICS
    if wanted:
        bleu.require(f"--best_metric={run.best_metric}")
    if wanted and not run.translate_examples:
        raise UsageError(
            f"--best_metric={run.best_metric}: is computed of translations, and "
            "--translate_examples=0 asks for none. Set that higher, or name another metric."
        )
    # All workers compute the same metrics.
    installed = step.placement.everyones([bleu.is_installed()]).all()
    if not installed and run.translate_examples:
        log.warning(
            "evaluations have no BLEU and chrF: sacrebleu is missing. Run: %s", bleu.INSTALL
        )
    if not installed or not run.translate_examples:
        return None
    return Translations(
        step, dataset, split, config.input, beam=1, penalty=1.0, examples=run.translate_examples
    )


def _with_quality(
    found: Metrics | None,
    translations: Translations | None,
    weights: Mapping[str, tf.Tensor],
    abandon: Callable[[], bool] = lambda: False,
) -> Metrics | None:
    """Returns metrics with BLEU and chrF, if there are translations; None if given up."""
    if found is None or translations is None:
        return found
    quality = translations.quality(weights, abandon)
    return dataclasses.replace(found, quality=quality) if quality else None


def metrics(
    step: EvaluationStep,
    weights: Mapping[str, tf.Tensor],
    dataset: Dataset,
    batches: EvaluationBatches | StreamEvaluationBatches,
    abandon: Callable[[], bool] = lambda: False,
    view: View | None = None,
) -> Metrics | None:
    """Returns the metrics of `weights` over all of `batches`, None if `abandon()` returned true.

    Every batch is shown to `view`.
    """
    total, weights = None, step.placed(weights)
    streams = dataset.order == fields.STREAMS
    carry = step.fresh_carry(batches.plan.batch_size) if streams else {}
    for batch, examples, real in batches:
        if abandon():
            return None
        losses, answers, carry = step.outcomes_of_chunk(weights, batch, carry)
        losses, answers = losses[:real], answers[:real]
        rows = tf.nest.map_structure(lambda values, real=real: values[:real], batch)
        found = step.task.exact_metrics.of(losses, answers, rows, dataset.labels)
        total = found if total is None else total + found
        if view:
            view(examples, rows, losses, answers)
    return total


def command(settings: Evaluate) -> int:
    """`trainer evaluate`: prints the metrics of a trained model."""
    model = trained_model.open_model(settings, settings.devices or 1, ROWS_PER_BATCH)
    if settings.split not in model.dataset.splits:
        raise UsageError(
            f"--split={settings.split}: the dataset {model.dataset.folder} has "
            f"{', '.join(model.dataset.splits)}. Name one of them, or prepare the dataset with "
            "that split."
        )
    batches = _batches(model.dataset, settings.split, model.config.input, model.step.placement)
    translations = None
    if model.dataset.target.sequence:
        bleu.require(f"--model_dir={settings.model_dir}: it translates")
        translations = Translations(
            model.step,
            model.dataset,
            settings.split,
            model.config.input,
            beam=settings.beam,
            penalty=settings.length_penalty,
        )
    found = metrics(model.step, model.weights, model.dataset, batches)
    found = _with_quality(found, translations, model.weights)
    report = as_report(settings.split, model.checkpoint_step, found, model.dataset.labels)
    print(streams.as_json(report) if settings.format == "json" else as_text(report))
    return BY_NAME["done"]


def as_report(split: str, step: int, found: Metrics, labels: Sequence[str]) -> dict[str, Any]:
    """Returns the object that `--format=json` prints."""
    return {"split": split, "step": step, **found.report(labels)}


def as_text(report: Mapping[str, Any]) -> str:
    """Returns `name value` lines, then each table with a line per entry.

    A table is a mapping in the report: {row: {column: value}}.
    """
    lines = [
        f"{name} {_shown(value)}"
        for name, value in report.items()
        if not isinstance(value, Mapping)
    ]
    for name, rows in report.items():
        if isinstance(rows, Mapping) and rows:
            shape = number if name in _IN_UNITS else "{:.4f}".format
            lines += _table(_HEADINGS[name], rows, shape)
    return "\n".join(lines)


# The heading of the first column of each table.
_HEADINGS = {"classes": "class", "tags": "tag", "spans": "span", "values": "value"}
_IN_UNITS = {"values"}  # Tables whose numbers are no fractions.


def _table(
    heading: str, rows: Mapping[str, Mapping[str, Any]], shape: Callable[[float], str]
) -> list[str]:
    """Returns the lines of a table: names of rows, floats in their `shape`, counts."""
    rows = {shown.bare(name): row for name, row in rows.items()}  # A label may hold any character.
    width = max(map(len, [heading, *rows]))
    columns = list(next(iter(rows.values())))
    wide = {column: max(6, len(column)) for column in columns}
    names = "  ".join(f"{column:<{wide[column]}}" for column in columns)
    lines = [f"{heading:{width}}  {names}".rstrip()]
    for name, row in rows.items():
        values = "  ".join(
            f"{shape(value) if isinstance(value, float) else value:<{wide[column]}}"
            for column, value in row.items()
        )
        lines.append(f"{name:{width}}  {values}".rstrip())
    return lines


def _shown(value: Any) -> Any:
    return number(value) if isinstance(value, float) else value
