"""Every kind of job that submit renders, on a real cluster.

CPU jobs train to their end; the others are scheduled and refuse to train on CPU.
"""

import json

import pytest

from tests.cluster import kit

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize(
    "name, shape, workers",
    [
        pytest.param("one", (), 1, marks=pytest.mark.cluster_quick),
        ("two", ("--workers=2",), 2),
        ("three", ("--workers=3",), 3),
        ("jobset", ("--workers=2", "--jobset"), 2),
        ("queued", ("--queue=team",), 1),
        ("queued-jobset", ("--workers=2", "--queue=team", "--jobset"), 2),
    ],
)
def test_a_job_trains_to_the_digest_of_a_run_on_this_machine(
    namespace, undisturbed, name, shape, workers
):
    job = kit.Job(namespace, name, shape)
    job.apply()
    code, lines = job.follow()
    assert code == 0, lines[-20:]
    assert kit.digest(lines) == undisturbed(workers)
    assert {line.split("]")[0] for line in lines} == {f"[{index}" for index in range(workers)}
    status = job.command("status").splitlines()
    assert len(status) <= 10 and status[1].startswith("state      done"), status


def test_a_bad_configuration_fails_the_job_at_once_and_follow_prints_why(namespace):
    job = kit.Job(namespace, "bad", data_dir="/data/nothing")
    job.apply()
    code, lines = job.follow()
    assert code == 2
    assert any("/data/nothing" in line for line in lines)
    assert len(job.pods()) == 1
    # The API server would not change the pods of a job, so one that ended is replaced.
    again = kit.Job(namespace, "bad", ("--env=A=b",), data_dir="/data/nothing")
    again.apply()
    assert again.follow()[0] == 2
    assert again.pods()[0]["spec"]["containers"][0]["env"] == [{"name": "A", "value": "b"}]


def test_the_api_server_takes_every_flag_of_a_pod(namespace):
    flags = (
        "--cpu_limit=2",
        "--env=NCCL_DEBUG=INFO",
        "--env_secret=TOKEN=keys:token",
        "--runtime_class=nvidia",
        "--annotation=note=a: b",
        "--label=team=vision",
        "--priority_class=high",
        "--queue=team",
        "--queue_priority=urgent",
        "--queue_topology=preferred:example.com/rack",
        "--queue_seconds=3600",
        "--anti_affinity=kubernetes.io/hostname",
        "--spread=topology.kubernetes.io/zone",
    )
    for shape in ((), ("--workers=2", "--tensorboard"), ("--workers=2", "--jobset")):
        manifest = kit.run(kit.Job(namespace, "flags", (*flags, *shape)).submit())
        send = ("apply", f"--namespace={namespace.name}", "--server-side", "--filename=-")
        kit.kubectl(*send, "--dry-run=server", stdin=manifest)


@pytest.mark.parametrize(
    "name, level, shape, pretended, message",
    [
        (
            "gpu",
            "restricted",
            ("--gpus=1", "--node_selector=cloud.google.com/gke-accelerator=nvidia-l4"),
            ("--have", "nvidia.com/gpu=1", "--label", "cloud.google.com/gke-accelerator=nvidia-l4"),
            "--accelerator=gpu, but tensorflow-cpu",
        ),
        (
            "tpu",
            "privileged",
            ("--tpu=v5e-8",),
            (
                "--have",
                "google.com/tpu=8",
                "--label",
                "cloud.google.com/gke-tpu-accelerator=tpu-v5-lite-podslice",
                "--label",
                "cloud.google.com/gke-tpu-topology=2x4",
            ),
            "--accelerator=tpu, but tensorflow-cpu",
        ),
    ],
)
def test_a_pod_without_its_accelerator_refuses_to_train_on_cpu(
    name, level, shape, pretended, message
):
    kit.kit("pretend", "node-1", *pretended)
    namespace = kit.Namespace.make(level)
    try:
        job = kit.Job(namespace, name, shape, training=("--flagfile=words.flags", "--units=64"))
        # The cluster accepts the manifest as it is, but its nodes cannot grant SYS_RESOURCE.
        if name == "tpu":
            send = ("apply", f"--namespace={namespace.name}", "--server-side", "--filename=-")
            manifest = kit.run(job.submit())
            kit.kubectl(*send, "--dry-run=server", stdin=manifest)
            kit.kubectl(*send, stdin=manifest.replace(", add: [SYS_RESOURCE]", ""))
        else:
            job.apply()
        code, lines = job.follow()
        assert code == 2 and any(message in line for line in lines), lines
        assert [pod["spec"]["nodeName"] for pod in job.pods()] == ["node-1"]
    finally:
        namespace.delete()


