"""Runs `trainer train` and watches its steps: losses, speed, placement, a profile of one call.

    python -m scripts.prove.programs.watch --report=FILE [--placements] [--profile=DIR] -- train ...

The trainer itself is not changed: this program wraps what `steps.training.train_steps` returns.
With --placements TensorFlow logs the device of every node. With --profile the third call of the
compiled loop is profiled; the calls before it compile.
"""

import argparse
import contextlib
import hashlib
import io
import json
import pathlib
import sys
import time
from typing import Any

from trainer.main import main as trainer

PROFILED_CALL = 2  # From 0; calls that only trace are not counted.
TAKEN = 20  # tf.data makes more batches ahead once it has seen that somebody waits for them.


class Watched:
    """Train steps that note what each call did; everything else is as it was."""

    def __init__(self, inner: Any, profile: str):
        self._inner = inner
        self._profile = profile
        self.calls: list[dict] = []
        self.losses: list[float] = []
        self.planes: dict[str, dict] = {}
        self.profiled_steps = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def run(self, source: Any, steps: int) -> Any:
        """Runs steps as the wrapped object does."""
        import tensorflow as tf

        from trainer.tasks.table import COUNT, LOSS_SUM

        profiled = bool(self._profile) and steps > 0 and len(self.calls) == PROFILED_CALL
        if profiled:
            tf.profiler.experimental.start(self._profile)
        began = time.monotonic()
        metrics = self._inner.run(source, steps)
        seconds = time.monotonic() - began
        if profiled:
            tf.profiler.experimental.stop()
        if steps > 0:
            done = len(metrics.input_seconds)
            waited = float(metrics.input_seconds.sum())
            self.calls.append({"steps": done, "seconds": seconds, "input_seconds": waited})
            means = metrics.sums[LOSS_SUM] / metrics.sums[COUNT]
            self.losses += [float(mean) for mean in means]
            if profiled:
                self.profiled_steps, self.planes = done, planes(self._profile)
        return metrics


def planes(folder: str) -> dict[str, dict]:
    """Returns the newest profile below a folder in the form of `judge.Profile`."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    files = sorted(pathlib.Path(folder).rglob("*.xplane.pb"), key=lambda file: file.stat().st_mtime)
    space = xplane_pb2.XSpace()
    space.ParseFromString(files[-1].read_bytes())
    found = {}
    for plane in space.planes:
        events, operations, spans = {}, {}, []
        # On a GPU each stream is a line of what ran; other lines say the same in another way.
        streams = [line for line in plane.lines if line.name.startswith("Stream")]
        for line in streams or plane.lines:
            for event in line.events:
                name = plane.event_metadata[event.metadata_id].name
                events[name] = events.get(name, 0) + 1
                start = line.timestamp_ns * 1000 + event.offset_ps
                spans.append((start, start + event.duration_ps))
                for stat in event.stats:
                    if plane.stat_metadata[stat.metadata_id].name != "tf_op":
                        continue
                    text = stat.str_value or plane.stat_metadata[stat.ref_value].name
                    operation = text.rsplit(":", 1)[-1]
                    operations[operation] = operations.get(operation, 0) + 1
        found[plane.name] = {"events": events, "operations": operations, "busy": _busy(spans)}
    return found


def _busy(spans: list[tuple[int, int]]) -> float:
    """Returns the share of the time in which at least one of the spans ran."""
    if not spans:
        return 0.0
    covered, end = 0, min(spans)[0]
    for start, stop in sorted(spans):
        covered += max(0, stop - max(start, end))
        end = max(end, stop)
    whole = end - min(spans)[0]
    return covered / whole if whole else 0.0


def unequal(state: Any, placement: Any) -> list[str]:
    """Returns the names of the state whose copies on the devices differ in a bit."""
    return [
        name
        for name, variable in state.named().items()
        if len(
            {
                hashlib.sha256(copy.numpy().tobytes()).digest()
                for copy in placement.strategy.experimental_local_results(variable)
            }
        )
        > 1
    ]


def made_ahead(state: Any, placement: Any, config: Any) -> int:
    """Returns how many batches are ready while one is in use, after TAKEN ones were used."""
    from trainer.data import pipeline, plans, store

    split = store.open_dataset(config.folders.data_dir).splits["train"]
    plan = plans.ShuffledPlan(split, config.input, config.run.seed)
    batches, made = pipeline.TrainingBatches(split, config.input, plan), []
    real = batches.batch
    batches.batch = lambda step, *rows: made.append(step) or real(step, *rows)
    iterator = iter(batches.dataset(0))
    for _ in range(TAKEN):
        next(iterator)
    deadline = time.monotonic() + 5
    while len(made) < TAKEN + 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    return len(made) - TAKEN


def stack_bytes(state: Any, placement: Any, config: Any) -> int | None:
    """Returns the bytes of the batches that one call sends to a core of a TPU; None elsewhere."""
    if placement.device_type != "TPU":
        return None
    from trainer.steps import fused

    rows = config.input.batch_size // placement.replicas
    return fused.stack_bytes(rows, config.input.max_length, state.form)


def memory() -> dict[str, Any]:
    """Returns what TensorFlow has of the first GPU: {} without one. Bytes."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not tf.config.list_logical_devices("GPU"):  # None, or hidden from a run on the CPU.
        return {}
    info = tf.config.experimental.get_memory_info("GPU:0")
    grows = bool(tf.config.experimental.get_memory_growth(gpus[0]))
    return {"grows": grows, "current": info["current"], "peak": info["peak"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", required=True)
    parser.add_argument("--placements", action="store_true")
    parser.add_argument("--ahead", action="store_true")
    parser.add_argument("--profile", default="")
    parser.add_argument("command", nargs="+")
    given = parser.parse_args()
    # It sets variables of TensorFlow before its import, as every command does.
    with contextlib.redirect_stdout(io.StringIO()):
        trainer(["--help"])
    import tensorflow as tf

    from trainer.steps import training

    if given.placements:
        tf.debugging.set_log_device_placement(True)
    made: list = []
    real = training.train_steps

    def train_steps(state: Any, placement: Any, config: Any, *rest: Any, **named: Any) -> Watched:
        watched = Watched(real(state, placement, config, *rest, **named), given.profile)
        made[:] = [watched, state, placement, config]
        return watched

    training.train_steps = train_steps
    code = trainer(given.command)
    if not made:
        return code or 1
    watched, state, placement, config = made
    report = {
        "losses": watched.losses,
        "calls": watched.calls,
        "profiled_steps": watched.profiled_steps,
        "planes": watched.planes,
        "devices": list(placement.devices),
        "shards": config.run.shards,
        "unequal": unequal(state, placement),
        "memory": memory(),
        "made_ahead": made_ahead(state, placement, config) if given.ahead else None,
        "stack_bytes": stack_bytes(state, placement, config),
    }
    pathlib.Path(given.report).write_text(json.dumps(report), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
