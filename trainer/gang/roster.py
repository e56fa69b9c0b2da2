"""The roster of a gang, from flags and environment: all workers' addresses, and which is this one.

It opens no connection and imports no TensorFlow.
"""

import dataclasses
import ipaddress
import json
from collections.abc import Mapping
from typing import Any

from trainer.exit_codes import UsageError
from trainer.flags.run import Gang

# Types of tasks that train, in the order in which they count as workers. "master" is the older name
# of "chief".
_TRAINING_TASKS = ("master", "chief", "worker")
_REFUSED_TASKS = {
    "ps": "parameters live on the workers, which add up their gradients in every step, so a "
    "parameter server has nothing to do. Leave the ps replicas out",
    "evaluator": "the workers evaluate while they train, all at the same step. Leave the evaluator "
    "out, or run `evaluate --model_dir=...` as a separate job",
}


@dataclasses.dataclass(frozen=True)
class Roster:
    """The addresses of all workers, HOST:PORT in order of their index; this is worker `index`.

    A worker alone has no addresses. chief: another address of worker 0, "" if it has none. ip: that
    of this worker as the others see it, "" if only its address above is known.
    """

    index: int
    addresses: tuple[str, ...]
    chief: str = ""
    ip: str = ""

    @property
    def workers(self) -> int:
        """Returns how many workers there are."""
        return max(1, len(self.addresses))


def resolve(gang: Gang, environ: Mapping[str, str]) -> Roster:
    """Returns the roster that the flags and the environment describe.

    TF_CONFIG has the form that TensorFlow defines, and that TFJob, Vertex AI and users of SkyPilot
    set: {"cluster": {"chief": [ADDRESS], "worker": [ADDRESS, ...]}, "task": {"type": "worker",
    "index": 0}}. A chief (or master) counts before the workers. Without TF_CONFIG, --num_workers
    and --hosts name the workers. The index comes from --worker_index, else from TF_CONFIG, else
    from JOB_COMPLETION_INDEX (an Indexed Job of Kubernetes). POD_IP is the worker's own IP address.

    Raises UsageError if flags and environment are incomplete or contradict each other.
    """
    index, addresses = _from_tf_config(environ)
    if addresses is None:
        addresses = _from_flags(gang)
    else:
        _check_flags_agree(gang, index, addresses)
    if gang.worker_index >= 0:
        index = gang.worker_index
    if index is None:
        index = _completion_index(environ) if len(addresses) > 1 else 0
    workers = max(1, len(addresses))
    if index >= workers:
        raise UsageError(
            f"worker index {index}: with {workers} worker(s) it must lie in [0, {workers}). "
            "Correct --worker_index (or JOB_COMPLETION_INDEX, TF_CONFIG) or --num_workers."
        )
    if gang.min_workers > workers:
        raise UsageError(
            f"--min_workers={gang.min_workers}: the job has {workers} worker(s). Lower it, or "
            "raise --num_workers."
        )
    if workers == 1:
        return Roster(0, ())
    for address in (*addresses, *([gang.chief_address] if gang.chief_address else [])):
        host_and_port(address)
    if len(set(addresses)) < workers:
        raise UsageError(
            f"{', '.join(addresses)}: two workers cannot have the same address. Give each its own "
            "host or port; --hosts takes a pattern with {index}, or all addresses separated by "
            "commas."
        )
    own = host_and_port(addresses[index])[0]
    return Roster(
        index, addresses, gang.chief_address, "" if is_loopback(own) else _own_ip(environ)
    )


def check_strategy(strategy: str, workers: int) -> None:
    """Raises UsageError if --strategy=`strategy` does not fit the number of workers."""
    if strategy == "multi_worker" and workers == 1:
        raise UsageError(
            "--strategy=multi_worker: there is one worker. Name the others with --num_workers and "
            "--hosts or with TF_CONFIG, or leave --strategy out."
        )
    if strategy in ("one_device", "mirrored", "tpu") and workers > 1:
        raise UsageError(
            f"--strategy={strategy}: it is for one worker, but there are {workers}. Use "
            "--strategy=multi_worker, or leave it out."
        )


def is_loopback(host: str) -> bool:
    """Returns whether a host is reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def joined(host: str, port: int | str) -> str:
    """Returns HOST:PORT, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def host_and_port(address: str) -> tuple[str, int]:
    """Returns ("host", port) of "host:port" or "[IPv6]:port"; raises UsageError for others."""
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise UsageError(
            f"{address}: the address of a worker must be HOST:PORT. Correct --hosts, "
            "--chief_address or TF_CONFIG."
        )
    return host, int(port)


