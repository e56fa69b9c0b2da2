"""What the flags of `submit` put into the template of a pod: environment, labels, place, sizes."""

import re

from trainer import channel
from trainer.exit_codes import UsageError
from trainer.flags.submit import Submit
from trainer.flags.use import Doctor
from trainer.launch import kueue
from trainer.launch.values import (
    ANNOTATION,
    DNS_SUBDOMAIN,
    KEY,
    LABEL,
    LABEL_KEY,
    TOLERATION,
    VARIABLE,
    check_cpus,
    check_size,
    least,
    quantity,
    require,
    total,
)

GPU = "nvidia.com/gpu"
ARCHITECTURE = "kubernetes.io/arch"
ACCELERATOR = "cloud.google.com/gke-accelerator"
COUNT = "cloud.google.com/gke-accelerator-count"
COMPUTE_CLASS = "cloud.google.com/compute-class"
SPOT = "cloud.google.com/gke-spot"
LOST_SECONDS = 60  # How long a node may be silent before its pods are given up.
BIG_SHM, MANY_GPUS = "8Gi", 4  # NCCL communicates through /dev/shm if GPUs have no link.

_ENV = re.compile(rf"(?P<name>{VARIABLE})=(?P<value>.*)", re.DOTALL)
_ENV_SECRET = re.compile(
    rf"(?P<name>{VARIABLE})=(?P<secret>{DNS_SUBDOMAIN.pattern}):(?P<key>[-._a-zA-Z0-9]+)"
)
_RESOURCE = re.compile(rf"(?=[^/]+/){LABEL_KEY}")
# {variable, or beginning of its name: who sets it}; a value from a flag would be lost or would
# mislead the trainer.
_OWN_VARIABLES = {
    "TF_CONFIG": "the workers find each other by what submit sets",
    "POD_IP": "the cluster sets it to the address of the worker",
    "JOB_COMPLETION_INDEX": "the cluster sets it to the index of the worker",
    channel.VARIABLE: "the supervisor sets it for its training process",
    "TRAINER_GANG_TOKEN": "submit makes a token for each job; --gang_token_file names your own",
    "TRAINER_OUTCOME_FD": "submit sets it for --publish",
    "AIP_": "Vertex AI sets such variables",
    "CLOUD_ML_": "Vertex AI sets such variables",
    channel.SUPERVISOR: "the supervisor sets it for its training process",
    "KERAS_BACKEND": "the trainer always sets it to tensorflow",
    "TF_USE_LEGACY_KERAS": "the trainer always sets it to 0",
    "NVIDIA_VISIBLE_DEVICES": "the cluster sets it to the GPUs of --gpus",
}
# {beginning of a label's or annotation's key: what to do instead}
_OWN_KEYS = {
    "app.kubernetes.io/name": "the trainer finds its objects by it. Choose another key",
    "app.kubernetes.io/instance": "it is the --name of the job. Choose another key",
    "app.kubernetes.io/component": "the trainer finds its pods by it. Choose another key",
    "batch.kubernetes.io/": "the cluster sets it. Choose another key",
    "jobset.sigs.k8s.io/": "JobSet sets it. Choose another key",
    "job-name": "the cluster sets it. Choose another key",
    "controller-uid": "the cluster sets it. Choose another key",
    kueue.PREFIX: "use --queue, --queue_priority, --queue_topology or --queue_seconds",
    "gke-gcsfuse/": "use --volume=gcsfuse:BUCKET:/PATH",
}
_NO_MESH_LABEL = {"sidecar.istio.io/inject": "false"}
_NO_MESH_ANNOTATION = {"linkerd.io/inject": "disabled"}
# Cluster autoscaler and Karpenter then do not move pods to save nodes.
_STAY = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}


# --- Checks ---------------------------------------------------------------------------------------


def check(submit: Submit) -> None:
    """Raises UsageError if one of the flags is malformed or contradicts another."""
    check_sizes(submit)
    _check_folders(submit)
    _check_gpus(submit)
    check_environment(submit.env, submit.env_secret)
    _check_keys(submit)
    _check_place(submit)
    kueue.check(submit)


