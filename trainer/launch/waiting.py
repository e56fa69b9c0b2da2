"""Why a job waits: what the cluster says about its missing pods, what that means, what to do.

The API server accepts a job whose pods it then refuses, or whose pods no node can start. The job
itself only shows too few pods; the reason is in its events, its pods and Kueue's Workload.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from trainer import shown
from trainer.launch import kueue

INDEX = "batch.kubernetes.io/job-completion-index"

# Asks kubectl for objects; None if they or their kind do not exist, or if reading is forbidden.
Ask = Callable[..., dict[str, Any] | None]


@dataclasses.dataclass(frozen=True)
class Rule:
    """A message of the cluster, what it means, and the remedy.

    `meaning` and `remedy` may name the groups of `pattern`. final: the job never runs again.
    """

    pattern: re.Pattern
    meaning: str
    remedy: str
    final: bool = False

    def explain(self, seen: str) -> str:
        """Returns meaning and remedy of a message that fits the pattern."""
        named = {name: value or "" for name, value in self.pattern.search(seen).groupdict().items()}
        return f"{self.meaning.format(**named)} {self.remedy.format(**named)}"


def _rule(pattern: str, meaning: str, remedy: str, final: bool = False) -> Rule:
    return Rule(re.compile(pattern, re.DOTALL), meaning, remedy, final)


# Containers of --stage and --publish that come before the trainer (`stage`).
_BEFORE = re.compile(r"tools|stage-\d+|check")
_CREATE = "Create it, or correct"
# The first that fits decides.
RULES = (
    # The API server makes no pod.
    _rule(
        r"exceeded quota: (?P<quota>[^,\s]+)",
        "The quota {quota} of the namespace has no room for this.",
        "Wait until other jobs end, lower --cpu, --memory, --gpus or --workers, or ask for a "
        "larger quota (`kubectl describe resourcequota {quota}`).",
    ),
    _rule(
        r"failed quota: (?P<quota>[^:\s]+): must specify (?P<what>[-\w./,]+)",
        "The quota {quota} of the namespace counts {what}, so every pod must state it.",
        "Set --cpu_limit for limits.cpu and --scratch for ephemeral-storage.",
    ),
    _rule(
        r"(?P<bound>maximum|minimum) (?P<what>[-\w./]+) usage per (?P<each>Container|Pod) is "
        r"(?P<size>[\w.]+)",
        "A LimitRange of the namespace sets the {bound} {what} of a {each} to {size}.",
        "Change --cpu and --cpu_limit, --memory or --scratch accordingly "
        "(`kubectl describe limitrange`).",
    ),
    _rule(
        r"must be less than or equal to (?P<what>[-\w./]+) limit",
        "A LimitRange of the namespace gives containers a lower limit of {what} than they request.",
        "Set --cpu_limit to what the worker needs, or lower --cpu or --memory "
        "(`kubectl describe limitrange`).",
    ),
    _rule(
        r"violates? PodSecurity",
        "The Pod Security level of the namespace forbids such pods.",
        "Use a --namespace whose level allows them; pods with TPUs need privileged.",
    ),
    _rule(
        r"""admission webhook "(?P<hook>[^"]+)" denied|ValidatingAdmissionPolicy '[^']+'""",
        "A policy of the cluster refuses the pods.",
        "Change what its message names (--label, --annotation, --node_selector, --cpu_limit and "
        "--service_account set parts of a pod), or ask the administrators of the cluster.",
    ),
    _rule(
        r'failed calling webhook "(?P<hook>[^"]+)"',
        "{hook}, which must agree to every pod, does not answer.",
        "Tell the administrators of the cluster; the job starts once it answers again.",
    ),
    _rule(
        r'RuntimeClass "(?P<name>[^"]+)" not found|no runtime for "(?P<handler>[^"]+)"',
        "The cluster or this node does not have the runtime class.",
        "Correct --runtime_class (`kubectl get runtimeclasses`), or leave it out.",
    ),
    _rule(
        r"no PriorityClass with name (?P<name>\S+) was found",
        "The cluster has no priority class {name}.",
        "Correct --priority_class (`kubectl get priorityclasses`), or leave it out.",
    ),
    _rule(
        r'(?i:service ?account) "(?P<name>[^"]+)" not found',
        "The namespace has no service account {name}.",
        f"{_CREATE} --service_account.",
    ),
    # The trainer is not started yet.
    _rule(
        rf"^(?P<name>{_BEFORE.pattern}) runs$",
        "It copies a folder of --stage, or looks at the one of --publish; then the trainer starts.",
        "Wait; `kubectl logs POD --container={name}` shows what it does.",
    ),
    # A node cannot start the pod.
    _rule(
        r'(?:secret|Secret) "(?P<name>[^"]+)" not found|couldn\'t find key \S+ in Secret|'
        r"references non-existent secret key",
        "A Secret that the pod needs, or its key, is not there.",
        f"{_CREATE} --volume=secret:..., --env_secret or --pull_secret (`kubectl get secrets`).",
    ),
    _rule(
        r'configmap "(?P<name>[^"]+)" not found',
        "The ConfigMap {name}, which the pod needs, is not there.",
        "Create it; the pod starts by itself then.",
    ),
    _rule(
        r'persistentvolumeclaim "(?P<name>[^"]+)" not found',
        "The namespace has no claim {name}.",
        f"{_CREATE} --volume (`kubectl get pvc`; k8s/claim.yaml is an example).",
    ),
    _rule(
        r"unbound immediate PersistentVolumeClaims",
        "A claim has no volume yet.",
        "See `kubectl describe pvc`: its storage class may be missing, or unable to make one.",
    ),
    _rule(
        r"Multi-Attach error|can only be used by a single",
        "The volume can be on one node only, and another pod has it on another node.",
        "Wait until that pod ends, or use a claim with ReadWriteMany.",
    ),
    _rule(
        r"MountVolume|AttachVolume|Unable to attach or mount|FailedMount|FailedAttachVolume",
        "The node cannot mount a volume of the pod.",
        "Check --volume, and the driver of the volume on that node.",
    ),
    _rule(
        r"InvalidImageName|couldn't parse image",
        "The name of the image is not valid.",
        "Correct --image or --stage_image.",
    ),
    _rule(
        r"no match for platform|exec format error",
        "The image was built for another kind of processor than the node has.",
        "Build it with the --platform of the nodes (scripts/build_image.sh), or add "
        "--node_selector=kubernetes.io/arch=amd64.",
    ),
    _rule(
        r"Err\w*Pull.*(?:unauthorized|denied|forbidden|authentication|no basic auth|401|403)",
        "The registry does not let the node read the image.",
        "Name a Secret with the right credentials with --pull_secret, or correct --image or "
        "--stage_image.",
    ),
    _rule(
        r"Err\w*Pull.*(?:not found|manifest unknown|404|does not exist)",
        "The registry has no such image.",
        "Push it (scripts/build_image.sh --push), or correct --image or --stage_image.",
    ),
    _rule(
        r"Err\w*Pull|ImagePullBackOff|RegistryUnavailable|ErrImageNeverPull",
        "The node cannot pull the image.",
        "Check --image, --stage_image and --pull_secret, and that the node reaches the registry.",
    ),
    _rule(
        r"Evicted.*(?:ephemeral|EmptyDir|[Dd]isk)",
        "The pod used more disk than it may, or the node ran out of it.",
        "Raise --scratch, or the size of --volume=emptydir:...",
    ),
    _rule(
        r"Evicted",
        "The node ran out of a resource.",
        "Raise --memory or --scratch to what the worker really needs.",
    ),
    # No node has room.
    _rule(
        r"Insufficient (?P<what>(?!cpu|memory|ephemeral)[-\w.]+/[-\w.]+)",
        "No node has enough free {what}.",
        "Check --gpus, --gpu_resource and --node_selector against `kubectl describe nodes`, or "
        "wait for other pods to end and for the autoscaler.",
    ),
    _rule(
        r"Insufficient (?P<what>[-\w]+)",
        "No node has enough free {what}.",
        "Lower --cpu, --memory or --scratch, wait for other pods to end and for the autoscaler, or "
        "add nodes.",
    ),
    _rule(
        r"untolerated taint",
        "Nodes that have room keep pods away by a taint.",
        "Add --toleration for a taint that the job may ignore, or choose other nodes.",
    ),
    _rule(
        r"anti-affinity rules",
        "There are fewer places than workers that must be apart.",
        "Lower --workers, or leave out --anti_affinity.",
    ),
    _rule(
        r"node affinity/selector|node\(s\) didn't match",
        "No node has the labels that the job asks for.",
        "Correct --node_selector (`kubectl get nodes --show-labels`).",
    ),
    _rule(
        r"Unschedulable|FailedScheduling|nodes are available",
        "No node can take the pod.",
        "See `kubectl describe nodes`, and wait for the autoscaler if there is one.",
    ),
    # Kueue does not admit the job.
    _rule(
        r"LocalQueue (?P<name>\S+) doesn't exist",
        "The namespace has no queue {name}.",
        f"{_CREATE} --queue (`kubectl get localqueues`).",
    ),
    _rule(
        r"ClusterQueue (?P<name>\S+) (?:doesn't exist|is inactive)|LocalQueue \S+ is inactive",
        "The queue admits nothing at the moment.",
        "Ask the administrators of the cluster, or use another --queue.",
    ),
    _rule(
        r"SchedulingGated",
        "Kueue decides first where the pod runs.",
        "Wait; if it lasts, see `kubectl describe workloads`.",
    ),
    _rule(
        r"[Pp]reempted",
        "A job that comes before it took its place.",
        "Wait; it continues from its newest checkpoint by itself.",
    ),
    _rule(
        r"no Workload",
        "Kueue does not know --queue_priority, or does not look after this namespace.",
        "Correct --queue_priority (`kubectl get workloadpriorityclasses`), or ask the "
        "administrators of the cluster.",
    ),
    _rule(
        r"does not support TopologyAwareScheduling|no topology (?:domains|assignment)",
        "The queue has no such domain for the workers.",
        "Correct --queue_topology (`kubectl get topologies`), or leave it out.",
    ),
    _rule(
        r"resource (?P<what>\S+) unavailable in ClusterQueue",
        "The queue does not count {what}, so it never admits a job that requests it.",
        "Leave out the flag that requests it (--scratch for ephemeral-storage, --gpus), use "
        "another --queue, or ask the administrators of the cluster to add it to the queue.",
    ),
    _rule(
        r"> maximum capacity",
        "The job is larger than the queue can ever admit.",
        "Lower --cpu, --memory, --gpus or --workers, or use another --queue.",
    ),
    _rule(
        r"insufficient (?:unused )?quota",
        "Other jobs use what this one needs.",
        "Wait until they end, or use another --queue or --queue_priority.",
    ),
    _rule(
        r"^admission check",
        "The queue has room, and this check must agree too.",
        "Wait; if it lasts, ask the administrators of the cluster.",
    ),
    _rule(
        r"MaximumExecutionTime|maximum execution time",
        "The job ran for --queue_seconds, and Kueue does not let it run again.",
        "Submit it again after `--stop`, with more --queue_seconds: it continues from its newest "
        "checkpoint.",
        final=True,
    ),
    _rule(
        r"[Dd]eactivated",
        "Kueue, or somebody, set the job inactive.",
        "Submit it again after `--stop`; it continues from its newest checkpoint.",
    ),
)
_OTHER = Rule(
    re.compile(""),
    "The cluster does not start it.",
    "See `kubectl describe` on the job and its pods, or ask the administrators of the cluster.",
)


