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

from trainer.launch.kubectl import Kubectl

# Everything that `submit` does, with --apply, --follow, --status and --stop.
PERMISSIONS = (
    ("create", "jobs.batch"),
    ("delete", "jobs.batch"),
    ("create", "services"),
    ("create", "secrets"),
    ("create", "networkpolicies.networking.k8s.io"),
    ("get", "pods"),
    ("get", "pods/log"),
)
_SECONDS = 15.0


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The cluster of a kubectl context, seen from one namespace.

    problem: why the cluster did not answer; "" if it did, and only then the rest is filled in.
    denied: those of PERMISSIONS that are refused, as "verb resource". pod_security: the enforced
    level, "" if none is, None if it cannot be read. queues: LocalQueues of Kueue, None if Kueue is
    not installed. quotas: {resource: (used, hard)} as Kubernetes writes the quantities.
    """

    context: str
    namespace: str
    problem: str = ""
    denied: tuple[str, ...] = ()
    pod_security: str | None = None
    queues: tuple[str, ...] | None = None
    quotas: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)


_SUFFIXES = {
    "": 1.0,
    "n": 1e-9,
    "u": 1e-6,
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "P": 1e15,
    "E": 1e18,
    "Ki": 2.0**10,
    "Mi": 2.0**20,
    "Gi": 2.0**30,
    "Ti": 2.0**40,
    "Pi": 2.0**50,
    "Ei": 2.0**60,
}


def quantity(text: str) -> float:
    """Returns the number in a quantity of Kubernetes, such as 3, 1500m, 2k or 1Gi.

    https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
    """
    number = text.rstrip("".join(_SUFFIXES))
    return float(number) * _SUFFIXES[text.removeprefix(number)]


def look(context: str, namespace: str) -> Cluster | str:
    """Returns the cluster of `context` ("": kubectl's current one), or why there is none to ask."""
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
        allowed = {
            f"{verb} {thing}": pool.submit(_allowed, kubectl, verb, thing)
            for verb, thing in PERMISSIONS
        }
        security, queues, quotas = (
            pool.submit(ask, kubectl) for ask in (_pod_security, _queues, _quotas)
        )
        denied = tuple(what for what, answer in allowed.items() if not answer.result())
        return Cluster(
            name, kubectl.namespace, "", denied, security.result(), queues.result(), quotas.result()
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
    found = _json(kubectl, "get", "localqueues.kueue.x-k8s.io")
    return None if found is None else tuple(queue["metadata"]["name"] for queue in found["items"])


def _quotas(kubectl: Kubectl) -> dict[str, tuple[str, str]]:
    quotas = {}
    for quota in (_json(kubectl, "get", "resourcequotas") or {"items": []})["items"]:
        status = quota.get("status", {})
        quotas |= {
            name: (status.get("used", {}).get(name, "0"), hard)
            for name, hard in status.get("hard", {}).items()
        }
    return quotas


def _json(kubectl: Kubectl, *arguments: str) -> dict | None:
    """Returns the answer; None if the resource does not exist or cannot be read."""
    answer = _ask(kubectl, *arguments, "--output=json")
    return None if answer.returncode else json.loads(answer.stdout)


def _ask(kubectl: Kubectl, *arguments: str) -> subprocess.CompletedProcess:
    # No standard input, so that kubectl cannot wait for a password.
    return kubectl.attempt("--request-timeout=5s", *arguments, stdin="", seconds=_SECONDS)
