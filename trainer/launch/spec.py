"""JobSpec: what runs, where, and how many workers, checked before anything is sent.

A job that cannot work is refused here, within a second and without a cluster: a batch too small for
its replicas, a folder that is not on a volume, a name that is too long, a grace period shorter than
a save.
"""

import dataclasses
import logging
import math
import pathlib
import re

from trainer.exit_codes import UsageError
from trainer.flags import run as configuration
from trainer.flags.submit import Submit
from trainer.gang import roster
from trainer.launch import pods, stage
from trainer.launch.values import BYTES, DNS_LABEL, DNS_SUBDOMAIN, require
from trainer.model_folder import journal

log = logging.getLogger(__name__)

# The port on which supervisors meet. TensorFlow's own ports change with every restart of the gang.
PORT = 2222
DEMO_FOLDER = "/demo"  # Data inside the image (k8s/Dockerfile).
RESERVE_SECONDS = 5  # The part of the grace period that a supervisor needs to end its child.
MOST_STAGES = 16  # A podFailurePolicy has at most 20 rules; 4 are for other containers.
GANG_FOLDER = "/etc/rnn-trainer"  # Where the Secret with the token of a gang is mounted.
ALWAYS_MOUNTED = ("/tmp", "/dev/shm", GANG_FOLDER)

IMAGE = re.compile(
    r"[a-z0-9][-a-z0-9._]*(:\d+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
    r"(:(?P<tag>\w[\w.-]{0,127}))?(@sha256:(?P<digest>[0-9a-f]{64}))?"
)


@dataclasses.dataclass(frozen=True)
class Tpu:
    """A slice of one host: its chips and its names in GKE.

    Machine types and topologies:
    https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus
    """

    chips: int
    accelerator: str
    topology: str


# The number counts TensorCores for v4 and v5p, two per chip, and chips for v5e and v6e.
TPUS = {
    "v4-8": Tpu(4, "tpu-v4-podslice", "2x2x1"),
    "v5e-1": Tpu(1, "tpu-v5-lite-podslice", "1x1"),
    "v5e-4": Tpu(4, "tpu-v5-lite-podslice", "2x2"),
    "v5e-8": Tpu(8, "tpu-v5-lite-podslice", "2x4"),
    "v5p-8": Tpu(4, "tpu-v5p-slice", "2x2x1"),
    "v6e-1": Tpu(1, "tpu-v6e-slice", "1x1"),
    "v6e-4": Tpu(4, "tpu-v6e-slice", "2x2"),
    "v6e-8": Tpu(8, "tpu-v6e-slice", "2x4"),
}


@dataclasses.dataclass(frozen=True)
class Volume:
    """A volume of the pods.

    source: the claim, size, bucket or secret, depending on `kind`. path: its mount point.
    """

    kind: str
    source: str
    path: str

    def holds(self, folder: str) -> bool:
        """Whether `folder` is on this volume."""
        return pathlib.PurePosixPath(folder).is_relative_to(self.path)


