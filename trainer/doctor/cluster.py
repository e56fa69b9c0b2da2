"""What kubectl says of the cluster that a job would be sent to; nothing is changed there.

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

# What `submit` and its follow, status and stop do.
PERMISSIONS = (
    ("create", "jobs.batch"),
    ("delete", "jobs.batch"),
    ("create", "services"),
    ("create", "networkpolicies.networking.k8s.io"),
    ("get", "pods"),
    ("get", "pods/log"),
)
_SECONDS = 15.0


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The cluster of a kubectl context, seen from one namespace.

    problem: why it could not be asked; empty otherwise, and then: denied: "verb resource" of
    PERMISSIONS that are refused; pod_security: the level that is enforced, "" where none is, None
    where it may not be read; queues: LocalQueues of Kueue, None where Kueue is not installed;
    quotas: {resource: (used, hard)} as Kubernetes writes the quantities.
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
    """The number in a quantity of Kubernetes, such as 3, 1500m, 2k or 1Gi.

    https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
    """
    number = text.rstrip("".join(_SUFFIXES))
    return float(number) * _SUFFIXES[text.removeprefix(number)]


def look(context: str, namespace: str) -> Cluster | str:
    """The cluster of `context` (empty: kubectl's current one); or why there is none to ask."""
    if not shutil.which("kubectl"):
        return "kubectl is not on the PATH"
    name = context or _kubectl([], "config", "current-context").stdout.strip()
    if not name:
        return "kubectl has no context; --context=NAME names one"
    at = [f"--context={name}"]
    of_context = _kubectl(
        at, "config", "view", "--minify", "--output=jsonpath={..namespace}"
    ).stdout.strip()
    namespace = namespace or of_context or "default"
    at.append(f"--namespace={namespace}")
    reached = _kubectl(at, "version", "--output=json")
    if reached.returncode:
        return Cluster(name, namespace, (reached.stderr.strip().splitlines() or ["no answer"])[-1])
    with concurrent.futures.ThreadPoolExecutor(max_workers=4) as pool:
        allowed = {
            f"{verb} {thing}": pool.submit(_allowed, at, verb, thing) for verb, thing in PERMISSIONS
        }
        security, queues, quotas = (
            pool.submit(ask, at) for ask in (_pod_security, _queues, _quotas)
        )
        denied = tuple(what for what, answer in allowed.items() if not answer.result())
        return Cluster(
            name, namespace, "", denied, security.result(), queues.result(), quotas.result()
        )


def _allowed(at: list[str], verb: str, thing: str) -> bool:
    resource, _, part = thing.partition("/")
    answer = _kubectl(
        at, "auth", "can-i", verb, resource, *([f"--subresource={part}"] if part else [])
    )
    return answer.stdout.strip().splitlines()[-1:] == ["yes"]


def _pod_security(at: list[str]) -> str | None:
    found = _json(at, "get", "namespace", at[-1].removeprefix("--namespace="))
    return (
        None
        if found is None
        else found["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce", "")
    )


def _queues(at: list[str]) -> tuple[str, ...] | None:
    found = _json(at, "get", "localqueues.kueue.x-k8s.io")
    return None if found is None else tuple(queue["metadata"]["name"] for queue in found["items"])


def _quotas(at: list[str]) -> dict[str, tuple[str, str]]:
    quotas = {}
    for quota in (_json(at, "get", "resourcequotas") or {"items": []})["items"]:
        status = quota.get("status", {})
        quotas |= {
            name: (status.get("used", {}).get(name, "0"), hard)
            for name, hard in status.get("hard", {}).items()
        }
    return quotas


def _json(at: list[str], *arguments: str) -> dict | None:
    """The answer; None where the resource is not there or may not be read."""
    answer = _kubectl(at, *arguments, "--output=json")
    return None if answer.returncode else json.loads(answer.stdout)


def _kubectl(at: list[str], *arguments: str) -> subprocess.CompletedProcess:
    command = ["kubectl", *at, "--request-timeout=5s", *arguments]
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no answer within {_SECONDS:g} s")
