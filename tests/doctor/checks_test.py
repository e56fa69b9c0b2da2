"""Every judgement of the doctor, each with the facts that lead to it."""

import collections
import dataclasses
import pathlib

import pytest
import yaml

from tests import commands
from trainer.devices.accelerator import Evidence
from trainer.doctor import checks
from trainer.doctor.checks import ERROR, OK, SKIPPED, WARNING, Finding
from trainer.doctor.cluster import Cluster
from trainer.doctor.facts import Data, Facts, Folder, Sight
from trainer.doctor.quotas import Quota, Scope
from trainer.flags import run as configuration
from trainer.flags.use import Doctor


def quota(counted: dict, *scopes: Scope, name: str = "q") -> Quota:
    return Quota(name, counted, scopes)


HEALTHY = Facts(
    (3, 11),
    {"tensorflow-cpu": "2.21.0", "keras": "3.15.1", "tensorboard": "2.21.0"},
    {},
    sight=Sight({"CPU": 1, "GPU": 0, "TPU": 0}, "tensorflow", ("ours", "compiled by XLA")),
    data=Data(examples=1000, vocabulary_size=100, classes=2),
    source=2,
    model_folder=Folder(pathlib.Path("/m"), pathlib.Path("/m"), {}, free=10**10),
    cluster=Cluster(
        "kit",
        "team",
        pod_security="restricted",
        queues=("gpus",),
        quotas=(quota({"pods": ("3", "10")}),),
    ),
)
GPUS = Sight({"CPU": 1, "GPU": 2, "TPU": 0}, "tensorflow", ("keras", "cuDNN has a kernel"))
ASKED = {"GPU": Evidence("NVIDIA_VISIBLE_DEVICES=GPU-1", True)}
TPUS = Sight({"CPU": 1, "GPU": 0, "TPU": 8}, "tensorflow", ("ours", "compiled by XLA"))
TPU = {"TPU": Evidence("TPU_TOPOLOGY=2x4", True)}
PRESENT = {"GPU": Evidence("/dev/nvidia0", False)}


L4, H100 = ("NVIDIA L4", (8, 9)), ("NVIDIA H100", (9, 0))
RTX, M60 = ("NVIDIA GeForce RTX 5090", (12, 0)), ("Tesla M60", (5, 2))


def gpus(*there) -> Sight:
    """What the GPU wheel of TensorFlow 2.21 would see."""
    built_for = ("sm_60", "sm_70", "sm_80", "sm_89", "compute_90")
    return dataclasses.replace(GPUS, gpus=there, built_for=built_for)


def packages(**changed) -> dict:
    """Those of HEALTHY with some changed; None: not installed."""
    names = {
        **HEALTHY.packages,
        **{name.replace("_", "-"): number for name, number in changed.items()},
    }
    return {"packages": {name: number for name, number in names.items() if number}}


def folder(free=10**10, **problems) -> dict:
    return {"model_folder": Folder(pathlib.Path("/m"), pathlib.Path("/m"), problems, free)}


def cluster(**changed) -> dict:
    return {"cluster": dataclasses.replace(HEALTHY.cluster, **changed)}


