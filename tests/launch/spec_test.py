import dataclasses
import json
import math

import pytest

from trainer.exit_codes import UsageError
from trainer.flags import run as configuration
from trainer.flags.submit import Submit
from trainer.launch import spec
from trainer.launch.spec import JobSpec

SUBMIT = {"name": "imdb", "image": "registry/rnn-trainer:1", "volume": ("pvc:claim:/data",)}
TRAIN = {"data_dir": "/data/d", "model_dir": "/data/m", "batch_size": 64}


def job(submit=(), train=()) -> JobSpec:
    return JobSpec.of(
        Submit(**{**SUBMIT, **dict(submit)}), configuration.from_flat({**TRAIN, **dict(train)})
    )


def refusal(submit=(), train=()) -> str:
    with pytest.raises(UsageError) as problem:
        job(submit, train)
    return str(problem.value)


@pytest.mark.parametrize(
    "submit, train, told",
    [
        ({"name": ""}, {}, "--name=: is empty"),
        ({"name": "Imdb"}, {}, "--name=Imdb: must be lower-case letters"),
        ({"name": "1st"}, {}, "beginning with a letter"),
        ({"image": "rnn-trainer"}, {}, "--image=rnn-trainer: must name a tag or a digest"),
        ({"image": "host:5000/rnn-trainer"}, {}, "must name a tag or a digest"),  # 5000 is a port.
        ({"image": "r/t@sha256:abc"}, {}, "must name a tag or a digest"),
        ({"cpu": "two"}, {}, "--cpu=two: must be a number of CPUs"),  # More in pods_test.py.
        ({"volume": ("hostpath:/mnt:/data",)}, {}, "the restricted Pod Security Standard forbids"),
        ({"volume": ("nfs:x:/data",)}, {}, "must begin with pvc, emptydir, gcsfuse or secret"),
        ({"volume": ("gs://b/d:/data",)}, {}, "--volume=gs://b/d:/data: a bucket is no volume"),
        ({"volume": ("pvc:claim",)}, {}, "must look like pvc:CLAIM:/data"),
        ({"volume": ("pvc:claim:data",)}, {}, "with an absolute path at the end"),
        ({"volume": ("pvc:Claim:/data",)}, {}, "must look like"),
        ({"volume": ("emptydir:lots:/data",)}, {}, "must look like emptydir:10Gi:/scratch"),
        (
            {"volume": ("pvc:claim:/tmp",)},
            {},
            "a path of its own; taken are /, /tmp, /dev/shm, /etc/rnn-trainer, /demo",
        ),
        ({"volume": ("pvc:claim:/",)}, {}, "a path of its own"),
        (
            {"volume": ("pvc:a:/data", "pvc:b:/data/")},
            {},
            "taken are /, /tmp, /dev/shm, /etc/rnn-trainer, /demo, /data",
        ),
        # The run and the place.
        (
            {},
            {"data_dir": "d"},
            "--data_dir=d: is a path in the pod, so it must be absolute. Volumes are mounted at: "
            "/data.",
        ),
        (
            {},
            {"data_dir": "/elsewhere/d"},
            "--data_dir=/elsewhere/d: is not on a volume (mounted: /data)",
        ),
        ({}, {"data_dir": "/database/d"}, "is not on a volume"),
        ({}, {"data_dir": "/data/../d"}, "must be absolute"),
        ({}, {"init_from": "source"}, "--init_from=source: is a path in the pod, so it must be"),
        (
            {},
            {"init_from": "/other/s"},
            "--init_from=/other/s: is not on a volume (mounted: /data)",
        ),
        ({}, {"model_dir": "/demo/m"}, "--model_dir=/demo/m: is not on a volume"),
        ({"volume": ("secret:keys:/data",)}, {}, "is on a secret"),
        ({"volume": ("gcsfuse:bucket:/data",), "service_account": "reader"}, {}, "is on a bucket"),
        (
            {"volume": ("pvc:claim:/data", "gcsfuse:bucket:/bucket")},
            {},
            "--service_account=default: a bucket is read with",
        ),
        (
            {"volume": ("emptydir:1Gi:/data",), "workers": 2},
            {},
            "is on an emptydir, and every pod has its own",
        ),
        ({"volume": ("emptydir:1Gi:/data",), "tensorboard": True}, {}, "is on an emptydir"),
        (
            {"workers": 65},
            {},
            "--batch_size=64: is split among 65 worker(s) with 1 replica(s) each",
        ),
        (
            {"workers": 8, "gpus": 4, "memory": "32Gi"},
            {"accumulate": 4},
            "128 parts, and each needs a row",
        ),
        ({"gpus": 2}, {"devices": 4}, "--devices=4: each worker gets --gpus=2"),
        (
            {"gpus": 2},
            {"strategy": "one_device"},
            "--gpus=2: --strategy=one_device uses one of them",
        ),
        ({"gpus": 2}, {"accelerator": "cpu"}, "--accelerator=cpu: each worker gets --gpus=2"),
        ({}, {"accelerator": "gpu"}, "--accelerator=gpu: each worker gets --gpus=0 and --tpu=none"),
        ({}, {"num_workers": 2}, "submit sets them for each worker"),
        ({}, {"hosts": "a:1,b:1"}, "submit sets them for each worker"),
        ({}, {"worker_index": 0}, "submit sets them for each worker"),
        ({}, {"chief_address": "a:1"}, "submit sets them for each worker"),
        ({"workers": 2}, {"supervise": "off"}, "--supervise=off: the --workers=2 meet through"),
        ({"workers": 2}, {"min_workers": 3}, "--min_workers=3: must not exceed --workers=2"),
        ({}, {"supervise": "off"}, "--supervise=off"),
        (
            {"workers": 2},
            {"devices": 2},
            "--devices=2: without GPUs each of several workers has one replica",
        ),
        (
            {"tpu": "v5e-16"},
            {},
            "must be a slice of one host, v4-8, v5e-1, v5e-4, v5e-8, v5p-8, v6e-1, v6e-4, v6e-8. "
            "Larger ones span",
        ),
        ({"tpu": "v5e-8", "gpus": 1}, {}, "Leave out --gpus"),
        ({"tpu": "v5e-8", "workers": 2}, {}, "means one pod with the chips of one host"),
        ({"tpu": "v5e-8"}, {"devices": 4}, "Leave --devices=4"),
        (
            {"tpu": "v5e-8"},
            {"strategy": "mirrored"},
            "--strategy=mirrored out of the flags of train",
        ),
        ({"tpu": "v5e-8"}, {"precision": "float16"}, "a TPU computes in float32 and bfloat16"),
        ({"tpu": "v5e-8"}, {"batch_size": 7}, "7: is split among 1 worker(s) with 8 replica(s)"),
        (
            {"spot": True},
            {"grace_seconds": 30.0},
            "--grace_seconds=30: a Spot node ends 15 s after its notice",
        ),
        (
            {"spot": True, "spot_seconds": 60},
            {"grace_seconds": 61.0},
            "Set --grace_seconds=60 among the flags of train",
        ),
        ({"spot_seconds": 60}, {}, "--spot_seconds=60: is the notice of Spot nodes, which only"),
    ],
)
def test_a_job_that_cannot_work_is_refused_with_value_rule_and_remedy(submit, train, told):
    assert told in refusal(submit, train)


