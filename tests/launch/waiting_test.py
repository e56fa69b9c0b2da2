"""Why a job waits, from objects as clusters of Kubernetes 1.34 and Kueue 0.14 write them."""

import pytest

from trainer.launch import waiting

NAME = "words"


def job(workers=2, **spec) -> dict:
    return {
        "metadata": {"name": NAME, "uid": "u-1", "creationTimestamp": "2026-01-01T00:00:10Z"},
        "spec": {"parallelism": workers, **spec},
    }


def jobset(workers=2) -> dict:
    part = {"name": "worker", "template": {"spec": {"parallelism": workers}}}
    return {**job(), "spec": {"replicatedJobs": [part]}}


def pod(index, phase="Running", created="2026-01-01T00:00:12Z", **status) -> dict:
    return {
        "metadata": {
            "name": f"{NAME}-{index}-{created[-3:-1]}",
            "labels": {waiting.INDEX: str(index)},
            "creationTimestamp": created,
        },
        "status": {"phase": phase, **status},
    }


def event(about, message, kind="Job", reason="FailedCreate", second=15, **times) -> dict:
    times = times or {"lastTimestamp": f"2026-01-01T00:00:{second}Z"}
    return {
        "involvedObject": {"kind": kind, "name": about},
        "reason": reason,
        "message": message,
        "metadata": {},
        **times,
    }


def waits(reason, message="") -> dict:
    return {"containerStatuses": [{"state": {"waiting": {"reason": reason, "message": message}}}]}


def unscheduled(message) -> dict:
    return {
        "conditions": [
            {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": message,
            }
        ]
    }


def reasons(document, pods, events=(), workloads=None) -> list[str]:
    def ask(*arguments):
        return {"events": {"items": list(events)}, "workloads.kueue.x-k8s.io": workloads}[
            arguments[1]
        ]

    return [str(reason) for reason in waiting.reasons(document, pods, ask)]


NO_PODS = 'Error creating: pods "words-0-abcde" is forbidden: '


@pytest.mark.parametrize(
    "message, meaning, remedy",
    [
        (
            NO_PODS + "exceeded quota: team, requested: requests.cpu=2, used: requests.cpu=3, "
            "limited: requests.cpu=4",
            "The quota team of the namespace has no room",
            "kubectl describe resourcequota team",
        ),
        (
            NO_PODS + "failed quota: team: must specify limits.cpu for: trainer",
            "The quota team of the namespace counts limits.cpu",
            "Set --cpu_limit",
        ),
        (
            NO_PODS + "maximum cpu usage per Container is 1, but limit is 2",
            "A LimitRange of the namespace sets the maximum cpu of a Container to 1.",
            "--cpu and --cpu_limit",
        ),
        (
            NO_PODS + "minimum memory usage per Container is 8Gi, but request is 4Gi",
            "sets the minimum memory of a Container to 8Gi.",
            "--memory",
        ),
        (NO_PODS + 'violates PodSecurity "restricted:latest"', "Pod Security level", "privileged"),
        (
            'Error creating: admission webhook "validate.kyverno.svc" denied the request: label',
            "A policy of the cluster refuses the pods.",
            "--label",
        ),
        (
            NO_PODS + "ValidatingAdmissionPolicy 'cost' with binding 'cost' denied request: label",
            "A policy of the cluster refuses the pods.",
            "--annotation",
        ),
        (
            'Error creating: Pod "words-0-abc" is invalid: spec.containers[0].resources.requests: '
            'Invalid value: "2": must be less than or equal to cpu limit of 1',
            "gives containers a lower limit of cpu than they request",
            "--cpu_limit",
        ),
        (
            'Error creating: Internal error occurred: failed calling webhook "hook.example.com"',
            "hook.example.com, which must agree to every pod, does not answer.",
            "administrators",
        ),
        (
            NO_PODS + 'pod rejected: RuntimeClass "nvidia" not found',
            "runtime class",
            "--runtime_cl",
        ),
        (NO_PODS + "no PriorityClass with name high was found", "class high", "--priority_class"),
        (
            NO_PODS + 'error looking up service account team/reader: serviceaccount "reader" not '
            "found",
            "no service account reader",
            "--service_account",
        ),
        ("something else", "The cluster does not start it.", "kubectl describe"),
    ],
)
@pytest.mark.parametrize("document, about", [(job(), NAME), (jobset(), f"{NAME}-worker-0")])
def test_a_job_without_pods_is_explained_by_its_events(document, about, message, meaning, remedy):
    [told] = reasons(document, [], [event(about, message)])
    assert told.startswith(f"{NAME} waits: FailedCreate: ")
    assert meaning in told and remedy in told and "words-0-abcde" not in told


