"""Threads, shards and fused steps of a run: chosen at its first start, kept by every resume."""

import dataclasses
import os

import pytest

from tests.devices.fusion_test import SMALL
from trainer import resuming
from trainer.devices import accelerator, resources
from trainer.exit_codes import UsageError
from trainer.flags import run as configuration


@pytest.fixture
def cores(monkeypatch):
    """Sets the number of cores that this process may use."""

    def give(count: int) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(count)))

    return give


def settled(workers: int = 1, **flags) -> configuration.Run:
    """The run of `flags` at its first start. Checks that nothing else has changed."""
    config = configuration.from_flat(flags)
    found = resources.settled(config, has_checkpoints=False, workers=workers)
    run = found.run
    filled_in = {"fuse": run.fuse, "threads": run.threads, "shards": run.shards}
    assert found == dataclasses.replace(config, run=dataclasses.replace(config.run, **filled_in))
    return run


@pytest.mark.parametrize(
    "count, threads, shards, devices, rows, workers, expected",
    [
        (8, 0, 0, 0, 512, 1, (8, 8)),
        (8, 0, 0, 0, 64, 1, (8, 4)),  # a shard has at least 16 rows
        (8, 0, 0, 2, 64, 1, (8, 2)),  # of one replica
        (8, 0, 0, 0, 64, 2, (8, 2)),  # of one worker
        (8, 0, 0, 0, 95, 3, (8, 1)),  # of the worker with the fewest
        (8, 0, 0, 0, 4, 8, (8, 1)),
        (8, 0, 0, 0, 8, 1, (8, 1)),
        (2, 0, 0, 0, 128, 1, (2, 2)),  # no more shards than threads
        (2, 1, 0, 0, 128, 1, (1, 1)),
        (2, 3, 5, 4, 128, 4, (3, 5)),  # what the flags give stays
        (8, 0, 0, 0, 1, 1, (8, 1)),
    ],
)
def test_threads_and_shards_follow_the_machine_and_the_batch(
    cores, count, threads, shards, devices, rows, workers, expected
):
    cores(count)
    given = {"threads": threads, "shards": shards, "devices": devices, "fuse": "off"}
    run = settled(workers, batch_size=rows, **given)
    assert (run.threads, run.shards) == expected


@pytest.mark.parametrize(
    "flags, files, distributions, expected",
    [
        ({"accelerator": "gpu"}, [], ["tensorflow"], ("off", 8, 1)),
        ({"accelerator": "tpu", "strategy": "tpu"}, [], ["tensorflow-tpu"], ("off", 8, 1)),
        ({"strategy": "tpu"}, [], ["tensorflow-tpu"], ("off", 8, 1)),
        ({}, ["/dev/nvidia0"], ["tensorflow"], ("off", 8, 1)),
        ({}, ["/dev/nvidia0"], ["tensorflow-cpu"], ("off", 8, 8)),
        ({}, [], ["tensorflow"], ("off", 8, 8)),
        ({"accelerator": "cpu"}, ["/dev/nvidia0"], ["tensorflow"], ("off", 8, 8)),
        ({"accelerator": "gpu", "shards": 3}, [], ["tensorflow"], ("off", 8, 3)),
        # Steps so small that one CPU fuses them: an accelerator does not.
        ({"accelerator": "gpu", **SMALL}, [], ["tensorflow"], ("off", 8, 1)),
        (SMALL, [], ["tensorflow"], ("on", 1, 1)),
    ],
)
def test_an_accelerator_computes_all_rows_at_once(
    cores, monkeypatch, flags, files, distributions, expected
):
    """Its shards would be computed one after the other, each as slow as all rows together."""
    cores(8)
    monkeypatch.setattr(accelerator, "device_files", lambda: files)
    monkeypatch.setattr(accelerator, "installed", lambda: distributions)
    run = settled(**{"batch_size": 512, **flags})
    assert (run.fuse, run.threads, run.shards) == expected


def test_shards_are_of_the_rows_that_are_computed_at_once(cores):
    cores(8)
    assert settled(batch_size=128, accumulate=4, fuse="off").shards == 2


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, ("on", 1, 1)),
        ({"threads": 1}, ("on", 1, 1)),
        ({"batch_size": 128}, ("off", 4, 4)),  # not small
        ({"threads": 2}, ("off", 2, 2)),  # threads that the flags ask for are used
        ({"shards": 2}, ("off", 4, 2)),
        # On TPU steps are always fused, whatever `fuse` is; the threads are those of the host.
        ({"strategy": "tpu"}, ("off", 4, 1)),
        ({"strategy": "tpu", "batch_size": 128, "units": (512,)}, ("off", 4, 1)),
        ({"strategy": "tpu", "fuse": "on", "shards": 2}, ("on", 4, 2)),
        ({"fuse": "off"}, ("off", 4, 2)),
        ({"fuse": "on", "padding": "post", "units": (128,)}, ("on", 1, 1)),
        ({"fuse": "on", "threads": 2, "shards": 3}, ("on", 2, 3)),
    ],
)
def test_small_steps_are_fused_on_one_thread_and_others_use_the_machine(cores, changes, expected):
    cores(4)
    run = settled(**{**SMALL, **changes})
    assert (run.fuse, run.threads, run.shards) == expected


def test_several_workers_do_not_fuse_their_steps():
    assert settled(workers=2, **SMALL).fuse == "off"


def config(folder, **flags) -> configuration.Config:
    return configuration.from_flat({"model_dir": str(folder), "batch_size": 128, **flags})


def test_a_resume_keeps_what_the_first_start_chose_on_any_number_of_workers(tmp_path):
    (tmp_path / "config.json").write_text(resuming.to_json(config(tmp_path, threads=7, shards=3)))
    for workers in (1, 4):
        run = resources.settled(config(tmp_path), has_checkpoints=True, workers=workers).run
        assert (run.threads, run.shards) == (7, 3)


def test_without_a_checkpoint_there_is_nothing_to_keep(tmp_path, cores):
    cores(4)
    (tmp_path / "config.json").write_text(resuming.to_json(config(tmp_path, threads=7, shards=3)))
    run = resources.settled(config(tmp_path), has_checkpoints=False, workers=4).run
    assert (run.threads, run.shards) == (4, 2)


def test_a_resume_with_another_configuration_is_refused_with_the_difference(tmp_path):
    (tmp_path / "config.json").write_text(
        resuming.to_json(config(tmp_path, units=(8,), threads=1, shards=1))
    )
    with pytest.raises(UsageError, match="--units: was 8, now 16"):
        resources.settled(config(tmp_path, units=(16,)), has_checkpoints=True, workers=2)