@pytest.mark.parametrize(
    "submit, train",
    [
        ({}, {}),
        ({"image": "host:5000/a/b@sha256:" + "0" * 64}, {}),
        ({"image": "gcr.io/project/rnn-trainer:v1.2_3@sha256:" + "f" * 64}, {}),
        ({"cpu": "0.5", "memory": "1.5Gi"}, {}),
        ({"volume": ("emptydir:1Gi:/data",)}, {"data_dir": "/demo/words"}),
        ({"volume": ("pvc:claim:/data", "secret:keys:/keys")}, {"data_dir": "/demo/words"}),
        (
            {"volume": ("pvc:claim:/data", "gcsfuse:bucket:/bucket"), "service_account": "reader"},
            {"data_dir": "/bucket/d"},
        ),
        ({}, {"init_from": "/data/source", "frozen_steps": 5}),
        ({}, {"init_from": "/demo/source"}),
        ({"workers": 64}, {}),
        ({"workers": 4, "gpus": 2}, {"devices": 2, "accelerator": "gpu"}),
        ({"spot": True}, {"grace_seconds": 15.0}),
        ({"spot": True, "spot_seconds": 120}, {"grace_seconds": 120.0}),
        *(({"tpu": tpu}, {}) for tpu in spec.TPUS),
    ],
)
def test_jobs_that_can_work_are_accepted(submit, train):
    job(submit, train)


@pytest.mark.parametrize(
    "submit, length",
    [({}, 55), ({"workers": 11}, 54), ({"jobset": True}, 46), ({"tensorboard": True}, 51)],
)
def test_names_may_grow_until_the_cluster_s_own_are_63_long(submit, length):
    job({**submit, "name": "x" * length})
    assert f"Use at most {length}." in refusal({**submit, "name": "x" * (length + 1)})


@pytest.mark.parametrize("tpu", spec.TPUS)
def test_a_topology_has_as_many_chips_as_the_slice(tpu):
    assert math.prod(map(int, spec.TPUS[tpu].topology.split("x"))) == spec.TPUS[tpu].chips
    cores_per_chip = {"v4": 2, "v5p": 2, "v5e": 1, "v6e": 1}[tpu.split("-")[0]]
    assert spec.TPUS[tpu].chips * cores_per_chip == int(tpu.split("-")[1])


