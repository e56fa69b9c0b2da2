"""What a run writes about itself: TensorBoard, the journal, progress and lines on stdout.

Only the chief writes. On the other workers summaries and lines go nowhere, and the journal that
they are given is /dev/null.
"""

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer import resuming, streams
from trainer.data.epochs import Epochs
from trainer.flags import run as configuration
from trainer.flags.knobs import as_text
from trainer.model_folder import selection
from trainer.model_folder.journal import Journal
from trainer.reporting import progress
from trainer.reporting.summaries import Nowhere, Summaries
from trainer.steps import optimizer
from trainer.steps.state import State
from trainer.steps.update import StepMetrics
from trainer.stopping import MEET_AGAIN, StopRequest
from trainer.tasks import table
from trainer.tasks.serving import Served
from trainer.tasks.table import Metrics
from trainer.tasks.views import View

# --- metrics of steps -----------------------------------------------------------------------------


def losses(metrics: StepMetrics) -> np.ndarray:
    """Returns the summed loss of each step: float64 [n]."""
    return metrics.sums[table.LOSS_SUM]


def metrics_of_steps(
    task: table.Task, parts: Sequence[StepMetrics], seconds: float
) -> dict[str, float]:
    """Returns the metrics of some steps that took `seconds` together.

    The task's metrics are means over what it counts, gradient_norm is a mean over the steps,
    input_wait a share of the time.
    """
    joined = tf.nest.map_structure(lambda *columns: np.concatenate(columns), *parts)
    sums = {name: values.sum() for name, values in joined.sums.items()}
    return {
        **task.metrics(sums),
        "gradient_norm": joined.gradient_norm.mean(),
        f"{task.counts}_per_second": sums[table.COUNT] / seconds,
        "input_wait": joined.input_seconds.sum() / seconds,
    }


def metrics_of_epoch(state: State) -> dict[str, float]:
    """Returns the task's metrics of the steps of the current epoch so far."""
    sums = {name: total.numpy() for name, total in state.epoch.items()}
    return state.task.metrics(sums)


# --- lines on stdout ------------------------------------------------------------------------------


def print_stopped(stop: StopRequest, step: int, digest: str | None) -> int:
    """Prints the last line of a run that was stopped and returns its exit code.

    A run that continues in a new gang prints none. digest: None if there is no state yet.
    """
    if stop.signal != MEET_AGAIN:
        streams.print_line(f"stopped step={step} state_digest={digest or 'none'}")
    return stop.exit_code


# --- the record of an attempt ---------------------------------------------------------------------


@dataclasses.dataclass
class _Steps:
    """Steps that are not in TensorBoard yet."""

    metrics: list[StepMetrics] = dataclasses.field(default_factory=list)
    seconds: float = 0.0


