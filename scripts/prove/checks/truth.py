"""d. Truth: the device computes what the CPU computes."""

import re

from scripts.prove import judge
from scripts.prove.machine import TRAINER, Machine, Run
from scripts.prove.report import Found, Skipped

STEPS = 20
# Products in TF32 have 10 bits of fraction, those of a TPU in bfloat16 7.
DEFAULT = {"cpu": 1e-5, "gpu": 1e-3, "tpu": 1e-2}
HIGHEST = EXPORT = RECURRENCES = 1e-5
# Not adam: it divides a gradient by its size, so that noise in small gradients grows.
PLAIN = {"optimizer": "sgd", "learning_rate": 0.1, "steps": STEPS}


def losses(machine: Machine, found: Found) -> None:
    """Expects the losses of the CPU on the device, and an export that computes what it trained.

    On a CPU it compares the two implementations of a step: compiled by XLA, and Keras' layers.
    """
    if machine.accelerator == "cpu":
        reference = machine.watched("reference", jit="off", **PLAIN)
        runs = {"default": machine.watched("default", jit="on", **PLAIN)}
    else:
        reference = machine.watched("reference", accelerator="cpu", **PLAIN)
        runs = {
            precision: machine.watched(precision, matmul_precision=precision, **PLAIN)
            for precision in ("default", "highest")
        }
    expected = machine.seen(reference)["losses"]
    bounds = {"default": DEFAULT[machine.accelerator], "highest": HIGHEST}
    for precision, run in runs.items():
        difference = judge.largest_difference(machine.seen(run)["losses"], expected)
        found.figure(f"largest difference of {STEPS} losses, {precision} precision", difference)
        found.expect(
            difference <= bounds[precision],
            f"{precision} precision: a loss differs by {difference:.3g}, at most "
            f"{bounds[precision]} is allowed",
        )
    _export(machine, found, runs["default"].model_dir)


def _export(machine: Machine, found: Found, model_dir) -> None:
    command = [*TRAINER, "export", f"--model_dir={model_dir}", f"--data_dir={machine.data_dir}"]
    run = Run([*command, f"--export_dir={machine.work / 'export'}"], machine.work / "exported", {})
    code = run.wait()
    differences = list(map(float, re.findall(r"max_difference (\S+)", run.output)))
    found.figure("largest difference of the export", max(differences, default="none"))
    found.expect(
        code == 0 and bool(differences) and max(differences) <= EXPORT,
        f"the export of this run fails (exit code {code}, differences {differences}): "
        f"{run.log.strip()[-300:]}",
    )


def recurrences(machine: Machine, found: Found) -> None:
    """Expects that the layers of Keras, cuDNN's on a GPU, compute what our recurrences do."""
    kind = machine.accelerator.upper()
    if kind == "TPU":
        raise Skipped("on a TPU every layer is ours; `losses` compares it with the CPU")
    cells = ("lstm",) if machine.quick else ("lstm", "gru", "simple_rnn")
    for cell, seen in machine.answer(machine.program("recurrences", f"{kind}:0", *cells)).items():
        found.figure(cell, seen)
        worst = max(seen["hidden"], seen["gradient"])
        found.expect(worst <= RECURRENCES, f"{cell}: differs by {worst:.3g} from Keras' layer")
        found.expect(
            seen["cudnn"] or kind != "GPU" or cell == "simple_rnn",
            f"{cell}: the layer of Keras does not use cuDNN's kernel",
        )
