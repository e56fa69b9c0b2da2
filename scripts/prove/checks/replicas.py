"""f. Several devices in one process: sums between the devices, equal states, scaling."""

from scripts.prove import judge
from scripts.prove.machine import Machine
from scripts.prove.report import Found, Skipped


def check(machine: Machine, found: Found) -> None:
    """Expects equal copies of the state, and on GPUs NCCL and no sum on a CPU."""
    on_gpu = machine.accelerator == "gpu"
    if machine.accelerator == "tpu":
        raise Skipped("a TPU always uses all of its cores: see the checks of h")
    if on_gpu and machine.gpus < 2:
        raise Skipped(f"this machine has {machine.gpus} GPU(s); 2 are needed")
    counts = [2] if not on_gpu else [count for count in (2, 4) if count <= machine.gpus]
    steps = machine.size.steps
    batch = machine.size.batch_size * (1 if machine.quick else 4)
    rates = {}
    for devices in counts if machine.quick else [1, *counts]:
        run = machine.watched(
            f"{devices} devices",
            *(["--placements"] if devices > 1 else []),
            environment={"NCCL_DEBUG": "INFO"} if on_gpu else {},
            devices=devices,
            batch_size=batch,
            steps=steps,
            steps_per_loop=max(1, steps // 5),
        )
        seen = machine.seen(run)
        rates[devices] = _rate(seen["calls"], batch)
        found.figure(f"{devices} devices, examples per second", rates[devices])
        if devices == 1:
            continue
        found.expect(len(seen["devices"]) == devices, f"--devices={devices} used {seen['devices']}")
        found.expect(
            not seen["unequal"],
            f"{devices} devices: the copies differ in {', '.join(seen['unequal'][:5])}",
        )
        if on_gpu:
            on_gpus(found, devices, run.output + run.log)
    if 1 in rates:
        found.figure("times as fast as one device", {str(n): rates[n] / rates[1] for n in counts})
    if on_gpu and machine.gpus < 4:
        found.figure("4 devices", f"skipped: this machine has {machine.gpus} GPUs")


def on_gpus(found: Found, devices: int, log: str) -> None:
    """Expects NCCL, and no sum of gradients on a CPU."""
    placed = judge.placements(log)
    reduced = judge.devices_of(placed, "CollectiveReduceV2")
    found.figure(f"{devices} devices, CollectiveReduceV2", reduced)
    found.expect(judge.uses_nccl(log), f"{devices} devices: the log shows no NCCL")
    found.expect(
        not judge.sums_on_cpu(placed),
        f"{devices} devices: gradients are added on a CPU: {judge.sums_on_cpu(placed)[:3]}",
    )


def _rate(calls: list[dict], batch: int) -> float:
    """Returns examples per second of the calls after the first two, which compile."""
    timed = calls[2:] or calls[-1:]
    return batch * sum(call["steps"] for call in timed) / sum(call["seconds"] for call in timed)
