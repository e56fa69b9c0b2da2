"""The best evaluation and the end of patience, determined by the history of evaluations alone.

The history is a file of its own. An evaluation is written before the checkpoint of the same step.
So up to a restored step the file has what an undisturbed run would have. Later entries come from an
attempt that was killed, and are dropped.

A checkpoint holds the lines up to its step, and a resume takes them from there: the file decides
nothing. Only for older checkpoints, which hold none, is the file read.
"""

import dataclasses
import json
import logging
import math
import pathlib
from collections.abc import Collection, Sequence

from trainer import durable
from trainer.exit_codes import DataError
from trainer.flags.tasks import TASKS

log = logging.getLogger(__name__)

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
        step, split, metrics = entry.pop("step"), entry.pop("split"), dict(entry.pop("figures"))
        if entry:
            raise ValueError(f"unknown {', '.join(entry)[:200]}")
        if type(step) is not int or step < 1 or not isinstance(split, str):
            raise ValueError(f"step {str(step)[:200]} of {str(split)[:200]!r}")
        if wrong := [name for name, value in metrics.items() if type(value) not in (int, float)]:
            raise ValueError(f"{', '.join(wrong)[:200]} must be a number")
        return cls(step, split, metrics)


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

    def __init__(
        self,
        path: pathlib.Path,
        restored_step: int,
        writes: bool = True,
        kept: Sequence[str] | None = None,
        known: Collection[str] = (),
    ):
        """Takes over the evaluations up to `restored_step`.

        Args:
          restored_step: step of the restored checkpoint, 0 if there was none.
          writes: False in a worker that is not the chief; it has the same history as the chief up
            to this moment.
          kept: the lines up to `restored_step` as the restored checkpoint holds them; a file that
            does not begin with them is written again. None if it holds none: then `path` is read.
          known: further lines that count if the file has them, of evaluations of the restored state
            that were made after it was saved.

        Raises DataError if a line cannot be read.
        """
        self._path = path
        self._writes = writes
        if kept is not None:
            there = _lines(path)
            kept = [*kept, *(line for line in known if line not in kept and line in there)]
            self.evaluations = [
                _parsed(line, "the restored checkpoint", number)
                for number, line in enumerate(kept, start=1)
            ]
        else:
            found = _read(path) if restored_step else []
            self.evaluations = [entry for entry in found if entry.step <= restored_step]
        if kept and writes and there[: len(kept)] != kept:
            log.warning(
                "%s is not what the checkpoint of step %d holds of it (%d evaluations): it is "
                "written again from there",
                path,
                restored_step,
                len(kept),
            )
            self._write()

    @property
    def lines(self) -> list[str]:
        """The lines of the file."""
        return [entry.to_json() for entry in self.evaluations]

    def append(self, evaluation: Evaluation) -> None:
        """Adds an evaluation; when this returns, it survives a kill and a loss of power."""
        self.evaluations.append(evaluation)
        if self._writes:
            self._write()

    def _write(self) -> None:
        content = "".join(f"{line}\n" for line in self.lines).encode()
        durable.replace_file(self._path, content, temporary=self._path.with_suffix(".tmp"))


def _lines(path: pathlib.Path) -> list[str]:
    """Returns the whole lines of a file; a line without an end is none."""
    content = durable.read_bytes(path) if path.exists() else b""
    return content.decode("utf-8", "replace").split("\n")[:-1]


def _read(path: pathlib.Path) -> list[Evaluation]:
    # A line's bytes are decoded by themselves, so that an error has its number.
    lines = durable.read_bytes(path).splitlines() if path.exists() else []
    return [_parsed(line, str(path), number) for number, line in enumerate(lines, start=1)]


def _parsed(line: str | bytes, place: str, number: int) -> Evaluation:
    try:
        return Evaluation.from_json(line if isinstance(line, str) else line.decode("utf-8"))
    except (ValueError, TypeError, KeyError, RecursionError) as problem:
        raise DataError(
            f"{place}:{number} cannot be read ({problem!r}): it must be the JSON that `train` "
            "wrote. Restore the file. If no early stopping or best checkpoint depends on it, "
            "you may also delete it."
        ) from None
