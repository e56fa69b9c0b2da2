"""Drives a real Kubernetes on this machine, if the kit for it lies beside the project."""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import re
import subprocess
import sys
import time
import uuid

from trainer.launch import local
from trainer.model_folder import journal

ROOT = pathlib.Path(__file__).resolve().parents[2]
KIT = pathlib.Path(os.environ.get("CLUSTER_KIT", ROOT.parent / "shared/cluster/cluster"))
KUBECONFIG = "/var/lib/kit/kubeconfig"
IMAGE = "localhost:5000/rnn-trainer:test"
CLAIM = "rnn-trainer"
INDEX = "batch.kubernetes.io/job-completion-index"
# Longer than any fault takes to show, on 2 cores that also run the cluster. The numbers of threads
# and shards affect the exact result, so both are given.
TRAINING = [
    "--flagfile=words.flags",
    "--units=256",
    "--steps=2000",
    "--save_steps=50",
    "--log_steps=200",
    "--steps_per_loop=20",
    "--eval_steps=-1",
    "--threads=1",
    "--shards=1",
]
SECONDS = 600  # The longest that anything here may take.


def why_not() -> str:
    """Returns why no cluster can run here; "" if one can."""
    if not KIT.exists():
        return f"no cluster: {KIT} is not there (CLUSTER_KIT names another place)"
    return "" if os.geteuid() == 0 else "no cluster: only root can start one"


def kit(*arguments: str) -> None:
    subprocess.run([KIT, *arguments], check=True, cwd=ROOT, timeout=SECONDS)


def kubectl(*arguments: str, stdin: str | None = None, check: bool = True) -> str:
    done = subprocess.run(
        ["kubectl", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, "KUBECONFIG": KUBECONFIG},
    )
    assert done.returncode == 0 or not check, f"kubectl {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def is_up() -> bool:
    return (
        pathlib.Path(KUBECONFIG).exists()
        and kubectl("get", "--raw=/readyz", "--request-timeout=5s", check=False) == "ok"
    )