# (check, flags, facts that differ from HEALTHY, level, parts of the line)
JUDGEMENTS = [
    ("python", {}, {"python": (3, 10)}, OK, ["3.10"]),
    ("python", {}, {"python": (3, 13)}, OK, ["3.13"]),
    ("python", {}, {"python": (3, 9)}, ERROR, ["3.9", "3.10 or newer"]),
    ("python", {}, {"python": (3, 14)}, WARNING, ["3.14", "not tested"]),
    ("tensorflow", {}, {}, OK, ["tensorflow-cpu 2.21.0"]),
    ("tensorflow", {}, packages(tensorflow_cpu="2.20.0"), OK, ["2.20.0"]),
    (
        "tensorflow",
        {},
        packages(tensorflow_cpu="2.19.1"),
        ERROR,
        ["2.19.1", "2.20 or newer", "tensorflow-cpu>=2.20"],
    ),
    ("tensorflow", {}, packages(tensorflow_cpu="2.22.0rc1"), OK, ["2.22.0rc1"]),
    (
        "tensorflow",
        {},
        {**packages(tensorflow_cpu=None), "sight": "no module"},
        ERROR,
        ["not installed", "[cpu]"],
    ),
    (
        "tensorflow",
        {},
        packages(tensorflow_cpu=None),
        WARNING,
        ["can be imported", "from an unknown package"],
    ),
    (
        "tensorflow",
        {},
        packages(tensorflow="2.21.0"),
        ERROR,
        [
            "tensorflow 2.21.0 and tensorflow-cpu 2.21.0",
            "overwrite each other",
            "uninstall -y tensorflow tensorflow-cpu",
        ],
    ),
    (
        "tensorflow",
        {"accelerator": "gpu"},
        {},
        ERROR,
        [
            "--accelerator=gpu",
            "tensorflow-cpu 2.21.0 is built without support for it",
            "rnn-trainer[gpu]",
        ],
    ),
    (
        "tensorflow",
        {"accelerator": "gpu"},
        packages(tensorflow_cpu=None, tensorflow="2.21.0"),
        OK,
        ["tensorflow 2.21.0"],
    ),
    (
        "tensorflow",
        {"accelerator": "tpu", "strategy": "tpu"},
        packages(tensorflow_cpu=None, tensorflow="2.21.0"),
        ERROR,
        ["--accelerator=tpu", "rnn-trainer[tpu]"],
    ),
    (
        "tensorflow",
        {"strategy": "tpu"},
        {},
        ERROR,
        ["--strategy=tpu, but tensorflow-cpu 2.21.0 is built without", "rnn-trainer[tpu]"],
    ),
    (
        "tensorflow",
        {"accelerator": "tpu", "strategy": "tpu"},
        packages(tensorflow_cpu=None, tensorflow_tpu="2.20.0"),
        OK,
        ["tensorflow-tpu 2.20.0"],
    ),
    ("keras", {}, {}, OK, ["3.15.1"]),
    ("keras", {}, packages(keras=None), ERROR, ["not installed"]),
    ("keras", {}, packages(keras="2.15.0"), ERROR, ["2.15.0", "Keras 3"]),
    ("keras", {}, packages(keras="4.0.0"), ERROR, ["4.0.0", "Keras 3"]),
    ("keras", {}, {"sight": Sight({"CPU": 1}, "jax")}, ERROR, ["backend jax", "KERAS_BACKEND"]),
    ("tensorboard", {}, {}, OK, ["2.21.0"]),
    ("tensorboard", {}, packages(tensorboard=None), ERROR, ["not installed", "tensorboard>=2.20"]),
    ("tensorboard", {}, packages(tensorboard="2.19.0"), ERROR, ["2.19.0", "2.20 or newer"]),
    ("accelerator", {}, {}, OK, ["1 CPU visible", "uses the CPU"]),
    ("accelerator", {}, {"sight": GPUS}, OK, ["1 CPU, 2 GPU visible", "uses the GPU"]),
    ("accelerator", {"accelerator": "gpu"}, {}, ERROR, ["--accelerator=gpu", "sees 1 CPU"]),
    (
        "accelerator",
        {"accelerator": "tpu", "strategy": "tpu"},
        {"sight": GPUS},
        ERROR,
        ["--accelerator=tpu", "2 GPU"],
    ),
    ("accelerator", {"strategy": "tpu"}, {"sight": TPUS}, OK, ["8 TPU visible", "uses the TPU"]),
    (
        "accelerator",
        {"strategy": "tpu"},
        {},
        ERROR,
        ["--strategy=tpu: TensorFlow sees 1 CPU.", "leave --strategy out"],
    ),
    (
        "accelerator",
        {"strategy": "tpu"},
        {"sight": dataclasses.replace(HEALTHY.sight, problem="TPU in use by process 7")},
        ERROR,
        ["sees 1 CPU", "TensorFlow says: TPU in use by process 7"],
    ),
    ("batch", {"strategy": "tpu", "batch_size": 128}, {"sight": TPUS}, OK, ["8 replica(s): 16"]),
    ("accelerator", {"devices": 3}, {"sight": GPUS}, ERROR, ["--devices=3", "sees 2 GPU"]),
    ("accelerator", {"devices": 3}, {}, OK, ["1 CPU"]),  # logical devices
    (
        "accelerator",
        {},
        {"sight": "importing TensorFlow ended with code -4"},
        ERROR,
        ["code -4", "import tensorflow"],
    ),
    ("given", {}, {}, OK, ["none"]),
    (
        "given",
        {},
        {"given": ASKED},
        ERROR,
        ["a GPU (NVIDIA_VISIBLE_DEVICES=GPU-1)", "sees 1 CPU", "--accelerator=cpu"],
    ),
    ("given", {}, {"given": PRESENT}, WARNING, ["a GPU (/dev/nvidia0)", "sees 1 CPU"]),
    ("given", {}, {"given": ASKED, "sight": GPUS}, OK, ["GPU"]),
    ("given", {"accelerator": "cpu"}, {"given": ASKED}, OK, ["GPU"]),  # said on the command line
    ("given", {}, {"given": TPU}, ERROR, ["a TPU (TPU_TOPOLOGY=2x4)", "google.com/tpu"]),
    # In a pod of GKE, --strategy=tpu alone is enough; without it, TensorFlow sees an idle TPU.
    ("given", {"strategy": "tpu"}, {"given": TPU, "sight": TPUS}, OK, ["TPU (TPU_TOPOLOGY=2x4)"]),
    ("given", {"strategy": "tpu"}, {"given": TPU}, OK, ["TPU (TPU_TOPOLOGY=2x4)"]),
    (
        "given",
        {},
        {"given": TPU, "sight": TPUS},
        ERROR,
        ["sees 1 CPU, 8 TPU and the run would use the CPU. Train on it with --strategy=tpu, or"],
    ),
    # TensorFlow may list no TPU before it is initialised.
    (
        "given",
        {},
        {"given": TPU, **packages(tensorflow_cpu=None, tensorflow_tpu="2.20.0")},
        ERROR,
        ["Train on it with --strategy=tpu"],
    ),
    ("given", {}, {"given": ASKED, "sight": "no TensorFlow"}, SKIPPED, ["not known"]),
    ("kernels", {}, {}, OK, ["none needed"]),
    ("kernels", {}, {"sight": GPUS}, OK, ["does not name its GPUs"]),
    ("kernels", {}, {"sight": "no TensorFlow"}, SKIPPED, ["not known"]),
    ("kernels", {}, {"sight": gpus(L4)}, OK, ["NVIDIA L4 has compute capability 8.9", "sm_89"]),
    (
        "kernels",
        {},
        {"sight": gpus(L4, H100)},
        WARNING,
        [
            "NVIDIA H100 has compute capability 9.0",
            "the kernels without machine code for it at the first use",
            "cuda_cache of the model folder",
        ],
    ),
    ("kernels", {}, {"sight": gpus(H100, RTX)}, WARNING, ["RTX 5090", "12.0", "every kernel at"]),
    ("kernels", {}, {"sight": gpus(H100, M60)}, ERROR, ["Tesla M60", "5.2", "use another GPU"]),
    ("kernels", {"accelerator": "cpu"}, {"sight": gpus(M60)}, OK, ["none needed"]),
    (
        "implementation",
        {"units": (8, 8)},
        {},
        OK,
        ["rnn_0, rnn_1", "ours of lstm: compiled by XLA"],
    ),
    ("implementation", {}, {"sight": "no TensorFlow"}, SKIPPED, ["not known"]),
    ("batch", {}, {}, OK, ["32 rows", "1 worker(s) of 1 replica(s): 32 each"]),
    ("batch", {"batch_size": 12}, {}, OK, ["12 each"]),  # one replica alone: nothing is dealt out
    (
        "batch",
        {"batch_size": 64},
        {"workers": 2, "sight": GPUS},
        OK,
        ["2 worker(s) of 2 replica(s): 16 each"],
    ),
    (
        "batch",
        {"batch_size": 64, "accumulate": 2},
        {"workers": 2},
        OK,
        ["32 rows at a time", "16 each"],
    ),
    (
        "batch",
        {"batch_size": 60},
        {"workers": 2, "sight": GPUS},
        WARNING,
        ["15 each is mostly overhead", "--batch_size to 64"],
    ),
    ("batch", {"batch_size": 50}, {"workers": 3}, WARNING, ["some get 17 rows", "a multiple of 3"]),
    (
        "batch",
        {"batch_size": 3},
        {"workers": 4},
        ERROR,
        ["3 rows", "4 worker(s)", "Raise --batch_size"],
    ),
    ("batch", {"batch_size": 8, "shards": 4}, {"workers": 3}, ERROR, ["--shards=4"]),
    ("batch", {"strategy": "one_device"}, {"sight": GPUS}, OK, ["1 replica(s)"]),
    ("batch", {"accelerator": "cpu"}, {"sight": GPUS}, OK, ["1 replica(s)"]),
    ("gang", {}, {}, OK, ["1"]),
    ("gang", {}, {"refused_gang": "TF_CONFIG=x: bad"}, ERROR, ["TF_CONFIG=x: bad"]),
    ("rows", {"batch_size": 1000}, {}, OK, ["1000 of 1000 training examples"]),
    ("rows", {"batch_size": 1001}, {}, WARNING, ["--batch_size=1001", "1000 training examples"]),
    ("rows", {"batch_size": 1001}, {"data": "none"}, SKIPPED, ["needs a dataset"]),
    ("data", {"data_dir": "D"}, {}, OK, ["D is complete", "1000 training examples"]),
    (
        "data",
        {"data_dir": "D"},
        {"data": "D/labels.txt: cannot be read"},
        ERROR,
        ["D/labels.txt: cannot be read"],
    ),
    ("data", {"data_dir": "D"}, {"data": Data(0, 9, 2)}, ERROR, ["no training split"]),
    (
        "data",
        {"data_dir": "D"},
        {"data": Data(9, 0, 0, 99, frame=(2, 3), values=4)},
        OK,
        ["9 training examples, 4 values, frames of 2 x 3 features"],
    ),
    ("data", {}, {"data": Facts.data}, SKIPPED, ["--data_dir is not given"]),
    ("source", {"init_from": "S"}, {}, OK, ["S has 2 checkpoint(s) to start from"]),
    ("source", {"init_from": "S"}, {"source": "S: none"}, ERROR, ["S: none"]),
    ("source", {"init_from": "S"}, {"source": "gone", "checkpoints": 1}, OK, ["is not needed"]),
    ("source", {}, {"source": Facts.source}, SKIPPED, ["--init_from is not given"]),
    ("model_folder", {}, {}, OK, ["/m can be written, synced, locked"]),
    (
        "model_folder",
        {},
        folder(**{"lock": "Not supported"}),
        ERROR,
        ["/m: cannot lock it: Not supported", "flock"],
    ),
    (
        "model_folder",
        {},
        folder(**{"write to": "Read-only", "sync": "Bad"}),
        ERROR,
        ["write to it: Read-only; cannot sync it: Bad"],
    ),
    (
        "model_folder",
        {},
        {"model_folder": Folder(pathlib.Path("/m/run"), pathlib.Path("/m"), {})},
        OK,
        ["/m/run (to be made in /m)"],
    ),
    (
        "model_folder",
        {},
        {"model_folder": Facts.model_folder},
        SKIPPED,
        ["--model_dir is not given"],
    ),
    ("cluster", {}, {}, OK, ["context kit, namespace team"]),
    (
        "cluster",
        {},
        cluster(problem="connection refused"),
        ERROR,
        ["connection refused", "kubectl cluster-info"],
    ),
    (
        "cluster",
        {},
        {"cluster": "kubectl is not on the PATH"},
        SKIPPED,
        ["kubectl is not on the PATH"],
    ),
]
FULL = quota({"pods": ("2", "2")}, name="full")
ROOMY = quota({"pods": ("0", "100")}, name="roomy")


