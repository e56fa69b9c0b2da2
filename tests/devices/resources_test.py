import dataclasses
import os

import pytest

from trainer import config as configuration
from trainer import resuming
from trainer.devices import resources
from trainer.exit_codes import UsageError


@pytest.mark.parametrize(
    "cores, threads, shards, devices, rows, workers, resolved",
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
        (2, 3, 5, 4, 128, 4, (3, 5)),  # what is given stays
        (8, 0, 0, 0, 1, 1, (8, 1)),  # --accumulate may leave one row at a time
    ],
)
def test_numbers_that_decide_bits_are_filled_in(
    monkeypatch, cores, threads, shards, devices, rows, workers, resolved
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    run = configuration.Run(threads=threads, shards=shards, devices=devices)
    found = resources.resolve(run, rows, workers)
    assert (found.threads, found.shards) == resolved
    assert found == dataclasses.replace(run, threads=found.threads, shards=found.shards)


def config(folder, **flags) -> configuration.Config:
    return configuration.from_flat({"model_dir": str(folder), "batch_size": 128, **flags})


def test_a_resume_keeps_what_the_first_start_chose_on_any_number_of_workers(tmp_path):
    (tmp_path / "config.json").write_text(resuming.to_json(config(tmp_path, threads=7, shards=3)))
    for workers in (1, 4):
        run = resources.settled(config(tmp_path), has_checkpoints=True, workers=workers).run
        assert (run.threads, run.shards) == (7, 3)


def test_without_a_checkpoint_there_is_nothing_to_keep(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(4)), raising=False)
    (tmp_path / "config.json").write_text(resuming.to_json(config(tmp_path, threads=7, shards=3)))
    run = resources.settled(config(tmp_path), has_checkpoints=False, workers=4).run
    assert (run.threads, run.shards) == (4, 2)


def test_a_resume_under_another_configuration_is_refused_with_the_difference(tmp_path):
    (tmp_path / "config.json").write_text(
        resuming.to_json(config(tmp_path, units=(8,), threads=1, shards=1))
    )
    with pytest.raises(UsageError, match="--units: was 8, now 16"):
        resources.settled(config(tmp_path, units=(16,)), has_checkpoints=True, workers=2)