@dataclasses.dataclass(frozen=True)
class Reason:
    """Why something of a job waits. who: `words`, or `worker 1`; seen: in the cluster's words."""

    who: str
    seen: str
    rule: Rule

    @property
    def final(self) -> bool:
        """Whether the job never runs again, although the cluster does not count it as ended."""
        return self.rule.final

    def __str__(self) -> str:
        seen = shown.bare(self.seen.strip()).rstrip(".")
        return f"{self.who} waits: {seen}. {self.rule.explain(self.seen)}"


def meaning(seen: str) -> str:
    """Returns what a message of a cluster means, and the remedy; "" if no rule knows it."""
    rule = _rule_of(seen)
    return rule.explain(seen) if rule is not _OTHER else ""


def _rule_of(seen: str) -> Rule:
    return next((rule for rule in RULES if rule.pattern.search(seen)), _OTHER)


def reasons(
    document: Mapping[str, Any], pods: Iterable[Mapping[str, Any]], ask: Ask
) -> "list[Reason]":
    """Returns the `Reason`s why a job that has not ended has fewer running pods than workers.

    Workers that wait for the same reason share one.

    Args:
      document: the Job or JobSet.
      pods: the pods of its workers.
      ask: see `Ask`.
    """
    name = document["metadata"]["name"]
    if document["spec"].get("suspend"):
        return [_reason(name, seen) for seen in _of_workload(document, ask)]
    # Of each worker the newest pod: those before it are replaced.
    in_order = sorted(pods, key=lambda pod: pod["metadata"]["creationTimestamp"])
    latest = list({worker(pod): pod for pod in in_order}.values())
    missing = _workers(document) > sum(map(_is_of_use, latest))
    waiting = [pod for pod in latest if _is_pending(pod)]
    events = _warnings(ask) if missing or any(not why(pod) for pod in waiting) else []
    found = [_reason(name, seen) for seen in (_of_job(document, latest, events) if missing else [])]
    for pod in latest:
        seen = why(pod)
        if not seen and _is_pending(pod):
            seen = _last(events, {pod["metadata"]["name"]}, pod)
        if seen:
            found.append(_reason(f"worker {worker(pod)}", seen))
    return _joined(found)


