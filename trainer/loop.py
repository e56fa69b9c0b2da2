"""The loop of a run: steps until something is due, then that, until the end or a request to stop.

The order at one step is always: evaluate, then save, so that a checkpoint never stands for a step
whose metrics are missing; whatever was due at the restored step and is not on record is made up for
first.

Every worker of a gang runs this same loop; what their clocks and signals say is agreed on between
steps, and all else follows from the step. The chief alone writes.
"""

import dataclasses
import logging
import math
import os
import pathlib
import sys
import time

import numpy as np

from trainer import config as configuration
from trainer import evaluate, resuming
from trainer.channel import Channel
from trainer.data import order, pipeline, store
from trainer.devices import strategy
from trainer.exit_codes import BY_NAME, DivergedError, UsageError
from trainer.model_folder import best, checkpoint, lock, selection
from trainer.model_folder.journal import Journal
from trainer.models.networks import Network
from trainer.reporting import progress
from trainer.reporting.summaries import Nowhere, Summaries
from trainer.steps import optimizer, state, steps
from trainer.stopping import MEET_AGAIN, StopRequest
from trainer.tasks import views

log = logging.getLogger(__name__)

# A collective that has ended here may still be under way to another worker, which pulls it from
# here.
PARTING_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One process at work in a model folder: its hold on it, where it writes, whether it was asked
    to stop, who watches it.
    """

    folder: pathlib.Path
    held: lock.Held
    journal: Journal
    stop: StopRequest
    supervisor: Channel


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is evaluated while training. `selects`: whether its metrics may decide anything; a test
    split's never do.
    """

    dataset: store.Dataset
    split: str
    batches: pipeline.EvaluationBatches
    step: steps.EvaluationStep

    @property
    def selects(self) -> bool:
        return self.split != "test"

    @classmethod
    def of(
        cls,
        config: configuration.Config,
        dataset: store.Dataset,
        network: Network,
        placement: strategy.Placement,
    ) -> "Evaluation | None":
        """What `config` asks for; None where nothing is evaluated. Raises UsageError where a test
        split would select.
        """
        name = config.run.eval_split or next(
            (name for name in ("validation", "test") if name in dataset.splits), ""
        )
        if name and name not in dataset.splits:
            raise UsageError(
                f"--eval_split={name}: the dataset has {', '.join(dataset.splits)}. Name one of "
                "them."
            )
        if config.run.early_stop_patience and name in ("", "test"):
            raise UsageError(
                f"--early_stop_patience={config.run.early_stop_patience}: needs a validation "
                "split, since stopping by the "
                "test split would choose the model by the metrics that judge it. Prepare one with "
                "--validation_fraction."
            )
        if not name or config.run.eval_steps == -1:
            return None
        batches = pipeline.EvaluationBatches(dataset.splits[name], config.input, evaluate.ROWS)
        return cls(dataset, name, batches, steps.EvaluationStep(network, placement))


@dataclasses.dataclass
class _Window:
    """Metrics since the last point in TensorBoard."""

    metrics: list = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    def add(self, metrics: steps.StepMetrics, seconds: float) -> None:
        self.metrics.append(metrics)
        self.seconds += seconds

    def means(self) -> dict[str, float]:
        """loss, accuracy, gradient_norm per step; examples_per_second; input_wait as share of the
        time.
        """
        sums = steps.StepMetrics(*(np.concatenate(column) for column in zip(*self.metrics)))
        count = sums.count.sum()
        return {
            "loss": sums.loss_sum.sum() / count,
            "accuracy": sums.correct.sum() / count,
            "gradient_norm": sums.gradient_norm.mean(),
            "examples_per_second": count / self.seconds,
            "input_wait": sums.input_seconds.sum() / self.seconds,
        }


