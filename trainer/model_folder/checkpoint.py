"""Checkpoints that exist complete or not at all, and that can be verified by their own content.

The payload is a TensorFlow bundle under logical names. MANIFEST.json has the size and sha256 of
every file, the digest of the state and its own. It also holds what a resume needs beside the state:
the configuration and the evaluations up to the step, so that no damage of the files of the run
changes what a resume does. `commits` lists the names of the folders.

No file points to the newest checkpoint, so no pointer can be damaged. A reader lists the folders,
newest first, and takes the first one that verifies and that is part of the run: no later attempt
continued without it (`attempts.Fence`).
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
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from trainer import durable, sealed
from trainer.exit_codes import DataError, DivergedError, FolderInUseError, StorageError
from trainer.model_folder import attempts, commits, lock
from trainer.model_folder.commits import (
    FORMAT,
    MANIFEST,
    PAYLOAD,
    Damaged,
    Manifest,
    folder_of,
    list_steps,
)

log = logging.getLogger(__name__)

DTYPES = ("float32", "float64", "int64")
RETRY_PAUSES = (0.5, 1.0, 2.0, 4.0)  # Seconds; a save may delay a stop by their sum.

Tensors = Mapping[str, np.ndarray]  # Logical name -> array of one of DTYPES.
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """A verified checkpoint in the folder `path`; `manifest` is the content of MANIFEST.json."""

    step: int
    path: pathlib.Path
    manifest: Manifest
    tensors: Tensors


def state_digest(tensors: Tensors) -> str:
    """Returns the sha256 (hex) of a state.

    It is equal if and only if names, dtypes, shapes and all bits are equal. `tensors` maps names to
    float32, float64 or int64 arrays. Sorted by UTF-8 name, each is hashed as
    `name NUL dtype NUL d0,d1 NUL` and its little-endian bytes in C order. Raises TypeError for
    another dtype.
    """
    digest = hashlib.sha256()
    for name, array in sorted(_checked(tensors).items(), key=lambda item: item[0].encode()):
        digest.update(f"{name}\0{array.dtype.name}\0{','.join(map(str, array.shape))}\0".encode())
        digest.update(array.astype(array.dtype.newbyteorder("<"), order="C", copy=False).tobytes())
    return digest.hexdigest()


def commit(
    parent: str | os.PathLike,
    step: int,
    tensors: Tensors,
    *,
    held: lock.Hold,
    config_digest: str,
    dataset_digest: str,
    config: Mapping[str, Any] | None = None,
    evaluations: Sequence[str] | None = None,
) -> Manifest:
    """Writes `parent/step-%08d` completely or not at all and returns its manifest.

    config: what config.json holds. evaluations: the lines of evaluations.jsonl up to `step`.

    When this returns, the checkpoint survives a kill and a loss of power, and is part of the run. A
    valid checkpoint of this step is never overwritten: if it has the same state, its manifest is
    returned. A damaged one is set aside first, and so is one that an attempt committed after its
    takeover. Only the attempt that holds the model folder (`held`) writes to `parent`; temporary
    folders of earlier attempts are removed.

    Raises StorageError if writing still fails after retries; DivergedError if a tensor has NaN or
    Inf (such a state never becomes a checkpoint); FolderInUseError if a valid checkpoint of this
    step has another state; TakenOverError if a later attempt has taken the folder over: then the
    checkpoint is not part of the run, even if it was written.
    """
    parent = pathlib.Path(parent)
    tensors = _checked(tensors)
    _refuse_non_finite(step, tensors)
    manifest = Manifest(
        format=FORMAT,
        step=int(step),
        attempt=held.number,
        state_digest=state_digest(tensors),
        config_digest=config_digest,
        dataset_digest=dataset_digest,
        files={},
    )
    if config is not None:
        manifest["config"] = dict(config)
    if evaluations is not None:
        manifest["evaluations"] = list(evaluations)
    folder = folder_of(parent, step)
    return _retrying("written", folder, lambda: _put(folder, manifest, tensors, held))


class Writer:
    """Commits snapshots of the state in a background thread, in order, and prunes after each.

    One save runs at a time: `submit` returns at once unless the save before is still running. A
    failed save is logged when it fails. Every later `submit` and `wait` raises it, and so does the
    end of a `with` block.
    """

    def __init__(
        self,
        parent: str | os.PathLike,
        keep: int,
        held: lock.Hold,
        config_digest: str,
        dataset_digest: str,
        config: Mapping[str, Any] | None = None,
        on_saved: Callable[[Manifest, float], None] = lambda manifest, seconds: None,
    ):
        """
        Args:
          keep: how many of the newest checkpoints stay; 0: all.
          held, config: as for `commit`.
          on_saved: called with the manifest and the seconds that the save took, in the background
            thread after each commit.
        """
        self._parent = pathlib.Path(parent)
        self._keep = keep
        self._held = held
        self._of_run = {
            "config_digest": config_digest,
            "dataset_digest": dataset_digest,
            "config": config,
        }
        self._on_saved = on_saved
        self._thread = concurrent.futures.ThreadPoolExecutor(
            max_workers=1, thread_name_prefix="checkpoint"
        )
        self._running_save: concurrent.futures.Future | None = None

    def submit(self, step: int, tensors: Tensors, evaluations: Sequence[str] | None = None) -> None:
        """Starts to save `tensors`; the arrays must not change any more.

        evaluations: as for `commit`.

        Raises the error of an earlier save: StorageError, DivergedError, FolderInUseError or
        TakenOverError.
        """
        self.wait()
        self._running_save = self._thread.submit(self._save, step, tensors, evaluations)

    def wait(self) -> None:
        """Returns when everything submitted is committed; raises the error of a failed save."""
        if self._running_save is not None:
            self._running_save.result()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown(wait=True)
        if kind is None:  # Otherwise that error matters more; a failed save is in the log.
            self.wait()

    def _save(self, step: int, tensors: Tensors, evaluations: Sequence[str] | None) -> None:
        began = time.monotonic()
        try:
            manifest = commit(
                self._parent,
                step,
                tensors,
                held=self._held,
                evaluations=evaluations,
                **self._of_run,
            )
        except Exception as problem:
            log.error("checkpoint of step %d was not saved: %s", step, problem)
            raise
        _prune(self._parent, self._keep, step, self._held)
        self._on_saved(manifest, time.monotonic() - began)


def newest_valid(
    parent: str | os.PathLike,
    *,
    fences: Iterable[attempts.Fence],
    repair: bool,
    attempt: int | None = None,
) -> Checkpoint | None:
    """Returns the newest Checkpoint of `parent` that verifies and is part of the run.

    None if there has never been a checkpoint. A checkpoint beyond one of `fences` (those of the
    model folder, `attempts.fences`) is not part of the run and is skipped with a warning. A damaged
    one is skipped with a warning that has its name, the reason and the number of steps lost. With
    `repair` it is also set aside, so that its step can be written again; the caller must hold the
    model folder as `attempt`. If a live trainer prunes a folder meanwhile, that is not damage: the
    search starts again.

    Raises DataError if there are checkpoints and none is valid, StorageError if they cannot be
    read.
    """
    parent = pathlib.Path(parent)
    if repair:
        remove_leftovers(parent, attempt)
    checkpoint, damaged = _first_valid(parent, tuple(fences))
    if checkpoint is None:
        _refuse_to_start_over(parent, damaged)
        return None
    for step, reason in damaged.items():
        outcome = (
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
            outcome,
        )
    return checkpoint


def load(path: str | os.PathLike) -> Checkpoint:
    """Returns the checkpoint in the folder `path`, verified: sizes, sha256, payload and digest.

    Raises DataError if it is damaged or a newer version wrote it, StorageError if it cannot be
    read.
    """
    path = pathlib.Path(path)
    return _retrying("read", path, lambda: _load(path))


def _checked(tensors: Tensors) -> dict[str, np.ndarray]:
    arrays = {name: np.asarray(value) for name, value in tensors.items()}
    for name, array in arrays.items():
        if array.dtype.name not in DTYPES:
            raise TypeError(
                f"tensor {name!r} is {array.dtype}; a checkpoint holds {', '.join(DTYPES)}; "
                "convert it without loss before saving and back after restoring"
            )
    return arrays


def _refuse_non_finite(step: int, tensors: Tensors) -> None:
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            count = array.size - np.count_nonzero(np.isfinite(array))
            raise DivergedError(
                f"tensor {name!r} has {count} NaN or Inf at step {step}; such a state is never "
                "saved, the earlier checkpoints are valid; lower --learning_rate or --clip_norm"
            )


def _retrying(verb: str, path: pathlib.Path, action: Callable[[], Result]) -> Result:
    """Returns `action()`; if storage fails, tries again after longer and longer pauses.

    Raises StorageError if the last try fails, too; it tells the first failure, from which later
    ones may only follow.
    """
    first = None
    for pause in (*RETRY_PAUSES, None):
        try:
            return action()
        except (OSError, tf.errors.OpError) as problem:
            # TensorFlow puts the name of a graph node before its message.
            reason = re.sub(r"\{\{.*?\}\} ", "", str(problem))
            first = first or reason
            if pause is None:
                raise StorageError(
                    f"{path} could not be {verb} in {len(RETRY_PAUSES) + 1} tries: {first}; the "
                    "run cannot continue without storage; check free space, permissions and the "
                    "mount, then run the same command again"
                ) from problem
            log.warning("%s could not be %s (%s): next try in %g s", path, verb, reason, pause)
            time.sleep(pause)


# Writing


def _put(folder: pathlib.Path, manifest: Manifest, tensors: Tensors, held: lock.Hold) -> Manifest:
    found = _present(folder, manifest["state_digest"], held)
    if found:
        durable.sync(folder.parent)  # A try before may have failed between the name and its sync.
    else:
        found = _write(folder, manifest, tensors, held)
    # Once more: if this process was frozen before the rename and the folder was taken over, it must
    # not report the state as saved.
    held.check()
    return found


def _present(folder: pathlib.Path, digest: str, held: lock.Hold) -> Manifest | None:
    """Returns the manifest of `folder` if it is valid and has this state.

    None if there is no such folder. A damaged or superseded one is set aside.
    """
    if not folder.exists():
        return None
    try:
        manifest = load(folder).manifest
    except Damaged as problem:
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
            f"{manifest['state_digest']}, but this run (attempt {held.number}) has {digest}; a "
            "valid checkpoint is never overwritten; either two runs write to this folder (stop "
            "one), or the step does not repeat bit for bit (delete the folder)"
        )
    return manifest


def _write(folder: pathlib.Path, manifest: Manifest, tensors: Tensors, held: lock.Hold) -> Manifest:
    temporary = commits.temporary_of(folder, held.number)
    durable.make_folder(folder.parent)
    remove_leftovers(folder.parent, held.number)
    try:
        temporary.mkdir()
        _save_bundle(temporary / PAYLOAD, tensors)
        files = {path.name: _describe(path) for path in sorted(temporary.iterdir())}
        manifest = sealed.seal({**manifest, "files": files})
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        durable.sync_tree(temporary)
        # Between sync and rename: a slow sync leaves time for a takeover.
        held.check()
        durable.rename(temporary, folder)
    except (OSError, tf.errors.OpError):
        shutil.rmtree(temporary, ignore_errors=True)  # A full disk needs the space.
        raise
    return manifest


def _save_bundle(prefix: pathlib.Path, tensors: Tensors) -> None:
    names = sorted(tensors)
    with tf.device("CPU:0"):
        tf.raw_ops.SaveV2(
            prefix=str(prefix),
            tensor_names=names,
            shape_and_slices=[""] * len(names),
            tensors=[tf.constant(tensors[name]) for name in names],
        )


def _describe(path: pathlib.Path) -> dict[str, int | str]:
    return {"size": path.stat().st_size, "sha256": durable.sha256(path)}


def _set_aside(folder: pathlib.Path, why: str, attempt: int) -> pathlib.Path:
    """Renames a damaged or superseded folder and returns its new path.

    If this attempt has set aside another one of this step before, the first is kept.
    """
    aside = commits.aside_of(folder, why, attempt)
    _retrying(
        "set aside",
        folder,
        lambda: shutil.rmtree(folder) if aside.exists() else folder.rename(aside),
    )
    return aside


def _prune(parent: pathlib.Path, keep: int, newest: int, held: lock.Hold) -> None:
    """Removes all but the newest `keep` (0: all stay) of the checkpoints up to step `newest`.

    `newest` is valid. Checkpoints that are not part of the run do not count and are removed.
    """
    steps = [step for step in list_steps(parent) if step <= newest]
    foreign = [step for step in steps if _is_superseded(folder_of(parent, step), held.fences)]
    own = [step for step in steps if step not in foreign]
    for step in foreign + (own[:-keep] if keep else []):
        discard(folder_of(parent, step), held.number)


def remove_leftovers(parent: pathlib.Path, attempt: int) -> None:
    """Removes what killed attempts up to `attempt`, which holds the folder, left half written.

    Leftovers of later attempts stay: if there are any, this process was taken over and does not
    know it yet.
    """
    for leftover in commits.leftovers(parent, attempt):
        shutil.rmtree(leftover, ignore_errors=True)


def discard(folder: pathlib.Path, attempt: int) -> None:
    """Removes a checkpoint; a failure is only logged, because nothing depends on the space."""
    # Renamed first: a kill inside rmtree must not leave half a folder under a committed name.
    temporary = commits.temporary_of(folder, attempt)
    try:
        folder.rename(temporary)
        shutil.rmtree(temporary)
    except OSError as problem:
        log.warning("checkpoint %s could not be removed: %s", folder, problem)


# Reading


def _first_valid(
    parent: pathlib.Path, fences: tuple[attempts.Fence, ...]
) -> tuple[Checkpoint | None, dict[int, str]]:
    """Returns the newest valid checkpoint or None, and {step: reason} of damaged ones above it."""
    damaged: dict[int, str] = {}
    foreign = set()
    while steps := [
        step for step in list_steps(parent) if step not in foreign and step not in damaged
    ]:
        folder = folder_of(parent, steps[-1])
        try:
            checkpoint = load(folder)
            fence = _superseding(checkpoint.manifest, fences)
            if not fence:
                return checkpoint, damaged
            log.warning("%s; it is skipped", _not_part(folder, checkpoint.manifest, fence))
            foreign.add(steps[-1])
        except Damaged as problem:
            if folder.exists():  # Otherwise it was pruned while we read: look again.
                damaged[steps[-1]] = problem.reason
    return None, damaged


def _superseding(manifest: Manifest, fences: Iterable[attempts.Fence]) -> attempts.Fence | None:
    """Returns the fence that excludes the checkpoint; None if it is part of the run."""
    return attempts.superseding(fences, manifest["attempt"], manifest["step"])


def _is_superseded(folder: pathlib.Path, fences: tuple[attempts.Fence, ...]) -> bool:
    try:
        return bool(fences and _superseding(commits.read_manifest(folder), fences))
    except DataError:  # Nothing proves that it is foreign.
        return False


def _not_part(folder: pathlib.Path, manifest: Manifest, fence: attempts.Fence) -> str:
    return (
        f"checkpoint {folder} is not part of this run: attempt {manifest['attempt']} committed it, "
        f"and attempt {fence.attempt} continued from step {fence.step} without it"
    )


def _refuse_to_start_over(parent: pathlib.Path, damaged: Mapping[int, str]) -> None:
    reasons = [f"{commits.name_of(step)}: {reason}" for step, reason in damaged.items()]
    reasons += [f"{name}: set aside before" for name in commits.damaged_names(parent)]
    if reasons:
        raise DataError(
            f"no checkpoint in {parent} is valid ({'; '.join(reasons)}); a run that has "
            "checkpoints is never started over; restore one of them from a copy, or delete "
            f"{parent} to start over"
        )


def _load(path: pathlib.Path) -> Checkpoint:
    manifest = commits.read_manifest(path)
    for name, entry in manifest["files"].items():
        try:
            _verify(path, name, entry)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as problem:
            raise Damaged(path, f"{name} is missing") from problem
    tensors = _read_bundle(path)
    try:
        digest = state_digest(tensors)
    except TypeError as problem:
        raise Damaged(path, str(problem)) from problem
    if digest != manifest["state_digest"]:
        raise Damaged(
            path,
            f"its tensors have the digest {digest}, its manifest has {manifest['state_digest']}",
        )
    return Checkpoint(manifest["step"], path, manifest, tensors)


def _verify(path: pathlib.Path, name: str, entry: Mapping) -> None:
    size = (path / name).stat().st_size
    if size != entry["size"]:
        raise Damaged(path, f"{name} has {size} bytes, its manifest has {entry['size']}")
    if durable.sha256(path / name) != entry["sha256"]:
        raise Damaged(path, f"{name} has another sha256 than its manifest")


def _read_bundle(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        # TensorFlow takes the path for a pattern, in which [ ] * ? and a backslash have a meaning.
        # The number of the open folder has none of them.
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            reader = tf.train.load_checkpoint(f"/proc/self/fd/{descriptor}/{PAYLOAD}")
            names = reader.get_variable_to_shape_map()
            return {name: np.asarray(reader.get_tensor(name)) for name in names}
        finally:
            os.close(descriptor)
    # TensorFlow raises five unrelated types for a bundle that it cannot read.
    except Exception as problem:
        if not (path / f"{PAYLOAD}.index").exists():
            raise Damaged(path, "its payload was removed while it was read") from problem
        # Sizes and hashes were right, so the files are as they were written.
        raise DataError(
            f"{path}: TensorFlow cannot read its payload ({type(problem).__name__}: {problem}), "
            "although size and sha256 of every file are right, so nothing is damaged. Check the "
            "free memory and that this TensorFlow is not older than the one that wrote it."
        ) from problem