@pytest.mark.parametrize(
    "status, meaning, remedy",
    [
        (
            waits("ImagePullBackOff", 'Back-off pulling image "r/t:1": ErrImagePull: not found'),
            "The registry has no such image.",
            "--push",
        ),
        (
            waits("ErrImagePull", "failed to authorize: 401 Unauthorized"),
            "The registry does not let the node read the image.",
            "--pull_secret",
        ),
        (waits("ErrImagePull", "dial tcp: i/o timeout"), "cannot pull the image", "reaches the"),
        (
            waits("ErrImagePull", "no match for platform in manifest: not found"),
            "another kind of processor",
            "--platform",
        ),
        (waits("InvalidImageName", 'couldn\'t parse image "R"'), "not valid", "--image"),
        (
            waits("CreateContainerConfigError", 'secret "keys" not found'),
            "A Secret that the pod needs, or its key, is not there.",
            "--env_secret",
        ),
        (
            waits("CreateContainerConfigError", "couldn't find key token in Secret team/keys"),
            "or its key, is not there",
            "kubectl get secrets",
        ),
        (
            {"initContainerStatuses": [{"name": "stage-0", "state": {"running": {}}}]},
            "stage-0 runs. It copies a folder of --stage",
            "`kubectl logs POD --container=stage-0`",
        ),
        (  # A proxy of a service mesh runs beside all others and explains nothing.
            {
                "initContainerStatuses": [{"name": "istio-proxy", "state": {"running": {}}}],
                **waits("ErrImagePull", "not found"),
            },
            "The registry has no such image.",
            "--stage_image",
        ),
        (
            unscheduled("0/2 nodes are available: 2 Insufficient nvidia.com/gpu."),
            "No node has enough free nvidia.com/gpu.",
            "--gpu_resource",
        ),
        (
            unscheduled("0/2 nodes are available: 2 Insufficient ephemeral-storage."),
            "No node has enough free ephemeral-storage.",
            "--scratch",
        ),
        (
            unscheduled("0/2 nodes are available: 2 node(s) had untolerated taint {a: b}."),
            "by a taint",
            "--toleration",
        ),
        (
            unscheduled("0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/sel"),
            "No node has the labels",
            "--node_selector",
        ),
        (
            unscheduled("0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules."),
            "fewer places than workers",
            "--anti_affinity",
        ),
        (
            unscheduled('persistentvolumeclaim "data" not found'),
            "The namespace has no claim data.",
            "--volume",
        ),
        (
            unscheduled("pod has unbound immediate PersistentVolumeClaims"),
            "A claim has no volume yet.",
            "kubectl describe pvc",
        ),
    ],
)
def test_a_pod_that_does_not_start_is_explained_by_its_state(status, meaning, remedy):
    pods = [pod(0), pod(1, "Pending", **status)]
    [told] = reasons(job(), pods)
    assert told.startswith("worker 1 waits: ") and meaning in told and remedy in told


@pytest.mark.parametrize(
    "reason, message, meaning",
    [
        ("FailedMount", 'MountVolume.SetUp failed: secret "keys" not found', "A Secret that"),
        ("FailedMount", 'MountVolume.SetUp failed: configmap "a" not found', "The ConfigMap a"),
        ("FailedMount", "MountVolume.SetUp failed: no such host", "cannot mount a volume"),
        ("FailedAttachVolume", "Multi-Attach error for volume", "on one node only"),
        ("FailedCreatePodSandBox", 'no runtime for "nvidia" is configured', "the runtime class"),
    ],
)
def test_a_container_that_is_being_created_is_explained_by_events_of_its_pod(
    reason, message, meaning
):
    created = pod(1, "Pending", **waits("ContainerCreating"))
    about = created["metadata"]["name"]
    [told] = reasons(job(), [pod(0), created], [event(about, message, "Pod", reason)])
    assert told.startswith(f"worker 1 waits: {reason}: ") and meaning in told
    assert reasons(job(), [pod(0), created]) == []  # Nothing is wrong so far.


@pytest.mark.parametrize(
    "condition, meaning",
    [
        ("LocalQueue team doesn't exist", "The namespace has no queue team."),
        ("ClusterQueue kit is inactive", "The queue admits nothing at the moment."),
        (
            "couldn't assign flavors to pod set main: resource ephemeral-storage unavailable in "
            "ClusterQueue",
            "The queue does not count ephemeral-storage, so it never admits",
        ),
        (
            'couldn\'t assign flavors to pod set main: Flavor "default" does not support '
            "TopologyAwareScheduling",
            "The queue has no such domain",
        ),
        (
            "Preempted to accommodate a workload (UID: 1, JobUID: 2) due to prioritization",
            "A job that comes before it took its place.",
        ),
        (
            "couldn't assign flavors to pod set main: insufficient unused quota for cpu in flavor "
            "kit, 2 more needed",
            "Other jobs use what this one needs.",
        ),
        (
            "couldn't assign flavors to pod set main: insufficient quota for cpu in flavor kit, "
            "previously considered podsets requests (0) + current podset request (9) > maximum "
            "capacity (4)",
            "The job is larger than the queue can ever admit.",
        ),
    ],
)
def test_a_suspended_job_is_explained_by_its_workload(condition, meaning):
    reserved = {"type": "QuotaReserved", "status": "False", "reason": "Pending"}
    workload = {"status": {"conditions": [{**reserved, "message": condition}]}}
    [told] = reasons(job(suspend=True), [], workloads={"items": [workload]})
    assert told.startswith("words waits: Pending: ") and meaning in told
    assert reasons(job(suspend=True), [], workloads=None) == []  # It cannot be read.


