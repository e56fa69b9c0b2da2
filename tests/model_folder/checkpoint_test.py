"""Commits, discovery and pruning of checkpoints through damage, failing storage and kills."""

import concurrent.futures
import dataclasses
import hashlib
import itertools
import json
import logging
import os
import pathlib
import random
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import tensorflow as tf

from trainer import durable, sealed
from trainer.exit_codes import DataError, DivergedError, FolderInUseError, StorageError
from trainer.model_folder import checkpoint, commits

ROOT = pathlib.Path(__file__).resolve().parents[2]
DIGESTS = {"config_digest": "c", "dataset_digest": "d"}


def state(step):
    """A small state that depends on the step."""
    rng = np.random.default_rng(step)
    return {
        "model/embedding/embeddings": rng.normal(size=(40, 8)).astype(np.float32),
        "optimizer/embedding/m": np.zeros((40, 8), np.float32),
        "epoch/loss_sum": np.float64(step / 7),
        "step": np.int64(step),
    }


@dataclasses.dataclass
class Holder:
    """Stands for `lock.Held`. Each call of `check` calls the next one of `checks`."""

    number: int = 1
    fences: tuple = ()
    checks: list = dataclasses.field(default_factory=list)

    def check(self):
        if self.checks:
            self.checks.pop(0)()


def commit(parent, step, tensors=None, attempt=1, fences=(), checks=()):
    return checkpoint.commit(
        parent, step, tensors or state(step), held=Holder(attempt, fences, list(checks)), **DIGESTS
    )


def names(parent):
    return sorted(path.name for path in parent.iterdir())


@pytest.fixture
def no_pauses(monkeypatch):
    monkeypatch.setattr(checkpoint, "RETRY_PAUSES", (0, 0))


# The digest


def contract_digest(arrays):
    """The digest as the interface defines it: name NUL dtype NUL d0,d1 NUL and bytes, by UTF-8
    name.
    """
    digest = hashlib.sha256()
    for name in sorted(arrays, key=lambda name: name.encode()):
        array = np.asarray(arrays[name])
        little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()
        digest.update(name.encode() + b"\0" + str(array.dtype).encode() + b"\0")
        digest.update(",".join(map(str, array.shape)).encode() + b"\0" + little)
    return digest.hexdigest()


AWKWARD = {
    "é/after-z-in-utf8": np.float32(1.5),
    "z": np.zeros((0, 3), np.float32),
    "Z": np.array([np.pi], np.float64),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "every/second": np.arange(10, dtype=np.int64)[::2],
    "scalar": np.int64(-1),
    "signed/zero": np.float32(-0.0),
}


def test_the_digest_is_the_one_of_the_interface():
    assert checkpoint.state_digest(AWKWARD) == contract_digest(AWKWARD)
    assert checkpoint.state_digest({}) == hashlib.sha256().hexdigest()


def test_the_digest_can_be_recomputed_from_the_payload_alone(tmp_path):
    manifest = commit(tmp_path, 7, AWKWARD)
    reader = tf.train.load_checkpoint(str(tmp_path / "step-00000007" / "tensors"))
    arrays = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    assert set(arrays) == set(AWKWARD)
    assert contract_digest(arrays) == manifest["state_digest"] == checkpoint.state_digest(AWKWARD)


@pytest.mark.parametrize(
    "change",
    [
        {"a": np.array([1, 2], np.float32)},
        {"b": np.array([1, 2], np.float64)},
        {"b": np.array([[1, 2]], np.float32)},
        {"b": np.array([2, 1], np.float32)},
        {"b": np.array([1, 2], np.float32), "c": np.float32(0)},
    ],
    ids=["name", "dtype", "shape", "bits", "one more"],
)
def test_every_difference_changes_the_digest(change):
    assert checkpoint.state_digest(change) != checkpoint.state_digest(
        {"b": np.array([1, 2], np.float32)}
    )


@pytest.mark.parametrize(
    "array",
    [
        np.float16(1),
        np.int32(1),
        np.bool_(True),
        np.array(["text"]),
        np.array([None]),
        tf.bfloat16.as_numpy_dtype(1),
    ],
)
def test_a_dtype_that_cannot_be_saved_is_refused_with_the_name_of_the_tensor(tmp_path, array):
    with pytest.raises(TypeError, match=f"'some/name' is {array.dtype}.*float32, float64, int64"):
        commit(tmp_path, 1, {"some/name": array})
    assert not list(tmp_path.iterdir())


