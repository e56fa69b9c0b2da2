"""The configuration that a run has written down, and what a resume may change of it.

MODEL_DIR/config.json holds every flag of the run, and facts about its beginning (`fine_tuning`).
Its digest covers the flags that affect the result; it is part of every checkpoint. A resume must
not change these flags. It may change all others: folders, cadence, logs, number of workers.
"""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from trainer import config as configuration
from trainer import durable
from trainer.config import Config
from trainer.exit_codes import UsageError

FORMAT = 1

# They affect the result if a schedule runs over the length.
LENGTH = ("epochs", "steps")
# They affect the result if a run may stop early.
SELECTION = ("eval_split", "eval_steps")
# 0, auto or nothing: a resume keeps the value that the first start chose.
CHOSEN_AT_FIRST_START = ("shards", "threads", "fuse", "best_metric")


def affecting(config: Config) -> dict[str, Any]:
    """Returns {flag: value} of the flags that affect the weights at any step, or an early end.

    A flag that came later than the first runs is left out if it has its default.
    """
    values = configuration.to_flat(config)
    fields = configuration.fields()
    names = {name for name, field in fields.items() if field.metadata["result"]}
    if config.optimizer.schedule != "constant":
        names |= set(LENGTH)
    if config.run.early_stop_patience:
        names |= set(SELECTION)
    unused = {
        name
        for name, field in fields.items()
        if field.metadata["later"] and values[name] == field.default
    }
    return {name: value for name, value in values.items() if name in names - unused}


def digest(config: Config) -> str:
    """Returns the sha256 (hex) of `affecting`, as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(affecting(config), sort_keys=True).encode()).hexdigest()


def resumed(config: Config, written: Mapping[str, Any]) -> Config:
    """Returns `config` with the values that the first start of the run chose.

    written: the flags of the run, as `written_in` returns them. Raises UsageError with every flag
    that differs and would change the result.
    """
    kept = {
        name: written[name]
        for name in CHOSEN_AT_FIRST_START
        if configuration.to_flat(config)[name] in (0, "auto", "") and name in written
    }
    config = configuration.replace(config, **kept)
    original = configuration.from_flat(written)
    before, now = affecting(original), affecting(config)
    different = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if different:
        old, new = configuration.to_flat(original), configuration.to_flat(config)
        lines = [
            f"  --{name}: was {configuration.as_text(old[name])}, "
            f"now {configuration.as_text(new[name])}"
            for name in different
        ]
        raise UsageError(
            f"--model_dir={config.folders.model_dir} holds a run with another configuration:\n"
            + "\n".join(lines)
            + "\nA resume must not change what affects the result. Use the old values, or another "
            "--model_dir."
        )
    return config


def to_json(config: Config, facts: Mapping[str, Any] | None = None) -> str:
    """Returns the text of config.json: format version, digest, every flag with its value, facts."""
    document = {"format": FORMAT, "digest": digest(config), "flags": configuration.to_flat(config)}
    return json.dumps(document | dict(facts or {}), indent=2) + "\n"


def write(config: Config, model_dir: pathlib.Path, facts: Mapping[str, Any] | None = None) -> None:
    """Writes MODEL_DIR/config.json; when this returns, it survives a kill and a loss of power.

    No checkpoint can be resumed without it. facts: what the file holds beside the flags.
    """
    durable.replace_file(model_dir / "config.json", to_json(config, facts).encode())


def written_in(model_dir: str | pathlib.Path, flag: str = "model_dir") -> dict[str, Any]:
    """Returns {flag name: value} of the run in `model_dir`, without flags that this version lacks.

    Raises UsageError, which names `flag`, if its config.json cannot be read.
    """
    values, known = _document(model_dir, flag)["flags"], configuration.fields()
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if name in known
    }


def facts_in(model_dir: str | pathlib.Path, flag: str = "model_dir") -> dict[str, Any]:
    """Returns what config.json of the run holds beside the flags. Raises as `written_in`."""
    document = _document(model_dir, flag)
    return {
        name: value for name, value in document.items() if name not in ("format", "digest", "flags")
    }


def _document(model_dir: str | pathlib.Path, flag: str) -> dict[str, Any]:
    path = pathlib.Path(model_dir) / "config.json"
    try:
        document = json.loads(path.read_bytes())
        version, document["flags"] = int(document["format"]), dict(document["flags"])
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"--{flag}={model_dir}: holds no config.json, which `train` writes before anything "
            "else. Name a folder of `train`, or restore the file."
        ) from None
    except (ValueError, KeyError, TypeError) as problem:
        raise UsageError(
            f"{path} cannot be read ({problem!r}): it must be the JSON that `train` wrote. "
            "Restore it, or use another --model_dir."
        ) from None
    if version > FORMAT:
        raise UsageError(
            f"{path} has format {version}: this trainer knows formats up to {FORMAT}. Use the "
            "newer trainer."
        )
    return document