def check_sizes(asked: Submit | Doctor) -> None:
    """Raises UsageError if --cpu, --cpu_limit or --memory is malformed or they contradict."""
    for name in ("cpu", "cpu_limit"):
        if getattr(asked, name) or name == "cpu":
            check_cpus(name, getattr(asked, name))
    check_size("memory", asked.memory)
    if asked.cpu_limit and quantity(asked.cpu_limit) < quantity(asked.cpu):
        raise UsageError(
            f"--cpu_limit={asked.cpu_limit}: must be at least --cpu={asked.cpu}. Raise it, or "
            "lower --cpu."
        )


def _check_folders(submit: Submit) -> None:
    for name in ("shm", "scratch"):
        if getattr(submit, name):
            check_size(name, getattr(submit, name))
    if quantity(shm(submit)) > quantity(submit.memory):
        raise UsageError(
            f"--memory={submit.memory}: must hold /dev/shm, which counts as memory and has "
            f"{shm(submit)}. Raise --memory, or lower --shm."
        )


def _check_gpus(submit: Submit) -> None:
    resource = submit.gpu_resource
    require(
        _RESOURCE.fullmatch(resource),
        "gpu_resource",
        resource,
        "must be the DOMAIN/NAME of a resource of the nodes, for example nvidia.com/mig-1g.10gb",
    )
    if resource != GPU and not submit.gpus:
        raise UsageError(
            f"--gpu_resource={resource}: names what --gpus counts, and --gpus=0 requests none. Add "
            "--gpus=1, or leave it out."
        )
    if submit.gpus > 1 and ("/mig-" in resource or resource.endswith(".shared")):
        raise UsageError(
            f"--gpus={submit.gpus}: a process of CUDA uses one {resource} at a time. Use --gpus=1, "
            f"with more --workers, or --gpu_resource={GPU}."
        )


def check_environment(env: tuple[str, ...], env_secret: tuple[str, ...] = ()) -> None:
    """Raises UsageError if --env or --env_secret is malformed or names a variable of ours."""
    seen = set()
    for flag, texts, pattern, form in (
        ("env", env, _ENV, "NAME=VALUE, with letters, digits and _ in NAME"),
        (
            "env_secret",
            env_secret,
            _ENV_SECRET,
            "NAME=SECRET:KEY, with a key of a Secret of the namespace",
        ),
    ):
        for text in texts:
            found = pattern.fullmatch(text)
            # A value may be a password, although it belongs in a Secret.
            require(found, flag, text.partition("=")[0] + "=...", f"must be {form}")
            name = found["name"]
            for own, why in _OWN_VARIABLES.items():
                if name == own or (own.endswith("_") and name.startswith(own)):
                    raise UsageError(
                        f"--{flag}={name}=...: {name} cannot be set, because {why}. Leave it out."
                    )
            if name in seen:
                raise UsageError(f"--{flag}={name}=...: {name} is given twice. Leave out one.")
            seen.add(name)


def _check_keys(submit: Submit) -> None:
    for flag, pattern, form in (
        ("label", LABEL, "KEY=VALUE, a label of Kubernetes: VALUE has at most 63 characters"),
        ("annotation", ANNOTATION, "KEY=VALUE, an annotation of Kubernetes"),
    ):
        seen = set()
        for text in getattr(submit, flag):
            found = pattern.fullmatch(text)
            require(found, flag, text, f"must be {form}")
            key = found["key"]
            for own, instead in _OWN_KEYS.items():
                if key == own or (own.endswith("/") and key.startswith(own)):
                    raise UsageError(f"--{flag}={text}: {key} cannot be set: {instead}.")
            if key in seen:
                raise UsageError(f"--{flag}={text}: {key} is given twice. Leave out one.")
            seen.add(key)


def _check_place(submit: Submit) -> None:
    for name in ("service_account", "pull_secret", "runtime_class", "priority_class"):
        require(
            not getattr(submit, name) or DNS_SUBDOMAIN.fullmatch(getattr(submit, name)),
            name,
            getattr(submit, name),
            "must be the name of an object: lower-case letters, digits, - and .",
        )
    for text in submit.node_selector:
        require(
            LABEL.fullmatch(text), "node_selector", text, "must be the KEY=VALUE of a node's label"
        )
    for text in submit.toleration:
        require(
            TOLERATION.fullmatch(text),
            "toleration",
            text,
            "must be KEY=VALUE:EFFECT, KEY:EFFECT or KEY, with NoSchedule, PreferNoSchedule or "
            "NoExecute as EFFECT",
        )
    for name in ("anti_affinity", "spread"):
        for text in getattr(submit, name):
            require(
                KEY.fullmatch(text),
                name,
                text,
                "must be the key of a node's label, for example kubernetes.io/hostname",
            )
    _check_gke(submit)


