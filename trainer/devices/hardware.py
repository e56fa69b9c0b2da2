"""The device that a run computes on, by everything that can change the bits of its result.

Known without TensorFlow: supervisors compare it between workers, and a run compares it with the
attempt that it continues.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence

from trainer.devices import accelerator, nvidia
from trainer.flags.run import Run


def here(run: Run) -> dict[str, str]:
    """Returns `of` for this process."""
    return of(run, os.environ, accelerator.device_files(), accelerator.installed())


def of(
    run: Run,
    environ: Mapping[str, str],
    files: Sequence[str],
    distributions: Sequence[str],
    proc: pathlib.Path = nvidia.PROC,
) -> dict[str, str]:
    """Returns {what: value} of the device that a run will compute on.

    GPUs of another model, or with another driver or cuDNN, may round differently. Args are those of
    `accelerator.expected`; proc: the folder in which NVIDIA's driver describes itself.
    """
    kind = accelerator.expected(run.accelerator, run.strategy, environ, files, distributions)
    return {"accelerator": kind, **(nvidia.description(files, proc) if kind == "GPU" else {})}


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Returns what differs, as in `accelerator: CPU, now GPU; GPU: none, now NVIDIA L4`."""
    return "; ".join(
        f"{what}: {before.get(what, 'none')}, now {now.get(what, 'none')}"
        for what in {**before, **now}
        if before.get(what) != now.get(what)
    )
