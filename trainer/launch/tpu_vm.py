"""A job on a Cloud TPU VM: its description, and the gcloud calls that run it with their reasons.

`tpu_vm_run` executes them.

The trainer needs folders that it can rename and lock. So the VM copies the folders of Cloud Storage
to its disk, and copies the model folder back every minute and at the end. If a preemption cuts a
copy off, the manifest of the incomplete checkpoint shows it: the next run sets the checkpoint aside
and continues from the one before.

Flags are those of the reference pages at https://cloud.google.com/sdk/gcloud/reference/, one per
command: compute/tpus/queued-resources/{create,describe,delete}, compute/tpus/tpu-vm/ssh,
storage/rsync, storage/cp. How a container gets the TPU:
https://cloud.google.com/tpu/docs/run-in-container. States:
https://cloud.google.com/tpu/docs/queued-resources.
"""

import dataclasses
import math
import re
import shlex

from trainer.exit_codes import UsageError

# {version: (sizes of the slices that have one host, runtime)}. Sizes: the configurations at
# https://cloud.google.com/tpu/docs/v2, v3, v4, v5e, v5p and v6e; the number counts TensorCores, two
# per chip, but chips for v5e and v6e. Runtimes: those without a framework at
# https://cloud.google.com/tpu/docs/runtimes, since TensorFlow and libtpu come with our image.
SINGLE_HOST = {
    "v2": ((8,), "tpu-ubuntu2204-base"),
    "v3": ((8,), "tpu-ubuntu2204-base"),
    "v4": ((8,), "tpu-ubuntu2204-base"),
    "v5litepod": ((1, 4, 8), "v2-alpha-tpuv5-lite"),
    "v5p": ((8,), "v2-alpha-tpuv5"),
    "v6e": ((1, 4, 8), "v2-alpha-tpuv6e"),
}

POLL_SECONDS = 20.0
UPLOAD_SECONDS = 60

_HOME = "/var/lib/rnn-trainer"  # On the VM's disk, mounted into the container.


@dataclasses.dataclass(frozen=True)
class TpuVmJob:
    """A run and its TPU; raises UsageError, when it is made, for a job that cannot work.

    name: of the request, its VM and its container. model: gs://BUCKET/FOLDER. data:
    gs://BUCKET/FOLDER, or an absolute path inside the image. arguments: of `train`, without folders
    and accelerator. runtime_version: "" for the one that fits accelerator_type. valid_until: how
    long to wait in the queue, in the format of `gcloud topic datetimes` (6h, 2d). project,
    service_account: "" for gcloud's defaults. grace_seconds: between SIGTERM and SIGKILL when the
    job is stopped.
    """

    name: str
    image: str
    zone: str
    accelerator_type: str
    data: str
    model: str
    arguments: tuple[str, ...] = ()
    runtime_version: str = ""
    project: str = ""
    service_account: str = ""
    spot: bool = False
    valid_until: str = "6h"
    grace_seconds: float = 30.0

    def __post_init__(self):
        for rule in (_check_name, _check_type, _check_folders, _check_arguments):
            rule(self)


def _check_name(job: TpuVmJob) -> None:
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", job.name):
        raise UsageError(
            f"--name={job.name}: must be at most 63 lower-case letters, digits and hyphens, a "
            "letter first and no hyphen last. Choose another name."
        )
    for flag, example in (
        ("image", "REGISTRY/rnn-trainer:1"),
        ("zone", "us-west4-a"),
        ("valid_until", "6h"),
    ):
        if not getattr(job, flag):
            raise UsageError(
                f"--{flag} is empty: a Cloud TPU VM needs it. Set it, for example "
                f"--{flag}={example}."
            )


def _check_type(job: TpuVmJob) -> None:
    version, _, size = job.accelerator_type.rpartition("-")
    known = ", ".join(
        f"{name}-{count}" for name, (counts, _) in SINGLE_HOST.items() for count in counts
    )
    if version not in SINGLE_HOST or not size.isdigit():
        raise UsageError(f"--tpu={job.accelerator_type}: is not a known type. Use one of {known}.")
    if int(size) not in SINGLE_HOST[version][0]:
        raise UsageError(
            f"--tpu={job.accelerator_type}: must be a slice of one host. On several hosts "
            "TensorFlow needs the TPU server of Google's own images on each of them "
            "(https://cloud.google.com/tpu/docs/tensorflow-pods), which our image does not have. "
            f"Use one of {known}."
        )


def _check_folders(job: TpuVmJob) -> None:
    if not re.fullmatch(r"gs://[^/\s]+/\S*[^/\s]", job.model):
        raise UsageError(
            f"--model_dir={job.model}: must be a folder in Cloud Storage, because the VM and its "
            "disk are deleted at the end. Use gs://BUCKET/FOLDER."
        )
    if not re.fullmatch(r"gs://[^/\s]+/\S*[^/\s]|/\S+", job.data):
        raise UsageError(
            f"--data_dir={job.data}: must be a folder in Cloud Storage, or an absolute path inside "
            "the image. Use gs://BUCKET/FOLDER."
        )


def _check_arguments(job: TpuVmJob) -> None:
    for argument in job.arguments:
        if re.match(r"--?init_from=(?!/)", argument):
            raise UsageError(
                f"{argument}: must be an absolute path inside the image, or below /data if it lies "
                "in the bucket of --data_dir. Copy the model there."
            )
    taken = [
        argument
        for argument in job.arguments
        if re.match(r"--?(data_dir|model_dir|accelerator|strategy)\b", argument)
    ]
    if taken:
        raise UsageError(
            f"{taken[0]}: folders, accelerator and strategy are set by the job itself. Leave it "
            "out."
        )


