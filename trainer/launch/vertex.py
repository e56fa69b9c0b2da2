"""A custom job of Vertex AI: its specification, and the gcloud call that creates it.

`vertex_run` is what runs in each of its containers.

A bucket cannot hold a model folder, neither as gs:// nor below /gcs: no lock, and a folder is
renamed file by file. So the model folder is on an NFS share, which all workers mount; with
--publish it is copied to the bucket at the end. A dataset may be below /gcs, or on the share, or
copied to the disk of each worker by --stage.

Flags: https://cloud.google.com/sdk/gcloud/reference/ai/custom-jobs/create. Fields of the
specification: https://cloud.google.com/vertex-ai/docs/reference/rest/v1/CustomJobSpec. NFS:
https://cloud.google.com/vertex-ai/docs/training/train-nfs-share. /gcs:
https://cloud.google.com/vertex-ai/docs/training/cloud-storage-file-system. TF_CONFIG of each
replica: https://cloud.google.com/vertex-ai/docs/training/distributed-training.
"""

import dataclasses
import json
import logging
import pathlib
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from trainer import shown
from trainer.exit_codes import UsageError
from trainer.flags import run as configuration
from trainer.flags.submit import Submit
from trainer.launch import pods, stage
from trainer.launch import spec as specs

log = logging.getLogger(__name__)

BUCKETS = "/gcs"  # Where Vertex mounts every bucket that the job may read.
SHARES = "/mnt/nfs"
RUN = "trainer.launch.vertex_run"
_NFS = re.compile(r"(?P<server>[\w.-]+):(?P<path>/[^:\s]*):/mnt/nfs/(?P<mount>[\w.-]+)/?")
_NETWORK = re.compile(r"projects/\d+/global/networks/[a-z]([-a-z0-9]*[a-z0-9])?")


@dataclasses.dataclass(frozen=True)
class VertexJob:
    """A checked job: the run (`train`) and its place (`submit`). Made by `of`.

    token: by which several workers know each other.
    """

    train: configuration.Config
    submit: Submit
    token: str

    @classmethod
    def of(cls, submit: Submit, train: configuration.Config, token: str) -> "VertexJob":
        """Returns the job, with the devices of its workers filled into `train`.

        Raises UsageError if the job cannot work.
        """
        _check_text(submit)
        specs.check_gang(submit, train)
        train = specs.on_accelerators(train, submit.gpus, "")
        _check_folders(submit, train)
        replicas = submit.workers * max(1, train.run.devices)
        specs.check_rows(train, submit.workers, replicas)
        # `vertex_run` is process 1 and no supervisor.
        return cls(configuration.replace(train, supervise="on"), submit, token)

    @property
    def arguments(self) -> list[str]:
        """Arguments of `vertex_run`: what is copied, and after `--` the command of the trainer."""
        return [
            f"--name={self.submit.name}",
            *(f"--stage={copy.url}:{copy.folder}" for copy in stage.staged(self.submit)),
            *(["--publish"] if self.submit.publish else []),
            "--",
            "train",
            *configuration.as_flags(self.train),
        ]


def specification(job: VertexJob) -> dict[str, Any]:
    """Returns the CustomJobSpec.

    The first worker pool has one replica, the chief; the second one has the others. Vertex makes
    TF_CONFIG from them. A third one would be of parameter servers, a fourth one of evaluators.
    """
    submit = job.submit
    machine = {"machineType": submit.machine_type}
    if submit.gpus:
        machine |= {"acceleratorType": submit.gpu_type, "acceleratorCount": submit.gpus}
    several, own = submit.workers > 1, job.train.gang.gang_token_file
    token = [{"name": "TRAINER_GANG_TOKEN", "value": job.token}] if several and not own else []
    env = [*pods.variables(submit.env), *token]
    pool = {
        "machineSpec": machine,
        "containerSpec": {
            "imageUri": submit.image,
            "command": ["python", "-m", RUN],
            "args": job.arguments,
            **({"env": env} if env else {}),
        },
        **({"nfsMounts": [_share(text) for text in submit.nfs]} if submit.nfs else {}),
    }
    return {
        "workerPoolSpecs": [
            {"replicaCount": 1, **pool},
            *([{"replicaCount": submit.workers - 1, **pool}] if several else []),
        ],
        "scheduling": {
            "timeout": f"{submit.deadline_seconds}s",
            **({"strategy": "SPOT"} if submit.spot else {}),
            # A worker that Vertex starts again finds its gang: nobody else has to start anew.
            "restartJobOnWorkerRestart": False,
        },
        **(
            {"serviceAccount": submit.service_account}
            if submit.service_account != "default"
            else {}
        ),
        **({"network": submit.network} if submit.network else {}),
        # Vertex makes AIP_MODEL_DIR and AIP_TENSORBOARD_LOG_DIR of it.
        **(
            {"baseOutputDirectory": {"outputUriPrefix": submit.publish.rstrip("/")}}
            if submit.publish
            else {}
        ),
    }


