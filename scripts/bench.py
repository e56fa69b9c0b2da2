#!/usr/bin/env python3
"""How fast the trainer is, against programs that do the same work, turn by turn in one run.

    python scripts/bench.py seed --data_dir=D       W1: workload of the published IMDB program
    python scripts/bench.py long --data_dir=D       W2: real lengths up to 400, embedding, LSTM 128
    python scripts/bench.py prepare --tsv=FILE      prepare against TextVectorization, same file
    python scripts/bench.py scaling --data_dir=D    two workers against one, on a core each; and
                                                    with a supervisor against without
    python scripts/bench.py language                a step of a language model against Keras and
                                                    PyTorch, and two shards against one
    python scripts/bench.py translation             the same of a translation, in target tokens
    python scripts/bench.py rows                    the same of images that are read by their rows

Each contender is a process of its own, so that none inherits threads or caches. A turn runs every
contender once; the table has the median of the turns, their spread, and the median of the ratios
within a turn. Speeds are examples per second between two moments of a job: after its first compile
and at its end. Nothing else should run on the machine.
"""

import argparse
import datetime
import importlib
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

PROJECT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

BATCH = {"seed": 32, "long": 128}
LENGTH = {"seed": 32, "long": 400}
WIDTH = {"seed": (16, 32), "long": (128, 128)}  # embedding, LSTM


# --- Contenders: `bench.py contender NAME WORKLOAD DATA_DIR STEPS` prints examples per second ---


def ours(workload: str, data_dir: str, steps: int) -> float:
    """`trainer train` as a user runs it, with journal, log, TensorBoard files and checkpoints."""
    embedding, units = WIDTH[workload]
    shape = ["--padding=pre", "--truncate=start"] if workload == "seed" else ["--pooling=last"]
    return trained(
        data_dir,
        steps,
        BATCH[workload],
        [
            f"--max_length={LENGTH[workload]}",
            f"--embedding_size={embedding}",
            f"--units={units}",
            *shape,
        ],
    )


