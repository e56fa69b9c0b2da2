"""What kubectl reports about the cluster that `submit` would use; nothing is changed there.

Calls and their output: https://kubernetes.io/docs/reference/kubectl/generated/. Pod Security levels
are labels of the namespace: https://kubernetes.io/docs/concepts/security/pod-security-standards/.
Queues: https://kueue.sigs.k8s.io/docs/.
"""

import concurrent.futures
import dataclasses
import json
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

from trainer.doctor.quotas import Quota
from trainer.launch.kubectl import Kubectl

_MADE = ("get", "list", "create", "patch", "delete")
_ENDED = (*_MADE, "watch")  # `kubectl delete` watches what it waits for.
# Everything that `submit` does, with --apply, --follow, --status and --stop.
PERMISSIONS = (
    *((verb, "jobs.batch") for verb in _ENDED),
    *(
        (verb, thing)
        for thing in (
            "services",
            "secrets",
            "networkpolicies.networking.k8s.io",
            "deployments.apps",
        )
        for verb in _MADE
    ),
    ("get", "pods"),  # `kubectl logs` and `kubectl exec` read the pod first.
    ("list", "pods"),
    ("get", "pods/log"),
    ("create", "pods/exec"),
    ("list", "events"),
)
_JOBSET, _KUEUE = "jobset.x-k8s.io", "kueue.x-k8s.io"
JOBSET_PERMISSIONS = tuple((verb, f"jobsets.{_JOBSET}") for verb in _ENDED)
QUEUE_PERMISSIONS = (("list", f"workloads.{_KUEUE}"),)
_SECONDS = 15.0


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The cluster of a kubectl context, seen from one namespace.

    problem: why the cluster did not answer; "" if it did, and only then the rest is filled in.
    denied: those of PERMISSIONS that are refused, as "verb resource"; of JOBSET_PERMISSIONS if
    JobSet is installed; of QUEUE_PERMISSIONS if a queue was asked for and Kueue is installed.
    pod_security: the enforced level, "" if none is, None if it cannot be read. queues: LocalQueues
    of Kueue, None if Kueue is not installed. quotas: None if they cannot be
    read. ranges: the items of LimitRanges about containers and pods, each {"type", "max", "min",
    "default"} with {resource: quantity}; None if they cannot be read. default_class: the
    PriorityClass of pods that name none; "" if they get none, None if that cannot be read.
    """

    context: str
    namespace: str
    problem: str = ""
    denied: tuple[str, ...] = ()
    pod_security: str | None = None
    queues: tuple[str, ...] | None = None
    quotas: tuple[Quota, ...] | None = ()
    ranges: tuple[Mapping[str, Any], ...] | None = ()
    default_class: str | None = ""


def look(context: str, namespace: str, queue: str = "") -> Cluster | str:
    """Returns the cluster of `context` ("": kubectl's current one), or why there is none to ask.

    queue: the LocalQueue that the job would wait in; "" for none.
    """
    if not shutil.which("kubectl"):
        return "kubectl is not on the PATH"
    name = context or _ask(Kubectl(), "config", "current-context").stdout.strip()
    if not name:
        return "kubectl has no context; --context=NAME names one"
    kubectl = Kubectl(name)
    of_context = _ask(
        kubectl, "config", "view", "--minify", "--output=jsonpath={..namespace}"
    ).stdout.strip()
    kubectl = Kubectl(name, namespace or of_context or "default")
    reached = _ask(kubectl, "version", "--output=json")
    if reached.returncode:
        problem = (reached.stderr.strip().splitlines() or ["no answer"])[-1]
        return Cluster(name, kubectl.namespace, problem)
    with concurrent.futures.ThreadPoolExecutor(max_workers=4) as pool:
        versions = _ask(kubectl, "api-versions").stdout
        needed = (
            *PERMISSIONS,
            *(JOBSET_PERMISSIONS if f"{_JOBSET}/" in versions else ()),
            *(QUEUE_PERMISSIONS if queue and f"{_KUEUE}/" in versions else ()),
        )
        allowed = {
            f"{verb} {thing}": pool.submit(_allowed, kubectl, verb, thing) for verb, thing in needed
        }
        security, queues, quotas, ranges, default_class = (
            pool.submit(ask, kubectl)
            for ask in (_pod_security, _queues, _quotas, _ranges, _default_class)
        )
        denied = tuple(what for what, answer in allowed.items() if not answer.result())
        return Cluster(
            name,
            kubectl.namespace,
            "",
            denied,
            security.result(),
            queues.result(),
            quotas.result(),
            ranges.result(),
            default_class.result(),
        )


def _allowed(kubectl: Kubectl, verb: str, thing: str) -> bool:
    resource, _, part = thing.partition("/")
    answer = _ask(
        kubectl, "auth", "can-i", verb, resource, *([f"--subresource={part}"] if part else [])
    )
    return answer.stdout.strip().splitlines()[-1:] == ["yes"]


def _pod_security(kubectl: Kubectl) -> str | None:
    found = _json(kubectl, "get", "namespace", kubectl.namespace)
    return (
        None
        if found is None
        else found["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce", "")
    )


def _queues(kubectl: Kubectl) -> tuple[str, ...] | None:
    found = _json(kubectl, "get", f"localqueues.{_KUEUE}")
    return None if found is None else tuple(queue["metadata"]["name"] for queue in found["items"])


def _quotas(kubectl: Kubectl) -> tuple[Quota, ...] | None:
    found = _json(kubectl, "get", "resourcequotas")
    return None if found is None else tuple(map(Quota.of, found["items"]))


def _ranges(kubectl: Kubectl) -> tuple[dict, ...] | None:
    found = _json(kubectl, "get", "limitranges")
    return (
        None
        if found is None
        else tuple(
            item
            for one in found["items"]
            for item in one["spec"]["limits"]
            if item["type"] in ("Container", "Pod")
        )
    )


def _default_class(kubectl: Kubectl) -> str | None:
    found = _json(kubectl, "get", "priorityclasses")
    if found is None:
        return None
    defaults = [one for one in found["items"] if one.get("globalDefault")]
    lowest = min(defaults, key=lambda one: one["value"], default=None)  # As the API server does.
    return lowest["metadata"]["name"] if lowest else ""


def _json(kubectl: Kubectl, *arguments: str) -> dict | None:
    """Returns the answer; None if the resource does not exist or cannot be read."""
    answer = _ask(kubectl, *arguments, "--output=json")
    return None if answer.returncode else json.loads(answer.stdout)


def _ask(kubectl: Kubectl, *arguments: str) -> subprocess.CompletedProcess:
    # No standard input, so that kubectl cannot wait for a password.
    return kubectl.attempt("--request-timeout=5s", *arguments, stdin="", seconds=_SECONDS)