class Recorder:
    """The record of one attempt. Use it as a context manager: it shows the progress bar."""

    def __init__(
        self,
        config: configuration.Config,
        folder: pathlib.Path,
        attempt: int,
        journal: Journal,
        vocabulary: Sequence[str],
        run_state: State,
        epochs: Epochs,
        *,
        writes: bool,
        step: int,
        total: int,
    ):
        """Opens the summaries of `folder`, which forgets points after `step`, the restored step.

        attempt: its number. writes: whether this worker is the chief. total: the last step.
        """

        def summaries(part: str, restored_step: int) -> "Summaries | Nowhere":
            path = folder / "tensorboard" / part
            return Summaries(path, attempt, restored_step) if writes else Nowhere()

        self._run = config.run
        self._optimizer = config.optimizer
        self._journal = journal
        self._vocabulary = vocabulary
        self._state = run_state
        self._epochs = epochs
        self._writes = writes
        self._total = total
        self._train_summaries = summaries("train", step)
        self._eval_summaries = summaries("eval", step)
        self._run_summaries = summaries("", 0)
        self._train_summaries.text("config", configuration.as_markdown(config), step)
        self._run_summaries.hparams(_row_of_run(config, folder))
        self._progress = progress.Progress(step, total)
        self._unwritten = _Steps()
        self._unjournaled = {"steps": 0, "input_seconds": 0.0}
        # The first step of an attempt is journaled at once: it is the end of a recovery.
        self._journaled_at = -math.inf

    def __enter__(self) -> "Recorder":
        self._progress.__enter__()
        self.lap("open_summaries")
        return self

    def __exit__(self, *problem) -> None:
        self._progress.__exit__(*problem)

    def lap(self, event: str, **fields: Any) -> None:
        """Journals `event` with the seconds since the lap before it."""
        self._journal.lap(event, **fields)

    # --- steps ------------------------------------------------------------------------------------

    def add_steps(self, count: int, metrics: StepMetrics, seconds: float) -> None:
        """Takes note of `count` steps that took `seconds`."""
        self._unwritten.metrics.append(metrics)
        self._unwritten.seconds += seconds
        self._unjournaled["steps"] += count
        self._unjournaled["input_seconds"] += float(metrics.input_seconds.sum())
        self._progress.advance(count)

    def compiling(self) -> None:
        """Shows that a program is compiled."""
        self._progress.compiling()

    def write_point(self, step: int) -> None:
        """Writes the metrics since the point before to TensorBoard and to the progress."""
        metrics = metrics_of_steps(
            self._state.task, self._unwritten.metrics, self._unwritten.seconds
        )
        self._unwritten = _Steps()
        rate = optimizer.learning_rate(self._optimizer, step - 1, self._total)
        self._train_summaries.write(
            step, {**metrics, "learning_rate": float(rate), **self._state.scaling()}
        )
        self._progress.show(step, self._epochs.of(step), metrics)

    def journal_epoch(self, step: int) -> None:
        """Journals the epoch that ends with `step`."""
        self._journal.write(
            "epoch", epoch=self._epochs.of(step), step=step, **metrics_of_epoch(self._state)
        )

    def print_epoch(self, step: int, evaluated: Mapping[str, float] | None = None) -> None:
        """Prints the metrics of the epoch so far, and `evaluated` after them.

        With --log_epochs=N it prints only at the end of every N-th epoch.
        """
        epoch, every = self._epochs.of(step), self._run.log_epochs
        wanted = every == 1 or (self._epochs.end_with(step) and epoch % every == 0)
        if self._writes and wanted:
            metrics = {**metrics_of_epoch(self._state), **(evaluated or {})}
            values = (f"{name} {progress.number(value)}" for name, value in metrics.items())
            streams.print_line(f"epoch {epoch} step {step} {' '.join(values)}")

    def journal_steps(self, step: int) -> None:
        """Journals the steps since the line before it, with all the time since the lap before it.

        input_seconds is the part of that time in which they waited for their batches.
        """
        if self._unjournaled["steps"]:
            self._journaled_at = time.monotonic()
            self.lap("loop", step=step, **self._unjournaled)
            self._unjournaled = dict.fromkeys(self._unjournaled, 0)

    def journal_steps_now_and_then(self, step: int) -> None:
        """Journals the steps if the line before it is some seconds old."""
        if time.monotonic() - self._journaled_at >= progress.SECONDS_PER_LINE:
            self.journal_steps(step)

    def journal_divergence(self, step: int, examples: np.ndarray) -> None:
        """Journals the step that diverged and the examples of its batch."""
        self._journal.write("diverged", step=step, examples=examples)

    # --- evaluations and saves --------------------------------------------------------------------

    def write_evaluation(
        self,
        evaluation: selection.Evaluation,
        found: Metrics,
        view: View,
        served: Callable[[], Served],
    ) -> None:
        """Writes an evaluation to TensorBoard, journal and stdout; its points survive a kill.

        served: makes what answers with the weights that were evaluated.
        """
        step, split, metrics = evaluation.step, evaluation.split, found.metrics()
        self._eval_summaries.write(step, metrics)
        view.write(self._eval_summaries, step, found, served)
        self._eval_summaries.flush()
        self.lap("evaluate", step=step, split=split, **metrics)
        # After the epoch's metrics the line has the same ones of the split, and the one by which
        # the best checkpoint is chosen.
        names = dict.fromkeys([*metrics_of_epoch(self._state), self._run.best_metric])
        self.print_epoch(
            step, {f"{split}_{name}": metrics[name] for name in names if name in metrics}
        )

    def flush(self, step: int) -> None:
        """Returns when the record up to `step` is on disk, before its checkpoint is."""
        self.journal_steps(step)
        self._train_summaries.flush()
        self._eval_summaries.flush()

    def journal_save(self, manifest: Mapping[str, Any], seconds: float) -> None:
        """Journals a commit; the writer of checkpoints calls it in its thread."""
        self._journal.write(
            "save", seconds, step=manifest["step"], state_digest=manifest["state_digest"]
        )

    def finish(self, step: int, weights: Mapping[str, tf.Tensor]) -> None:
        """Writes the vectors of the embedding and closes the summaries."""
        embedding = weights.get("embedding/embeddings")
        if embedding is not None:
            self._run_summaries.projector(embedding.numpy(), self._vocabulary)
        for written in (self._train_summaries, self._eval_summaries, self._run_summaries):
            written.close()
        self.lap("finish", step=step)


def _row_of_run(config: configuration.Config, folder: pathlib.Path) -> dict[str, Any]:
    """Returns the row of a run in the HParams dashboard: its folder and the flags that matter."""
    # TensorBoard does not name rows, and merges runs whose values are all equal: the folder keeps
    # them apart. Its name comes first, since the table shows about 15 characters.
    row = {"model_dir": f"{folder.name} in {folder.parent}", **resuming.affecting(config)}
    return {
        name: as_text(value) if isinstance(value, tuple) else value for name, value in row.items()
    }
