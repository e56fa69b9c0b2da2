"""What a pod copies from a bucket and to it: bucket.sh with stand-ins for gcloud and aws, whose
buckets are folders, beside a trainer that ends in every way.
"""

import os
import pathlib
import shutil
import stat
import subprocess
import sys

import pytest

from trainer.exit_codes import UsageError
from trainer.flags.submit import Submit
from trainer.launch import stage

SCRIPT = pathlib.Path(stage.__file__).with_name(stage.SCRIPT)
# Answers as the tools do: gcloud names what it misses, aws ends with 1 and prints nothing. The
# file `fail` holds words; a call that has all of one line's words fails.
FAKE = """\
#!{python} -IS
import os, pathlib, shutil, sys
root = pathlib.Path({root!r})
words = sys.argv[1:]
with open(root / "calls", "a") as file:
    print(pathlib.Path(sys.argv[0]).name, *words, file=file)
broken = root / "fail"
if broken.exists() and all(word in " ".join(words) for word in broken.read_text().split()):
    sys.exit("ServiceException: 503")
verb, gcloud = words[1], "gcloud" in sys.argv[0]
places = [word for word in words[2:] if word == "-" or "/" in word and not word.startswith("--")]
def path(place):
    scheme, found, rest = place.partition("://")
    return root / scheme / rest if found else pathlib.Path(place)
if verb == "ls":
    bucket = "/".join(places[0].split("/")[:3])
    if not path(bucket).exists():
        sys.exit(
            f"ERROR: (gcloud.storage.ls) {{bucket}} not found: 404."
            if gcloud
            else "An error occurred (NoSuchBucket) when calling the ListObjectsV2 operation: The "
            "specified bucket does not exist"
        )
    if not path(places[0].rstrip("/")).exists():
        missing = "ERROR: (gcloud.storage.ls) One or more URLs matched no objects."
        sys.exit(missing if gcloud else 1)
elif verb == "cat" or places[-1] == "-":
    print(path(places[0]).read_text(), end="")
elif places[0] == "-":
    path(places[1]).parent.mkdir(parents=True, exist_ok=True)
    path(places[1]).write_text(sys.stdin.read())
else:
    assert verb in ("rsync", "sync"), words
    assert verb == "sync" or "--recursive" in words
    source, target = map(path, places)
    if not source.exists():
        sys.exit("no such folder" if gcloud else 0)
    if any("delete" in word for word in words):
        shutil.rmtree(target, ignore_errors=True)
    for index, file in enumerate(sorted(source.rglob("*"))):
        if (root / "half").exists() and index == 1:
            sys.exit("the connection was lost")
        if file.is_file() and not (".tmp-" in str(file) and any("exclude" in w for w in words)):
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
"""