def why(pod: Mapping[str, Any]) -> str:
    """Returns why a pod does not run yet, or was evicted, in the words of the cluster; else ""."""
    status = pod.get("status", {})
    if status.get("phase") == "Failed" and status.get("reason") == "Evicted":
        return f"Evicted: {status.get('message', '')}"
    if not _is_pending(pod):
        return ""
    for container in (
        *status.get("initContainerStatuses", []),
        *status.get("containerStatuses", []),
    ):
        state = container.get("state", {})
        if "running" in state and _BEFORE.fullmatch(container["name"]):
            return f"{container['name']} runs"
        waits = state.get("waiting", {})
        if waits.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return f"{waits['reason']}: {waits.get('message', '')}"
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{condition.get('reason', '')}: {condition.get('message', '')}"
    return ""


def worker(pod: Mapping[str, Any]) -> str:
    """Returns the index of the worker that a pod is."""
    return pod["metadata"].get("labels", {}).get(INDEX, "0")


def _is_pending(pod: Mapping[str, Any]) -> bool:
    return pod.get("status", {}).get("phase", "Pending") == "Pending"


def _is_of_use(pod: Mapping[str, Any]) -> bool:
    return (
        pod.get("status", {}).get("phase") != "Failed"
        and "deletionTimestamp" not in pod["metadata"]
    )