@dataclasses.dataclass(frozen=True)
class Step:
    """One call (`argv`) and its reason (`why`) in a sentence."""

    name: str
    why: str
    argv: tuple[str, ...]


def plan(job: TpuVmJob) -> tuple[Step, ...]:
    """Returns every call of a job, in order.

    `tpu_vm_run` repeats and skips calls, and handles their failures, as their reasons describe.
    """
    return (
        Step(
            "describe",
            "Reuses a request of this name if there is one; deletes it first if it has failed. "
            f"Repeated every {POLL_SECONDS:g} s until its state is ACTIVE.",
            _queue(job, "describe", "--format=json"),
        ),
        Step(
            "create",
            "Requests the TPU; the request waits in the queue until the TPU is available or "
            "--valid-until-duration is over.",
            _queue(
                job,
                "create",
                f"--node-id={job.name}",
                f"--accelerator-type={job.accelerator_type}",
                f"--runtime-version={job.runtime_version or _runtime(job)}",
                f"--valid-until-duration={job.valid_until}",
                *(["--spot"] if job.spot else []),
                *([f"--service-account={job.service_account}"] if job.service_account else []),
                "--quiet",
            ),
        ),
        Step(
            "start",
            "Copies the folders to the VM's disk and starts the container, unless it exists. "
            "--privileged: for the TPU's device files and locked memory; --net=host: the TPU "
            "runtime uses the VM's metadata server.",
            _ssh(job, f"sh -ec {shlex.quote(_start_script(job))}"),
        ),
        Step(
            "follow",
            "Shows the log until the container ends.",
            _ssh(job, f"docker logs --follow {job.name}"),
        ),
        Step(
            "result",
            "Prints the container's exit code, which becomes ours.",
            _ssh(job, f"docker wait {job.name}"),
        ),
        Step(
            "stop",
            "Only after an interrupt: sends SIGTERM, and the trainer commits a checkpoint.",
            _ssh(job, f"docker stop -t {math.ceil(job.grace_seconds)} {job.name}"),
        ),
        Step("fetch", "Copies the model folder back to Cloud Storage.", _ssh(job, _upload(job))),
        Step(
            "delete",
            "Deletes VM and request, also after a failure. --force: the VM may still be running.",
            _queue(job, "delete", "--force", "--quiet"),
        ),
    )


def as_shell(job: TpuVmJob) -> str:
    """Returns the plan as shell commands, each with its reason as a comment above."""
    return (
        "\n\n".join(f"# {step.name}: {step.why}\n{shlex.join(step.argv)}" for step in plan(job))
        + "\n"
    )


def _runtime(job: TpuVmJob) -> str:
    return SINGLE_HOST[job.accelerator_type.rpartition("-")[0]][1]


def _place(job: TpuVmJob) -> list[str]:
    return [f"--zone={job.zone}", *([f"--project={job.project}"] if job.project else [])]


def _queue(job: TpuVmJob, verb: str, *flags: str) -> tuple[str, ...]:
    return ("gcloud", "compute", "tpus", "queued-resources", verb, job.name, *_place(job), *flags)


def _ssh(job: TpuVmJob, command: str) -> tuple[str, ...]:
    # As root: it owns the TPU's device files, the docker socket and what the container writes.
    return (
        "gcloud",
        "compute",
        "tpus",
        "tpu-vm",
        "ssh",
        job.name,
        *_place(job),
        "--worker=0",
        "--quiet",
        f"--command=sudo {command}",
    )


def _start_script(job: TpuVmJob) -> str:
    in_storage = job.data.startswith("gs://")
    data = "/data" if in_storage else job.data
    mounts = [
        f"--volume={_HOME}/model:/model",
        *([f"--volume={_HOME}/data:/data:ro"] if in_storage else []),
    ]
    run = [
        "docker",
        "run",
        "--detach",
        f"--name={job.name}",
        "--privileged",
        "--net=host",
        "--user=0",
        *mounts,
        "--entrypoint=python",
        job.image,
        "-m",
        "trainer",
        "train",
        f"--data_dir={data}",
        "--model_dir=/model",
        "--strategy=tpu",
        "--accelerator=tpu",
        f"--grace_seconds={job.grace_seconds:g}",
        *job.arguments,
    ]
    running = f"docker container inspect --format={{{{.State.Running}}}} {job.name}"
    registry = job.image.partition("/")[0]
    sign_in = registry.endswith(("-docker.pkg.dev", "gcr.io"))
    return "\n".join(
        [
            f"if docker container inspect {job.name} >/dev/null 2>&1; then exit 0; fi",
            f"mkdir -p {_HOME}/data {_HOME}/model",
            # Makes the folder, and fails before any training if it is not writable.
            f"echo {job.name} | gcloud storage cp - {shlex.quote(job.model + '/tpu_vm')}",
            f"gcloud storage rsync --recursive {shlex.quote(job.model)} {_HOME}/model",
            *(
                [f"gcloud storage rsync --recursive {shlex.quote(job.data)} {_HOME}/data"]
                if in_storage
                else []
            ),
            *([f"gcloud auth configure-docker {registry} --quiet"] if sign_in else []),
            f"docker pull {shlex.quote(job.image)}",
            # Before the container, because a second try exits above once the container exists.
            f'(trap "" HUP; while sleep {UPLOAD_SECONDS}; {running} | grep -q true; do '
            f"{_upload(job)}; done) "
            f">{_HOME}/upload.log 2>&1 </dev/null &",
            shlex.join(run),
        ]
    )


def _upload(job: TpuVmJob) -> str:
    # It deletes nothing: an incomplete copy on the VM must never empty the folder it came from.
    target = shlex.quote(job.model)
    return f"gcloud storage rsync --recursive --exclude=.*[.]tmp-.* {_HOME}/model {target}"
