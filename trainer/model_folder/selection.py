"""Which evaluation was the best so far, and whether it is time to stop: decided from the history of
evaluations alone.

The history is a file of its own, written before the checkpoint of the same step. Up to a restored
step it is therefore what an undisturbed run would have, and what lies beyond (from an attempt that
was killed) is forgotten.
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
    """The figures of `split` at `step`: {"loss", "accuracy", "macro_f1"}."""

    step: int
    split: str
    figures: dict[str, float]


def best(history: Sequence[Evaluation], metric: str) -> Evaluation | None:
    """The evaluation with the best `metric`, None of none; of equal ones the earliest. NaN is worse
    than any number.
    """

    def worth(evaluation: Evaluation) -> float:
        value = evaluation.figures[metric]
        return -math.inf if math.isnan(value) else -value if metric in LOWER_IS_BETTER else value

    return max(history, key=worth, default=None)


def patience_is_over(history: Sequence[Evaluation], metric: str, patience: int) -> bool:
    """Whether the last `patience` evaluations brought nothing better than what was there before; 0
    is never.
    """
    if not patience or not history:
        return False
    steps = [evaluation.step for evaluation in history]
    return len(steps) - 1 - steps.index(best(history, metric).step) >= patience


class History:
    """The evaluations of a run in MODEL_DIR/evaluations.jsonl, one JSON object per line, in order
    of their steps.
    """

    def __init__(self, path: pathlib.Path, restored_step: int, writes: bool = True):
        """Reads what `path` holds up to `restored_step`. Raises DataError where a line cannot be
        read.

        writes: False in a worker that is not the chief, whose history is the chief's as far as it
        has come.
        """
        self._path = path
        self._writes = writes
        self.evaluations = [entry for entry in _read(path) if entry.step <= restored_step]

    def append(self, evaluation: Evaluation) -> None:
        """Adds an evaluation; when this returns, it survives a kill and a loss of power."""
        self.evaluations.append(evaluation)
        if not self._writes:
            return
        lines = [json.dumps(dataclasses.asdict(entry)) + "\n" for entry in self.evaluations]
        durable.replace_file(
            self._path, "".join(lines).encode(), temporary=self._path.with_suffix(".tmp")
        )


def _read(path: pathlib.Path) -> list[Evaluation]:
    if not path.exists():
        return []
    entries = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entries.append(Evaluation(**json.loads(line)))
        except (ValueError, TypeError) as problem:
            raise DataError(
                f"{path}:{number} cannot be read ({problem}): it must be the JSON that train "
                "wrote. Delete the file "
                "where no early stopping or best checkpoint depends on it, else restore it."
            ) from None
    return entries