def test_a_job_that_kueue_does_not_take_up_is_explained():
    """It says nothing about the job if there is no class of its --queue_priority."""
    [told] = reasons(job(suspend=True), [], workloads={"items": []})
    assert "kubectl get workloadpriorityclasses" in told


def test_a_job_that_waits_for_its_nodes_to_be_made_is_explained():
    checks = [{"name": "dws", "state": "Pending", "message": "waits for capacity"}]
    reserved = [{"type": "QuotaReserved", "status": "True"}]
    workload = {"status": {"conditions": reserved, "admissionChecks": checks}}
    [told] = reasons(job(suspend=True), [], workloads={"items": [workload]})
    assert told.startswith("words waits: admission check dws: Pending: waits for capacity. The qu")


def test_a_job_that_may_not_run_any_longer_is_explained():
    target = {
        "type": "DeactivationTarget",
        "status": "True",
        "reason": "MaximumExecutionTimeExceeded",
        "message": "exceeding the maximum execution time",
    }
    workload = {"spec": {"active": False}, "status": {"conditions": [target]}}
    [told] = reasons(job(suspend=True), [], workloads={"items": [workload]})
    assert "The job ran for --queue_seconds" in told
    [reason] = waiting.reasons(job(suspend=True), [], lambda *_: {"items": [workload]})
    assert reason.final


def test_nothing_is_said_of_a_job_that_runs():
    assert reasons(job(), [pod(0), pod(1)], [event(NAME, "exceeded quota: team")]) == []
    assert reasons(job(), [pod(0), pod(1, "Succeeded")]) == []


def test_a_refusal_before_the_newest_pod_is_over():
    old = event(NAME, "exceeded quota: team", second=11)
    assert reasons(job(), [pod(0)], [old]) == []  # Worker 1 is about to get its pod.
    assert len(reasons(job(), [pod(0)], [event(NAME, "exceeded quota: team", second=12)])) == 1
    # Of an earlier job of the same name.
    assert reasons(job(), [], [event(NAME, "exceeded quota: team", second="09")]) == []


@pytest.mark.parametrize(
    "times",
    [
        {"eventTime": "2026-01-01T00:00:15.123456Z", "lastTimestamp": None},
        {
            "eventTime": "2026-01-01T00:00:01.123456Z",
            "series": {"lastObservedTime": "2026-01-01T00:00:15.123456Z"},
        },
    ],
)
def test_every_form_of_time_of_an_event_is_read(times):
    assert len(reasons(job(), [], [event(NAME, "exceeded quota: team", **times)])) == 1


def test_workers_that_wait_for_the_same_share_a_line():
    pods = [pod(index, "Pending", **unscheduled("2 Insufficient cpu")) for index in range(3)]
    [told] = reasons(job(3), pods)
    assert told.startswith("worker 0 (and 2 more) waits: Unschedulable: 2 Insufficient cpu. No ")


def test_an_evicted_pod_is_explained_until_it_is_replaced():
    evicted = pod(
        1, "Failed", reason="Evicted", message='Usage of EmptyDir volume "tmp" exceeds the limit'
    )
    [told] = reasons(job(), [pod(0), evicted])
    assert "Raise --scratch" in told
    assert reasons(job(), [pod(0), evicted, pod(1, created="2026-01-01T00:00:20Z")]) == []


def test_what_the_scheduler_also_tried_is_left_out():
    message = (
        "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: 0/2 "
        "nodes are available: 2 Preemption is not helpful for scheduling."
    )
    [told] = reasons(job(1), [pod(0, "Pending", **unscheduled(message))])
    assert "Unschedulable: 0/2 nodes are available: 2 Insufficient cpu. No node has" in told


def test_a_message_is_cut_to_a_readable_length():
    [told] = reasons(job(), [], [event(NAME, "exceeded quota: team " + "x" * 1000)])
    assert "x. The quota" in told and len(told) < 600


def test_of_a_message_that_no_rule_knows_nothing_is_said():
    assert waiting.meaning("Error from server: strange") == ""
    assert "--cpu_limit" in waiting.meaning("failed quota: a: must specify limits.cpu for: x")