def _check_gke(submit: Submit) -> None:
    """Checks the selectors by which GKE finds or makes nodes with GPUs.

    https://cloud.google.com/kubernetes-engine/docs/how-to/autopilot-gpus
    """
    asked = _selected(submit)
    if not submit.tpu and not submit.gpus:
        for key in {ACCELERATOR, COUNT} & asked.keys():
            raise UsageError(
                f"--node_selector={key}={asked[key]}: is for nodes with GPUs, and --gpus=0 "
                "requests none. Add --gpus, or leave it out."
            )
    if ACCELERATOR in asked and not asked[ACCELERATOR].startswith("nvidia-"):
        raise UsageError(
            f"--node_selector={ACCELERATOR}={asked[ACCELERATOR]}: GKE's names of GPUs begin with "
            "nvidia-, for example nvidia-l4, nvidia-tesla-t4 or nvidia-h100-80gb. Use one of them."
        )
    if asked.get(COUNT, str(submit.gpus)) != str(submit.gpus):
        raise UsageError(
            f"--node_selector={COUNT}={asked[COUNT]}: must be the number of --gpus={submit.gpus}, "
            "or GKE makes nodes whose other GPUs stay idle. Make them equal, or leave it out."
        )
    if submit.spot and asked.get(SPOT, "true") != "true":
        raise UsageError(
            f"--node_selector={SPOT}={asked[SPOT]}: --spot asks for nodes with {SPOT}=true. Leave "
            "out one of them."
        )
    if asked.get(SPOT) == "true" and not submit.spot:
        raise UsageError(
            f"--node_selector={SPOT}=true: use --spot, which also plans for the short notice of "
            "such nodes."
        )


def names_kind_of_gpu(submit: Submit) -> bool:
    """Returns whether GKE Autopilot, which makes a node for a pod, knows which GPUs it needs."""
    return not submit.gpus or bool({ACCELERATOR, COMPUTE_CLASS} & _selected(submit).keys())


# --- Parts of a template --------------------------------------------------------------------------


# How a worker knows its own address.
OWN_IP = [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]
INDEX = "batch.kubernetes.io/job-completion-index"  # Label of a pod of an Indexed Job.


def environment(submit: Submit) -> list[dict]:
    """Returns the variables of a container of a pod."""
    secret = [
        {
            "name": found["name"],
            "valueFrom": {"secretKeyRef": {"name": found["secret"], "key": found["key"]}},
        }
        for found in map(_ENV_SECRET.fullmatch, submit.env_secret)
    ]
    return variables(submit.env) + secret


def variables(env: tuple[str, ...]) -> list[dict[str, str]]:
    """Returns the variables of --env."""
    return [{"name": found["name"], "value": found["value"]} for found in map(_ENV.fullmatch, env)]


def labels(submit: Submit) -> dict[str, str]:
    """Returns the labels of every pod of a job besides those by which the job finds them.

    A service mesh would put a proxy in front of the workers' ports, which never ends.
    """
    return _NO_MESH_LABEL | _pairs(LABEL, submit.label)


def annotations(submit: Submit, buckets: bool) -> dict[str, str]:
    """Returns the annotations of the workers' pods. buckets: whether they mount any.

    Spot nodes vanish anyway, so pods on them need not hold their node.
    """
    return (
        _NO_MESH_ANNOTATION
        | ({} if submit.spot else _STAY)
        | ({"gke-gcsfuse/volumes": "true"} if buckets else {})
        | kueue.pod_annotations(submit)
        | _pairs(ANNOTATION, submit.annotation)
    )


def tensorboard_annotations(submit: Submit) -> dict[str, str]:
    """Returns the annotations of TensorBoard's pod, which may be moved at any time."""
    return _NO_MESH_ANNOTATION | _pairs(ANNOTATION, submit.annotation)


def architecture(submit: Submit) -> dict[str, str]:
    """Returns the label of the nodes that can run the image.

    TensorFlow has packages for GPUs and TPUs on amd64 only, so such images are built for it.
    """
    asked = _selected(submit).get(ARCHITECTURE, "amd64" if submit.gpus or submit.tpu else "")
    return {ARCHITECTURE: asked} if asked else {}


