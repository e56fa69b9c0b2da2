"""The command: runs the checks, each in a process of its own, and writes proof.json and proof.md.

A check that raises, hangs or dies fails alone. After its time limit a check is killed, with
everything that it started.
"""

import argparse
import datetime
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from scripts.prove import machine as machines
from scripts.prove import report
from scripts.prove.checks import CHECKS, Check
from scripts.prove.machine import MARK, POLL_SECONDS, PROJECT, Machine
from scripts.prove.report import FAILED, PASSED, SKIPPED, Found, Result, Skipped
from trainer import __version__
from trainer.devices import accelerator

SKIP_CODE = 64  # The exit code of a process whose check was skipped.


def main(arguments: Sequence[str], usage: str) -> int:
    """Runs the proof, or one check of it; returns the exit code."""
    given = _parse(arguments, usage)
    if given.check:
        return _one(given)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    output = pathlib.Path(given.output).absolute()
    output.mkdir(parents=True, exist_ok=True)
    wanted = selected(given.only)
    with tempfile.TemporaryDirectory(prefix="rnn-trainer-proof-", dir=given.work or None) as work:
        return _prove(given, wanted, pathlib.Path(work), output)


def selected(only: str) -> list[str]:
    """Returns the names of the checks that --only names by letter or name; "" names all.

    Raises ValueError for a word that is neither.
    """
    words = [word.strip() for word in only.split(",") if word.strip()]
    letters = {check.letter for check in CHECKS.values()}
    for word in words:
        if word not in CHECKS and word not in letters:
            raise ValueError(
                f"--only={word}: must be letters ({' '.join(sorted(letters))}) or names of checks "
                f"({' '.join(CHECKS)}). Choose some of them."
            )
    return [
        name
        for name, check in CHECKS.items()
        if not words or name in words or check.letter in words
    ]


def _parse(arguments: Sequence[str], usage: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="prove_device.sh",
        description=usage,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = ("gpu", "tpu", "cpu")
    parser.add_argument("--accelerator", choices=kinds, help="default: what this machine has")
    parser.add_argument("--output", default="proof", help="folder of proof.json and proof.md")
    parser.add_argument("--only", default="", help="letters or names of checks, with commas")
    parser.add_argument("--quick", action="store_true", help="few steps of small models")
    parser.add_argument(
        "--limit", type=float, default=0, help="seconds of each check; default: each has its own"
    )
    parser.add_argument("--work", default="", help="folder for data and models; default: temporary")
    parser.add_argument("--keep_logs", action="store_true", help="copy the logs to the output, too")
    for name in ("--check", "--data", "--gpus"):  # Of the process of one check.
        parser.add_argument(name, default="", help=argparse.SUPPRESS)
    given = parser.parse_args(list(arguments))
    try:
        selected(given.only)
    except ValueError as problem:
        parser.error(str(problem))
    given.accelerator = given.accelerator or default_accelerator()
    return given


def default_accelerator() -> str:
    """Returns "gpu", "tpu" or "cpu": what this machine gives to programs."""
    kinds = accelerator.given(os.environ, accelerator.device_files())
    return next((kind.lower() for kind in ("GPU", "TPU") if kind in kinds), "cpu")


def _prove(
    given: argparse.Namespace, wanted: list[str], work: pathlib.Path, output: pathlib.Path
) -> int:
    began, started = time.monotonic(), datetime.datetime.now(datetime.timezone.utc)
    size = machines.QUICK if given.quick else machines.FULL
    _say(f"{len(wanted)} check(s) on {given.accelerator}; preparing {size.examples} examples")
    data = machines.prepare(work, size)
    gpus = machines.count_gpus(os.environ)
    # A quick proof on a CPU has two checks at a time; on a device each has it for itself.
    lanes = 2 if given.quick and given.accelerator == "cpu" else 1
    running: dict[str, _Process] = {}
    results: dict[str, Result] = {}
    device = ""

    def write() -> str:
        """Writes the proof as far as it is; returns the page."""
        ordered = [results[name] for name in wanted if name in results]
        header = {
            "statement": report.statement(
                given.accelerator, device or _device(given.accelerator), given.quick
            ),
            "accelerator": given.accelerator,
            "device": device or _device(given.accelerator),
            "quick": given.quick,
            "version": _version(),
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - began, 1),
            "missing": [name for name in wanted if name not in results],
        }
        (output / "proof.json").write_text(report.as_json(ordered, **header), encoding="utf-8")
        page = report.as_page(ordered, **header)
        (output / "proof.md").write_text(page, encoding="utf-8")
        return page

    try:
        # The longest first: two lanes then end at about the same time.
        waiting = sorted(wanted, key=lambda name: -CHECKS[name].seconds) if lanes > 1 else wanted
        waiting = list(waiting)
        while waiting or running:
            while waiting and len(running) < lanes:
                name = waiting.pop(0)
                running[name] = _Process(name, CHECKS[name], given, work, data, gpus)
            time.sleep(POLL_SECONDS)
            for name in [name for name, process in running.items() if process.over()]:
                process = running.pop(name)
                results[name] = process.result()
                device = device or process.device()
                write()  # If this program is killed, what it has found is there.
                _say(_line(results[name]))
                if given.keep_logs or results[name].outcome == FAILED:
                    _copy_logs(process.work, output / "logs" / name)
    finally:
        for process in running.values():
            process.end()
    print(write().split("\n## ")[0])
    _say(f"wrote {output / 'proof.json'} and {output / 'proof.md'}")
    return 0 if report.passed(list(results.values())) else 1


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _line(result: Result) -> str:
    reason = f": {result.reason}" if result.reason else ""
    return f"{result.letter} {result.name} {result.outcome} in {result.seconds:.0f} s{reason}"


