"""Parses command lines: absl flags made from the fields of configuration dataclasses.

absl.app exits 1 for `--help`, an unknown flag, a bad value and a missing flagfile alike. Here
`--help` prints to stdout, and every mistake raises UsageError. A flagfile may serve several
commands: flags in it that belong to another command are skipped. On the command line itself they
are a mistake.
"""

import dataclasses
import difflib
import itertools
import math
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags as absl_flags

from trainer import shown
from trainer.exit_codes import UsageError
from trainer.flags.knobs import as_text, check
from trainer.flags.places import PLACE

NAMED_RUNS = pathlib.Path(__file__).parents[1] / "configs"


@dataclasses.dataclass(frozen=True)
class Parsed:
    """A parsed command line: {flag: value} of all flags of the command, and the other words."""

    values: dict[str, Any]
    words: tuple[str, ...]


class _Parser(absl_flags.ArgumentParser):
    """Turns the text of one flag into the type of its field."""

    def __init__(self, field: dataclasses.Field):
        self.field = field
        self.syntactic_help = ""

    def parse(self, argument):
        if not isinstance(argument, str):
            return argument
        try:
            return _from_text(self.field.type, argument)
        except ValueError:
            raise UsageError(
                f"--{self.field.name}={shown.bare(argument)}: must be {_WORDS[self.field.type]}. "
                f"Default: {as_text(self.field.default) or 'none'}."
            ) from None

    def flag_type(self):
        return _WORDS[self.field.type]


_WORDS = {
    int: "a whole number",
    float: "a finite number",
    str: "text",
    tuple[int, ...]: "whole numbers separated by commas",
    tuple[str, ...]: "text",
}


def _from_text(kind, text: str):
    if kind is int:
        return int(text)
    if kind is float:
        return _finite(float(text))
    if kind in (str, tuple[str, ...]):
        return text
    return tuple(int(part) for part in text.split(","))


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(value)
    return value


def _define(field: dataclasses.Field, into: absl_flags.FlagValues) -> None:
    if field.type in (bool, bool | None):
        absl_flags.DEFINE_boolean(
            field.name, field.default, field.metadata["help"], flag_values=into
        )
    elif field.type == tuple[str, ...]:  # Repeated for each of its values.
        absl_flags.DEFINE_multi(
            _Parser(field),
            absl_flags.ArgumentSerializer(),
            field.name,
            field.default,
            field.metadata["help"],
            flag_values=into,
        )
    else:
        absl_flags.DEFINE(
            _Parser(field), field.name, field.default, field.metadata["help"], flag_values=into
        )


def parse(command: str, arguments: Sequence[str], tables: dict[str, Sequence[type]]) -> Parsed:
    """Returns the values of the flags of `command` in `arguments`, and the other words.

    Args:
      command: a key of `tables`.
      arguments: the command line after the command's name.
      tables: {command: dataclasses whose fields are its flags}, all commands.

    Raises:
      UsageError: unknown flag, value of the wrong type, missing flagfile.
    """
    own = _fields(tables[command])
    foreign = {}
    for other, sections in tables.items():
        for name, field in _fields(sections).items():
            if name not in own:
                foreign.setdefault(name, ([], field))[0].append(other)
    found = absl_flags.FlagValues()
    found.set_gnu_getopt(True)
    for field in [*own.values(), *(field for _, field in foreign.values())]:
        _define(field, found)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    given = [_with_named_run(argument) for argument in _joined_flagfile(arguments[:end])]
    _refuse_foreign(command, given, foreign)
    try:
        given = found.read_flags_from_files(given)
        if any(argument.startswith("-") and _name(argument) == "undefok" for argument in given):
            # absl would accept every flag that --undefok names.
            raise absl_flags.UnrecognizedFlagError("undefok")
        words = found(["trainer", *given, *arguments[end:]])[1:]
    except absl_flags.UnrecognizedFlagError as problem:
        near = difflib.get_close_matches(problem.flagname, own, n=1)
        hint = f" Did you mean --{near[0]}?" if near else ""
        raise UsageError(
            f"--{problem.flagname}: no such flag of `{command}`.{hint} `{command} --help` lists "
            "them all."
        ) from None
    # Only a boolean flag: `_Parser` reports all other values itself.
    except absl_flags.IllegalFlagValueError as problem:
        seen = str(problem).removeprefix("flag ").partition(": ")[0]
        raise UsageError(
            f"{seen}: must be true or false. `{command} --help` lists the flags and what they take."
        ) from None
    except (absl_flags.Error, ValueError) as problem:
        raise UsageError(
            f"{problem}. `{command} --help` lists the flags and what they take."
        ) from None
    values = {
        name: tuple(found[name].value) if field.type == tuple[str, ...] else found[name].value
        for name, field in own.items()
    }
    for name, field in own.items():
        check(field, values[name])
    return Parsed(values, tuple(words))


