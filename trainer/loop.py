"""The loop of a run: which steps, evaluations and saves are due, and in which order.

At each step it evaluates first, then saves, so that the metrics of a checkpoint's step are always
on record. Work that was due at the restored step and is not on record comes first of all.

Every worker of a gang runs this same loop. The workers agree between steps about the clock and
about signals, and everything else follows from the step.
"""

import dataclasses
import math
import pathlib
import time

import numpy as np

from trainer import evaluate, recorder, streams
from trainer.channel import Channel
from trainer.data.epochs import Epochs
from trainer.data.pipeline import TrainingBatches
from trainer.devices.placement import Placement
from trainer.exit_codes import BY_NAME, DivergedError
from trainer.flags.run import Run
from trainer.keeper import Keeper
from trainer.model_folder import lock, selection
from trainer.model_folder.journal import Journal
from trainer.recorder import Recorder
from trainer.reporting import progress
from trainer.steps.state import State
from trainer.steps.training import TrainSteps
from trainer.steps.update import StepMetrics
from trainer.stopping import StopRequest
from trainer.warm_up import WarmUp

# A collective that has ended here may still be sending to another worker.
PARTING_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One process at work in a model folder: its hold on the folder, its journal, its stop request
    and the channel to its supervisor.
    """

    folder: pathlib.Path
    held: lock.Hold
    journal: Journal
    stop: StopRequest
    supervisor: Channel


class Loop:
    """Brings `run_state` from `step` to `total`, or to the step at which it is stopped."""

    def __init__(
        self,
        run: Run,
        attempt: Attempt,
        placement: Placement,
        run_state: State,
        train_steps: TrainSteps,
        batches: TrainingBatches,
        epochs: Epochs,
        evaluator: evaluate.Evaluator | None,
        keeper: Keeper,
        record: Recorder,
        step: int,
        total: int,
    ):
        self._run = run
        self._attempt = attempt
        self._stop = attempt.stop
        self._placement = placement
        self._state = run_state
        self._train_steps = train_steps
        self._batches = batches
        self._epochs = epochs
        self._evaluator = evaluator
        self._keeper = keeper
        self._record = record
        self._step = step
        self._total = total
        self._source = train_steps.source(batches, step)
        # Several workers must agree about a stop now and then, so even loops of a fixed size end.
        longest = progress.LONGEST_LOOP if placement.workers > 1 else math.inf
        self._loop_size = progress.LoopSize(run.steps_per_loop, longest)
        self._warm_up = WarmUp(
            train_steps, batches, placement, evaluator, record, attempt.supervisor
        )

    def run(self) -> int:
        """Runs to the end or to a stop; prints the last line and returns the exit code."""
        with self._keeper, self._record:
            while True:
                if not self._hear("train") and self._evaluation_is_due():
                    self._evaluate()
                if self._stop.agreed or self._is_done():
                    break
                if self._save_is_due():
                    self._save()
                self._advance()
            self._finish()
        self._part()
        digest = self._keeper.digest(self._step)
        if self._stop.agreed and not self._is_done():
            return recorder.print_stopped(self._stop, self._step, digest)
        streams.print_line(f"done step={self._step} state_digest={digest}")
        return BY_NAME["done"]

    # --- what is due ------------------------------------------------------------------------------

    def _evaluation_is_due(self) -> bool:
        """Returns whether this step's evaluation is still to be made."""
        if not self._evaluator or self._step == 0 or self._keeper.has_evaluation(self._step):
            return False
        every = self._run.eval_steps
        at_this_step = self._step % every == 0 if every else self._epochs.end_with(self._step)
        return at_this_step or self._step == self._total

    def _save_is_due(self) -> bool:
        return self._step > 0 and self._step % self._run.save_steps == 0

    def _is_done(self) -> bool:
        """Returns whether nothing is left to do: no evaluation and no step."""
        over = self._step >= self._total or self._keeper.patience_is_over
        return over and not self._evaluation_is_due()

    def _next_event(self) -> int:
        """Returns the step up to which nothing is due."""
        run, epoch = self._run, self._epochs.of(self._step + 1)
        every = run.save_steps, run.log_steps, run.eval_steps
        return progress.next_event(self._step, every, at=(self._epochs.end(epoch), self._total))

    # --- doing it ---------------------------------------------------------------------------------

    def _hear(self, phase: str) -> bool:
        """Sends a sign of life; returns whether the workers agree to stop.

        All of them call it at the same moment of their loops and get the same answer. Raises
        TakenOverError if a later attempt has taken the folder over.
        """
        self._attempt.supervisor.beat(phase, self._step)
        self._attempt.held.notice()
        return self._stop.agree(lambda number: self._placement.everyones([number])[:, 0])

    def _advance(self) -> None:
        """Runs steps up to the next event, at most one loop, and records them."""
        if self._epochs.end_with(self._step):
            self._state.begin_epoch()
        # The size of a loop follows from the chief's clock.
        loop_size = int(self._placement.everyones([self._loop_size.steps])[0, 0])
        count = min(self._next_event() - self._step, loop_size)
        self._warm_up.before_steps(self._source, self._step, count)
        began = time.monotonic()
        metrics = self._train_steps.run(self._source, count)
        seconds = time.monotonic() - began
        self._loop_size.ran(count, seconds)
        self._refuse_divergence(metrics)
        self._step += count
        self._record.add_steps(count, metrics, seconds)
        if self._step % self._run.log_steps == 0 or self._step == self._total:
            self._record.write_point(self._step)
        if self._epochs.end_with(self._step):
            self._record.journal_epoch(self._step)
            if not self._evaluation_is_due():  # else the line comes with the evaluation
                self._record.print_epoch(self._step)
        self._record.journal_steps_now_and_then(self._step)

    def _evaluate(self) -> None:
        """Evaluates the state and records it; if a stop breaks it off, the evaluation stays due."""
        split = self._evaluator.split
        self._record.journal_steps(self._step)
        weights, view = self._state.evaluation_weights(), self._evaluator.view()
        self._warm_up.before_evaluation(weights, self._step)
        found = self._evaluator.metrics(weights, lambda: self._hear("evaluate"), view)
        if found is None:
            self._record.lap("evaluate_broken_off", step=self._step, split=split)
            return
        evaluation = selection.Evaluation(self._step, split, found.metrics())
        self._keeper.offer(evaluation, self._state.snapshot)
        self._record.write_evaluation(
            evaluation, found, view, lambda: self._evaluator.served(weights)
        )
        # Last: an evaluation on record is not repeated, so all that follows from it must be there.
        self._keeper.append(evaluation)

    def _save(self) -> None:
        """Hands the state to the background writer, once per step."""
        if not self._keeper.lacks(self._step):
            return
        self._attempt.held.check()
        # First, so that everything about the steps of a checkpoint is on disk before it is.
        self._record.flush(self._step)
        self._keeper.save(self._step, self._state.snapshot())
        self._record.lap("hand_over", step=self._step)

    def _finish(self) -> None:
        """Saves the last state and waits: a run whose last state is not on disk has failed."""
        self._attempt.supervisor.beat("save", self._step)
        if self._step:
            self._save()
        self._keeper.finish(self._step, self._state.snapshot)
        self._record.finish(self._step, self._state.evaluation_weights())
        self._keeper.log_best()

    def _part(self) -> None:
        """Ends the work together: no worker leaves before the chief has committed the last state.

        Raises RuntimeError if another worker ends with another state.
        """
        digest = self._keeper.digest(self._step)
        if not self._placement.all_have(digest):
            raise RuntimeError(
                f"the workers reached different states at step {self._step} (worker "
                f"{self._placement.worker}: {digest}), although all added the same numbers"
            )
        if self._placement.workers > 1:
            time.sleep(PARTING_SECONDS)

    def _refuse_divergence(self, metrics: StepMetrics) -> None:
        """Raises DivergedError if a loss or a gradient is not finite; names the step's examples."""
        losses, norms = recorder.losses(metrics), metrics.gradient_norm
        bad = ~np.isfinite([losses, norms]).all(axis=0)
        if not bad.any():
            return
        step = self._step + int(bad.argmax()) + 1
        rows = self._batches.plan.examples(step - 1)
        self._record.journal_divergence(step, rows)
        raise DivergedError(
            f"step {step}: the loss is {losses[bad][0]}, the gradient's norm {norms[bad][0]}, both "
            f"must be finite. Its batch holds the {self._batches.plan.rows_are} "
            f"{', '.join(map(str, rows[:32]))}{' ...' if len(rows) > 32 else ''} (counted from 0; "
            "all are in the journal). Nothing of this step was saved. Lower --learning_rate or "
            "set --clip_norm, in another --model_dir."
        )
