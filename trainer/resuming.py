"""The configuration that a run has written down, and what a resume may change of it.

MODEL_DIR/config.json holds every flag of the run, and facts about its beginning (`fine_tuning`).
Its digest covers the flags that affect the result; it is part of every checkpoint. A resume must
not change these flags. It may change all others: folders, cadence, logs, number of workers.

The file is believed only if it is as it was written: it has a seal (`sealed`), and its digest is
the one of the newest checkpoint. A checkpoint also holds the whole document. If the file is lost,
it is read from there.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from trainer import durable, sealed
from trainer.exit_codes import DataError, UsageError
from trainer.flags import run as configuration
from trainer.flags.knobs import as_text
from trainer.flags.run import Config
from trainer.flags.tasks import OF_TRANSLATIONS
from trainer.model_folder import commits

FORMAT = 1
OLDER = ("format", "digest", "flags", "vocabulary_sha256", "origin")  # Keys before the seal.

# They affect the result if a schedule runs over the length.
LENGTH = ("epochs", "steps")
# They affect the result if a run may stop early.
SELECTION = ("eval_split", "eval_steps")
# They affect the best checkpoint, and an early end, if it is chosen by translations.
TRANSLATIONS = ("translate_examples",)
# 0, auto or nothing: a resume keeps the value that the first start chose.
CHOSEN_AT_FIRST_START = ("shards", "threads", "fuse", "best_metric")


def affecting(config: Config) -> dict[str, Any]:
    """Returns {flag: value} of the flags that affect the weights at any step, or an early end.

    With a metric of translations as --best_metric also --translate_examples, which affects the best
    checkpoint.

    A flag that came later than the first runs is left out if it has its default.
    """
    values = configuration.to_flat(config)
    fields = configuration.fields()
    names = {name for name, field in fields.items() if field.metadata["result"]}
    if config.optimizer.schedule != "constant":
        names |= set(LENGTH)
    if config.run.early_stop_patience:
        names |= set(SELECTION)
    if config.run.best_metric in OF_TRANSLATIONS:
        names |= set(TRANSLATIONS)
    unused = {
        name
        for name, field in fields.items()
        if field.metadata["later"] and values[name] == field.default
    }
    return {name: value for name, value in values.items() if name in names - unused}


def digest(config: Config) -> str:
    """Returns the sha256 (hex) of `affecting`, as JSON with sorted keys."""
    return _digest(affecting(config))


def _digest(flags: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(flags, sort_keys=True).encode()).hexdigest()


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
    # Another spelling of the same folder changes nothing, and a resume does not read it.
    source, first = config.folders.init_from, written.get("init_from")
    if source and first and os.path.abspath(source) == os.path.abspath(first):
        kept["init_from"] = first
    config = configuration.replace(config, **kept)
    original = configuration.from_flat(written)
    before, now = affecting(original), affecting(config)
    different = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if different:
        old, new = configuration.to_flat(original), configuration.to_flat(config)
        lines = [
            f"  --{name}: was {as_text(old[name])}, now {as_text(new[name])}" for name in different
        ]
        raise UsageError(
            f"--model_dir={config.folders.model_dir} holds a run with another configuration:\n"
            + "\n".join(lines)
            + "\nA resume must not change what affects the result. Use the old values, or another "
            "--model_dir."
        )
    return config


def document(config: Config, facts: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns what config.json holds: format version, digest, every flag with its value, facts.

    facts: what it holds beside the flags.
    """
    flags = {"format": FORMAT, "digest": digest(config), "flags": configuration.to_flat(config)}
    return sealed.seal(flags | dict(facts or {}))


def to_json(config: Config, facts: Mapping[str, Any] | None = None) -> str:
    """Returns the text of config.json."""
    return json.dumps(document(config, facts), indent=2) + "\n"


def write(config: Config, model_dir: pathlib.Path, facts: Mapping[str, Any] | None = None) -> None:
    """Writes MODEL_DIR/config.json; when this returns, it survives a kill and a loss of power.

    facts: what the file holds beside the flags.
    """
    durable.replace_file(model_dir / "config.json", to_json(config, facts).encode())


