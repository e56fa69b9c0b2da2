"""Faults and recoveries of a gang, whose workers count instead of training."""

import re
import signal
import subprocess
import sys
import time

import pytest

from tests import commands
from trainer.chaos import command as chaos
from trainer.chaos import faults, trials
from trainer.flags import run as config
from trainer.flags.use import Chaos
from trainer.launch import local

# A supervisor and its child. Supervisors agree by files: if GENERATION grows, all restart their
# children; if STOP holds the generation, all exit 143. The child of worker 0 waits for the other
# children of its generation, then counts to 150 and saves every 20; the others wait for its end.
WORKER = """
import ctypes, hashlib, os, pathlib, re, signal, subprocess, sys, time
from trainer.model_folder.journal import Journal, read
ctypes.CDLL(None).prctl(1, 9)
text = " ".join(sys.argv)
folder = pathlib.Path(re.findall("--model_dir=([^ ]*)", text)[-1])
index = int(re.findall("--worker_index=([0-9]+)", text)[-1])
workers = int(re.findall("--num_workers=([0-9]+)", text)[-1])
def number(name):
    try:
        return int((folder / name).read_text())
    except (FileNotFoundError, ValueError):
        return 0
def put(name, value):
    (folder / f"{name}-{index}.tmp").write_text(str(value))
    (folder / f"{name}-{index}.tmp").replace(folder / name)
def is_stopped(pid):
    return ") T " in pathlib.Path(f"/proc/{pid}/stat").read_text()

def supervise():
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # The launcher blocks it.
    put("GENERATION", number("GENERATION") + 1)
    while True:
        generation, frozen = number("GENERATION"), 0
        child = subprocess.Popen([sys.executable, __file__, *sys.argv[1:], f"--child={generation}"])
        while (
            child.poll() is None
            and number("GENERATION") == generation
            and number("STOP") != generation
        ):
            time.sleep(0.02)
            frozen = frozen + 1 if is_stopped(child.pid) else 0
            if frozen > 15:
                child.kill()
            if asked:
                put("STOP", generation)
        if number("STOP") == generation:
            child.kill()
            sys.exit(143)
        if child.poll() == 0:
            sys.exit(0)
        if child.poll() is not None:
            put("GENERATION", max(generation + 1, number("GENERATION")))
        child.kill()
        child.wait()

def chief():
    attempt = 1 + max((event["attempt"] for event in read(folder / "journal.jsonl")), default=0)
    journal = Journal(folder / "journal.jsonl", attempt)
    journal.lap("launch")
    step = number("STATE")
    journal.lap("restore", step=step)
    journal.lap("start", step=step, total=150)
    while any(number(f"HERE-{other}") != generation for other in range(workers)):
        time.sleep(0.01)
    while step < 150:
        time.sleep(0.01)
        step += 1
        if step % 10 == 0:
            journal.lap("loop", step=step, steps=10)
        if step % 20 == 0:
            put("STATE", step)
            journal.write("save", step=step)
    put("STATE", step)
    put("DONE", 1)
    journal.lap("stop", code=0)
    seed = re.findall("--seed=([0-9]+)", text)[-1]
    if (folder.parent.parent / "differ").exists():
        seed += folder.name
    print("done step=150 state_digest=" + hashlib.sha256(seed.encode()).hexdigest(), flush=True)

generation = int((re.findall("--child=([0-9]+)", text) or [0])[-1])
if not generation:
    supervise()
put(f"HERE-{index}", generation)
if index == 0:
    chief()
else:
    while not number("DONE"):
        time.sleep(0.02)
"""