@dataclasses.dataclass(frozen=True)
class JobSpec:
    """A checked job: the run (`train`) and its place (`submit`). Made by `of`."""

    train: configuration.Config
    submit: Submit
    volumes: tuple[Volume, ...]
    tpu: Tpu | None

    @classmethod
    def of(cls, submit: Submit, train: configuration.Config) -> "JobSpec":
        """Returns the job, with the devices and threads of its pods filled into `train`.

        Raises UsageError if the job cannot work.
        """
        volumes = tuple(_volume(text) for text in submit.volume)
        check_image("image", submit.image)
        pods.check(submit)
        _check_mounts(volumes)
        tpu = _tpu(submit, train)
        check_gang(submit, train)
        train = on_accelerators(train, submit.gpus, submit.tpu)
        # A node may have 100 cores while the pod gets 2. The thread count affects the exact result,
        # so it must not depend on the node.
        threads = train.run.threads or max(1, math.floor(cpus(submit.cpu)))
        train = configuration.replace(train, threads=threads)
        spec = cls(train, submit, volumes, tpu)
        _check_names(spec)
        _check_folders(spec)
        _check_copies(spec)
        check_rows(spec.train, spec.workers, spec.replicas)
        _check_grace(spec)
        return spec

    @property
    def name(self) -> str:
        return self.submit.name

    @property
    def workers(self) -> int:
        return self.submit.workers

    @property
    def replicas(self) -> int:
        return self.workers * (self.tpu.chips if self.tpu else max(1, self.train.run.devices))

    @property
    def grace_seconds(self) -> int:
        return math.ceil(self.train.gang.grace_seconds)

    @property
    def model_volume(self) -> Volume:
        return volume_of(self.volumes, self.train.folders.model_dir)

    @property
    def has_token(self) -> bool:
        """Returns whether the job has a Secret with a token for its workers.

        A worker alone meets nobody, and --gang_token_file names a token of the user's own.
        """
        return self.workers > 1 and not self.train.gang.gang_token_file

    @property
    def stages(self) -> tuple[stage.Copy, ...]:
        """The folders that are copied into each pod before its worker starts."""
        return stage.staged(self.submit)

    @property
    def publication(self) -> stage.Copy | None:
        """The model folder and where worker 0 copies it to at the end, if the job asks for it."""
        return stage.published(self.submit, self.train.folders.model_dir)

    @property
    def host_pattern(self) -> str:
        """DNS name of a worker's pod, with {index} in place of its index."""
        return (
            f"{self.name}-worker-0-{{index}}" if self.submit.jobset else f"{self.name}-{{index}}"
        ) + f".{self.name}"

    @property
    def chief(self) -> str:
        """Name of the Service that leads to worker 0, wherever its pod is."""
        return f"{self.name}-chief"

    @property
    def arguments(self) -> list[str]:
        """Command line of the trainer in each pod: all flags that are not at their defaults."""
        config = self.train
        if self.workers > 1:
            config = configuration.replace(
                config,
                num_workers=self.workers,
                hosts=f"{self.host_pattern}:{PORT}",
                chief_address=f"{self.chief}:{PORT}",
            )
        if self.has_token:
            config = configuration.replace(config, gang_token_file=f"{GANG_FOLDER}/token")
        # Always written, because the pod's terminationGracePeriodSeconds must be the same.
        grace = f"--grace_seconds={config.gang.grace_seconds}"
        return ["train", *configuration.as_flags(config, without=("grace_seconds",)), grace]


# --- One flag after the other ---------------------------------------------------------------------

_EXAMPLES = {
    "pvc": "pvc:CLAIM:/data",
    "emptydir": "emptydir:10Gi:/scratch",
    "gcsfuse": "gcsfuse:BUCKET:/data",
    "secret": "secret:NAME:/keys",
}
_SOURCES = {
    "pvc": DNS_SUBDOMAIN,
    "emptydir": BYTES,
    "gcsfuse": re.compile(r"[a-z0-9][-a-z0-9_.]{1,220}[a-z0-9]"),
    "secret": DNS_SUBDOMAIN,
}


def _volume(text: str) -> Volume:
    kind, _, rest = text.partition(":")
    source, _, path = rest.partition(":")
    if kind == "hostpath":
        raise UsageError(
            f"--volume={text}: the restricted Pod Security Standard forbids folders of the node, "
            "and they differ between nodes. Use pvc:CLAIM:/PATH."
        )
    if kind in stage.TOOLS and rest.startswith("//"):
        raise UsageError(
            f"--volume={text}: a bucket is no volume. Copy a folder of it with "
            "--stage=URL:/scratch/FOLDER, or mount it on GKE with gcsfuse:BUCKET:/PATH."
        )
    if kind not in _SOURCES:
        raise UsageError(
            f"--volume={text}: must begin with pvc, emptydir, gcsfuse or secret, for example "
            f"{_EXAMPLES['pvc']}."
        )
    if not _SOURCES[kind].fullmatch(source) or not path.startswith("/"):
        raise UsageError(
            f"--volume={text}: must look like {_EXAMPLES[kind]}, with an absolute path at the end."
        )
    return Volume(kind, source, path.rstrip("/") or "/")


def check_image(name: str, value: str) -> None:
    """Raises UsageError unless --`name`=`value` is an image with a tag or a digest."""
    image = IMAGE.fullmatch(value)
    require(
        image and (image["tag"] or image["digest"]),
        name,
        value,
        "must name a tag or a digest, so that the version that ran stays known: "
        "REGISTRY/NAME:TAG or REGISTRY/NAME@sha256:HEX",
    )


