"""Gathers what a machine has and allows, without judging it and without importing TensorFlow."""

import dataclasses
import fcntl
import importlib.metadata
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping

from trainer import resuming
from trainer.data import fields, store
from trainer.data.epochs import Epochs, of_split
from trainer.devices import accelerator
from trainer.doctor.cluster import Cluster
from trainer.exit_codes import TrainerError, UsageError
from trainer.flags.run import Gang, Input, Run
from trainer.gang import roster

_PACKAGES = (*accelerator.TENSORFLOWS, "keras", "tensorboard")
_SIGHT_SECONDS = 300.0  # The first import on a cold network disk takes minutes.


@dataclasses.dataclass(frozen=True)
class Sight:
    """What TensorFlow sees on this machine.

    visible: {"CPU", "GPU", "TPU": number of devices}. backend: of Keras. implementation: (name,
    reason) of the recurrent layers on the device of the run. problem: why a TPU that the run needs
    cannot be initialised. gpus: (name, compute capability) of each. built_for: the GPU
    architectures that TensorFlow was built for.
    """

    visible: Mapping[str, int]
    backend: str = "tensorflow"
    implementation: tuple[str, str] = ("", "")
    problem: str = ""
    gpus: tuple[tuple[str, tuple[int, int]], ...] = ()
    built_for: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Folder:
    """What a folder allows.

    probed: the folder that was tried, `path` or the nearest one above it that exists. problems:
    {operation that failed: error of the system}. free: bytes.
    """

    path: pathlib.Path
    probed: pathlib.Path
    problems: Mapping[str, str]
    free: int = 0


@dataclasses.dataclass(frozen=True)
class Data:
    """Size of a prepared dataset: its training split, vocabulary and classes, 0 without any.

    classes: those of the labels, or the words of a target. steps: tokens or frames of the training
    split. order: how steps meet the examples, one of `fields.ORDERS`. second, frame: as in
    `shapes.weights`. values: those of a target of values.
    """

    examples: int
    vocabulary_size: int
    classes: int
    steps: int = 0
    order: str = fields.SHUFFLED
    second: str = ""
    frame: tuple[int, ...] = ()
    values: int = 0

    @property
    def outputs(self) -> int:
        """The number of classes or values, or of ids if the target is the next token."""
        return self.classes or self.values or self.vocabulary_size

    @property
    def in_streams(self) -> bool:
        """Whether a run reads it as one long text."""
        return self.order == fields.STREAMS

    def epochs(self, settings: Input) -> Epochs:
        """Returns the epochs of a run over it."""
        return of_split(self.order, self.examples, self.steps, settings)


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the checks judge. A fact that could not be gathered is a text with the reason.

    checkpoints: of the model folder. source: checkpoints of the model that --init_from names.
    refused_gang: what is wrong with TF_CONFIG, if anything.
    """

    python: tuple[int, int]
    packages: Mapping[str, str]
    given: Mapping[str, accelerator.Evidence]
    workers: int = 1
    refused_gang: str = ""
    sight: Sight | str = "not asked for"
    data: Data | str = "--data_dir is not given"
    model_folder: Folder | str = "--model_dir is not given"
    checkpoints: int = 0
    source: int | str = "--init_from is not given"
    cluster: Cluster | str = "not asked for"


def python() -> tuple[int, int]:
    """Returns the version of Python, for example (3, 11)."""
    return sys.version_info[:2]


def packages() -> dict[str, str]:
    """Returns {package: version} of the installed packages that the checks judge."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def workers(gang: Gang, environ: Mapping[str, str]) -> int:
    """Returns the number of workers according to the flags, else TF_CONFIG, else 1.

    --num_workers alone is enough: this machine need not be one of them.
    """
    if gang.num_workers:
        return gang.num_workers
    try:
        return roster.resolve(gang, environ).workers
    except UsageError:
        return 1


def refused_gang(gang: Gang, environ: Mapping[str, str]) -> str:
    """Returns why `train` would refuse TF_CONFIG; "" if it would not, or if there is none."""
    if not environ.get("TF_CONFIG"):
        return ""
    try:
        roster.resolve(gang, environ)
    except UsageError as problem:
        return str(problem)
    return ""


def data(folder: str) -> Data | str:
    """Returns the size of the dataset in `folder`, or what is wrong with it.

    The files are compared with dataset.json by size only.
    """
    if not folder:
        return Facts.data
    try:
        store.open_dataset(folder, verify=False)
    except TrainerError as problem:
        return str(problem)
    except OSError as problem:
        return (
            f"--data_dir={folder}: {problem}. The user that trains must be able to read every file."
        )
    return described(folder)


