"""A worker of Vertex AI: what it copies, what it runs, and how it ends."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from trainer.exit_codes import StorageError, UsageError
from trainer.launch import vertex_run

# In the place of the trainer: ends with the codes of the file `codes` of its model folder, one
# after the other.
TRAINER = """\
import pathlib, signal, sys, time
flags = dict(word[2:].partition("=")[::2] for word in sys.argv[2:])
model = pathlib.Path(flags["model_dir"])
if "gang_token_file" in flags:
    token = pathlib.Path(flags["gang_token_file"])
    (model / "token").write_text(f"{token.stat().st_mode & 0o777:o} {token.read_text()}")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
codes = (model / "codes").read_text().split()
(model / "codes").write_text(" ".join(codes[1:]))
(model / "tensorboard").mkdir(exist_ok=True)
(model / "tensorboard/events").write_text(f"{len(codes)} are left")
if codes[0] == "wait":
    (model / "trains").touch()
    time.sleep(60)
sys.exit(int(codes[0]))
"""


def tf_config(kind: str = "chief", index: int = 0, workers: int = 1) -> str:
    """TF_CONFIG as Vertex AI sets it, of which the page on distributed training has an example."""
    return json.dumps(
        {
            "cluster": {
                "chief": ["cmle-training-workerpool0-ab-0:2222"],
                "worker": [f"cmle-training-workerpool1-ab-{i}:2222" for i in range(workers)],
            },
            "environment": "cloud",
            "job": '{"python_module":"","args":[]}',
            "task": {"type": kind, "index": index, "cloud": "ab"},
        }
    )


class Container:
    def __init__(self, folder: pathlib.Path, codes: str):
        self.folder = folder
        self.model = folder / "model"
        self.model.mkdir()
        (self.model / "codes").write_text(codes)
        (self.model / "config.json").write_text("{}")
        (self.model / ".tmp-1").write_text("half")
        self.environ = {
            "TF_CONFIG": tf_config(),
            "AIP_MODEL_DIR": "gs://b/m/model/",
            "AIP_TENSORBOARD_LOG_DIR": "gs://b/m/logs/",
        }

    def run(self, *own: str, **environ: str) -> int:
        words = ["--name=words", *own, "--", "train", f"--model_dir={self.model}"]
        return vertex_run.run(words, {**self.environ, **environ})

    @property
    def mark(self) -> str:
        return (self.folder / "gcs/b/m/model.published").read_text().strip()


@pytest.fixture
def container(tmp_path, monkeypatch):
    program = tmp_path / "trainer.py"
    program.write_text(TRAINER)
    monkeypatch.setattr(vertex_run, "PROGRAM", (sys.executable, "-IS", str(program)))
    monkeypatch.setattr(vertex_run, "BUCKETS", tmp_path / "gcs")
    monkeypatch.setattr(vertex_run, "SHOW_SECONDS", 0.1)
    handlers = {number: signal.getsignal(number) for number in vertex_run.PASSED_ON}
    yield lambda codes="0": Container(tmp_path, codes)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("code", [0, 1, 2, 3, 143])
def test_a_worker_ends_as_its_trainer_ends(container, code):
    assert container(str(code)).run() == code


def test_a_trainer_that_lost_its_peers_is_started_again(container):
    worker = container("75 75 0")
    assert worker.run() == 0
    assert (worker.model / "codes").read_text() == ""


def test_a_gang_that_never_meets_is_given_up(container):
    assert container("75 " * 20).run() == 76


def test_the_token_of_the_gang_is_in_a_file_that_no_other_user_reads(container):
    worker = container()
    assert worker.run(TRAINER_GANG_TOKEN="f" * 64) == 0
    assert (worker.model / "token").read_text() == f"600 {'f' * 64}"


def test_a_folder_is_copied_before_the_trainer_starts(container):
    worker = container()
    source = worker.folder / "gcs/b/d"
    (source / "train").mkdir(parents=True)
    (source / "train/tokens.npy").write_text("tokens")
    assert worker.run(f"--stage=gs://b/d:{worker.folder}/local/d") == 0
    assert (worker.folder / "local/d/train/tokens.npy").read_text() == "tokens"
    source.with_name("d.published").write_text("incomplete other /m\n")
    with pytest.raises(StorageError, match="is not completely published"):
        worker.run(f"--stage=gs://b/d:{worker.folder}/local/d")


def test_the_model_is_published_after_exit_code_0_and_its_tensorboard_files_meanwhile(container):
    worker = container("143 0")
    assert worker.run("--publish") == 143
    assert worker.mark == f"incomplete words {worker.model}"
    assert (worker.folder / "gcs/b/m/logs/events").read_text() == "2 are left"
    assert not (worker.folder / "gcs/b/m/model").exists()
    (worker.folder / "gcs/b/m/model").mkdir()
    (worker.folder / "gcs/b/m/model/old").touch()
    assert worker.run("--publish") == 0
    assert worker.mark == f"complete words {worker.model}"
    published = {path.name for path in (worker.folder / "gcs/b/m/model").iterdir()}
    assert published == {"config.json", "codes", "tensorboard"}


@pytest.mark.parametrize("index, publishes", [(0, False), (None, True)])
def test_only_the_chief_publishes(container, index, publishes):
    worker = container()
    kind = tf_config() if index is None else tf_config("worker", index)
    assert worker.run("--publish", TF_CONFIG=kind) == 0
    assert (worker.folder / "gcs/b/m/model.published").exists() == publishes


def test_half_a_copy_does_not_count(container, monkeypatch):
    worker = container()

    def breaks(*arguments, **options):
        raise OSError("the mount is gone")

    monkeypatch.setattr(vertex_run.shutil, "copytree", breaks)
    with pytest.raises(OSError, match="the mount is gone"):
        worker.run("--publish")
    assert worker.mark == f"incomplete words {worker.model}"


def test_a_target_that_another_job_published_or_nobody_is_never_replaced(container):
    worker = container()
    folder = worker.folder / "gcs/b/m/model"
    folder.mkdir(parents=True)
    (folder / "mine").touch()
    with pytest.raises(UsageError, match="is not empty, and no job published it"):
        worker.run("--publish")
    folder.with_name("model.published").write_text("complete other /m\n")
    with pytest.raises(UsageError, match="belongs to 'other /m', not to 'words"):
        worker.run("--publish")


def test_a_bucket_that_is_not_set_is_named(container):
    with pytest.raises(UsageError, match="AIP_MODEL_DIR is not set: must be a folder gs://"):
        container().run("--publish", AIP_MODEL_DIR="")


def test_sigterm_reaches_the_trainer_and_nothing_is_started_again(tmp_path):
    program = tmp_path / "trainer.py"
    program.write_text(TRAINER)
    model = tmp_path / "model"
    model.mkdir()
    (model / "codes").write_text("wait 0")
    words = ["--name=words", "--", "train", f"--model_dir={model}"]
    code = (
        "import sys; from trainer.launch import vertex_run; "
        f"vertex_run.PROGRAM = (sys.executable, '-IS', {str(program)!r}); "
        f"sys.exit(vertex_run.run({words!r}, {{}}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ)
    deadline = time.monotonic() + 60
    while not (model / "trains").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    assert process.wait(60) == 143
    assert (model / "codes").read_text() == "0"
