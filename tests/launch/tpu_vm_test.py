"""The gcloud calls of a Cloud TPU VM job, word for word, and the jobs that are refused."""

import shlex
import subprocess

import pytest

from trainer.exit_codes import UsageError
from trainer.launch import tpu_vm

JOB = tpu_vm.TpuVmJob(
    "imdb",
    "us-docker.pkg.dev/p/r/rnn-trainer:1-tpu",
    "us-west4-a",
    "v5litepod-8",
    "gs://b/data",
    "gs://b/model",
    ("--epochs=3", "--cell=gru"),
    project="p",
    service_account="s@p.iam.gserviceaccount.com",
    spot=True,
)
QUEUE = ["gcloud", "compute", "tpus", "queued-resources"]
WHERE = ["--zone=us-west4-a", "--project=p"]
SSH = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "imdb", *WHERE, "--worker=0", "--quiet"]
UPLOAD = (
    "gcloud storage rsync --recursive --exclude=.*[.]tmp-.* /var/lib/rnn-trainer/model gs://b/model"
)

# --- the plan -------------------------------------------------------------------------------------


def argv(name: str, job: tpu_vm.TpuVmJob = JOB) -> list[str]:
    (step,) = (step for step in tpu_vm.plan(job) if step.name == name)
    return list(step.argv)


def test_the_steps_come_in_this_order_and_each_says_why():
    assert [step.name for step in tpu_vm.plan(JOB)] == [
        "describe",
        "create",
        "start",
        "follow",
        "result",
        "stop",
        "fetch",
        "delete",
    ]
    assert all(step.why.endswith(".") for step in tpu_vm.plan(JOB))


@pytest.mark.parametrize(
    "name, expected",
    [
        ("describe", [*QUEUE, "describe", "imdb", *WHERE, "--format=json"]),
        (
            "create",
            [
                *QUEUE,
                "create",
                "imdb",
                *WHERE,
                "--node-id=imdb",
                "--accelerator-type=v5litepod-8",
                "--runtime-version=v2-alpha-tpuv5-lite",
                "--valid-until-duration=6h",
                "--spot",
                "--service-account=s@p.iam.gserviceaccount.com",
                "--quiet",
            ],
        ),
        ("follow", [*SSH, "--command=sudo docker logs --follow imdb"]),
        ("result", [*SSH, "--command=sudo docker wait imdb"]),
        ("stop", [*SSH, "--command=sudo docker stop -t 30 imdb"]),
        ("fetch", [*SSH, f"--command=sudo {UPLOAD}"]),
        ("delete", [*QUEUE, "delete", "imdb", *WHERE, "--force", "--quiet"]),
    ],
)
def test_each_call_has_exactly_these_arguments(name, expected):
    assert argv(name) == expected


def test_without_options_their_flags_are_left_out():
    job = tpu_vm.TpuVmJob("a", "i:1", "z", "v6e-1", "/demo", "gs://b/m")
    assert argv("create", job) == [
        *QUEUE,
        "create",
        "a",
        "--zone=z",
        "--node-id=a",
        "--accelerator-type=v6e-1",
        "--runtime-version=v2-alpha-tpuv6e",
        "--valid-until-duration=6h",
        "--quiet",
    ]


def start_script(job: tpu_vm.TpuVmJob = JOB) -> list[str]:
    """The lines of the script that `start` gives to the VM's shell."""
    *_, command = argv("start", job)
    *sudo, script = shlex.split(command.removeprefix("--command="))
    assert sudo == ["sudo", "sh", "-ec"]
    return script.split("\n")


def test_the_vm_copies_the_folders_and_starts_the_container_once():
    assert start_script() == [
        "if docker container inspect imdb >/dev/null 2>&1; then exit 0; fi",
        "mkdir -p /var/lib/rnn-trainer/data /var/lib/rnn-trainer/model",
        "echo imdb | gcloud storage cp - gs://b/model/tpu_vm",
        "gcloud storage rsync --recursive gs://b/model /var/lib/rnn-trainer/model",
        "gcloud storage rsync --recursive gs://b/data /var/lib/rnn-trainer/data",
        "gcloud auth configure-docker us-docker.pkg.dev --quiet",
        "docker pull us-docker.pkg.dev/p/r/rnn-trainer:1-tpu",
        '(trap "" HUP; while sleep 60; docker container inspect --format={{.State.Running}} imdb | '
        "grep -q true; "
        f"do {UPLOAD}; done) >/var/lib/rnn-trainer/upload.log 2>&1 </dev/null &",
        "docker run --detach --name=imdb --privileged --net=host --user=0 "
        "--volume=/var/lib/rnn-trainer/model:/model --volume=/var/lib/rnn-trainer/data:/data:ro "
        "--entrypoint=python us-docker.pkg.dev/p/r/rnn-trainer:1-tpu -m trainer train "
        "--data_dir=/data --model_dir=/model --strategy=tpu --accelerator=tpu --grace_seconds=30 "
        "--epochs=3 --cell=gru",
    ]


