"""c. Bits: equal runs in fresh processes, with and without kills, for every cell and precision."""

import itertools

from scripts.prove import judge
from scripts.prove.machine import Machine
from scripts.prove.report import Found

CELLS, PRECISIONS = ("lstm", "gru", "simple_rnn"), ("float32", "bfloat16", "float16")
# --quick has each cell and each precision once, in `repeats` (lstm, float32), `cells` and `kills`.
QUICK, QUICK_KILLS = (("simple_rnn", "float16"),), {"cell": "gru", "precision": "bfloat16"}
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def repeats(machine: Machine, found: Found) -> None:
    """Expects equal digests of equal runs; the variable of cuBLAS is left out in two more."""
    digests = []
    for number in range(machine.size.repeats):
        # One after the other: what else runs on a device must not matter, but here nothing does.
        digests.append(machine.train(f"repeat{number}").digest())
        found.figure(f"digest {number + 1}", digests[-1])
    found.expect(
        len(set(digests)) == 1,
        f"{len(digests)} equal runs of {machine.size.steps} steps end with "
        f"{len(set(digests))} different states",
    )
    if machine.accelerator != "gpu":
        return  # The variable has no effect.
    # Empty, because the trainer sets the variable only if it is not there.
    pair = [
        machine.train(f"default{number}", environment={WORKSPACE: ""}).digest() for number in (1, 2)
    ]
    found.figure(f"digests without {WORKSPACE}", pair)
    found.figure(f"equal without {WORKSPACE}", pair[0] == pair[1])
    found.figure(f"the same with and without {WORKSPACE}", set(pair) == set(digests))


def kills(machine: Machine, found: Found) -> None:
    """Expects the digest of an undisturbed run after SIGKILL at random steps."""
    size = machine.size
    # Long enough for every kill to fall into the run: a step takes milliseconds.
    steps = size.steps * (10 if machine.quick else 5)
    run = machine.call(
        "chaos",
        "chaos",
        f"--kills={size.kills}",
        steps=steps,
        save_steps=max(5, steps // 40),
        **(QUICK_KILLS if machine.quick else {}),
    )
    code = run.wait()
    found.figure("chaos", run.output.strip().splitlines())
    made = judge.kills(run.output)
    found.figure("kills", made)
    found.expect(code == 0, f"trainer chaos ended with exit code {code}: {run.log.strip()[-300:]}")
    found.expect(
        made == size.kills,
        f"{made} of {size.kills} kills fell into the run: it was too short on this machine",
    )


def cells(machine: Machine, found: Found) -> None:
    """Expects that two runs of each cell in each precision succeed and end with equal digests.

    The two run side by side on one device, so this also shows that two processes fit on it.
    """
    combinations = QUICK if machine.quick else itertools.product(CELLS, PRECISIONS)
    for cell, precision in combinations:
        name = f"{cell} {precision}"
        if machine.accelerator == "tpu" and precision == "float16":
            found.figure(name, "not on a TPU")
            continue
        flags = {"cell": cell, "precision": precision}
        if machine.accelerator == "tpu":  # One process holds all cores.
            digests = [machine.train(f"{name} {number}", **flags).digest() for number in (1, 2)]
        else:
            runs = [machine.train(f"{name} {number}", **flags) for number in (1, 2)]
            digests = [run.digest() for run in runs]
        found.figure(name, digests[0][:16] if digests[0] == digests[1] else digests)
        found.expect(digests[0] == digests[1], f"{name}: two equal runs end with different states")