def _fields(sections: Sequence[type]) -> dict[str, dataclasses.Field]:
    return {field.name: field for section in sections for field in dataclasses.fields(section)}


def _name(argument: str) -> str:
    """The name in `--name=value`."""
    return argument.lstrip("-").partition("=")[0]


def _joined_flagfile(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments with `--flagfile X` as one word, so that only one form is left."""
    joined, rest = [], iter(arguments)
    for argument in rest:
        if argument in ("--flagfile", "-flagfile"):
            argument = f"--flagfile={next(rest, '')}"
        joined.append(argument)
    return joined


def _with_named_run(argument: str) -> str:
    """Returns `--flagfile=PATH` for a file, or for a named run that comes with the package.

    A file of that name in the current folder takes precedence over a named run.
    """
    name, equals, value = argument.partition("=")
    if name.lstrip("-") != "flagfile" or not equals:
        return argument
    problem = "no such file"
    for path in (pathlib.Path(value), NAMED_RUNS / value, NAMED_RUNS / f"{value}.flags"):
        try:
            if value and path.is_file():
                path.open().close()
                return f"--flagfile={path}"
        except OSError as error:
            problem = error.strerror
    named = ", ".join(sorted(path.name for path in NAMED_RUNS.glob("*.flags")))
    raise UsageError(
        f"--flagfile={shown.bare(value)}: {problem}. {PLACE.remedy(value)} Name a file that can be "
        f"read, or one of the named runs: {named}.".replace("  ", " ")
    )


def _refuse_foreign(command: str, arguments: Sequence[str], foreign) -> None:
    for argument in arguments:
        if argument.startswith("-"):
            for known in (_name(argument), _name(argument).removeprefix("no")):
                if known in foreign:
                    others = " and ".join(f"`{other}`" for other in foreign[known][0])
                    raise UsageError(
                        f"--{known}: is not a flag of `{command}` but of {others}. Leave it out."
                    )


def help_text(usage: str, sections: Sequence[type]) -> str:
    """Returns what `--help` prints: the usage, then each flag with default, meaning and rule."""
    lines = [usage, ""]
    for section in sections:
        lines.append(section.__doc__.splitlines()[0])
        for heading, fields in itertools.groupby(dataclasses.fields(section), _heading):
            lines += ["", heading] if heading else []
            for field in fields:
                lines += _help_of(field)
        lines.append("")
    lines += [
        "--flagfile=FILE reads flags from a file, one per line; `#` starts a comment. Named runs "
        "that come with the package:",
        "  " + "  ".join(sorted(path.name for path in NAMED_RUNS.glob("*.flags"))),
    ]
    return "\n".join(lines)


def _heading(field: dataclasses.Field) -> str:
    """The heading of the group that the field belongs to; "" if its section has no groups."""
    return field.metadata.get("heading", "")


def _help_of(field: dataclasses.Field) -> list[str]:
    notes = []
    if field.type in (bool, bool | None):
        # The text tells what --NAME does, so that is what stands above it.
        shown = f"--[no]{field.name}"
        if field.default is not None:
            notes.append(f"default: --{'' if field.default else 'no'}{field.name}")
    else:
        shown = f"--{field.name}={as_text(field.default)}"
    if rule := field.metadata.get("rule"):
        notes.append(rule.text)
    text = field.metadata["help"] + (f" ({'; '.join(notes)})" if notes else "")
    return [f"  {shown}", f"      {text}"]
