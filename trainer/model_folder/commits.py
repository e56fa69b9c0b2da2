"""Names and manifests of checkpoints, read without TensorFlow.

    step-00000123.tmp-ATTEMPT/         is being written, or was left behind by a killed attempt
    step-00000123/                     is committed: tensors.index, tensors.data-*, MANIFEST.json
    step-00000123.damaged-ATTEMPT/     was committed, does not match its manifest now, set aside
    step-00000123.superseded-ATTEMPT/  was committed by an attempt after its takeover, set aside

`checkpoint` writes and verifies these folders. A process that only watches a run (the supervisor)
learns from this module which checkpoints the run has.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any, TypedDict

from trainer import durable, sealed
from trainer.exit_codes import DataError
from trainer.model_folder import attempts, journal

FORMAT = 1
MANIFEST = "MANIFEST.json"
PAYLOAD = "tensors"  # Prefix of the files of a TensorFlow bundle.

_COMMITTED = re.compile(r"step-(\d{8,})")
_DAMAGED = re.compile(r"step-\d{8,}\.damaged-.*")
_TEMPORARY = re.compile(r"step-\d{8,}\.tmp-(\d+)")
_FILE = re.compile(rf"{PAYLOAD}\.[\w.-]+", re.ASCII)


class OlderManifest(TypedDict):
    """What every MANIFEST.json holds.

    attempt: the one that committed the checkpoint. files: {name: {"size": bytes, "sha256": hex}}.
    """

    format: int
    step: int
    attempt: int
    state_digest: str
    config_digest: str
    dataset_digest: str
    files: dict[str, dict[str, Any]]


class Manifest(OlderManifest, total=False):
    """The content of MANIFEST.json; older ones lack these keys.

    config: what config.json held. evaluations: the lines of evaluations.jsonl up to the step.
    sha256: the seal (`sealed`).
    """

    config: dict[str, Any]
    evaluations: list[str]
    sha256: str


class Damaged(DataError):
    """A checkpoint that does not match its manifest, or has none. `reason`: what is wrong."""

    def __init__(self, folder: pathlib.Path, reason: str):
        super().__init__(
            f"checkpoint {folder} is damaged: {reason}; a checkpoint is used only as it was "
            "written; restore the folder from a copy, or delete it"
        )
        self.reason = reason


# Names


def name_of(step: int) -> str:
    """Returns the name of the committed checkpoint of `step`."""
    return f"step-{step:08d}"


def folder_of(parent: str | os.PathLike, step: int) -> pathlib.Path:
    """Returns the folder of the committed checkpoint of `step` in `parent`."""
    return pathlib.Path(parent) / name_of(step)


def temporary_of(folder: pathlib.Path, attempt: int) -> pathlib.Path:
    """Returns the name under which `attempt` writes or removes the checkpoint `folder`."""
    return folder.with_name(f"{folder.name}.tmp-{attempt}")


def aside_of(folder: pathlib.Path, why: str, attempt: int) -> pathlib.Path:
    """Returns the name under which `attempt` sets aside `folder`; why: "damaged", "superseded"."""
    return folder.with_name(f"{folder.name}.{why}-{attempt}")


def list_steps(parent: str | os.PathLike) -> list[int]:
    """Returns the steps of the committed folders in `parent`, valid or not, ascending.

    [] if `parent` does not exist.
    """
    found = (_COMMITTED.fullmatch(entry.name) for entry in _entries(parent) if entry.is_dir())
    return sorted(int(match[1]) for match in found if match and match[0] == name_of(int(match[1])))


def leftovers(parent: str | os.PathLike, attempt: int) -> list[pathlib.Path]:
    """Returns the temporary folders of `attempt` and earlier ones in `parent`."""
    found = ((entry, _TEMPORARY.fullmatch(entry.name)) for entry in _entries(parent))
    return [pathlib.Path(entry) for entry, match in found if match and int(match[1]) <= attempt]


def damaged_names(parent: str | os.PathLike) -> list[str]:
    """Returns the names of the damaged checkpoints that were set aside in `parent`."""
    return [entry.name for entry in _entries(parent) if _DAMAGED.fullmatch(entry.name)]


def _entries(parent: str | os.PathLike) -> list[os.DirEntry]:
    # scandir returns the type with the name: an entry that is pruned right afterwards still counts.
    try:
        with os.scandir(parent) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


# Manifests


def read_manifest(folder: pathlib.Path) -> Manifest:
    """Returns the manifest of a committed checkpoint.

    Raises Damaged if there is none or it does not describe this folder, DataError if a newer
    version wrote it, OSError if it cannot be read.
    """
    try:
        text = durable.read_bytes(folder / MANIFEST)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as problem:
        raise Damaged(folder, f"{MANIFEST} is missing") from problem
    try:
        manifest = sealed.read(text, OlderManifest.__annotations__)
        version, files = int(manifest["format"]), dict(manifest["files"])
        described = all(map(_describes_a_file, files.items()))
        step, attempt = manifest["step"], manifest["attempt"]
        digests = [manifest[name] for name in ("state_digest", "config_digest", "dataset_digest")]
    except (ValueError, KeyError, TypeError, OverflowError) as problem:
        raise Damaged(
            folder, f"{MANIFEST} is not a manifest ({type(problem).__name__}: {problem})"
        ) from problem
    if version > FORMAT and sealed.KEY in manifest:
        raise DataError(
            f"{folder} has format {version}; this version reads up to format {FORMAT}; use the "
            "version of the program that wrote it, or a newer one"
        )
    if version != FORMAT:
        raise Damaged(folder, f"{MANIFEST} is not a manifest (of format {str(version)[:20]})")
    if (
        f"{PAYLOAD}.index" not in files
        or not described
        or not all(isinstance(digest, str) for digest in digests)
    ):
        raise Damaged(folder, f"{MANIFEST} does not describe a payload")
    if not _is_count(attempt):
        raise Damaged(folder, f"{MANIFEST} is of attempt {str(attempt)[:200]!r}")
    if not _is_count(step) or name_of(step) != folder.name:
        raise Damaged(folder, f"{MANIFEST} is of step {str(step)[:200]}")
    return manifest


def _describes_a_file(item: tuple[str, Any]) -> bool:
    name, entry = item
    return (
        _FILE.fullmatch(name) is not None
        and _is_count(entry["size"])
        and isinstance(entry["sha256"], str)
    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


# What they say about a run


@dataclasses.dataclass(frozen=True)
class Commit:
    """A committed checkpoint that is part of a run."""

    step: int
    state_digest: str


def manifests(model_dir: str | os.PathLike) -> Iterator[tuple[pathlib.Path, Manifest]]:
    """Yields (folder, manifest) of the checkpoints that have a manifest, the newest first.

    The best ones come after all others. Whether a checkpoint is part of the run is not asked.
    """
    for part in ("checkpoints", "best"):
        parent = pathlib.Path(model_dir) / part
        for step in reversed(_readable_steps(parent)):
            try:
                yield folder_of(parent, step), read_manifest(folder_of(parent, step))
            except (OSError, DataError):
                continue  # It is damaged, or was pruned at this very moment.


def exist(model_dir: str | os.PathLike) -> bool:
    """Returns whether a run has checkpoints, valid or not; False if the folder cannot be read."""
    return bool(_readable_steps(pathlib.Path(model_dir) / "checkpoints"))


def newest(model_dir: str | os.PathLike) -> Commit | None:
    """Returns the newest checkpoint that is part of the run and has a manifest that can be read.

    None if there is none. Only `checkpoint.newest_valid` verifies the payload, too.
    """
    model_dir = pathlib.Path(model_dir)
    fences = attempts.fences(model_dir)
    for folder, manifest in manifests(model_dir):
        step = manifest["step"]
        of_run = folder.parent.name == "checkpoints"
        if of_run and not attempts.superseding(fences, manifest["attempt"], step):
            return Commit(step, manifest["state_digest"])
    return None


def _readable_steps(parent: pathlib.Path) -> list[int]:
    try:
        return list_steps(parent)
    except OSError:
        return []


def finished_line(model_dir: str | os.PathLike, total: int) -> str:
    """Returns the last line of a run that is complete, "" if it is not.

    It is complete if its newest attempt began a run of `total` steps, finished at the step of the
    newest checkpoint (`total`, or earlier by early stopping) and ended with exit code 0. All of
    them are asked, because a line of the journal may be damaged.
    """
    events = [
        event
        for event in journal.read(pathlib.Path(model_dir) / "journal.jsonl")
        if _is_count(event.get("attempt"))
    ]
    newest_attempt = max((event["attempt"] for event in events), default=0)
    of_it = {
        str(event.get("event")): event for event in events if event["attempt"] == newest_attempt
    }
    commit = newest(model_dir)
    if (
        not newest_attempt
        or not commit
        or of_it.get("start", {}).get("total") != total
        or of_it.get("finish", {}).get("step") != commit.step
        or of_it.get("stop", {}).get("code") != 0
    ):
        return ""
    return f"done step={commit.step} state_digest={commit.state_digest}"


def stopped_line(commit: Commit | None) -> str:
    """Returns the last line of a run that was stopped; `commit`: its newest checkpoint."""
    return (
        f"stopped step={commit.step} state_digest={commit.state_digest}"
        if commit
        else "stopped step=0 state_digest=none"
    )
