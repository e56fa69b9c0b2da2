"""The rules of flags that name a file or a folder.

A place is taken as it is written: another user, or a pod, would expand it to another one.
"""

import dataclasses
import os
import re

from trainer import shown
from trainer.exit_codes import UsageError
from trainer.flags.knobs import Rule

LONGEST_NAME = 255  # Bytes, on every file system of Linux.


_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


_NO_ADDRESS = (
    "Addresses are not read: mount the bucket, or copy the files to a disk (`submit` does it with "
    "--stage and --publish)."
)


def _place_remedy(value: str) -> str:
    """Returns what is wrong with a file or folder, or with globs, as its writer gave it; else "".

    No shell has expanded it, and neither do we: another user or a pod would get another place.
    """
    parts = [part.strip() for part in value.split(",")]
    if any(map(_ADDRESS.match, parts)):
        return _NO_ADDRESS
    if any(part.startswith("~") for part in parts):
        return "~ is not expanded: write out the folder. One of this name is ./~"
    if re.search(r"\$[A-Za-z_{(]", value):
        return "Variables are not expanded: write out their values."
    if value[:1] in ("'", '"') or value[-1:] in ("'", '"'):
        return "In a flagfile quotes are part of the value: leave them out."
    if " #" in value:
        return "In a flagfile a comment needs a line of its own."
    if value != value.strip() or re.search(r"[\x00-\x1f\x7f]", value):
        return "Leave out spaces at its ends and control characters."
    try:
        names = re.split(b"[/,]", value.encode("utf-8"))
    except UnicodeEncodeError:
        return "It is not valid UTF-8: rename it."
    if max(map(len, names)) > LONGEST_NAME:
        return f"No name in it may be longer than {LONGEST_NAME} bytes."
    return ""


# Of every flag that is a file or a folder.
PLACE = Rule("must be a plain path", lambda value: not _place_remedy(value), _place_remedy)


def _place_or_bucket_remedy(value: str) -> str:
    return _place_remedy(value.removeprefix("gs://"))


# Of the folders of `train`: a Cloud TPU VM copies a bucket (`refuse_addresses` for all others).
PLACE_OR_BUCKET = Rule(
    PLACE.text, lambda value: not _place_or_bucket_remedy(value), _place_or_bucket_remedy
)


def is_place(field: dataclasses.Field) -> bool:
    """Returns whether a flag of `train` is a file or a folder."""
    return field.metadata["rule"] in (PLACE, PLACE_OR_BUCKET)


def _pattern_remedy(value: str) -> str:
    pattern = re.search(r"[\[\]*?\\]", os.path.abspath(value))
    return _place_remedy(value) or (
        f"TensorFlow takes {pattern[0]} for part of a pattern, so nobody could load a model from "
        "there: name another folder."
        if pattern
        else ""
    )


# Of a folder from which TensorFlow loads by name, wherever that is.
NO_PATTERN = Rule(
    "must be a plain path without [ ] * ? or a backslash",
    lambda value: not _pattern_remedy(value),
    _pattern_remedy,
)


def _output_remedy(value: str) -> str:
    if not value or value.endswith((".csv", ".jsonl")):
        return _place_remedy(value)
    return "Name a file with one of these endings."


# Of the file that `predict` writes.
OUTPUT = Rule(
    "must be a plain path that ends with .csv or .jsonl",
    lambda value: not _output_remedy(value),
    _output_remedy,
)


def refuse_addresses(name: str, value: str) -> None:
    """Raises UsageError if the folder `value` of the flag `name` is a bucket."""
    if _ADDRESS.match(value):
        raise UsageError(
            f"--{name}={shown.bare(value)}: {PLACE.text}. {_NO_ADDRESS} Only `submit "
            "--target=tpu_vm` takes a bucket."
        )
