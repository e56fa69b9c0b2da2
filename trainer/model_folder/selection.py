"""The best evaluation and the end of patience, determined by the history of evaluations alone.

The history is a file of its own. An evaluation is written before the checkpoint of the same step.
So up to a restored step the file has what an undisturbed run would have. Later entries come from an
attempt that was killed, and are dropped.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence

from trainer import durable
from trainer.config import TASKS
from trainer.exit_codes import DataError

LOWER_IS_BETTER = {
    metric for metrics in TASKS.values() for metric, better in metrics.items() if better == "lower"
}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The metrics of `split` at `step`: {"loss", "accuracy", "macro_f1"}."""

    step: int
    split: str
    metrics: dict[str, float]

    def to_json(self) -> str:
        """Returns a line of evaluations.jsonl. The file's name for the metrics is "figures"."""
        return json.dumps({"step": self.step, "split": self.split, "figures": self.metrics})

    @classmethod
    def from_json(cls, line: str) -> "Evaluation":
        """Returns the evaluation in a line of evaluations.jsonl.

        Raises ValueError, TypeError or KeyError if `to_json` did not write it.
        """
        entry = dict(json.loads(line))
        evaluation = cls(entry.pop("step"), entry.pop("split"), entry.pop("figures"))
        if entry:
            raise ValueError(f"unknown {', '.join(entry)}")
        return evaluation


def best(history: Sequence[Evaluation], metric: str) -> Evaluation | None:
    """Returns the evaluation with the best `metric`; None if there are none.

    Ties go to the earliest. NaN is worse than any number.
    """

    def worth(evaluation: Evaluation) -> float:
        value = evaluation.metrics[metric]
        return -math.inf if math.isnan(value) else -value if metric in LOWER_IS_BETTER else value

    return max(history, key=worth, default=None)


def patience_is_over(history: Sequence[Evaluation], metric: str, patience: int) -> bool:
    """Returns whether the last `patience` evaluations brought no improvement; 0: never."""
    if not patience or not history:
        return False
    steps = [evaluation.step for evaluation in history]
    return len(steps) - 1 - steps.index(best(history, metric).step) >= patience


class History:
    """The evaluations of a run in MODEL_DIR/evaluations.jsonl: JSON lines in the order of steps."""

    def __init__(self, path: pathlib.Path, restored_step: int, writes: bool = True):
        """Reads the entries of `path` up to `restored_step`.

        writes: False in a worker that is not the chief; it has the same history as the chief up to
        this moment. Raises DataError if a line cannot be read.
        """
        self._path = path
        self._writes = writes
        self.evaluations = [entry for entry in _read(path) if entry.step <= restored_step]

    def append(self, evaluation: Evaluation) -> None:
        """Adds an evaluation; when this returns, it survives a kill and a loss of power."""
        self.evaluations.append(evaluation)
        if self._writes:
            lines = [f"{entry.to_json()}\n" for entry in self.evaluations]
            durable.replace_file(
                self._path, "".join(lines).encode(), temporary=self._path.with_suffix(".tmp")
            )


def _read(path: pathlib.Path) -> list[Evaluation]:
    if not path.exists():
        return []
    entries = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entries.append(Evaluation.from_json(line))
        except (ValueError, TypeError, KeyError) as problem:
            raise DataError(
                f"{path}:{number} cannot be read ({problem!r}): it must be the JSON that `train` "
                "wrote. Restore the file. If no early stopping or best checkpoint depends on it, "
                "you may also delete it."
            ) from None
    return entries
