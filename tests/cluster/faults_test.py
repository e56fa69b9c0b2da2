"""A job that is disturbed in any way ends with the digest of an undisturbed run."""

import datetime
import json
import time

import pytest

from tests.cluster import kit

pytestmark = pytest.mark.cluster
LAST = -1  # The worker that faults hit: not the one that writes the checkpoints.


def _name(job, worker=LAST) -> str:
    return job.pod(worker % _workers(job))["metadata"]["name"]


def _workers(job) -> int:
    return next((int(flag.split("=")[1]) for flag in job.shape if flag.startswith("--workers=")), 1)


def _node(job, worker=LAST) -> str:
    return job.pod(worker % _workers(job))["spec"]["nodeName"]


def delete(job):
    kit.kubectl("delete", "pod", _name(job), f"--namespace={job.namespace.name}", "--wait=false")


def evict(job):
    path = f"/api/v1/namespaces/{job.namespace.name}/pods/{_name(job)}/eviction"
    kit.kubectl(
        "create",
        f"--raw={path}",
        "--filename=-",
        stdin=json.dumps(
            {
                "apiVersion": "policy/v1",
                "kind": "Eviction",
                "metadata": {"name": _name(job), "namespace": job.namespace.name},
            }
        ),
    )


def kill(job):
    kit.kit("signal", job.namespace.name, _name(job))


def freeze(job):
    """Stops the first process of a pod, which its liveness probe continues."""
    kit.kit("signal", job.namespace.name, _name(job), "--signal", "SIGSTOP")


def power_cut(job):
    node = _node(job)
    kit.kit("kill-node", node)
    time.sleep(20)  # Until the cluster notices.
    kit.kit("start-node", node)


def partition(job):
    node = _node(job)
    kit.kit("cut", node)
    time.sleep(30)
    kit.kit("heal", node)


def drain(job):
    node = _node(job)
    try:
        kit.kubectl(
            "drain",
            node,
            "--ignore-daemonsets",
            "--delete-emptydir-data",
            "--force",
            "--timeout=120s",
        )
    finally:
        kit.kubectl("uncordon", node)


def stop_and_submit_again(job):
    assert "is stopped" in job.command("stop")
    assert job.events("stop")[-1]["code"] == 143
    assert not job.pods()
    job.apply()


@pytest.mark.parametrize(
    "fault, workers",
    [
        (delete, 1),
        (kill, 1),
        (stop_and_submit_again, 1),
        pytest.param(delete, 2, marks=pytest.mark.cluster_quick),
        (evict, 2),
        (kill, 2),
        (freeze, 2),
        (power_cut, 2),
        (partition, 2),
        (drain, 2),
        (stop_and_submit_again, 2),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_disturbed_job_ends_with_the_digest_of_an_undisturbed_one(
    namespace, undisturbed, fault, workers, record_property
):
    expected = undisturbed(workers)
    job = kit.Job(
        namespace, f"{fault.__name__.replace('_', '-')}-{workers}", (f"--workers={workers}",)
    )
    submitted = time.time()
    job.apply()
    kit.eventually("a checkpoint of the first attempt", lambda: job.saved() >= 150)
    record_property("submit_to_first_steps", _first_loop(job, submitted) - submitted)
    disturbed = time.time()
    fault(job)
    code, lines = job.follow()
    assert code == 0, lines[-20:]
    assert kit.digest(lines) == expected
    if fault is freeze:  # Peers do not even notice, unless the machine is very slow.
        return
    assert max(event["attempt"] for event in job.events()) > 1, "the job ended before the fault"
    record_property("fault_to_first_new_steps", _first_loop(job, disturbed, attempt=2) - disturbed)


def _first_loop(job, since: float, attempt: int = 1) -> float:
    """Returns when the first steps after `since` were done, in seconds since 1970.

    Their journal line may come after that of a checkpoint.
    """

    def times():
        return [
            moment
            for event in job.events("loop")
            if event["attempt"] >= attempt
            and (moment := datetime.datetime.fromisoformat(event["time"]).timestamp()) > since
        ]

    return min(kit.eventually("the first steps", times))