def _workers(document: Mapping[str, Any]) -> int:
    spec = document["spec"]
    if "replicatedJobs" in spec:
        spec = spec["replicatedJobs"][0]["template"]["spec"]
    return spec.get("parallelism", 1)


def _reason(who: str, seen: str) -> Reason:
    # What the scheduler also tried, which explains nothing.
    seen = re.sub(r"(\. no new claims to deallocate,)?\.? preemption: .*", "", seen)
    # The name of a pod that was not made is another one with each try.
    seen = re.sub(
        r'(Error creating: )?pods? "[^"]*" is (forbidden|invalid): ',
        "no pod: ",
        seen,
        flags=re.IGNORECASE,
    )
    return Reason(who, seen, _rule_of(seen))


def _joined(found: list[Reason]) -> list[Reason]:
    """Returns one reason for all workers whose messages are the same."""
    by_seen: dict[str, list[str]] = {}
    for reason in found:
        by_seen.setdefault(reason.seen, []).append(reason.who)
    return [
        Reason(
            whos[0] if len(whos) == 1 else f"{whos[0]} (and {len(whos) - 1} more)",
            seen,
            _rule_of(seen),
        )
        for seen, whos in by_seen.items()
    ]


# --- Events and workloads -------------------------------------------------------------------------


def _warnings(ask: Ask) -> list[dict[str, Any]]:
    """Returns the warnings of the namespace, oldest first."""
    found = ask("get", "events", "--field-selector=type=Warning") or {"items": []}
    return sorted(found["items"], key=_time)


