"""e. Speed: only figures, which is why nothing here fails unless a figure cannot be taken."""

from scripts.prove import judge
from scripts.prove.machine import Machine, Training, Utilization
from scripts.prove.report import Found, Skipped

BATCHES = (64, 256, 1024)


def speed(machine: Machine, found: Found) -> None:
    """Takes examples/s and ms per step beside Keras fit, for batches, shards and jit."""
    batches = (machine.size.batch_size,) if machine.quick else BATCHES
    steps = machine.size.steps * (5 if machine.quick else 1)
    variants = {f"batch {batch}": {"batch_size": batch} for batch in batches}
    if not machine.quick:
        variants |= {
            "batch 256, shards 8": {"batch_size": 256, "shards": 8},
            "batch 256, jit on": {"batch_size": 256, "jit": "on"},
        }
    for name, flags in variants.items():
        # All rows have one length, as in Keras fit.
        run = machine.train(
            name, steps=steps, save_steps=steps, steps_per_loop=0, **{"bucket": "false", **flags}
        )
        _note(found, name, run, flags["batch_size"])
    device = "TPU" if machine.accelerator == "tpu" else f"{machine.accelerator.upper()}:0"
    if device == "TPU":
        found.figure("Keras fit", "not measured: it needs a TPUStrategy of its own")
        return
    for batch in batches:
        size = machine.size
        arguments = machine.data_dir, device, batch, size.max_length, size.units, steps
        run = machine.program("keras_fit", *map(str, arguments), tag=f"-{batch}")
        found.figure(f"Keras fit, batch {batch}", machine.answer(run))


def _note(found: Found, name: str, run: Training, batch: int) -> None:
    utilization = Utilization()
    if code := run.wait(utilization):
        found.expect(False, f"{name}: exit code {code}: {run.log.strip()[-300:]}")
        return
    events = run.events
    pace = judge.pace(events)
    if pace is None:
        found.expect(False, f"{name}: too short to take its speed")
        return
    window = judge.training_window(events)
    busy = judge.busy(utilization.samples, window) if window else None
    found.figure(
        name,
        {
            "examples_per_second": batch * pace.steps / pace.seconds,
            "ms_per_step": pace.ms_per_step,
            "input_ms": pace.input_ms,
            **({} if busy is None else {"gpu_busy_percent": busy}),
        },
    )
    found.figure(f"{name}, seconds to compile", judge.compile_seconds(events))


def first_step(machine: Machine, found: Found) -> None:
    """Takes the seconds from the start to the first step, with an empty cache and a full one."""
    if machine.accelerator != "gpu":
        raise Skipped("only a GPU's driver compiles kernels and keeps them")
    cache = {"CUDA_CACHE_PATH": str(machine.work / "cache"), "CUDA_CACHE_MAXSIZE": str(4 * 2**30)}
    for name in ("empty", "full"):
        run = machine.train(f"{name} cache", environment=cache, steps=1)
        run.succeed()
        seconds = judge.first_step(run.events, run.began)
        found.figure(f"seconds to the first step, {name} cache", seconds)
        found.expect(seconds is not None, f"{name} cache: the journal has no step")
    files = [file for file in (machine.work / "cache").rglob("*") if file.is_file()]
    found.figure("size of the cache, MB", sum(file.stat().st_size for file in files) / 1e6)
