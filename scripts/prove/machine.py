"""Runs the trainer as a user does: in processes of its own, with its commands and flags."""

import dataclasses
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from scripts.prove import judge
from trainer.model_folder import journal

PROJECT = pathlib.Path(__file__).resolve().parents[2]
POLL_SECONDS = 0.1
# Every process of a check has it in its environment, however it was started, so that a check that
# hangs can be ended with all that it left behind.
MARK = "RNN_TRAINER_PROOF"


class Size(NamedTuple):
    """How much a check does. examples: of the dataset; steps: of a run; repeats: equal runs."""

    examples: int
    max_length: int
    batch_size: int
    units: int
    steps: int
    kills: int
    repeats: int


FULL = Size(8000, 128, 64, 64, 300, 5, 3)
QUICK = Size(400, 8, 16, 4, 20, 1, 2)


class Run:
    """A process that was started, with its output and its log in files."""

    def __init__(self, command: list[str], folder: pathlib.Path, environment: Mapping[str, str]):
        self.output_file, self.log_file = folder.with_suffix(".out"), folder.with_suffix(".log")
        with open(self.output_file, "wb") as output, open(self.log_file, "wb") as log:
            self.began = time.time()
            self._process = subprocess.Popen(
                command,
                cwd=PROJECT,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
            )

    def poll(self) -> int | None:
        """Returns the exit code, None while the process runs."""
        return self._process.poll()

    def wait(self, meanwhile: Callable[[], Any] = lambda: None) -> int:
        """Waits for the end, calling `meanwhile` now and then; returns the exit code."""
        while self.poll() is None:
            meanwhile()
            time.sleep(POLL_SECONDS)
        return self._process.returncode

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the process."""
        self._process.send_signal(number)

    @property
    def output(self) -> str:
        return self.output_file.read_text(encoding="utf-8", errors="replace")

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def succeed(self) -> "Run":
        """Waits for the end; raises RuntimeError with the end of the log if the run failed."""
        if code := self.wait():
            raise RuntimeError(f"exit code {code}; its log ends with: {tail(self.log)}")
        return self

    def digest(self) -> str:
        """Waits for the end; returns the digest of the final state."""
        found = judge.digest(self.succeed().output)
        if found is None:
            raise RuntimeError(f"no `done` line; the output ends with: {tail(self.output)}")
        return found


class Training(Run):
    """A run of `trainer train`, or of a program that calls it, with a model folder."""

    def __init__(self, command: list[str], folder: pathlib.Path, environment: Mapping[str, str]):
        self.model_dir = folder
        super().__init__(command, folder, environment)

    @property
    def events(self) -> list[dict]:
        """The lines of its journal so far."""
        return list(journal.read(self.model_dir / "journal.jsonl"))

    def wait_for(self, condition: Callable[[list[dict]], bool]) -> bool:
        """Waits until the journal fulfils the condition; returns False if the run ends before."""
        while not condition(self.events):
            if self.poll() is not None:
                return False
            time.sleep(POLL_SECONDS)
        return True


@dataclasses.dataclass(frozen=True)
class Machine:
    """The machine that is proved, as one check uses it.

    accelerator: "cpu", "gpu" or "tpu". gpus: those that programs may use. work: a folder for this
    check alone. data_dir: the prepared dataset.
    """

    accelerator: str
    quick: bool
    gpus: int
    work: pathlib.Path
    data_dir: pathlib.Path

    @property
    def size(self) -> Size:
        return QUICK if self.quick else FULL

    def flags(self, accelerator: str = "", **changes: Any) -> list[str]:
        """Returns the flags of a run on one device, with those of `changes` in place of others."""
        size, where = self.size, accelerator or self.accelerator
        flags = {
            "data_dir": self.data_dir,
            "accelerator": where,
            "batch_size": size.batch_size,
            "max_length": size.max_length,
            "units": size.units,
            "embedding_size": size.units,
            "steps": size.steps,
            "save_steps": max(5, size.steps // 10),
            "eval_steps": -1,
            "learning_rate": 0.01,
            **({"strategy": "tpu"} if where == "tpu" else {"devices": 1}),
            # Two checks at a time share the cores.
            **({"threads": 1, "shards": 1} if self.quick else {}),
            **changes,
        }
        return [f"--{name}={value}" for name, value in flags.items()]

    def train(
        self, name: str, environment: Mapping[str, str] | None = None, **flags: Any
    ) -> Training:
        """Starts `trainer train` in a fresh process, with the model folder `name`."""
        return self.call(name, "train", environment=environment, **flags)

    def call(
        self,
        name: str,
        command: str,
        *words: str,
        environment: Mapping[str, str] | None = None,
        **flags: Any,
    ) -> Training:
        """Starts a command that takes the flags of train; `words` come before these."""
        folder = self.work / name
        return Training(
            [*TRAINER, command, *words, f"--model_dir={folder}", *self.flags(**flags)],
            folder,
            environment or {},
        )

    def watched(
        self, name: str, *options: str, environment: Mapping[str, str] | None = None, **flags: Any
    ) -> Training:
        """Starts training in a process that watches its steps: see `programs.watch`."""
        folder = self.work / name
        return Training(
            [
                *program("watch", f"--report={folder}.json", *options, "--"),
                "train",
                f"--model_dir={folder}",
                *self.flags(**flags),
            ],
            folder,
            environment or {},
        )

    def seen(self, run: Training) -> dict[str, Any]:
        """Waits for a watched run; returns its report."""
        run.succeed()
        return json.loads(run.model_dir.with_suffix(".json").read_text(encoding="utf-8"))

    def gang(self, name: str, workers: int, **flags: Any) -> Training:
        """Starts a gang of workers on this machine, as `submit --target=local` does."""
        folder = self.work / name
        nccl = {"NCCL_DEBUG": "INFO"} if self.accelerator == "gpu" else {}
        return Training(
            [
                *TRAINER,
                "submit",
                "--target=local",
                f"--workers={workers}",
                "--",
                "train",
                f"--model_dir={folder}",
                *self.flags(**flags),
            ],
            folder,
            nccl,
        )

    def logs_of_gang(self, gang: Training) -> str:
        """Returns the logs of all workers of a gang."""
        files = sorted((gang.model_dir / "logs").glob("worker-*.log"))
        return "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)

    def program(
        self,
        name: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        tag: str = "",
    ) -> Run:
        """Starts one of our own programs; `tag` tells several runs of it apart."""
        return Run(program(name, *arguments), self.work / f"{name}{tag}", environment or {})

    def answer(self, run: Run) -> Any:
        """Waits for one of our own programs; returns the JSON in the last line of its output."""
        return json.loads(run.succeed().output.strip().splitlines()[-1])


TRAINER = [sys.executable, "-m", "trainer"]


def program(name: str, *arguments: str) -> list[str]:
    """Returns the command of one of our own programs."""
    return [sys.executable, "-m", f"scripts.prove.programs.{name}", *arguments]


def tail(text: str, lines: int = 3) -> str:
    """Returns the last lines of a text, in one line."""
    return " / ".join(line.strip()[:300] for line in text.strip().splitlines()[-lines:])


# --- The machine itself ---------------------------------------------------------------------------


def nvidia_smi(*arguments: str) -> str:
    """Returns the output of nvidia-smi, "" if there is none."""
    if not shutil.which("nvidia-smi"):
        return ""
    done = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=60)
    return done.stdout if done.returncode == 0 else ""


def count_gpus(environ: Mapping[str, str]) -> int:
    """Returns how many GPUs programs may use here."""
    return judge.visible_gpus(
        judge.gpus_listed(nvidia_smi("-L")), environ.get("CUDA_VISIBLE_DEVICES")
    )


class Utilization:
    """Asks nvidia-smi now and then how busy the GPUs are: call it often."""

    def __init__(self):
        self.samples: list[tuple[float, str]] = []

    def __call__(self) -> None:
        if not self.samples or time.time() - self.samples[-1][0] > 0.5:
            arguments = "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"
            self.samples.append((time.time(), nvidia_smi(*arguments)))


def processor() -> str:
    """Returns the name of the CPU and the number of cores that we may use."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
        name = re.search(r"^(?:model name|Processor)\s*: (.+)$", text, re.MULTILINE)
    except OSError:
        name = None
    return f"{name[1] if name else 'a CPU'}, {len(os.sched_getaffinity(0))} core(s)"


