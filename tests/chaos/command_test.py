"""Runs with and without kills, as a user starts them."""

import re

import pytest

from tests import commands, datasets
from trainer.chaos import command as chaos
from trainer.chaos import trials
from trainer.exit_codes import TrainerError, UsageError
from trainer.flags import run as config
from trainer.flags.use import Chaos
from trainer.model_folder import journal

SMALL = {
    "units": (4,),
    "embedding_size": 3,
    "max_length": 8,
    "batch_size": 8,
    "steps": 40,
    "save_steps": 10,
    "log_steps": 10,
    "dropout": 0.3,
    "jit": "off",
    "threads": 2,
    "shards": 1,
    "eval_steps": -1,
    "seed": 5,
}


@pytest.fixture
def job(tmp_path):
    datasets.write(tmp_path / "data", datasets.random_splits(), vocabulary_size=30, classes=3)
    return config.from_flat(
        {**SMALL, "data_dir": str(tmp_path / "data"), "model_dir": str(tmp_path / "model")}
    )


def test_a_killed_run_ends_with_the_digest_of_an_undisturbed_one(job, tmp_path, capfd):
    assert chaos.run(job, Chaos(kills=1)) == 0
    *kills, undisturbed, disturbed = capfd.readouterr().out.splitlines()
    assert [line.split()[:2] for line in kills] == [["kill", str(i + 1)] for i in range(len(kills))]
    assert re.fullmatch("undisturbed [0-9a-f]{64}", undisturbed)
    assert disturbed == "dis" + undisturbed.removeprefix("undis")
    events = journal.read(tmp_path / "model/chaos/disturbed/journal.jsonl")
    assert [event["code"] for event in events if event["event"] == "stop"][-1] == 0
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["chaos"]


GANG = {
    "units": (4,),
    "threads": 1,
    "steps": 3000,
    "save_steps": 100,
    "log_steps": 100,
    "eval_steps": 1000,
}


@pytest.mark.parametrize(
    "workers, kills, seed",
    [
        # Twelve starts of TensorFlow. `faults_test.py` does the same with workers that count.
        pytest.param(2, 2, 5, marks=pytest.mark.slow),
        *(
            pytest.param(workers, 5, seed, marks=pytest.mark.slow)
            for workers in (2, 3)
            for seed in range(4)
        ),
    ],
)
def test_a_disturbed_gang_ends_with_the_digest_of_an_undisturbed_one(
    job, tmp_path, capfd, workers, kills, seed
):
    assert (
        chaos.run(
            config.replace(job, **GANG, seed=seed, local_network=commands.local_network()),
            Chaos(kills=kills, workers=workers),
        )
        == 0
    )
    *faults, goodput, undisturbed, disturbed = capfd.readouterr().out.splitlines()
    assert faults and all(
        re.match(r"fault \d+ \w+ worker \d at step \d+: ", line) for line in faults
    )
    assert goodput.startswith("goodput undisturbed 0.")
    assert re.fullmatch(
        "undisturbed [0-9a-f]{64}", undisturbed
    ) and disturbed == "dis" + undisturbed.removeprefix("undis")
    attempts = [
        event
        for event in journal.read(tmp_path / "model/chaos/disturbed/journal.jsonl")
        if event["event"] == "start"
    ]
    assert len(attempts) > 1


def test_a_folder_that_exists_is_left_alone(job, tmp_path):
    kept = tmp_path / "model/chaos/kept"
    kept.mkdir(parents=True)
    with pytest.raises(UsageError, match="chaos exists: .* Delete it"):
        chaos.run(job, Chaos(kills=1))
    assert kept.exists()


def test_a_run_that_fails_without_a_kill_passes_on_its_code_and_its_last_lines(job, tmp_path):
    (tmp_path / "data/dataset.json").unlink()
    with pytest.raises(
        TrainerError, match="the undisturbed trial ended with exit code 2(.|\n)*no dataset.json"
    ) as failed:
        chaos.run(job, Chaos(kills=1))
    assert failed.value.code == 2


@pytest.mark.slow
def test_different_digests_exit_1(job, monkeypatch, capfd):
    """The disturbed trial gets another seed, as if the trainer resumed wrongly."""
    start = trials.ProcessTrial.start

    def start_with_another_seed(self):
        if self.name == "disturbed":
            self.config = config.replace(self.config, seed=6)
        start(self)

    monkeypatch.setattr(trials.ProcessTrial, "start", start_with_another_seed)
    assert chaos.run(job, Chaos(kills=0)) == 1
    undisturbed, disturbed = capfd.readouterr().out.splitlines()
    assert undisturbed.split()[1] != disturbed.split()[1]