def _from_flags(gang: Gang) -> tuple[str, ...]:
    workers = gang.num_workers or 1
    if not gang.hosts and workers > 1:
        raise UsageError(
            f"--num_workers={workers}: several workers need --hosts to find each other. Give a "
            "pattern like NAME-{index}.NAME:2222, or all HOST:PORT separated by commas."
        )
    if "{index}" in gang.hosts:
        return tuple(gang.hosts.replace("{index}", str(index)) for index in range(workers))
    hosts = tuple(filter(None, gang.hosts.split(",")))
    if hosts and len(hosts) != workers:
        raise UsageError(
            f"--hosts={gang.hosts}: it names {len(hosts)} worker(s), but "
            f"--num_workers={gang.num_workers} means {workers}. Make them agree."
        )
    return hosts


def _from_tf_config(environ: Mapping[str, str]) -> tuple[int | None, tuple[str, ...] | None]:
    """Returns (index, addresses) of TF_CONFIG; (None, None) if it is not set or names no worker."""
    text = environ.get("TF_CONFIG", "")
    if not text:
        return None, None
    try:
        document = json.loads(text)
        tasks = {
            str(kind): _listed(found)
            for kind, found in dict(document.get("cluster") or {}).items()
            if found
        }
        task = dict(document.get("task") or {})
        kind, place = str(task.get("type", "worker")), int(task.get("index", 0))
    except (ValueError, TypeError, AttributeError) as problem:
        raise UsageError(
            f'TF_CONFIG={text}: cannot be read ({problem}); it must be JSON with "cluster" and '
            '"task". Correct it, or unset it and use --num_workers, --worker_index and --hosts.'
        ) from None
    for unwanted, reason in _REFUSED_TASKS.items():
        if unwanted in tasks or kind == unwanted:
            raise UsageError(f"TF_CONFIG has a task of type {unwanted}: {reason}.")
    if not tasks:
        return None, None
    strange = sorted({*tasks, kind} - set(_TRAINING_TASKS))
    if strange:
        raise UsageError(
            f"TF_CONFIG has a task of type {strange[0]}: it must be one of "
            f"{', '.join(_TRAINING_TASKS)}. Rename it."
        )
    if not 0 <= place < len(tasks.get(kind, ())):
        raise UsageError(
            f"TF_CONFIG: its task is {kind} {place}, but its cluster lists "
            f"{len(tasks.get(kind, ()))} of type {kind}; the task must be one of these. Correct "
            'its "task".'
        )
    before = _TRAINING_TASKS[: _TRAINING_TASKS.index(kind)]
    return sum(len(tasks.get(other, ())) for other in before) + place, sum(
        (tasks.get(other, ()) for other in _TRAINING_TASKS), ()
    )


def _listed(addresses: Any) -> tuple[str, ...]:
    if isinstance(addresses, Mapping):  # TensorFlow also takes {"0": ADDRESS, ...}.
        addresses = [addresses[key] for key in sorted(addresses, key=int)]
    if not isinstance(addresses, list):
        raise ValueError(f"{addresses!r} is not a list of addresses")
    return tuple(map(str, addresses))


def _check_flags_agree(gang: Gang, index: int, addresses: tuple[str, ...]) -> None:
    given = [
        ("num_workers", gang.num_workers, len(addresses)) if gang.num_workers else None,
        ("worker_index", gang.worker_index, index) if gang.worker_index >= 0 else None,
    ]
    if gang.hosts:
        by_flags = _from_flags(
            dataclasses.replace(gang, num_workers=gang.num_workers or len(addresses))
        )
        given.append(("hosts", ",".join(by_flags), ",".join(addresses)))
    for name, flag, found in filter(None, given):
        if flag != found:
            raise UsageError(
                f"--{name}={flag}: TF_CONFIG has {found}. Leave the flag out, or unset TF_CONFIG."
            )


def _own_ip(environ: Mapping[str, str]) -> str:
    ip = environ.get("POD_IP", "")
    try:
        return str(ipaddress.ip_address(ip)) if ip else ""
    except ValueError:
        raise UsageError(
            f"POD_IP={ip}: it must be the IP address of this worker (Kubernetes sets it if the pod "
            "asks for status.podIP). Correct it, or unset it."
        ) from None


def _completion_index(environ: Mapping[str, str]) -> int:
    text = environ.get("JOB_COMPLETION_INDEX", "")
    if not text:
        raise UsageError(
            "--worker_index=-1: each of several workers needs its index. Give --worker_index, "
            "TF_CONFIG or JOB_COMPLETION_INDEX (Kubernetes sets it in the pods of an Indexed Job)."
        )
    if not (text.isascii() and text.isdigit()):
        raise UsageError(
            f"JOB_COMPLETION_INDEX={text}: it must be a whole number, 0 or more. Correct it, or "
            "give --worker_index."
        )
    return int(text)
