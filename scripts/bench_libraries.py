"""What the contenders of `bench_language`, `bench_translation` and `bench_rows` share: our own."""

import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence

PROJECT = pathlib.Path(__file__).resolve().parent.parent
TRAINER = (sys.executable, "-m", "trainer")
WARM = 6  # Steps that do not count.


def prepared(folder: pathlib.Path, flags: Sequence[str]) -> str:
    """Prepares a dataset in `folder`; returns its folder."""
    subprocess.run(
        [*TRAINER, "prepare", *flags, f"--data_dir={folder}/data"],
        cwd=PROJECT,
        check=True,
        stderr=subprocess.DEVNULL,
    )
    return f"{folder}/data"


def trained_rate(
    data_dir: str, steps: int, per_step: int, shards: int, flags: Sequence[str]
) -> float:
    """Trains as a user does, on as many threads as shards; returns what it did in a second.

    per_step: how much a step does of what is counted, for example tokens.
    """
    from scripts import bench

    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                *(*TRAINER, "train", f"--data_dir={data_dir}", f"--model_dir={folder}/m"),
                *(f"--steps={steps + 2 * WARM}", "--eval_steps=-1", f"--steps_per_loop={WARM}"),
                *(f"--threads={shards}", f"--shards={shards}", *flags),
            ],
            cwd=PROJECT,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return bench.journaled_rate(f"{folder}/m", per_step)
