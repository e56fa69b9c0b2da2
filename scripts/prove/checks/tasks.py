"""i. The other tasks: a language model in streams and a translation, from training to export."""

import random
import re

from scripts.prove import judge
from scripts.prove import machine as machines
from scripts.prove.checks import truth
from scripts.prove.machine import TRAINER, Machine, Run
from scripts.prove.report import Found

WORDS = 200
# {task: the flags of its runs}: streams carry state, pairs have a decoder that attends.
TASKS = {
    "language_model": {"tied_embedding": "true", "max_length": 32},
    "translation": {"bidirectional": "true", "cell": "gru", "translate_examples": 0},
}
SERVED = {"translation": ["--beam=3"]}


def check(machine: Machine, found: Found) -> None:
    """Expects of each task equal bits with and without a stop, losses as on a CPU, an export."""
    for task, flags in TASKS.items():
        flags = {**flags, "data_dir": _prepare(machine, task)}
        run = machine.train(f"{task} 1", **flags)
        digests = [run.digest()]
        if pace := judge.pace(run.events):
            found.figure(f"{task}, ms per step", pace.ms_per_step)
        found.figure(f"{task}, seconds to compile", judge.compile_seconds(run.events))
        half = {**flags, "steps": machine.size.steps // 2}
        machine.train(f"{task} 2", **half).succeed()
        digests.append(machine.train(f"{task} 2", **flags).digest())
        found.figure(f"{task}, digests", [digest[:16] for digest in digests])
        found.expect(
            digests[0] == digests[1], f"{task}: a run in two parts ends with another state"
        )
        _losses(machine, found, task, flags)
        for command in ("evaluate", "export"):
            _serve(machine, found, task, command)


def _losses(machine: Machine, found: Found, task: str, flags: dict) -> None:
    """Compares losses with those of a CPU; on a CPU there is nothing to compare with."""
    if machine.accelerator == "cpu":
        return
    seen = [
        machine.seen(machine.watched(f"{task} {name}", **{**flags, **truth.PLAIN, **where}))
        for name, where in (
            ("cpu", {"accelerator": "cpu"}),
            ("highest", {"matmul_precision": "highest"}),
            ("default", {}),
        )
    ]
    for name, bound, other in zip(
        ("highest", "default"), (truth.HIGHEST, truth.DEFAULT[machine.accelerator]), seen[1:]
    ):
        difference = judge.largest_difference(other["losses"], seen[0]["losses"])
        found.figure(f"{task}, largest difference of {truth.STEPS} losses, {name}", difference)
        found.expect(
            difference <= bound,
            f"{task}, {name} precision: a loss differs by {difference:.3g}, at most {bound} is "
            "allowed",
        )


def _serve(machine: Machine, found: Found, task: str, command: str) -> None:
    """Evaluates or exports a run of the task on the device."""
    words = [f"--model_dir={machine.work / f'{task} 1'}", *SERVED.get(task, [])]
    words.append(f"--accelerator={machine.accelerator}")
    if command == "export":
        words.append(f"--export_dir={machine.work / f'{task} export'}")
    run = Run([*TRAINER, command, *words], machine.work / f"{task}-{command}", {})
    code = run.wait()
    found.figure(f"{task}, {command}", run.output.strip().splitlines()[:12])
    found.expect(code == 0, f"{task}: {command} ends with {code}: {machines.tail(run.log)}")
    for difference in map(float, re.findall(r"max_difference (\S+)", run.output)):
        found.expect(difference <= truth.EXPORT, f"{task}: its export differs by {difference:.3g}")


def _prepare(machine: Machine, task: str):
    """Makes a dataset of the task; a translation is its source backwards, in other words."""
    chance, size = random.Random(0), machine.size
    sources = [
        [chance.randrange(WORDS) for _ in range(chance.randint(2, 12))]
        for _ in range(size.examples // 2)
    ]
    lines = {"raw_data": [" ".join(f"w{word}" for word in row) for row in sources]}
    if task == "translation":
        lines["target_data"] = [" ".join(f"t{word}" for word in row[::-1]) for row in sources]
    words = ["--source=parallel" if len(lines) > 1 else "--source=text", f"--task={task}"]
    for flag, rows in lines.items():
        path = machine.work / f"{task}.{flag}.txt"
        path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
        words.append(f"--{flag}={path}")
    data_dir = machine.work / f"{task} data"
    words += [f"--data_dir={data_dir}", "--validation_fraction=0.1", "--test_fraction=0.1"]
    Run([*TRAINER, "prepare", *words], machine.work / f"{task}-prepare", {}).succeed()
    return data_dir