def _check_mounts(volumes: tuple[Volume, ...]) -> None:
    paths = [*ALWAYS_MOUNTED, DEMO_FOLDER]
    for volume in volumes:
        path = pathlib.PurePosixPath(volume.path)
        if str(path) == "/" or ".." in path.parts or str(path) in paths:
            raise UsageError(
                f"--volume={volume.kind}:{volume.source}:{volume.path}: must be mounted at a path "
                f"of its own; taken are /, {', '.join(paths)}. Choose another, for example /data."
            )
        paths.append(str(path))


# --- What must fit together -----------------------------------------------------------------------


def _tpu(submit: Submit, train: configuration.Config) -> Tpu | None:
    if not submit.tpu:
        return None
    known = ", ".join(TPUS)
    if submit.tpu not in TPUS:
        raise UsageError(
            f"--tpu={submit.tpu}: must be a slice of one host, {known}. Larger ones span several "
            "hosts, and on GKE TensorFlow's TPUClusterResolver reaches only the chips of its own "
            "host. Use one host, or several workers with GPUs."
        )
    if submit.gpus or submit.workers > 1 or submit.jobset:
        raise UsageError(
            f"--tpu={submit.tpu}: means one pod with the chips of one host. Leave out --gpus, "
            "--workers and --jobset."
        )
    if train.run.devices or train.run.strategy not in ("auto", "tpu"):
        raise UsageError(
            f"--tpu={submit.tpu}: uses every chip of the slice. Leave "
            f"--devices={train.run.devices} and --strategy={train.run.strategy} out of the flags "
            "of train."
        )
    return TPUS[submit.tpu]


def on_accelerators(train: configuration.Config, gpus: int, tpu: str) -> configuration.Config:
    """Returns `train` with the accelerator and the devices of a worker.

    gpus: of each worker. tpu: the slice that it gets; "" for none. Raises UsageError if `train`
    asks for something else.
    """
    asked = "tpu" if tpu else "gpu" if gpus else train.run.accelerator
    if (
        train.run.accelerator not in ("auto", asked)
        or (asked == "gpu" and not gpus)
        or (asked == "tpu" and not tpu)
    ):
        raise UsageError(
            f"--accelerator={train.run.accelerator}: each worker gets --gpus={gpus} and "
            f"--tpu={tpu or 'none'}. Request the accelerator that the run needs, or leave "
            "--accelerator out of the flags of train."
        )
    if gpus:
        if train.run.devices not in (0, gpus):
            raise UsageError(
                f"--devices={train.run.devices}: each worker gets --gpus={gpus}. Leave "
                "--devices out of the flags of train."
            )
        if gpus > 1 and train.run.strategy == "one_device":
            raise UsageError(
                f"--gpus={gpus}: --strategy=one_device uses one of them. Use "
                "--strategy=mirrored, or --gpus=1."
            )
        train = configuration.replace(train, devices=gpus)
    return configuration.replace(
        train, strategy="tpu" if tpu else train.run.strategy, accelerator=asked
    )


def cpus(text: str) -> float:
    """Returns the number of CPUs: 0.5 for "500m"."""
    return int(text[:-1]) / 1000 if text.endswith("m") else float(text)


def check_own(submit: Submit, train: configuration.Config) -> None:
    """Raises UsageError if flags of train are those that the job sets for each worker."""
    gang = train.gang
    if gang.num_workers or gang.worker_index >= 0 or gang.hosts or gang.chief_address:
        raise UsageError(
            "--num_workers, --worker_index, --hosts and --chief_address: submit sets them for each "
            "worker. Leave them out of the flags of train, and use --workers before the `--`."
        )
    if submit.workers > 1 and gang.supervise == "off":
        raise UsageError(
            f"--supervise=off: the --workers={submit.workers} meet through their supervisors. "
            "Leave it out of the flags of train."
        )


def check_gang(submit: Submit, train: configuration.Config) -> None:
    """Raises UsageError if flags of train contradict the workers that the job gets."""
    gang = train.gang
    check_own(submit, train)
    roster.check_strategy(train.run.strategy, submit.workers)
    if gang.min_workers > submit.workers:
        raise UsageError(
            f"--min_workers={gang.min_workers}: must not exceed --workers={submit.workers}. "
            "Lower it."
        )
    if submit.workers > 1 and train.run.devices > 1 and not submit.gpus:
        raise UsageError(
            f"--devices={train.run.devices}: without GPUs each of several workers has one replica, "
            "on its CPU. Leave --devices out of the flags of train, or raise --workers."
        )
    if gang.supervise == "off":
        raise UsageError(
            "--supervise=off: process 1 of a container needs its supervisor to handle SIGTERM from "
            "the cluster. Leave it out."
        )


