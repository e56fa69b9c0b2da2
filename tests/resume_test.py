"""A run that was stopped or killed, at any moment, ends as one never disturbed: same state, metrics
and files.
"""

import json
import os
import random
import shutil
import signal
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests import commands, datasets
from trainer.model_folder import journal

# 25 steps in an epoch, dropout, a best checkpoint, two shards side by side.
JOB = [
    "--units=8",
    "--embedding_size=4",
    "--max_length=8",
    "--batch_size=8",
    "--dropout=0.3",
    "--learning_rate=0.01",
    "--threads=2",
    "--shards=2",
    "--epochs=16",
    "--eval_steps=20",
    "--save_steps=30",
    "--log_steps=10",
    "--steps_per_loop=1",
]
LAST = 400
# Small enough to be resumed many times: not compiled by XLA.
SMALL = [
    "--units=8",
    "--embedding_size=4",
    "--max_length=8",
    "--batch_size=8",
    "--dropout=0.3",
    "--learning_rate=0.01",
    "--jit=off",
    "--threads=2",
    "--shards=1",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    splits = datasets.random_splits(train=200)
    splits["validation"] = datasets.random_splits(seed=1, test=40)["test"]
    folder = tmp_path_factory.mktemp("data") / "job"
    datasets.write(folder, splits, vocabulary_size=30, classes=3)
    return folder


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """(folder, answer) of the job, run to its end at once."""
    model = tmp_path_factory.mktemp("undisturbed") / "model"
    answer = commands.call(*job(data, model))
    assert answer.code == 0, answer.err
    return model, answer


def job(data, model, *flags) -> list[str]:
    return ["train", f"--data_dir={data}", f"--model_dir={model}", *JOB, *flags]


def points(model, part) -> dict[str, list[tuple[int, float]]]:
    """{tag: [(step, value)]} without the metrics that measure time."""
    accumulator = EventAccumulator(
        str(model / "tensorboard" / part), size_guidance={"scalars": 0}
    ).Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
        if tag not in ("examples_per_second", "input_wait")
    }


def left_by(model) -> dict:
    """What a run leaves for good: evaluations, the best checkpoint, the newest one, evaluation
    curves.
    """
    newest = max(path.name for path in (model / "checkpoints").glob("step-????????"))
    return {
        "evaluations": (model / "evaluations.jsonl").read_text(),
        "best": {path.name: digest_in(path) for path in (model / "best").glob("step-????????")},
        "newest": (newest, digest_in(model / "checkpoints" / newest)),
        "curves": points(model, "eval"),
    }


def digest_in(folder) -> str:
    return json.loads((folder / "MANIFEST.json").read_text())["state_digest"]


def steps_of(curves) -> dict[str, list[int]]:
    return {tag: [step for step, _ in values] for tag, values in curves.items()}


def epoch_lines(*outputs: str) -> list[str]:
    """The lines about epochs in what the attempts of a run printed, a repeated one once, in order
    of their steps.
    """
    lines = {
        line for output in outputs for line in output.splitlines() if line.startswith("epoch ")
    }
    return sorted(lines, key=lambda line: int(line.split()[3]))


def saves(model) -> list[int]:
    return [
        event["step"] for event in journal.read(model / "journal.jsonl") if event["event"] == "save"
    ]


def disturb(
    data, model, how: signal.Signals, chance: random.Random, more_saves: int, *flags
) -> commands.Answer:
    """Starts the job, waits until it has saved `more_saves` times and a random moment longer, and
    sends a signal.
    """
    before = len(saves(model))
    process = commands.start(*job(data, model, *flags))
    commands.wait_for(lambda: len(saves(model)) >= before + more_saves, process)
    time.sleep(chance.uniform(0, 0.02))
    process.send_signal(how)
    return commands.finish(process)


# --- bit for bit ----------------------------------------------------------------------------------