def scoped(*scopes: Scope) -> Quota:
    """A full quota that counts pods which meet the scopes."""
    return dataclasses.replace(FULL, scopes=scopes)


def of_class(operator: str, *names: str) -> Scope:
    return Scope("PriorityClass", operator, names)


CLUSTER_JUDGEMENTS = [
    ("permissions", {}, {}, OK, ["team"]),
    (
        "permissions",
        {},
        cluster(denied=("create jobs.batch", "get pods/log")),
        ERROR,
        ["may not create jobs.batch, get pods/log in team", "Role"],
    ),
    ("pod_security", {}, {}, OK, ["team enforces restricted"]),
    ("pod_security", {}, cluster(pod_security=""), OK, ["no level"]),
    ("pod_security", {}, cluster(pod_security=None), WARNING, ["cannot be read", "dry run"]),
    ("pod_security", {"strategy": "tpu"}, {}, ERROR, ["restricted", "TPU", "SYS_RESOURCE"]),
    (
        "pod_security",
        {"strategy": "tpu"},
        cluster(pod_security="baseline"),
        ERROR,
        ["baseline", "only privileged allows", "--namespace with the level privileged"],
    ),
    ("pod_security", {}, cluster(pod_security="baseline"), OK, ["baseline"]),
    ("pod_security", {"strategy": "tpu"}, cluster(pod_security=""), OK, ["no level"]),
    (
        "pod_security",
        {"accelerator": "tpu", "strategy": "tpu"},
        cluster(pod_security="privileged"),
        OK,
        ["privileged"],
    ),
    ("queue", {}, {}, OK, ["none asked for", "gpus"]),
    ("queue", {"queue": "gpus"}, {}, OK, ["gpus"]),
    ("queue", {"queue": "cpus"}, {}, ERROR, ["--queue=cpus", "queues of team: gpus"]),
    (
        "queue",
        {"queue": "cpus"},
        cluster(queues=None),
        ERROR,
        ["--queue=cpus", "Kueue is not installed"],
    ),
    ("queue", {}, cluster(queues=None), OK, ["Kueue is not installed"]),
    ("quota", {}, {}, OK, ["pods 3 of 10"]),
    ("quota", {}, {"workers": 7}, OK, ["pods 3 of 10"]),
    (
        "quota",
        {},
        {"workers": 8},
        ERROR,
        ["pods in team, quota q: 3 of 10 used", "needs 8", "fewer workers"],
    ),
    ("quota", {}, cluster(quotas=(quota({"pods": ("1k", "2k")}),)), OK, ["1k of 2k"]),
    ("quota", {}, cluster(quotas=()), OK, ["none in team"]),
    (
        "quota",
        {"accelerator": "gpu", "devices": 2},
        {"workers": 2, **cluster(quotas=(quota({"requests.nvidia.com/gpu": ("0", "3")}),))},
        ERROR,
        ["requests.nvidia.com/gpu", "needs 4"],
    ),
    (
        "quota",
        {"devices": 2},
        {"workers": 2, **cluster(quotas=(quota({"requests.nvidia.com/gpu": ("0", "3")}),))},
        OK,
        ["gpu 0 of 3"],
    ),
    (
        "quota",
        {},
        {"workers": 3, **cluster(quotas=(quota({"requests.cpu": ("1", "6")}),))},
        ERROR,
        ["requests.cpu in team, quota q: 1 of 6 used, the job needs 3 worker(s) of --cpu=2."],
    ),
    (
        "quota",
        {"cpu": "500m", "memory": "1Gi"},
        {
            "workers": 2,
            **cluster(quotas=(quota({"requests.cpu": ("3", "4"), "limits.memory": ("0", "2Gi")}),)),
        },
        OK,
        ["limits.memory 0 of 2Gi"],
    ),
    (
        "quota",
        {},
        {"workers": 2, **cluster(quotas=(quota({"limits.memory": ("0", "7Gi")}),))},
        ERROR,
        ["limits.memory in team", "2 worker(s) of --memory=4Gi"],
    ),
    (
        "quota",
        {},
        cluster(quotas=(quota({"limits.cpu": ("0", "8")}),)),
        ERROR,
        ["counts limits.cpu", "--cpu_limit"],
    ),
    (
        "quota",
        {"cpu_limit": "8"},
        cluster(quotas=(quota({"limits.cpu": ("0", "8")}),)),
        OK,
        ["0 of 8"],
    ),
    (
        "quota",
        {"cpu_limit": "8"},
        cluster(quotas=(quota({"limits.cpu": ("1", "8")}),)),
        ERROR,
        ["limits.cpu in team, quota q: 1 of 8 used", "1 worker(s) of 8"],
    ),
    (
        "quota",
        {},
        cluster(
            quotas=(quota({"limits.cpu": ("0", "8")}),),
            ranges=({"type": "Container", "default": {"cpu": "4"}},),
        ),
        OK,
        ["limits.cpu 0 of 8"],
    ),
    # Every quota must have room, not only the last one.
    *(
        ("quota", {}, cluster(quotas=two), ERROR, ["pods in team, quota full: 2 of 2 used"])
        for two in ((FULL, ROOMY), (ROOMY, FULL))
    ),
    (
        "quota",
        {},
        cluster(quotas=(quota({"pods": ("0", "9")}), quota({"pods": ("3", "10")}), ROOMY)),
        OK,
        ["pods 3 of 10"],
    ),
    ("quota", {}, cluster(quotas=None), WARNING, ["cannot be read", "`list` on resourcequotas"]),
    # Of a quota with scopes only that counts which counts our pods.
    *(
        ("quota", {}, cluster(quotas=(scoped(scope),)), OK, ["none in team that counts this job"])
        for scope in (Scope("BestEffort"), Scope("Terminating"), of_class("In", "high"))
    ),
    (
        "quota",
        {},
        cluster(quotas=(scoped(Scope("NotBestEffort"), Scope("NotTerminating")),)),
        ERROR,
        ["2 of 2 used"],
    ),
    (
        "quota",
        {"priority_class": "high"},
        cluster(quotas=(scoped(of_class("In", "top", "high")),)),
        ERROR,
        ["pods in team, quota full"],
    ),
    (
        "quota",
        {"priority_class": "low"},
        cluster(quotas=(scoped(of_class("In", "top", "high")),), default_class="high"),
        OK,
        ["that counts this job"],
    ),
    (
        "quota",
        {},
        cluster(quotas=(scoped(of_class("In", "high")),), default_class="high"),
        ERROR,
        ["2 of 2 used"],
    ),
    (
        "quota",
        {},
        cluster(quotas=(scoped(of_class("In", "top", "high")),), default_class=None),
        WARNING,
        ["2 of 2 used", "PriorityClass In top, high", "Name --priority_class"],
    ),
    (
        "quota",
        {},
        cluster(quotas=(scoped(Scope("OfTheFuture")), FULL), default_class=None),
        ERROR,
        ["2 of 2 used"],
    ),
    ("quota", {}, cluster(quotas=(scoped(Scope("OfTheFuture")),)), WARNING, ["OfTheFuture Exists"]),
    (
        "quota",
        {},
        cluster(quotas=(quota({"limits.cpu": ("0", "8")}, Scope("BestEffort")),)),
        OK,
        ["that counts this job"],
    ),
    # A gang has two Services and a Secret.
    *(
        (
            "quota",
            {},
            {"workers": 2, **cluster(quotas=(quota({name: ("1", "2")}),))},
            ERROR,
            [f"{name} in team, quota q: 1 of 2 used, the job needs 2."],
        )
        for name in ("services", "count/services")
    ),
    ("quota", {}, cluster(quotas=(quota({"services": ("2", "2")}),)), OK, ["services 2 of 2"]),
    *(
        (
            "quota",
            {},
            {"workers": 2, **cluster(quotas=(quota({name: ("2", "2")}),))},
            ERROR,
            [f"{name} in team, quota q: 2 of 2 used, the job needs 1."],
        )
        for name in ("secrets", "count/secrets")
    ),
    (
        "quota",
        {"gang_token_file": "/keys/token"},
        {"workers": 2, **cluster(quotas=(quota({"secrets": ("2", "2")}),))},
        OK,
        ["secrets 2 of 2"],
    ),
    ("limit_range", {}, {}, OK, ["none in team"]),
    ("limit_range", {}, cluster(ranges=None), WARNING, ["cannot be read", "`list` on limitranges"]),
    (
        "limit_range",
        {},
        cluster(ranges=({"type": "Container", "max": {"cpu": "2", "memory": "4Gi"}},)),
        OK,
        ["1 in team, and a worker fits"],
    ),
    (
        "limit_range",
        {"cpu_limit": "4"},
        cluster(ranges=({"type": "Container", "max": {"cpu": "3"}},)),
        ERROR,
        ["at most 3 cpu for a Container", "--cpu and --cpu_limit"],
    ),
    (
        "limit_range",
        {},
        cluster(ranges=({"type": "Pod", "min": {"memory": "8Gi"}},)),
        ERROR,
        ["at least 8Gi memory for a Pod", "requests 4Gi", "--memory"],
    ),
    (
        "limit_range",
        {},
        cluster(ranges=({"type": "Container", "default": {"cpu": "1"}},)),
        ERROR,
        ["a limit of 1 cpu for containers that set none", "requests 2"],
    ),
]


