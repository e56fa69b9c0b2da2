"""A job that a real cluster does not start is explained, by `--follow` and by `--status`."""

import contextlib
import json
import os
import subprocess
import time

import pytest

from tests.cluster import kit

pytestmark = pytest.mark.cluster
SECONDS = 60  # After which a follower that has said nothing will not say it.


def limits(**item) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "LimitRange",
        "metadata": {"name": "sizes"},
        "spec": {"limits": [{"type": "Container", **item}]},
    }


def quota(**hard) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "team"},
        "spec": {"hard": {name.replace("_", "."): value for name, value in hard.items()}},
    }


def pods_of(namespace: str) -> dict:
    return {"matchLabels": {"kubernetes.io/metadata.name": namespace}}


def policy(namespace: str) -> list[dict]:
    """A policy of the cluster that wants a label on every pod."""
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": namespace}}
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"]}
    return [
        {
            **kind,
            "kind": "ValidatingAdmissionPolicy",
            "spec": {
                "matchConstraints": {"resourceRules": [{**rule, "resources": ["pods"]}]},
                "validations": [
                    {"expression": "'cost' in object.metadata.labels", "message": "no label cost"}
                ],
            },
        },
        {
            **kind,
            "kind": "ValidatingAdmissionPolicyBinding",
            "spec": {
                "policyName": namespace,
                "validationActions": ["Deny"],
                "matchResources": {"namespaceSelector": pods_of(namespace)},
            },
        },
    ]


def broken_webhook(namespace: str) -> list[dict]:
    """A webhook that every pod needs and that nobody answers."""
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"]}
    return [
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": namespace},
            "webhooks": [
                {
                    "name": "hook.example.com",
                    "clientConfig": {"service": {"name": "none", "namespace": namespace}},
                    "rules": [{**rule, "resources": ["pods"]}],
                    "namespaceSelector": pods_of(namespace),
                    "failurePolicy": "Fail",
                    "sideEffects": "None",
                    "admissionReviewVersions": ["v1"],
                    "timeoutSeconds": 2,
                }
            ],
        }
    ]


