"""Which flags of `prepare` belong to sequences of numbers, and which of the others apply to them.

A source of numbers is `arrays` or `ts`, `csv` with --feature_columns, or `folder` if it holds
recordings, which only shows when it is opened.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

from trainer import shown
from trainer.exit_codes import UsageError

SOURCES = ("arrays", "ts", "csv", "folder")
BUILT_IN = ("digits",)  # It comes with a package, and `predict` reads arrays in its place.
ALWAYS = ("arrays", "ts", *BUILT_IN)  # The others have texts, too.
FOLDERS = ("arrays", "folder")  # They may lie in a folder.
# {flag: the sources of numbers that use it}, of all flags that not every source uses.
_USED = {
    "x_array": ("arrays",),
    "y_array": ("arrays",),
    "lengths_array": ("arrays",),
    "frame_shape": ("arrays",),
    "sequence_column": ("csv",),
    "feature_columns": ("csv",),
    "time_column": ("csv",),
    "sample_rate": ("folder",),
    "window_ms": ("folder",),
    "hop_ms": ("folder",),
    "mel_bands": ("folder",),
    "normalise": (*SOURCES, *BUILT_IN),
    "missing": SOURCES,
}
_OF_TEXT = {
    "label_column": ("csv",),
    "split_column": ("csv",),
    "max_line_bytes": ("csv", "ts"),
    "max_expansion": ("csv", "ts", "arrays"),
    **dict.fromkeys(
        (
            "text_column",
            "target_column",
            "token_column",
            "tag_column",
            "lines",
            "tokenizer",
            "lowercase",
            "vocabulary_size",
            "shared_vocabulary",
            "longest_pair",
            "vocabulary_from",
            "encoding_errors",
        ),
        (),
    ),
}


def are_read(settings: Any) -> bool:
    """Returns whether the flags of `prepare` name a source of numbers; of folders not yet known."""
    return settings.source in ALWAYS or settings.source == "csv" and bool(settings.feature_columns)


def check(settings: Any, recordings: bool = False) -> None:
    """Raises UsageError if a flag of `prepare` does not apply to its source.

    Args:
      settings: a `Prepare`.
      recordings: whether it is known that the folders hold recordings.
    """
    numeric = recordings or are_read(settings)
    if numeric:
        _refuse_unused(settings, {**_USED, **_OF_TEXT}, recordings)
        if settings.source == "csv":
            _check_columns(settings)
    elif settings.source != "folder":
        _refuse_unused(settings, _USED, False)


def check_texts(settings: Any) -> None:
    """Raises UsageError if a flag of numbers was given for folders that hold texts."""
    _refuse_unused(settings, _USED, False)


def refuse_for_texts(settings: Any) -> None:
    """Raises UsageError if a flag of `predict` was given that only sequences of numbers need."""
    for flag in ("x_array", "lengths_array"):
        if value := getattr(settings, flag):
            raise UsageError(
                f"--{flag}={shown.bare(value)}: the model reads texts, which are in no array. "
                "Leave it out."
            )
    if settings.input and settings.source in {*ALWAYS, *FOLDERS}:
        raise UsageError(
            f"--source={settings.source}: the model reads texts, and of those predict reads "
            "csv | tsv | jsonl. Name one of them, or write --source= to take each line of --input "
            "for a text."
        )


def _refuse_unused(settings: Any, used: dict[str, tuple[str, ...]], recordings: bool) -> None:
    numeric = recordings or are_read(settings)
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value == field.default or field.name not in used:
            continue
        if numeric and settings.source in used[field.name]:
            continue
        remedy = "Leave it out"
        if not numeric and field.name in _USED:
            remedy += f", or use --source={' | '.join(used[field.name])}"
            if used[field.name] == ("csv",):
                remedy += " with --feature_columns and --sequence_column"
        raise UsageError(
            f"{_given(field.name, value)}: {_words(settings, recordings)} have no "
            f"use for it. {remedy}."
        )


def _given(name: str, value: Any) -> str:
    """Returns a flag as a user writes it."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no{name}"
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"--{name}={shown.bare(text)}"


def _words(settings: Any, recordings: bool) -> str:
    """Returns what is read, in words."""
    if recordings:
        return "recordings"
    kind = "sequences of numbers" if are_read(settings) else "texts"
    return f"{kind} of --source={settings.source}"


def _check_columns(settings: Any) -> None:
    """Raises UsageError if a column is missing among the flags, or is named twice."""
    if not columns_in(settings.feature_columns):
        raise UsageError(
            f"--feature_columns={shown.bare(settings.feature_columns)}: names no column. Name the "
            "columns of the numbers, separated by commas."
        )
    if not settings.sequence_column:
        raise UsageError(
            f"--feature_columns={shown.bare(settings.feature_columns)}: needs --sequence_column, "
            "the column that says which rows are one sequence. Name it."
        )
    named = [
        ("sequence_column", [settings.sequence_column]),
        ("time_column", [settings.time_column]),
        ("feature_columns", columns_in(settings.feature_columns)),
        ("label_column", settings.answer_columns),
        ("split_column", [settings.split_column]),
    ]
    refuse_twice((flag, column) for flag, columns in named for column in columns if column)


def columns_in(names: str) -> list[str]:
    """Returns the names in a flag that takes several columns."""
    return [part.strip() for part in names.split(",") if part.strip()]


def refuse_twice(named: Iterable[tuple[str, str]]) -> None:
    """Raises UsageError if two of (flag, column) are the same column."""
    given = {}
    for flag, column in named:
        if given.get(column) == flag:
            raise UsageError(f"--{flag}: names {shown.value(column)} twice. Name each column once.")
        if column in given:
            raise UsageError(
                f"--{given[column]}={shown.bare(column)} and --{flag}={shown.bare(column)}: must "
                "be different columns. Name the right ones."
            )
        given[column] = flag