class Loop:
    """Brings `run_state` from its step to `total`. `found` is the checkpoint that it was restored
    from, if any.
    """

    def __init__(
        self,
        config: configuration.Config,
        attempt: Attempt,
        dataset: store.Dataset,
        batches: pipeline.TrainingBatches,
        run_state: state.State,
        train_steps: steps.TrainSteps,
        placement: strategy.Placement,
        evaluation: Evaluation | None,
        found: checkpoint.Checkpoint | None,
        total: int,
    ):
        self._config = config
        self._attempt = attempt
        self._journal = attempt.journal
        self._stop = attempt.stop
        self._vocabulary = dataset.vocabulary
        self._batches = batches
        self._state = run_state
        self._train_steps = train_steps
        self._placement = placement
        self._evaluation = evaluation
        self._total = total
        self._step = found.step if found else 0
        self._saved = {found.step: found.manifest["state_digest"]} if found else {}
        self._digests = {"config_digest": resuming.digest(config), "dataset_digest": dataset.digest}
        self._history = selection.History(
            attempt.folder / "evaluations.jsonl", self._step, writes=placement.is_chief
        )
        self._best = best.BestCheckpoint(
            attempt.folder / "best", config.run.best_metric, attempt.held, self._digests
        )
        self._is_cold = True
        self._cold = set(map(int, batches.lengths))
        self._cold_evaluation = evaluation.batches.lengths() if evaluation else []
        self._rows = placement.rows(batches.batch_size)
        self._source = train_steps.source(batches, self._step)
        self._loop_size = progress.LoopSize(
            config.run.steps_per_loop, progress.LONGEST_LOOP if placement.workers > 1 else math.inf
        )
        self._window = _Window()
        self._unlogged = {"steps": 0, "input_seconds": 0.0}
        # The first step of an attempt is noted at once: it is the end of a recovery.
        self._noted_at = -math.inf

    def run(self) -> int:
        """Runs to the end or to a stop; prints the last line and returns the exit code."""
        self._train_summaries = self._summaries("train", self._step)
        self._eval_summaries = self._summaries("eval", self._step)
        self._train_summaries.text("config", configuration.as_markdown(self._config), self._step)
        self._run_summaries = self._summaries("", 0)
        # The folder too: TensorBoard gives a row no name of its own, and one row to all runs whose
        # values are equal. Its name comes first, since the table shows about 15 characters.
        where = f"{self._attempt.folder.name} in {self._attempt.folder.parent}"
        self._run_summaries.hparams(
            {
                name: configuration.as_text(value) if isinstance(value, tuple) else value
                for name, value in {"model_dir": where, **resuming.affecting(self._config)}.items()
            }
        )
        with (
            checkpoint.Writer(
                self._attempt.folder / "checkpoints",
                self._config.run.keep,
                self._attempt.held,
                on_saved=self._on_saved,
                **self._digests,
            ) as self._writer,
            progress.Progress(self._step, self._total) as self._progress,
        ):
            self._prune_best()
            self._journal.lap("open_summaries")
            while not self._is_over():
                self._advance()
            self._finish()
        self._part()
        if self._stop.agreed and not self._is_done():
            return say_stopped(self._stop, self._step, self._saved.get(self._step, "none"))
        tell(f"done step={self._step} state_digest={self._saved[self._step]}")
        return BY_NAME["done"]

    # --- events -----------------------------------------------------------------------------------

    def _is_over(self) -> bool:
        """Does what is due at this step; whether the run ends here."""
        self._attempt.supervisor.beat("train", self._step)
        if not self._is_stopping():
            self._evaluate_if_due()
        if self._stop.agreed or self._is_done():
            return True
        if self._step and self._step % self._config.run.save_steps == 0:
            self._save()
        return False

    def _is_done(self) -> bool:
        run = self._config.run
        stopped_early = selection.patience_is_over(
            self._evaluations, run.best_metric, run.early_stop_patience
        )
        return not self._evaluation_is_due() and (self._step >= self._total or stopped_early)

    def _advance(self) -> None:
        """Runs steps up to the next event, at most one loop."""
        if self._ends_epoch(self._step):
            self._state.begin_epoch()
        run, epoch = self._config.run, self._epoch(self._step + 1)
        due = progress.next_event(
            self._step,
            (run.save_steps, run.log_steps, run.eval_steps),
            (self._epoch_end(epoch), self._total),
        )
        # The chief's.
        count = min(due - self._step, int(self._placement.everyones([self._loop_size.steps])[0, 0]))
        self._warm_up(count)
        began = time.monotonic()
        metrics = self._train_steps.run(self._source, count)
        seconds = time.monotonic() - began
        self._loop_size.ran(count, seconds)
        self._window.add(metrics, seconds)
        self._unlogged["steps"] += count
        self._unlogged["input_seconds"] += float(metrics.input_seconds.sum())
        self._refuse_divergence(metrics)
        self._step += count
        if self._step % run.log_steps == 0 or self._step == self._total:
            self._log_point()
        if self._ends_epoch(self._step):
            self._journal.write("epoch", epoch=epoch, step=self._step, **self._epoch_figures())
            if not self._evaluation_is_due():
                self._print_line()
        if time.monotonic() - self._noted_at >= progress.SECONDS_PER_LINE:
            self._note_loops()

    def _evaluate_if_due(self) -> None:
        if not self._evaluation_is_due():
            return
        name = self._evaluation.split
        self._note_loops()
        self._warm_up_evaluation()
        view = views.EvaluationView(self._evaluation.dataset, name)
        found = evaluate.metrics(
            self._evaluation.step,
            self._state.evaluation_weights(),
            self._evaluation.batches,
            self._abandons_evaluation,
            view,
        )
        if found is None:
            self._journal.lap("evaluate_broken_off", step=self._step, split=name)
            return
        metrics = {"loss": found.loss, "accuracy": found.accuracy, "macro_f1": found.macro_f1}
        evaluation = selection.Evaluation(self._step, name, metrics)
        if self._keeps_best:
            self._best.offer(evaluation, self._evaluations, self._state.snapshot)
        self._eval_summaries.write(self._step, metrics)
        view.write(self._eval_summaries, self._step, found)
        self._eval_summaries.flush()
        self._journal.lap("evaluate", step=self._step, split=name, **metrics)
        self._print_line({f"{name}_loss": found.loss, f"{name}_accuracy": found.accuracy})
        self._attempt.held.check()  # The record is one file for all attempts.
        # Last: an evaluation that is on record is not made again, so everything that comes of it
        # must be there.
        self._history.append(evaluation)

    def _save(self) -> None:
        """Hands the state to the background writer, once per step; everything that belongs to it is
        on disk before.
        """
        if self._step in self._saved or not self._placement.is_chief:
            return
        self._attempt.held.check()
        # The time of the steps in a checkpoint is on record before the checkpoint is.
        self._note_loops()
        self._train_summaries.flush()
        self._eval_summaries.flush()
        # Before the writer starts: it puts the digest in, perhaps at once.
        self._saved[self._step] = None
        self._writer.submit(self._step, self._state.snapshot())
        self._prune_best()
        self._journal.lap("hand_over", step=self._step)

    def _finish(self) -> None:
        """The last save, waited for: a run whose last state is not on disk does not end well."""
        self._attempt.supervisor.beat("save", self._step)
        if self._step:
            self._save()
        self._writer.wait()
        if self._step and not self._placement.is_chief:
            self._saved[self._step] = checkpoint.state_digest(self._state.snapshot())
        self._prune_best()
        embedding = self._state.evaluation_weights().get("embedding/embeddings")
        if embedding is not None:
            self._run_summaries.projector(embedding.numpy(), self._vocabulary)
        for written in (self._train_summaries, self._eval_summaries, self._run_summaries):
            written.close()
        self._journal.lap("finish", step=self._step)
        best = selection.best(self._evaluations, self._config.run.best_metric)
        if best and self._evaluation.selects:
            log.info(
                "best %s of %s: %.4f at step %d",
                self._config.run.best_metric,
                best.split,
                best.metrics[self._config.run.best_metric],
                best.step,
            )

    # --- parts of them ----------------------------------------------------------------------------

    def _warm_up(self, count: int) -> None:
        """Compiles the loop and the shapes of the next steps where that is still to be done, each
        timed by itself.
        """
        if self._is_cold:
            self._train_steps.run(self._source, 0)  # Traces the loop and takes no step.
            self._journal.lap("compile", program="loop")
            self._is_cold = False
        if not self._cold:
            return
        for length in sorted(
            {self._batches.padded_length(self._step + i) for i in range(count)} & self._cold
        ):
            self._attempt.supervisor.beat("compile", self._step)
            self._note_loops()
            self._train_steps.warm_up(length, self._rows[1] - self._rows[0])
            self._journal.lap("compile", length=length)
            self._cold.discard(length)

    def _warm_up_evaluation(self) -> None:
        """Compiles the shapes of the evaluation, before the first."""
        for length in self._cold_evaluation:
            if not self._stop.agreed:
                self._attempt.supervisor.beat("compile", self._step)
                self._evaluation.step.warm_up(
                    self._state.evaluation_weights(), length, self._evaluation.batches.batch_size
                )
                self._journal.lap("compile", length=length, split=self._evaluation.split)
        self._cold_evaluation = []

    def _refuse_divergence(self, metrics: steps.StepMetrics) -> None:
        bad = ~np.isfinite([metrics.loss_sum, metrics.gradient_norm]).all(axis=0)
        if not bad.any():
            return
        step = self._step + int(bad.argmax()) + 1
        rows = self._batches.examples(step - 1)
        self._journal.write("diverged", step=step, examples=rows)
        raise DivergedError(
            f"step {step}: the loss is {metrics.loss_sum[bad][0]}, the gradient's norm "
            f"{metrics.gradient_norm[bad][0]}, both must be "
            "finite. Its batch holds the training examples "
            f"{', '.join(map(str, rows[:32]))}{' ...' if len(rows) > 32 else ''} (counted "
            "from 0; all are in the journal). Nothing of this step was saved. Lower "
            "--learning_rate or set --clip_norm, in another "
            "--model_dir."
        )

    def _log_point(self) -> None:
        means = self._window.means()
        self._window = _Window()
        rate = optimizer.learning_rate(self._config.optimizer, self._step - 1, self._total)
        self._train_summaries.write(
            self._step, {**means, "learning_rate": float(rate), **self._state.scaling()}
        )
        self._progress.show(self._step, self._epoch(self._step), means)

    def _note_loops(self) -> None:
        """Journals the steps since it last did: `seconds` is all the time since the line before,
        input_seconds a part of it.
        """
        if self._unlogged["steps"]:
            self._noted_at = time.monotonic()
            self._journal.lap("loop", step=self._step, **self._unlogged)
            self._unlogged = dict.fromkeys(self._unlogged, 0)

    def _print_line(self, evaluated=None) -> None:
        epoch, every = self._epoch(self._step), self._config.run.log_epochs
        if every > 1 and not (self._ends_epoch(self._step) and epoch % every == 0):
            return
        if not self._placement.is_chief:
            return
        metrics = {**self._epoch_figures(), **(evaluated or {})}
        tell(
            f"epoch {epoch} step {self._step} "
            + " ".join(f"{name} {progress.number(value)}" for name, value in metrics.items())
        )

    def _prune_best(self) -> None:
        if self._keeps_best:
            self._best.prune(
                self._evaluations,
                max((step for step, digest in self._saved.items() if digest), default=0),
            )

    def _on_saved(self, manifest: dict, seconds: float) -> None:
        self._saved[manifest["step"]] = manifest["state_digest"]
        self._journal.write(
            "save", seconds, step=manifest["step"], state_digest=manifest["state_digest"]
        )

    # --- several workers --------------------------------------------------------------------------

    def _is_stopping(self) -> bool:
        """Whether some worker was asked to stop; all ask at the same moment of their loops and get
        the same answer.
        """
        return self._stop.agree(lambda number: self._placement.everyones([number])[:, 0])

    def _part(self) -> None:
        """Ends the work together: nobody leaves before the chief has committed the last state,
        which must be everybody's.
        """
        if not self._placement.all_have(self._saved.get(self._step)):
            raise RuntimeError(
                f"the workers came to different states at step {self._step} (worker "
                f"{self._placement.worker}: "
                f"{self._saved.get(self._step)}), although all added the same numbers"
            )
        if self._placement.workers > 1:
            time.sleep(PARTING_SECONDS)

    def _abandons_evaluation(self) -> bool:
        self._attempt.supervisor.beat("evaluate", self._step)
        return self._is_stopping()

    def _summaries(self, part: str, restored_step: int) -> Summaries | Nowhere:
        folder = self._attempt.folder / "tensorboard" / part
        return (
            Summaries(folder, self._attempt.held.number, restored_step)
            if self._placement.is_chief
            else Nowhere()
        )

    @property
    def _keeps_best(self) -> bool:
        return (
            self._placement.is_chief and self._evaluation is not None and self._evaluation.selects
        )

    # --- what the step number means ---------------------------------------------------------------

    @property
    def _evaluations(self) -> list[selection.Evaluation]:
        """Those of the split that is evaluated now: metrics of different splits say nothing about
        each other.
        """
        return [
            entry
            for entry in self._history.evaluations
            if self._evaluation and entry.split == self._evaluation.split
        ]

    def _epoch(self, step: int) -> int:
        return order.epoch_of(step, self._batches.size, self._batches.batch_size)

    def _epoch_end(self, epoch: int) -> int:
        return order.epoch_end(epoch, self._batches.size, self._batches.batch_size)

    def _ends_epoch(self, step: int) -> bool:
        return step > 0 and self._epoch(step + 1) > self._epoch(step)

    def _evaluation_is_due(self) -> bool:
        """Whether this step's evaluation is still to be made."""
        if (
            self._evaluation is None
            or self._step == 0
            or any(entry.step == self._step for entry in self._evaluations)
        ):
            return False
        every = self._config.run.eval_steps
        return self._step == self._total or (
            self._step % every == 0 if every else self._ends_epoch(self._step)
        )

    def _epoch_figures(self) -> dict[str, float]:
        sums = {name: total.numpy() for name, total in self._state.epoch.items()}
        return {
            "loss": float(sums["loss_sum"] / sums["count"]),
            "accuracy": float(sums["correct"] / sums["count"]),
        }


def say_stopped(stop: StopRequest, step: int, digest: str) -> int:
    """Prints the last line of a run that was stopped, unless it goes on in a new gang; returns its
    exit code.
    """
    if stop.signal != MEET_AGAIN:
        tell(f"stopped step={step} state_digest={digest}")
    return stop.exit_code


def tell(line: str) -> None:
    """Prints a result; where nobody reads stdout any more (`| head`), training goes on without."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        log.warning(
            "nobody reads the standard output any more: training goes on, its metrics stay in the "
            "journal"
        )
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