def configured(flags: dict) -> tuple[configuration.Config, Doctor]:
    own = {field.name for field in dataclasses.fields(Doctor)}
    return configuration.from_flat(flags), Doctor(
        **{name: value for name, value in flags.items() if name in own}
    )


def name_of(row) -> str:
    return f"{row[0]}-{row[3]}-{row[4][0]}"


@pytest.mark.parametrize("row", JUDGEMENTS + CLUSTER_JUDGEMENTS, ids=name_of)
def test_what_a_check_says(row):
    name, flags, changed, level, parts = row
    config, settings = configured(flags)
    facts = dataclasses.replace(HEALTHY, **changed)
    judge = getattr(checks, f"check_{name}")
    finding = judge(config, facts, settings) if row in CLUSTER_JUDGEMENTS else judge(config, facts)
    assert finding.level == level
    assert all(part in str(finding) for part in parts), finding


@pytest.mark.parametrize(
    "rows, judges",
    [
        (
            JUDGEMENTS,
            [check.judge for check in checks.CHECKS if check.judge is not checks.check_space],
        ),
        (CLUSTER_JUDGEMENTS, checks.CLUSTER_CHECKS),
    ],
)
def test_every_check_has_judgements_here(rows, judges):
    assert {f"check_{row[0]}" for row in rows} == {judge.__name__ for judge in judges}


