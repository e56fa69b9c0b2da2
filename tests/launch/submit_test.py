"""Which flags of submit serve which target: declared in `flags.submit`, proved by what the code
reads and by what it prints.
"""

import dataclasses

import pytest

from trainer.exit_codes import UsageError
from trainer.flags import run as configuration
from trainer.flags.submit import (
    KUBERNETES,
    LOCAL,
    SLURM,
    START,
    STATUS,
    STOP,
    TARGETS,
    TPU_VM,
    VERBS,
    VERTEX,
    Submit,
)
from trainer.launch import kubectl, local, slurm, submit, tpu_vm_run

FIELDS = {field.name: field for field in dataclasses.fields(Submit)}

# Another value for each flag, and values for the flags that it needs.
OTHER = {
    "target": LOCAL,
    "name": "other",
    "image": "registry/rnn-trainer:2",
    "workers": 2,
    "cpu": "3",
    "memory": "8Gi",
    "gpus": 1,
    "tpu": {KUBERNETES: "v5e-1", TPU_VM: "v6e-8"},
    "shm": "2Gi",
    "volume": ("pvc:claim:/data", "emptydir:1Gi:/scratch"),
    "node_selector": ("disk=ssd",),
    "toleration": ("a=b:NoSchedule",),
    "spot": True,
    "service_account": "reader",
    "pull_secret": "registry",
    "jobset": True,
    "queue": "team",
    "tensorboard": True,
    "retries": 1,
    "deadline_seconds": 60,
    "ttl_seconds": 60,
    "cpu_limit": "4",
    "scratch": "1Gi",
    "spot_seconds": 60,
    "env": ("A=b",),
    "env_secret": ("A=secret:key",),
    "runtime_class": "nvidia",
    "annotation": ("a=b",),
    "label": ("a=b",),
    "priority_class": "high",
    "queue_priority": "high",
    "queue_topology": "required:rack",
    "queue_seconds": 60,
    "gpu_resource": "nvidia.com/mig-1g.10gb",
    "anti_affinity": ("kubernetes.io/hostname",),
    "spread": ("topology.kubernetes.io/zone",),
    "context": "kit",
    "namespace": "team",
    "stage": ("gs://bucket/x:/scratch/x",),
    "publish": "gs://bucket/m",
    "stage_image": "google/cloud-sdk:slim",
    "zone": "us-west4-b",
    "project": "p",
    "valid_until": "1h",
    "runtime_version": "v2-alpha",
    "region": "europe-west4",
    "machine_type": "g2-standard-8",
    "gpu_type": "NVIDIA_L4",
    "nfs": ("10.0.0.2:/share:/mnt/nfs/runs", "10.0.0.3:/share:/mnt/nfs/data"),
    "network": "projects/1/global/networks/n",
    "tasks_per_node": 2,
    "partition": "long",
    "account": "nlp",
    "time_limit": "90",
    "sbatch": ("--constraint=a100",),
    "python": "/opt/bin/python",
    "apply": True,
    "follow": True,
    "stop": "words",
    "status": "words",
}
# A job of each target that can be printed, and what it trains.
JOBS = {
    KUBERNETES: {"name": "a", "image": "registry/rnn-trainer:1", "volume": ("pvc:claim:/data",)},
    LOCAL: {},
    TPU_VM: {
        "name": "a",
        "image": "registry/rnn-trainer:1",
        "zone": "us-west4-a",
        "tpu": "v5litepod-8",
        "target": TPU_VM,
    },
    VERTEX: {
        "name": "a",
        "image": "registry/rnn-trainer:1",
        "region": "us-central1",
        "machine_type": "n1-standard-8",
        "nfs": ("10.0.0.2:/share:/mnt/nfs/runs",),
    },
    SLURM: {"name": "a"},
}
# Flags that need others: what is compared is the job with and without the one, both with these.
NEED = {
    "stage": {
        "stage_image": "google/cloud-sdk:1",
        "publish": "gs://bucket/n",
        "volume": ("pvc:claim:/data", "emptydir:1Gi:/scratch"),
    },
    "publish": {
        "stage_image": "google/cloud-sdk:1",
        "stage": ("gs://bucket/y:/scratch/y",),
        "volume": ("pvc:claim:/data", "emptydir:1Gi:/scratch"),
    },
    "stage_image": {"publish": "gs://bucket/n", "stage_image": "google/cloud-sdk:1"},
    "gpus": {"gpu_type": "NVIDIA_TESLA_T4", "gpus": 2},
    "gpu_type": {"gpu_type": "NVIDIA_TESLA_T4", "gpus": 1},
    "tasks_per_node": {"workers": 2},
    "spot_seconds": {"spot": True},
    "gpu_resource": {"gpus": 1},
    **dict.fromkeys(("queue_priority", "queue_topology", "queue_seconds"), {"queue": "team"}),
}
FOLDERS = {
    KUBERNETES: {"data_dir": "/data/d", "model_dir": "/data/m", "grace_seconds": 15.0},
    LOCAL: {"data_dir": "d", "model_dir": "m"},
    TPU_VM: {"data_dir": "/demo/words", "model_dir": "gs://bucket/m"},
    VERTEX: {"data_dir": "/demo/words", "model_dir": "/mnt/nfs/runs/m"},
    SLURM: {"data_dir": "/shared/d", "model_dir": "/shared/m"},
}
TRAIN = {target: configuration.from_flat(flags) for target, flags in FOLDERS.items()}