@pytest.fixture
def gang(tmp_path, monkeypatch):
    """The configuration of a gang of such workers."""
    path = tmp_path / "worker.py"
    path.write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(commands.PROJECT))
    monkeypatch.setattr(local, "PROGRAM", (sys.executable, str(path)))
    monkeypatch.setattr(faults, "FROZEN_SECONDS", (0.05, 1.0))
    flags = {"model_dir": str(tmp_path / "model"), "local_network": commands.local_network()}
    yield lambda seed: config.from_flat({**flags, "seed": seed})
    assert subprocess.run(["pgrep", "--full", str(path)], stdout=subprocess.PIPE).stdout == b"", (
        "a process was left behind"
    )


@pytest.mark.parametrize("seed", [1, 2])
def test_a_disturbed_gang_is_compared_with_an_undisturbed_one(gang, tmp_path, capfd, seed):
    assert chaos.run(gang(seed), Chaos(kills=3, workers=2)) == 0
    *told, goodput, undisturbed, disturbed = capfd.readouterr().out.splitlines()
    kinds = "|".join(faults.KINDS)
    for number, line in enumerate(told, start=1):
        assert re.fullmatch(
            rf"fault {number} ({kinds}) worker [01] at step \d+: "
            r"(first new step after \d+\.\d\d s|the job ended without another step)",
            line,
        ), line
    assert re.fullmatch(r"goodput undisturbed \d\.\d+ disturbed \d\.\d+", goodput)
    assert re.fullmatch(
        "undisturbed [0-9a-f]{64}", undisturbed
    ) and disturbed == "dis" + undisturbed.removeprefix("undis")
    assert {path.name for path in (tmp_path / "model/chaos/disturbed/logs").iterdir()} == {
        "worker-0.log",
        "worker-1.log",
    }


def test_different_digests_exit_1(gang, tmp_path, capfd):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/differ").touch()
    assert chaos.run(gang(1), Chaos(kills=0, workers=2)) == 1
    undisturbed, disturbed = capfd.readouterr().out.splitlines()[-2:]
    assert undisturbed.split()[1] != disturbed.split()[1]


@pytest.mark.parametrize("kind", faults.KINDS)
def test_every_kind_of_fault_hits_what_its_name_says(gang, kind):
    job = trials.GangTrial("disturbed", gang(1), 2)
    job.folder.mkdir(parents=True)
    try:
        job.start()
        while not job.events("loop"):
            assert job.poll() is None
            time.sleep(0.02)
        before = faults.progress(job.events("loop"))[0]
        supervisor, training = job.supervisor(1), job.training(1)
        assert faults.inject(kind, job, 1) == (
            training if kind.endswith("training") else supervisor
        )
        if kind == "freeze_training":
            assert faults.send(training, signal.SIGCONT)
        assert len(job.digest()) == 64
        assert (faults.progress(job.events("loop"))[0] > before) == (kind != "freeze_training")
    finally:
        job.end()


def loop(seconds, attempt):
    return {"time": f"2026-01-01T00:00:{seconds:06.3f}+00:00", "attempt": attempt, "event": "loop"}


AT = trials.since_epoch(loop(10, 1))
RECOVERIES = [
    # thaws, loops, seconds
    (None, [], None),
    (None, [loop(5, 2)], None),
    # The attempt that was disturbed may have written its line a moment late.
    (None, [loop(11, 2)], None),
    (None, [loop(11, 2), loop(22.5, 3), loop(30, 3)], 12.5),
    (None, [loop(22.5, 4)], 12.5),
    (15, [loop(14, 2)], None),
    (15, [loop(14, 2), loop(16, 2)], 6),
    (15, [loop(14, 3)], 4),
]


@pytest.mark.parametrize("thaws, loops, seconds", RECOVERIES)
def test_a_gang_has_recovered_with_the_first_new_step(thaws, loops, seconds):
    fault = faults.Fault(1, "kill_worker", 0, 99, AT, thaws and AT + thaws - 10, attempt=2, step=40)
    assert faults.recovered_after(fault, loops) == (seconds and pytest.approx(seconds))


def test_a_process_that_is_gone_takes_no_signal():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert not faults.send(process.pid, signal.SIGCONT)
