"""h. What only a TPU shows; `kills` and `losses` have its kills and its truth."""

from scripts.prove import judge
from scripts.prove.checks import truth
from scripts.prove.machine import Machine
from scripts.prove.report import Found, Skipped

LENGTHS = (64, 128, 256)


def _needs_tpu(machine: Machine) -> None:
    if machine.accelerator != "tpu":
        raise Skipped("this proof does not run on a TPU")


def cells(machine: Machine, found: Found) -> None:
    """Takes the seconds of initialisation and of the first step of each cell."""
    _needs_tpu(machine)
    for cell in ("lstm", "gru", "simple_rnn"):
        run = machine.train(cell, cell=cell, steps=1)
        run.succeed()
        lap = next(event["seconds"] for event in run.events if event["event"] == "devices")
        found.figure(
            cell,
            {
                "initialisation": lap,
                "first_step": judge.first_step(run.events, run.began),
                **judge.compile_seconds(run.events),
            },
        )


def lengths(machine: Machine, found: Found) -> None:
    """Takes steps and bytes per call and ms per step, for rows of each length."""
    _needs_tpu(machine)
    for length in LENGTHS:
        seen = machine.seen(
            machine.watched(
                f"length {length}",
                f"--profile={machine.work / f'profile {length}'}",
                max_length=length,
                padding="pre",
            )
        )
        calls = seen["calls"][2:]
        found.expect(bool(calls), f"length {length}: too few calls to take the time of a step")
        steps = sum(call["steps"] for call in calls)
        found.figure(
            f"length {length}",
            {
                "ms_per_step": 1000 * sum(call["seconds"] for call in calls) / max(1, steps),
                "steps_per_call": steps / max(1, len(calls)),
                "bytes_of_a_stack": seen["stack_bytes"],
                **judge.transfers(seen["planes"]),
            },
        )


def precision(machine: Machine, found: Found) -> None:
    """Takes how far float32 at the default precision is from the highest."""
    _needs_tpu(machine)
    found_losses = [
        machine.seen(machine.watched(name, matmul_precision=name, **truth.PLAIN))["losses"]
        for name in ("default", "highest")
    ]
    difference = judge.largest_difference(*found_losses)
    found.figure(f"largest difference of {truth.STEPS} losses", difference)
    found.expect(difference <= truth.DEFAULT["tpu"], f"a loss differs by {difference:.3g}")