# One folder


def test_what_is_committed_comes_back_bit_for_bit(tmp_path):
    manifest = commit(tmp_path / "new" / "checkpoints", 123)
    folder = tmp_path / "new" / "checkpoints" / "step-00000123"
    found = checkpoint.load(folder)
    assert (found.step, found.path, found.manifest) == (123, folder, manifest)
    assert {name: (array.dtype, array.shape) for name, array in found.tensors.items()} == {
        name: (array.dtype, array.shape) for name, array in state(123).items()
    }
    for name, array in state(123).items():
        np.testing.assert_array_equal(found.tensors[name], array)


@pytest.mark.parametrize("name", ["a[1]", "b*?", "back\\slash", "[!x"])
def test_a_path_that_tensorflow_takes_for_a_pattern_is_read_all_the_same(name, tmp_path):
    manifest = commit(tmp_path / name, 5)
    found = checkpoint.newest_valid(tmp_path / name, fences=(), repair=True, attempt=2)
    assert found.step == 5 and found.manifest == manifest


def test_a_payload_with_the_right_hashes_is_never_called_damaged(tmp_path, monkeypatch):
    commit(tmp_path, 5)

    def failing(path):
        raise MemoryError

    monkeypatch.setattr(tf.train, "load_checkpoint", failing)
    with pytest.raises(DataError, match="nothing is damaged") as raised:
        checkpoint.newest_valid(tmp_path, fences=(), repair=True, attempt=2)
    assert "delete" not in str(raised.value) and names(tmp_path) == ["step-00000005"]


def test_the_manifest_describes_every_file(tmp_path):
    manifest = commit(tmp_path, 5, attempt=3)
    folder = tmp_path / "step-00000005"
    assert json.loads((folder / "MANIFEST.json").read_text()) == manifest
    assert {
        key: manifest[key]
        for key in ("format", "step", "attempt", "config_digest", "dataset_digest")
    } == {"format": 1, "step": 5, "attempt": 3, "config_digest": "c", "dataset_digest": "d"}
    assert sorted(manifest["files"]) == ["tensors.data-00000-of-00001", "tensors.index"]
    assert set(names(folder)) == {"MANIFEST.json", *manifest["files"]}
    for name, entry in manifest["files"].items():
        data = (folder / name).read_bytes()
        assert entry == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_the_content_is_durable_before_the_rename_and_the_name_after_it(tmp_path, monkeypatch):
    calls, sync, replace = [], durable.sync, os.replace
    monkeypatch.setattr(durable, "sync", lambda path: calls.append(path) or sync(path))
    monkeypatch.setattr(os, "replace", lambda old, new: calls.append("rename") or replace(old, new))
    parent = tmp_path / "model" / "checkpoints"
    commit(parent, 5)
    temporary = parent / "step-00000005.tmp-1"
    files = ["MANIFEST.json", "tensors.data-00000-of-00001", "tensors.index"]
    assert calls[:2] == [tmp_path, tmp_path / "model"]  # The names of the new folders.
    assert sorted(calls[2:5]) == [temporary / name for name in files]
    assert calls[5:] == [temporary, "rename", parent]


def test_a_valid_checkpoint_is_never_written_twice(tmp_path):
    first = commit(tmp_path, 5, attempt=1)
    before = [path.stat().st_mtime_ns for path in sorted((tmp_path / "step-00000005").iterdir())]
    assert commit(tmp_path, 5, attempt=2) == first
    assert before == [
        path.stat().st_mtime_ns for path in sorted((tmp_path / "step-00000005").iterdir())
    ]
    assert names(tmp_path) == ["step-00000005"]


def test_a_valid_checkpoint_with_another_state_is_an_error_and_stays(tmp_path):
    first = commit(tmp_path, 5, attempt=1)
    with pytest.raises(FolderInUseError, match=f"attempt 1 with state {first['state_digest']}"):
        commit(tmp_path, 5, state(6), attempt=2)
    assert checkpoint.load(tmp_path / "step-00000005").manifest == first


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_state_with_nan_or_inf_never_becomes_a_checkpoint(tmp_path, value):
    with pytest.raises(DivergedError, match="'model/kernel' has 1 NaN or Inf at step 9"):
        commit(
            tmp_path, 9, {"model/kernel": np.array([0, value, 1], np.float32), "step": np.int64(9)}
        )
    assert not list(tmp_path.iterdir())


