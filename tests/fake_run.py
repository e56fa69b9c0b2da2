"""The parts of a run without TensorFlow programs: steps, placements and stops that a test controls.

What they do is written into one list of events, so that a test can compare the order.
"""

import signal
import types

import numpy as np

from tests.steps import runs
from trainer.steps.state import State
from trainer.steps.update import StepMetrics
from trainer.stopping import StopRequest
from trainer.tasks import table
from trainer.tasks.classification import Metrics


def step_metrics(
    steps: int, *, loss=1.0, correct=4.0, count=8.0, norm=0.5, waited=0.25
) -> StepMetrics:
    """Metrics of `steps` equal steps; `loss` is a sum over their `count` rows."""
    sums = {"loss_sum": loss, "correct": correct, "count": count}
    return StepMetrics(
        {name: np.full(steps, value) for name, value in sums.items()},
        gradient_norm=np.full(steps, norm),
        input_seconds=np.full(steps, waited),
    )


def split_metrics(right: int, rows: int = 10) -> Metrics:
    """Metrics of a split of `rows` rows and two classes, of which `right` rows are right."""
    return Metrics(2.5, np.array([[right, rows - right], [0, 0]]))


def run_state(*, loss=0.0, correct=0, count=0) -> State:
    """The state of a network without weights, in an epoch with these sums."""
    network = types.SimpleNamespace(initial_weights=lambda: {}, compute_dtype="float32")
    optimizer = types.SimpleNamespace(named=lambda: {})
    state = State(network, optimizer, table.TASKS["classification"], runs.variable)
    for name, value in (("loss_sum", loss), ("correct", correct), ("count", count)):
        state.epoch[name].assign(value)
    return state


class Calls:
    """Takes any method call and notes it as "NAME.METHOD" or "NAME.METHOD FIRST_ARGUMENT"."""

    def __init__(self, name: str, events: list[str]):
        self._name = name
        self._events = events

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __getattr__(self, method: str):
        def call(*arguments, **_):
            self._events.append(" ".join([f"{self._name}.{method}", *map(str, arguments[:1])]))

        return call


class Placement:
    """One of `workers` workers. `others(numbers)`: what every other one gives in its place."""

    def __init__(self, worker=0, workers=1, others=lambda numbers: numbers):
        self.worker = worker
        self.workers = workers
        self.is_chief = worker == 0
        self.same_state = True
        self._others = others

    def rows(self, batch_size: int) -> tuple[int, int]:
        share = batch_size // self.workers
        return self.worker * share, (self.worker + 1) * share

    def everyones(self, numbers) -> np.ndarray:
        table = np.array([self._others(numbers)] * self.workers, np.float64)
        table[self.worker] = numbers
        return table

    def all_have(self, digest) -> bool:
        return self.same_state


class Steps:
    """Train steps that only count. `after(step)` is called when the steps up to `step` have run."""

    def __init__(self, step: int, events: list[str], after=lambda step: None, metrics=None):
        self._step = step
        self._events = events
        self._after = after
        self._metrics = metrics or step_metrics

    def source(self, batches, step: int) -> str:
        return f"batches from {step}"

    def run(self, source: str, count: int) -> StepMetrics:
        if count:
            self._step += count
            self._events.append(f"steps to {self._step}")
            self._after(self._step)
        return self._metrics(count)

    def warm_up(self, length: int, rows: int) -> None:
        self._events.append(f"compile {length} for {rows} rows")


def stopped(number: int = signal.SIGTERM) -> StopRequest:
    """A request that a signal has already made."""
    stop = StopRequest()
    stop.signal = signal.Signals(number)
    return stop
