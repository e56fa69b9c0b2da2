"""The flags of `submit`: where a job runs, how large it is, and which target takes which flag."""

import dataclasses
from collections.abc import Sequence

from trainer.exit_codes import UsageError
from trainer.flags.knobs import Checked, Rule, as_given, at_least, knob, one_of

TARGETS = ("kubernetes", "local", "tpu_vm", "vertex", "slurm")


KUBERNETES, LOCAL, TPU_VM, VERTEX, SLURM = TARGETS


START, STATUS, STOP = VERBS = ("start", "status", "stop")


def _submit_knob(
    default,
    help: str,
    rule: Rule | None = None,
    targets: Sequence[str] = TARGETS,
    verbs: Sequence[str] = (START,),
    elsewhere: str = "",
):
    """A field of `Submit`, with the `targets` and `verbs` that use it; all others refuse it.

    The groups of `submit --help` come from the targets too. elsewhere: a sentence about what to do
    with another target, which follows the refusal.
    """
    field = knob(default, help, rule)
    words = _targets_in_words(targets)
    heading = f"For {words}:" if START in verbs else f"For a job that was submitted to {words}:"
    metadata = {**field.metadata, "targets": targets, "verbs": verbs, "heading": heading}
    metadata["elsewhere"] = elsewhere
    return dataclasses.field(default=default, metadata=metadata)


def _targets_in_words(targets: Sequence[str]) -> str:
    if set(targets) == set(TARGETS):
        return "every target"
    return " and ".join(f"--target={target}" for target in targets)


