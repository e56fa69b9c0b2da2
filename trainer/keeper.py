"""What a run keeps: saved states with their digests, the best checkpoint, the evaluations so far.

Only the chief writes; the other workers remember the same evaluations, so that all of them end at
the same step.
"""

import logging
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from trainer import resuming
from trainer.exit_codes import DataError
from trainer.flags.run import Config
from trainer.model_folder import best, checkpoint, lock, selection

log = logging.getLogger(__name__)


class Keeper:
    """Keeps what one attempt adds to the model folder. Use it as a context manager."""

    def __init__(
        self,
        config: Config,
        folder: pathlib.Path,
        held: lock.Hold,
        dataset_digest: str,
        split: str,
        found: checkpoint.Checkpoint | None,
        *,
        writes: bool,
        on_saved: Callable[[Mapping[str, Any], float], None],
        facts: Mapping[str, Any] | None = None,
    ):
        """Reads the evaluations in `folder` up to the restored checkpoint.

        Args:
          split: the evaluated split, "" if there is none. A test split never selects the best.
          found: the checkpoint that the run was restored from.
          writes: whether this worker is the chief.
          on_saved: as for `checkpoint.Writer`.
          facts: what config.json holds beside the flags.

        Raises DataError if the evaluations cannot be read.
        """
        self._held = held
        self._split = split
        self._selects = split not in ("", "test")
        self._metric = config.run.best_metric
        self._patience = config.run.early_stop_patience
        self._writes = writes
        self._on_saved = on_saved
        # {step: digest of its state}; None while a save is under way.
        self._digests = {found.step: found.manifest["state_digest"]} if found else {}
        of_run = {
            "config_digest": resuming.digest(config),
            "dataset_digest": dataset_digest,
            "config": resuming.document(config, facts),
        }
        self._writer = checkpoint.Writer(
            folder / "checkpoints", config.run.keep, held, on_saved=self._on_commit, **of_run
        )
        self._best = best.BestCheckpoint(folder / "best", self._metric, held, of_run)
        path = folder / "evaluations.jsonl"
        self._history = selection.History(
            path,
            found.step if found else 0,
            writes=writes,
            kept=found.manifest.get("evaluations") if found else None,
            known=self._best.evaluations_at(found.step) if found else (),
        )
        if any(self._metric not in entry.metrics for entry in self.evaluations):
            raise DataError(
                f"{path} has an evaluation without {self._metric}: `train` writes it into each. "
                "Restore the file."
            )

    def __enter__(self) -> "Keeper":
        self._writer.__enter__()
        self._prune_best()
        return self

    def __exit__(self, *problem) -> None:
        self._writer.__exit__(*problem)

    # --- evaluations and the best checkpoint ------------------------------------------------------

    @property
    def evaluations(self) -> list[selection.Evaluation]:
        """The evaluations of the split: metrics of different splits cannot be compared."""
        return [entry for entry in self._history.evaluations if entry.split == self._split]

    @property
    def patience_is_over(self) -> bool:
        """Whether the last --early_stop_patience evaluations were not better than those before."""
        return selection.patience_is_over(self.evaluations, self._metric, self._patience)

    def has_evaluation(self, step: int) -> bool:
        """Returns whether the evaluation of `step` is on record."""
        return any(entry.step == step for entry in self.evaluations)

    def offer(
        self, evaluation: selection.Evaluation, snapshot: Callable[[], Mapping[str, np.ndarray]]
    ) -> None:
        """Commits the state as the best one if `evaluation` is better than those on record."""
        if self._keeps_best:
            self._best.offer(evaluation, self.evaluations, snapshot)

    def append(self, evaluation: selection.Evaluation) -> None:
        """Puts an evaluation on record; raises TakenOverError if the folder is held no longer."""
        self._held.check()  # The record is one file for all attempts.
        self._history.append(evaluation)

    def log_best(self) -> None:
        """Logs the best evaluation, if there is one and its split selects."""
        found = selection.best(self.evaluations, self._metric)
        if found and self._selects:
            value = found.metrics[self._metric]
            log.info("best %s of %s: %.4f at step %d", self._metric, found.split, value, found.step)

    # --- saved states -----------------------------------------------------------------------------

    def lacks(self, step: int) -> bool:
        """Returns whether the state of `step` is still to be saved by this worker."""
        return self._writes and step not in self._digests

    def save(self, step: int, tensors: Mapping[str, np.ndarray]) -> None:
        """Hands a state to the background writer."""
        # Before the writer starts, which may put the digest in at once.
        self._digests[step] = None
        self._writer.submit(step, tensors, self._history.lines)
        self._prune_best()

    def finish(self, step: int, snapshot: Callable[[], Mapping[str, np.ndarray]]) -> None:
        """Returns when every save is committed and the digest of the last state is known.

        A worker that does not save computes the digest. Raises what a failed save raised.
        """
        self._writer.wait()
        if step and not self._writes:
            self._digests[step] = checkpoint.state_digest(snapshot())
        self._prune_best()

    def digest(self, step: int) -> str | None:
        """Returns the digest of the state of `step`, None if it is not saved."""
        return self._digests.get(step)

    @property
    def _keeps_best(self) -> bool:
        return self._writes and self._selects

    def _prune_best(self) -> None:
        if self._keeps_best:
            saved = max((step for step, digest in self._digests.items() if digest), default=0)
            self._best.prune(self.evaluations, saved)

    def _on_commit(self, manifest: Mapping[str, Any], seconds: float) -> None:
        self._digests[manifest["step"]] = manifest["state_digest"]
        self._on_saved(manifest, seconds)
