"""Jobs on a Kubernetes cluster, through the kubectl program: apply, follow, status, stop.

kubectl already knows contexts, the logins of every cloud and proxies. A job is found by its name
and labels alone, so a job that was applied by hand, or with kustomize, is followed and stopped the
same way.
"""

import collections
import dataclasses
import json
import logging
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

from trainer.exit_codes import BY_NAME, TABLE, UsageError
from trainer.launch import kubernetes, waiting

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 60.0  # How long the API server may be away while a job is followed.
FIELD_MANAGER = "rnn-trainer"
KINDS = ("job.batch", "jobset.jobset.x-k8s.io")
OF_A_JOB = ("service", "networkpolicy", "secret", "deployment")  # What is deleted with a job.
NOT_COUNTED = tuple(row.code for row in TABLE if row.on_cluster in ("done", "retry, not counted"))
HOPELESS = tuple(row.code for row in TABLE if row.on_cluster == "fail the job")
EXPLAIN_SECONDS = 3.0  # How often a follower asks why a job waits.


@dataclasses.dataclass(frozen=True)
class Kubectl:
    """The kubectl program with a context and a namespace; "" means kubectl's own."""

    context: str = ""
    namespace: str = ""

    @property
    def command(self) -> list[str]:
        return [
            "kubectl",
            *([f"--context={self.context}"] if self.context else []),
            *([f"--namespace={self.namespace}"] if self.namespace else []),
        ]

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        """Returns what kubectl prints. Raises UsageError with its message if it fails."""
        done = self.attempt(*arguments, stdin=stdin)
        if done.returncode:
            raise UsageError(
                f"kubectl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}"
            )
        return done.stdout

    def attempt(
        self, *arguments: str, stdin: str | None = None, seconds: float | None = None
    ) -> subprocess.CompletedProcess:
        """Returns how kubectl ended and what it printed, also if it failed.

        A call that takes longer than `seconds` counts as failed. Raises UsageError if kubectl is
        not installed.
        """
        command = [*self.command, *arguments]
        try:
            return subprocess.run(
                command, input=stdin, capture_output=True, text=True, timeout=seconds
            )
        except FileNotFoundError:
            raise UsageError(
                "kubectl: not on the PATH, and submit needs it to reach the cluster. Install it "
                "(https://kubernetes.io/docs/tasks/tools), or print the manifest without --apply."
            ) from None
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 1, "", f"no answer within {seconds:g} s")

    def ask(self, *arguments: str) -> dict[str, Any] | None:
        """Returns the objects that kubectl finds; None if they cannot be read."""
        done = self.attempt(*arguments, "--output=json")
        return json.loads(done.stdout) if not done.returncode and done.stdout.strip() else None

    def find(self, kind: str, name: str) -> dict[str, Any] | None:
        """Returns the object, None if it or its kind does not exist."""
        try:
            text = self("get", kind, name, "--ignore-not-found", "--output=json")
        except UsageError as problem:
            if "doesn't have a resource type" in str(problem):  # This cluster has no JobSet.
                return None
            raise
        return json.loads(text) if text.strip() else None

    def pods(self, name: str) -> list[dict[str, Any]]:
        """Returns the pods of the job's workers, oldest first."""
        selector = ",".join(
            f"{key}={value}" for key, value in kubernetes.labels(name, "trainer").items()
        )
        found = json.loads(self("get", "pods", f"--selector={selector}", "--output=json"))["items"]
        return sorted(found, key=lambda pod: pod["metadata"]["creationTimestamp"])


@dataclasses.dataclass(frozen=True)
class Job:
    """A Job or JobSet as the cluster sees it.

    ended: "" while it runs, then "done" or "failed". reason: in the words of the cluster.
    """

    kind: str
    name: str
    document: dict[str, Any]
    ended: str
    reason: str

    @classmethod
    def find(cls, kubectl: Kubectl, name: str) -> "Job | None":
        """Returns the JobSet or Job of this name, None if there is none."""
        for kind in reversed(KINDS):  # A JobSet first: its Jobs have other names.
            document = kubectl.find(kind, name)
            if document:
                return cls(kind, name, document, *_end(document))
        return None