@dataclasses.dataclass(frozen=True)
class Submit(Checked):
    """Where a job runs and how large it is; the command that it runs follows after `--`.

    Raises UsageError, when it is made, for every flag that the target or the verb would ignore. A
    flag counts as given if its value is not its default, so `--memory=4Gi` passes everywhere: it
    asks for nothing that the job would not do anyway.
    """

    target: str = _submit_knob(
        KUBERNETES,
        "The kind of place: a Kubernetes cluster, worker processes on this machine, a Cloud TPU "
        "VM, Vertex AI, a Slurm cluster.",
        one_of(*TARGETS),
        verbs=VERBS,
    )

    workers: int = _submit_knob(
        1, "Workers that train together.", at_least(1), targets=(KUBERNETES, LOCAL, VERTEX, SLURM)
    )

    name: str = _submit_knob(
        "",
        "Name of the job and of everything that belongs to it.",
        targets=(KUBERNETES, TPU_VM, VERTEX, SLURM),
    )
    image: str = _submit_knob(
        "",
        "Container image with its tag or digest: REGISTRY/NAME:TAG or REGISTRY/NAME@sha256:HEX.",
        targets=(KUBERNETES, TPU_VM, VERTEX),
    )
    tpu: str = _submit_knob(
        "",
        "TPU slice of one host: for example v5e-8 on GKE, v5litepod-8 for a TPU VM.",
        targets=(KUBERNETES, TPU_VM),
    )
    spot: bool = _submit_knob(
        False,
        "Spot capacity: cheaper, but the provider may take it away. See --spot_seconds.",
        targets=(KUBERNETES, TPU_VM, VERTEX),
    )
    service_account: str = _submit_knob(
        "default",
        "Service account of the pods (its token is not mounted), of the TPU VM or of the job.",
        targets=(KUBERNETES, TPU_VM, VERTEX),
    )
    apply: bool = _submit_knob(
        False,
        "Start the job. Without it, the manifest or the commands are printed.",
        targets=(KUBERNETES, TPU_VM, VERTEX, SLURM),
    )

    cpu: str = _submit_knob(
        "2",
        "CPUs of a worker, as Kubernetes writes them: 4, 500m. They set --threads of train unless "
        "you do.",
        targets=(KUBERNETES, SLURM),
    )
    memory: str = _submit_knob("4Gi", "Memory of a worker.", targets=(KUBERNETES, SLURM))
    gpus: int = _submit_knob(
        0,
        "GPUs of a worker, as --gpu_resource counts them.",
        at_least(0),
        targets=(KUBERNETES, VERTEX, SLURM),
    )
    shm: str = _submit_knob(
        "",
        "Size of /dev/shm, which the GPUs of a worker use to communicate; it counts as memory. "
        "Default: 1Gi, and 8Gi from 4 GPUs on.",
        targets=(KUBERNETES,),
    )
    volume: tuple[str, ...] = _submit_knob(
        (),
        "A volume and its path in the pods: pvc:CLAIM:/PATH, emptydir:SIZE:/PATH, "
        "gcsfuse:BUCKET:/PATH or secret:NAME:/PATH. Repeat the flag for each volume.",
        targets=(KUBERNETES,),
    )
    node_selector: tuple[str, ...] = _submit_knob(
        (),
        "KEY=VALUE: a label that the nodes must have. Repeat the flag for each label.",
        targets=(KUBERNETES,),
    )
    toleration: tuple[str, ...] = _submit_knob(
        (),
        "A taint that the pods tolerate: KEY=VALUE:EFFECT, KEY:EFFECT or KEY. Repeat the flag for "
        "each taint.",
        targets=(KUBERNETES,),
    )
    pull_secret: str = _submit_knob(
        "", "Secret that is used to pull the image.", targets=(KUBERNETES,)
    )
    jobset: bool = _submit_knob(
        False,
        "Submit a JobSet, which restarts all workers together, instead of a Job.",
        targets=(KUBERNETES,),
    )
    queue: str = _submit_knob(
        "",
        "Kueue LocalQueue of the job; the job stays suspended until the queue admits it.",
        targets=(KUBERNETES,),
    )
    tensorboard: bool = _submit_knob(
        False, "Serve TensorBoard beside the job.", targets=(KUBERNETES,)
    )
    retries: int = _submit_knob(
        6,
        "Counted failures (bugs, storage, out of memory) after which the job fails.",
        at_least(0),
        targets=(KUBERNETES,),
    )
    deadline_seconds: int = _submit_knob(
        604_800,
        "Time after which the job fails, replaced pods included. The cluster counts anew when a "
        "JobSet restarts all workers and when a queue takes the job back; --queue_seconds does "
        "not.",
        at_least(1),
        targets=(KUBERNETES, VERTEX),
    )
    ttl_seconds: int = _submit_knob(
        86_400,
        "Time after its end when the job is deleted, with everything but its volumes.",
        at_least(0),
        targets=(KUBERNETES,),
    )
    cpu_limit: str = _submit_knob(
        "",
        "CPUs that a worker cannot exceed; default: no limit, which is faster. Some namespaces ask "
        "for one by a quota or a LimitRange.",
        targets=(KUBERNETES,),
    )
    scratch: str = _submit_knob(
        "",
        "Disk of a worker for /tmp and its log, requested and bounded. Default: 4Gi; in a queue "
        "only bounded, because few queues count disk.",
        targets=(KUBERNETES,),
    )
    spot_seconds: int = _submit_knob(
        15,
        "Notice before a Spot node ends; more where the node pool is configured for it.",
        at_least(1),
        targets=(KUBERNETES,),
    )
    env: tuple[str, ...] = _submit_knob(
        (),
        "NAME=VALUE: a variable of the workers' environment. Repeat the flag for each variable.",
        targets=(KUBERNETES, VERTEX),
        elsewhere=". --target=slurm and --target=local hand your own environment on: export it "
        "before submit",
    )
    env_secret: tuple[str, ...] = _submit_knob(
        (),
        "NAME=SECRET:KEY: a variable whose value is a key of a Secret. Repeat the flag for each.",
        targets=(KUBERNETES,),
        elsewhere=". --target=slurm and --target=local hand your own environment on, and a job of "
        "Vertex AI has no secrets in its variables",
    )
    runtime_class: str = _submit_knob(
        "",
        "RuntimeClass of the workers, for example nvidia on k3s, RKE2 and kubeadm.",
        targets=(KUBERNETES,),
    )
    annotation: tuple[str, ...] = _submit_knob(
        (), "KEY=VALUE: an annotation of the pods. Repeat the flag for each.", targets=(KUBERNETES,)
    )
    label: tuple[str, ...] = _submit_knob(
        (), "KEY=VALUE: a label of the pods. Repeat the flag for each.", targets=(KUBERNETES,)
    )
    priority_class: str = _submit_knob("", "PriorityClass of the workers.", targets=(KUBERNETES,))
    queue_priority: str = _submit_knob(
        "", "WorkloadPriorityClass of Kueue, which orders the queue.", targets=(KUBERNETES,)
    )
    queue_topology: str = _submit_knob(
        "",
        "required:LEVEL or preferred:LEVEL: Kueue places all workers in one domain of this level, "
        "for example required:cloud.google.com/gce-topology-block.",
        targets=(KUBERNETES,),
    )
    queue_seconds: int = _submit_knob(
        0,
        "Time that Kueue lets the job run, counted over all its admissions; 0: no limit.",
        at_least(0),
        targets=(KUBERNETES,),
    )
    gpu_resource: str = _submit_knob(
        "nvidia.com/gpu",
        "Resource that --gpus counts, for example nvidia.com/mig-1g.10gb or nvidia.com/gpu.shared.",
        targets=(KUBERNETES,),
    )
    anti_affinity: tuple[str, ...] = _submit_knob(
        (),
        "KEY: a label of nodes. No two workers run where its value is the same, for example "
        "kubernetes.io/hostname. Repeat the flag for each.",
        targets=(KUBERNETES,),
    )
    spread: tuple[str, ...] = _submit_knob(
        (),
        "KEY: a label of nodes. Workers are spread over its values as evenly as possible, for "
        "example topology.kubernetes.io/zone. Repeat the flag for each.",
        targets=(KUBERNETES,),
    )
    context: str = _submit_knob(
        "", "Context of kubectl; default: its current one.", targets=(KUBERNETES,), verbs=VERBS
    )
    namespace: str = _submit_knob(
        "",
        "Namespace of the job; default: that of the context.",
        targets=(KUBERNETES,),
        verbs=VERBS,
    )
    follow: bool = _submit_knob(
        False,
        "Print the logs of all workers until the job ends and exit with its code. Ctrl-C leaves "
        "the job running.",
        targets=(KUBERNETES,),
        elsewhere=". After --apply, Slurm's log is followed by `tail -F`, that of Vertex AI by "
        "`gcloud ai custom-jobs stream-logs`",
    )

    stage: tuple[str, ...] = _submit_knob(
        (),
        "gs://BUCKET/FOLDER:/PATH or s3://BUCKET/FOLDER:/PATH: a folder that is copied to the disk "
        "of each worker before it starts. Repeat the flag for each folder.",
        targets=(KUBERNETES, VERTEX),
        elsewhere=". Copy the folder yourself; --target=tpu_vm takes a bucket as --data_dir",
    )
    publish: str = _submit_knob(
        "",
        "gs://BUCKET/FOLDER or s3://BUCKET/FOLDER: where the model folder is copied after the last "
        "checkpoint. It counts if FOLDER.published beside it says `complete`.",
        targets=(KUBERNETES, VERTEX),
        elsewhere=". Copy the folder yourself; --target=tpu_vm takes a bucket as --model_dir",
    )
    stage_image: str = _submit_knob(
        "",
        "Container image with the tool that copies: gcloud for gs:// (google/cloud-sdk:slim), aws "
        "for s3:// (amazon/aws-cli).",
        targets=(KUBERNETES,),
    )

    zone: str = _submit_knob("", "Zone of the TPU VM, as in gcloud.", targets=(TPU_VM,))
    project: str = _submit_knob(
        "", "Project of the job; default: gcloud's current one.", targets=(TPU_VM, VERTEX)
    )
    valid_until: str = _submit_knob(
        "6h", "How long the request for a TPU VM waits in the queue.", targets=(TPU_VM,)
    )
    runtime_version: str = _submit_knob(
        "", "Software of the TPU VM; default: the one that fits --tpu.", targets=(TPU_VM,)
    )

    region: str = _submit_knob("", "Region of the job, as in gcloud.", targets=(VERTEX,))
    machine_type: str = _submit_knob(
        "", "Machine of each worker, for example n1-standard-8 or g2-standard-8.", targets=(VERTEX,)
    )
    gpu_type: str = _submit_knob(
        "", "Kind of the GPUs, for example NVIDIA_L4 or NVIDIA_TESLA_T4.", targets=(VERTEX,)
    )
    nfs: tuple[str, ...] = _submit_knob(
        (),
        "SERVER:/EXPORT:/mnt/nfs/NAME: an NFS share and its path in the containers. Repeat the "
        "flag for each share.",
        targets=(VERTEX,),
    )
    network: str = _submit_knob(
        "",
        "Network in which the NFS server is: projects/NUMBER/global/networks/NAME.",
        targets=(VERTEX,),
    )

    tasks_per_node: int = _submit_knob(
        1, "Workers that share a node.", at_least(1), targets=(SLURM,)
    )
    partition: str = _submit_knob(
        "", "Partition of the job; default: that of the cluster.", targets=(SLURM,)
    )
    account: str = _submit_knob(
        "", "Account that the job is charged to; default: your own.", targets=(SLURM,)
    )
    time_limit: str = _submit_knob(
        "",
        "Longest time of one attempt, as sbatch writes it: 90, 12:00:00, 2-00:00:00. Then the job "
        "saves and is queued again. Default: that of the partition.",
        targets=(SLURM,),
    )
    sbatch: tuple[str, ...] = _submit_knob(
        (),
        "Another option of sbatch, for example --sbatch=--constraint=a100. Repeat the flag for "
        "each option.",
        targets=(SLURM,),
    )
    python: str = _submit_knob(
        "",
        "Python on the nodes that has this program; default: the one that runs submit.",
        targets=(SLURM,),
    )

    status: str = _submit_knob(
        "",
        "Name of a job: print how it is doing.",
        targets=(KUBERNETES, SLURM),
        verbs=(STATUS,),
        elsewhere=". `gcloud ai custom-jobs list` shows jobs of Vertex AI",
    )
    stop: str = _submit_knob(
        "",
        "Name of a job: stop it. Its workers write a checkpoint; volumes stay.",
        targets=(KUBERNETES, SLURM),
        verbs=(STOP,),
        elsewhere=". `gcloud ai custom-jobs cancel` stops a job of Vertex AI, Ctrl-C any other",
    )

    def __post_init__(self):
        super().__post_init__()
        _refuse_ignored(self)

    @property
    def verb(self) -> str:
        """START, or what is done to a job that was started before: STATUS or STOP."""
        return STOP if self.stop else STATUS if self.status else START


def _refuse_ignored(submit: Submit) -> None:
    problems, remedy = [], "Leave it out."
    for field in dataclasses.fields(submit):
        value = getattr(submit, field.name)
        if value == field.default:
            continue
        if submit.target not in field.metadata["targets"]:
            users = _targets_in_words(field.metadata["targets"])
            rule = f"--target={submit.target} would ignore it; it is for {users}"
            rule += field.metadata["elsewhere"]
            remedy = "Leave it out, or use another --target."
        elif submit.verb not in field.metadata["verbs"]:
            asked = f"--{submit.verb}={getattr(submit, submit.verb)}"
            takes = "--context and --namespace" if submit.target == KUBERNETES else "--target"
            rule = f"{asked} would ignore it; it takes only {takes}"
        else:
            continue
        problems.append(f"{as_given(field.name, value)}: {rule}.")
    if len(problems) == 1:
        raise UsageError(f"{problems[0]} {remedy}")
    if problems:
        raise UsageError("\n".join([*problems, remedy.replace("it", "them", 1)]))
