"""Renders a JobSpec as a Kubernetes manifest: one YAML file to read, keep and apply.

Templates are whole files with comments. Each hole takes a value in JSON, which is valid YAML, so
quoting is always right (`N`, `on` and `1e3` stay text) and numbers that must agree come from one
field. Only the templates are read, and nothing is written.
"""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from trainer.exit_codes import BY_NAME, TABLE
from trainer.launch import spec as specs
from trainer.launch import stage

TEMPLATES = pathlib.Path(__file__).parent / "templates"
HOLE = re.compile(r"\$(?:\$|\{(\w+)\})")  # `$$` is a dollar sign.
LINE_LENGTH = 132
COMMENT_COLUMN = 40
TENSORBOARD_PORT = 6006
# As the templates write it for the trainer.
CONFINED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def render(spec: specs.JobSpec, token: str) -> str:
    """Returns the manifest of a job: network policy, workers and, if asked for, TensorBoard.

    token: by which several workers know each other; a Secret holds it.
    """
    workers = (
        "tpu_job"
        if spec.tpu
        else "jobset"
        if spec.submit.jobset
        else "indexed_job"
        if spec.workers > 1
        else "job"
    )
    names = [
        "network_policy",
        *(["secret"] if spec.has_token else []),
        workers,
        *(["tensorboard"] if spec.submit.tensorboard else []),
    ]
    values = {**_values(spec), "token": token}
    return "---\n".join(
        fill((TEMPLATES / f"{name}.yaml").read_text(encoding="utf-8"), values) for name in names
    )


def fill(template: str, values: Mapping[str, Any]) -> str:
    """Returns `template` with each ${name} replaced by the JSON of values[name].

    A value that is too long for its line is spread over several. A line with a value of None is
    left out.
    """
    return "\n".join(
        _fill_line(line, values)
        for line in template.split("\n")
        if all(values[hole[1]] is not None for hole in HOLE.finditer(line) if hole[1])
    )


def _fill_line(line: str, values: Mapping[str, Any]) -> str:
    filled = HOLE.sub(lambda hole: json.dumps(values[hole[1]]) if hole[1] else "$", line)
    if line.lstrip().startswith("#") or not HOLE.search(line):
        return filled
    code, reason = re.fullmatch(r"(.*?)( +# .*)?", line).groups()
    if reason:  # Comments stay in their column.
        return filled.removesuffix(reason).ljust(COMMENT_COLUMN) + "  " + reason.lstrip()
    below = "\n" + " " * (len(line) - len(line.lstrip(" -")) + 2)
    return (
        filled
        if len(filled) <= LINE_LENGTH
        else HOLE.sub(lambda hole: _lines(values[hole[1]], below) if hole[1] else "$", line)
    )


def _lines(value, below: str) -> str:
    """Returns a list or map with one entry per line; `below` is a line break and the indent.

    An entry that is too long for its line is spread as well.
    """

    def entry(key: str, one) -> str:
        text = key + json.dumps(one)
        short = len(below) + len(text) <= LINE_LENGTH or not isinstance(one, (list, dict))
        return below + (text if short else key + _lines(one, below + "  "))

    if isinstance(value, list):
        return "[" + ",".join(entry("", one) for one in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(entry(f"{json.dumps(key)}: ", value[key]) for key in value) + "}"
    return json.dumps(value)


def labels(name: str, component: str = "") -> dict[str, str]:
    """Returns the labels of every object of a job; `component` distinguishes its pods."""
    return {
        "app.kubernetes.io/name": "rnn-trainer",
        "app.kubernetes.io/instance": name,
        **({"app.kubernetes.io/component": component} if component else {}),
    }


def codes(on_cluster: str) -> list[int]:
    """Returns the exit codes for which the table lists `on_cluster`."""
    return sorted(row.code for row in TABLE if row.on_cluster == on_cluster)


def _values(spec: specs.JobSpec) -> dict[str, Any]:
    submit, name, secret = spec.submit, spec.name, f"{spec.name}-gang"
    requests = {"cpu": submit.cpu, "memory": submit.memory}
    devices = (
        {"nvidia.com/gpu": submit.gpus}
        if submit.gpus
        else {"google.com/tpu": spec.tpu.chips}
        if spec.tpu
        else {}
    )
    return {
        "name": name,
        "labels": labels(name),
        "queue_labels": {
            **labels(name),
            **({"kueue.x-k8s.io/queue-name": submit.queue} if submit.queue else {}),
        },
        "pod_labels": labels(name, "trainer"),
        "annotations": {"gke-gcsfuse/volumes": "true"}
        if any(one.kind == "gcsfuse" for one in spec.volumes)
        else {},
        "workers": spec.workers,
        "suspend": bool(submit.queue),
        "deadline_seconds": submit.deadline_seconds,
        "ttl_seconds": submit.ttl_seconds,
        "retries": submit.retries,
        "fail_codes": codes("fail the job"),
        "ignore_codes": codes("retry, not counted"),
        "grace_seconds": spec.grace_seconds,
        "service_account": submit.service_account,
        "pull_secrets": [{"name": submit.pull_secret}] if submit.pull_secret else [],
        "node_selector": _node_selector(spec),
        "tolerations": _tolerations(spec),
        "image": submit.image,
        "arguments": spec.arguments,
        "port": specs.PORT,
        **_copies(spec),
        "requests": {**requests, **devices},
        "limits": {"memory": submit.memory, **devices},
        "gang_secret": secret,
        "mounts": [
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "shm", "mountPath": "/dev/shm"},
            *(
                [{"name": "gang", "mountPath": specs.GANG_FOLDER, "readOnly": True}]
                if spec.has_token
                else []
            ),
            *(
                {
                    "name": volume_name,
                    "mountPath": volume.path,
                    **({"readOnly": True} if volume.kind == "secret" else {}),
                }
                for volume_name, volume in _named(spec)
            ),
        ],
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": submit.shm}},
            *([{"name": "gang", **_secret(secret)}] if spec.has_token else []),
            *({"name": volume_name, **_source(volume)} for volume_name, volume in _named(spec)),
        ],
        "tensorboard": f"{name}-tensorboard",
        "tensorboard_labels": labels(name, "tensorboard"),
        "tensorboard_port": TENSORBOARD_PORT,
        "tensorboard_arguments": [
            f"--logdir={pathlib.PurePosixPath(spec.train.folders.model_dir) / 'tensorboard'}",
            "--host=0.0.0.0",
            f"--port={TENSORBOARD_PORT}",
        ],
        "model_path": spec.model_volume.path,
        "model_volume": {"name": "model", **_source(spec.model_volume)},
    }


