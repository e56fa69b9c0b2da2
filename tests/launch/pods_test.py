import pytest

from trainer.exit_codes import UsageError
from trainer.flags.submit import Submit
from trainer.launch import pods
from trainer.launch.pods import ACCELERATOR, COUNT


def submit(**flags) -> Submit:
    made = Submit(**flags)
    pods.check(made)
    return made


def refusal(**flags) -> str:
    with pytest.raises(UsageError) as problem:
        submit(**flags)
    return str(problem.value)


@pytest.mark.parametrize(
    "flags, told",
    [
        ({"cpu": "two"}, "--cpu=two: must be a number of CPUs"),
        ({"cpu": "0"}, "--cpu=0"),
        ({"cpu": "4Gi"}, "--cpu=4Gi"),
        ({"cpu_limit": "many"}, "--cpu_limit=many: must be a number of CPUs"),
        ({"cpu": "4", "cpu_limit": "3500m"}, "--cpu_limit=3500m: must be at least --cpu=4"),
        ({"memory": "4GB"}, "--memory=4GB: must be a size, for example 512Mi or 4Gi"),
        ({"memory": "500m"}, "--memory=500m"),
        ({"memory": ""}, "--memory=: must be a size"),
        ({"shm": "lots"}, "--shm=lots"),
        ({"scratch": "lots"}, "--scratch=lots"),
        ({"gpus": 4}, "--memory=4Gi: must hold /dev/shm, which counts as memory and has 8Gi"),
        # GPUs
        ({"gpus": 1, "gpu_resource": "gpu"}, "--gpu_resource=gpu: must be the DOMAIN/NAME"),
        ({"gpu_resource": "amd.com/gpu"}, "--gpu_resource=amd.com/gpu: names what --gpus counts"),
        (
            {"gpus": 2, "gpu_resource": "nvidia.com/mig-1g.10gb"},
            "--gpus=2: a process of CUDA uses one nvidia.com/mig-1g.10gb at a time",
        ),
        ({"gpus": 2, "gpu_resource": "nvidia.com/gpu.shared"}, "uses one nvidia.com/gpu.shared"),
        # Environment
        ({"env": ("A",)}, "--env=A=...: must be NAME=VALUE"),
        ({"env": ("1A=b",)}, "--env=1A=...: must be NAME=VALUE"),
        ({"env": ("A=1", "A=2")}, "--env=A=...: A is given twice"),
        ({"env": ("A=1",), "env_secret": ("A=s:k",)}, "--env_secret=A=...: A is given twice"),
        ({"env_secret": ("A=s",)}, "--env_secret=A=...: must be NAME=SECRET:KEY"),
        ({"env_secret": ("A=S:k",)}, "--env_secret=A=...: must be NAME=SECRET:KEY"),
        (
            {"env": ("TF_CONFIG={}",)},
            "TF_CONFIG cannot be set, because the workers find each other",
        ),
        ({"env_secret": ("TF_CONFIG=s:k",)}, "--env_secret=TF_CONFIG=...: TF_CONFIG cannot be set"),
        ({"env": ("RNN_TRAINER_CHANNEL=3",)}, "RNN_TRAINER_CHANNEL cannot be set"),
        ({"env": ("TRAINER_OUTCOME_FD=1",)}, "because submit sets it for --publish"),
        ({"env": ("AIP_MODEL_DIR=/m",)}, "because Vertex AI sets such variables"),
        ({"env": ("NVIDIA_VISIBLE_DEVICES=all",)}, "sets it to the GPUs of --gpus"),
        # Labels and annotations
        ({"label": ("team",)}, "--label=team: must be KEY=VALUE"),
        ({"label": ("team=a b",)}, "--label=team=a b: must be KEY=VALUE"),
        ({"label": ("team=" + "x" * 64,)}, "VALUE has at most 63 characters"),
        ({"label": ("team=a", "team=b")}, "--label=team=b: team is given twice"),
        (
            {"label": ("app.kubernetes.io/name=mine",)},
            "app.kubernetes.io/name cannot be set: the trainer finds its objects by it. Choose",
        ),
        ({"label": ("job-name=mine",)}, "job-name cannot be set: the cluster sets it"),
        ({"label": ("kueue.x-k8s.io/queue-name=team",)}, "cannot be set: use --queue"),
        ({"annotation": ("=x",)}, "--annotation==x: must be KEY=VALUE"),
        ({"annotation": ("gke-gcsfuse/volumes=true",)}, "cannot be set: use --volume=gcsfuse"),
        # Place
        ({"node_selector": ("gpu",)}, "--node_selector=gpu: must be the KEY=VALUE"),
        ({"toleration": ("a=b:Never",)}, "--toleration=a=b:Never"),
        ({"pull_secret": "my secret"}, "--pull_secret=my secret: must be the name of an object"),
        ({"runtime_class": "NVIDIA"}, "--runtime_class=NVIDIA: must be the name of an object"),
        ({"priority_class": "a b"}, "--priority_class=a b: must be the name of an object"),
        ({"anti_affinity": ("a=b",)}, "--anti_affinity=a=b: must be the key of a node's label"),
        ({"spread": ("zone ",)}, "--spread=zone : must be the key of a node's label"),
        ({"queue_seconds": 5}, "--queue_seconds=5: Kueue reads it only from"),
        # GKE
        (
            {"node_selector": (f"{ACCELERATOR}=nvidia-l4",)},
            f"--node_selector={ACCELERATOR}=nvidia-l4: is for nodes with GPUs",
        ),
        ({"gpus": 1, "node_selector": (f"{ACCELERATOR}=l4",)}, "names of GPUs begin with nvidia-"),
        (
            {"gpus": 2, "node_selector": (f"{ACCELERATOR}=nvidia-l4", f"{COUNT}=4")},
            f"--node_selector={COUNT}=4: must be the number of --gpus=2",
        ),
        (
            {"node_selector": ("cloud.google.com/gke-spot=true",)},
            "--node_selector=cloud.google.com/gke-spot=true: use --spot",
        ),
        (
            {"spot": True, "node_selector": ("cloud.google.com/gke-spot=false",)},
            "--node_selector=cloud.google.com/gke-spot=false: --spot asks for nodes with "
            "cloud.google.com/gke-spot=true. Leave out one of them.",
        ),
    ],
)
def test_what_no_pod_can_carry_is_refused_with_value_rule_and_remedy(flags, told):
    assert told in refusal(**flags)


