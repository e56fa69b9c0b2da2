"""From flags to devices. TensorFlow takes threads and devices only once in a process, so most tests
start one.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from trainer.devices import strategy

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "names, refused",
    [
        (None, None),
        ("", None),
        ("localhost", None),
        ("tpu-0.tpu", None),
        ("tpu-0.tpu,tpu-1.tpu", "names 2 hosts, tpu-0.tpu, tpu-1.tpu. TensorFlow finds the TPUs"),
    ],
)
def test_a_tpu_slice_of_several_hosts_is_refused_with_the_reason(names, refused):
    found = strategy.several_hosts({} if names is None else {"TPU_WORKER_HOSTNAMES": names})
    assert (found is None) if refused is None else (refused in found)


def test_gpus_of_several_workers_add_up_by_nccl_and_cpus_in_a_ring():
    """AUTO would be the ring for GPUs too: through the memory of the host."""
    implementations = [
        strategy.communication_options(on_gpus).implementation.value for on_gpus in (True, False)
    ]
    assert implementations == ["NCCL", "RING"]


def placed(*calls) -> list[str]:
    """One process calls `place` for each of `calls`, (flags, rows). Returns a line for each, and a
    last line with its threads.
    """
    program = """
import json, sys
from trainer import exit_codes
from trainer.devices import strategy
from trainer.flags.run import Run
assert strategy.visible()["CPU"] == 1  # starts nothing: `place` can still choose
for flags, rows in json.loads(sys.argv[1]):
    try:
        made = strategy.place(Run(**flags), rows)
        name = type(made.strategy).__name__
        print(name, made.device_type, made.replicas, len(set(made.devices)))
    except exit_codes.UsageError as problem:
        print(problem)
from tensorflow import config
threads = config.threading
print(threads.get_intra_op_parallelism_threads(), threads.get_inter_op_parallelism_threads())
"""
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(calls)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_without_a_gpu_devices_are_logical_cpus():
    lines = placed(
        ({"threads": 2, "shards": 3, "devices": 4}, 32),
        # a process with more devices can use fewer
        ({"threads": 2, "shards": 3, "devices": 2}, 32),
        ({"threads": 2, "shards": 3, "devices": 0}, 32),
        ({"threads": 2, "shards": 3, "strategy": "mirrored"}, 32),
        ({"threads": 2, "shards": 3, "devices": 5}, 32),  # too late for more
        ({"threads": 2, "shards": 3, "devices": 4}, 11),
        ({"threads": 1, "shards": 1}, 32),
        # requested and not there: the CPU does not take its place
        ({"threads": 2, "shards": 3, "strategy": "tpu"}, 32),
    )
    assert lines[:4] == [
        "MirroredStrategy CPU 4 4",
        "MirroredStrategy CPU 2 2",
        "OneDeviceStrategy CPU 1 1",
        "MirroredStrategy CPU 1 1",
    ]
    assert lines[4].startswith("--devices=5: TensorFlow sees 4 CPU device(s).")
    assert lines[5].startswith("--batch_size: 11 row(s) at a time for 4 device(s) with --shards=3")
    assert lines[6].startswith("--threads=1: TensorFlow already runs with another number")
    assert (
        lines[7].startswith("--strategy=tpu: TensorFlow finds no TPU on this host (")
        and "Install tensorflow-tpu" in lines[7]
    )
    assert lines[8] == "2 3"  # every shard has a thread


def test_threads_are_those_of_the_configuration_and_at_least_two_operations_run_side_by_side():
    assert placed(({"threads": 1, "shards": 1}, 8)) == ["OneDeviceStrategy CPU 1 1", "1 2"]


@pytest.mark.parametrize("chosen, rounded", [("default", True), ("highest", False)])
def test_the_precision_of_products_is_that_of_the_flag(chosen, rounded):
    program = f"""
import tensorflow as tf
from trainer.devices import strategy
from trainer.flags.run import Run
strategy.place(Run(threads=1, shards=1, matmul_precision="{chosen}"), 8)
print(tf.config.experimental.tensor_float_32_execution_enabled())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.stdout.split() == [str(rounded)], done.stderr


def test_a_run_does_not_start_without_the_accelerator_it_requests():
    lines = placed(
        *(
            ({"threads": 1, "shards": 1, "accelerator": kind}, 8)
            for kind in ("gpu", "tpu", "cpu", "auto")
        )
    )
    assert lines[0].startswith(
        "--accelerator=gpu: TensorFlow sees 1 CPU. A command that requests a GPU must not compute "
        "on something else."
    )
    assert lines[1].startswith("--accelerator=tpu: TensorFlow finds no TPU on this host (")
    assert lines[2:4] == ["OneDeviceStrategy CPU 1 1"] * 2
