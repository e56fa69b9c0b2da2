"""scripts/build_image.sh against recorded builders on the PATH, and what k8s/Dockerfile
promises.
"""

import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "k8s/Dockerfile").read_text(encoding="utf-8")
STAGES = re.findall(r"^FROM (\S+) AS (\S+)\n(.*?)(?=^FROM|\Z)", DOCKERFILE, re.M | re.S)


@pytest.fixture
def build(tmp_path):
    """Calls the script where only `builders` are installed; returns its answer and the calls that
    they got.
    """

    def call(builders: dict[str, int], *arguments):
        programs = tmp_path / "bin"
        programs.mkdir()
        for name in ("bash", "dirname", "sed", "git", "basename"):
            (programs / name).symlink_to(
                subprocess.check_output(["sh", "-c", f"command -v {name}"], text=True).strip()
            )
        # `info` is how a client finds out whether its daemon answers.
        for name, code in builders.items():
            (programs / name).write_text(
                f'#!/bin/bash\n[ "$1" = info ] && exit {code}\necho "{name} $*" '
                f">>{tmp_path}/calls\n"
            )
            (programs / name).chmod(0o755)
        done = subprocess.run(
            [ROOT / "scripts/build_image.sh", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={"PATH": str(programs)},
        )
        calls = tmp_path / "calls"
        return done, calls.read_text().splitlines() if calls.exists() else []

    return call


@pytest.mark.parametrize(
    "builders, begins",
    [
        ({"docker": 0, "podman": 0}, "docker build "),
        # A client whose daemon is not there.
        ({"docker": 1, "podman": 0, "buildah": 0}, "podman build --format=docker "),
        ({"buildah": 0}, "buildah build --layers --format=docker "),
    ],
)
def test_an_image_is_built_and_pushed_with_what_is_there(build, builders, begins):
    done, (built, pushed) = build(builders, "--target=gpu", "--push", "r.example/rnn-trainer:1")
    assert done.returncode == 0, done.stderr
    assert (
        built.startswith(begins)
        and f"--platform=linux/amd64 --file={ROOT}/k8s/Dockerfile --target=gpu "
        "--tag=r.example/rnn-trainer:1"
        in built
    )
    assert re.search(r"--label=org.opencontainers.image.revision=\S+", built) and built.endswith(
        f" {ROOT}"
    )
    assert pushed == f"{begins.split()[0]} push r.example/rnn-trainer:1"


@pytest.mark.parametrize(
    "builders, arguments, told",
    [
        ({}, ["r/t:1"], "no docker whose daemon answers, no podman and no buildah"),
        ({"podman": 0}, [], "no image: name it with a tag"),
        ({"podman": 0}, ["host:5000/t"], "host:5000/t: name it with a tag"),
        ({"podman": 0}, ["--target=xpu", "r/t:1"], "--target=xpu: no such flag"),
        ({"podman": 0}, ["--platform=windows", "r/t:1"], "--platform=windows: no such flag"),
        (
            {"podman": 0},
            ["--target=gpu", "--platform=linux/arm64", "r/t:1"],
            "--platform=linux/arm64: TensorFlow has packages for GPUs and TPUs on linux/amd64 only",
        ),
        ({"podman": 0}, ["r/t:1", "r/t:2"], "r/t:2: one image at a time"),
    ],
)
def test_a_mistake_builds_nothing(build, builders, arguments, told):
    done, calls = build(builders, *arguments)
    assert done.returncode == 2 and told in done.stderr and not calls


def test_an_image_for_cpu_may_be_for_other_nodes_than_this_machine(build):
    _, [built] = build({"podman": 0}, "--platform=linux/arm64", "r/t:1")
    assert " --platform=linux/arm64 " in built


def test_the_image_for_cpu_is_the_one_that_a_build_without_a_target_makes():
    assert [name for _, name, _ in STAGES if not name.startswith(("base", "packages", "demo"))] == [
        "gpu",
        "tpu",
        "cpu",
    ]
    assert STAGES[-1][1] == "cpu"


@pytest.mark.parametrize("name", ["cpu", "gpu", "tpu"])
def test_a_container_is_not_root_and_its_first_process_is_the_trainer(name):
    [(packages, body)] = [(source, body) for source, stage, body in STAGES if stage == name]
    assert (
        packages == f"packages-{name}" and f"--requirement=/requirements/{name}.txt" in DOCKERFILE
    )
    assert "USER 1000:1000\n" in body and '\nENTRYPOINT ["python", "-m", "trainer"]\n' in body


def test_the_image_for_gpus_finds_the_driver_where_gke_mounts_it():
    [body] = [body for _, stage, body in STAGES if stage == "gpu"]
    [variables] = re.findall(r"^ENV ((?:.*\\\n)*.*)$", body, re.M)
    assert re.sub(r" \\\n *", " ", variables).split() == [
        "LD_LIBRARY_PATH=/usr/local/nvidia/lib64",
        "PATH=/usr/local/nvidia/bin:$PATH",
    ]


def test_packages_are_pinned_by_their_hashes():
    assert (
        DOCKERFILE.count("pip install")
        == DOCKERFILE.count("--require-hashes --only-binary=:all: --requirement=/requirements/")
        == 4
    )


def test_an_image_measures_translations():
    assert DOCKERFILE.count("--requirement=/requirements/translation.txt") == 3
