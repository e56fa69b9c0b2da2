"""What a run prints and leaves behind. How it continues after a stop or a kill: resume_test."""

import json
import re
import shutil
import signal

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata as hparams

from tests import commands, datasets
from trainer import sealed
from trainer.data import fields, order
from trainer.flags.tasks import TASKS
from trainer.model_folder import attempts, journal, lock

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
EXAMPLES, BATCH = 50, 8
EPOCH_ENDS = [7, 13, 19, 25]  # ceil(50 e / 8)
NUMBER = r"(0|[1-9]\d*)\.\d{3,}(e[-+]\d+)?"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """50 training, 17 validation and 17 test examples of 3 classes."""
    splits = datasets.random_splits(train=EXAMPLES)
    splits["validation"] = datasets.random_splits(seed=1)["test"]
    folder = tmp_path_factory.mktemp("data") / "small"
    datasets.write(folder, splits, vocabulary_size=30, classes=3)
    return folder


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """(folder, answer) of a run of three epochs. Copy the folder before you change it."""
    model = tmp_path_factory.mktemp("finished") / "model"
    answer = train(data, model, "--epochs=3", "--save_steps=5", "--log_steps=5")
    assert answer.code == 0, answer.err
    return model, answer


@pytest.fixture(scope="module")
def longer(data, tmp_path_factory):
    """(folder, answer) of the same run with a fourth epoch and with other intervals throughout."""
    model = tmp_path_factory.mktemp("longer") / "model"
    answer = train(
        data,
        model,
        "--epochs=4",
        "--log_epochs=2",
        "--eval_steps=-1",
        "--save_steps=100",
        "--log_steps=3",
        "--steps_per_loop=2",
        "--keep=0",
    )
    assert answer.code == 0, answer.err
    return model, answer


def train(data, model, *flags, **options) -> commands.Answer:
    return commands.call(
        "train", f"--data_dir={data}", f"--model_dir={model}", *SMALL, *flags, **options
    )


def steps_in(folder) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-????????"))


def manifest(model, step) -> dict:
    return json.loads((model / f"checkpoints/step-{step:08d}/MANIFEST.json").read_text())


def events(model, name) -> list[dict]:
    return [event for event in journal.read(model / "journal.jsonl") if event["event"] == name]


def points(model, part, tag) -> list[tuple[int, float]]:
    accumulator = EventAccumulator(
        str(model / "tensorboard" / part), size_guidance={"scalars": 0}
    ).Reload()
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


def evaluations(model) -> list[dict]:
    return [json.loads(line) for line in (model / "evaluations.jsonl").read_text().splitlines()]


def metrics(line: str) -> dict[str, float]:
    """{name: value} of a line `epoch 1 step 7 loss 1.099 ...`."""
    words = line.split()
    return dict(zip(words[::2], map(float, words[1::2])))


# --- stdout ---------------------------------------------------------------------------------------


def test_stdout_is_a_line_per_epoch_and_the_digest_of_the_state_on_disk(finished):
    model, answer = finished
    names = ("loss", "accuracy", "validation_loss", "validation_accuracy")
    form = r"epoch (\d) step (\d+) " + " ".join(f"{name} {NUMBER}" for name in names)
    seen = [re.fullmatch(form, line) for line in answer.lines[:-1]]
    assert [match.group(1, 2) for match in seen] == [("1", "7"), ("2", "13"), ("3", "19")]
    assert answer.lines[-1] == f"done step=19 state_digest={manifest(model, 19)['state_digest']}"


def test_every_printed_number_has_four_significant_digits(finished):
    for line in finished[1].lines[:-1]:
        for word in line.split()[5::2]:
            assert (
                len(word.partition("e")[0].replace(".", "").lstrip("0")) >= 4 or float(word) == 0
            ), line