def test_kill_terminate_and_interrupt_change_nothing(data, undisturbed, tmp_path):
    model, chance = tmp_path / "model", random.Random(3)
    killed = disturb(data, model, signal.SIGKILL, chance, 2)
    terminated = disturb(data, model, signal.SIGTERM, chance, 1)
    interrupted = disturb(data, model, signal.SIGINT, chance, 1)
    assert (killed.code, terminated.code, interrupted.code) == (-9, 143, 130)
    for stopped in (terminated, interrupted):
        step = int(stopped.lines[-1].split()[1].removeprefix("step="))
        assert (
            stopped.lines[-1].startswith("stopped step=")
            and step < LAST
            and "Traceback" not in stopped.err
        )
    assert stopped.digest == digest_in(model / f"checkpoints/step-{step:08d}")
    ended = commands.call(*job(data, model))
    assert ended.code == 0 and f"restored step {step} of {LAST}" in ended.err
    assert ended.digest == undisturbed[1].digest
    assert left_by(model) == left_by(undisturbed[0])
    assert epoch_lines(killed.out, terminated.out, interrupted.out, ended.out) == epoch_lines(
        undisturbed[1].out
    )
    assert steps_of(points(model, "train")) == steps_of(points(undisturbed[0], "train"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_kills_at_random_moments_change_nothing(data, undisturbed, tmp_path, seed):
    model, chance = tmp_path / "model", random.Random(seed)
    outputs = []
    while len(outputs) < 5:
        how = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        outputs.append(disturb(data, model, how, chance, chance.choice([0, 1, 1, 2])).out)
    ended = commands.call(*job(data, model))
    assert ended.digest == undisturbed[1].digest
    assert left_by(model) == left_by(undisturbed[0])
    assert epoch_lines(*outputs, ended.out) == epoch_lines(undisturbed[1].out)


@pytest.mark.parametrize(
    "flags, patches",
    [
        (["--steps_per_loop=7", "--log_steps=3", "--save_steps=1000"], {}),
        (["--steps_per_loop=0", "--log_steps=1000"], {"tensorflow.data.AUTOTUNE": 1}),
    ],
    ids=["loops, log and saves", "prefetch"],
)
def test_cadence_and_prefetch_change_no_bit(data, undisturbed, tmp_path, flags, patches):
    answer = commands.call(*job(data, tmp_path / "model", *flags), patches=patches)
    assert answer.digest == undisturbed[1].digest
    assert epoch_lines(answer.out) == epoch_lines(undisturbed[1].out)


def test_another_number_of_cores_changes_no_bit(data, undisturbed, tmp_path):
    if not shutil.which("taskset") or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs taskset and two cores")
    one = str(min(os.sched_getaffinity(0)))
    answer = commands.finish(
        commands.start(*job(data, tmp_path / "model"), prefix=["taskset", "-c", one])
    )
    assert answer.code == 0 and answer.digest == undisturbed[1].digest


# --- every moment ---------------------------------------------------------------------------------


def killable(data, model) -> list[str]:
    return [
        "train",
        f"--data_dir={data}",
        f"--model_dir={model}",
        *SMALL,
        "--steps=24",
        "--eval_steps=4",
        "--save_steps=6",
        "--log_steps=3",
        "--keep=2",
        "--early_stop_patience=4",
    ]


@pytest.fixture(scope="module")
def recorded(data, tmp_path_factory):
    """(folder of the model, its answer, [a folder per moment in which a kill could have come])."""
    model, moments = (
        tmp_path_factory.mktemp("recorded") / "model",
        tmp_path_factory.mktemp("moments"),
    )
    answer = commands.call(*killable(data, model), record=(model, moments))
    assert answer.code == 0, answer.err
    return model, answer, sorted(moments.iterdir())


def check_moment(data, recorded, moment):
    model, undisturbed, _ = recorded
    answer = commands.call(*killable(data, moment / "model"))
    about = (moment / "about").read_text()
    assert answer.code == 0 and answer.lines[-1] == undisturbed.lines[-1], about
    assert left_by(moment / "model") == left_by(model), about
    assert points(moment / "model", "train") == points(model, "train"), about
    assert epoch_lines((moment / "printed").read_text(), answer.out) == epoch_lines(
        undisturbed.out
    ), about


@pytest.mark.parametrize("share", [0.2, 0.5, 0.7, 0.9])
def test_a_kill_in_a_moment_of_the_run_changes_nothing(data, recorded, share):
    moments = recorded[2]
    check_moment(data, recorded, moments[int(share * len(moments))])


@pytest.mark.slow
def test_a_kill_in_any_moment_of_the_run_changes_nothing(data, recorded):
    for moment in recorded[2]:
        check_moment(data, recorded, moment)


# --- damage ---------------------------------------------------------------------------------------


def damage(model, step) -> None:
    """Flips a bit in the largest file of a checkpoint."""
    path = max(
        (model / f"checkpoints/step-{step:08d}").iterdir(), key=lambda path: path.stat().st_size
    )
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_newest_checkpoint_costs_steps_and_changes_nothing(data, undisturbed, tmp_path):
    model = shutil.copytree(undisturbed[0], tmp_path / "model")
    damage(model, LAST)
    answer = commands.call(*job(data, model))
    assert answer.code == 0 and answer.digest == undisturbed[1].digest
    assert (
        "step-00000400 is damaged" in answer.err
        and "falling back to step 390, 10 steps are lost" in answer.err
    )
    assert left_by(model) == left_by(undisturbed[0])
    assert steps_of(points(model, "train")) == steps_of(points(undisturbed[0], "train"))


def test_a_run_whose_checkpoints_are_all_damaged_never_starts_over(data, undisturbed, tmp_path):
    model = shutil.copytree(undisturbed[0], tmp_path / "model")
    steps = [360, 390, 400]
    for step in steps:
        damage(model, step)
    for _ in range(2):
        answer = commands.call(*job(data, model))
        assert (answer.code, answer.out) == (3, "")
        assert "no checkpoint in" in answer.err and "Traceback" not in answer.err
    assert all((model / f"checkpoints/step-{step:08d}").exists() for step in steps)


# --- other devices --------------------------------------------------------------------------------


@pytest.mark.slow
def test_on_two_devices_a_run_continues_with_the_same_rows(data, tmp_path):
    """Sample-exact: the sums differ only by the order of additions."""
    flags = [*SMALL, "--steps=20", "--eval_steps=5", "--precision=float64"]
    command = ["train", f"--data_dir={data}", *flags]
    one = commands.call(*command, f"--model_dir={tmp_path / 'one'}")
    commands.call(*command, f"--model_dir={tmp_path / 'two'}", "--steps=10")
    two = commands.call(*command, f"--model_dir={tmp_path / 'two'}", "--devices=2")
    assert two.code == 0, two.err
    losses = [
        [value for _, value in points(tmp_path / name, "eval")["loss"]] for name in ("one", "two")
    ]
    # Points are float32.
    assert len(losses[0]) == 4 and losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert one.lines[-1].split()[:2] == two.lines[-1].split()[:2] == ["done", "step=20"]