def test_the_manifest_holds_what_a_resume_needs_beside_the_state(tmp_path):
    config, lines = {"flags": {"seed": 3, "units": [4]}}, ['{"step": 5, "loss": NaN}']
    checkpoint.commit(
        tmp_path, 5, state(5), held=Holder(), config=config, evaluations=lines, **DIGESTS
    )
    manifest = checkpoint.load(tmp_path / "step-00000005").manifest
    assert (manifest["config"], manifest["evaluations"]) == (config, lines)
    assert manifest == sealed.seal(manifest)


# Damage (each of these makes TensorFlow's own reader fail in its own way, or not at all)


def cut_the_index(folder):
    (folder / "tensors.index").write_bytes((folder / "tensors.index").read_bytes()[:-20])


def empty_the_index(folder):
    (folder / "tensors.index").write_bytes(b"")


def flip_a_byte_of_the_data(folder):
    data = bytearray((folder / "tensors.data-00000-of-00001").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "tensors.data-00000-of-00001").write_bytes(data)


def remove_the_manifest(folder):
    (folder / "MANIFEST.json").unlink()


def make_the_manifest_garbage(folder):
    (folder / "MANIFEST.json").write_bytes(b"\x00\xff{garbage")


def remove_the_data(folder):
    (folder / "tensors.data-00000-of-00001").unlink()


def nothing_in_the_folder(folder):
    for path in folder.iterdir():
        path.unlink()


def edit_manifest(**fields):
    def edit(folder):
        manifest = json.loads((folder / "MANIFEST.json").read_text())
        (folder / "MANIFEST.json").write_text(json.dumps(sealed.seal({**manifest, **fields})))

    edit.__name__ = "manifest_with_" + "_".join(fields)
    return edit


def replace_the_payload(folder):
    """Puts another valid bundle with correct sizes and sums there: only the digest differs."""
    commit(folder.parent / "elsewhere", 1, state(1))
    for path in (folder.parent / "elsewhere" / "step-00000001").glob("tensors.*"):
        shutil.copy(path, folder)
    files = json.loads(
        (folder.parent / "elsewhere" / "step-00000001" / "MANIFEST.json").read_text()
    )["files"]
    edit_manifest(files=files)(folder)
    shutil.rmtree(folder.parent / "elsewhere")


DAMAGES = [
    (cut_the_index, "tensors.index has"),
    (empty_the_index, "tensors.index has 0 bytes"),
    (flip_a_byte_of_the_data, "another sha256"),
    (remove_the_manifest, "MANIFEST.json is missing"),
    (make_the_manifest_garbage, "MANIFEST.json is not a manifest"),
    (remove_the_data, "tensors.data-00000-of-00001 is missing"),
    (nothing_in_the_folder, "MANIFEST.json is missing"),
    (replace_the_payload, "its tensors have the digest"),
    (edit_manifest(files={}), "does not describe a payload"),
    (
        edit_manifest(files={"../../escape": {"size": 0, "sha256": ""}}),
        "does not describe a payload",
    ),
    (edit_manifest(files=None), "is not a manifest"),
    (edit_manifest(step=21), "is of step 21"),
    (edit_manifest(step="20"), "is of step 20"),
    (edit_manifest(attempt="first"), "is of attempt 'first'"),
    (edit_manifest(format="new"), "is not a manifest"),
    (edit_manifest(state_digest=None), "does not describe"),
]
EACH_DAMAGE = pytest.mark.parametrize(
    "damage, reason", DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES]
)


@EACH_DAMAGE
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, caplog, damage, reason):
    for step in (10, 20):
        commit(tmp_path, step)
    damage(tmp_path / "step-00000020")
    found = checkpoint.newest_valid(tmp_path, fences=(), repair=False)
    assert (found.step, found.manifest["state_digest"]) == (10, checkpoint.state_digest(state(10)))
    for part in ("step-00000020", reason, "falling back to step 10, 10 steps are lost"):
        assert part in caplog.text
    assert names(tmp_path) == ["step-00000010", "step-00000020"]


