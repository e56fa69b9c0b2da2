"""What a run keeps: states and their digests, the best checkpoint, the evaluations."""

import contextlib
import json
import logging

import numpy as np
import pytest

from trainer.exit_codes import DataError, StorageError, TakenOverError
from trainer.flags import run as configuration
from trainer.keeper import Keeper
from trainer.model_folder import attempts, checkpoint, lock
from trainer.model_folder.selection import Evaluation


def state(step) -> dict[str, np.ndarray]:
    return {"weights": np.full(3, step, np.float32), "step": np.array(step)}


def evaluation(step, accuracy, split="validation") -> Evaluation:
    return Evaluation(step, split, {"accuracy": accuracy})


@contextlib.contextmanager
def keeping(folder, *, found=None, split="validation", chief=True, saved=None, **flags):
    """A keeper of an attempt of its own, which is over when the block is."""
    with lock.hold(folder) if chief else contextlib.nullcontext(lock.Guest()) as held:
        held.began(found.step if found else 0)
        with Keeper(
            configuration.from_flat({"best_metric": "accuracy", **flags}),
            folder,
            held,
            "dataset digest",
            split,
            found,
            writes=chief,
            on_saved=saved or (lambda manifest, seconds: None),
        ) as keeper:
            yield keeper


def evaluated(keeper, step, accuracy, split="validation") -> None:
    """What the loop does with an evaluation."""
    keeper.offer(evaluation(step, accuracy, split), lambda: state(step))
    keeper.append(evaluation(step, accuracy, split))


def newest(folder) -> checkpoint.Checkpoint:
    return checkpoint.newest_valid(
        folder / "checkpoints", fences=attempts.fences(folder), repair=False
    )


def on_record(folder) -> list[int]:
    lines = (folder / "evaluations.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


# --- saved states ---------------------------------------------------------------------------------


def test_a_saved_state_has_the_digest_of_its_checkpoint(tmp_path):
    manifests = []
    with keeping(tmp_path, saved=lambda manifest, seconds: manifests.append(manifest)) as keeper:
        assert keeper.lacks(4) and keeper.digest(4) is None
        keeper.save(4, state(4))
        assert not keeper.lacks(4) and keeper.lacks(5)
        keeper.finish(4, lambda: state(4))
        assert keeper.digest(4) == checkpoint.state_digest(state(4))
    assert [manifest["step"] for manifest in manifests] == [4]
    assert newest(tmp_path).manifest["dataset_digest"] == "dataset digest"


def test_the_restored_state_need_not_be_saved_again(tmp_path):
    with keeping(tmp_path) as keeper:
        keeper.save(4, state(4))
    with keeping(tmp_path, found=newest(tmp_path)) as keeper:
        assert not keeper.lacks(4) and keeper.digest(4) == checkpoint.state_digest(state(4))


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    with keeping(tmp_path, keep=2) as keeper:
        for step in (1, 2, 3):
            keeper.save(step, state(step))
    assert checkpoint.list_steps(tmp_path / "checkpoints") == [2, 3]


def test_a_failed_save_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "PAYLOAD", "x" * 300)  # No file system takes such a name.
    monkeypatch.setattr(checkpoint, "RETRY_PAUSES", ())
    with pytest.raises(StorageError), keeping(tmp_path) as keeper:
        keeper.save(4, state(4))
        keeper.finish(4, lambda: state(4))


def test_a_worker_that_is_not_the_chief_computes_the_same_digest_and_writes_nothing(tmp_path):
    with keeping(tmp_path, chief=False) as keeper:
        assert not keeper.lacks(4)
        evaluated(keeper, 4, 0.5)
        keeper.finish(4, lambda: state(4))
        assert keeper.digest(4) == checkpoint.state_digest(state(4))
        assert keeper.has_evaluation(4)
    assert not list(tmp_path.iterdir())


def test_a_worker_stopped_before_the_first_step_has_no_digest(tmp_path):
    with keeping(tmp_path, chief=False) as keeper:
        keeper.finish(0, lambda: state(0))
        assert keeper.digest(0) is None


# --- evaluations and the best checkpoint ----------------------------------------------------------


def best(folder) -> list[int]:
    return checkpoint.list_steps(folder / "best")


def test_the_best_checkpoint_is_that_of_the_first_best_evaluation(tmp_path):
    with keeping(tmp_path) as keeper:
        kept = []
        for step, accuracy in ((1, 0.5), (2, 0.7), (3, 0.7), (4, 0.6)):
            evaluated(keeper, step, accuracy)
            keeper.save(step, state(step))
            keeper.finish(step, dict)  # The chief asks for no snapshot.
            kept.append(best(tmp_path))
    assert kept == [[1], [2], [2], [2]] and on_record(tmp_path) == [1, 2, 3, 4]


def test_the_best_of_a_restored_run_counts_what_came_before(tmp_path):
    with keeping(tmp_path) as keeper:
        evaluated(keeper, 1, 0.7)
        keeper.save(2, state(2))
    with keeping(tmp_path, found=newest(tmp_path)) as keeper:
        evaluated(keeper, 3, 0.6)
        keeper.save(3, state(3))
    assert best(tmp_path) == [1] and on_record(tmp_path) == [1, 3]


def test_what_a_killed_attempt_did_beyond_its_last_save_never_happened(tmp_path):
    with keeping(tmp_path) as keeper:
        evaluated(keeper, 1, 0.5)
        keeper.save(2, state(2))
        evaluated(keeper, 3, 0.9)
    assert best(tmp_path) == [1, 3]  # Step 1 is the best of the saved state, step 2.
    with keeping(tmp_path, found=newest(tmp_path)) as keeper:
        assert best(tmp_path) == [1]
        assert keeper.has_evaluation(1) and not keeper.has_evaluation(3)