@contextlib.contextmanager
def following(job):
    """Runs `submit --follow` in the background; gives its lines on stderr."""
    process = subprocess.Popen(
        ["timeout", str(SECONDS), *job.submit("--follow")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=kit.ROOT,
        env={**os.environ, "KUBECONFIG": kit.KUBECONFIG},
    )
    try:
        yield process.stderr
    finally:
        process.terminate()
        process.communicate()


@pytest.mark.parametrize(
    "name, objects, shape, told, remedy",
    [
        ("limit-range", lambda _: [limits(max={"cpu": "200m"})], (), "LimitRange", "--cpu_limit"),
        (
            "limit-range-min",
            lambda _: [limits(min={"memory": "2Gi"})],
            (),
            "sets the minimum memory of a Container to 2Gi",
            "--memory",
        ),
        pytest.param(
            "quota",
            lambda _: [quota(requests_cpu="100m")],
            (),
            "exceeded quota: team",
            "`kubectl describe resourcequota team`",
            marks=pytest.mark.cluster_quick,
        ),
        (
            "quota-of-limits",
            lambda _: [quota(limits_cpu="8")],
            ("--jobset",),
            "The quota team of the namespace counts limits.cpu",
            "Set --cpu_limit",
        ),
        (
            "image",
            lambda _: [],
            ("--image=localhost:5000/rnn-trainer:nothing",),
            "The registry has no such image.",
            "scripts/build_image.sh --push",
        ),
        (
            "unschedulable",
            lambda _: [],
            ("--node_selector=disk=none",),
            "No node has the labels that the job asks for.",
            "--node_selector",
        ),
        ("too-large", lambda _: [], ("--cpu=99",), "No node has enough free cpu.", "Lower --cpu"),
        (
            "apart",
            lambda _: [],
            ("--workers=3", "--cpu=100m", "--anti_affinity=kubernetes.io/hostname"),
            "fewer places than workers",
            "Lower --workers",
        ),
        (
            "secret",
            lambda _: [],
            ("--env_secret=TOKEN=nothing:token",),
            "A Secret that the pod needs, or its key, is not there.",
            "--env_secret",
        ),
        (
            "secret-volume",
            lambda _: [],
            ("--volume=secret:nothing:/keys",),
            "A Secret that the pod needs, or its key, is not there.",
            "--volume=secret:",
        ),
        (
            "service-account",
            lambda _: [],
            ("--service_account=nobody",),
            "no service account nobody",
            "--service_account",
        ),
        (
            "priority-class",
            lambda _: [],
            ("--priority_class=none",),
            "no priority class none",
            "--priority_class",
        ),
        (
            "runtime-class",
            lambda _: [],
            ("--runtime_class=none",),
            "does not have the runtime class",
            "--runtime_class",
        ),
        ("policy", policy, (), "no label cost", "--label"),
        ("webhook", broken_webhook, (), "hook.example.com, which must agree", "administrators"),
        ("no-queue", lambda _: [], ("--queue=none",), "has no queue none", "kubectl get localqueu"),
        (
            "queue-capacity",
            lambda _: [],
            ("--queue=team", "--cpu=9"),
            "larger than the queue can ever admit",
            "Lower --cpu",
        ),
        (
            "queue-priority",
            lambda _: [],
            ("--queue=team", "--queue_priority=none"),
            "Kueue does not know --queue_priority",
            "kubectl get workloadpriorityclasses",
        ),
        (
            "queue-topology",
            lambda _: [],
            ("--queue=team", "--queue_topology=required:kubernetes.io/hostname"),
            "The queue has no such domain for the workers.",
            "--queue_topology",
        ),
        (
            "queue-resource",
            lambda _: [],
            ("--queue=team", "--scratch=1Gi"),
            "The queue does not count ephemeral-storage",
            "Leave out",
        ),
    ],
)
def test_a_job_that_cannot_start_is_explained(name, objects, shape, told, remedy, record_property):
    namespace = kit.Namespace.make("restricted")
    made = objects(namespace.name)
    try:
        for one in made:
            send = ("apply", f"--namespace={namespace.name}", "--filename=-")
            kit.kubectl(*send, stdin=json.dumps(one))
        if made:
            time.sleep(3)  # Admission reads new policies and quotas after a moment.
        job = kit.Job(namespace, name, shape)
        job.apply()
        started = time.monotonic()
        with following(job) as lines:
            line = next((line for line in lines if " waits: " in line and told in line), "")
        seconds = time.monotonic() - started
        assert remedy in line, line
        record_property("seconds_to_explanation", round(seconds, 1))
        status = job.command("status").splitlines()
        assert any(one.startswith("why ") and told in one for one in status), status
    finally:
        for one in made:
            kit.kubectl("delete", one["kind"], one["metadata"]["name"], f"-n{namespace.name}")
        namespace.delete()


def test_a_job_runs_for_its_time_in_the_queue_and_its_follower_ends(namespace):
    job = kit.Job(
        namespace,
        "bounded",
        ("--queue=team", "--queue_seconds=60"),
        training=(*kit.TRAINING, "--steps=1000000"),
    )
    job.apply()
    code, _ = job.follow()
    assert code == 143
    kit.eventually("the last checkpoint", lambda: job.saved() > 0)
    assert any(
        "The job ran for --queue_seconds" in line for line in job.command("status").splitlines()
    )
    assert "is stopped" in job.command("stop")


# --- What a job leaves behind ---------------------------------------------------------------------

KINDS = "jobs,jobsets,services,deployments,networkpolicies,secrets,pods"


@pytest.mark.parametrize("jobset", [(), ("--jobset",)])
@pytest.mark.parametrize("end", ["time to live", "a person"])
def test_everything_of_a_job_but_its_volume_goes_with_it(namespace, jobset, end):
    lives = "--ttl_seconds=5" if end == "time to live" else "--ttl_seconds=500"
    job = kit.Job(
        namespace,
        f"gone-{'ttl' if end == 'time to live' else 'hand'}{'-set' if jobset else ''}",
        ("--workers=2", "--tensorboard", lives, *jobset),
        data_dir="/data/nothing" if end == "time to live" else "/demo/words",
    )
    job.apply()
    own = f"--selector=app.kubernetes.io/instance={job.name}"
    assert namespace.get("secrets", own)["items"]
    if end == "a person":
        kit.eventually("a checkpoint", lambda: job.saved() >= 50)
        kind = "jobset" if jobset else "job"
        kit.kubectl("delete", kind, job.name, f"--namespace={namespace.name}")
    kit.eventually("nothing is left", lambda: not namespace.get(KINDS, own)["items"] or None)
    if end == "a person":  # Without their Service workers still agree on a last checkpoint.
        assert job.events("stop")[-1]["code"] == 143