def test_a_value_of_the_environment_is_not_shown():
    """It may be a password."""
    assert "hunter2" not in refusal(env=("bad name=hunter2",))


def test_the_environment_has_plain_values_and_keys_of_secrets():
    made = submit(
        env=("NCCL_DEBUG=INFO", "XLA_FLAGS=--a=b --c", "EMPTY="),
        env_secret=("TOKEN=keys:hub.token",),
    )
    assert pods.environment(made) == [
        {"name": "NCCL_DEBUG", "value": "INFO"},
        {"name": "XLA_FLAGS", "value": "--a=b --c"},
        {"name": "EMPTY", "value": ""},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "hub.token"}}},
    ]


def test_no_service_mesh_stands_between_workers_unless_asked_for():
    made = submit()
    assert pods.labels(made) == {"sidecar.istio.io/inject": "false"}
    for annotations in (pods.annotations(made, False), pods.tensorboard_annotations(made)):
        assert annotations["linkerd.io/inject"] == "disabled"
    assert pods.labels(submit(label=("sidecar.istio.io/inject=true", "team=a"))) == {
        "sidecar.istio.io/inject": "true",
        "team": "a",
    }


@pytest.mark.parametrize("spot", [False, True])
def test_autoscalers_leave_workers_where_they_are_except_on_spot_nodes(spot):
    stay = {"cluster-autoscaler.kubernetes.io/safe-to-evict", "karpenter.sh/do-not-disrupt"}
    made = submit(spot=spot)
    assert (stay <= pods.annotations(made, False).keys()) is not spot
    assert not stay & pods.tensorboard_annotations(made).keys()


def test_an_annotation_of_the_user_comes_before_ours():
    made = submit(annotation=("karpenter.sh/do-not-disrupt=false", "note=a=b, c"))
    annotations = pods.annotations(made, True)
    assert annotations["karpenter.sh/do-not-disrupt"] == "false"
    assert annotations["note"] == "a=b, c"
    assert annotations["gke-gcsfuse/volumes"] == "true"


@pytest.mark.parametrize(
    "flags, selector",
    [
        ({}, {}),
        ({"gpus": 1}, {"kubernetes.io/arch": "amd64"}),
        ({"tpu": "v5e-8"}, {"kubernetes.io/arch": "amd64"}),
        (
            {"gpus": 1, "node_selector": ("kubernetes.io/arch=arm64", "pool=a")},
            {"kubernetes.io/arch": "arm64", "pool": "a"},
        ),
        ({"spot": True}, {"cloud.google.com/gke-spot": "true"}),
    ],
)
def test_images_for_accelerators_run_on_amd64(flags, selector):
    made = submit(**flags)
    assert pods.node_selector(made) == selector
    assert pods.architecture(made).items() <= selector.items()


LOST = [
    {
        "key": f"node.kubernetes.io/{how}",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": 60,
    }
    for how in ("not-ready", "unreachable")
]


