"""The command line: finds the command, parses its flags, runs it and returns its exit code.

Only this module and `flags` read the command line. The commands import TensorFlow after all flags
have been checked, so `--help` and mistakes are answered at once.
"""

import contextlib
import dataclasses
import faulthandler
import logging
import os
import pathlib
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from trainer import __version__, channel, durable, failures, resuming, stopping, streams
from trainer.devices import accelerator, cuda
from trainer.exit_codes import BY_NAME, TrainerError, UsageError
from trainer.flags import parsing
from trainer.flags import run as configuration
from trainer.flags.prepare import Prepare
from trainer.flags.submit import START, TPU_VM, Submit
from trainer.flags.use import Chaos, Doctor, Evaluate, Export, Predict, Report


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of the program.

    summary, usage: for --help. sections: the dataclasses whose fields are its flags. run: takes the
    parsed command line and returns the exit code.
    """

    summary: str
    usage: str
    sections: tuple[type, ...]
    run: Callable[[parsing.Parsed], int]


def _prepare(parsed: parsing.Parsed) -> int:
    """Turns raw files into a dataset folder."""
    settings = Prepare(**parsed.values)
    _require(settings, "data_dir")
    stopping.unwind_on_sigterm()
    from trainer.devices import strategy
    from trainer.prepare import command as prepare

    # It reads texts, and would take all memory of a GPU for that: a run beside it finds none.
    strategy.hide_gpus()
    prepare.prepare(settings)
    return BY_NAME["done"]


def _train(parsed: parsing.Parsed) -> int:
    """Trains here, or supervises a child process that trains."""
    began = time.monotonic()
    config = configuration.from_flat(parsed.values)
    config.folders.refuse_addresses()
    from trainer.launch import vertex

    vertex.refuse_bucket(config.folders.model_dir, os.environ)
    _require(config.folders, "data_dir", "model_dir")
    channel.end_with_supervisor(os.environ)
    # SIGUSR1 makes a process that hangs print its stack.
    faulthandler.register(signal.SIGUSR1, sys.__stderr__)
    parent = channel.Channel.from_environment(os.environ)
    parent.beat("import")
    stop = stopping.StopRequest.on_signals(parent)
    with stopping.sigterm_blocked():  # NumPy starts threads.
        from trainer.gang import supervisor

    if supervisor.wanted(config, os.environ, os.getpid()):
        return supervisor.run(config, os.environ, stop)
    stop.take_sigterm()
    from trainer.data import store
    from trainer.model_folder import commits

    # The most common mistake is answered before TensorFlow is imported.
    store.read_description(pathlib.Path(config.folders.data_dir))
    if config.folders.init_from and not commits.exist(config.folders.model_dir):
        resuming.written_in(config.folders.init_from, "init_from")
    _keep_compiled_kernels(config)
    from trainer import train

    return train.train(config, stop, parent, began)


def _keep_compiled_kernels(config: configuration.Config) -> None:
    """If the run will use a GPU, makes CUDA keep the kernels that it compiles on the model's disk.

    A run on a CPU makes no folder.
    """
    run = config.run
    kind = accelerator.here(run.accelerator, run.strategy)
    settings = cuda.kernel_cache(config.folders.model_dir, os.environ) if kind == "GPU" else {}
    if settings:
        try:
            durable.make_folder(pathlib.Path(settings["CUDA_CACHE_PATH"]))
        except OSError:
            return  # The cache is a convenience; a model folder that cannot be used is told later.
        os.environ.update(settings)


def _evaluate(parsed: parsing.Parsed) -> int:
    """Prints the metrics of a model over a split."""
    settings = Evaluate(**parsed.values)
    _require_run(settings)
    from trainer import evaluate

    return evaluate.command(settings)


def _predict(parsed: parsing.Parsed) -> int:
    """Prints the predictions for texts."""
    settings = Predict(**parsed.values)
    if parsed.words and settings.input:
        raise UsageError(
            f"--input={settings.input}: texts come from the file or from the arguments, not both. "
            "Leave one out."
        )
    _require_run(settings)
    stopping.unwind_on_sigterm()
    from trainer import predict

    return predict.command(settings, parsed.words)


def _export(parsed: parsing.Parsed) -> int:
    """Writes a model as files that load without this program."""
    settings = Export(**parsed.values)
    _require(settings, "export_dir")
    _require_run(settings)
    stopping.unwind_on_sigterm()
    from trainer.export import command as export

    return export.command(settings)


def _chaos(parsed: parsing.Parsed) -> int:
    """Compares a run that is killed with one that is not."""
    config = configuration.from_flat(parsed.values)
    config.folders.refuse_addresses()
    _require(config.folders, "data_dir", "model_dir")
    from trainer.chaos import command as chaos

    return chaos.run(config, Chaos(parsed.values["kills"], parsed.values["workers"]))


def _report(parsed: parsing.Parsed) -> int:
    """Prints where the time of a run went."""
    settings = Report(**parsed.values)
    _require(settings, "model_dir")
    from trainer.reporting import command as report

    return report.command(settings)


def _doctor(parsed: parsing.Parsed) -> int:
    """Checks whether a run can succeed here."""
    config = configuration.from_flat(parsed.values)
    config.folders.refuse_addresses()
    settings = Doctor(*(parsed.values[field.name] for field in dataclasses.fields(Doctor)))
    from trainer.doctor import command

    return command.command(config, settings)


def _submit(parsed: parsing.Parsed) -> int:
    """Prints or starts a job, reports on it or stops it."""
    settings = Submit(**parsed.values)
    from trainer.launch import submit

    if settings.verb != START:
        if parsed.words:
            raise UsageError(
                f"{parsed.words[0]}: --{settings.verb} takes nothing after the flags. Leave it out."
            )
        return submit.stop(settings) if settings.stop else submit.status(settings)
    if not parsed.words or parsed.words[0] != "train":
        raise UsageError(
            f"{' '.join(parsed.words) or 'nothing'}: after `--` comes the command that the job "
            "runs, `train` and its flags: "
            "submit --name=imdb --image=... -- train --data_dir=... --model_dir=..."
        )
    config = configuration.from_flat(_parse("train", parsed.words[1:]).values)
    _require(config.folders, "data_dir", "model_dir")
    if settings.target != TPU_VM:
        config.folders.refuse_addresses()
    return submit.start(settings, config)


COMMANDS = {
    "prepare": Command(
        "turn raw files into a dataset folder",
        "prepare --source=... --data_dir=DIR [flags]",
        (Prepare,),
        _prepare,
    ),
    "train": Command(
        "train, or continue training, the model in a folder",
        "train --data_dir=DIR --model_dir=DIR [flags]",
        tuple(configuration.TRAIN_SECTIONS.values()),
        _train,
    ),
    "evaluate": Command(
        "print the exact metrics of a model over a split",
        "evaluate --model_dir=DIR [flags]",
        (Evaluate,),
        _evaluate,
    ),
    "predict": Command(
        "print what a model answers to texts or sequences of numbers",
        "predict --model_dir=DIR [flags] [TEXT ...]",
        (Predict,),
        _predict,
    ),
    "export": Command(
        "write a SavedModel and a Keras file that load without this program",
        "export --model_dir=DIR --export_dir=DIR [flags]",
        (Export,),
        _export,
    ),
    "chaos": Command(
        "prove that kills do not change the result: a run with and without them",
        "chaos --kills=3 [flags of train]",
        (Chaos, *configuration.TRAIN_SECTIONS.values()),
        _chaos,
    ),
    "report": Command(
        "print where the time of a run went, and why it failed",
        "report --model_dir=DIR [flags]",
        (Report,),
        _report,
    ),
    "doctor": Command(
        "check what a run needs, here and on a cluster, before it costs anything",
        "doctor [flags of train]",
        (Doctor, *configuration.TRAIN_SECTIONS.values()),
        _doctor,
    ),
    "submit": Command(
        "print or start a job: on a cluster, on this machine, on a TPU VM",
        "submit --name=NAME --image=IMAGE [flags] -- train [flags of train]",
        (Submit,),
        _submit,
    ),
}
TAKES_WORDS = {"predict", "submit"}


def main(arguments: Sequence[str]) -> int:
    """Runs the command line `arguments` (without the program's name) and returns the exit code."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Networks are made of tf.functions, so no other backend and no older Keras can run them,
    # whatever a variable or ~/.keras/keras.json asks for.
    os.environ.update({"KERAS_BACKEND": "tensorflow", "TF_USE_LEGACY_KERAS": "0"})
    # oneDNN prints a greeting to stderr, and XLA does not use it: a run has the same result with
    # and without it.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    for name, value in cuda.REPEATABLE.items():
        os.environ.setdefault(name, value)
    if not accelerator.may_have_tpu(os.environ):
        # libtpu asks Google Cloud's metadata server which TPU this is. Elsewhere nobody answers,
        # and it asks for minutes.
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    _log_to_stderr()
    try:
        return _dispatch(list(arguments))
    except TrainerError as problem:
        streams.print_error(problem)
        return problem.code
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            print("interrupted", file=sys.stderr)
        return BY_NAME["interrupted"]
    except BrokenPipeError:
        # The reader of our output has closed it (`| head`). Python must not flush it at exit.
        streams.discard_stdout()
        return BY_NAME["done"]
    except OSError as problem:
        if problem.filename is None:  # Perhaps stdout is full.
            streams.discard_stdout()
        failure = failures.of(problem)
        streams.print_error(failure)
        return failure.code


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        print(_overview(), file=sys.stdout if arguments else sys.stderr)
        return BY_NAME["done" if arguments else "usage"]
    if arguments[0] == "--version":
        print(f"rnn-trainer {__version__}")
        return BY_NAME["done"]
    name, *rest = arguments
    if name not in COMMANDS:
        raise UsageError(f"{name}: no such command. Commands: {', '.join(COMMANDS)}.")
    command = COMMANDS[name]
    if any(
        word in ("--help", "-h", "-help")
        for word in rest[: rest.index("--") if "--" in rest else None]
    ):
        print(
            parsing.help_text(
                f"python -m trainer {command.usage}\n\n{command.summary}", command.sections
            )
        )
        return BY_NAME["done"]
    return command.run(_parse(name, rest))


def _parse(name: str, arguments: Sequence[str]) -> parsing.Parsed:
    parsed = parsing.parse(
        name, arguments, {name: command.sections for name, command in COMMANDS.items()}
    )
    if parsed.words and name not in TAKES_WORDS:
        raise UsageError(f"{parsed.words[0]}: `{name}` takes flags only, in the form --name=value.")
    return parsed


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return (
        "python -m trainer COMMAND [flags]\n\n"
        + "\n".join(lines)
        + "\n\n`COMMAND --help` lists the flags of a command, `--version` prints the version."
    )


def _require(settings: Any, *names: str) -> None:
    for name in names:
        if not getattr(settings, name):
            raise UsageError(f"--{name} is empty: the command needs it. Name a folder.")


def _require_run(settings: Any) -> None:
    """Raises UsageError unless `settings.model_dir` is the folder of a run."""
    _require(settings, "model_dir")
    resuming.written_in(settings.model_dir)


class _CurrentStderr(logging.StreamHandler):
    """Writes to the current sys.stderr, so that lines appear above a progress bar.

    The progress bar replaces sys.stderr while it is shown.
    """

    def __init__(self):
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr


def _log_to_stderr() -> None:
    logger = logging.getLogger("trainer")
    if not logger.handlers:
        handler = _CurrentStderr()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


def console() -> None:
    """Runs the command line of the process and exits; the installed program begins here."""
    streams.complete()
    outcome = streams.Outcome(os.environ)
    # Characters that the terminal cannot encode are printed escaped instead of ending the command.
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = main(sys.argv[1:])
    except Exception:
        with contextlib.suppress(OSError):
            traceback.print_exc()
        code = BY_NAME["bug"]
    try:
        sys.stdout.flush()
    except OSError as problem:  # The last lines did not fit.
        if not isinstance(problem, BrokenPipeError):
            streams.print_error(failures.of(problem))
            code = code or BY_NAME["storage"]
        streams.discard_stdout()
    outcome.tell(code)
    if "TF_CONFIG" not in os.environ:
        sys.exit(code)
    # At a normal exit TensorFlow waits for the other workers, for twenty seconds if one is gone.
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(code)
