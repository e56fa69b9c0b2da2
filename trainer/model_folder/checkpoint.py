"""A checkpoint folder exists whole or not at all, and says itself whether it is still whole.

    step-00000123.tmp-ATTEMPT/        being written (or left behind by a killed attempt)
    step-00000123/                    committed: tensors.index, tensors.data-*, MANIFEST.json
    step-00000123.damaged-ATTEMPT/    was committed, no longer holds what its manifest says, set
        aside
    step-00000123.superseded-ATTEMPT/ was committed by an attempt that had been taken over, set
        aside

The payload is a TensorFlow bundle under logical names. MANIFEST.json has the size and sha256 of
every file, and the digest of the state. There is no pointer to the newest checkpoint that could be
damaged: discovery lists the folders, newest first, and takes the first one that verifies and that
no later attempt went on without (`attempts.Fence`).
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
import time
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from trainer import durable
from trainer.exit_codes import DataError, DivergedError, FolderInUseError, StorageError
from trainer.model_folder import attempts

log = logging.getLogger(__name__)

FORMAT = 1
MANIFEST = "MANIFEST.json"
PAYLOAD = "tensors"
DTYPES = ("float32", "float64", "int64")
RETRY_PAUSES = (0.5, 1.0, 2.0, 4.0)  # seconds; a save may hold up a stop by their sum

_COMMITTED = re.compile(r"step-(\d{8,})")
_DAMAGED = re.compile(r"step-\d{8,}\.damaged-.*")
_TEMPORARY = re.compile(r"step-\d{8,}\.tmp-(\d+)")


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """A verified checkpoint: `tensors` maps logical names to NumPy arrays, `manifest` is
    MANIFEST.json.
    """

    step: int
    path: pathlib.Path
    manifest: dict
    tensors: Mapping[str, np.ndarray]


class _Damaged(DataError):
    """A folder that is not what its manifest says, or has none."""

    def __init__(self, folder, reason):
        super().__init__(
            f"checkpoint {folder} is damaged: {reason}; a checkpoint is used only as it was "
            "written; "
            f"restore the folder from a copy, or delete it"
        )
        self.reason = reason


def state_digest(tensors):
    """Returns the sha256 (hex) of a state: equal if and only if names, dtypes, shapes and all bits
    are equal.

    `tensors` maps names to float32, float64 or int64 arrays. Sorted by UTF-8 name, each goes in as
    `name NUL dtype NUL d0,d1 NUL` and its little-endian bytes in C order. Raises TypeError for
    another dtype.
    """
    digest = hashlib.sha256()
    for name, array in sorted(_checked(tensors).items(), key=lambda item: item[0].encode()):
        digest.update(f"{name}\0{array.dtype.name}\0{','.join(map(str, array.shape))}\0".encode())
        digest.update(array.astype(array.dtype.newbyteorder("<"), order="C", copy=False).tobytes())
    return digest.hexdigest()


def commit(parent, step, tensors, *, held, config_digest, dataset_digest):
    """Writes `parent/step-%08d` whole or not at all and returns its manifest.

    When this returns, the checkpoint survives a kill and a loss of power, and is part of the run. A
    valid folder of this step is never written twice: with the same state its manifest is returned.
    A damaged one is set aside first, and so is one that an attempt committed after it had been
    taken over. `held` is the `lock.Held` of the model folder: its attempt is the only one who
    writes to `parent`, temporary folders there are leftovers of earlier ones and are removed.

    Raises StorageError when writing still fails after retries, DivergedError where a tensor holds
    NaN or Inf (such a state never becomes a checkpoint), FolderInUseError where a valid checkpoint
    of this step holds another state, and TakenOverError where `held` is held no longer: what was
    written then counts for nobody.
    """
    parent = pathlib.Path(parent)
    tensors = _checked(tensors)
    _refuse_non_finite(step, tensors)
    manifest = {
        "format": FORMAT,
        "step": int(step),
        "attempt": held.number,
        "state_digest": state_digest(tensors),
        "config_digest": config_digest,
        "dataset_digest": dataset_digest,
        "files": {},
    }
    folder = folder_of(parent, step)
    return _retrying("written", folder, lambda: _put(folder, manifest, tensors, held))


class Writer:
    """Commits snapshots of the state from a background thread, in order, and prunes after each
    commit.

    One save is under way at a time: `submit` returns at once unless the one before is still
    running. A failed save is logged when it fails, raised by every later `submit` and `wait`, and
    by the end of a `with` block.
    """

    def __init__(
        self,
        parent,
        keep,
        held,
        config_digest,
        dataset_digest,
        on_saved=lambda manifest, seconds: None,
    ):
        """`keep`: how many of the newest checkpoints stay; 0: all. `held`: as for `commit`.
        `on_saved(manifest, seconds)` is called in the background thread after each commit.
        """
        self._parent = pathlib.Path(parent)
        self._keep = keep
        self._held = held
        self._digests = {"config_digest": config_digest, "dataset_digest": dataset_digest}
        self._on_saved = on_saved
        self._thread = concurrent.futures.ThreadPoolExecutor(
            max_workers=1, thread_name_prefix="checkpoint"
        )
        self._save_under_way = None

    def submit(self, step, tensors):
        """Starts to save `tensors` (logical name -> NumPy array); the arrays must not change any
        more.

        Raises what a failed earlier save raised: StorageError, DivergedError, FolderInUseError or
        TakenOverError.
        """
        self.wait()
        self._save_under_way = self._thread.submit(self._save, step, tensors)

    def wait(self):
        """Returns when everything submitted is committed; raises what a failed save raised."""
        if self._save_under_way is not None:
            self._save_under_way.result()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self._thread.shutdown(wait=True)
        if kind is None:  # else the error under way is the news, and a failed save is in the log
            self.wait()

    def _save(self, step, tensors):
        began = time.monotonic()
        try:
            manifest = commit(self._parent, step, tensors, held=self._held, **self._digests)
        except Exception as problem:
            log.error("checkpoint of step %d was not saved: %s", step, problem)
            raise
        _prune(self._parent, self._keep, step, self._held)
        self._on_saved(manifest, time.monotonic() - began)


def list_steps(parent):
    """Returns the steps of the committed folders in `parent`, ascending, valid or not; [] where
    there is none.
    """
    found = (_COMMITTED.fullmatch(entry.name) for entry in _entries(parent) if entry.is_dir())
    return sorted(int(match[1]) for match in found if match and match[0] == _name(int(match[1])))


def newest_valid(parent, *, fences, repair, attempt=None):
    """Returns the newest Checkpoint of `parent` that verifies and is part of the run, or None where
    there has never been one.

    `fences` (`attempts.fences` of the model folder) tell what is not part of it: that is left out
    with a warning. Falls back over damaged folders with a warning that names each, the reason and
    the steps lost. With `repair` (the caller holds the lock of the model folder, `attempt` is its
    number) they are set aside, so that their step can be written again. A live trainer may prune at
    the same time: a folder that vanishes is not damage, we look again.

    Raises DataError where there are checkpoints and none is valid, StorageError where they cannot
    be read.
    """
    parent = pathlib.Path(parent)
    damaged = {}
    checkpoint = _first_valid(parent, fences, damaged)
    if checkpoint is None:
        _refuse_to_start_over(parent, damaged)
        return None
    for step, reason in damaged.items():
        where = (
            f"renamed to {_set_aside(folder_of(parent, step), 'damaged', attempt).name}"
            if repair
            else "left in place"
        )
        log.warning(
            "checkpoint %s is damaged (%s): falling back to step %d, %d steps are lost; the folder "
            "is %s",
            folder_of(parent, step),
            reason,
            checkpoint.step,
            step - checkpoint.step,
            where,
        )
    return checkpoint


def load(path):
    """Reads and verifies the one checkpoint in the folder `path`: sizes, sha256, payload and digest
    of the state.

    Raises DataError with the reason where it is damaged or written by a newer version, StorageError
    where it cannot be read.
    """
    path = pathlib.Path(path)
    return _retrying("read", path, lambda: _load(path))


def folder_of(parent, step):
    """The folder of the checkpoint of `step` in `parent`."""
    return pathlib.Path(parent) / _name(step)


def _name(step):
    return f"step-{step:08d}"


def _entries(parent):
    # scandir: what an entry is comes with the listing, so that one pruned right after it still
    # counts as seen.
    try:
        with os.scandir(parent) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def _checked(tensors):
    arrays = {name: np.asarray(value) for name, value in tensors.items()}
    for name, array in arrays.items():
        if array.dtype.name not in DTYPES:
            raise TypeError(
                f"tensor {name!r} is {array.dtype}; a checkpoint holds {', '.join(DTYPES)}; "
                f"convert it without loss before saving and back after restoring"
            )
    return arrays


def _refuse_non_finite(step, tensors):
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            count = array.size - np.count_nonzero(np.isfinite(array))
            raise DivergedError(
                f"tensor {name!r} has {count} NaN or Inf at step {step}; such a state is never "
                "saved, "
                f"the checkpoints before are whole; lower --learning_rate or --clip_norm"
            )


def _retrying(verb, path, action):
    """Returns `action()`; where storage fails it is tried again after growing pauses, then
    StorageError.
    """
    for pause in (*RETRY_PAUSES, None):
        try:
            return action()
        except (OSError, tf.errors.OpError) as problem:
            # TensorFlow puts the name of a graph node before it
            reason = re.sub(r"\{\{.*?\}\} ", "", str(problem))
            if pause is None:
                raise StorageError(
                    f"{path} could not be {verb} in {len(RETRY_PAUSES) + 1} tries: {reason}; the "
                    "storage must work for the run to go on; check free space, permissions and "
                    "the "
                    f"mount, then run the same command again"
                ) from problem
            log.warning("%s could not be %s (%s): next try in %g s", path, verb, reason, pause)
            time.sleep(pause)


# Writing


def _put(folder, manifest, tensors, held):
    found = _present(folder, manifest["state_digest"], held) or _write(
        folder, manifest, tensors, held
    )
    # Once more: who was frozen before the rename and taken over must not believe that the state is
    # saved.
    held.check()
    return found


def _present(folder, digest, held):
    """Returns the manifest of `folder` if it is valid and holds the state; sets it aside if it is
    damaged or superseded.
    """
    if not folder.exists():
        return None
    try:
        manifest = load(folder).manifest
    except _Damaged as problem:
        aside = _set_aside(folder, "damaged", held.number)
        log.warning("%s; it is renamed to %s and written again", problem, aside.name)
        return None
    if fence := _superseding(manifest, held.fences):
        aside = _set_aside(folder, "superseded", held.number)
        log.warning(
            "%s; it is renamed to %s and written again",
            _not_part(folder, manifest, fence),
            aside.name,
        )
        return None
    if manifest["state_digest"] != digest:
        held.check()
        raise FolderInUseError(
            f"{folder} is a valid checkpoint of attempt {manifest['attempt']} with state "
            f"{manifest['state_digest']}, "
            f"this run (attempt {held.number}) came to {digest}; a valid checkpoint is never "
            "overwritten; either two runs "
            "write to this folder (stop one), or the step does not repeat bit for bit (delete the "
            "folder)"
        )
    return manifest


def _write(folder, manifest, tensors, held):
    temporary = folder.with_name(f"{folder.name}.tmp-{held.number}")
    durable.make_folder(folder.parent)
    _remove_temporary(folder.parent, held.number)
    try:
        temporary.mkdir()
        _save_bundle(temporary / PAYLOAD, tensors)
        files = {path.name: _describe(path) for path in sorted(temporary.iterdir())}
        manifest = {**manifest, "files": files}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        durable.sync_tree(temporary)
        # Between sync and rename: the sync may take minutes, in which another attempt takes over.
        held.check()
        durable.rename(temporary, folder)
    except (OSError, tf.errors.OpError):
        shutil.rmtree(temporary, ignore_errors=True)  # a full disk needs the space
        raise
    return manifest


def _save_bundle(prefix, tensors):
    names = sorted(tensors)
    with tf.device("CPU:0"):
        tf.raw_ops.SaveV2(
            prefix=str(prefix),
            tensor_names=names,
            shape_and_slices=[""] * len(names),
            tensors=[tf.constant(tensors[name]) for name in names],
        )


def _describe(path):
    return {"size": path.stat().st_size, "sha256": durable.sha256(path)}


def _set_aside(folder, why, attempt):
    """Renames a damaged or superseded folder and returns its new path; of two from one attempt the
    first is kept.
    """
    aside = folder.with_name(f"{folder.name}.{why}-{attempt}")
    _retrying(
        "set aside",
        folder,
        lambda: shutil.rmtree(folder) if aside.exists() else folder.rename(aside),
    )
    return aside


def _prune(parent, keep, newest, held):
    """Removes all but the newest `keep` (0: all stay) of the checkpoints up to step `newest`, which
    is valid.

    Those that are not part of the run go first: they must not take the place of one that is.
    """
    steps = [step for step in list_steps(parent) if step <= newest]
    foreign = [step for step in steps if _is_superseded(folder_of(parent, step), held.fences)]
    own = [step for step in steps if step not in foreign]
    for step in foreign + (own[:-keep] if keep else []):
        discard(folder_of(parent, step), held.number)


def discard(folder, attempt):
    """Removes a checkpoint; a failure is logged, since nothing depends on the space."""
    # Renamed first: a kill inside rmtree must not leave half a folder under a committed name.
    temporary = folder.with_name(f"{folder.name}.tmp-{attempt}")
    try:
        folder.rename(temporary)
        shutil.rmtree(temporary)
    except OSError as problem:
        log.warning("checkpoint %s could not be removed: %s", folder, problem)


def _remove_temporary(parent, attempt):
    # Not of later attempts: where there is one, this process just does not know yet that it was
    # taken over.
    for entry in _entries(parent):
        if (match := _TEMPORARY.fullmatch(entry.name)) and int(match[1]) <= attempt:
            shutil.rmtree(entry.path, ignore_errors=True)


# Reading


def _first_valid(parent, fences, damaged):
    """Returns the newest valid checkpoint or None; fills `damaged` with step -> reason of those
    above it.
    """
    foreign = set()
    while steps := [
        step for step in list_steps(parent) if step not in foreign and step not in damaged
    ]:
        folder = folder_of(parent, steps[-1])
        try:
            checkpoint = load(folder)
            fence = _superseding(checkpoint.manifest, fences)
            if not fence:
                return checkpoint
            log.warning("%s; it is left out", _not_part(folder, checkpoint.manifest, fence))
            foreign.add(steps[-1])
        except _Damaged as problem:
            if folder.exists():  # else it was pruned while we read: look again
                damaged[steps[-1]] = problem.reason
    return None


def _superseding(manifest, fences):
    """The fence that leaves the checkpoint out of the run; None where it is part of it."""
    return attempts.superseding(fences, manifest["attempt"], manifest["step"])


def _is_superseded(folder, fences):
    try:
        return bool(fences and _superseding(_read_manifest(folder), fences))
    except DataError:  # Whatever it is, it is not known to be foreign.
        return False


def _not_part(folder, manifest, fence):
    return (
        f"checkpoint {folder} is not part of this run: attempt {manifest['attempt']} committed it, "
        f"and attempt {fence.attempt} "
        f"went on from step {fence.step} without it"
    )


def _refuse_to_start_over(parent, damaged):
    reasons = [f"{_name(step)}: {reason}" for step, reason in damaged.items()]
    reasons += [
        f"{entry.name}: set aside before"
        for entry in _entries(parent)
        if _DAMAGED.fullmatch(entry.name)
    ]
    if reasons:
        raise DataError(
            f"no checkpoint in {parent} is valid ({'; '.join(reasons)}); a run that has "
            "checkpoints never "
            f"starts over by itself; restore one of them from a copy, or delete {parent} to start "
            "anew"
        )


def _load(path):
    manifest = _read_manifest(path)
    for name, entry in manifest["files"].items():
        _verify(path, name, entry)
    tensors = _read_bundle(path)
    try:
        digest = state_digest(tensors)
    except TypeError as problem:
        raise _Damaged(path, str(problem)) from problem
    if digest != manifest["state_digest"]:
        raise _Damaged(
            path,
            f"its tensors have the digest {digest}, the manifest says {manifest['state_digest']}",
        )
    return Checkpoint(manifest["step"], path, manifest, tensors)


def _read_manifest(path):
    text = _on_missing(path, MANIFEST, lambda file: file.read_bytes())
    try:
        manifest = json.loads(text)
        if manifest["format"] > FORMAT:
            raise DataError(
                f"{path} has format {manifest['format']}; this version reads up to format "
                f"{FORMAT}; "
                f"use the version of the program that wrote it, or a newer one"
            )
        files = {
            name: (entry["size"], entry["sha256"]) for name, entry in manifest["files"].items()
        }
        step, attempt, digest = manifest["step"], manifest["attempt"], manifest["state_digest"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise _Damaged(
            path, f"{MANIFEST} is not a manifest ({type(problem).__name__}: {problem})"
        ) from problem
    if (
        f"{PAYLOAD}.index" not in files
        or any("/" in name for name in files)
        or not isinstance(digest, str)
    ):
        raise _Damaged(path, f"{MANIFEST} does not describe a payload")
    if not isinstance(attempt, int):
        raise _Damaged(path, f"{MANIFEST} is of attempt {attempt!r}")
    if not isinstance(step, int) or _name(step) != path.name:
        raise _Damaged(path, f"{MANIFEST} is of step {step}")
    return manifest


def _verify(path, name, entry):
    size = _on_missing(path, name, lambda file: file.stat().st_size)
    if size != entry["size"]:
        raise _Damaged(path, f"{name} has {size} bytes, the manifest says {entry['size']}")
    if _on_missing(path, name, durable.sha256) != entry["sha256"]:
        raise _Damaged(path, f"{name} has another sha256 than the manifest says")


def _on_missing(path, name, read):
    try:
        return read(path / name)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as problem:
        raise _Damaged(path, f"{name} is missing") from problem


def _read_bundle(path):
    try:
        reader = tf.train.load_checkpoint(str(path / PAYLOAD))
        return {
            name: np.asarray(reader.get_tensor(name)) for name in reader.get_variable_to_shape_map()
        }
    # TensorFlow raises five unrelated types for a bundle that it cannot read
    except Exception as problem:
        raise _Damaged(
            path, f"TensorFlow cannot read its payload ({type(problem).__name__}: {problem})"
        ) from problem