def test_a_grace_period_shorter_than_the_slowest_checkpoint_so_far_is_refused(tmp_path):
    lines = [
        {"event": "save", "seconds": 2.0},
        {"event": "save", "seconds": 31.5},
        {"event": "loop", "seconds": 500.0},
    ]
    (tmp_path / "journal.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines) + "damaged"
    )
    here = {"volume": (f"pvc:claim:{tmp_path.parent}",)}
    folders = {"model_dir": str(tmp_path), "data_dir": "/demo/words"}
    told = refusal(here, {**folders, "grace_seconds": 36.0})
    assert (
        "the slowest checkpoint of this model folder took 31.5 s" in told
        and "Set --grace_seconds=68" in told
    )
    job(here, {**folders, "grace_seconds": 37.0})


# --- The command line of the workers --------------------------------------------------------------


def told(submit=(), train=()) -> set[str]:
    return set(job(submit, train).arguments)


def test_a_worker_gets_every_flag_that_is_not_at_its_default():
    assert job({}, {"units": (64, 32), "bucket": False, "threads": 3}).arguments == [
        "train",
        "--data_dir=/data/d",
        "--model_dir=/data/m",
        "--batch_size=64",
        "--bucket=False",
        "--units=64,32",
        "--threads=3",
        "--grace_seconds=30.0",
    ]


@pytest.mark.parametrize(
    "submit, hosts",
    [({}, "imdb-{index}.imdb:2222"), ({"jobset": True}, "imdb-worker-0-{index}.imdb:2222")],
)
def test_several_workers_get_their_number_and_their_meeting_place(submit, hosts):
    assert {"--num_workers=3", f"--hosts={hosts}"} <= told({**submit, "workers": 3})
    assert not any(one.startswith(("--num_workers", "--hosts")) for one in told(submit))


def test_accelerators_become_devices_that_the_worker_requires():
    assert {"--devices=2", "--accelerator=gpu"} <= told({"gpus": 2})
    assert "--accelerator=tpu" in told({"tpu": "v5e-8"})
    assert not any(one.startswith(("--devices", "--accelerator")) for one in told())


@pytest.mark.parametrize("cpu, threads", [("500m", 1), ("2", 2), ("3.5", 3), ("12000m", 12)])
def test_the_number_of_threads_does_not_depend_on_the_node(cpu, threads):
    assert f"--threads={threads}" in told({"cpu": cpu})
    assert "--threads=5" in told({"cpu": cpu}, {"threads": 5})


def test_the_flags_of_the_workers_are_the_run_that_was_checked():
    """Parsed again, the arguments are the configuration, so nothing is lost between here and the
    pod.
    """
    from trainer.main import _parse

    made = job(
        {"workers": 2},
        {"units": (8,), "bucket": False, "learning_rate": 3e-4, "schedule": "cosine"},
    )
    again = configuration.from_flat(_parse("train", made.arguments[1:]).values)
    assert dataclasses.replace(again, gang=made.train.gang) == made.train


# --- Copies ---------------------------------------------------------------------------------------

STAGED = {
    "stage": ("gs://bucket/d:/scratch/d",),
    "stage_image": "google/cloud-sdk:slim",
    "volume": ("pvc:claim:/data", "emptydir:10Gi:/scratch"),
}


def test_a_dataset_may_be_staged_and_a_model_published():
    made = job({**STAGED, "publish": "gs://bucket/m"}, {"data_dir": "/scratch/d"})
    assert [copy.folder for copy in made.stages] == ["/scratch/d"]
    assert (made.publication.url, made.publication.folder) == ("gs://bucket/m", "/data/m")


@pytest.mark.parametrize(
    "submit, train, told",
    [
        (
            {**STAGED, "stage": ("gs://bucket/d:/data/d",)},
            {},
            "--stage=gs://bucket/d:/data/d: must be a folder below an emptydir, which each pod has "
            "for itself, because several pods copy at the same time; it is on pvc:claim:/data",
        ),
        ({**STAGED, "stage": ("gs://bucket/d:/else/d",)}, {}, "it is on no volume"),
        (
            {**STAGED, "stage": tuple(f"gs://bucket/{n}:/scratch/{n}" for n in range(17))},
            {},
            "--stage is given 17 times: at most 16 fit into a job",
        ),
        ({**STAGED, "stage": ("gs://bucket/d:/scratch",)}, {}, "name a folder below /scratch"),
        (
            {**STAGED, "stage_image": "google/cloud-sdk"},
            {},
            "--stage_image=google/cloud-sdk: must name a tag or a digest",
        ),
        (
            {"volume": STAGED["volume"]},
            {"data_dir": "/scratch/d"},
            "--data_dir=/scratch/d: is on an emptydir, which is empty when a pod starts. Copy the "
            "folder there with --stage=gs://BUCKET/FOLDER:/scratch/d, or use a pvc.",
        ),
        (STAGED, {"init_from": "/scratch/m"}, "--init_from=/scratch/m: is on an emptydir"),
        (
            STAGED,
            {"data_dir": "/scratch/d", "model_dir": "/scratch/d/m"},
            "--model_dir=/scratch/d/m is in it, and a new pod would begin with the copy",
        ),
    ],
)
def test_a_copy_that_cannot_work_is_refused(submit, train, told):
    assert told in refusal(submit, train)