def test_training_metrics_are_means_over_the_rows_of_the_epochs_own_steps(finished):
    first = 0
    for end, entry in zip(EPOCH_ENDS[:3], events(finished[0], "epoch"), strict=True):
        correct = entry["accuracy"] * (end - first) * BATCH
        assert entry["step"] == end and abs(correct - round(correct)) < 1e-9
        first = end


def test_only_every_nth_epoch_is_printed_while_all_stay_in_the_journal(longer, finished):
    model, answer = longer
    assert [line.split(" loss")[0] for line in answer.lines[:-1]] == [
        "epoch 2 step 13",
        "epoch 4 step 25",
    ]
    assert [entry["step"] for entry in events(model, "epoch")] == EPOCH_ENDS
    assert metrics(answer.lines[0]).items() <= metrics(finished[1].lines[1]).items()


def test_the_log_names_devices_implementations_data_parameters_and_the_origin_of_the_state(
    finished,
):
    sequences, _ = datasets.random_splits(train=EXAMPLES)["train"]
    tokens = sum(map(len, sequences))
    for part in (
        "1 CPU replica(s) under OneDeviceStrategy, 1 shard(s) each, 2 threads",
        "rnn_0: ",
        f"50 training examples, {tokens} tokens, 3 classes, vocabulary of 30; batches are padded ",
        "parameters",
        "no checkpoint yet: initial weights from seed 0",
    ):
        assert part in finished[1].err


# --- files ----------------------------------------------------------------------------------------


def test_a_run_leaves_these_files(finished):
    model, _ = finished
    assert {path.name for path in model.iterdir()} == {
        "config.json",
        "dataset",
        "journal.jsonl",
        "lock",
        "evaluations.jsonl",
        "checkpoints",
        "best",
        "tensorboard",
    }
    assert {path.name for path in (model / "tensorboard").iterdir() if path.is_dir()} == {
        "train",
        "eval",
    }
    assert (
        steps_in(model / "checkpoints") == [10, 15, 19]
        and len(list((model / "checkpoints").iterdir())) == 3
    )


def test_the_configuration_is_written_with_every_automatic_value_resolved(finished):
    written = json.loads((finished[0] / "config.json").read_text())
    assert (
        written["flags"]["epochs"] == 3
        and written["flags"]["units"] == [8]
        and written["flags"]["threads"] == 2
    )
    assert written["digest"] == manifest(finished[0], 19)["config_digest"]


def test_the_journal_has_every_event_with_its_seconds(finished):
    model, _ = finished
    entries = journal.read(model / "journal.jsonl")
    assert all(
        {"time", "attempt", "worker", "event"} <= entry.keys() and entry["attempt"] == 1
        for entry in entries
    )
    assert [entry["step"] for entry in events(model, "save")] == [5, 10, 15, 19]
    assert [entry["step"] for entry in events(model, "evaluate")] == EPOCH_ENDS[:3]
    assert [
        (entry.get("program"), entry.get("length"), entry.get("split"))
        for entry in events(model, "compile")
    ] == [("loop", None, None), (None, 8, None), (None, 8, "validation")]
    assert sum(entry["steps"] for entry in events(model, "loop")) == 19
    for name in ("open_dataset", "compile", "loop", "evaluate", "save"):
        assert events(model, name) and all(entry["seconds"] > 0 for entry in events(model, name))
    assert [(entry["code"], entry["reason"]) for entry in events(model, "stop")] == [(0, "done")]
    assert entries[-1]["event"] == "stop"


def test_tensorboard_has_a_point_per_interval_and_one_at_the_end(finished):
    model, _ = finished
    for tag in (
        "loss",
        "accuracy",
        "learning_rate",
        "gradient_norm",
        "examples_per_second",
        "input_wait",
    ):
        assert [step for step, _ in points(model, "train", tag)] == [5, 10, 15, 19]
    assert all(value == np.float32(0.01) for _, value in points(model, "train", "learning_rate"))