def node_selector(submit: Submit) -> dict[str, str]:
    """Returns the labels of the nodes that the workers ask for."""
    return architecture(submit) | _selected(submit) | ({SPOT: "true"} if submit.spot else {})


def tolerations(submit: Submit) -> list[dict]:
    """Returns the tolerations of the flags and of the taints that clusters put on nodes.

    GKE taints nodes with accelerators and Spot nodes. Every cluster taints nodes that it has lost,
    and gives their pods up 300 s later unless they say otherwise. A flag is added to the former,
    because a key may have several taints, and replaces the latter, which is a time.
    """
    taints = (
        [f"{GPU}:NoSchedule"]
        if submit.gpus
        else ["google.com/tpu:NoSchedule"]
        if submit.tpu
        else []
    )
    taints += [f"{SPOT}=true:NoSchedule"] if submit.spot else []
    asked = [_toleration(text) for text in (*taints, *submit.toleration)]
    lost = [
        {
            "key": f"node.kubernetes.io/{how}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": LOST_SECONDS,
        }
        for how in ("not-ready", "unreachable")
    ]
    keys = {one["key"] for one in asked}
    return asked + [one for one in lost if one["key"] not in keys]


def affinity(submit: Submit, own: dict[str, str]) -> dict:
    """Returns the affinity of a worker's pod. own: the labels of the job's workers."""
    terms = [
        {"topologyKey": key, "labelSelector": {"matchLabels": own}} for key in submit.anti_affinity
    ]
    return (
        {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
        if terms
        else {}
    )


def spread(submit: Submit, own: dict[str, str]) -> list[dict]:
    """Returns the spread constraints of a worker's pod. own: the labels of the job's workers."""
    return [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": own},
        }
        for key in submit.spread
    ]


def shm(submit: Submit) -> str:
    """Returns the size of /dev/shm."""
    return submit.shm or (BIG_SHM if submit.gpus >= MANY_GPUS else "1Gi")


def scratch(submit: Submit) -> str:
    """Returns the size of /tmp."""
    return submit.scratch or "4Gi"


def resources(submit: Submit, devices: dict[str, int], folders: list[str]) -> tuple[dict, dict]:
    """Returns requests and limits of a worker.

    Args:
      devices: {resource: number} of its accelerators.
      folders: sizes of its emptyDir volumes on disk, which count as ephemeral storage too.
    """
    disk = _disk(submit, total([scratch(submit), *folders]))
    requests = {"cpu": submit.cpu, "memory": submit.memory, **disk, **devices}
    limits = {**({"cpu": submit.cpu_limit} if submit.cpu_limit else {}), "memory": submit.memory}
    return requests, {**limits, **disk, **devices}


def resources_beside(submit: Submit, cpu: str, memory: str) -> tuple[dict, dict]:
    """Returns requests and limits of a container that only copies, in the pod of a worker.

    It states what the trainer's states, because a quota refuses a pod unless all containers do. Its
    files are on the volumes, so its own disk holds no more than its log.
    """
    limit = cpu_limit_beside(submit)
    disk = _disk(submit, least(scratch(submit), "1Gi"))
    requests = {"cpu": least(cpu, *limit.values()), "memory": memory, **disk}
    return requests, {**limit, "memory": memory, **disk}


def cpu_limit_beside(submit: Submit) -> dict[str, str]:
    """Returns the limit of CPUs of a container that does not train: none, or one CPU at most."""
    return {"cpu": least(submit.cpu_limit, "1")} if submit.cpu_limit else {}


def _disk(submit: Submit, size: str) -> dict[str, str]:
    # A ClusterQueue of Kueue never admits a job that requests a resource that it does not list.
    return {"ephemeral-storage": size} if submit.scratch or not submit.queue else {}


def _selected(submit: Submit) -> dict[str, str]:
    return _pairs(LABEL, submit.node_selector)


def _pairs(pattern: re.Pattern, texts: tuple[str, ...]) -> dict[str, str]:
    return {found["key"]: found["value"] for found in map(pattern.fullmatch, texts)}


def _toleration(text: str) -> dict[str, str]:
    found = TOLERATION.fullmatch(text)
    return {
        "key": found["key"],
        "operator": "Exists" if found["value"] is None else "Equal",
        **{name: found[name] for name in ("value", "effect") if found[name]},
    }
