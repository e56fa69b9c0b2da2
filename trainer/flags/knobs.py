"""A knob: a field of a dataclass that is a flag, with default, type, help and rule in one line.

The program works with the dataclasses; `parsing` makes command-line flags from their fields. Rules
are checked when an object is made, before TensorFlow is imported. They raise UsageError with the
value seen, the rule and the remedy.

A field also has a mark, `result`: whether it can change the result of a run. The digest in the
checkpoints covers the fields that can, and a resume must not change them (`resuming`). All others
(cadence, folders, log) may change. A field that is `later` than the first runs counts in the digest
only if it is not at its default, so that the digests of older runs stay as they are.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from trainer import shown
from trainer.exit_codes import UsageError


@dataclasses.dataclass(frozen=True)
class Rule:
    """A check in words and in code: `holds(value)` is true for every value that obeys `text`.

    remedy: returns what to write instead of a value that does not; else the default is named.
    """

    text: str
    holds: Callable[[Any], bool]
    remedy: Callable[[Any], str] | None = None


def at_least(low) -> Rule:
    return Rule(f"must be at least {low}", lambda value: value >= low)


def within(low, high) -> Rule:
    return Rule(f"must lie in [{low}, {high})", lambda value: low <= value < high)


def one_of(*choices: str) -> Rule:
    return Rule(f"must be one of {' | '.join(choices)}", lambda value: value in choices)


POSITIVE = Rule("must be greater than 0", lambda value: value > 0)


SHARE = Rule("must be greater than 0 and at most 1", lambda value: 0 < value <= 1)


SPLIT_OR_DEFAULT = Rule(
    "must be one of train | validation | test",
    lambda value: value in ("", "train", "validation", "test"),
)


ONE_PER_LAYER = Rule(
    "must be one positive number per layer, for example 64 or 64,64",
    lambda units: len(units) > 0 and all(width > 0 for width in units),
)


def knob(default, help, rule: Rule | None = None, result: bool = True, later: bool = False):
    """Returns a field of a configuration.

    Args:
      result: whether another value can change the weights that a run ends with.
      later: whether runs without this field exist. Its default must compute what they compute.
    """
    return dataclasses.field(
        default=default, metadata={"help": help, "rule": rule, "result": result, "later": later}
    )


class Checked:
    """A dataclass that checks each field against its rule when the object is made."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            check(field, getattr(self, field.name))


def check(field: dataclasses.Field, value) -> None:
    """Raises UsageError if `value` breaks the rule of `field`."""
    rule = field.metadata.get("rule")
    if rule and not rule.holds(value):
        default = f"Default: {as_text(field.default) or 'none'}."
        remedy = rule.remedy(value) if rule.remedy else default
        raise UsageError(f"--{field.name}={shown.bare(as_text(value))}: {rule.text}. {remedy}")


def as_text(value) -> str:
    """Returns a value as it is written on the command line."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def as_given(name: str, value) -> str:
    """Returns a flag as a user writes it."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no{name}"
    values = value if isinstance(value, tuple) else (value,)
    return " ".join(f"--{name}={each}" for each in values)
