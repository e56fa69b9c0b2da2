"""What MODEL_DIR/best keeps after evaluations, saves and kills."""

import dataclasses
import math

import numpy as np
import pytest

from trainer.exit_codes import TakenOverError
from trainer.model_folder import attempts, checkpoint, commits
from trainer.model_folder.best import BestCheckpoint
from trainer.model_folder.selection import Evaluation

DIGESTS = {"config_digest": "c", "dataset_digest": "d"}


@dataclasses.dataclass
class Holder:
    """Stands for `lock.Held`."""

    number: int = 1
    fences: tuple = ()
    taken_over: bool = False

    def check(self):
        if self.taken_over:
            raise TakenOverError("attempt 1 no longer holds the folder")


def state(step, salt=0):
    return {"weights": np.full(3, step + salt, np.float32), "step": np.int64(step)}


def history(*accuracies):
    """Evaluations at steps 10, 20, ... with these accuracies."""
    return [
        Evaluation(10 * (i + 1), "validation", {"accuracy": value, "loss": 1 - value})
        for i, value in enumerate(accuracies)
    ]


def keeping(folder, metric="accuracy", holder=None):
    return BestCheckpoint(folder / "best", metric, holder or Holder(), DIGESTS)


def offer_all(kept, evaluations, salt=0):
    for i, evaluation in enumerate(evaluations):
        kept.offer(evaluation, evaluations[:i], lambda step=evaluation.step: state(step, salt))


@pytest.mark.parametrize(
    "metric, accuracies, committed",
    [
        ("accuracy", (0.5,), [10]),
        ("accuracy", (0.5, 0.7, 0.6), [10, 20]),
        ("accuracy", (0.5, 0.5, 0.5), [10]),  # A tie is not an improvement.
        ("accuracy", (0.5, math.nan, 0.6), [10, 30]),
        ("loss", (0.5, 0.4, 0.6), [10, 30]),
        ("loss", (0.9, 0.8), [10]),
    ],
)
def test_an_evaluation_is_kept_only_if_it_improves_on_all_before(
    tmp_path, metric, accuracies, committed
):
    offer_all(keeping(tmp_path, metric), history(*accuracies))
    assert commits.list_steps(tmp_path / "best") == committed


def test_no_snapshot_is_taken_of_a_state_that_is_not_better(tmp_path):
    first, worse = history(0.5, 0.4)
    keeping(tmp_path).offer(worse, [first], lambda: pytest.fail("a snapshot costs time"))
    assert not (tmp_path / "best").exists()


def test_the_checkpoint_has_the_state_the_attempt_and_the_digests(tmp_path):
    offer_all(keeping(tmp_path, holder=Holder(number=3)), history(0.5), salt=7)
    found = checkpoint.load(commits.folder_of(tmp_path / "best", 10))
    np.testing.assert_array_equal(found.tensors["weights"], state(10, 7)["weights"])
    assert (found.manifest["attempt"], found.manifest["config_digest"]) == (3, "c")


@pytest.mark.parametrize(
    "accuracies, saved, left",
    [
        ((0.5, 0.6, 0.7), 30, [30]),
        ((0.5, 0.6, 0.7), 20, [20, 30]),  # A resume from step 20 needs the best up to there.
        ((0.5, 0.6, 0.7), 25, [20, 30]),
        ((0.5, 0.6, 0.7), 10, [10, 30]),
        ((0.5, 0.6, 0.7), 0, [30]),  # Nothing is saved: a resume starts over.
        ((0.5, 0.6, 0.4), 30, [20]),
        ((0.5, 0.4, 0.6), 20, [10, 30]),
        ((0.5, 0.4, 0.3), 30, [10]),
    ],
)
def test_pruning_keeps_the_best_so_far_and_the_best_at_the_newest_save(
    tmp_path, accuracies, saved, left
):
    kept, evaluations = keeping(tmp_path), history(*accuracies)
    offer_all(kept, evaluations)
    kept.prune(evaluations, saved)
    assert commits.list_steps(tmp_path / "best") == left