def eventually(what: str, holds, seconds: float = 180):
    """Waits until `holds()` is true; returns its value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(AssertionError, FileNotFoundError):
            found = holds()
            if found:
                return found
        time.sleep(0.5)
    raise AssertionError(f"{what}: not within {seconds} s")


@dataclasses.dataclass(frozen=True)
class Namespace:
    """A new namespace, with a volume whose folder on this machine is `folder`."""

    name: str

    @classmethod
    def make(cls, level: str) -> "Namespace":
        made = cls(f"trainer-{uuid.uuid4().hex[:6]}")
        kubectl("create", "namespace", made.name)
        kubectl("label", "namespace", made.name, f"pod-security.kubernetes.io/enforce={level}")
        kubectl("apply", f"--namespace={made.name}", f"--filename={ROOT / 'k8s/claim.yaml'}")
        kubectl(
            "apply",
            f"--namespace={made.name}",
            "--filename=-",
            stdin=json.dumps(
                {
                    "apiVersion": "kueue.x-k8s.io/v1beta1",
                    "kind": "LocalQueue",
                    "metadata": {"name": "team"},
                    "spec": {"clusterQueue": "kit"},
                }
            ),
        )
        return made

    def delete(self) -> None:
        kubectl("delete", "namespace", self.name, "--wait=false")

    def get(self, kind: str, *arguments: str) -> dict:
        return json.loads(
            kubectl("get", kind, f"--namespace={self.name}", "--output=json", *arguments)
        )

    @functools.cached_property
    def folder(self) -> pathlib.Path:
        volume = eventually("the volume", lambda: self.get("pvc", CLAIM)["spec"].get("volumeName"))
        return pathlib.Path(
            json.loads(kubectl("get", "pv", volume, "--output=json"))["spec"]["hostPath"]["path"]
        )


@dataclasses.dataclass
class Job:
    """A job in a namespace, sent and followed by `trainer submit`."""

    namespace: Namespace
    name: str
    shape: tuple[str, ...] = ()
    training: tuple[str, ...] = tuple(TRAINING)
    data_dir: str = "/demo/words"

    def submit(self, *flags: str) -> list[str]:
        """Returns the command line of `trainer submit` for this job."""
        return [
            sys.executable,
            "-m",
            "trainer",
            "submit",
            f"--namespace={self.namespace.name}",
            f"--name={self.name}",
            f"--image={IMAGE}",
            "--cpu=300m",
            "--memory=1500Mi",
            "--shm=64Mi",
            f"--volume=pvc:{CLAIM}:/data",
            *self.shape,
            *flags,
            "--",
            "train",
            *self.training,
            f"--data_dir={self.data_dir}",
            f"--model_dir=/data/{self.name}",
        ]

    def apply(self) -> None:
        run(self.submit("--apply"))

    def follow(self) -> tuple[int, list[str]]:
        """Runs `submit --follow`; returns its exit code and its lines."""
        done = subprocess.run(
            self.submit("--follow"),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            cwd=ROOT,
            env={**os.environ, "KUBECONFIG": KUBECONFIG},
        )
        sys.stderr.write(done.stderr)
        return done.returncode, done.stdout.splitlines()

    def command(self, flag: str) -> str:
        return run(
            [
                sys.executable,
                "-m",
                "trainer",
                "submit",
                f"--namespace={self.namespace.name}",
                f"--{flag}={self.name}",
            ]
        )

    @property
    def model_dir(self) -> pathlib.Path:
        return self.namespace.folder / self.name

    def events(self, name: str = "") -> list[dict]:
        return [
            event
            for event in journal.read(self.model_dir / "journal.jsonl")
            if name in ("", event["event"])
        ]

    def saved(self) -> int:
        return max((event["step"] for event in self.events("save")), default=0)

    def pods(self) -> list[dict]:
        selector = (
            f"--selector=app.kubernetes.io/instance={self.name},app.kubernetes.io/component=trainer"
        )
        return self.namespace.get("pods", selector)["items"]

    def pod(self, worker: int) -> dict:
        """Waits until a worker runs; returns its pod."""

        def running():
            running = [
                pod
                for pod in self.pods()
                if pod["status"]["phase"] == "Running"
                and "deletionTimestamp" not in pod["metadata"]
            ]
            return next(
                (
                    pod
                    for pod in running
                    if pod["metadata"]["labels"].get(INDEX, "0") == str(worker)
                ),
                None,
            )

        return eventually(f"worker {worker} of {self.name}", running)


def run(command: list[str]) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        cwd=ROOT,
        env={**os.environ, "KUBECONFIG": KUBECONFIG},
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


def digest(lines: list[str]) -> str:
    """Returns the digest that `done` lines print, the same in all of them."""
    found = re.findall(r"done step=\d+ state_digest=([0-9a-f]{64})", "\n".join(lines))
    assert found and len(set(found)) == 1, lines[-20:]
    return found[0]


def local_digest(workers: int, folder: pathlib.Path) -> str:
    """Returns the digest of the same run on this machine, undisturbed."""
    data = folder / "words"
    if not data.exists():
        run(
            [
                sys.executable,
                "-m",
                "trainer",
                "prepare",
                "--flagfile=words.flags",
                f"--data_dir={data}",
            ]
        )
    flags = [*TRAINING, f"--data_dir={data}", f"--model_dir={folder / str(workers)}"]
    if workers == 1:
        return digest(run([sys.executable, "-m", "trainer", "train", *flags]).splitlines())
    hosts = ",".join(f"127.0.0.1:{port}" for port in local.free_ports(workers))
    gang = [
        sys.executable,
        "-m",
        "trainer",
        "train",
        *flags,
        f"--num_workers={workers}",
        f"--hosts={hosts}",
    ]
    processes = [
        subprocess.Popen(
            [*gang, f"--worker_index={index}"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for index in range(workers)
    ]
    try:
        return digest(
            [
                line
                for process in processes
                for line in process.communicate(timeout=SECONDS)[0].splitlines()
            ]
        )
    finally:
        for process in processes:
            process.kill()