@pytest.mark.parametrize(
    "flags, tolerations",
    [
        ({}, LOST),
        ({"toleration": ("a",)}, [{"key": "a", "operator": "Exists"}, *LOST]),
        (
            {"toleration": ("a/b=c:NoSchedule",)},
            [{"key": "a/b", "operator": "Equal", "value": "c", "effect": "NoSchedule"}, *LOST],
        ),
        # A node may have several taints of a key.
        (
            {"gpus": 1, "toleration": ("nvidia.com/gpu=present:NoExecute",)},
            [
                {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
                {
                    "key": "nvidia.com/gpu",
                    "operator": "Equal",
                    "value": "present",
                    "effect": "NoExecute",
                },
                *LOST,
            ],
        ),
        # A user who waits longer for a node.
        (
            {"toleration": ("node.kubernetes.io/not-ready:NoExecute",)},
            [
                {
                    "key": "node.kubernetes.io/not-ready",
                    "operator": "Exists",
                    "effect": "NoExecute",
                },
                LOST[1],
            ],
        ),
        (
            {"gpus": 1, "spot": True},
            [
                {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
                {
                    "key": "cloud.google.com/gke-spot",
                    "operator": "Equal",
                    "value": "true",
                    "effect": "NoSchedule",
                },
                *LOST,
            ],
        ),
    ],
)
def test_pods_tolerate_what_was_asked_for_and_a_lost_node_for_a_minute(flags, tolerations):
    assert pods.tolerations(submit(**flags)) == tolerations


def test_workers_are_kept_apart_and_spread():
    own = {"a": "b"}
    made = submit(anti_affinity=("kubernetes.io/hostname",), spread=("zone",))
    assert pods.affinity(made, own) == {
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": own}}
            ]
        }
    }
    assert pods.spread(made, own) == [
        {
            "maxSkew": 1,
            "topologyKey": "zone",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": own},
        }
    ]
    assert pods.affinity(submit(), own) == {} and pods.spread(submit(), own) == []


@pytest.mark.parametrize(
    "flags, size",
    [
        ({}, "1Gi"),
        ({"gpus": 3}, "1Gi"),
        ({"gpus": 4, "memory": "32Gi"}, "8Gi"),
        ({"gpus": 4, "shm": "2Gi"}, "2Gi"),
    ],
)
def test_four_gpus_have_room_to_communicate(flags, size):
    assert pods.shm(submit(**flags)) == size


def test_disk_is_requested_and_bounded():
    disk = {"ephemeral-storage": "4Gi"}
    assert pods.resources(submit(), {}, []) == (
        {"cpu": "2", "memory": "4Gi", **disk},
        {"memory": "4Gi", **disk},
    )
    # Folders on the disk of the node count too.
    requests, limits = pods.resources(submit(scratch="1Gi"), {"nvidia.com/gpu": 1}, ["10Gi"])
    assert requests["ephemeral-storage"] == limits["ephemeral-storage"] == "11264Mi"
    assert requests["nvidia.com/gpu"] == limits["nvidia.com/gpu"] == 1


def test_a_queue_that_does_not_count_disk_admits_the_job():
    assert pods.resources(submit(queue="team"), {}, ["10Gi"])[1] == {"memory": "4Gi"}
    limits = pods.resources(submit(queue="team", scratch="2Gi"), {}, [])[1]
    assert limits == {"memory": "4Gi", "ephemeral-storage": "2Gi"}


def test_a_limit_of_cpus_is_set_only_if_asked_for():
    assert "cpu" not in pods.resources(submit(), {}, [])[1]
    assert pods.resources(submit(cpu_limit="3"), {}, [])[1]["cpu"] == "3"


@pytest.mark.parametrize(
    "flags, cpu, disk",
    [
        ({}, {}, {"ephemeral-storage": "1Gi"}),
        ({"scratch": "500Mi"}, {}, {"ephemeral-storage": "500Mi"}),
        ({"queue": "team"}, {}, {}),
        ({"queue": "team", "scratch": "9Gi"}, {}, {"ephemeral-storage": "1Gi"}),
        ({"cpu_limit": "8"}, {"cpu": "1"}, {"ephemeral-storage": "1Gi"}),
        ({"cpu": "100m", "cpu_limit": "200m"}, {"cpu": "200m"}, {"ephemeral-storage": "1Gi"}),
    ],
)
def test_a_container_that_copies_states_what_the_trainer_states_and_no_more(flags, cpu, disk):
    requests, limits = pods.resources_beside(submit(**flags), "250m", "1Gi")
    assert limits == {**cpu, "memory": "1Gi", **disk}
    # A request above its limit would be refused.
    request = "200m" if cpu == {"cpu": "200m"} else "250m"
    assert requests == {"cpu": request, "memory": "1Gi", **disk}
    assert limits.keys() == pods.resources(submit(**flags), {}, [])[1].keys()


@pytest.mark.parametrize(
    "flags, named",
    [
        ({}, True),
        ({"gpus": 1}, False),
        ({"gpus": 1, "node_selector": (f"{ACCELERATOR}=nvidia-l4",)}, True),
        ({"gpus": 1, "node_selector": ("cloud.google.com/compute-class=gpus",)}, True),
    ],
)
def test_autopilot_must_know_the_kind_of_gpu(flags, named):
    assert pods.names_kind_of_gpu(submit(**flags)) is named