@EACH_DAMAGE
def test_if_the_only_checkpoint_is_damaged_the_run_does_not_start_over(tmp_path, damage, reason):
    commit(tmp_path, 20)
    damage(tmp_path / "step-00000020")
    for repair in (False, True, True):
        with pytest.raises(DataError, match=reason) as raised:
            checkpoint.newest_valid(tmp_path, fences=(), repair=repair, attempt=2)
        assert raised.value.code == 3
    assert names(tmp_path) == ["step-00000020"]


@EACH_DAMAGE
def test_loading_a_damaged_checkpoint_names_the_folder_and_the_reason(tmp_path, damage, reason):
    commit(tmp_path, 20)
    damage(tmp_path / "step-00000020")
    with pytest.raises(DataError, match=reason) as raised:
        checkpoint.load(tmp_path / "step-00000020")
    assert str(tmp_path / "step-00000020") in str(raised.value)


def test_repair_sets_damaged_folders_aside_so_that_their_steps_can_be_written_again(
    tmp_path, caplog
):
    for step in (10, 20, 30):
        commit(tmp_path, step)
    empty_the_index(tmp_path / "step-00000020")
    remove_the_manifest(tmp_path / "step-00000030")
    assert checkpoint.newest_valid(tmp_path, fences=(), repair=True, attempt=4).step == 10
    assert names(tmp_path) == [
        "step-00000010",
        "step-00000020.damaged-4",
        "step-00000030.damaged-4",
    ]
    assert "step-00000030.damaged-4" in caplog.text
    commit(tmp_path, 20, attempt=4)
    assert checkpoint.newest_valid(tmp_path, fences=(), repair=False).step == 20


def test_a_damaged_folder_is_set_aside_when_its_step_is_committed_again(tmp_path):
    commit(tmp_path, 20)
    flip_a_byte_of_the_data(tmp_path / "step-00000020")
    assert commit(tmp_path, 20, attempt=2)["attempt"] == 2
    assert names(tmp_path) == ["step-00000020", "step-00000020.damaged-2"]


def test_the_first_damaged_folder_of_a_step_and_attempt_is_kept(tmp_path):
    for _ in range(2):
        commit(tmp_path, 20, attempt=2)
        empty_the_index(tmp_path / "step-00000020")
    commit(tmp_path, 20, attempt=2)
    assert names(tmp_path) == ["step-00000020", "step-00000020.damaged-2"]


def test_if_only_a_folder_that_was_set_aside_is_left_the_run_does_not_start_over(tmp_path):
    commit(tmp_path, 20)
    (tmp_path / "step-00000020").rename(tmp_path / "step-00000020.damaged-1")
    with pytest.raises(DataError, match="step-00000020.damaged-1: set aside before.*delete"):
        checkpoint.newest_valid(tmp_path, fences=(), repair=True, attempt=2)


def test_a_newer_format_is_an_error_but_not_damage(tmp_path):
    for step in (10, 20):
        commit(tmp_path, step)
    edit_manifest(format=2)(tmp_path / "step-00000020")
    with pytest.raises(DataError, match="format 2.*reads up to format 1"):
        checkpoint.newest_valid(tmp_path, fences=(), repair=True, attempt=2)
    assert names(tmp_path) == ["step-00000010", "step-00000020"]


# Discovery


def test_without_a_folder_or_with_an_empty_one_there_is_no_checkpoint(tmp_path):
    assert checkpoint.newest_valid(tmp_path / "missing", fences=(), repair=True, attempt=1) is None
    assert checkpoint.newest_valid(tmp_path, fences=(), repair=True, attempt=1) is None


def test_a_first_save_that_was_killed_is_not_a_checkpoint(tmp_path):
    (tmp_path / "step-00000010.tmp-1").mkdir()
    assert checkpoint.newest_valid(tmp_path, fences=(), repair=True, attempt=2) is None