def _time(event: Mapping[str, Any]) -> str:
    """Returns when an event came last, to the second."""
    latest = (
        (event.get("series") or {}).get("lastObservedTime")
        or event.get("lastTimestamp")
        or event.get("eventTime")
        or event["metadata"].get("creationTimestamp", "")
    )
    return latest[:19]


def _of_job(
    document: Mapping[str, Any], pods: list[Mapping[str, Any]], events: list[dict[str, Any]]
) -> list[str]:
    """Returns the last warning about the job itself since its newest pod was made."""
    name = document["metadata"]["name"]
    jobs = [part["name"] for part in document["spec"].get("replicatedJobs", [])]
    names = {name, *(f"{name}-{part}-0" for part in jobs)}
    newest = max(pods, key=lambda pod: pod["metadata"]["creationTimestamp"], default=document)
    seen = _last(events, names, newest, kinds=("Job", "JobSet"))
    return [seen] if seen else []


def _last(
    events: list[dict[str, Any]],
    names: set[str],
    since: Mapping[str, Any],
    kinds: tuple[str, ...] = ("Pod",),
) -> str:
    """Returns the last warning about one of these objects since another was made, else ""."""
    seen = ""
    for event in events:
        about = event["involvedObject"]
        if about.get("kind") in kinds and about.get("name") in names:
            if _time(event) >= since["metadata"]["creationTimestamp"][:19]:
                seen = f"{event.get('reason', '')}: {event.get('message', '')}"
    return seen


def _of_workload(document: Mapping[str, Any], ask: Ask) -> list[str]:
    """Returns why Kueue does not admit a suspended job."""
    selector = f"--selector={kueue.PREFIX}job-uid={document['metadata'].get('uid', '')}"
    found = ask("get", "workloads.kueue.x-k8s.io", selector)
    if found is not None and not found["items"]:
        return ["no Workload: Kueue has not taken the job up"]
    for workload in found["items"] if found else []:
        conditions = {
            condition["type"]: condition
            for condition in workload.get("status", {}).get("conditions", [])
        }
        if not workload.get("spec", {}).get("active", True):
            told = conditions.get("DeactivationTarget") or conditions.get("Evicted") or {}
            return [
                f"deactivated: {told.get('reason', '')}: {told.get('message', '')}".rstrip(": ")
            ]
        waits = conditions.get("QuotaReserved")
        if waits and waits["status"] == "False":
            return [f"{waits.get('reason', '')}: {waits.get('message', '')}"]
        # The queue has room, and something else must agree: for example that nodes can be made.
        return [
            f"admission check {check['name']}: {check['state']}: {check.get('message', '')}"
            for check in workload.get("status", {}).get("admissionChecks", [])
            if check["state"] != "Ready"
        ]
    return []
