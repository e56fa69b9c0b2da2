"""What runs in a container of Vertex AI: copies, the trainer, and copies again.

    python -m trainer.launch.vertex_run --name=NAME [--stage=URL:FOLDER] [--publish] -- train ...

Vertex AI mounts buckets below /gcs, so copying needs no other tool. A container that ends with
another code than 0 fails the whole job, so a trainer that has lost its peers is started again here.

Variables that Vertex AI sets
(https://cloud.google.com/vertex-ai/docs/training/code-requirements#environment-variables):

    TF_CONFIG                 read by the trainer: which worker this is, of which (`gang.roster`)
    AIP_MODEL_DIR             with --publish the model folder is copied there after exit code 0; it
                              counts if the object FOLDER.published beside it says `complete`
    AIP_TENSORBOARD_LOG_DIR   with --publish the TensorBoard files are copied there every minute
    AIP_CHECKPOINT_DIR        not used: a bucket cannot hold a model folder (see `vertex`)
"""

import logging
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

from trainer import failures, streams
from trainer.exit_codes import BY_NAME, StorageError, TrainerError, UsageError
from trainer.flags.run import Gang
from trainer.flags.submit import VERTEX, Submit
from trainer.gang import roster
from trainer.launch import stage
from trainer.model_folder import commits

log = logging.getLogger(__name__)

BUCKETS = pathlib.Path("/gcs")
PROGRAM = (sys.executable, "-m", "trainer")
SHOW_SECONDS = 60.0  # Between copies of the TensorBoard files.
PASSED_ON = (signal.SIGTERM, signal.SIGINT)


