"""Devices and rows. What TensorFlow takes only once in a process (threads, devices) has a process
of its own.
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


@pytest.mark.parametrize(
    "rows, parts, expected",
    [
        (6, 3, [(0, 2), (2, 4), (4, 6)]),
        (5, 2, [(0, 2), (2, 5)]),
        (7, 3, [(0, 2), (2, 4), (4, 7)]),
        (3, 3, [(0, 1), (1, 2), (2, 3)]),
        (9, 1, [(0, 9)]),
    ],
)
def test_rows_are_dealt_out_in_slices(rows, parts, expected):
    assert strategy.bounds(rows, parts) == expected


@pytest.mark.parametrize("rows", range(1, 30))
def test_slices_hold_every_row_once_and_differ_by_at_most_one(rows):
    for parts in range(1, rows + 1):
        edges = strategy.bounds(rows, parts)
        assert [row for first, end in edges for row in range(first, end)] == list(range(rows))
        sizes = {end - first for first, end in edges}
        assert max(sizes) - min(sizes) <= 1


def placed(*calls) -> list[str]:
    """What `place` makes of each of `calls`, (flags, rows), one after the other in one process: a
    line each.
    """
    program = """
import json, sys
from trainer import config, exit_codes, strategy
for flags, rows in json.loads(sys.argv[1]):
    try:
        placement = strategy.place(config.Run(**flags), rows)
        print(type(placement.strategy).__name__, placement.device_type, placement.replicas, len(set(placement.devices)))
    except exit_codes.UsageError as problem:
        print(problem)
import tensorflow as tf
print(tf.config.threading.get_intra_op_parallelism_threads(), tf.config.threading.get_inter_op_parallelism_threads())
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


def test_devices_are_logical_cpus_where_there_is_no_gpu():
    lines = placed(
        ({"threads": 2, "shards": 3, "devices": 4}, 32),
        # a process with more devices serves for fewer
        ({"threads": 2, "shards": 3, "devices": 2}, 32),
        ({"threads": 2, "shards": 3, "devices": 0}, 32),
        ({"threads": 2, "shards": 3, "strategy": "mirrored"}, 32),
        ({"threads": 2, "shards": 3, "devices": 5}, 32),  # too late for more
        ({"threads": 2, "shards": 3, "devices": 4}, 11),
        ({"threads": 1, "shards": 1}, 32),
        # asked for and not there: never the CPU instead
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
    assert lines[6].startswith("--threads=1: TensorFlow runs already with another number")
    assert (
        lines[7].startswith("--strategy=tpu: TensorFlow finds no TPU on this host (")
        and "Install tensorflow-tpu" in lines[7]
    )
    assert lines[8] == "2 3"  # every shard has a thread


def test_threads_are_those_of_the_configuration_and_never_only_one_side_by_side():
    assert placed(({"threads": 1, "shards": 1}, 8)) == ["OneDeviceStrategy CPU 1 1", "1 2"]


def test_a_run_that_asks_for_an_accelerator_that_is_not_visible_does_not_start():
    lines = placed(
        *(
            ({"threads": 1, "shards": 1, "accelerator": kind}, 8)
            for kind in ("gpu", "tpu", "cpu", "auto")
        )
    )
    assert lines[0].startswith(
        "--accelerator=gpu: TensorFlow sees 1 CPU. A run that asks for a GPU must not train on "
        "something else."
    )
    assert lines[1].startswith(
        "--accelerator=tpu: TensorFlow sees 1 CPU. A run that asks for a TPU must not train on "
        "something else."
    )
    assert lines[2:4] == ["OneDeviceStrategy CPU 1 1"] * 2
