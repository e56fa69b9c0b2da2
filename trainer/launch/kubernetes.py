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
from trainer.launch import kueue, pods, stage
from trainer.launch import spec as specs

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
        *(["chief"] if spec.workers > 1 else []),
        workers,
        *(["tensorboard"] if spec.submit.tensorboard else []),
    ]
    values = {**_values(spec), "token": token}
    return "---\n".join(
        fill((TEMPLATES / f"{name}.yaml").read_text(encoding="utf-8"), values) for name in names
    )


def fill(template: str, values: Mapping[str, Any]) -> str:
    """Returns `template` with each ${name} replaced by the JSON of values[name].

    A value that is too long for its line is spread over several. The line of a value that is None
    is left out; that of a tuple is there once for each of its entries.
    """
    lines = []
    for line in template.split("\n"):
        holes = [hole for hole in HOLE.findall(line) if hole]
        several = [hole for hole in holes if isinstance(values[hole], tuple)]
        if several:
            [hole] = several
            lines += [_fill_line(line, {**values, hole: one}) for one in values[hole]]
        elif not any(values[hole] is None for hole in holes):
            lines.append(_fill_line(line, values))
    return "\n".join(lines)


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
    own = labels(name, "trainer")
    devices = (
        {submit.gpu_resource: submit.gpus}
        if submit.gpus
        else {"google.com/tpu": spec.tpu.chips}
        if spec.tpu
        else {}
    )
    folders = [volume.source for volume in spec.volumes if volume.kind == "emptydir"]
    requests, limits = pods.resources(submit, devices, folders)
    return {
        "name": name,
        "labels": labels(name),
        "queue_labels": labels(name) | kueue.job_labels(submit),
        "pod_labels": own,
        "all_labels": own | pods.labels(submit),
        "annotations": pods.annotations(
            submit, any(volume.kind == "gcsfuse" for volume in spec.volumes)
        ),
        "workers": spec.workers,
        "suspend": bool(submit.queue),
        "deadline_seconds": submit.deadline_seconds,
        "ttl_seconds": submit.ttl_seconds,
        "retries": submit.retries,
        "fail_codes": codes("fail the job"),
        "ignore_codes": codes("retry, not counted"),
        "grace_seconds": spec.grace_seconds,
        "spot_seconds": submit.spot_seconds,
        "service_account": submit.service_account,
        "pull_secrets": [{"name": submit.pull_secret}] if submit.pull_secret else [],
        "runtime_class": submit.runtime_class or None,
        "priority_class": submit.priority_class or None,
        "node_selector": _tpu_selector(spec) | pods.node_selector(submit),
        "tolerations": pods.tolerations(submit),
        "affinity": pods.affinity(submit, own) or None,
        "spread": pods.spread(submit, own) or None,
        "env": [*(pods.OWN_IP if spec.workers > 1 else []), *pods.environment(submit)] or None,
        "image": submit.image,
        "arguments": spec.arguments,
        "port": specs.PORT,
        "chief": spec.chief,
        "chief_labels": own | {pods.INDEX: "0"},
        **_copies(spec),
        "requests": requests,
        "limits": limits,
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
            {"name": "tmp", "emptyDir": {"sizeLimit": pods.scratch(submit)}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": pods.shm(submit)}},
            *([{"name": "gang", **_secret(secret)}] if spec.has_token else []),
            *({"name": volume_name, **_source(volume)} for volume_name, volume in _named(spec)),
        ],
        "tensorboard": f"{name}-tensorboard",
        "tensorboard_labels": labels(name, "tensorboard"),
        "tensorboard_all_labels": labels(name, "tensorboard") | pods.labels(submit),
        "tensorboard_annotations": pods.tensorboard_annotations(submit),
        "tensorboard_node_selector": pods.architecture(submit) or None,
        "tensorboard_limits": {
            **pods.cpu_limit_beside(submit),
            "memory": "1Gi",
            "ephemeral-storage": "1Gi",
        },
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
    requests, limits = pods.resources_beside(spec.submit, stage.CPU, stage.MEMORY)
    env = pods.environment(spec.submit)  # Proxies and endpoints are for the tools too.

    def container(name: str, verb: str, *words: str, folder: str = "", **more) -> dict[str, Any]:
        held = specs.volume_of(spec.volumes, folder) if folder else None
        return {
            "name": name,
            "image": spec.submit.stage_image,
            "command": ["sh", f"{stage.SHARED}/{stage.SCRIPT}", verb],
            "args": [*words],
            **({"env": env} if env else {}),
            "resources": {"requests": requests, "limits": limits},
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
        # Exit code 2 of a copy: the URL or the image is wrong. A rule names one container.
        "hopeless_copies": tuple(
            {"containerName": one["name"], "operator": "In", "values": [BY_NAME["usage"]]}
            for one in [*stages, *([check] if check else [])]
        ),
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


def _tpu_selector(spec: specs.JobSpec) -> dict[str, str]:
    return (
        {
            "cloud.google.com/gke-tpu-accelerator": spec.tpu.accelerator,
            "cloud.google.com/gke-tpu-topology": spec.tpu.topology,
        }
        if spec.tpu
        else {}
    )