def test_a_tpu_job_is_refused_if_its_pods_would_never_start(namespace):
    with pytest.raises(AssertionError, match="would violate PodSecurity"):
        kit.Job(namespace, "tpu", ("--tpu=v5e-8",), training=()).apply()


# --- Who may connect ------------------------------------------------------------------------------

CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5)"
LISTEN = "import socket, time; server = socket.create_server(('', 40000)); time.sleep(600)"


def connects(namespace, labels: dict, host: str, port: int) -> bool:
    """Returns whether a pod with these labels can connect."""
    name = f"probe-{len(namespace.get('pods')['items'])}"

    def kubectl(*arguments, **options):
        return kit.kubectl(f"--namespace={namespace.name}", *arguments, **options)

    kubectl(
        "apply",
        "--filename=-",
        stdin=json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "labels": labels},
                "spec": {
                    "restartPolicy": "Never",
                    "securityContext": {
                        "runAsNonRoot": True,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [
                        {
                            "name": "probe",
                            "image": kit.IMAGE,
                            "command": ["python", "-c", CONNECT, host, str(port)],
                            "securityContext": {
                                "allowPrivilegeEscalation": False,
                                "capabilities": {"drop": ["ALL"]},
                            },
                        }
                    ],
                },
            }
        ),
    )
    phase = kit.eventually(
        name,
        lambda: next(
            (
                phase
                for phase in [namespace.get("pod", name)["status"]["phase"]]
                if phase in ("Succeeded", "Failed")
            ),
            None,
        ),
    )
    kubectl("delete", "pod", name)
    return phase == "Succeeded"


def test_workers_accept_only_their_own_job_and_tensorboard_accepts_its_namespace(namespace):
    job = kit.Job(
        namespace, "policy", ("--tensorboard",), training=(*kit.TRAINING, "--steps=1000000")
    )
    job.apply()
    try:
        pod = job.pod(0)
        name, address = pod["metadata"]["name"], pod["status"]["podIP"]
        kit.kubectl(
            "exec",
            f"--namespace={namespace.name}",
            name,
            "--",
            "sh",
            "-c",
            f'python -c "{LISTEN}" >/dev/null 2>&1 &',
        )
        own = pod["metadata"]["labels"]
        mine = {
            key: own[key]
            for key in (
                "app.kubernetes.io/name",
                "app.kubernetes.io/instance",
                "app.kubernetes.io/component",
            )
        }
        assert connects(namespace, mine, address, 40000)
        assert not connects(namespace, {}, address, 40000)
        assert not connects(
            namespace, {**mine, "app.kubernetes.io/instance": "other"}, address, 40000
        )
        kit.kubectl(
            "wait",
            f"--namespace={namespace.name}",
            "deployment/policy-tensorboard",
            "--for=condition=Available",
            "--timeout=180s",
        )
        assert connects(namespace, {}, "policy-tensorboard", 6006)
        other = kit.Namespace.make("restricted")
        try:
            assert not connects(other, {}, f"policy-tensorboard.{namespace.name}", 6006)
        finally:
            other.delete()
    finally:
        job.command("stop")
    assert not namespace.get(
        "jobs,services,deployments,networkpolicies", "--selector=app.kubernetes.io/instance=policy"
    )["items"]
