"""Supervisors whose training process needs no TensorFlow and starts in milliseconds, for tests.

`python -m tests.gang.fake_gang supervise SILENCE FLAGS` supervises as `python -m trainer train
FLAGS` does, but its training process is `python -m tests.gang.fake_gang child FLAGS`, and a peer
counts as lost after SILENCE seconds.

The child "trains" by counting: --steps steps of 20 ms each; rank 0 commits a "checkpoint" every
--save_steps. FAKE_PLAN in its environment adds faults: {"WORKER.GENERATION": {MOMENT: WHAT}}. A
generation of * means any. MOMENT is a phase, "step S", "stop", "reform" or "end"; WHAT is "sleep",
"exit CODE" or a signal that the child sends itself.
"""

import asyncio
import faulthandler
import json
import os
import pathlib
import signal
import sys
import time

from trainer import channel, resuming
from trainer.exit_codes import TrainerError
from trainer.flags import parsing
from trainer.flags import run as config
from trainer.gang import member, supervisor
from trainer.model_folder import commits
from trainer.stopping import StopRequest

STEP_SECONDS = 0.02


def _config(arguments) -> config.Config:
    sections = tuple(config.TRAIN_SECTIONS.values())
    return config.from_flat(parsing.parse("train", list(arguments), {"train": sections}).values)


def _command(settings: config.Config, start: member.Start) -> list[str]:
    command = supervisor.train_command(settings, start)
    return [command[0], "-m", "tests.gang.fake_gang", "child", str(start.generation), *command[4:]]


def _supervise(silence: str, arguments) -> int:
    stop = StopRequest.on_signals()
    from trainer.main import _log_to_stderr

    _log_to_stderr()
    try:
        return asyncio.run(
            supervisor.Supervisor(_config(arguments), os.environ, _command, float(silence)).run(
                stop
            )
        )
    except TrainerError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return problem.code


def _write(path: pathlib.Path, text: str) -> None:
    """Writes the whole file or nothing: a child may be killed at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def _commit(folder: pathlib.Path, step: int) -> str:
    digest = f"{step:064x}"
    _write(
        folder / "checkpoints" / f"step-{step:08d}" / "MANIFEST.json",
        json.dumps(
            {
                "format": commits.FORMAT,
                "step": step,
                "attempt": 1,
                "state_digest": digest,
                "config_digest": "c",
                "dataset_digest": "d",
                "files": {f"{commits.PAYLOAD}.index": {"size": 0, "sha256": ""}},
            }
        ),
    )
    return digest


def _at(plan: dict, moment: str) -> None:
    """Does what the plan of this process, {"MOMENT": WHAT}, has for this moment."""
    what = plan.get(moment)
    if what is None:
        return
    print(f"fake child: {what} at {moment}", file=sys.stderr, flush=True)
    if what == "sleep":
        while True:
            time.sleep(3600)
    if what.startswith("exit "):
        sys.exit(int(what.removeprefix("exit ")))
    os.kill(os.getpid(), getattr(signal, what))


def _child(generation: str, arguments) -> int:
    channel.end_with_supervisor(os.environ)
    faulthandler.register(signal.SIGUSR1)
    wire = channel.Channel.from_environment(os.environ)
    run = _config(arguments)
    folder, worker = pathlib.Path(run.folders.model_dir), os.environ["RNN_TRAINER_WORKER"]
    rank = json.loads(os.environ.get("TF_CONFIG", '{"task": {"index": 0}}'))["task"]["index"]
    plans = json.loads(os.environ.get("FAKE_PLAN", "{}"))
    plan = plans.get(f"{worker}.{generation}", plans.get(f"{worker}.*", {}))
    _write(
        folder / "started" / f"{worker}.{generation}",
        json.dumps(
            {
                "pid": os.getpid(),
                "time": time.time(),
                "arguments": arguments,
                "tf_config": os.environ.get("TF_CONFIG"),
            }
        ),
    )
    for phase in ("import", "meet", "restore", "compile"):
        wire.beat(phase)
        _at(plan, phase)
    if rank == 0:
        _write(folder / "config.json", resuming.to_json(run))
    found = commits.newest(folder)
    step = found.step if found else 0
    while step < run.run.steps:
        wire.beat("train", step)
        _at(plan, "train")
        _at(plan, f"step {step}")
        asked = wire.asked()
        if asked:
            _at(plan, asked["ask"])
            wire.beat("save", step)
            digest = _commit(folder, step)
            if asked["ask"] == "reform":
                return 75
            print(f"stopped step={step} state_digest={digest}", flush=True)
            return 128 + asked["signal"]
        time.sleep(STEP_SECONDS)
        step += 1
        if rank == 0 and step % run.run.save_steps == 0:
            _commit(folder, step)
    _at(plan, "end")
    print(f"done step={step} state_digest={_commit(folder, step)}", flush=True)
    return 0


if __name__ == "__main__":
    role, first, *rest = sys.argv[1:]
    sys.exit({"supervise": _supervise, "child": _child}[role](first, rest))