def _end(document: dict[str, Any]) -> tuple[str, str]:
    for condition in document.get("status", {}).get("conditions", []):
        if condition["status"] == "True" and condition["type"] in (
            "Complete",
            "Completed",
            "Failed",
        ):
            words = f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": ")
            return ("failed" if condition["type"] == "Failed" else "done"), words
    return "", ""


def apply(kubectl: Kubectl, name: str, manifest: str) -> str:
    """Applies `manifest` after a dry run on the API server; returns what kubectl prints.

    A job of this name that has ended is deleted first. Raises UsageError if such a job still runs,
    or if the cluster refuses the manifest or a part of it; then nothing of it is left.
    """
    job = Job.find(kubectl, name)
    if job and not job.ended:
        raise UsageError(
            f"--name={name}: a job of this name is still running. See --status={name}, end it with "
            f"--stop={name}, or choose another name."
        )
    send = (
        "apply",
        "--server-side",
        "--force-conflicts",
        f"--field-manager={FIELD_MANAGER}",
        "--filename=-",
    )
    _dry_run(kubectl, manifest)
    if job:
        log.info("deleting the earlier job %s: %s %s", name, job.ended, job.reason)
        kubectl("delete", job.kind, name, "--cascade=foreground")
    # Else the cluster could take away what it finds of an earlier job, which is gone.
    _delete_belongings(kubectl, name)
    try:
        printed = kubectl(*send, stdin=manifest)
    except UsageError:
        _withdraw(kubectl, name)
        raise
    _own(kubectl, name)
    return printed


def _withdraw(kubectl: Kubectl, name: str) -> None:
    """Deletes what was accepted of a manifest.

    kubectl goes on after an object that is refused, and a job without its NetworkPolicy or its
    Services must not run.
    """
    try:
        job = Job.find(kubectl, name)
        if job:
            kubectl("delete", job.kind, name, "--cascade=foreground")
        _delete_belongings(kubectl, name)
    except UsageError as problem:
        log.warning("%s is half sent, and cannot be deleted: %s. --stop deletes it", name, problem)


def _dry_run(kubectl: Kubectl, manifest: str) -> None:
    """Raises UsageError if the cluster refuses `manifest` or would give its job no pods.

    It is asked for new objects, because a job that ended cannot be changed and is replaced. If pods
    break the Pod Security level of the namespace, the API server accepts the job with a warning,
    and the job never gets a pod. Other warnings are advice, and logged.
    """
    done = kubectl.attempt("create", "--filename=-", "--dry-run=server", stdin=manifest)
    told = done.stderr.strip().splitlines()
    warnings = [line for line in told if line.startswith("Warning: ")]
    problems = [line for line in warnings if "would violate PodSecurity" in line]
    if done.returncode:
        known = [line for line in told if "(AlreadyExists)" in line]
        problems += [line for line in told if line not in (*known, *warnings)]
        problems = problems or ([] if known else [done.stdout.strip() or "no answer"])
    if problems:
        text = " ".join(problems)
        means = waiting.meaning(text)
        raise UsageError(f"the cluster refuses the job: {text}{means and f'. {means}'}")
    for line in warnings:
        log.warning("the cluster warns: %s", line.removeprefix("Warning: "))


def _selector(name: str) -> str:
    return f"--selector=app.kubernetes.io/name=rnn-trainer,app.kubernetes.io/instance={name}"


def _belongings(kubectl: Kubectl, name: str) -> list[str]:
    """Returns what belongs to a job, as kubectl names it."""
    return kubectl("get", ",".join(OF_A_JOB), _selector(name), "--output=name").split()


def _delete_belongings(kubectl: Kubectl, name: str) -> None:
    """Deletes what belongs to a job that is gone."""
    kubectl("delete", ",".join(OF_A_JOB), _selector(name))


def _own(kubectl: Kubectl, name: str) -> None:
    """Makes the job the owner of what belongs to it, so that the cluster deletes all together.

    That is so whoever deletes the job: its time to live, a person, or `stop`.
    """
    try:
        job = Job.find(kubectl, name)
    except UsageError as problem:  # The job was sent, and runs all the same.
        log.warning("%s does not own what belongs to it: %s. --stop deletes it", name, problem)
        return
    if job:
        owner = {
            "apiVersion": job.document["apiVersion"],
            "kind": job.document["kind"],
            "name": name,
            "uid": job.document["metadata"]["uid"],
        }
        _set_owners(kubectl, name, [owner])


