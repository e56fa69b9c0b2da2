"""Several training processes without supervisors compute what one does, and end together."""

import json
import signal

import numpy as np
import pytest
import tensorflow as tf

from tests import commands, datasets
from tests.gang.links_test import free_addresses
from trainer.model_folder import journal

# 9 rows never split evenly. Other tests cover XLA.
JOB = [
    "--units=8",
    "--embedding_size=4",
    "--max_length=8",
    "--batch_size=9",
    "--dropout=0.3",
    "--learning_rate=0.01",
    "--jit=off",
    "--threads=2",
    "--shards=1",
    "--supervise=off",
    "--save_steps=20",
    "--log_steps=10",
    "--eval_steps=40",
]
EXACT = ["--precision=float64", "--steps=100", "--save_steps=1", "--keep=0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A dataset whose vocabulary is so large that workers exchange its gradient by row."""
    folder = tmp_path_factory.mktemp("data") / "job"
    splits = datasets.random_splits(train=200, vocabulary_size=400)
    splits["validation"] = datasets.random_splits(seed=1, test=41, vocabulary_size=400)["test"]
    datasets.write(folder, splits, vocabulary_size=400, classes=3)
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A text of 25 chunks in 9 streams, so that a hundred steps are four epochs."""
    folder = tmp_path_factory.mktemp("text") / "data"
    splits = {"train": [datasets.random_text(1800)], "validation": [datasets.random_text(97, 1)]}
    datasets.write_text(folder, splits, vocabulary_size=30)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Pairs whose targets can be learned."""
    folder = tmp_path_factory.mktemp("pairs") / "data"
    splits = datasets.random_pairs(train=100)
    splits["validation"] = splits.pop("test")
    words = [f"w{number}" for number in range(26)]
    datasets.write_pairs(folder, splits, words=words, target_words=words)
    return folder


def start(workers: int, data, model, *flags) -> list:
    """Starts the processes of a gang as supervisors would."""
    addresses = free_addresses(workers)
    environments = [
        {
            "TF_CONFIG": json.dumps(
                {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            )
        }
        if workers > 1
        else {}
        for index in range(workers)
    ]
    return [
        commands.start(
            "train",
            f"--data_dir={data}",
            f"--model_dir={model}",
            *JOB,
            *flags,
            environment=environment,
        )
        for environment in environments
    ]


def run(workers: int, data, model, *flags) -> list[commands.Answer]:
    return [commands.finish(process) for process in start(workers, data, model, *flags)]


def tensors(model, step: int) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(model / f"checkpoints/step-{step:08d}/tensors"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def losses(model, steps: int) -> list[float]:
    """The running loss sum of the epoch after each step."""
    return [float(tensors(model, step)["epoch/loss_sum"]) for step in range(1, steps + 1)]


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """The model folder of one worker, in float64, with a checkpoint of every step."""
    model = tmp_path_factory.mktemp("alone") / "model"
    [answer] = run(1, data, model, *EXACT)
    assert answer.code == 0, answer.err
    return model


def test_two_workers_take_the_hundred_steps_of_one(data, alone, tmp_path):
    answers = run(2, data, tmp_path / "model", *EXACT)
    assert [answer.code for answer in answers] == [0, 0], answers[0].err + answers[1].err
    assert "the gradient of the embedding by the row" in answers[0].err
    assert answers[0].digest == answers[1].digest
    assert answers[0].lines[-1].startswith("done step=100 ") and len(answers[1].lines) == 1
    np.testing.assert_allclose(losses(tmp_path / "model", 100), losses(alone, 100), rtol=1e-9)
    ours, theirs = tensors(tmp_path / "model", 100), tensors(alone, 100)
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-7, atol=1e-9, err_msg=name)
    metrics = [
        [
            event["loss"]
            for event in journal.read(model / "journal.jsonl")
            if event["event"] == "evaluate"
        ]
        for model in (tmp_path / "model", alone)
    ]
    assert len(metrics[0]) == 3 and metrics[0] == pytest.approx(metrics[1], rel=1e-9)


def test_a_run_continues_with_two_three_and_one_worker(data, alone, tmp_path):
    """Batches are accumulated in parts, so the gradient of the embedding is sent whole."""
    model = tmp_path / "model"
    for steps, workers in ((25, 1), (50, 2), (75, 3), (100, 1)):
        flags = [*EXACT, f"--steps={steps}", "--eval_steps=-1", "--accumulate=2"]
        answers = run(workers, data, model, *flags)
        assert [answer.code for answer in answers] == [0] * workers, answers[0].err
        assert workers == 1 or "the gradient of the embedding whole" in answers[0].err
    np.testing.assert_allclose(losses(model, 100), losses(alone, 100), rtol=1e-9)


@pytest.mark.parametrize(
    "parts",
    [
        [(31, 1), (100, 2)],
        pytest.param([(100, 2)], marks=pytest.mark.slow),
        pytest.param([(31, 1), (50, 2), (75, 3), (100, 1)], marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_workers_carry_the_states_of_their_streams_as_one_does(text, tmp_path, parts):
    one, model = tmp_path / "one", tmp_path / "model"
    flags = [*EXACT, "--tied_embedding"]
    [answer] = run(1, text, one, *flags)
    assert answer.code == 0, answer.err
    for steps, workers in parts:
        answers = run(workers, text, model, *flags, f"--steps={steps}", "--accumulate=2")
        assert [answer.code for answer in answers] == [0] * workers, answers[0].err
        assert len({answer.digest for answer in answers}) == 1
    expected, theirs = losses(one, 100), tensors(one, 100)
    assert theirs["carry/rnn_0/hidden"].shape == (9, 8) and theirs["carry/rnn_0/memory"].all()
    np.testing.assert_allclose(losses(model, 100), expected, rtol=1e-9)
    for name, values in tensors(model, 100).items():
        np.testing.assert_allclose(values, theirs[name], rtol=1e-7, atol=1e-9, err_msg=name)
    expected, found = (
        {
            event["step"]: event["perplexity"]
            for event in journal.read(folder / "journal.jsonl")
            if event["event"] == "evaluate"
        }
        for folder in (one, model)
    )
    assert list(expected) == [40, 80, 100]
    assert {step: found[step] for step in expected} == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
def test_workers_learn_values_of_frames_as_one_does(tmp_path):
    """The loss of each step, and at the end the same weights and metrics; no embedding is sent."""
    splits = datasets.random_frames(features=12, values=2, train=100)
    splits["validation"] = splits.pop("test")
    datasets.write_numbers(tmp_path / "data", splits, shape=(3, 4), values=("mean", "rest"))
    flags = ["--precision=float64", "--steps=20", "--save_steps=1", "--keep=0", "--eval_steps=20"]
    found = []
    for workers in (1, 2):
        answers = run(
            workers,
            tmp_path / "data",
            tmp_path / str(workers),
            *flags,
            "--frame_encoder=convolution",
        )
        assert {answer.code for answer in answers} == {0}, answers[0].err
        assert len({answer.digest for answer in answers}) == 1
        assert "MB to other workers, the gradient" not in answers[0].err
        events = journal.read(tmp_path / str(workers) / "journal.jsonl")
        found.append([event for event in events if event["event"] == "evaluate"])
    np.testing.assert_allclose(losses(tmp_path / "2", 20), losses(tmp_path / "1", 20), rtol=1e-9)
    theirs = tensors(tmp_path / "1", 20)
    for name, values in tensors(tmp_path / "2", 20).items():
        np.testing.assert_allclose(values, theirs[name], rtol=1e-7, atol=1e-9, err_msg=name)
    [[alone], [together]] = found
    for metric in ("loss", "rmse", "mae", "r2"):
        assert together[metric] == pytest.approx(alone[metric], rel=1e-9)


def test_workers_translate_as_one_does(pairs, tmp_path):
    """The loss of each step, and at the end the same weights, translations and BLEU."""
    flags = ["--precision=float64", "--steps=20", "--save_steps=1", "--keep=0", "--eval_steps=20"]
    found = []
    for workers in (1, 2):
        answers = run(workers, pairs, tmp_path / str(workers), *flags, "--bidirectional")
        assert {answer.code for answer in answers} == {0}, answers[0].err
        assert len({answer.digest for answer in answers}) == 1
        events = journal.read(tmp_path / str(workers) / "journal.jsonl")
        found.append([event for event in events if event["event"] == "evaluate"])
    np.testing.assert_allclose(losses(tmp_path / "2", 20), losses(tmp_path / "1", 20), rtol=1e-9)
    theirs = tensors(tmp_path / "1", 20)
    for name, values in tensors(tmp_path / "2", 20).items():
        np.testing.assert_allclose(values, theirs[name], rtol=1e-7, atol=1e-9, err_msg=name)
    [[alone], [together]] = found
    for metric in ("loss", "bleu", "chrf"):
        assert together[metric] == pytest.approx(alone[metric], rel=1e-9)


@pytest.mark.slow
def test_in_float32_a_hundred_losses_of_three_workers_agree_to_four_digits(data, tmp_path):
    flags = ["--steps=100", "--save_steps=1", "--keep=0", "--bidirectional", "--jit=on"]
    for workers in (1, 3):
        assert {answer.code for answer in run(workers, data, tmp_path / str(workers), *flags)} == {
            0
        }
    np.testing.assert_allclose(losses(tmp_path / "3", 100), losses(tmp_path / "1", 100), rtol=1e-4)


def saves(model) -> int:
    return sum(event["event"] == "save" for event in journal.read(model / "journal.jsonl"))


def test_a_killed_worker_ends_the_other_with_75_and_the_next_attempt_ends_as_undisturbed(
    data, tmp_path
):
    undisturbed = run(2, data, tmp_path / "undisturbed", "--steps=400")
    chief, other = start(2, data, tmp_path / "model", "--steps=400", "--steps_per_loop=1")
    commands.wait_for(lambda: saves(tmp_path / "model") >= 2, chief)
    other.kill()
    killed, left = commands.finish(other), commands.finish(chief)
    assert (
        (left.code, killed.code) == (75, -9)
        and "lost another worker" in left.err
        and "Traceback" not in left.err
    )
    again = run(2, data, tmp_path / "model", "--steps=400")
    assert "restored step" in again[0].err
    assert again[0].lines[-1] == again[1].lines[-1] == undisturbed[0].lines[-1]


@pytest.mark.parametrize("asked", [0, 1])
def test_a_signal_to_one_worker_stops_all_at_one_step_with_a_checkpoint(data, tmp_path, asked):
    processes = start(
        2, data, tmp_path / "model", "--steps=100000", "--save_steps=100000", "--eval_steps=50"
    )
    commands.wait_for(
        lambda: any(
            event["event"] == "evaluate" for event in journal.read(tmp_path / "model/journal.jsonl")
        ),
        processes[0],
    )
    processes[asked].send_signal(signal.SIGTERM)
    answers = [commands.finish(process) for process in processes]
    assert [answer.code for answer in answers] == [143, 143], answers[0].err + answers[1].err
    [step] = {answer.lines[-1].split()[1].removeprefix("step=") for answer in answers}
    manifest = json.loads(
        (tmp_path / f"model/checkpoints/step-{int(step):08d}/MANIFEST.json").read_text()
    )
    assert answers[0].digest == answers[1].digest or len(answers[1].lines) == 1
    assert manifest["state_digest"] == answers[0].digest


def test_a_signal_before_the_first_step_stops_all_with_nothing_to_save(data, tmp_path):
    processes = start(2, data, tmp_path / "model", "--steps=100000")
    commands.wait_for(
        lambda: any(
            event["event"] == "meet" for event in journal.read(tmp_path / "model/journal.jsonl")
        ),
        processes[0],
    )
    processes[1].send_signal(signal.SIGTERM)
    answers = [commands.finish(process) for process in processes]
    assert [answer.code for answer in answers] == [143, 143], answers[0].err + answers[1].err
    assert [answer.lines for answer in answers] == [["stopped step=0 state_digest=none"]] * 2


def test_workers_that_see_different_model_folders_refuse_to_start(data, tmp_path):
    run(1, data, tmp_path / "one", "--steps=20")
    addresses = free_addresses(2)
    processes = [
        commands.start(
            "train",
            f"--data_dir={data}",
            f"--model_dir={tmp_path / name}",
            *JOB,
            environment={
                "TF_CONFIG": json.dumps(
                    {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
                )
            },
        )
        for index, name in enumerate(("one", "other"))
    ]
    chief, other = [commands.finish(process) for process in processes]
    assert other.code == 2 and "must see the same folder" in other.err
    assert chief.code == 75
