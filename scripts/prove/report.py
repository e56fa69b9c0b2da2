"""The outcome of the checks: what each one found, as JSON and as a page for a closing note."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


class Skipped(Exception):
    """A check cannot run on this machine; the message says why."""


class Found:
    """What a check has found so far; on disk after every change, so that a kill loses nothing.

    figures: {name: number, text, or list of them}. problems: one sentence for each expectation that
    did not hold. device: the name of the device, if the check has learned it.
    """

    def __init__(self, path: pathlib.Path):
        self._path = path
        self.figures: dict[str, Any] = {}
        self.problems: list[str] = []
        self.device = ""
        self._write()

    def figure(self, name: str, value: Any) -> None:
        """Notes a figure."""
        self.figures[name] = value
        self._write()

    def expect(self, holds: bool, problem: str) -> None:
        """Notes the problem unless `holds`."""
        if not holds:
            self.problems.append(problem)
            self._write()

    def on(self, device: str) -> None:
        """Notes the name of the device."""
        self.device = device
        self._write()

    def _write(self) -> None:
        new = self._path.with_suffix(".new")
        new.write_text(
            json.dumps({"figures": self.figures, "problems": self.problems, "device": self.device}),
            encoding="utf-8",
        )
        new.replace(self._path)


@dataclasses.dataclass(frozen=True)
class Result:
    """The outcome of one check: PASSED, FAILED or SKIPPED, and the reason of the last two."""

    name: str
    letter: str
    title: str
    outcome: str
    reason: str = ""
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0


def statement(accelerator: str, device: str, quick: bool) -> str:
    """Returns the sentences that say what the proof is worth: on which device it ran.

    accelerator: "cpu", "gpu" or "tpu"; device: its name.
    """
    said = f"Ran on {device} ({accelerator.upper()})."
    if quick:
        said += " Quick: few steps of small models; the figures say nothing about speed."
    if accelerator == "cpu":
        said += (
            " This proves nothing about a GPU or a TPU: it shows that the checks themselves work."
        )
    return said


def passed(results: Sequence[Result]) -> bool:
    """Returns whether no check failed and at least one passed."""
    outcomes = {result.outcome for result in results}
    return FAILED not in outcomes and PASSED in outcomes


def as_json(results: Sequence[Result], **header: Any) -> str:
    """Returns the text of proof.json: the header, `passed`, and the checks."""
    return (
        json.dumps(
            {
                **header,
                "passed": passed(results) and not header["missing"],
                "checks": list(map(dataclasses.asdict, results)),
            },
            indent=2,
        )
        + "\n"
    )


def as_page(results: Sequence[Result], **header: Any) -> str:
    """Returns the text of proof.md: the statement, a table of the checks, and their figures."""
    counts = ", ".join(
        f"{sum(result.outcome == outcome for result in results)} {outcome}"
        for outcome in (PASSED, FAILED, SKIPPED)
    )
    lines = ["# Device proof", "", header["statement"], ""]
    lines += [f"{counts}, in {header['seconds']:.0f} s. {header['version']}.", ""]
    if header["missing"]:
        lines += [f"Not run yet: {', '.join(header['missing'])}.", ""]
    lines += ["| | check | outcome | s | reason |", "|---|---|---|---|---|"]
    lines += [
        f"| {result.letter} | {result.title} (`{result.name}`) | {result.outcome} "
        f"| {result.seconds:.0f} | {_cell(result.reason)} |"
        for result in results
    ]
    for result in results:
        if result.figures:
            lines += ["", f"## {result.letter}. {result.title}", ""]
            lines += ["| figure | value |", "|---|---|"]
            lines += [
                f"| {name} | {_cell(in_words(value))} |" for name, value in result.figures.items()
            ]
    return "\n".join(lines) + "\n"


def in_words(value: Any) -> str:
    """Returns a figure as text: numbers with four digits, lists with commas."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {in_words(each)}" for name, each in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(in_words, value)) or "none"
    return str(value)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