def _copies(spec: specs.JobSpec) -> dict[str, Any]:
    """Returns the containers that copy folders (see `stage`), None for those that are not there."""
    publication, hold = spec.publication, stage.HOLD_PIPE if spec.publication else ""
    mounts = [{"name": "tmp", "mountPath": stage.SHARED}]
    volumes = {volume: name for name, volume in _named(spec)}

    def container(name: str, verb: str, *words: str, folder: str = "", **more) -> dict[str, Any]:
        held = specs.volume_of(spec.volumes, folder) if folder else None
        return {
            "name": name,
            "image": spec.submit.stage_image,
            "command": ["sh", f"{stage.SHARED}/{stage.SCRIPT}", verb],
            "args": [*words],
            "resources": {
                "requests": stage.REQUESTS,
                "limits": {"memory": stage.REQUESTS["memory"]},
            },
            # `--follow` and `--status` show its last lines if it fails.
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "securityContext": CONFINED,
            "volumeMounts": [
                *mounts,
                *([{"name": volumes[held], "mountPath": held.path, **more}] if held else []),
            ],
        }

    tools = {
        **container("tools", ""),
        "image": spec.submit.image,
        "command": ["python", "-m", stage.__name__],
        "args": [stage.SHARED],
    }
    stages = [
        container(f"stage-{index}", "stage", copy.url, copy.folder, folder=copy.folder)
        for index, copy in enumerate(spec.stages)
    ]
    check, publisher = None, None
    if publication:
        job = f"{spec.name} {publication.folder}"
        check = container("check", "check", publication.url, job)
        publisher = container(
            "publish",
            "publish",
            publication.url,
            job,
            publication.folder,
            stage.PIPE,
            folder=publication.folder,
            readOnly=True,
        )
    return {
        "init_containers": [tools, *stages, *([check] if check else [])]
        if stages or check
        else None,
        # Exit code 2 of a copy: the URL or the image is wrong.
        "hopeless_stage": {
            "containerName": "stage-0",
            "operator": "In",
            "values": [BY_NAME["usage"]],
        }
        if stages
        else None,
        "hopeless_check": {"containerName": "check", "operator": "In", "values": [BY_NAME["usage"]]}
        if check
        else None,
        "publisher": publisher,
        "published": publication.url if publication else None,
        # The shell is replaced by the trainer, which stays process 1.
        "command": ["/bin/sh", "-c", f'{hold}exec python -m trainer "$@"', "trainer"]
        if hold
        else None,
        "tpu_command": [
            "/bin/sh",
            "-c",
            f'ulimit -l 68719476736; {hold}exec python -m trainer "$@"',
            "trainer",
        ],
    }


def _named(spec: specs.JobSpec) -> list[tuple[str, specs.Volume]]:
    return [(f"volume-{index}", volume) for index, volume in enumerate(spec.volumes)]


def _source(volume: specs.Volume) -> dict[str, Any]:
    return {
        "pvc": {"persistentVolumeClaim": {"claimName": volume.source}},
        "emptydir": {"emptyDir": {"sizeLimit": volume.source}},
        "secret": _secret(volume.source),
        "gcsfuse": {
            "csi": {
                "driver": "gcsfuse.csi.storage.gke.io",
                "readOnly": True,
                "volumeAttributes": {"bucketName": volume.source, "mountOptions": "implicit-dirs"},
            }
        },
    }[volume.kind]


def _secret(name: str) -> dict[str, Any]:
    # The user and the group of the pod may read it, no other user.
    return {"secret": {"secretName": name, "defaultMode": 0o440}}


def _node_selector(spec: specs.JobSpec) -> dict[str, str]:
    selector = {
        found["key"]: found["value"]
        for found in map(specs.SELECTOR.fullmatch, spec.submit.node_selector)
    }
    if spec.tpu:
        selector |= {
            "cloud.google.com/gke-tpu-accelerator": spec.tpu.accelerator,
            "cloud.google.com/gke-tpu-topology": spec.tpu.topology,
        }
    return selector | ({"cloud.google.com/gke-spot": "true"} if spec.submit.spot else {})


def _tolerations(spec: specs.JobSpec) -> list[dict[str, str]]:
    """Returns the tolerations of the flags and of the taints that GKE puts on its nodes.

    GKE taints nodes with accelerators and Spot nodes.
    """
    taints = (
        ["nvidia.com/gpu:NoSchedule"]
        if spec.submit.gpus
        else ["google.com/tpu:NoSchedule"]
        if spec.tpu
        else []
    )
    taints += ["cloud.google.com/gke-spot=true:NoSchedule"] if spec.submit.spot else []
    return [
        {
            "key": found["key"],
            "operator": "Exists" if found["value"] is None else "Equal",
            **{name: found[name] for name in ("value", "effect") if found[name]},
        }
        for found in map(specs.TOLERATION.fullmatch, (*taints, *spec.submit.toleration))
    ]