def test_data_inside_the_image_is_not_copied_and_a_public_registry_needs_no_sign_in():
    lines = start_script(
        tpu_vm.TpuVmJob(
            "a", "docker.io/me/t:1", "z", "v6e-1", "/demo", "gs://b/m", ("--hosts=a b; rm x",)
        )
    )
    assert not any("gs://b/data" in line or "configure-docker" in line for line in lines)
    assert lines[-1].endswith(
        "train --data_dir=/demo --model_dir=/model --strategy=tpu --accelerator=tpu "
        "--grace_seconds=30 '--hosts=a b; rm x'"
    )


@pytest.mark.parametrize(
    "job", [JOB, tpu_vm.TpuVmJob("a", "i:1", "z", "v4-8", "/demo", "gs://b/m", ("--hosts='",))]
)
def test_the_start_script_is_one_that_a_shell_can_read(job):
    subprocess.run(["sh", "-n", "-c", "\n".join(start_script(job))], check=True)


def test_the_text_has_every_call_under_its_sentence():
    blocks = tpu_vm.as_shell(JOB).strip().split("\n\n")
    for block, step in zip(blocks, tpu_vm.plan(JOB), strict=True):
        comment, _, call = block.partition("\n")
        assert comment == f"# {step.name}: {step.why}" and shlex.split(call) == list(step.argv)


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"name": "Imdb"}, ["--name=Imdb", "letter"]),
        ({"name": "a" * 64}, ["63"]),
        ({"name": "a-"}, ["no hyphen last"]),
        ({"image": ""}, ["--image is empty", "--image=REGISTRY/rnn-trainer:1"]),
        ({"zone": ""}, ["--zone is empty", "--zone=us-west4-a"]),
        (
            {"accelerator_type": "v5litepod-16"},
            ["--tpu=v5litepod-16", "one host", "TPU server", "tensorflow-pods", "v5litepod-8"],
        ),
        ({"accelerator_type": "v4-32"}, ["one host"]),
        ({"accelerator_type": "v5p-16"}, ["one host"]),
        ({"accelerator_type": "v6e-16"}, ["one host"]),
        ({"accelerator_type": "h100-8"}, ["is not a known type", "v6e-8"]),
        ({"accelerator_type": "v4"}, ["is not a known type"]),
        ({"model": "/model"}, ["--model_dir=/model", "gs://BUCKET/FOLDER"]),
        ({"model": "gs://b"}, ["--model_dir=gs://b"]),
        ({"model": "gs://b/m/"}, ["--model_dir=gs://b/m/"]),
        ({"data": "data"}, ["--data_dir=data", "absolute path inside the image"]),
        ({"arguments": ("--epochs=1", "--model_dir=m")}, ["--model_dir=m", "Leave it out"]),
        ({"arguments": ("-accelerator=gpu",)}, ["-accelerator=gpu"]),
        ({"arguments": ("--init_from=gs://b/s",)}, ["--init_from=gs://b/s", "absolute path"]),
    ],
)
def test_a_job_that_cannot_run_is_refused_with_value_rule_and_remedy(changes, told):
    fields = {
        "name": "imdb",
        "image": "i:1",
        "zone": "z",
        "accelerator_type": "v6e-8",
        "data": "gs://b/d",
        "model": "gs://b/m",
    }
    with pytest.raises(UsageError) as problem:
        tpu_vm.TpuVmJob(**{**fields, **changes})
    assert all(part in str(problem.value) for part in told)


@pytest.mark.parametrize(
    "kind",
    [f"{version}-{size}" for version, (sizes, _) in tpu_vm.SINGLE_HOST.items() for size in sizes],
)
def test_every_slice_of_one_host_is_accepted(kind):
    assert f"--accelerator-type={kind}" in argv(
        "create", tpu_vm.TpuVmJob("a", "i:1", "z", kind, "/d", "gs://b/m")
    )
