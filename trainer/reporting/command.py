"""`trainer report`: goodput, where the time went, the attempts and the first cause of a failure."""

import dataclasses
import datetime
import pathlib

from trainer import exit_codes, streams
from trainer.exit_codes import BY_NAME, UsageError
from trainer.flags.use import Report
from trainer.model_folder import journal
from trainer.reporting import goodput, progress

MEANINGS = {row.code: row.meaning for row in exit_codes.TABLE}


def command(settings: Report) -> int:
    """Prints the report of a model folder; returns 0, even if the run itself failed.

    Raises UsageError if the folder has no journal.
    """
    path = pathlib.Path(settings.model_dir) / "journal.jsonl"
    found = goodput.summarize(
        journal.read(path), datetime.datetime.now(datetime.timezone.utc).timestamp()
    )
    if found is None:
        raise UsageError(
            f"--model_dir={settings.model_dir}: {path} is missing or has no readable line; `train` "
            "writes one as soon as it works in a folder. Name the folder of a run."
        )
    as_json = settings.format == "json"
    print(streams.as_json(dataclasses.asdict(found)) if as_json else as_text(found))
    return BY_NAME["done"]


def as_text(report: goodput.RunSummary) -> str:
    """Returns what `--format=text` prints."""
    lines = [
        f"run: {_standing(report)}, at step {report.step}"
        + (f" of {report.total}" if report.total is not None else ""),
        f"goodput {progress.number(report.goodput)}: {progress.number(report.buckets['step'])} s "
        f"of steps that count in {progress.number(report.wall_seconds)} s",
        "",
    ]
    lines += [
        _bucket(name, seconds, report.wall_seconds, goodput.BUCKETS[name])
        for name, seconds in report.buckets.items()
    ]
    lines += [
        _bucket("wall_time", report.wall_seconds, report.wall_seconds, "all of them"),
        "",
        f"attempt  {'began':25}  {'seconds':>10}  {'steps':>15}  {'saved':>7}  end",
    ]
    lines += [
        f"{attempt.number:7}  {attempt.began:25}  {progress.number(attempt.seconds):>10}  "
        f"{_steps(attempt):>15}  {_or_dash(attempt.saved):>7}  {attempt.end}{_because(attempt)}"
        for attempt in report.attempts
    ]
    if report.cause:
        lines += [
            "",
            f"first cause: {_in_words(report.cause)}",
            *(f"    {line}" for line in report.cause.last_lines),
        ]
    return streams.printable("\n".join(lines))  # A log may hold any character.


def _standing(report: goodput.RunSummary) -> str:
    silent = f"last line {progress.as_clock(report.silent_seconds)} ago"
    if report.end == "running":
        return f"running, {silent}"
    if report.end == "killed":
        return f"no end on record, {silent}: killed, or busy with something long"
    return (
        report.end
        if report.code in (None, BY_NAME["done"])
        else f"{report.end} with exit code {report.code}"
    )


def _bucket(name: str, seconds: float, wall: float, meaning: str) -> str:
    share = 100 * seconds / wall if wall else 0.0
    return f"{name:13}  {progress.number(seconds):>10} s  {share:5.1f} %  {meaning}"


def _steps(attempt: goodput.AttemptSummary) -> str:
    return f"{_or_dash(attempt.restored)} to {_or_dash(attempt.reached)}"


def _or_dash(step: int | None) -> str:
    return "-" if step is None else str(step)


def _because(attempt: goodput.AttemptSummary) -> str:
    return f": {_in_words(attempt.cause)}" if attempt.cause else ""


def _in_words(cause: goodput.Cause) -> str:
    """Returns for example 'worker 1, exit code 3 (bad data ...): a.csv:3: no label'."""
    if cause.code in MEANINGS:
        code = f", exit code {cause.code} ({MEANINGS[cause.code]})"
    elif cause.code and cause.code < 0:
        code = f", signal {-cause.code}"
    else:
        code = f", exit code {cause.code}" if cause.code else ""
    return f"worker {cause.worker}{code}: {cause.reason}"