def test_a_checkpoint_that_is_pruned_while_we_read_is_not_damage(tmp_path, monkeypatch, caplog):
    commit(tmp_path, 10)
    read = checkpoint._read_bundle

    def prune_meanwhile(path):
        if path.name == "step-00000010":
            with checkpoint.Writer(tmp_path, 1, Holder(), **DIGESTS) as writer:
                writer.submit(20, state(20))
        return read(path)

    monkeypatch.setattr(checkpoint, "_read_bundle", prune_meanwhile)
    assert checkpoint.newest_valid(tmp_path, fences=(), repair=False).step == 20
    assert not caplog.records


def test_reading_survives_a_live_trainer_that_prunes(tmp_path):
    commit(tmp_path, 0)
    done = threading.Event()

    def train():
        try:
            with checkpoint.Writer(tmp_path, 1, Holder(), **DIGESTS) as writer:
                for step in range(1, 60):
                    writer.submit(step, state(step))
        finally:
            done.set()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        training = pool.submit(train)
        last = 0
        while not done.is_set():
            found = checkpoint.newest_valid(tmp_path, fences=(), repair=False)
            assert found.step >= last
            last = found.step
        training.result()
    assert checkpoint.newest_valid(tmp_path, fences=(), repair=False).step == 59


# Storage that fails


FULL = OSError(28, "No space left on device")


def failing(function, times, error=FULL):
    """Returns `function` with the first `times` calls failing."""
    calls = []

    def call(*arguments, **options):
        calls.append(arguments)
        if len(calls) <= times:
            raise error
        return function(*arguments, **options)

    call.calls = calls
    return call


@pytest.mark.parametrize(
    "error", [FULL, tf.errors.ResourceExhaustedError(None, None, "No space left on device")]
)
@pytest.mark.parametrize("module, name", [(checkpoint, "_save_bundle"), (durable, "sync")])
def test_a_write_that_fails_is_tried_again(tmp_path, monkeypatch, no_pauses, module, name, error):
    monkeypatch.setattr(module, name, failing(getattr(module, name), 2, error))
    commit(tmp_path, 10)
    assert names(tmp_path) == ["step-00000010"]
    assert checkpoint.load(tmp_path / "step-00000010").step == 10


def test_a_write_that_always_fails_is_a_storage_error_and_leaves_nothing(
    tmp_path, monkeypatch, no_pauses
):
    monkeypatch.setattr(durable, "sync", failing(None, 99))
    with pytest.raises(
        StorageError, match="step-00000010 could not be written in 3 tries.*No space left"
    ) as raised:
        commit(tmp_path, 10)
    assert raised.value.code == 74
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_created_is_a_storage_error(tmp_path, no_pauses):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="step-00000010"):
        commit(tmp_path / "file" / "checkpoints", 10)


def test_a_disk_that_cannot_be_read_is_not_damage(tmp_path, monkeypatch, no_pauses):
    for step in (10, 20):
        commit(tmp_path, step)
    monkeypatch.setattr(
        durable, "sha256", failing(durable.sha256, 2, OSError(5, "Input/output error"))
    )
    assert checkpoint.newest_valid(tmp_path, fences=(), repair=True, attempt=2).step == 20
    monkeypatch.setattr(
        durable, "sha256", failing(durable.sha256, 99, OSError(5, "Input/output error"))
    )
    with pytest.raises(StorageError, match="could not be read"):
        checkpoint.newest_valid(tmp_path, fences=(), repair=True, attempt=2)
    assert names(tmp_path) == ["step-00000010", "step-00000020"]


# The background writer


def test_the_writer_commits_in_order_prunes_and_reports_each_save(tmp_path):
    saved = []
    with checkpoint.Writer(
        tmp_path,
        2,
        Holder(),
        **DIGESTS,
        on_saved=lambda manifest, seconds: saved.append((manifest["step"], seconds > 0)),
    ) as writer:
        for step in (10, 20, 30, 40):
            writer.submit(step, state(step))
        writer.wait()
        assert saved == [(step, True) for step in (10, 20, 30, 40)]
    assert names(tmp_path) == ["step-00000030", "step-00000040"]


def test_keep_zero_keeps_everything(tmp_path):
    with checkpoint.Writer(tmp_path, 0, Holder(), **DIGESTS) as writer:
        for step in range(5):
            writer.submit(step, state(step))
    assert commits.list_steps(tmp_path) == [0, 1, 2, 3, 4]