def _device(kind: str) -> str:
    if kind == "gpu":
        names = machines.nvidia_smi("--query-gpu=name", "--format=csv,noheader").split("\n")
        return ", ".join(filter(None, names)) or "a GPU that nvidia-smi does not know"
    return machines.processor() if kind == "cpu" else "a TPU"


def _version() -> str:
    """Returns the version of the trainer, and its commit if this is a clone."""
    command = ["git", "-C", str(PROJECT), "rev-parse", "--short", "HEAD"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        commit = ""
    return f"rnn-trainer {__version__}" + (f", commit {commit}" if commit else "")


def _copy_logs(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies the logs and outputs of a check."""
    for pattern in ("*.log", "*.out", "*/logs/*.log", "*/journal.jsonl", "*/chaos/*.log"):
        for file in source.glob(pattern):
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


# --- The process of one check ---------------------------------------------------------------------


class _Process:
    """A check that runs."""

    def __init__(
        self,
        name: str,
        check: Check,
        given: argparse.Namespace,
        work: pathlib.Path,
        data: pathlib.Path,
        gpus: int,
    ):
        self._name, self._check = name, check
        self._limit = given.limit or check.seconds
        self.work = work / name
        self.work.mkdir()
        self._mark = f"{os.getpid()} {name}"
        command = [sys.executable, str(PROJECT / "scripts/prove_device.py"), f"--check={name}"]
        command += [f"--accelerator={given.accelerator}", f"--work={self.work}", f"--data={data}"]
        command += [f"--gpus={gpus}", *(["--quick"] if given.quick else [])]
        environment = {**os.environ, MARK: self._mark}
        # Kernels that the driver compiles are compiled once per proof, not once per run.
        environment.setdefault("CUDA_CACHE_PATH", str(work / "cuda_cache"))
        environment.setdefault("CUDA_CACHE_MAXSIZE", str(4 * 2**30))
        self._began = time.monotonic()
        with open(self.work / "check.log", "wb") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._too_long = False

    def over(self) -> bool:
        """Returns whether the check has ended; ends it if its time is over."""
        self._too_long = time.monotonic() - self._began > self._limit
        if self._process.poll() is None and not self._too_long:
            return False
        self.end()
        return True

    def end(self) -> None:
        """Kills what is left of the check."""
        self._process.kill()
        self._process.wait()
        machines.end_marked(self._mark)

    def device(self) -> str:
        """Returns the name of the device if the check has learned it."""
        return self._found().get("device", "")

    def result(self) -> Result:
        """Returns the outcome, after the end."""
        found, code = self._found(), self._process.returncode
        problems, last = list(found.get("problems", [])), self._last_line()
        outcome = FAILED
        if self._too_long and code != 0:
            problems.append(f"still ran after {self._limit:g} s and was ended")
        elif code == SKIP_CODE:
            outcome, problems = SKIPPED, [last]
        elif code:
            problems.append(last or f"the check ended with exit code {code}")
        elif not problems:
            outcome = PASSED
        return Result(
            self._name,
            self._check.letter,
            self._check.title,
            outcome,
            "; ".join(problems),
            found.get("figures", {}),
            round(time.monotonic() - self._began, 1),
        )

    def _found(self) -> dict:
        try:
            return json.loads((self.work / "found.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def _last_line(self) -> str:
        text = (self.work / "check.log").read_text(encoding="utf-8", errors="replace").strip()
        return text.splitlines()[-1] if text else ""


def _one(given: argparse.Namespace) -> int:
    """Runs the check of this process."""
    work = pathlib.Path(given.work)
    machine = Machine(
        given.accelerator, given.quick, int(given.gpus), work, pathlib.Path(given.data)
    )
    try:
        CHECKS[given.check].run(machine, Found(work / "found.json"))
    except Skipped as reason:
        print(reason, flush=True)
        return SKIP_CODE
    return 0