def _check_names(spec: JobSpec) -> None:
    """Checks that all names that the cluster derives from --name are DNS labels.

    A DNS label has at most 63 characters.
    """
    name, last = spec.name, spec.workers - 1
    require(
        name,
        "name",
        name,
        "is empty: every object of the job needs it. Choose a name, for example imdb",
    )
    require(
        DNS_LABEL.fullmatch(name),
        "name",
        name,
        "must be lower-case letters, digits and -, beginning with a letter and not ending with -",
    )
    longest = [f"{name}-worker-0-{last}-xxxxx"] if spec.submit.jobset else [f"{name}-{last}-xxxxx"]
    longest += [f"{name}-tensorboard"] if spec.submit.tensorboard else []
    longest += [spec.chief] if spec.workers > 1 else []
    for made in longest:
        if len(made) > 63:
            raise UsageError(
                f"--name={name}: the cluster derives the name {made}, which has {len(made)} "
                f"characters, and 63 are allowed. Use at most {63 - (len(made) - len(name))}."
            )


def volume_of(volumes: tuple[Volume, ...], folder: str) -> Volume | None:
    """Returns the volume that holds `folder`: the innermost if volumes are nested."""
    return max(
        (volume for volume in volumes if volume.holds(folder)),
        key=lambda volume: len(volume.path),
        default=None,
    )


def _check_folders(spec: JobSpec) -> None:
    folders, paths = spec.train.folders, ", ".join(volume.path for volume in spec.volumes) or "none"
    for name in ("data_dir", "model_dir", *(["init_from"] if folders.init_from else [])):
        folder = getattr(folders, name)
        path = pathlib.PurePosixPath(folder)
        if not path.is_absolute() or ".." in path.parts:
            raise UsageError(
                f"--{name}={folder}: is a path in the pod, so it must be absolute. Volumes are "
                f"mounted at: {paths}."
            )
    for name in ("data_dir", *(["init_from"] if folders.init_from else [])):
        folder = getattr(folders, name)
        in_image = pathlib.PurePosixPath(folder).is_relative_to(DEMO_FOLDER)
        if not in_image and not volume_of(spec.volumes, folder):
            raise UsageError(
                f"--{name}={folder}: is not on a volume (mounted: {paths}) and not in "
                f"{DEMO_FOLDER} of the image. Mount its volume with --volume=pvc:CLAIM:/PATH."
            )
    held = spec.model_volume
    if held is None:
        raise UsageError(
            f"--model_dir={folders.model_dir}: is not on a volume (mounted: {paths}), so it would "
            "be lost with its pod. Mount one with --volume=pvc:CLAIM:/PATH."
        )
    if held.kind == "secret":
        raise UsageError(
            f"--model_dir={folders.model_dir}: is on a secret, which is read-only. Use a pvc."
        )
    if held.kind == "gcsfuse":
        raise UsageError(
            f"--model_dir={folders.model_dir}: is on a bucket, which renames a folder file by "
            "file: a kill could leave half a checkpoint under its final name. Use a pvc; a bucket "
            "is fine for --data_dir."
        )
    if held.kind == "emptydir" and (spec.workers > 1 or spec.submit.tensorboard):
        raise UsageError(
            f"--model_dir={folders.model_dir}: is on an emptydir, and every pod has its own. "
            "Several workers and TensorBoard must share the folder: use a pvc."
        )
    if held.kind == "emptydir":
        log.warning(
            "--model_dir=%s is on an emptydir, which is deleted with its pod: a pod that is moved, "
            "and the end of the job, take the model with them. Use --volume=pvc:CLAIM:/PATH to "
            "keep it",
            folders.model_dir,
        )
    if (
        any(volume.kind == "gcsfuse" for volume in spec.volumes)
        and spec.submit.service_account == "default"
    ):
        raise UsageError(
            "--service_account=default: a bucket is read with a service account of Workload "
            "Identity. Name one that can read the bucket."
        )