def described(folder: str) -> Data | str:
    """Returns the size in dataset.json without opening the arrays, or why it cannot be read."""
    try:
        description, _ = store.read_description(pathlib.Path(folder))
        lines = {
            name: pathlib.Path(folder, name).read_bytes().count(b"\n")
            for name in store.NAMES
            if name in description["files"]
        }
        split = description["splits"].get("train", {})
        return Data(
            split.get("examples", 0),
            lines.get(store.VOCABULARY, 0),
            lines.get(store.LABELS, lines.get(store.TARGET_VOCABULARY, 0)),
            split.get(store.input_in(description).array, 0),
            store.order_in(description),
            store.second_in(description),
            store.frame_in(description),
            store.form_in(description).values,
        )
    except (TrainerError, OSError) as problem:
        return str(problem)


def checkpoints(folder: str) -> int:
    """Returns the number of committed checkpoints in the model folder, the best one included."""
    return sum(
        1
        for part in ("checkpoints", "best")
        for path in pathlib.Path(folder).glob(f"{part}/step-*")
        if path.suffix == ""
    )


def source(folder: str) -> int | str:
    """Returns the number of checkpoints of the model to start from, or why there are none."""
    if not folder:
        return Facts.source
    try:
        resuming.written_in(folder, "init_from")
    except (TrainerError, OSError) as problem:
        return str(problem)
    return checkpoints(folder) or f"--init_from={folder}: holds no checkpoint yet. Train it first."


def free(folder: str) -> Folder:
    """Returns the place of the model folder and its free space; nothing else is tried."""
    probed = _nearest(pathlib.Path(folder))
    return Folder(pathlib.Path(folder), probed, {}, shutil.disk_usage(probed).free)


def folder(path: str) -> Folder:
    """Tries every operation of a run in the model folder, or where the run would make it.

    Leaves nothing behind.
    """
    found = free(path)
    try:
        place = pathlib.Path(tempfile.mkdtemp(prefix=".rnn-trainer-doctor-", dir=found.probed))
    except OSError as problem:
        return dataclasses.replace(found, problems={"make a folder in": problem.strerror})
    try:
        return dataclasses.replace(found, problems=_problems(place))
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _nearest(path: pathlib.Path) -> pathlib.Path:
    """Returns `path`, or the nearest folder above it that exists as far as this user can see."""
    path = path.absolute()
    # Before Python 3.14, Path.exists() raises PermissionError below a folder that is closed to us.
    return next(place for place in (path, *path.parents) if os.path.exists(place))


def _problems(place: pathlib.Path) -> dict[str, str]:
    problems = {}
    for what, attempt in (
        ("write to", _write),
        ("sync", _sync),
        ("lock", _lock),
        ("rename a folder in", _rename),
    ):
        try:
            attempt(place)
        except OSError as problem:
            problems[what] = problem.strerror or str(problem)
    return problems


def _write(place: pathlib.Path) -> None:
    (place / "file").write_bytes(b"trainer")
    if (place / "file").read_bytes() != b"trainer":
        raise OSError("the file does not hold what was written")


def _sync(place: pathlib.Path) -> None:
    for path, mode in ((place / "file", os.O_RDWR | os.O_CREAT), (place, os.O_RDONLY)):
        descriptor = os.open(path, mode)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _lock(place: pathlib.Path) -> None:
    with open(place / "lock", "w") as first, open(place / "lock", "w") as second:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
    raise OSError("two holders got the same lock")


def _rename(place: pathlib.Path) -> None:
    (place / "before").mkdir()
    (place / "before/file").touch()
    os.rename(place / "before", place / "after")
    if not (place / "after/file").exists():
        raise OSError("the folder lost its files")


def sight(run: Run, cell: str) -> Sight | str:
    """Returns what TensorFlow sees, or why it cannot be imported.

    A child process imports it, because a broken TensorFlow may end the process that does.
    """
    program = [sys.executable, "-m", "trainer.doctor.sight"]
    arguments = [*program, run.accelerator, run.strategy, cell, run.jit]
    try:
        answer = subprocess.run(arguments, capture_output=True, text=True, timeout=_SIGHT_SECONDS)
    except subprocess.TimeoutExpired:
        return f"importing TensorFlow took more than {_SIGHT_SECONDS:g} s"
    if answer.returncode:
        last = (answer.stderr.strip().splitlines() or [""])[-1]
        return f"importing TensorFlow ended with code {answer.returncode}: {last}"
    seen = json.loads(answer.stdout.splitlines()[-1])
    return Sight(
        seen["visible"],
        seen["backend"],
        tuple(seen["implementation"]),
        seen["problem"],
        tuple((name, tuple(capability)) for name, capability in seen["gpus"]),
        tuple(seen["built_for"]),
    )