def call(job: VertexJob, file: str) -> list[str]:
    """Returns the call that creates the job from the specification in `file` (JSON is YAML)."""
    return [
        "gcloud",
        "ai",
        "custom-jobs",
        "create",
        f"--region={job.submit.region}",
        *([f"--project={job.submit.project}"] if job.submit.project else []),
        f"--display-name={job.submit.name}",
        f"--config={file}",
    ]


def as_shell(job: VertexJob) -> str:
    """Returns shell commands that write the specification and create the job."""
    file = f"{job.submit.name}.yaml"
    return (
        f"umask 077\ncat >{file} <<'END'\n{json.dumps(specification(job), indent=2)}\nEND\n"
        f"{shlex.join(call(job, file))}\n"
    )


def apply(job: VertexJob) -> str:
    """Creates the job and returns what gcloud prints: its name, and how to watch and cancel it.

    Raises UsageError if gcloud is not installed or refuses the job.
    """
    if not shutil.which("gcloud"):
        raise UsageError(
            "gcloud is not on the PATH: --target=vertex needs it. Install the Google Cloud CLI "
            "(https://cloud.google.com/sdk/docs/install), or print the call without --apply."
        )
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, f"{job.submit.name}.yaml")
        file.write_text(json.dumps(specification(job), indent=2), encoding="utf-8")
        argv = call(job, str(file))
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise UsageError(
            f"gcloud refuses job {job.submit.name}: {done.stderr.strip()}\n"
            f"The call was: {shlex.join(argv)}"
        )
    return f"{done.stdout}{done.stderr}".strip()


def refuse_bucket(model_dir: str, environ: Mapping[str, str]) -> None:
    """Raises UsageError if this is a container of Vertex AI and the model folder is in a bucket.

    Without --model_dir that is AIP_CHECKPOINT_DIR, where Vertex AI expects checkpoints.
    """
    if not any(name.startswith(("AIP_", "CLOUD_ML_")) for name in environ):
        return
    if not model_dir and (folder := environ.get("AIP_CHECKPOINT_DIR")):
        raise _in_a_bucket(f"--model_dir is empty: AIP_CHECKPOINT_DIR={shown.bare(folder)} is")
    if model_dir.startswith(f"{BUCKETS}/"):
        raise _in_a_bucket(f"--model_dir={shown.bare(model_dir)}: is")


def _in_a_bucket(what: str) -> UsageError:
    return UsageError(
        f"{what} in a bucket, which has no locks and renames a folder file by file: a kill could "
        "leave half a checkpoint under its final name. Use an NFS share (`submit --target=vertex "
        "--nfs=SERVER:/EXPORT:/mnt/nfs/NAME`), and --publish=gs://BUCKET/FOLDER for a copy."
    )


def _share(text: str) -> dict[str, str]:
    found = _NFS.fullmatch(text)
    return {"server": found["server"], "path": found["path"], "mountPoint": found["mount"]}