def _set_owners(kubectl: Kubectl, name: str, owners: list[dict[str, str]]) -> None:
    """Sets the owners of what belongs to a job; logs why, if that is not allowed.

    The job runs without it.
    """
    done = kubectl.attempt("get", ",".join(OF_A_JOB), _selector(name), "--output=name")
    names = done.stdout.split()
    if not done.returncode and names:
        patch = json.dumps({"metadata": {"ownerReferences": owners}})
        done = kubectl.attempt("patch", *names, "--type=merge", f"--patch={patch}")
    if done.returncode:
        log.warning(
            "what belongs to %s is not deleted together with it: %s. --stop deletes it",
            name,
            done.stderr.strip(),
        )


def stop(kubectl: Kubectl, name: str, say: Callable[[str], None]) -> None:
    """Stops a job and returns when its pods are gone; volumes stay.

    The workers get SIGTERM, write a checkpoint and are not restarted. What a job that is gone has
    left is deleted. Raises UsageError if there is no such job and nothing of it.
    """
    job = Job.find(kubectl, name)
    if not job and (left := _belongings(kubectl, name)):
        log.info(
            "there is no job %s any more; deleting what it has left: %s", name, ", ".join(left)
        )
        _delete_belongings(kubectl, name)
        return
    if not job:
        raise UsageError(
            f"--stop={name}: there is no such job{_where(kubectl)}. `kubectl get jobs,jobsets "
            "--all-namespaces --selector=app.kubernetes.io/name=rnn-trainer` lists all of them."
        )
    # The workers use Service and NetworkPolicy until they have ended, so these go last.
    _set_owners(kubectl, name, [])
    logs = _Logs(kubectl, name, say, tail=0)
    logs.catch_up()
    try:
        kubectl("delete", job.kind, name, "--cascade=foreground", "--wait=true")
        logs.drain(seconds=5)
    finally:
        logs.end()
    _delete_belongings(kubectl, name)


def _where(kubectl: Kubectl) -> str:
    return f" in namespace {kubectl.namespace}" if kubectl.namespace else ""


# --- Following ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, order=True)
class Failure:
    """A container that ended with a code other than 0.

    disrupted: whether the cluster took its pod away, which a job does not count.
    """

    finished: str
    worker: str
    code: int
    why: str
    disrupted: bool = False

    @property
    def decides(self) -> bool:
        """Whether it counts, or ends the job at once."""
        return self.code in HOPELESS or self.code not in NOT_COUNTED and not self.disrupted


def follow(kubectl: Kubectl, name: str, say: Callable[[str], None]) -> int:
    """Prints the logs of all workers until the job ends; returns its exit code.

    Each line begins with the worker's index. The code is 0, or that of the container that failed
    the job: the first failure that the cluster counts or that ends the job at once.
    """
    logs = _Logs(kubectl, name, say)
    failures: dict[str, Failure] = {}
    explainer = _Explainer(kubectl)
    answered = time.monotonic()
    try:
        while True:
            try:
                # The job before its pods: if the job has ended, the pods are final.
                job = Job.find(kubectl, name)
                pods = logs.catch_up()
            except UsageError:
                if time.monotonic() - answered > PATIENCE_SECONDS:
                    raise
                time.sleep(POLL_SECONDS)
                continue
            answered = time.monotonic()
            for pod in pods:
                failure = failure_of(pod)
                if failure and failures.setdefault(pod["metadata"]["name"], failure) is failure:
                    log.info(
                        "worker %s ended with exit code %d: %s",
                        failure.worker,
                        failure.code,
                        failure.why,
                    )
            if not job:
                log.info("%s no longer exists: it was stopped or deleted elsewhere", name)
                return _code(failures, BY_NAME["terminated"])
            if job.ended:
                logs.drain(seconds=10)
                if job.ended == "done":
                    return BY_NAME["done"]
                code = _code(failures, BY_NAME["bug"])
                log.info("%s failed with exit code %d: %s", name, code, job.reason)
                return code
            if explainer.look(job, pods):
                logs.drain(seconds=10)
                return _code(failures, BY_NAME["terminated"])
            time.sleep(POLL_SECONDS)
    finally:
        logs.end()


