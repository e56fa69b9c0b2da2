"""f, g. Two workers on this machine: recovery after a kill, speed of sums, a stop in time."""

import json
import os
import signal
import time

from scripts.prove import judge
from scripts.prove import machine as machines
from scripts.prove.machine import Machine, Training
from scripts.prove.report import Found, Skipped
from trainer.launch import local

GRACE_SECONDS = 30  # The default of --grace_seconds.


def _needs_two(machine: Machine) -> None:
    if machine.accelerator == "tpu":
        raise Skipped("a TPU host is one worker")
    if machine.accelerator == "gpu" and machine.gpus < 2:
        raise Skipped(f"this machine has {machine.gpus} GPU(s); 2 workers need one each")


def recovery(machine: Machine, found: Found) -> None:
    """Expects that a gang whose chief is killed ends like one that was left alone."""
    _needs_two(machine)
    steps = machine.size.steps * (10 if machine.quick else 5)
    flags = {"steps": steps, "save_steps": max(5, steps // 20), "steps_per_loop": 1}
    if machine.quick:
        flags["cell"] = "simple_rnn"  # The fastest to compile.
    killed = machine.gang("killed", 2, **flags)
    if not killed.wait_for(lambda events: any(event["event"] == "save" for event in events)):
        raise RuntimeError(f"the gang ended before its first save: {machines.tail(killed.log)}")
    start = [event for event in killed.events if event["event"] == "start"][-1]
    at = time.time()
    os.kill(start["pid"], signal.SIGKILL)
    digest = killed.digest()
    seconds = judge.first_step(killed.events, at, start["attempt"])
    found.figure("seconds from the kill to the next step", seconds)
    found.expect(seconds is not None, "no attempt after the kill made a step")
    found.figure("digest after the kill", digest)
    logs = killed.output + machine.logs_of_gang(killed)
    found.figure("out of memory after the restart", judge.out_of_memory(logs))
    found.expect(not judge.out_of_memory(logs), "the restarted worker found no memory on its GPU")
    if machine.accelerator == "gpu":
        found.expect(judge.uses_nccl(logs), "the logs of the workers show no NCCL")
    if machine.quick:
        return  # The chaos of `kills` compares; here it would take a third of a quick proof.
    undisturbed = machine.gang("undisturbed", 2, **flags).digest()
    found.figure("digest without a kill", undisturbed)
    found.expect(digest == undisturbed, "the killed gang ends with another state")


def exchange(machine: Machine, found: Found) -> None:
    """Takes the GB/s of a sum over two workers."""
    _needs_two(machine)
    sizes = ["5"] if machine.quick else ["5", "80"]
    addresses = [f"127.0.0.1:{port}" for port in local.free_ports(2)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0,1").split(",")
    runs = []
    for index in (0, 1):
        cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = {"TF_CONFIG": json.dumps(cluster)}
        if machine.accelerator == "gpu":
            environment |= {"CUDA_VISIBLE_DEVICES": visible[index], "NCCL_DEBUG": "INFO"}
        arguments = machine.accelerator, *sizes
        runs.append(
            machine.program("exchange", *arguments, environment=environment, tag=f"-{index}")
        )
    for size, seen in machine.answer(runs[0]).items():
        found.figure(f"{size} MB", seen)
    runs[1].succeed()
    if machine.accelerator == "gpu":
        log = runs[0].output + runs[0].log
        found.expect(judge.uses_nccl(log), "the sums of two workers do not use NCCL")


def stop(machine: Machine, found: Found) -> None:
    """Expects that SIGTERM ends a gang with a checkpoint, within the grace period."""
    _needs_two(machine)
    gang = machine.gang("stopped", 2, steps=10**6, save_steps=10**6, cell="simple_rnn")
    if not gang.wait_for(lambda events: any(event["event"] == "loop" for event in events)):
        raise RuntimeError(f"the gang ended before its first step: {machines.tail(gang.log)}")
    began = time.monotonic()
    gang.send(signal.SIGTERM)
    code = gang.wait()
    seconds = time.monotonic() - began
    found.figure("seconds from SIGTERM to the end", seconds)
    found.figure("exit code", code)
    found.expect(seconds < GRACE_SECONDS, f"took {seconds:.1f} s of {GRACE_SECONDS} s")
    found.expect(code == 143, f"ended with exit code {code}, not 143: {machines.tail(gang.log)}")
    saved = _saves(gang)
    found.figure("checkpoint at step", saved[-1] if saved else "none")
    found.expect(bool(saved), "no checkpoint was written")
    if machine.accelerator == "gpu":
        query = "--query-compute-apps=pid,used_memory", "--format=csv,noheader"
        found.figure("processes on the GPUs after the stop", machines.nvidia_smi(*query).strip())


def _saves(gang: Training) -> list[int]:
    return [event["step"] for event in gang.events if event["event"] == "save"]