# --- quotas ---------------------------------------------------------------------------------------

COUNTED = {
    "Service": "services",
    "Secret": "secrets",
    "Job": "count/jobs.batch",
    "NetworkPolicy": "count/networkpolicies.networking.k8s.io",
}


@pytest.mark.parametrize("shape", ["job", "indexed_job", "jobset"])
def test_a_quota_must_have_room_for_every_object_of_the_manifest(shape):
    text = (commands.PROJECT / f"k8s/{shape}.yaml").read_text(encoding="utf-8")
    documents = list(yaml.safe_load_all(text))
    kinds = collections.Counter(
        document["kind"]
        for document in documents
        if "tensorboard" not in document["metadata"]["name"]
    )
    if kinds.pop("JobSet", 0):  # Its controller makes a Job and a Service.
        kinds.update(["Job", "Service"])
    assert kinds.keys() <= COUNTED.keys()
    facts = dataclasses.replace(HEALTHY, workers=1 if shape == "job" else 2)
    for kind, resource in COUNTED.items():
        for room, level in ((kinds[kind], OK), (kinds[kind] - 1, ERROR if kinds[kind] else OK)):
            there = cluster(quotas=(quota({resource: ("5", str(5 + room))}),))
            finding = checks.check_quota(*wired(dataclasses.replace(facts, **there)))
            assert finding.level == level, finding


