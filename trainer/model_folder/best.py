"""The best checkpoint of a run, kept apart from the newest ones, and right after any kill.

What is kept follows from the history of evaluations up to a saved state. A checkpoint here may be
ahead of the newest state on disk: the attempt that goes on from there will come to it again.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from trainer.exit_codes import FolderInUseError
from trainer.model_folder import checkpoint, lock, selection


class BestCheckpoint:
    """Keeps MODEL_DIR/best, by `metric`. `digests`: config_digest and dataset_digest for the
    manifests.

    Its methods raise TakenOverError where the model folder is `held` no longer.
    """

    def __init__(
        self, folder: pathlib.Path, metric: str, held: lock.Held, digests: Mapping[str, str]
    ):
        self._folder = folder
        self._metric = metric
        self._held = held
        self._digests = digests

    def offer(
        self,
        evaluation: selection.Evaluation,
        before: Sequence[selection.Evaluation],
        snapshot: Callable[[], Mapping[str, np.ndarray]],
    ) -> None:
        """Commits the state that `snapshot` returns if `evaluation` is better than all `before`
        it.
        """
        if selection.best([*before, evaluation], self._metric) is not evaluation:
            return
        tensors = snapshot()
        try:
            self._commit(evaluation.step, tensors)
        except FolderInUseError:
            # An attempt that was killed came here with another number of replicas: close to these
            # weights, not equal.
            self._discard(evaluation.step)
            self._commit(evaluation.step, tensors)

    def prune(self, evaluations: Sequence[selection.Evaluation], saved: int) -> None:
        """Leaves the best checkpoint so far, and the one that was the best at step `saved`, the
        newest state on disk.

        A resume from there asks for the latter; what a killed attempt kept beyond it never
        happened.
        """
        histories = evaluations, [entry for entry in evaluations if entry.step <= saved]
        wanted = {
            found.step for history in histories if (found := selection.best(history, self._metric))
        }
        unwanted = set(checkpoint.list_steps(self._folder)) - wanted
        # After the look: a successor wants others, but none that were there before it.
        self._held.check()
        for step in unwanted:
            self._discard(step)

    def _commit(self, step: int, tensors: Mapping[str, np.ndarray]) -> None:
        checkpoint.commit(self._folder, step, tensors, held=self._held, **self._digests)

    def _discard(self, step: int) -> None:
        checkpoint.discard(checkpoint.folder_of(self._folder, step), self._held.number)