def test_submit_returns_while_the_save_is_running_and_the_next_one_waits(tmp_path, monkeypatch):
    running, resume, write = threading.Event(), threading.Event(), checkpoint._save_bundle

    def slow(prefix, tensors):
        running.set()
        assert resume.wait(30)
        write(prefix, tensors)

    monkeypatch.setattr(checkpoint, "_save_bundle", slow)
    with checkpoint.Writer(tmp_path, 0, Holder(), **DIGESTS) as writer:
        writer.submit(10, state(10))
        assert running.wait(30)
        assert commits.list_steps(tmp_path) == []
        next_one = threading.Thread(target=writer.submit, args=(20, state(20)))
        next_one.start()
        assert next_one.is_alive()
        resume.set()
        next_one.join()
        assert 10 in commits.list_steps(tmp_path)
    assert commits.list_steps(tmp_path) == [10, 20]


def test_a_name_whose_sync_failed_is_synced_before_the_step_counts_as_saved(
    tmp_path, monkeypatch, no_pauses
):
    synced, sync, turns = [], durable.sync, itertools.count()

    def failing_once_for_the_parent(path):
        synced.append(path)
        if path == tmp_path and next(turns) == 0:
            raise FULL
        sync(path)

    monkeypatch.setattr(durable, "sync", failing_once_for_the_parent)
    commit(tmp_path, 10)
    assert names(tmp_path) == ["step-00000010"]
    assert synced.count(tmp_path) == 2 and synced[-1] == tmp_path