def wired(facts: Facts) -> tuple:
    """The arguments of a check of a cluster, with the flags at their defaults."""
    config, settings = configured({})
    return config, facts, settings


# --- free space -----------------------------------------------------------------------------------

# 100 words x 10, LSTM of 20 units, 2 classes: 1000 + 4 * 20 * 31 + 42 = 3522 values; with two
# moments of Adam, 4 bytes each.
SIZE = 42_264
OTHERS = 100_000_000
# 100 steps: 10 saves
SMALL = {"embedding_size": 10, "units": (20,), "batch_size": 10, "save_steps": 10, "epochs": 1}


@pytest.mark.parametrize(
    "flags, there, copies",
    [
        ({"keep": 3}, 0, 5),  # kept, best, being written
        ({"keep": 3, "eval_steps": -1}, 0, 4),  # nothing is ever the best
        ({"keep": 3}, 3, 2),  # a resume: three are there
        ({"keep": 3}, 9, 1),
        ({"keep": 0}, 0, 12),  # all of them
        ({"keep": 50}, 0, 12),  # no more than are made
        ({"keep": 0, "steps": 25}, 0, 5),
    ],
)
def test_the_disk_must_hold_every_checkpoint_that_will_lie_there_at_once(flags, there, copies):
    config, _ = configured({**SMALL, **flags})
    for free, level in (
        (copies * SIZE, OK),
        (copies * SIZE - 1, WARNING if copies > 1 else ERROR),
        (SIZE - 1, ERROR),
    ):
        facts = dataclasses.replace(HEALTHY, checkpoints=there, **folder(free=OTHERS + free))
        finding = checks.check_space(config, facts)
        assert finding.level == level
        assert f"a checkpoint takes 42.3 kB, and room for {copies} more" in finding.text


