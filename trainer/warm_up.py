"""Compiles the programs of a run just before their first use and times each of them alone."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from trainer.channel import Channel
from trainer.data.pipeline import TrainingBatches
from trainer.devices.placement import Placement
from trainer.evaluate import Evaluator
from trainer.recorder import Recorder
from trainer.steps.training import TrainSteps


class WarmUp:
    """What is still to be compiled: the loop, the lengths of its batches, the evaluation.

    XLA compiles a program per padded length, in a second or two each.
    """

    def __init__(
        self,
        train_steps: TrainSteps,
        batches: TrainingBatches,
        placement: Placement,
        evaluator: Evaluator | None,
        record: Recorder,
        supervisor: Channel,
    ):
        self._train_steps = train_steps
        self._batches = batches
        first_row, end_row = placement.rows(batches.plan.batch_size)
        self._rows = end_row - first_row
        self._evaluator = evaluator
        self._record = record
        self._supervisor = supervisor
        self._is_loop_cold = True
        self._cold_lengths = set(batches.plan.lengths)
        self._cold_evaluation = evaluator.lengths() if evaluator else []

    def before_steps(self, source: Any, step: int, count: int) -> None:
        """Compiles what the `count` steps after `step` need; they come from `source`."""
        if self._is_loop_cold:
            self._record.compiling()
            self._train_steps.run(source, 0)  # Traces the loop and takes no step.
            self._record.lap("compile", program="loop")
            self._is_loop_cold = False
        if not self._cold_lengths:
            return
        lengths = {self._batches.plan.padded_length(step + i) for i in range(count)}
        for length in sorted(lengths & self._cold_lengths):
            self._supervisor.beat("compile", step)
            self._record.compiling()
            self._record.journal_steps(step)
            self._train_steps.warm_up(length, self._rows)
            self._record.lap("compile", length=length)
            self._cold_lengths.discard(length)

    def before_evaluation(self, weights: Mapping[str, tf.Tensor], step: int) -> None:
        """Compiles the lengths of the evaluated split, before its first evaluation."""
        for length in self._cold_evaluation:
            self._supervisor.beat("compile", step)
            self._record.compiling()
            self._evaluator.warm_up(weights, length)
            self._record.lap("compile", length=length, split=self._evaluator.split)
        self._cold_evaluation = []