def test_the_row_of_a_run_in_hparams_names_its_folder_and_its_flags(finished):
    model, _ = finished
    accumulator = EventAccumulator(str(model / "tensorboard")).Reload()
    row = hparams.parse_session_start_info_plugin_data(
        accumulator.PluginTagToContent("hparams")[hparams.SESSION_START_INFO_TAG]
    )
    assert row.hparams["model_dir"].string_value == f"{model.name} in {model.parent}"
    assert row.hparams["units"].string_value == "8"
    assert row.hparams["learning_rate"].number_value == 0.01


def test_an_evaluation_has_the_same_metrics_wherever_it_is_written(finished):
    model, answer = finished
    recorded = evaluations(model)
    assert [(entry["step"], entry["split"]) for entry in recorded] == [
        (step, "validation") for step in EPOCH_ENDS[:3]
    ]
    for entry, line, noted in zip(recorded, answer.lines, events(model, "evaluate")):
        for name, value in entry["figures"].items():
            assert noted[name] == value
            assert (entry["step"], np.float32(value)) in points(model, "eval", name)
        assert metrics(line)["validation_loss"] == pytest.approx(entry["figures"]["loss"], rel=1e-3)


# --- the same command again -----------------------------------------------------------------------


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run."""
    return shutil.copytree(finished[0], tmp_path / "model")


def states(model) -> dict:
    """{file: its bytes} of every checkpoint."""
    return {
        path: path.read_bytes()
        for part in ("checkpoints", "best")
        for path in (model / part).glob("*/*")
    }


def test_a_finished_run_repeated_prints_the_same_last_line_and_changes_nothing(
    data, finished, copied
):
    before = states(copied)
    answer = train(data, copied, "--epochs=3")
    assert (answer.code, answer.lines) == (0, finished[1].lines[-1:])
    assert states(copied) == before
    assert points(copied, "train", "loss") == points(finished[0], "train", "loss")
    assert evaluations(copied) == evaluations(finished[0])
    assert "another device" not in answer.err


def test_a_run_that_goes_on_with_another_device_says_so(data, finished, copied):
    """The journal of a run that a GPU began, by hand: there is none here."""
    path = copied / "journal.jsonl"
    on_cpu, on_gpu = '{"accelerator": "CPU"}', '{"accelerator": "GPU", "GPU": "NVIDIA L4"}'
    assert on_cpu in path.read_text()
    path.write_text(path.read_text().replace(on_cpu, on_gpu))
    answer = train(data, copied, "--epochs=3")
    assert (answer.code, answer.lines) == (0, finished[1].lines[-1:])
    assert "another device (accelerator: GPU, now CPU; GPU: NVIDIA L4, now none)" in answer.err


def test_a_run_may_be_made_longer_and_ends_as_if_it_had_been_that_long(
    data, finished, longer, copied
):
    answer = train(data, copied, "--epochs=4", "--log_steps=5")
    assert (
        answer.code == 0
        and len(answer.lines) == 2
        and answer.lines[0].startswith("epoch 4 step 25 ")
    )
    assert answer.digest == longer[1].digest
    assert [step for step, _ in points(copied, "train", "loss")] == [5, 10, 15, 19, 20, 25]


@pytest.mark.parametrize(
    "flags, messages",
    [
        (
            ["--units=16", "--seed=5"],
            ["--units: was 8, now 16", "--seed: was 0, now 5", "another --model_dir"],
        ),
        (["--epochs=1"], ["beyond the last step of this run, 7", "longer, not shorter"]),
    ],
)
def test_a_resume_that_would_change_the_result_is_refused_with_the_difference(
    data, copied, flags, messages
):
    before = (copied / "config.json").read_bytes()
    answer = train(data, copied, "--epochs=3", *flags)
    assert (answer.code, answer.out) == (2, "")
    for part in messages:
        assert part in answer.err
    assert (copied / "config.json").read_bytes() == before


def test_a_resume_on_another_dataset_is_refused(copied, tmp_path):
    datasets.write(
        tmp_path / "other",
        datasets.random_splits(seed=5, train=EXAMPLES),
        vocabulary_size=30,
        classes=3,
    )
    answer = train(tmp_path / "other", copied, "--epochs=3")
    assert answer.code == 2 and "must see the same data" in answer.err


def test_a_lost_configuration_is_read_from_the_newest_checkpoint(data, copied, finished):
    (copied / "config.json").unlink()
    answer = train(data, copied, "--epochs=3")
    assert answer.code == 0 and answer.digest == finished[1].digest
    answer = train(data, copied, "--epochs=3", "--units=9")
    assert answer.code == 2 and "--units" in answer.err


# --- evaluation, the best checkpoint, early stopping ----------------------------------------------


def test_evaluations_every_n_steps_and_after_the_last_on_the_split_asked_for(data, tmp_path):
    answer = train(data, tmp_path / "model", "--steps=10", "--eval_steps=4", "--eval_split=test")
    assert [line.split(" loss")[0] for line in answer.lines[:-1]] == [
        "epoch 1 step 4",
        "epoch 1 step 7",
        "epoch 2 step 8",
        "epoch 2 step 10",
    ]
    assert ["test_loss" in line for line in answer.lines[:-1]] == [True, False, True, True]
    assert [step for step, _ in points(tmp_path / "model", "eval", "accuracy")] == [4, 8, 10]
    assert not (tmp_path / "model" / "best").exists()  # The test split never selects.


def test_the_best_checkpoint_is_that_of_the_first_best_evaluation(finished):
    model, _ = finished
    recorded = evaluations(model)
    best = max(entry["figures"]["accuracy"] for entry in recorded)
    step = next(entry["step"] for entry in recorded if entry["figures"]["accuracy"] == best)
    assert steps_in(model / "best") == [step]


def test_training_stops_when_the_last_evaluations_were_not_better(data, tmp_path):
    command = data, tmp_path / "model", "--epochs=3", "--early_stop_patience=2", "--eval_steps=2"
    stand_still = "--learning_rate=1e-12"
    answer = train(*command, stand_still)
    assert answer.code == 0 and answer.lines[-1].startswith("done step=6 ")
    assert [entry["step"] for entry in evaluations(tmp_path / "model")] == [2, 4, 6]
    assert steps_in(tmp_path / "model" / "best") == [2]
    assert train(*command, stand_still).lines == answer.lines[-1:]


def test_stopping_early_by_the_test_split_is_refused_before_anything_is_written(tmp_path):
    datasets.write(tmp_path / "data", datasets.random_splits(), vocabulary_size=30, classes=3)
    answer = train(tmp_path / "data", tmp_path / "model", "--early_stop_patience=1")
    assert (
        answer.code == 2
        and "needs a validation split" in answer.err
        and "--validation_fraction" in answer.err
    )
    assert not (tmp_path / "model" / "config.json").exists()


def test_metrics_of_another_split_do_not_choose_the_best_checkpoint(data, tmp_path):
    model = tmp_path / "model"
    train(data, model, "--steps=7", "--eval_split=train")
    record = model / "evaluations.jsonl"
    # Better than any that follows.
    record.write_text(record.read_text().replace('"accuracy": 0', '"accuracy": 1'))
    train(data, model, "--steps=13", "--eval_split=validation")
    assert [(entry["step"], entry["split"]) for entry in evaluations(model)] == [
        (7, "train"),
        (7, "validation"),
        (13, "validation"),
    ]
    by_validation = {
        entry["step"]: entry["figures"]["accuracy"] for entry in evaluations(model)[1:]
    }
    assert steps_in(model / "best") == [max(by_validation, key=by_validation.get)]


def test_a_model_of_ids_without_words_takes_no_texts(finished):
    answer = commands.call("predict", f"--model_dir={finished[0]}", "a text")
    assert (answer.code, answer.out) == (2, "") and "has ids and no words" in answer.err


# --- failures -------------------------------------------------------------------------------------


def test_a_step_that_diverges_is_named_with_its_rows_and_never_saved(data, tmp_path):
    model = tmp_path / "model"
    command = (
        data,
        model,
        "--epochs=3",
        "--learning_rate=1e38",
        "--nobucket",
        "--save_steps=1",
        "--eval_steps=-1",
    )
    answer = train(*command)
    assert (answer.code, answer.out) == (4, "")
    step = int(re.search(r"error: step (\d+): the loss is ", answer.err)[1])
    rows = order.examples_at(np.arange((step - 1) * BATCH, step * BATCH), EXAMPLES, seed=0)
    assert ", ".join(map(str, rows)) in answer.err
    assert [(entry["step"], entry["examples"]) for entry in events(model, "diverged")] == [
        (step, rows.tolist())
    ]
    assert max(steps_in(model / "checkpoints"), default=0) < step
    assert events(model, "stop")[-1]["code"] == 4
    assert train(*command).code == 4


def test_a_run_that_cannot_save_its_last_state_fails(data, tmp_path):
    # A file name that no file system takes: every write fails.
    patches = {
        "trainer.model_folder.checkpoint.PAYLOAD": "x" * 300,
        "trainer.model_folder.checkpoint.RETRY_PAUSES": [],
    }
    answer = train(data, tmp_path / "model", "--steps=3", "--eval_steps=-1", patches=patches)
    assert answer.code == 74 and "done" not in answer.out and "could not be written" in answer.err


def test_a_run_that_cannot_record_an_evaluation_fails(data, tmp_path):
    (tmp_path / "model" / "evaluations.tmp").mkdir(parents=True)  # Where a file should be written.
    answer = train(data, tmp_path / "model", "--steps=2")
    assert answer.code == 74 and "done" not in answer.out and "must stay writable" in answer.err
    assert events(tmp_path / "model", "stop")[-1]["code"] == 74


def test_training_continues_when_its_stdout_is_closed(data, tmp_path, longer):
    process = commands.start(
        "train", f"--data_dir={data}", f"--model_dir={tmp_path / 'model'}", *SMALL, "--epochs=4"
    )
    process.stdout.close()
    process.stdout = None
    answer = commands.finish(process)
    assert (
        answer.code == 0
        and "Traceback" not in answer.err
        and "stdout cannot be written (Broken pipe)" in answer.err
    )
    assert manifest(tmp_path / "model", 25)["state_digest"] == longer[1].digest


def test_a_run_stopped_before_it_has_a_state_prints_so(data, tmp_path):
    with lock.hold(tmp_path / "model"):
        process = commands.start(
            "train", f"--data_dir={data}", f"--model_dir={tmp_path / 'model'}", *SMALL
        )
        for line in process.stderr:
            if "waiting up to 30 s" in line:
                break
        process.terminate()
        answer = commands.finish(process)
    assert (answer.code, answer.out) == (143, "stopped step=0 state_digest=none\n")


def test_a_run_that_was_taken_over_while_it_was_frozen_ends_as_a_lost_peer(data, tmp_path):
    model = tmp_path / "model"
    process = commands.start(
        "train",
        f"--data_dir={data}",
        f"--model_dir={model}",
        *SMALL,
        "--epochs=9999",
        "--save_steps=5",
        "--eval_steps=-1",
        "--keep=0",
    )
    commands.wait_for(lambda: steps_in(model / "checkpoints"), process)
    process.send_signal(signal.SIGSTOP)
    other = {
        **attempts.parse(attempts.content(model, 1)),
        "attempt": 2,
        "host": "other",
        "pid": 1,
        "fences": [],
        "began": 5,
    }
    attempts.path_of(model, 2).write_text(json.dumps(sealed.seal(other)))
    process.send_signal(signal.SIGCONT)
    answer = commands.finish(process)
    assert (
        answer.code == 75
        and f"attempt 1 no longer holds {model}: attempt 2, process 1 on other" in answer.err
    )
    assert "done" not in answer.out and "Traceback" not in answer.err
    assert events(model, "stop")[-1]["code"] == 75


# --- other tasks ----------------------------------------------------------------------------------

TAGS = ["O", "B-x", "I-x"]


def lines_of(seed, count):
    """Sentences whose next token, and whose tag, mostly follow from a token."""
    generator, lines = np.random.default_rng(seed), []
    for length in generator.integers(2, 9, count):
        start = generator.integers(4, 30)
        lines.append([1, *(4 + (start + 3 * np.arange(length)) % 26)])
    return lines


def write_task(data_dir, target, how):
    splits = {}
    for seed, (name, count) in enumerate({"train": 40, "validation": 15, "test": 15}.items()):
        lines = lines_of(seed, count)
        tags = np.concatenate(lines) % 3 if target.array else None
        splits[name] = (lines, tags)
    datasets.write(data_dir, splits, vocabulary_size=30, target=target, order=how, labels=TAGS)


@pytest.mark.parametrize(
    "target, how, flags",
    [
        (fields.NEXT_TOKEN, fields.STREAMS, ["--tied_embedding"]),
        (fields.NEXT_TOKEN, fields.SHUFFLED, []),
        (fields.TAGS, fields.SHUFFLED, ["--bidirectional"]),
    ],
    ids=lambda value: getattr(value, "kind", value),
)
def test_a_run_of_any_task_continues_exactly_and_records_what_evaluate_prints(
    tmp_path, target, how, flags
):
    data, whole, parts = (tmp_path / name for name in ("data", "whole", "parts"))
    write_task(data, target, how)
    small = ["--batch_size=4", "--max_length=6", "--save_steps=7", *flags]
    answer = train(data, whole, *small, "--steps=25")
    assert answer.code == 0, answer.err
    # Stops within an epoch, at its end and after it, in streams of 8 or 9 chunks.
    ends = [entry["step"] for entry in events(whole, "epoch")]
    for steps in (3, ends[0], ends[0] + 2, 25):
        continued = train(data, parts, *small, f"--steps={steps}")
        assert continued.code == 0, continued.err
    assert continued.digest == answer.digest
    name = json.loads((data / "dataset.json").read_text())["task"]
    names = TASKS[name]
    assert set(evaluations(whole)[-1]["figures"]) == set(names)
    chosen = json.loads((whole / "config.json").read_text())["flags"]["best_metric"]
    assert chosen == next(iter(names))
    [best] = steps_in(whole / "best")
    [recorded] = [entry for entry in evaluations(whole) if entry["step"] == best]
    asked = [f"--model_dir={whole}", "--split=validation"]
    printed = commands.call("evaluate", *asked, "--format=json")
    assert printed.code == 0, printed.err
    report = json.loads(printed.lines[0])
    for metric, value in recorded["figures"].items():
        assert report[metric] == pytest.approx(value, rel=1e-5), metric
    shown = commands.call("evaluate", *asked)
    assert shown.code == 0 and shown.lines[:2] == ["split validation", f"step {best}"]


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--padding=pre"], "--padding=pre: the dataset is one of language_model"),
        (["--best_metric=macro_f1"], "--best_metric=macro_f1: is no metric of language_model"),
        (["--batch_size=64"], "the training text has only"),
    ],
)
def test_flags_that_do_not_fit_the_task_are_refused_before_anything_is_written(
    tmp_path, flags, message
):
    write_task(tmp_path / "data", fields.NEXT_TOKEN, fields.STREAMS)
    answer = train(tmp_path / "data", tmp_path / "model", "--max_length=6", *flags)
    assert answer.code == 2 and message in answer.err
    assert not (tmp_path / "model" / "config.json").exists()