def written_in(model_dir: str | pathlib.Path, flag: str = "model_dir") -> dict[str, Any]:
    """Returns {flag name: value} of the run in `model_dir`, without flags that this version lacks.

    Raises UsageError, which names `flag`, if there is no run; DataError if its config.json is not
    as it was written, or is not of its checkpoints.
    """
    return _known(_document(model_dir, flag)["flags"])


def _known(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the flags that this version has; JSON has lists for their tuples."""
    known = configuration.fields()
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in flags.items()
        if name in known
    }


def facts_in(model_dir: str | pathlib.Path, flag: str = "model_dir") -> dict[str, Any]:
    """Returns what config.json of the run holds beside the flags. Raises as `written_in`."""
    others = {"format", "digest", "flags", sealed.KEY}
    return {name: value for name, value in _document(model_dir, flag).items() if name not in others}


def _document(model_dir: str | pathlib.Path, flag: str) -> dict[str, Any]:
    path = pathlib.Path(model_dir) / "config.json"
    held = _held_by_checkpoint(model_dir)
    remedy = (
        f"Delete the file, then it is read from {held[0]}, or restore it from a copy."
        if held
        else "Restore it from a copy, or use another --model_dir."
    )
    try:
        found = _read(durable.read_bytes(path))
    except (FileNotFoundError, NotADirectoryError):
        if not held:
            raise UsageError(
                f"--{flag}={model_dir}: holds no config.json, which `train` writes before anything "
                "else. Name a folder of `train`, or restore the file."
            ) from None
        found = held[1]
    except OSError as problem:
        raise DataError(
            f"{path} cannot be read ({problem.strerror}): it must be a file that the user of this "
            "command may read. Mend that, or restore the file."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, UsageError) as problem:
        raise DataError(
            f"{path} cannot be read ({str(problem)[:200]!r}): it must be as `train` wrote it. "
            f"{remedy}"
        ) from None
    if found["format"] > FORMAT:
        raise UsageError(
            f"{path} has format {found['format']}: this trainer knows formats up to {FORMAT}. Use "
            "the newer trainer."
        )
    if held and found["digest"] != held[1]["digest"]:
        raise DataError(
            f"{path} has the digest {str(found['digest'])[:12]}, but the checkpoint {held[0]} was "
            f"made with {held[1]['digest'][:12]}: the file is of another run. {remedy}"
        )
    return found


def _held_by_checkpoint(
    model_dir: str | pathlib.Path,
) -> tuple[pathlib.Path, dict[str, Any]] | None:
    """Returns (folder, config.json) of the newest checkpoint that holds it; None if none does.

    Older checkpoints hold only its digest, and versions from before the seal did not all compute
    the same one of the same flags.
    """
    for folder, manifest in commits.manifests(model_dir):
        if manifest.get("config", {}).get("digest") == manifest["config_digest"]:
            return folder, manifest["config"]
    return None


def _read(content: bytes) -> dict[str, Any]:
    """Returns the document of a config.json.

    Raises ValueError, KeyError, TypeError, AttributeError, OverflowError or UsageError if `train`
    did not write it so.
    """
    found = sealed.read(content, OLDER)
    found["format"], found["flags"] = int(found["format"]), dict(found["flags"])
    if sealed.KEY in found:
        return found
    if found["format"] != FORMAT:
        raise ValueError(f"format {found['format']} without a {sealed.KEY}")
    # Without a seal its digest covers the flags that affect the result. Flags that came later than
    # the file are not in it.
    flags = affecting(configuration.from_flat(_known(found["flags"])))
    of_file = {name: value for name, value in flags.items() if name in found["flags"]}
    if found["digest"] not in (_digest(of_file), _digest(flags)):
        raise ValueError(f"its flags are not those of its digest {str(found['digest'])[:12]}")
    return found