def test_a_failed_save_is_logged_and_raised_by_every_later_call(
    tmp_path, monkeypatch, no_pauses, caplog
):
    monkeypatch.setattr(durable, "sync", failing(None, 99))
    saved = []
    with pytest.raises(StorageError, match="step-00000010"):
        with checkpoint.Writer(
            tmp_path, 2, Holder(), **DIGESTS, on_saved=lambda *_: saved.append(1)
        ) as writer:
            writer.submit(10, state(10))
            for call in (writer.wait, lambda: writer.submit(20, state(20)), writer.wait):
                with pytest.raises(StorageError, match="step-00000010"):
                    call()
    (error,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "step 10 was not saved" in error.message
    assert not saved


def test_a_failed_save_does_not_replace_the_error_that_ends_the_run(
    tmp_path, monkeypatch, no_pauses, caplog
):
    monkeypatch.setattr(durable, "sync", failing(None, 99))
    with pytest.raises(KeyError):
        with checkpoint.Writer(tmp_path, 2, Holder(), **DIGESTS) as writer:
            writer.submit(10, state(10))
            raise KeyError("the cause")
    assert "step 10 was not saved" in caplog.text


def test_pruning_never_removes_the_checkpoint_that_was_just_written(tmp_path):
    for step in (50, 60):  # Beyond the steps of this run.
        (tmp_path / f"step-{step:08d}").mkdir()
    with checkpoint.Writer(tmp_path, 1, Holder(), **DIGESTS) as writer:
        writer.submit(10, state(10))
        writer.submit(20, state(20))
    assert commits.list_steps(tmp_path) == [20, 50, 60]


def test_a_prune_that_fails_does_not_fail_the_save(tmp_path, monkeypatch, caplog):
    commit(tmp_path, 10)
    prune = checkpoint._prune

    def obstructed(*arguments):
        (tmp_path / "step-00000010.tmp-1" / "in the way").mkdir(parents=True)
        prune(*arguments)

    monkeypatch.setattr(checkpoint, "_prune", obstructed)
    with checkpoint.Writer(tmp_path, 1, Holder(), **DIGESTS) as writer:
        writer.submit(20, state(20))
    assert commits.list_steps(tmp_path) == [10, 20]
    assert "step-00000010 could not be removed" in caplog.text


def test_the_next_commit_removes_what_killed_attempts_left_half_written(tmp_path):
    (tmp_path / "step-00000010.tmp-1").mkdir()
    (tmp_path / "step-00000010.tmp-1" / "tensors.index").write_text("half")
    (tmp_path / "step-00000005.damaged-1").mkdir()
    commit(tmp_path, 10, attempt=2)
    assert names(tmp_path) == ["step-00000005.damaged-1", "step-00000010"]


def test_a_resume_removes_what_killed_attempts_left_even_if_it_saves_nothing(tmp_path):
    commit(tmp_path, 10)
    for attempt in (1, 2, 3):
        (tmp_path / f"step-00000005.tmp-{attempt}").mkdir()
    assert checkpoint.newest_valid(tmp_path, fences=(), repair=False).step == 10
    assert len(names(tmp_path)) == 4
    assert checkpoint.newest_valid(tmp_path, fences=(), repair=True, attempt=2).step == 10
    # The third attempt has taken the folder over.
    assert names(tmp_path) == ["step-00000005.tmp-3", "step-00000010"]


def test_a_step_that_was_discarded_can_be_written_with_another_state(tmp_path):
    commit(tmp_path, 10)
    checkpoint.discard(commits.folder_of(tmp_path, 10), attempt=1)
    assert names(tmp_path) == []
    commit(tmp_path, 10, state(11))
    assert checkpoint.load(commits.folder_of(tmp_path, 10)).tensors["step"] == 11


# Kills


class Killed(BaseException):
    """Stands for SIGKILL: none of our code catches it."""


@pytest.mark.parametrize("function", ["fsync", "mkdir", "rename", "replace", "unlink", "rmdir"])
def test_a_kill_at_any_call_of_the_file_system_leaves_a_valid_newest_checkpoint(
    tmp_path, monkeypatch, function
):
    """Commits and prunes step 30 and is killed at the first, second, ... call of `function`, until
    there is none left.
    """
    original = getattr(os, function)
    for cut in range(1, 100):
        parent = tmp_path / str(cut)
        for step in (10, 20):
            commit(parent, step)
        with monkeypatch.context() as patch:
            calls = iter(range(1, 1000))

            def call(*arguments, calls=calls, cut=cut, **options):
                # A killed process makes no call after the one in which it is killed.
                if next(calls) >= cut:
                    raise Killed
                return original(*arguments, **options)

            patch.setattr(os, function, call)
            try:
                commit(parent, 30)
                checkpoint._prune(parent, 2, 30, Holder())
                return
            except Killed:
                pass
        for step in commits.list_steps(parent):
            checkpoint.load(parent / f"step-{step:08d}")
        assert checkpoint.newest_valid(parent, fences=(), repair=True, attempt=2).step in (20, 30)
        with checkpoint.Writer(parent, 2, Holder(2), **DIGESTS) as writer:
            writer.submit(30, state(30))
            writer.submit(40, state(40))
        assert names(parent) == ["step-00000030", "step-00000040"]
    raise AssertionError("99 calls are not enough")


KILLED_WRITER = """
import itertools, os, pathlib, signal, sys, time, types
import numpy as np
import tensorflow as tf
from trainer.model_folder import checkpoint, commits

parent, pauses = pathlib.Path(sys.argv[1]), [float(text) for text in sys.argv[2:]]
weights = np.zeros((200, 200), np.float32)
# Forked, because importing TensorFlow takes seconds. It has no threads yet.
for attempt, pause in enumerate(pauses, 1):
    first = max(commits.list_steps(parent), default=0) + 1
    child = os.fork()
    if child == 0:
        alone = types.SimpleNamespace(number=attempt, fences=(), check=lambda: None)
        writer = checkpoint.Writer(parent, 2, alone, "c", "d")
        for step in itertools.count(first):
            writer.submit(step, {"weights": weights + step, "step": np.int64(step)})
    while max(commits.list_steps(parent), default=0) < first:
        time.sleep(0.001)
    time.sleep(pause)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print(*commits.list_steps(parent), flush=True)
"""


def test_sigkill_during_saves_never_leaves_an_invalid_checkpoint(tmp_path):
    rng = random.Random(7)
    pauses = [str(rng.uniform(0, 0.03)) for _ in range(12)]
    done = subprocess.run(
        [sys.executable, "-c", KILLED_WRITER, str(tmp_path), *pauses],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    steps = [[int(word) for word in line.split()] for line in done.stdout.splitlines()]
    assert len(steps) == len(pauses)
    assert all(before[-1] < after[-1] for before, after in zip(steps, steps[1:]))
    for step in commits.list_steps(tmp_path):
        found = checkpoint.load(tmp_path / f"step-{step:08d}")
        assert found.tensors["step"] == step and (found.tensors["weights"] == step).all()