def trained(
    data_dir: str, steps: int, batch: int, flags: list[str], workers: int = 1, pinned: bool = False
) -> float:
    """Returns examples per second of a run by `workers` workers.

    pinned: each worker has a core of its own, with one thread.
    """
    from trainer.launch import local

    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "trainer",
            "train",
            f"--data_dir={data_dir}",
            f"--model_dir={folder}/m",
            f"--steps={steps}",
            "--eval_steps=-1",
            f"--batch_size={batch}",
            "--cell=lstm",
            *flags,
            *(["--threads=1", "--shards=1"] if pinned else []),
        ]
        hosts = ",".join(f"127.0.0.1:{port}" for port in local.free_ports(workers))
        processes = []
        for index in range(workers):
            who = (
                [f"--num_workers={workers}", f"--worker_index={index}", f"--hosts={hosts}"]
                if workers > 1
                else []
            )
            core = ["taskset", "-c", str(sorted(os.sched_getaffinity(0))[index])] if pinned else []
            processes.append(
                subprocess.Popen(
                    [*core, *command, *who],
                    cwd=PROJECT,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        for process in processes:
            _, errors = process.communicate()
            if process.returncode:
                sys.exit(errors)
            sends = re.search(r"a step sends .*", errors)
            if sends and process is processes[0]:
                print(sends[0], file=sys.stderr)
        return journaled_rate(f"{folder}/m", batch)


def journaled_rate(model_dir: str, batch: int) -> float:
    """Returns examples per second from the first `loop` line to the last, saves included."""
    from trainer.model_folder import journal

    events = list(journal.read(f"{model_dir}/journal.jsonl"))
    loops = [at for at, event in enumerate(events) if event["event"] == "loop"]
    began, ended = (
        datetime.datetime.fromisoformat(events[at]["time"]) for at in (loops[0], loops[-1])
    )
    compiling = sum(
        event["seconds"] for event in events[loops[0] : loops[-1]] if event["event"] == "compile"
    )
    done = events[loops[-1]]["step"] - events[loops[0]]["step"]
    return done * batch / ((ended - began).total_seconds() - compiling)


def seed_loop(workload: str, data_dir: str, steps: int) -> float:
    """The published program's loop: a tf.function step per batch, data shuffled in memory."""
    import tensorflow as tf

    tokens, labels, model, optimizer = _model_and_data(workload, data_dir)
    loss_of = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    loss_metric, accuracy = tf.keras.metrics.Mean(), tf.keras.metrics.SparseCategoricalAccuracy()
    optimizer.build(model.trainable_variables)

    @tf.function
    def train_step(batch, batch_labels):
        with tf.GradientTape() as tape:
            logits = model(batch, training=True)
            loss = loss_of(batch_labels, logits)
        optimizer.apply_gradients(
            zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        )
        loss_metric.update_state(loss)
        accuracy.update_state(batch_labels, logits)

    dataset = (
        tf.data.Dataset.from_tensor_slices((tokens, labels))
        .shuffle(len(labels))
        .batch(BATCH[workload], drop_remainder=True)
    )
    return _rate(workload, steps, lambda batch: train_step(*batch), dataset.repeat())


def keras_fit(workload: str, data_dir: str, steps: int) -> float:
    """Keras `fit` on the same padded arrays."""
    import tensorflow as tf

    tokens, labels, model, optimizer = _model_and_data(workload, data_dir)
    model.compile(
        optimizer,
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    dataset = tf.data.Dataset.from_tensor_slices((tokens, labels)).shuffle(len(labels))
    dataset = dataset.batch(BATCH[workload], drop_remainder=True).repeat()
    model.fit(dataset, steps_per_epoch=max(2, steps // 10), epochs=1, verbose=0)
    began = time.monotonic()
    model.fit(dataset, steps_per_epoch=steps, epochs=1, verbose=0)
    return steps * BATCH[workload] / (time.monotonic() - began)


def _model_and_data(workload: str, data_dir: str):
    import keras
    import numpy as np

    from trainer.data import pipeline, store
    from trainer.flags.run import Input

    dataset = store.open_dataset(data_dir)
    split = dataset.splits["train"]
    padding, truncate = ("pre", "start") if workload == "seed" else ("post", "end")
    settings = Input(max_length=LENGTH[workload], padding=padding, truncate=truncate)
    tokens = pipeline.batch_of(split, np.arange(len(split)), LENGTH[workload], settings).inputs
    embedding, units = WIDTH[workload]
    model = keras.Sequential(
        [
            keras.layers.Embedding(
                len(dataset.vocabulary), embedding, mask_zero=workload == "long"
            ),
            keras.layers.LSTM(units),
            keras.layers.Dense(len(dataset.labels)),
        ]
    )
    model.build((None, LENGTH[workload]))
    return tokens, np.asarray(split.targets), model, keras.optimizers.Adam(1e-3)


def _rate(workload: str, steps: int, step, dataset) -> float:
    iterator = iter(dataset)
    for _ in range(max(2, steps // 10)):
        step(next(iterator))
    began = time.monotonic()
    for _ in range(steps):
        step(next(iterator))
    return steps * BATCH[workload] / (time.monotonic() - began)


CONTENDERS = {"ours": ours, "seed_loop": seed_loop, "keras_fit": keras_fit}
FIELDS = {"seed": ("ours", "seed_loop", "keras_fit"), "long": ("ours", "keras_fit")}
STEPS = {
    "seed": {"ours": 16000, "seed_loop": 600, "keras_fit": 600},
    "long": {"ours": 120, "keras_fit": 30},
}


def one(name: str, workload: str, data_dir: str) -> float:
    """Examples per second of one contender in a process of its own."""
    done = subprocess.run(
        [
            sys.executable,
            __file__,
            "contender",
            name,
            workload,
            data_dir,
            str(STEPS[workload][name]),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])["examples_per_second"]


def compare(workload: str, data_dir: str, turns: int) -> None:
    """Prints the table of a workload."""
    rates = {name: [] for name in FIELDS[workload]}
    for turn in range(turns):
        for name in rates:
            rates[name].append(one(name, workload, data_dir))
            print(f"turn {turn + 1} {name} {rates[name][-1]:.0f} examples/s", flush=True)
    for name, values in rates.items():
        ratio = statistics.median(ours / other for ours, other in zip(rates["ours"], values))
        print(
            f"{name:10} median {statistics.median(values):.0f} min {min(values):.0f} "
            f"max {max(values):.0f} examples/s, ours is {ratio:.2f} times as fast"
        )


# --- scaling --------------------------------------------------------------------------------------

WIDE = [
    "--max_length=200",
    "--embedding_size=128",
    "--units=128",
    "--truncate=start",
    "--padding=pre",
]
SMALL = [
    "--max_length=32",
    "--embedding_size=16",
    "--units=32",
    "--truncate=start",
    "--padding=pre",
]
# {name: (steps, rows of the global batch, flags, workers)}, each worker on a core of its own.
ON_CORES = {
    "one worker, 128 rows": (60, 128, WIDE, 1),
    "two workers, 128 rows each": (60, 256, WIDE, 2),
    "two workers, 64 rows each": (60, 128, WIDE, 2),
    "without supervisor": (12_000, 32, [*SMALL, "--supervise=off"], 1),
    "with supervisor": (12_000, 32, [*SMALL, "--supervise=on"], 1),
}
AGAINST = [
    ("weak scaling", "two workers, 128 rows each", "one worker, 128 rows"),
    ("strong scaling", "two workers, 64 rows each", "one worker, 128 rows"),
    ("supervision", "with supervisor", "without supervisor"),
]


def compare_scaling(data_dir: str, turns: int) -> None:
    """Compares fixed rows per worker, a fixed global batch, and a supervisor with none."""
    rates = {name: [] for name in ON_CORES}
    for turn in range(turns):
        for name, (steps, batch, flags, workers) in ON_CORES.items():
            rates[name].append(trained(data_dir, steps, batch, flags, workers, pinned=True))
            print(f"turn {turn + 1} {name}: {rates[name][-1]:.0f} examples/s", flush=True)
    for what, name, base in AGAINST:
        ratios = [one / other for one, other in zip(rates[name], rates[base])]
        print(
            f"{what}: {statistics.median(ratios):.2f} times (from {min(ratios):.2f} to "
            f"{max(ratios):.2f}), {statistics.median(rates[name]):.0f} against "
            f"{statistics.median(rates[base]):.0f} examples/s"
        )


# --- language, translation, rows ------------------------------------------------------------------


def compare_libraries(script: Any, turns: int) -> None:
    """Compares training steps on random examples, which are made here.

    script: `bench_language`, `bench_translation` or `bench_rows`.
    """
    for name, shape in script.SHAPES.items():
        with tempfile.TemporaryDirectory() as folder:
            data_dir = script.make_data(shape, pathlib.Path(folder))
            rates = {contender: [] for contender in script.CONTENDERS}
            for turn in range(turns):
                for contender in rates:
                    rates[contender].append(_per_second(script, contender, name, data_dir))
                    print(
                        f"turn {turn + 1} {contender} {rates[contender][-1]:.0f} "
                        f"{script.COUNTED}/s",
                        flush=True,
                    )
        for contender, values in rates.items():
            ratio = statistics.median(ours / other for ours, other in zip(rates["ours"], values))
            print(
                f"{name}: {contender:15} median {statistics.median(values):.0f} min "
                f"{min(values):.0f} max {max(values):.0f} {script.COUNTED}/s, ours is "
                f"{ratio:.2f} times as fast"
            )


def _per_second(script: Any, contender: str, shape: str, data_dir: str) -> float:
    """Returns the speed of a contender, on as many cores as it has threads."""
    cores = sorted(os.sched_getaffinity(0))[: script.CONTENDERS[contender][1]]
    done = subprocess.run(
        [
            *("taskset", "-c", ",".join(map(str, cores)), sys.executable, script.__file__),
            *(contender, shape, data_dir, str(script.SHAPES[shape].steps)),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])["per_second"]


# --- prepare --------------------------------------------------------------------------------------


def compare_prepare(tsv: str, turns: int) -> None:
    """Compares `prepare` with TextVectorization, in MB/s, on a TSV file of label and text."""
    megabytes = os.path.getsize(tsv) / 1e6
    ratios = []
    for turn in range(turns):
        seconds = {"ours": _prepare_seconds(tsv)}
        done = subprocess.run(
            [sys.executable, __file__, "vectorize", tsv], capture_output=True, text=True
        )
        seconds["TextVectorization"] = float(re.search(r"seconds (\S+)", done.stdout)[1])
        ratios.append(seconds["TextVectorization"] / seconds["ours"])
        print(
            f"turn {turn + 1} "
            + " ".join(f"{name} {megabytes / value:.1f} MB/s" for name, value in seconds.items()),
            flush=True,
        )
    print(f"ours is {statistics.median(ratios):.2f} times as fast (median of {turns} turns)")


def _prepare_seconds(tsv: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        subprocess.run(
            [
                sys.executable,
                "-m",
                "trainer",
                "prepare",
                "--source=tsv",
                f"--raw_data={tsv}",
                f"--data_dir={folder}/d",
            ],
            cwd=PROJECT,
            check=True,
            stderr=subprocess.DEVNULL,
        )
        return time.monotonic() - began


def vectorize(tsv: str) -> None:
    """Adapts a TextVectorization layer to the file, maps it once; TensorFlow's start counts."""
    began = time.monotonic()
    import keras
    import tensorflow as tf

    lines = (
        tf.data.TextLineDataset(tsv)
        .skip(1)
        .map(lambda line: tf.strings.split(line, "\t", maxsplit=2)[-1])
        .batch(1024)
    )
    layer = keras.layers.TextVectorization(20_000, ragged=True)
    layer.adapt(lines)
    for _ in lines.map(layer):
        pass
    print("seconds", time.monotonic() - began + 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what",
        choices=[
            *("seed", "long", "prepare", "scaling", "language", "translation", "rows"),
            *("contender", "vectorize"),
        ],
    )
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--data_dir", default="")
    parser.add_argument("--tsv", default="")
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    if given.what == "contender":
        name, workload, data_dir, steps = given.rest
        print(json.dumps({"examples_per_second": CONTENDERS[name](workload, data_dir, int(steps))}))
    elif given.what == "vectorize":
        vectorize(*given.rest)
    elif given.what == "scaling":
        compare_scaling(given.data_dir, given.turns)
    elif given.what in ("language", "translation", "rows"):
        script = importlib.import_module(f"scripts.bench_{given.what}")
        compare_libraries(script, given.turns)
    elif given.what == "prepare":
        compare_prepare(given.tsv, given.turns)
    else:
        compare(given.what, given.data_dir, given.turns)


if __name__ == "__main__":
    main()
