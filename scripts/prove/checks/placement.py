"""b. Where a run computes: which kernel, how many copies to the host, how many batches ahead."""

import re

from scripts.prove import judge
from scripts.prove.machine import Machine
from scripts.prove.report import Found

# The loop reads its metrics once per call, and a call of one step may read a flag besides.
COPIES_PER_CALL, COPIES_PER_STEP = 2, 2


def check(machine: Machine, found: Found) -> None:
    """Expects the recurrence on the device, one shard, few copies and batches made ahead."""
    calls, steps = 5, machine.size.steps // 2
    run = machine.watched(
        "watched",
        "--placements",
        "--ahead",
        f"--profile={machine.work / 'profile'}",
        steps=calls * steps,
        steps_per_loop=steps,
    )
    seen = machine.seen(run)
    kind = machine.accelerator.upper()
    placed = judge.placements(run.output + run.log)
    found.figure("devices", seen["devices"])
    found.figure("nodes placed", len(placed))
    found.expect(bool(placed), "TensorFlow logged the device of no node")
    found.expect(
        all(kind in device for device in seen["devices"]),
        f"the run used {seen['devices']}, not a {kind}",
    )
    found.figure("layers", re.findall(r"(rnn_\d+: .*)", run.log))
    found.figure("shards", seen["shards"])
    found.figure("batches made ahead", seen["made_ahead"])
    found.expect(
        seen["made_ahead"] >= 2,
        f"only {seen['made_ahead']} batch(es) were made ahead, 2 are needed",
    )
    profiled = seen["profiled_steps"]
    found.figure("steps in the profile", profiled)
    found.expect(profiled > 0, "no call of the loop was profiled")
    found.figure("planes of the profile", sorted(seen["planes"]))
    if machine.accelerator == "cpu":
        outside = [each.node for each in placed if not each.device.startswith("CPU")]
        found.expect(not outside, f"nodes outside the CPU: {outside[:5]}")
        return
    found.expect(seen["shards"] == 1, f"{seen['shards']} shards on one device: 1 is fastest")
    if machine.accelerator == "gpu":
        on_gpu(seen, placed, profiled, found)


def on_gpu(seen: dict, placed: list[judge.Placed], profiled: int, found: Found) -> None:
    """Expects cuDNN's kernel on the GPU, few copies to the host, and memory that grows."""
    kernels = judge.devices_of(placed, "CudnnRNNV3")
    found.figure("CudnnRNNV3", kernels)
    found.expect(
        bool(kernels) and all(device.startswith("GPU") for device in kernels),
        f"CudnnRNNV3 is not on the GPU alone: {kernels or 'it is nowhere'}",
    )
    planes, steps = seen["planes"], max(1, profiled)
    ran = {
        name: count
        for name, count in judge.on_gpus(planes, "operations").items()
        if name.startswith("CudnnRNN")
    }
    found.figure("cuDNN operations in the profile", ran)
    copies = judge.copies_to_host(planes)
    found.figure("copies to the host per step", copies / steps)
    found.expect(
        copies <= COPIES_PER_STEP * steps + COPIES_PER_CALL,
        f"{copies} copies to the host in {steps} steps: at most {COPIES_PER_STEP} per step are "
        "expected",
    )
    found.figure("kernels launched per step", judge.launches(planes) / steps)
    found.expect(judge.launches(planes) > 0, "the profile shows no kernel on a GPU")
    found.figure(
        "GPU busy in the profiled call",
        {name: parts["busy"] for name, parts in planes.items() if "GPU:" in name},
    )
    found.figure("transfers in the profile", judge.transfers(planes))
    memory = seen["memory"]
    used = {name: memory[name] / 1e6 for name in ("current", "peak")}
    found.figure("GPU memory of TensorFlow, MB", used)
    found.expect(
        memory["grows"], "TensorFlow takes all memory of the GPU: a second process cannot start"
    )