def other(name: str, target: str):
    value = OTHER[name]
    return value.get(target, value[KUBERNETES]) if isinstance(value, dict) else value


def needed(name: str, target: str) -> dict:
    return {key: value for key, value in NEED.get(name, {}).items() if key in declared(target)}


def declared(target: str, verb: str = START) -> set[str]:
    """The flags that say of themselves that they serve a verb of a target."""
    return {
        name
        for name, field in FIELDS.items()
        if target in field.metadata["targets"] and verb in field.metadata["verbs"]
    }


class Recorder:
    """A Submit that records which of its flags are read."""

    def __init__(self, settings: Submit):
        self._settings = settings
        # `start` finds the target by it, and `main` the verb.
        self.read = {"target"}

    def __getattr__(self, name: str):
        self.read.add(name)
        return getattr(self._settings, name)


# --- the declarations are true --------------------------------------------------------------------


def test_the_table_of_this_test_has_every_flag():
    assert set(OTHER) == set(FIELDS)
    for name, field in FIELDS.items():
        assert all(other(name, target) != field.default for target in TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_a_start_reads_exactly_the_flags_that_are_declared_for_its_target(target, monkeypatch):
    monkeypatch.setattr(local, "run", lambda config, workers, arguments: 0)
    settings = Recorder(Submit(**{**JOBS[target], "target": target}))
    assert submit.start(settings, TRAIN[target]) == 0
    assert settings.read == declared(target)


@pytest.mark.parametrize("target", [KUBERNETES, SLURM])
@pytest.mark.parametrize("verb", [STATUS, STOP])
def test_status_and_stop_read_exactly_the_flags_that_are_declared_for_them(
    verb, target, monkeypatch
):
    for place in (kubectl, slurm):
        monkeypatch.setattr(place, "status", lambda *arguments: [])
        monkeypatch.setattr(place, "stop", lambda *arguments: None)
    settings = Recorder(Submit(**{verb: "words", "target": target}))
    assert getattr(submit, verb)(settings) == 0
    assert settings.read == declared(target, verb)


# Flags that change what is done with the job, not the job.
NOT_PRINTED = {"target", "apply", "follow", "context", "namespace"}


@pytest.mark.parametrize(
    "target, name",
    [
        (target, name)
        for target in (KUBERNETES, TPU_VM, VERTEX, SLURM)
        for name in sorted(declared(target) - NOT_PRINTED)
    ],
)
def test_every_flag_that_is_declared_for_a_target_changes_what_is_printed(target, name, capsys):
    start = {**JOBS[target], "target": target, **needed(name, target)}
    submit.start(Submit(**start), TRAIN[target])
    before = capsys.readouterr().out
    changed = {**start, name: other(name, target)}
    submit.start(Submit(**changed), TRAIN[target])
    assert capsys.readouterr().out != before != ""


# --- what follows from them -----------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("target", TARGETS)
def test_a_flag_is_refused_unless_it_serves_the_verb_of_the_target(target, verb):
    for name in FIELDS:
        flags = {"target": target, **({verb: "a"} if verb != START else {})}
        flags.setdefault(name, other(name, target))
        asked = STOP if STOP in flags else STATUS if STATUS in flags else START
        if set(flags) <= declared(target, asked):
            Submit(**flags)
        else:
            with pytest.raises(UsageError, match="(?s)would ignore it; it .* Leave|Leave them"):
                Submit(**flags)


def test_status_and_stop_take_the_flags_that_the_refusal_names():
    for verb in (STATUS, STOP):
        assert declared(KUBERNETES, verb) == {"target", "context", "namespace", verb}


# --- what each target does ------------------------------------------------------------------------


def test_a_local_job_runs_with_the_flags_of_train(monkeypatch):
    calls = []
    monkeypatch.setattr(local, "run", lambda *arguments: calls.append(arguments) or 3)
    train = configuration.replace(TRAIN[LOCAL], units=(8, 8), bucket=False)
    assert submit.start(Submit(target=LOCAL, workers=2), train) == 3
    flags = ["--data_dir=d", "--model_dir=m", "--bucket=False", "--units=8,8"]
    assert calls == [(train, 2, flags)]


@pytest.mark.parametrize(
    "flags", [{"num_workers": 2}, {"hosts": "a:1"}, {"worker_index": 1}, {"supervise": "off"}]
)
def test_a_local_gang_takes_no_flags_that_it_sets_itself(flags):
    train = configuration.replace(TRAIN[LOCAL], **flags)
    with pytest.raises(UsageError, match="Leave (them|it) out of the flags of train"):
        submit.start(Submit(target=LOCAL, workers=2), train)


def test_a_tpu_vm_job_is_carried_out_only_with_apply(monkeypatch, capsys):
    jobs = []
    monkeypatch.setattr(tpu_vm_run, "run", lambda job: jobs.append(job) or 75)
    monkeypatch.setattr(submit.stopping, "unwind_on_sigterm", lambda: None)
    train = configuration.replace(TRAIN[TPU_VM], epochs=3, strategy="tpu", grace_seconds=9.0)
    assert submit.start(Submit(**JOBS[TPU_VM]), train) == 0
    assert jobs == [] and "gcloud compute tpus queued-resources create a" in capsys.readouterr().out
    assert submit.start(Submit(**JOBS[TPU_VM], apply=True), train) == 75
    [job] = jobs
    # Folders, accelerator, strategy and grace period have fields of their own.
    assert job.arguments == ("--epochs=3",) and job.grace_seconds == 9.0
    assert job.service_account == ""  # "default" means the default of gcloud there.


@pytest.mark.parametrize("flags", [{"accelerator": "gpu"}, {"strategy": "mirrored"}])
def test_a_tpu_vm_trains_on_its_tpus_only(flags):
    train = configuration.replace(TRAIN[TPU_VM], **flags)
    with pytest.raises(UsageError, match="--target=tpu_vm trains on the TPUs of one host. Leave"):
        submit.start(Submit(**JOBS[TPU_VM]), train)


def test_a_tpu_vm_job_that_its_tpu_would_refuse_is_not_submitted():
    train = configuration.replace(TRAIN[TPU_VM], precision="float16")
    with pytest.raises(UsageError, match="--precision=float16: a TPU computes in float32 and"):
        submit.start(Submit(**JOBS[TPU_VM]), train)