@pytest.mark.parametrize("missing", [{"data": "none"}, {"model_folder": "none"}])
def test_without_dataset_or_folder_nothing_is_said_of_space(missing):
    assert (
        checks.check_space(configured({})[0], dataclasses.replace(HEALTHY, **missing)).level
        == SKIPPED
    )


# --- the whole ------------------------------------------------------------------------------------


def test_a_healthy_machine_has_no_error_and_one_line_for_each_check():
    given = {"data_dir": "D", "model_dir": "/m", "init_from": "S"}
    found = checks.findings(*configured(given), HEALTHY)
    assert [finding.level for finding in found] == [OK] * (
        len(checks.CHECKS) + len(checks.CLUSTER_CHECKS)
    )
    assert all("\n" not in str(finding) for finding in found)


@pytest.mark.parametrize("there", ["no kubectl", Cluster("kit", "team", problem="refused")])
def test_a_cluster_that_does_not_answer_is_asked_nothing_more(there):
    found = checks.findings(*configured({}), dataclasses.replace(HEALTHY, cluster=there))
    assert len(found) == len(checks.CHECKS) and found[-1].subject == "cluster"


def test_a_line_has_level_subject_text_and_remedy():
    assert (
        str(Finding(WARNING, "batch", "too small.", "Raise it."))
        == "warning batch: too small. Raise it."
    )
    assert str(Finding(OK, "Python", "3.11")) == "ok      Python: 3.11"


@pytest.mark.parametrize(
    "text, numbers",
    [
        ("2.21.0", (2, 21, 0)),
        ("2.21.0rc1", (2, 21, 0)),
        ("3.15", (3, 15)),
        ("2.20.0+nv24.1", (2, 20, 0)),
    ],
)
def test_versions_compare_by_their_numbers(text, numbers):
    assert checks.version(text) == numbers