class Pod:
    """A folder with the tools on the PATH, buckets and a model folder."""

    def __init__(self, folder: pathlib.Path, scheme: str):
        self.folder, self.url = folder, f"{scheme}://b/m"
        self.bucket = folder / scheme / "b"
        (folder / "bin").mkdir()
        tool = folder / "bin" / stage.TOOLS[scheme][0]
        tool.write_text(FAKE.format(python=sys.executable, root=str(folder)))
        tool.chmod(0o755)
        self.model = folder / "model"
        (self.model / "checkpoints").mkdir(parents=True)
        (self.model / "config.json").write_text("{}")
        (self.model / "checkpoints/step-2").write_text("weights")
        (self.model / ".tmp-1").write_text("half")
        self.environ = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PAUSE": "0"}

    def run(self, *words: str, **environ: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["/bin/sh", SCRIPT, *map(str, words)],
            env={**self.environ, **environ},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def publish(self, trainer: str, **environ: str) -> subprocess.CompletedProcess:
        """Publishes beside a trainer that is a shell program with the pipe open."""
        stage.main(str(self.folder))
        pipe = self.folder / "outcome"
        hold = stage.HOLD_PIPE.replace(stage.PIPE, str(pipe))
        beside = subprocess.Popen(["sh", "-c", hold + trainer])
        try:
            return self.run("publish", self.url, "words /m", self.model, pipe, **environ)
        finally:
            beside.wait()

    @property
    def mark(self) -> str:
        path = self.bucket / "m.published"
        return path.read_text().strip() if path.exists() else ""

    def calls(self) -> str:
        path = self.folder / "calls"
        return path.read_text() if path.exists() else ""


@pytest.fixture(params=sorted(stage.TOOLS))
def pod(tmp_path, request):
    return Pod(tmp_path, request.param)


DONE = "echo 0 >&9"


# --- A copy to the pod ----------------------------------------------------------------------------


def test_a_folder_is_staged_whole(pod):
    shutil.copytree(pod.model, pod.bucket / "m")
    done = pod.run("stage", pod.url, pod.folder / "scratch/d")
    assert done.returncode == 0, done.stderr
    assert (pod.folder / "scratch/d/checkpoints/step-2").read_text() == "weights"


def test_half_a_copy_fails_the_pod_and_a_short_failure_does_not(pod):
    shutil.copytree(pod.model, pod.bucket / "m")
    (pod.folder / "half").touch()
    done = pod.run("stage", pod.url, pod.folder / "d")
    assert done.returncode == 74 and "could not be copied" in done.stderr
    assert pod.calls().count("sync") == 5
    (pod.folder / "half").unlink()
    assert pod.run("stage", pod.url, pod.folder / "d").returncode == 0


@pytest.mark.parametrize("there", ["no bucket", "a bucket", "a folder that begins so"])
def test_a_mistyped_url_is_a_mistake_that_no_retry_mends(pod, there):
    if there != "no bucket":
        pod.bucket.mkdir(parents=True)
    if there == "a folder that begins so":
        shutil.copytree(pod.model, pod.bucket / "m2")
    done = pod.run("stage", pod.url, pod.folder / "d")
    assert done.returncode == 2 and f"{pod.url}: no such folder" in done.stderr
    assert "sync" not in pod.calls() and pod.calls().count(" ls ") == 2  # Nothing is tried again.


def test_a_bucket_that_does_not_answer_is_asked_again(pod):
    shutil.copytree(pod.model, pod.bucket / "m")
    (pod.folder / "fail").write_text("ls b/m/")
    done = pod.run("stage", pod.url, pod.folder / "d")
    assert done.returncode == 74 and "cannot be listed" in done.stderr
    assert pod.calls().count(f" ls {pod.url}/\n") == 5
    (pod.folder / "fail").unlink()
    assert pod.run("stage", pod.url, pod.folder / "d").returncode == 0


def test_a_model_that_is_not_completely_published_is_not_staged(pod):
    shutil.copytree(pod.model, pod.bucket / "m")
    (pod.bucket / "m.published").write_text("incomplete words /m\n")
    done = pod.run("stage", pod.url, pod.folder / "d")
    assert done.returncode == 74 and "not completely published" in done.stderr
    (pod.bucket / "m.published").write_text("complete words /m\n")
    assert pod.run("stage", pod.url, pod.folder / "d").returncode == 0


def test_an_image_without_the_tool_is_a_mistake_that_no_retry_mends(pod):
    done = pod.run("stage", pod.url, pod.folder / "d", PATH="/nowhere")
    assert done.returncode == 2 and "--stage_image" in done.stderr


# --- Before the training --------------------------------------------------------------------------


def test_a_target_is_written_before_the_training_and_belongs_to_the_job_from_then_on(pod):
    assert pod.run("check", pod.url, "words /m").returncode == 0
    assert pod.mark == "incomplete words /m"
    assert pod.run("check", pod.url, "words /m").returncode == 0
    done = pod.run("check", pod.url, "other /m")
    assert done.returncode == 2 and "belongs to 'words /m'" in done.stderr


def test_a_complete_copy_stays_complete_while_the_job_trains_on(pod):
    pod.bucket.mkdir(parents=True)
    (pod.bucket / "m.published").write_text("complete words /m\n")
    assert pod.run("check", pod.url, "words /m").returncode == 0
    assert pod.mark == "complete words /m"


def test_files_that_no_job_published_are_never_overwritten(pod):
    shutil.copytree(pod.model, pod.bucket / "m")
    done = pod.run("check", pod.url, "words /m")
    assert done.returncode == 2 and "is not empty" in done.stderr
    assert not pod.mark


def test_a_bucket_that_cannot_be_written_or_listed_is_found_before_the_training(pod):
    (pod.folder / "fail").write_text("cp -")
    done = pod.run("check", pod.url, "words /m")
    assert done.returncode == 74 and "cannot be written" in done.stderr
    (pod.folder / "fail").write_text("ls")
    done = pod.run("check", pod.url, "words /m")
    assert done.returncode == 74 and "cannot be listed" in done.stderr
    assert "503" in done.stderr


def test_only_worker_0_looks_at_the_target(pod):
    assert pod.run("check", pod.url, "words /m", JOB_COMPLETION_INDEX="1").returncode == 0
    assert not pod.calls()


# --- After the training ---------------------------------------------------------------------------


def test_a_model_is_published_after_exit_code_0_with_its_mark_last(pod):
    done = pod.publish(DONE)
    assert done.returncode == 0, done.stderr
    assert pod.mark == "complete words /m"
    assert (pod.bucket / "m/checkpoints/step-2").read_text() == "weights"
    assert not (pod.bucket / "m/.tmp-1").exists()
    calls = pod.calls().splitlines()
    assert ["m.published" in call for call in calls] == [True, False, True]


@pytest.mark.parametrize("trainer", ["echo 143 >&9", "echo 2 >&9", "kill -9 $$", "exit 0"])
def test_nothing_is_copied_after_another_code_or_without_one_and_the_pod_ends(pod, trainer):
    assert pod.publish(trainer).returncode == 0
    assert not pod.calls()


def test_other_workers_publish_nothing(pod):
    assert pod.publish(DONE, JOB_COMPLETION_INDEX="1").returncode == 0
    assert not pod.calls()
    assert pod.publish(DONE, JOB_COMPLETION_INDEX="0").returncode == 0
    assert pod.mark == "complete words /m"


def test_half_a_copy_never_counts_and_the_next_pod_completes_it(pod):
    assert pod.publish(DONE).returncode == 0
    (pod.model / "checkpoints/step-2").rename(pod.model / "checkpoints/step-4")
    (pod.folder / "half").touch()
    done = pod.publish(DONE)
    assert done.returncode == 74
    assert pod.mark == "incomplete words /m"
    (pod.folder / "half").unlink()
    assert pod.run("check", pod.url, "words /m").returncode == 0
    assert pod.publish(DONE).returncode == 0
    assert pod.mark == "complete words /m"
    # An old checkpoint would be taken for one of this run.
    assert {path.name for path in (pod.bucket / "m/checkpoints").iterdir()} == {"step-4"}


def test_the_trainer_tells_its_exit_code_and_its_children_do_not_hold_the_pipe(pod):
    program = (
        f'exec {sys.executable} -c "from trainer import main, streams; import subprocess, sys; '
        "outcome = streams.Outcome(__import__('os').environ); "
        "subprocess.Popen(['sleep', '20'], close_fds=False); "
        'outcome.tell(0)"'
    )
    done = pod.publish(program)
    assert done.returncode == 0 and pod.mark == "complete words /m"


def test_the_command_line_tells_its_exit_code(pod):
    assert pod.publish(f"exec {sys.executable} -m trainer --version").returncode == 0
    assert pod.mark == "complete words /m"


def test_the_pipe_is_made_anew(tmp_path):
    stage.main(str(tmp_path))
    stage.main(str(tmp_path))
    assert stat.S_ISFIFO((tmp_path / "outcome").stat().st_mode)
    assert (tmp_path / "bucket.sh").read_bytes() == SCRIPT.read_bytes()


# --- Flags ----------------------------------------------------------------------------------------


def test_a_copy_is_what_its_flag_says():
    submit = Submit(stage=("gs://b/d/:/scratch/d/", "gs://b/a=1/x:/scratch/x"))
    assert stage.staged(submit) == (
        stage.Copy("gs://b/d", "/scratch/d"),
        stage.Copy("gs://b/a=1/x", "/scratch/x"),
    )
    submit = Submit(publish="s3://b/m/")
    assert stage.published(submit, "/data/m") == stage.Copy("s3://b/m", "/data/m")
    assert stage.published(Submit(), "/data/m") is None


@pytest.mark.parametrize(
    "text, told",
    [
        ("gs://b/d", "must be a folder of a bucket and an absolute path in the pods"),
        ("gs://b/d:scratch", "must be a folder of a bucket and an absolute path"),
        ("gs://b/d:/scratch/../d", "an absolute path"),
        ("/data/d:/scratch/d", "must begin with gs:// or s3://"),
        ("az://b/d:/scratch/d", "must begin with gs:// or s3://"),
        ("gs://b:/scratch/d", "must name a folder of the bucket"),
        ("gs://b/a b:/scratch/d", "must name a folder of the bucket"),
        ("gs://b/$(x):/scratch/d", "must name a folder of the bucket"),
    ],
)
def test_a_copy_that_cannot_work_is_refused(text, told):
    with pytest.raises(UsageError) as problem:
        stage.staged(Submit(stage=(text,)))
    assert f"--stage={text}: " in str(problem.value) and told in str(problem.value)


@pytest.mark.parametrize(
    "flags, told",
    [
        ({"stage": ("gs://b/d:/s/d",)}, "--stage_image is empty: gs://b/d is copied by gcloud"),
        ({"publish": "s3://b/m"}, "for example --stage_image=amazon/aws-cli"),
        ({"stage_image": "i:1"}, "--stage_image=i:1: nothing is copied"),
        (
            {"stage": ("gs://b/d:/s/d",), "publish": "s3://b/m", "stage_image": "i:1"},
            "name gs:// and s3://, and one image has the tool of one",
        ),
    ],
)
def test_the_image_fits_the_copies(flags, told):
    submit = Submit(**flags)
    end = stage.published(submit, "/data/m")
    with pytest.raises(UsageError) as problem:
        stage.check_image(submit, (*stage.staged(submit), *([end] if end else [])))
    assert told in str(problem.value)


def test_two_copies_cannot_go_to_the_same_folder():
    with pytest.raises(UsageError, match="two copies cannot go to the same folder"):
        stage.staged(Submit(stage=("gs://b/d:/s/d", "gs://b/e:/s/d/")))
