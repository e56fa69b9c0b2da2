"""Which flags of submit serve which target: declared in config.Submit, proved by what the code
reads and by what it prints.
"""

import dataclasses
import re

import pytest

from trainer import config as configuration
from trainer import main
from trainer.config import (
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
from trainer.exit_codes import UsageError
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


@pytest.mark.parametrize("name", FIELDS)
def test_a_flag_with_its_default_value_is_never_refused(name):
    for target in TARGETS:
        Submit(**{"target": target, name: target if name == "target" else FIELDS[name].default})


@pytest.mark.parametrize(
    "arguments, told",
    [
        (
            ["--target=local", "--memory=8Gi"],
            "error: --memory=8Gi: --target=local would ignore it; it is for --target=kubernetes "
            "and --target=slurm. Leave it out, or use another --target.\n",
        ),
        (
            ["--target=local", "--apply", "--volume=pvc:a:/a", "--volume=pvc:b:/b"],
            "error: --apply: --target=local would ignore it; it is for --target=kubernetes and "
            "--target=tpu_vm and --target=vertex and --target=slurm.\n"
            "--volume=pvc:a:/a --volume=pvc:b:/b: --target=local would ignore it; it is for "
            "--target=kubernetes.\n"
            "Leave them out, or use another --target.\n",
        ),
        (
            ["--target=tpu_vm", "--queue=q"],
            "error: --queue=q: --target=tpu_vm would ignore it; it is for --target=kubernetes. "
            "Leave it out, or use another --target.\n",
        ),
        (
            ["--zone=us-west4-a"],
            "error: --zone=us-west4-a: --target=kubernetes would ignore it; it is for "
            "--target=tpu_vm. Leave it out, or use another --target.\n",
        ),
        (
            ["--stop=words", "--memory=8Gi"],
            "error: --memory=8Gi: --stop=words would ignore it; it takes only --context and "
            "--namespace. Leave it out.\n",
        ),
        (
            ["--target=local", "--stop=words"],
            "error: --stop=words: --target=local would ignore it; it is for --target=kubernetes "
            "and --target=slurm. `gcloud ai custom-jobs cancel` stops a job of Vertex AI, Ctrl-C "
            "any other. Leave it out, or use another --target.\n",
        ),
        (
            ["--target=slurm", "--env=A=b"],
            "error: --env=A=b: --target=slurm would ignore it; it is for --target=kubernetes and "
            "--target=vertex. --target=slurm and --target=local hand your own environment on: "
            "export it before submit. Leave it out, or use another --target.\n",
        ),
        (
            ["--target=slurm", "--stage=gs://b/d:/scratch/d"],
            "error: --stage=gs://b/d:/scratch/d: --target=slurm would ignore it; it is for "
            "--target=kubernetes and --target=vertex. Copy the folder yourself; --target=tpu_vm "
            "takes a bucket as --data_dir. Leave it out, or use another --target.\n",
        ),
        (
            ["--target=slurm", "--stop=words", "--memory=8Gi"],
            "error: --memory=8Gi: --stop=words would ignore it; it takes only --target. Leave it "
            "out.\n",
        ),
    ],
)
def test_a_refusal_names_value_rule_and_remedy_and_exits_2(arguments, told, capsys):
    assert main.main(["submit", *arguments]) == 2
    assert capsys.readouterr().err == told


def test_status_and_stop_take_the_flags_that_the_refusal_names():
    for verb in (STATUS, STOP):
        assert declared(KUBERNETES, verb) == {"target", "context", "namespace", verb}


def test_a_flagfile_cannot_hide_a_flag_that_is_ignored(tmp_path, capsys):
    (tmp_path / "job.flags").write_text("--memory=8Gi\n--batch_size=3\n")
    assert main.main(["submit", "--target=local", f"--flagfile={tmp_path / 'job.flags'}"]) == 2
    assert "--memory=8Gi: --target=local would ignore it" in capsys.readouterr().err


def test_help_groups_every_flag_under_the_targets_that_it_is_for(capsys):
    assert main.main(["submit", "--help"]) == 0
    shown, heading = {}, ""
    for line in capsys.readouterr().out.splitlines():
        heading = line if line.startswith("For ") else heading
        if found := re.match(r"  --(?:\[no\])?(\w+)", line):
            name = found[1] if found[1] in FIELDS else found[1].removeprefix("no")
            assert name not in shown, "a flag appears once"
            shown[name] = heading
    assert set(shown) == set(FIELDS)
    for name, heading in shown.items():
        named = set(re.findall(r"--target=(\w+)", heading)) or set(TARGETS)
        assert named == set(FIELDS[name].metadata["targets"])
    assert shown["target"] == "For every target:"
    assert shown["stop"] == (
        "For a job that was submitted to --target=kubernetes and --target=slurm:"
    )


# --- what each target does ------------------------------------------------------------------------


def test_a_local_job_runs_with_the_flags_of_train(monkeypatch):
    calls = []
    monkeypatch.setattr(local, "run", lambda *arguments: calls.append(arguments) or 3)
    train = configuration.replace(TRAIN[LOCAL], units=(8, 8), bucket=False)
    assert submit.start(Submit(target=LOCAL, workers=2), train) == 3
    flags = ["--data_dir=d", "--model_dir=m", "--bucket=False", "--units=8,8"]
    assert calls == [(train, 2, flags)]


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