def end_marked(mark: str) -> int:
    """Kills every process whose environment has MARK=`mark`; returns how many there were."""
    ended, wanted = set(), f"{MARK}={mark}".encode()
    for _ in range(3):  # A process may start another one while we look.
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    os.kill(int(folder.name), signal.SIGKILL)
                    ended.add(folder.name)
            except (OSError, ValueError):
                continue  # It has ended, or belongs to somebody else.
    return len(ended)


# --- Data -----------------------------------------------------------------------------------------

CLASSES, WORDS = 3, 300


def write_rows(path: pathlib.Path, size: Size) -> None:
    """Writes labelled texts that a model can learn: most words of a text belong to its class."""
    chance = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(size.examples):
            label = chance.randrange(CLASSES)
            words = (
                chance.randrange(WORDS) * CLASSES
                + (label if chance.random() < 0.8 else chance.randrange(CLASSES))
                for _ in range(chance.randint(size.max_length // 4, size.max_length))
            )
            row = {"text": " ".join(f"w{word}" for word in words), "label": f"class{label}"}
            file.write(json.dumps(row) + "\n")


def prepare(work: pathlib.Path, size: Size) -> pathlib.Path:
    """Makes the dataset of all checks by the `prepare` command; returns its folder."""
    write_rows(work / "rows.jsonl", size)
    command = [*TRAINER, "prepare", "--source=jsonl", f"--raw_data={work / 'rows.jsonl'}"]
    Run(
        [*command, f"--data_dir={work / 'data'}", "--test_fraction=0.1"], work / "prepare", {}
    ).succeed()
    return work / "data"