def test_pruning_without_evaluations_removes_what_a_killed_attempt_left(tmp_path):
    offer_all(keeping(tmp_path), history(0.5))
    keeping(tmp_path, holder=Holder(number=2)).prune([], 0)
    assert [path.name for path in (tmp_path / "best").iterdir()] == []


def test_what_a_kill_left_half_removed_is_gone_when_the_next_attempt_begins(tmp_path):
    (tmp_path / "best" / "step-00000010.tmp-1").mkdir(parents=True)
    keeping(tmp_path, holder=Holder(number=2))
    assert not list((tmp_path / "best").iterdir())


def test_a_run_killed_at_any_evaluation_ends_with_the_same_best_checkpoint(tmp_path):
    evaluations = history(0.5, 0.7, 0.6, 0.8, 0.4)
    saves = {20, 40, 50}

    def run(folder, first, attempt, until=99):
        kept = keeping(folder, holder=Holder(number=attempt))
        saved = max((step for step in saves if step <= 10 * first), default=0)
        for i in range(first, len(evaluations)):
            if i == until:
                return
            offered = evaluations[i]
            kept.offer(offered, evaluations[:i], lambda step=offered.step: state(step))
            saved = offered.step if offered.step in saves else saved
            kept.prune(evaluations[: i + 1], saved)

    run(tmp_path / "undisturbed", 0, 1)
    expected = commits.list_steps(tmp_path / "undisturbed" / "best")
    assert expected == [40]
    for killed in range(1, len(evaluations)):
        folder = tmp_path / str(killed)
        run(folder, 0, 1, until=killed)
        restored = max((step for step in saves if step <= 10 * killed), default=0) // 10
        needed = [entry for entry in evaluations[:restored]]
        if needed:  # The resume finds the best checkpoint of the state that it restores.
            best = max(needed, key=lambda entry: entry.metrics["accuracy"])
            assert best.step in commits.list_steps(folder / "best")
        run(folder, restored, 2)
        assert commits.list_steps(folder / "best") == expected


def test_another_state_of_a_killed_attempt_at_the_same_step_is_replaced(tmp_path):
    """Another number of replicas rounds in another order."""
    offer_all(keeping(tmp_path), history(0.5))
    offer_all(keeping(tmp_path, holder=Holder(number=2)), history(0.5), salt=1)
    found = checkpoint.load(commits.folder_of(tmp_path / "best", 10))
    assert found.manifest["attempt"] == 2 and found.tensors["weights"][0] == 11
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["step-00000010"]


def test_the_same_state_is_not_written_again(tmp_path):
    offer_all(keeping(tmp_path), history(0.5))
    offer_all(keeping(tmp_path, holder=Holder(number=2)), history(0.5))
    assert commits.read_manifest(commits.folder_of(tmp_path / "best", 10))["attempt"] == 1


def test_an_attempt_that_was_taken_over_keeps_and_removes_nothing(tmp_path):
    evaluations = history(0.5, 0.6)
    offer_all(keeping(tmp_path), evaluations[:1])
    old = keeping(tmp_path, holder=Holder(taken_over=True))
    with pytest.raises(TakenOverError):
        old.offer(evaluations[1], evaluations[:1], lambda: state(20))
    with pytest.raises(TakenOverError):
        old.prune([], 0)
    assert commits.list_steps(tmp_path / "best") == [10]


def test_a_superseded_checkpoint_is_written_again(tmp_path):
    """Attempt 1 was frozen, committed after attempt 2 began, and is not part of the run."""
    offer_all(keeping(tmp_path), history(0.5))
    new = Holder(number=2, fences=(attempts.Fence(1, 0), attempts.Fence(2, 5)))
    offer_all(keeping(tmp_path, holder=new), history(0.5))
    assert commits.read_manifest(commits.folder_of(tmp_path / "best", 10))["attempt"] == 2