def _check_copies(spec: JobSpec) -> None:
    """Checks --stage, --publish and --stage_image, and that no folder is empty for want of them."""
    ends = [spec.publication] if spec.publication else []
    stage.check_image(spec.submit, (*spec.stages, *ends))
    if spec.submit.stage_image:
        check_image("stage_image", spec.submit.stage_image)
    if len(spec.stages) > MOST_STAGES:
        raise UsageError(
            f"--stage is given {len(spec.stages)} times: at most {MOST_STAGES} fit into a job, "
            "which has a rule for each. Copy a folder that holds several of them."
        )
    for copy in spec.stages:
        held = volume_of(spec.volumes, copy.folder)
        if held is None or held.kind != "emptydir" or held.path == copy.folder:
            where = f"on {held.kind}:{held.source}:{held.path}" if held else "on no volume"
            raise UsageError(
                f"--stage={copy.url}:{copy.folder}: must be a folder below an emptydir, which each "
                f"pod has for itself, because several pods copy at the same time; it is {where}. "
                "Add --volume=emptydir:SIZE:/scratch, and name a folder below /scratch."
            )
        if volume_of(spec.volumes, spec.train.folders.model_dir) is held and pathlib.PurePosixPath(
            spec.train.folders.model_dir
        ).is_relative_to(copy.folder):
            raise UsageError(
                f"--stage={copy.url}:{copy.folder}: --model_dir={spec.train.folders.model_dir} is "
                "in it, and a new pod would begin with the copy. Continue a run from its own "
                "volume, or name the copy with --init_from."
            )
    for name in ("data_dir", "init_from"):
        folder = getattr(spec.train.folders, name)
        held = volume_of(spec.volumes, folder) if folder else None
        if (
            held
            and held.kind == "emptydir"
            and not any(
                pathlib.PurePosixPath(folder).is_relative_to(copy.folder) for copy in spec.stages
            )
        ):
            raise UsageError(
                f"--{name}={folder}: is on an emptydir, which is empty when a pod starts. Copy the "
                f"folder there with --stage=gs://BUCKET/FOLDER:{folder}, or use a pvc."
            )


def check_rows(train: configuration.Config, workers: int, replicas: int) -> None:
    """Raises UsageError if a replica of the `replicas` of all `workers` would get no row."""
    rows, accumulate, shards = (
        train.input.batch_size,
        train.optimizer.accumulate,
        max(1, train.run.shards),
    )
    parts = replicas * accumulate * shards
    if rows < parts:
        raise UsageError(
            f"--batch_size={rows}: is split among {workers} worker(s) with "
            f"{replicas // workers} replica(s) each, --accumulate={accumulate} and "
            f"--shards={shards}: {parts} parts, and each needs a row. Raise it, or lower one of "
            "them."
        )


def _check_grace(spec: JobSpec) -> None:
    grace, notice = spec.train.gang.grace_seconds, spec.submit.spot_seconds
    # https://cloud.google.com/kubernetes-engine/docs/concepts/spot-vms
    if spec.submit.spot and grace > notice:
        raise UsageError(
            f"--grace_seconds={grace:g}: a Spot node ends {notice} s after its notice, whatever "
            f"grace period the pod has. Set --grace_seconds={notice} among the flags of train, so "
            "that the trainer plans its stop for it; if a checkpoint takes longer, the steps since "
            "the last one are computed again. If the nodes give more notice (GKE from 1.35 on: 120 "
            "s at most, by the configuration of their pool), set --spot_seconds."
        )
    if not spec.submit.spot and notice != 15:
        raise UsageError(
            f"--spot_seconds={notice}: is the notice of Spot nodes, which only --spot uses. Add "
            "--spot, or leave it out."
        )
    saves = [
        event["seconds"]
        for event in journal.read(pathlib.Path(spec.train.folders.model_dir) / "journal.jsonl")
        if event.get("event") == "save" and isinstance(event.get("seconds"), (int, float))
    ]
    slowest = max(saves, default=0.0)
    if slowest + RESERVE_SECONDS > grace:
        enough = math.ceil(2 * slowest + RESERVE_SECONDS)
        raise UsageError(
            f"--grace_seconds={grace:g}: the slowest checkpoint of this model folder took "
            f"{slowest:.1f} s, and ending the worker needs {RESERVE_SECONDS} s more. Set "
            f"--grace_seconds={enough} among the flags of train."
        )
