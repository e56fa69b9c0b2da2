"""The best checkpoint of a run, kept apart from the newest ones and correct after any kill.

The history of evaluations up to a saved state determines what is kept. A checkpoint here may be of
a later step than the newest state on disk: the attempt that resumes from that state comes to this
step again.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from trainer.exit_codes import DataError, FolderInUseError
from trainer.model_folder import checkpoint, commits, lock, selection


class BestCheckpoint:
    """Keeps the best checkpoint by `metric` in MODEL_DIR/best.

    Its methods raise TakenOverError if a later attempt has taken the model folder over.
    """

    def __init__(
        self, folder: pathlib.Path, metric: str, held: lock.Hold, of_run: Mapping[str, Any]
    ):
        """`of_run`: config_digest, dataset_digest and config for the manifests."""
        self._folder = folder
        self._metric = metric
        self._held = held
        self._of_run = of_run
        checkpoint.remove_leftovers(folder, held.number)

    def offer(
        self,
        evaluation: selection.Evaluation,
        before: Sequence[selection.Evaluation],
        snapshot: Callable[[], Mapping[str, np.ndarray]],
    ) -> None:
        """Commits the state of `snapshot()` if `evaluation` is better than all before it."""
        if selection.best([*before, evaluation], self._metric) is not evaluation:
            return
        tensors, lines = snapshot(), [entry.to_json() for entry in (*before, evaluation)]
        try:
            self._commit(evaluation.step, tensors, lines)
        except FolderInUseError:
            # An attempt with another number of replicas came to this step and was killed. Its
            # weights are close to these, but not equal.
            self._discard(evaluation.step)
            self._commit(evaluation.step, tensors, lines)

    def prune(self, evaluations: Sequence[selection.Evaluation], saved: int) -> None:
        """Keeps the best checkpoint so far and the best up to step `saved`, removes all others.

        saved: the step of the newest state on disk. A resume from there needs the second one: for
        it, later evaluations by a killed attempt never happened. One of that step that is not on
        record stays: its evaluation came after the save, and is made again.
        """
        histories = evaluations, [entry for entry in evaluations if entry.step <= saved]
        wanted = {
            found.step for history in histories if (found := selection.best(history, self._metric))
        }
        if all(entry.step != saved for entry in evaluations):
            wanted.add(saved)
        unwanted = set(commits.list_steps(self._folder)) - wanted
        # After listing: a checkpoint that a later attempt needs is wanted here, too, or is not in
        # the list yet.
        self._held.check()
        for step in unwanted:
            self._discard(step)

    def evaluations_at(self, step: int) -> list[str]:
        """Returns the lines of evaluations.jsonl with which the state of `step` became the best."""
        try:
            manifest = commits.read_manifest(commits.folder_of(self._folder, step))
        except DataError:
            return []
        return manifest.get("evaluations", [])

    def _commit(
        self, step: int, tensors: Mapping[str, np.ndarray], evaluations: Sequence[str]
    ) -> None:
        checkpoint.commit(
            self._folder, step, tensors, held=self._held, evaluations=evaluations, **self._of_run
        )

    def _discard(self, step: int) -> None:
        checkpoint.discard(commits.folder_of(self._folder, step), self._held.number)