def failure_of(pod: dict[str, Any]) -> Failure | None:
    """Returns the failure of a pod's container, None if it runs or succeeded.

    The trainer's comes before that of the containers that copy.
    """
    for container in _containers(pod):
        ended = container.get("state", {}).get("terminated")
        if ended and ended["exitCode"]:
            said = f"{ended.get('reason', '')} {ended.get('message', '')}".strip()
            name = container.get("name", "trainer")
            return Failure(
                ended.get("finishedAt", ""),
                waiting.worker(pod),
                ended["exitCode"],
                said if name == "trainer" else f"{name}: {said}",
                _disrupted(pod),
            )
    return None


def _disrupted(pod: dict[str, Any]) -> bool:
    return any(
        condition["type"] == "DisruptionTarget" and condition["status"] == "True"
        for condition in pod.get("status", {}).get("conditions", [])
    )


def _containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the state of each container: the trainer first, then those that copy (`stage`)."""
    status = pod.get("status", {})
    found = [*status.get("containerStatuses", []), *status.get("initContainerStatuses", [])]
    return sorted(found, key=lambda one: one.get("name") != "trainer")


def _code(failures: dict[str, Failure], otherwise: int) -> int:
    in_order = sorted(failures.values())
    decisive = [failure for failure in in_order if failure.decides] or in_order
    return decisive[0].code if decisive else otherwise


class _Explainer:
    """Logs why a job waits: a reason that stands at two looks, once until another one comes."""

    def __init__(self, kubectl: Kubectl):
        self._kubectl, self._due = kubectl, 0.0
        # {who waits: rule}, of the last look, and of what was logged.
        self._seen: dict[str, waiting.Rule] = {}
        self._said: dict[str, waiting.Rule] = {}

    def look(self, job: "Job", pods: list[dict[str, Any]]) -> bool:
        """Returns whether the job will never run again."""
        if time.monotonic() < self._due:
            return False
        self._due = time.monotonic() + EXPLAIN_SECONDS
        found = waiting.reasons(job.document, pods, self._kubectl.ask)
        stands = [reason for reason in found if self._seen.get(reason.who) is reason.rule]
        for reason in stands:
            if self._said.get(reason.who) is not reason.rule:
                log.info("%s", reason)
        self._seen = {reason.who: reason.rule for reason in found}
        self._said = {reason.who: reason.rule for reason in stands}
        return any(reason.final for reason in stands)


class _Logs:
    """One `kubectl logs --follow` per started container.

    Each line is passed to `say` with the worker's index in front.
    """

    def __init__(self, kubectl: Kubectl, name: str, say: Callable[[str], None], tail: int = -1):
        self._kubectl, self._name, self._say, self._tail = kubectl, name, say, tail
        self._readers: dict[str, tuple[subprocess.Popen, threading.Thread]] = {}
        self._turn = threading.Lock()
        # {pod: lines read}: after a lost connection the lines that are known are skipped.
        self._lines = collections.Counter()

    def catch_up(self) -> list[dict[str, Any]]:
        """Starts to read containers that are new; returns all pods of the job."""
        pods = self._kubectl.pods(self._name)
        for pod in pods:
            name = pod["metadata"]["name"]
            if _has_started(pod) and (name not in self._readers or self._readers[name][0].poll()):
                # A session of its own: Ctrl-C in our terminal must not cut off lines that are
                # still arriving.
                process = subprocess.Popen(
                    [*self._kubectl.command, "logs", "--follow", f"--tail={self._tail}", name],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    stdin=subprocess.DEVNULL,
                    text=True,
                    errors="replace",
                    start_new_session=True,
                )
                reader = threading.Thread(
                    target=self._read, args=(process, name, waiting.worker(pod)), daemon=True
                )
                reader.start()
                self._readers[name] = process, reader
        return pods

    def _read(self, process: subprocess.Popen, pod: str, worker: str) -> None:
        known = self._lines[pod]
        for number, line in enumerate(process.stdout):
            if number >= known:
                self._lines[pod] = number + 1
                with self._turn:
                    self._say(f"[{worker}] {line.rstrip()}")

    def drain(self, seconds: float) -> None:
        """Waits, at most `seconds`, until everything that the containers wrote is printed."""
        deadline = time.monotonic() + seconds
        for _, reader in self._readers.values():
            reader.join(max(0.0, deadline - time.monotonic()))

    def end(self) -> None:
        """Ends all readers."""
        for process, reader in self._readers.values():
            process.kill()
            process.wait()
            reader.join()


def _has_started(pod: dict[str, Any]) -> bool:
    return any(
        "running" in container.get("state", {}) or "terminated" in container.get("state", {})
        for container in pod.get("status", {}).get("containerStatuses", [])
    )


# --- Status ---------------------------------------------------------------------------------------


def status(kubectl: Kubectl, name: str) -> list[str]:
    """Returns about ten lines: pods, attempt, last step, goodput.

    Raises UsageError if there is no such job.
    """
    job = Job.find(kubectl, name)
    if not job:
        raise UsageError(
            f"--status={name}: there is no such job{_where(kubectl)}. A job is deleted some time "
            "after its end (--ttl_seconds); then see `trainer report` on its model folder."
        )
    pods = kubectl.pods(name)
    lines = [
        f"job        {name} ({job.document['kind']}) in {job.document['metadata']['namespace']}, "
        f"since {job.document['metadata']['creationTimestamp']}",
        f"state      {_state(job, pods)}",
    ]
    # Oldest first, so the newest pod of each worker stays.
    latest = {waiting.worker(pod): pod for pod in pods}
    shown = sorted(latest, key=int)[:4]
    lines += [f"worker {worker}   {_of_pod(latest[worker])}" for worker in shown]
    if len(latest) > len(shown):
        phases = collections.Counter(
            latest[worker]["status"].get("phase", "Pending")
            for worker in latest
            if worker not in shown
        )
        lines.append(
            "others     " + ", ".join(f"{count} {phase}" for phase, count in phases.items())
        )
    ended = sorted(failure for failure in map(failure_of, pods) if failure)
    if not job.ended:
        lines += [
            f"why        {reason}"
            for reason in waiting.reasons(job.document, pods, kubectl.ask)[:3]
        ]
    if ended:
        lines.append(
            f"ends       {len(ended)}; the last: worker {ended[-1].worker} with exit code "
            f"{ended[-1].code} at {ended[-1].finished}"
        )
    return lines + _progress(kubectl, pods)


def _state(job: Job, pods: list[dict[str, Any]]) -> str:
    if job.ended:
        return f"{job.ended} {job.reason}".strip()
    if job.document["spec"].get("suspend"):
        return "suspended: waits for its queue"
    running = sum(pod["status"].get("phase") == "Running" for pod in pods)
    return f"{running} pod(s) run"


def _of_pod(pod: dict[str, Any]) -> str:
    failure = failure_of(pod)
    more = f", exit code {failure.code} {failure.why}" if failure else ""
    node = pod["spec"].get("nodeName", "no node yet")
    return f"{pod['metadata']['name']} {pod['status'].get('phase', 'Pending')} on {node}{more}"


def _progress(kubectl: Kubectl, pods: list[dict[str, Any]]) -> list[str]:
    """Returns attempt, step and goodput from `trainer report` in a running pod.

    If no pod can run it, returns the last line of the newest log.
    """
    for pod in pods:
        if pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]:
            arguments = pod["spec"]["containers"][0].get("args", [])
            folder = next(
                (one for one in arguments if one.startswith("--model_dir=")), "--model_dir="
            )
            try:
                return progress(
                    json.loads(
                        kubectl(
                            "exec",
                            pod["metadata"]["name"],
                            "--",
                            "python",
                            "-m",
                            "trainer",
                            "report",
                            folder,
                            "--format=json",
                        )
                    )
                )
            except UsageError:
                continue  # The pod has just ended, or has written nothing yet.
    if pods:
        try:
            last = kubectl("logs", "--tail=1", pods[-1]["metadata"]["name"]).strip()
        except UsageError:  # The node with the log cannot be reached.
            last = ""
        return [f"last line  {last}"] if last else []
    return []


def progress(report: dict[str, Any]) -> list[str]:
    """Returns lines of `status` made from the output of `trainer report --format=json`."""
    return [
        f"attempt    {max((attempt['number'] for attempt in report['attempts']), default=0)}",
        f"step       {report['step']} of {report['total'] or 'an unknown total'}",
        f"goodput    {report['goodput']:.4g}",
    ]