def run(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Runs a worker to its end; returns its exit code.

    Args:
      words: the command line after the program's name, as `vertex.VertexJob.arguments`.

    Raises:
      UsageError: the target of --publish belongs to another job.
      StorageError: a bucket cannot be read or written, or a copy there is not complete.
    """
    own, command = words[: words.index("--")], list(words[words.index("--") + 1 :])
    name = own[0].removeprefix("--name=")
    copies = [word.removeprefix("--stage=") for word in own if word.startswith("--stage=")]
    flags = dict(word.removeprefix("--").partition("=")[::2] for word in command[1:])
    model = pathlib.Path(flags["model_dir"])
    tries = int(flags.get("max_restarts", Gang().max_restarts))
    for copy in stage.staged(Submit(target=VERTEX, stage=(*copies,))):
        _fetch(mounted(copy.url), pathlib.Path(copy.folder))
    publication = None
    if "--publish" in own and _is_chief(environ):
        publication = _Publication(mounted(environ.get("AIP_MODEL_DIR", "")), f"{name} {model}")
        publication.check()
    shown = environ.get("AIP_TENSORBOARD_LOG_DIR", "") if publication else ""
    board = (model / "tensorboard", mounted(shown)) if shown else None
    with tempfile.TemporaryDirectory() as private:
        if token := environ.get("TRAINER_GANG_TOKEN"):
            file = pathlib.Path(private, "token")
            file.touch(mode=0o600)
            file.write_text(token, encoding="utf-8")
            command.append(f"--gang_token_file={file}")
        code = _until_it_ends(_Worker(command), model, tries, board)
    if code == BY_NAME["done"] and publication:
        publication.publish(model)
        log.info("published %s as %s", model, publication.folder)
    return code


def _until_it_ends(
    worker: "_Worker",
    model: pathlib.Path,
    most: int,
    board: tuple[pathlib.Path, pathlib.Path] | None,
) -> int:
    """Runs the trainer, again each time when it has lost its peers; returns its last exit code.

    A gang that cannot meet must not try for ever: it is started again at most `most` times without
    a new checkpoint.
    """
    tries = 0
    while True:
        before = commits.list_steps(model / "checkpoints")
        code = worker.end(board)
        if code != BY_NAME["peer_lost"] or worker.asked:
            return code
        tries = 0 if commits.list_steps(model / "checkpoints") != before else tries + 1
        if tries > most:
            return BY_NAME["restart_limit"]
        log.info("the trainer lost its peers (exit code %d): starting it again", code)


def mounted(url: str) -> pathlib.Path:
    """Returns the path of a gs:// URL below /gcs. Raises UsageError for anything else."""
    scheme, found, rest = url.partition("://")
    if scheme != "gs" or not found or not rest.strip("/"):
        raise UsageError(
            f"{url or 'AIP_MODEL_DIR is not set'}: must be a folder gs://BUCKET/FOLDER. Name one "
            "with --publish or --stage of submit."
        )
    return BUCKETS / rest.rstrip("/")


def _is_chief(environ: Mapping[str, str]) -> bool:
    return roster.resolve(Gang(), environ).index == 0


def _fetch(source: pathlib.Path, folder: pathlib.Path) -> None:
    mark = _mark_of(source)
    if mark.exists() and not mark.read_text(encoding="utf-8").startswith("complete "):
        raise StorageError(
            f"{source}: is not completely published. Wait for its job to end, or submit that job "
            "again."
        )
    shutil.copytree(source, folder, dirs_exist_ok=True)


class _Publication:
    """A folder of a bucket that belongs to `job`, and the object beside it that says so.

    The same order and words as in bucket.sh.
    """

    def __init__(self, folder: pathlib.Path, job: str):
        self.folder = folder
        self._job = job
        self._mark = _mark_of(folder)

    def check(self) -> None:
        """Raises UsageError unless the folder is empty or of this job; proves it can be written."""
        text = f"incomplete {self._job}"
        if self._mark.exists():
            text = self._mark.read_text(encoding="utf-8").strip()
            state, _, owner = text.partition(" ")
            if state not in ("complete", "incomplete") or owner != self._job:
                raise UsageError(
                    f"{self.folder}: {self._mark} says that it belongs to {owner!r}, not to "
                    f"{self._job!r}, which would replace it. Choose another --publish."
                )
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise UsageError(
                f"{self.folder}: is not empty, and no job published it. Files there would be "
                "deleted: choose another --publish."
            )
        self._write(text)

    def publish(self, model: pathlib.Path) -> None:
        """Copies the model folder; it counts only when the last of its files is there."""
        self._write(f"incomplete {self._job}")
        if self.folder.exists():
            shutil.rmtree(self.folder)
        shutil.copytree(model, self.folder, ignore=shutil.ignore_patterns("*.tmp-*"))
        self._write(f"complete {self._job}")

    def _write(self, text: str) -> None:
        self._mark.parent.mkdir(parents=True, exist_ok=True)
        self._mark.write_text(f"{text}\n", encoding="utf-8")


def _mark_of(folder: pathlib.Path) -> pathlib.Path:
    return folder.with_name(f"{folder.name}.published")


class _Worker:
    """The trainer's process; SIGTERM and SIGINT are passed on to it."""

    def __init__(self, command: Sequence[str]):
        self.asked = False
        self._command = [*PROGRAM, *command]
        self._process: subprocess.Popen | None = None
        for number in PASSED_ON:
            signal.signal(number, self._pass_on)

    def end(self, board: tuple[pathlib.Path, pathlib.Path] | None) -> int:
        """Runs the trainer to its end; returns its exit code, as a shell does for a signal.

        board: from where and to where TensorBoard files are copied meanwhile.
        """
        self._process = subprocess.Popen(self._command)
        if self.asked:  # Between two attempts.
            self._process.terminate()
        while True:
            try:
                code = self._process.wait(SHOW_SECONDS)
            except subprocess.TimeoutExpired:
                code = None
            if board:
                _show(*board)
            if code is not None:
                return code if code >= 0 else 128 - code

    def _pass_on(self, number: int, frame: object) -> None:
        self.asked = True
        if self._process and self._process.poll() is None:
            self._process.send_signal(number)


def _show(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies the TensorBoard files that have grown; a failure only costs the view."""
    try:
        for file in sorted(path for path in source.rglob("*") if path.is_file()):
            copy = target / file.relative_to(source)
            if not copy.exists() or copy.stat().st_size != file.stat().st_size:
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
    except OSError as problem:
        log.warning("TensorBoard files could not be copied to %s: %s", target, problem)


def main() -> int:
    """Runs the command line of the process; returns its exit code."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    try:
        return run(sys.argv[1:], os.environ)
    except TrainerError as problem:
        streams.print_error(problem)
        return problem.code
    except OSError as problem:
        failure = failures.of(problem)
        streams.print_error(failure)
        return failure.code


if __name__ == "__main__":
    sys.exit(main())
