"""Which checkpoints a model folder has, read from names and manifests alone: for whoever watches a
run without TensorFlow.
"""

import dataclasses
import json
import pathlib
import re

from trainer.model_folder import attempts, journal

_COMMITTED = re.compile(r"step-(\d{8,})")


@dataclasses.dataclass(frozen=True)
class Commit:
    """A committed checkpoint, as its MANIFEST.json describes it."""

    step: int
    state_digest: str


def exist(model_dir) -> bool:
    """Whether a run has checkpoints, readable or not."""
    return bool(_names(model_dir))


def newest(model_dir) -> Commit | None:
    """The newest checkpoint that is part of a run and whose manifest can be read; None where there
    is none.
    """
    model_dir = pathlib.Path(model_dir)
    fences = attempts.fences(model_dir)
    for name in _names(model_dir):
        try:
            manifest = json.loads((model_dir / "checkpoints" / name / "MANIFEST.json").read_bytes())
            if not attempts.superseding(fences, manifest["attempt"], manifest["step"]):
                return Commit(int(manifest["step"]), str(manifest["state_digest"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # Damaged, or pruned at this very moment.
    return None


def _names(model_dir) -> list[str]:
    """Of the folders of committed checkpoints, newest first."""
    try:
        names = [entry.name for entry in (pathlib.Path(model_dir) / "checkpoints").iterdir()]
    except OSError:
        return []
    return sorted(
        filter(_COMMITTED.fullmatch, names),
        key=lambda name: int(name.removeprefix("step-")),
        reverse=True,
    )


def finished_line(model_dir, total: int) -> str:
    """The last line of a run whose newest attempt came to its end, step `total` or an early stop
    before it; "" of any other.
    """
    events = [
        event
        for event in journal.read(pathlib.Path(model_dir) / "journal.jsonl")
        if event.get("attempt")
    ]
    newest_attempt = max((event["attempt"] for event in events), default=0)
    of_it = {event.get("event"): event for event in events if event["attempt"] == newest_attempt}
    commit = newest(model_dir)
    if (
        not commit
        or of_it.get("start", {}).get("total") != total
        or of_it.get("stop", {}).get("code") != 0
    ):
        return ""
    return f"done step={commit.step} state_digest={commit.state_digest}"


def stopped_line(commit: Commit | None) -> str:
    """The last line of a run that was stopped and leaves `commit` behind."""
    return (
        f"stopped step={commit.step} state_digest={commit.state_digest}"
        if commit
        else "stopped step=0 state_digest=none"
    )