def _check_text(submit: Submit) -> None:
    specs.check_image("image", submit.image)
    pods.check_environment(submit.env)
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", submit.name):
        raise UsageError(
            f"--name={submit.name}: must be at most 63 lower-case letters, digits and hyphens, a "
            "letter first and no hyphen last. Choose another name."
        )
    for flag, example in (("region", "us-central1"), ("machine_type", "n1-standard-8")):
        if not getattr(submit, flag):
            raise UsageError(
                f"--{flag} is empty: a job of Vertex AI needs it. Set it, for example "
                f"--{flag}={example}."
            )
    if bool(submit.gpus) != bool(submit.gpu_type):
        raise UsageError(
            f"--gpus={submit.gpus} and --gpu_type={submit.gpu_type}: Vertex AI needs both or none. "
            "Use for example --gpus=1 --gpu_type=NVIDIA_L4, which g2-standard-8 has."
        )
    for text in submit.nfs:
        if not _NFS.fullmatch(text):
            raise UsageError(
                f"--nfs={text}: must be SERVER:/EXPORT:/mnt/nfs/NAME, because Vertex AI mounts "
                "shares below /mnt/nfs. Use for example 10.0.0.2:/share:/mnt/nfs/runs."
            )
    if submit.network and not _NETWORK.fullmatch(submit.network):
        raise UsageError(
            f"--network={submit.network}: must be projects/NUMBER/global/networks/NAME, with the "
            "number of the project and not its name. `gcloud projects describe` prints it."
        )
    ends = stage.published(submit, "")
    for copy in (*stage.staged(submit), *([ends] if ends else [])):
        if copy.scheme != "gs":
            raise UsageError(
                f"{copy.url}: Vertex AI copies by way of {BUCKETS}, where only buckets of Cloud "
                "Storage are. Use a gs:// bucket."
            )
        if copy.folder.startswith((f"{BUCKETS}/", f"{SHARES}/")):
            raise UsageError(
                f"--stage={copy.url}:{copy.folder}: several workers copy at the same time, so it "
                "must be a folder of the worker's own disk. Use for example /tmp/data."
            )


def _check_folders(submit: Submit, train: configuration.Config) -> None:
    shares = [pathlib.PurePosixPath(SHARES, _share(text)["mountPoint"]) for text in submit.nfs]
    folders = train.folders
    for name in ("data_dir", "model_dir", *(["init_from"] if folders.init_from else [])):
        path = pathlib.PurePosixPath(getattr(folders, name))
        if not path.is_absolute() or ".." in path.parts:
            raise UsageError(
                f"--{name}={path}: is a path in the container, so it must be absolute. Shares are "
                f"mounted at: {_listed(shares)}."
            )
    copies = [pathlib.PurePosixPath(copy.folder) for copy in stage.staged(submit)]
    _check_sources(folders, [*shares, *copies])
    model = pathlib.PurePosixPath(folders.model_dir)
    if model.is_relative_to(BUCKETS):
        raise _in_a_bucket(f"--model_dir={model}: is")
    for copy in copies:
        if model.is_relative_to(copy):
            raise UsageError(
                f"--model_dir={model}: is in {copy}, where --stage copies to, and a worker that is "
                "started again would begin with the copy. Use another folder, and name the copy "
                "with --init_from."
            )
    if any(model.is_relative_to(share) for share in shares):
        return
    if any(model.is_relative_to(folder) for folder in (SHARES, specs.DEMO_FOLDER)):
        raise UsageError(
            f"--model_dir={model}: is on no share (mounted: {_listed(shares)}). Mount its share "
            "with --nfs=SERVER:/EXPORT:/mnt/nfs/NAME, or correct the folder."
        )
    if submit.workers > 1 or not submit.publish:
        raise UsageError(
            f"--model_dir={model}: is on the disk of a worker, which is deleted at the end and "
            "which the others do not see. Use a share (--nfs=SERVER:/EXPORT:/mnt/nfs/NAME); "
            "one worker may also use its disk with --publish=gs://BUCKET/FOLDER."
        )
    log.warning(
        "--model_dir=%s is on the disk of the worker: if Vertex AI starts it again, it begins "
        "anew. Use a share (--nfs) to keep checkpoints",
        model,
    )


def _check_sources(folders: configuration.Folders, filled: Sequence[pathlib.PurePosixPath]) -> None:
    """Raises UsageError if a folder that the run reads cannot be in the container.

    filled: the shares, and the folders of --stage.
    """
    for name in ("data_dir", *(["init_from"] if folders.init_from else [])):
        folder = pathlib.PurePosixPath(getattr(folders, name))
        in_bucket = pathlib.PurePosixPath(BUCKETS) in folder.parents
        if not in_bucket and not any(
            folder.is_relative_to(there) for there in (*filled, specs.DEMO_FOLDER)
        ):
            raise UsageError(
                f"--{name}={folder}: cannot be in the container: it is not on a share or in a "
                f"folder of --stage ({_listed(filled)}), not below {BUCKETS}, and not in "
                f"{specs.DEMO_FOLDER} of the image. Mount its share with "
                "--nfs=SERVER:/EXPORT:/mnt/nfs/NAME, copy it with "
                f"--stage=gs://BUCKET/FOLDER:{folder}, or use {BUCKETS}/BUCKET/FOLDER."
            )


def _listed(folders: Sequence[pathlib.PurePosixPath]) -> str:
    return ", ".join(map(str, folders)) or "none"
