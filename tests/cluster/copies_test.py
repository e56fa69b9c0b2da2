"""Pods of a real cluster copy a dataset to scratch, and the model away when they are done."""

import shutil
import sys

import pytest

from tests.cluster import kit

pytestmark = pytest.mark.cluster
TOOLS = "localhost:5000/fake-gcloud:test"
DOCKERFILE = """\
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
COPY gcloud /usr/local/bin/gcloud
COPY words /buckets/kit/words
"""
# Reads buckets of the image, and writes to the pod's /tmp: what it writes, it also prints.
GCLOUD = """\
#!/usr/bin/python3
import pathlib, shutil, sys
verb, places = sys.argv[2], [word for word in sys.argv[3:] if not word.startswith("--")]
def path(url):
    place = url.replace("gs://", "/buckets/")
    return place if pathlib.Path(place).exists() else url.replace("gs://", "/tmp/buckets/")
if verb == "ls":
    if not pathlib.Path(path(places[0])).exists():
        sys.exit("ERROR: (gcloud.storage.ls) One or more URLs matched no objects.")
elif verb == "cat":
    print(open(path(places[0])).read(), end="")
elif verb == "cp":
    text = sys.stdin.read()
    print("cp", places[1], text, end="")
    pathlib.Path(path(places[1])).parent.mkdir(parents=True, exist_ok=True)
    open(path(places[1]), "w").write(text)
else:
    print("rsync", *places)
    shutil.copytree(path(places[0]), path(places[1]), dirs_exist_ok=True)
"""


@pytest.fixture(scope="module")
def tools(cluster, tmp_path_factory):
    """Builds an image with a stand-in for gcloud and a bucket with a prepared dataset."""
    context = tmp_path_factory.mktemp("tools")
    prepare = [sys.executable, "-m", "trainer", "prepare", "--flagfile=words.flags"]
    kit.run([*prepare, f"--data_dir={context / 'words'}"])
    (context / "gcloud").write_text(GCLOUD)
    (context / "gcloud").chmod(0o755)
    (context / "Dockerfile").write_text(DOCKERFILE)
    kit.kit("build", TOOLS.partition("/")[2], str(context), "-f", str(context / "Dockerfile"))
    shutil.rmtree(context / "words")


def printed(namespace, pod: dict) -> list[str]:
    name = pod["metadata"]["name"]
    call = ("logs", f"--namespace={namespace.name}", name, "--container=publish")
    return kit.kubectl(*call).splitlines()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_dataset_is_staged_and_the_model_published_by_worker_0_after_a_disturbance(
    namespace, undisturbed, tools, workers
):
    name = f"copies-{workers}"
    job = kit.Job(
        namespace,
        name,
        (
            f"--workers={workers}",
            "--volume=emptydir:1Gi:/scratch",
            "--stage=gs://kit/words:/scratch/words",
            "--publish=gs://kit/model",
            f"--stage_image={TOOLS}",
        ),
        data_dir="/scratch/words",
    )
    job.apply()
    kit.eventually("a checkpoint", lambda: job.saved() >= 150)
    first = job.pod(0)["metadata"]["name"]
    kit.kubectl("delete", "pod", first, f"--namespace={namespace.name}", "--wait=false")
    code, lines = job.follow()
    assert code == 0, lines[-20:]
    assert kit.digest(lines) == undisturbed(workers)
    ended = {
        pod["metadata"]["labels"].get(kit.INDEX, "0"): pod
        for pod in job.pods()
        if pod["status"]["phase"] == "Succeeded"
    }
    assert first not in {pod["metadata"]["name"] for pod in ended.values()}
    assert printed(namespace, ended["0"]) == [
        f"cp gs://kit/model.published incomplete {name} /data/{name}",
        f"rsync /data/{name} gs://kit/model",
        f"cp gs://kit/model.published complete {name} /data/{name}",
        f"published /data/{name} as gs://kit/model",
    ]
    assert all(not printed(namespace, pod) for index, pod in ended.items() if index != "0")


def test_a_copy_that_cannot_work_fails_the_job_at_once_and_follow_prints_why(namespace, tools):
    job = kit.Job(
        namespace,
        "copies-bad",
        (
            "--volume=emptydir:1Gi:/scratch",
            "--stage=s3://kit/words:/scratch/words",
            f"--stage_image={TOOLS}",
        ),
        data_dir="/scratch/words",
    )
    job.apply()
    code, _ = job.follow()
    assert code == 2
    assert len(job.pods()) == 1
    assert "aws is not in this image" in job.command("status")