@pytest.mark.parametrize("content", [None, b"", b"\xff", b'{"step": 1}'])
def test_a_lost_or_changed_record_of_evaluations_changes_nothing(tmp_path, content):
    path = tmp_path / "evaluations.jsonl"
    with keeping(tmp_path) as keeper:
        for step, accuracy in ((1, 0.7), (2, 0.6)):
            evaluated(keeper, step, accuracy)
        keeper.save(2, state(2))
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with keeping(tmp_path, found=newest(tmp_path), early_stop_patience=2) as keeper:
        assert best(tmp_path) == [1] and on_record(tmp_path) == [1, 2]
        evaluated(keeper, 3, 0.65)
        assert keeper.patience_is_over
        keeper.save(3, state(3))
    assert best(tmp_path) == [1] and on_record(tmp_path) == [1, 2, 3]


def test_an_evaluation_after_the_save_of_its_step_counts_if_its_checkpoint_is_the_best(tmp_path):
    """A stop broke off the evaluation, so that the state was saved without it."""
    with keeping(tmp_path) as keeper:
        evaluated(keeper, 1, 0.6)
        keeper.save(2, state(2))
        keeper.finish(2, dict)
        evaluated(keeper, 2, 0.7)
        keeper.finish(2, dict)
    assert best(tmp_path) == [2]
    with keeping(tmp_path, found=newest(tmp_path)) as keeper:
        assert keeper.has_evaluation(2)
        evaluated(keeper, 3, 0.65)
        keeper.save(3, state(3))
    assert best(tmp_path) == [2] and on_record(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize("change", [("0.7", "0.9"), ("0.7", "0.1"), ('{"step": 2', '{"step": 3')])
def test_a_changed_evaluation_after_the_save_of_its_step_is_made_again(tmp_path, change):
    with keeping(tmp_path) as keeper:
        keeper.save(2, state(2))
        keeper.finish(2, dict)
        evaluated(keeper, 2, 0.7)
    path = tmp_path / "evaluations.jsonl"
    path.write_text(path.read_text().replace(*change))
    with keeping(tmp_path, found=newest(tmp_path)) as keeper:
        assert best(tmp_path) == [2] and not keeper.has_evaluation(2)
        evaluated(keeper, 2, 0.7)
    assert best(tmp_path) == [2] and on_record(tmp_path) == [2]


def test_an_older_record_without_the_metric_that_selects_is_refused(tmp_path):
    with keeping(tmp_path) as keeper:
        evaluated(keeper, 1, 0.7)
        keeper.save(1, state(1))
    found = newest(tmp_path)
    del found.manifest["evaluations"]
    with pytest.raises(DataError, match="evaluations.jsonl has an evaluation without loss"):
        with keeping(tmp_path, found=found, best_metric="loss"):
            pass


def test_checkpoints_hold_the_configuration_and_what_was_evaluated_before(tmp_path):
    with keeping(tmp_path, seed=3) as keeper:
        evaluated(keeper, 1, 0.7)
        keeper.save(1, state(1))
        evaluated(keeper, 2, 0.6)
    manifest = newest(tmp_path).manifest
    assert manifest["evaluations"] == [evaluation(1, 0.7).to_json()]
    of_best = checkpoint.load(tmp_path / "best/step-00000001").manifest
    for held in (manifest, of_best):
        assert held["config"]["flags"]["seed"] == 3
        assert held["config"]["digest"] == held["config_digest"]


@pytest.mark.parametrize("split", ["test", ""])
def test_a_test_split_never_selects(tmp_path, split, caplog):
    caplog.set_level(logging.INFO)
    with keeping(tmp_path, split=split) as keeper:
        evaluated(keeper, 1, 0.5, split)
        keeper.save(1, state(1))
        keeper.log_best()
    assert not best(tmp_path) and "best" not in caplog.text


def test_evaluations_of_another_split_do_not_count(tmp_path):
    with keeping(tmp_path, split="train") as keeper:
        evaluated(keeper, 1, 0.9, "train")
        keeper.save(1, state(1))
    with keeping(tmp_path, found=newest(tmp_path), early_stop_patience=1) as keeper:
        assert not keeper.has_evaluation(1)
        evaluated(keeper, 1, 0.5)
        assert not keeper.patience_is_over
        keeper.save(2, state(2))
    assert best(tmp_path) == [1] and on_record(tmp_path) == [1, 1]


def test_patience_is_over_after_so_many_evaluations_without_a_better_one(tmp_path):
    over = []
    with keeping(tmp_path, early_stop_patience=2) as keeper:
        for step, accuracy in enumerate((0.5, 0.4, 0.6, 0.6, 0.5), start=1):
            evaluated(keeper, step, accuracy)
            over.append(keeper.patience_is_over)
    assert over == [False, False, False, False, True]


def test_an_attempt_that_was_taken_over_records_no_evaluation(tmp_path, monkeypatch):
    def refuse(held):
        raise TakenOverError("attempt 1 no longer holds the folder")

    with keeping(tmp_path) as keeper:
        with monkeypatch.context() as patch, pytest.raises(TakenOverError):
            patch.setattr(lock.Held, "check", refuse)
            keeper.append(evaluation(1, 0.5))
        assert not keeper.has_evaluation(1)
    assert not (tmp_path / "evaluations.jsonl").exists()


def test_the_best_evaluation_is_logged(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    with keeping(tmp_path) as keeper:
        for step, accuracy in ((1, 0.5), (2, 0.75)):
            evaluated(keeper, step, accuracy)
        keeper.log_best()
    assert "best accuracy of validation: 0.7500 at step 2" in caplog.text
