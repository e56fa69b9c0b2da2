"""The table of checks: each judges a configuration and facts, and returns a finding.

A check never looks at the machine, so tests can give it any facts.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping

from trainer.devices import accelerator, cuda
from trainer.devices.accelerator import TENSORFLOWS
from trainer.doctor.facts import Data, Facts, Folder, Sight
from trainer.doctor.quotas import Quota
from trainer.exit_codes import StorageError, TrainerError, UsageError
from trainer.flags.run import Config
from trainer.flags.use import Doctor
from trainer.launch.values import quantity
from trainer.models import shapes

OK, WARNING, ERROR, SKIPPED = "ok", "warning", "error", "skipped"

# With fewer rows a replica is mostly overhead; `resources.settled` has the same bound for shards.
ROWS_AT_LEAST = 16
_OTHER_FILES = 100_000_000  # Bytes left for the journal, event files and other files.


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of a check.

    level: ok, warning, error or skipped. A warning or an error has a remedy.
    """

    level: str
    subject: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.level:8}{self.subject}: {self.text}" + (
            f" {self.remedy}" if self.remedy else ""
        )


def version(text: str) -> tuple[int, ...]:
    """Returns the leading numbers of a version: (2, 21, 0) for "2.21.0rc1"."""
    return tuple(int(part) for part in re.match(r"[\d.]*", text)[0].split(".") if part)


# --- packages -------------------------------------------------------------------------------------


def check_python(config: Config, facts: Facts) -> Finding:
    found = ".".join(map(str, facts.python))
    if facts.python < (3, 10):
        return Finding(
            ERROR,
            "Python",
            f"{found}, but the trainer needs 3.10 or newer.",
            "Make the environment with Python 3.10 to 3.13.",
        )
    if facts.python > (3, 13):
        return Finding(
            WARNING,
            "Python",
            f"{found}, which the trainer is not tested with.",
            "Use Python 3.10 to 3.13.",
        )
    return Finding(OK, "Python", found)


def check_tensorflow(config: Config, facts: Facts) -> Finding:
    found = {name: facts.packages[name] for name in TENSORFLOWS if name in facts.packages}
    named = " and ".join(f"{name} {number}" for name, number in found.items())
    if not found and isinstance(facts.sight, Sight):
        return Finding(
            WARNING,
            "TensorFlow",
            "it can be imported, but from an unknown package.",
            f"The trainer is tested with {', '.join(TENSORFLOWS[:3])} from 2.20 on.",
        )
    if not found:
        return Finding(
            ERROR,
            "TensorFlow",
            "not installed.",
            "pip install 'rnn-trainer[cpu]', or [gpu], or [tpu].",
        )
    if len(found) > 1:
        return Finding(
            ERROR,
            "TensorFlow",
            f"{named} are installed in the same folder and overwrite each other's files.",
            f"Install only one: pip uninstall -y {' '.join(found)}; pip install "
            "'rnn-trainer[cpu]' or [gpu] or [tpu].",
        )
    [(name, number)] = found.items()
    if version(number) < (2, 20):
        return Finding(
            ERROR,
            "TensorFlow",
            f"{named}, but the trainer needs 2.20 or newer.",
            f"pip install -U '{name}>=2.20'",
        )
    wrong = {
        "gpu": ("tensorflow-cpu", "tensorflow-tpu"),
        "tpu": tuple(other for other in TENSORFLOWS if other != "tensorflow-tpu"),
    }
    run = config.run
    by_strategy = run.accelerator == "auto" and run.strategy == "tpu"
    needed, flag = (
        ("tpu", "--strategy=tpu")
        if by_strategy
        else (run.accelerator, f"--accelerator={run.accelerator}")
    )
    if name in wrong.get(needed, ()):
        return Finding(
            ERROR,
            "TensorFlow",
            f"{flag}, but {named} is built without support for it.",
            f"pip uninstall -y {name}; pip install 'rnn-trainer[{needed}]'",
        )
    return Finding(OK, "TensorFlow", named)


def check_keras(config: Config, facts: Facts) -> Finding:
    number = facts.packages.get("keras")
    if number is None:
        return Finding(ERROR, "Keras", "not installed.", "pip install 'keras>=3'")
    if version(number)[0] != 3:
        return Finding(
            ERROR,
            "Keras",
            f"{number}, but the trainer is written for Keras 3.",
            "pip install 'keras>=3,<4'",
        )
    if isinstance(facts.sight, Sight) and facts.sight.backend != "tensorflow":
        return Finding(
            ERROR,
            "Keras",
            f"{number} with the backend {facts.sight.backend}: the trainer needs tensorflow.",
            "Unset KERAS_BACKEND, or correct `backend` in ~/.keras/keras.json.",
        )
    return Finding(OK, "Keras", number)


def check_tensorboard(config: Config, facts: Facts) -> Finding:
    number = facts.packages.get("tensorboard")
    if number is None:
        return Finding(
            ERROR,
            "TensorBoard",
            "not installed; TensorFlow does not bring it, and summaries fail without it.",
            "pip install 'tensorboard>=2.20'",
        )
    if version(number) < (2, 20):
        return Finding(
            ERROR,
            "TensorBoard",
            f"{number}, but the trainer needs 2.20 or newer.",
            "pip install -U 'tensorboard>=2.20'",
        )
    return Finding(OK, "TensorBoard", number)


# --- devices --------------------------------------------------------------------------------------


def _chosen(config: Config, visible: Mapping[str, int]) -> str:
    return accelerator.chosen(config.run.accelerator, visible, config.run.strategy)


def check_accelerator(config: Config, facts: Facts) -> Finding:
    if isinstance(facts.sight, str):
        return Finding(
            ERROR,
            "accelerator",
            f"{facts.sight}.",
            "Run `python -c 'import tensorflow'` and read its error.",
        )
    visible = facts.sight.visible
    problem = accelerator.refusal(config.run.accelerator, visible, config.run.strategy)
    if problem:
        said = facts.sight.problem and f" TensorFlow says: {facts.sight.problem}"
        return Finding(ERROR, "accelerator", problem, said.strip())
    kind = _chosen(config, visible)
    if kind != "CPU" and config.run.devices > visible[kind]:
        return Finding(
            ERROR,
            "accelerator",
            f"--devices={config.run.devices}: TensorFlow sees {visible[kind]} {kind}.",
            "Ask for fewer, or make the others visible.",
        )
    return Finding(
        OK, "accelerator", f"{accelerator.in_words(visible)} visible; the run uses the {kind}"
    )


def check_given(config: Config, facts: Facts) -> Finding:
    """Devices that the process was given, as in a pod, must be used unless a flag excludes them."""
    if not facts.given:
        return Finding(OK, "devices given", "none beside the CPU")
    words = ", ".join(f"{kind} ({evidence.text})" for kind, evidence in facts.given.items())
    if isinstance(facts.sight, str):
        return Finding(SKIPPED, "devices given", f"{words}; what TensorFlow sees is not known")
    visible = facts.sight.visible
    used = _chosen(config, visible)
    unused = {
        kind: evidence
        for kind, evidence in facts.given.items()
        if config.run.accelerator == "auto" and kind != used
    }
    if not unused:
        return Finding(OK, "devices given", words)
    [(kind, evidence), *_] = unused.items()
    return Finding(
        ERROR if evidence.asked else WARNING,
        "devices given",
        f"a {kind} ({evidence.text}), but TensorFlow sees {accelerator.in_words(visible)} and the "
        f"run would use the {used}.",
        "Train on it with --strategy=tpu, or use --accelerator=cpu."
        if kind == "TPU" and (visible.get("TPU") or "tensorflow-tpu" in facts.packages)
        else accelerator.remedy(kind),
    )


def check_kernels(config: Config, facts: Facts) -> Finding:
    """TensorFlow must have kernels for every GPU, best in a form that needs no compiler."""
    if isinstance(facts.sight, str):
        return Finding(SKIPPED, "GPU kernels", "what TensorFlow sees is not known")
    gpus, built_for = facts.sight.gpus, facts.sight.built_for
    if _chosen(config, facts.sight.visible) != "GPU" or not gpus or not built_for:
        return Finding(OK, "GPU kernels", "none needed, or the build does not name its GPUs")
    name, capability = min(gpus, key=lambda gpu: cuda.FORMS.index(cuda.form(gpu[1], built_for)))
    form = cuda.form(capability, built_for)
    text = (
        f"{name} has compute capability {capability[0]}.{capability[1]}, and TensorFlow was built "
        f"for {', '.join(built_for)}"
    )
    if form == "none":
        return Finding(
            ERROR,
            "GPU kernels",
            f"{text}: it has no code for this GPU.",
            "Install a TensorFlow that names this GPU, use another GPU, or --accelerator=cpu.",
        )
    if form != "native":
        compiled = "every kernel" if form == "ptx" else "the kernels without machine code for it"
        return Finding(
            WARNING,
            "GPU kernels",
            f"{text}: the driver compiles {compiled} at the first use, which makes the first start "
            "longer, up to minutes. It keeps them in cuda_cache of the model folder or in "
            "CUDA_CACHE_PATH, at most 4 GiB, and later starts read them there.",
            "Leave room for them, or install a TensorFlow that names this GPU.",
        )
    return Finding(OK, "GPU kernels", text)


def check_implementation(config: Config, facts: Facts) -> Finding:
    layers = ", ".join(f"rnn_{layer}" for layer in range(len(config.model.units)))
    if isinstance(facts.sight, str):
        return Finding(SKIPPED, f"implementation of {layers}", "what TensorFlow sees is not known")
    name, reason = facts.sight.implementation
    return Finding(OK, f"implementation of {layers}", f"{name} of {config.model.cell}: {reason}")


def replicas(config: Config, facts: Facts) -> int:
    """Returns the replicas of one worker: --devices, else every GPU, else one CPU."""
    if config.run.devices or config.run.strategy == "one_device" or isinstance(facts.sight, str):
        return max(1, config.run.devices)
    kind = _chosen(config, facts.sight.visible)
    return 1 if kind == "CPU" else max(1, facts.sight.visible[kind])


def check_batch(config: Config, facts: Facts) -> Finding:
    rows, each = config.rows_at_once, replicas(config, facts)
    count = facts.workers * each
    dealt = (
        f"{rows} rows at a time (--batch_size={config.input.batch_size}, "
        f"--accumulate={config.optimizer.accumulate}) for "
        f"{facts.workers} worker(s) of {each} replica(s)"
    )
    if rows < count * max(1, config.run.shards):
        return Finding(
            ERROR,
            "batch",
            f"{dealt} with --shards={config.run.shards}, which need a row each.",
            "Raise --batch_size, or lower --accumulate, --shards, --devices or the number of "
            "workers.",
        )
    if rows // count < ROWS_AT_LEAST and count > 1:
        return Finding(
            WARNING,
            "batch",
            f"{dealt}: {rows // count} each is mostly overhead.",
            f"Raise --batch_size to {ROWS_AT_LEAST * count * config.optimizer.accumulate}, or use "
            "fewer replicas.",
        )
    if rows % count:
        return Finding(
            WARNING,
            "batch",
            f"{dealt}: some get {rows // count + 1} rows and the others wait for them.",
            f"Use a multiple of {count * config.optimizer.accumulate}.",
        )
    return Finding(OK, "batch", f"{dealt}: {rows // count} each")


def check_gang(config: Config, facts: Facts) -> Finding:
    if facts.refused_gang:
        return Finding(ERROR, "workers", facts.refused_gang)
    return Finding(OK, "workers", f"{facts.workers}")


def check_rows(config: Config, facts: Facts) -> Finding:
    """A batch is held in memory whole, also if it takes each example several times."""
    if not isinstance(facts.data, Data) or facts.data.in_streams:
        return Finding(SKIPPED, "rows of a batch", "needs a dataset of single examples")
    rows, examples = config.input.batch_size, facts.data.examples
    if rows > examples:
        return Finding(
            WARNING,
            "rows of a batch",
            f"--batch_size={rows}, but there are {examples} training examples: an update takes "
            "some of them several times, and needs memory for all its rows.",
            f"Use --batch_size={examples} or less.",
        )
    return Finding(OK, "rows of a batch", f"{rows} of {examples} training examples")


# --- folders --------------------------------------------------------------------------------------


def check_data(config: Config, facts: Facts) -> Finding:
    if isinstance(facts.data, str):
        return Finding(ERROR if config.folders.data_dir else SKIPPED, "data", facts.data)
    if not facts.data.examples:
        return Finding(
            ERROR,
            "data",
            f"{config.folders.data_dir} has no training split.",
            "Prepare a dataset with training rows.",
        )
    data = facts.data
    parts = [f"{config.folders.data_dir} is complete: {data.examples} training examples"]
    parts += [f"{data.classes} classes"] if data.classes else []
    parts += [f"{data.values} values"] if data.values else []
    if data.frame:
        parts.append(f"frames of {' x '.join(map(str, data.frame))} features")
    else:
        parts.append(f"vocabulary of {data.vocabulary_size}")
    return Finding(OK, "data", ", ".join(parts))


def check_source(config: Config, facts: Facts) -> Finding:
    folder = config.folders.init_from
    if facts.checkpoints and folder:
        return Finding(OK, "source", f"{folder} is not needed: the run has checkpoints of its own")
    if isinstance(facts.source, str):
        return Finding(ERROR if folder else SKIPPED, "source", facts.source)
    return Finding(OK, "source", f"{folder} has {facts.source} checkpoint(s) to start from")


def check_model_folder(config: Config, facts: Facts) -> Finding:
    folder = facts.model_folder
    if isinstance(folder, str):
        return Finding(SKIPPED, "model folder", folder)
    where = (
        str(folder.path)
        if folder.probed == folder.path.absolute()
        else f"{folder.path} (to be made in {folder.probed})"
    )
    if folder.problems:
        tried = "; ".join(f"cannot {what} it: {error}" for what, error in folder.problems.items())
        return Finding(
            ERROR,
            "model folder",
            f"{where}: {tried}.",
            "Checkpoints need a file system that locks (flock), syncs and renames folders, and "
            "that this user can write to. Choose another --model_dir, or correct its owner "
            "(fsGroup in a pod).",
        )
    return Finding(OK, "model folder", f"{where} can be written, synced, locked and renamed in")


def copies(config: Config, data: Data) -> int:
    """Returns the most checkpoints at one time: those kept, the best one, the one being written."""
    run = config.run
    steps = data.epochs(config.input).total_steps(run)
    kept = min(run.keep or math.inf, math.ceil(steps / run.save_steps))
    return int(kept) + (0 if run.eval_steps == -1 else 1) + 1


def check_space(config: Config, facts: Facts) -> Finding:
    if not isinstance(facts.data, Data) or not isinstance(facts.model_folder, Folder):
        return Finding(SKIPPED, "free space", "needs a dataset and a model folder")
    data = facts.data
    size = shapes.checkpoint_bytes(
        config, data.vocabulary_size, data.outputs, data.in_streams, data.second, data.frame
    )
    wanted = max(1, copies(config, data) - facts.checkpoints)
    free, where = facts.model_folder.free, facts.model_folder.probed
    needs = (
        f"{_bytes(free)} free in {where}; a checkpoint takes {_bytes(size)}, and room for {wanted} "
        f"more is needed (--keep={config.run.keep}, --save_steps={config.run.save_steps}), beside "
        f"{_bytes(_OTHER_FILES)} for the journal and TensorBoard"
    )
    if free < size + _OTHER_FILES:
        return Finding(
            ERROR,
            "free space",
            f"{needs}: not one fits.",
            "Free some space, or choose another --model_dir or a smaller model.",
        )
    if free < wanted * size + _OTHER_FILES:
        return Finding(
            WARNING,
            "free space",
            f"{needs}: the disk will be full before the end.",
            "Free some space, or lower --keep.",
        )
    return Finding(OK, "free space", needs)


def _bytes(count: int) -> str:
    """Returns three digits and a decimal unit: 1.23 GB."""
    power = min(4, (len(str(max(1, count))) - 1) // 3)
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


# --- cluster --------------------------------------------------------------------------------------


def check_cluster(config: Config, facts: Facts) -> Finding:
    cluster = facts.cluster
    if isinstance(cluster, str):
        return Finding(SKIPPED, "cluster", cluster)
    at = f"context {cluster.context}, namespace {cluster.namespace}"
    if cluster.problem:
        return Finding(
            ERROR,
            "cluster",
            f"{at}: {cluster.problem}.",
            "Try `kubectl cluster-info`, or use another --context.",
        )
    return Finding(OK, "cluster", at)


def check_permissions(config: Config, facts: Facts, settings: Doctor) -> Finding:
    denied = facts.cluster.denied
    if denied:
        return Finding(
            ERROR,
            "permissions",
            f"you may not {', '.join(denied)} in {facts.cluster.namespace}.",
            "Ask for a Role with these verbs, or use another --namespace.",
        )
    return Finding(
        OK,
        "permissions",
        f"jobs can be submitted, followed and stopped in {facts.cluster.namespace}",
    )


def check_pod_security(config: Config, facts: Facts, settings: Doctor) -> Finding:
    level = facts.cluster.pod_security
    if level is None:
        return Finding(
            WARNING,
            "Pod Security",
            f"the labels of namespace {facts.cluster.namespace} cannot be read.",
            "Ask for `get` on namespaces, or rely on the server-side dry run of `submit --apply`.",
        )
    # SYS_RESOURCE, which raises the limit of locked memory, is not among the capabilities of
    # baseline (https://kubernetes.io/docs/concepts/security/pod-security-standards/).
    if config.run.strategy == "tpu" and level in ("restricted", "baseline"):
        return Finding(
            ERROR,
            "Pod Security",
            f"{facts.cluster.namespace} enforces {level}, and a TPU pod adds the capability "
            "SYS_RESOURCE, which only privileged allows.",
            "Use a --namespace with the level privileged.",
        )
    return Finding(OK, "Pod Security", f"{facts.cluster.namespace} enforces {level or 'no level'}")


def check_queue(config: Config, facts: Facts, settings: Doctor) -> Finding:
    queues = facts.cluster.queues
    there = f"queues of {facts.cluster.namespace}: {', '.join(queues or ()) or 'none'}"
    if queues is None:
        there = "Kueue is not installed, or its queues cannot be read"
    if settings.queue and settings.queue not in (queues or ()):
        return Finding(
            ERROR,
            "queue",
            f"--queue={settings.queue}: {there}.",
            "Name one of them, create a LocalQueue, or leave it out.",
        )
    return Finding(OK, "queue", f"{settings.queue or 'none asked for'}; {there}")


def check_quota(config: Config, facts: Facts, settings: Doctor) -> Finding:
    """Every quota that counts the job must have room; one that may count it earns a warning."""
    cluster = facts.cluster
    if cluster.quotas is None:
        return Finding(
            WARNING,
            "quota",
            f"the quotas of {cluster.namespace} cannot be read.",
            "Ask for `list` on resourcequotas.",
        )
    priority_class = settings.priority_class or cluster.default_class
    counting = [(quota, quota.counts(priority_class)) for quota in cluster.quotas]
    found = [
        problem if sure else _doubtful(problem, quota)
        for quota, sure in counting
        if sure is not False and (problem := _lack(quota, config, facts, settings))
    ]
    if found:
        return min(found, key=lambda finding: finding.level != ERROR)
    tightest: dict[str, Quota] = {}
    for quota in (quota for quota, sure in counting if sure):
        for name in quota.counted:
            tightest[name] = min(tightest.get(name, quota), quota, key=lambda one: one.room(name))
    known = ", ".join(
        f"{name} {used} of {hard}"
        for name in sorted(tightest)
        for used, hard in [tightest[name].counted[name]]
    )
    none = f"none in {cluster.namespace}{' that counts this job' if cluster.quotas else ''}"
    return Finding(OK, "quota", known or none)


def _lack(quota: Quota, config: Config, facts: Facts, settings: Doctor) -> Finding | None:
    """Returns the error of a quota that has too little room for the job; None if it has enough."""
    where = f"{facts.cluster.namespace}, quota {quota.name}"
    limit = settings.cpu_limit or _default(facts, "cpu")
    if "limits.cpu" in quota.counted and not limit:
        return Finding(
            ERROR,
            "quota",
            f"{where}: it counts limits.cpu, so every pod must have such a limit.",
            "Use --cpu_limit, here and for `submit`.",
        )
    for name, (count, words) in _needed(config, facts, settings, limit).items():
        if name in quota.counted and quota.room(name) < count:
            used, hard = quota.counted[name]
            return Finding(
                ERROR,
                "quota",
                f"{name} in {where}: {used} of {hard} used, the job needs {words}.",
                "Wait for other jobs to end, use fewer workers or smaller ones, or ask for more.",
            )
    return None


def _doubtful(problem: Finding, quota: Quota) -> Finding:
    """Returns the warning that stands for the error of a quota that may not count the job."""
    scopes = "; ".join(map(str, quota.scopes))
    return dataclasses.replace(
        problem,
        level=WARNING,
        text=f"{problem.text} It counts only some pods ({scopes}), and it is not known whether "
        "those of the job are among them.",
        remedy="Name --priority_class, here and for `submit`, or see `kubectl describe "
        f"resourcequota {quota.name}`. {problem.remedy}",
    )


def _needed(
    config: Config, facts: Facts, settings: Doctor, limit: str
) -> dict[str, tuple[float, str]]:
    """Returns {resource: what the job needs, in numbers and in words}, without TensorBoard.

    limit: the CPUs that a worker cannot exceed; "" for none.
    """
    workers, cpu, memory = facts.workers, settings.cpu, settings.memory
    # The same of each worker.
    each = {
        "pods": (1, ""),
        "count/pods": (1, ""),
        **dict.fromkeys(("cpu", "requests.cpu"), (quantity(cpu), f" of --cpu={cpu}")),
        **dict.fromkeys(
            ("memory", "requests.memory", "limits.memory"),
            (quantity(memory), f" of --memory={memory}"),
        ),
        **({"limits.cpu": (quantity(limit), f" of {limit}")} if limit else {}),
    }
    if config.run.accelerator == "gpu":
        each["requests.nvidia.com/gpu"] = (max(1, config.run.devices), "")
    needed = {
        name: (workers * count, f"{workers} worker(s){words}" if words else f"{workers * count:g}")
        for name, (count, words) in each.items()
    }
    once = {"count/jobs.batch": 1, "count/networkpolicies.networking.k8s.io": 1}
    if workers > 1:
        # One in which each worker has a name, and one that leads to worker 0.
        once |= dict.fromkeys(("services", "count/services"), 2)
        if not config.gang.gang_token_file:
            once |= dict.fromkeys(("secrets", "count/secrets"), 1)
    return needed | {name: (count, str(count)) for name, count in once.items()}


def _default(facts: Facts, resource: str) -> str:
    """Returns the limit that a LimitRange gives containers without one; "" if none does."""
    return next(
        (
            item["default"][resource]
            for item in facts.cluster.ranges or ()
            if resource in item.get("default", {})
        ),
        "",
    )


def check_limit_range(config: Config, facts: Facts, settings: Doctor) -> Finding:
    if facts.cluster.ranges is None:
        return Finding(
            WARNING,
            "limit range",
            f"the limit ranges of {facts.cluster.namespace} cannot be read.",
            "Ask for `list` on limitranges.",
        )
    sizes = {
        "cpu": (settings.cpu, settings.cpu_limit or _default(facts, "cpu")),
        "memory": (settings.memory, settings.memory),
    }
    for resource, (request, limit) in sizes.items():
        flags = "--cpu and --cpu_limit" if resource == "cpu" else "--memory"
        problems = [
            f"at most {item['max'][resource]} {resource} for a {item['type']}"
            for item in facts.cluster.ranges
            if resource in item.get("max", {})
            and quantity(limit or request) > quantity(item["max"][resource])
        ]
        problems += [
            f"at least {item['min'][resource]} {resource} for a {item['type']}"
            for item in facts.cluster.ranges
            if resource in item.get("min", {})
            and quantity(request) < quantity(item["min"][resource])
        ]
        if limit and quantity(limit) < quantity(request):
            problems.append(f"a limit of {limit} {resource} for containers that set none")
        if problems:
            return Finding(
                ERROR,
                "limit range",
                f"{facts.cluster.namespace} has {', '.join(problems)}, and a worker requests "
                f"{request}.",
                f"Use other {flags}, here and for `submit`.",
            )
    known = len(facts.cluster.ranges)
    return Finding(
        OK,
        "limit range",
        f"{known} in {facts.cluster.namespace}, and a worker fits"
        if known
        else f"none in {facts.cluster.namespace}",
    )


# --- the table ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Check:
    """at_start: whether a run performs the check at startup; error: what an error raises then."""

    judge: Callable[[Config, Facts], Finding]
    at_start: bool = False
    error: type[TrainerError] = UsageError


CHECKS = (
    Check(check_python, at_start=True),
    Check(check_tensorflow, at_start=True),
    Check(check_keras, at_start=True),
    Check(check_tensorboard, at_start=True),
    Check(check_accelerator),  # When a run starts, `strategy.place` checks it.
    Check(check_given, at_start=True),
    Check(check_kernels),
    Check(check_implementation),
    Check(check_gang),
    Check(check_batch),
    Check(check_rows, at_start=True),
    Check(check_data),
    Check(check_source),
    Check(check_model_folder),
    Check(check_space, at_start=True, error=StorageError),
    Check(check_cluster),
)
CLUSTER_CHECKS = (
    check_permissions,
    check_pod_security,
    check_queue,
    check_quota,
    check_limit_range,
)


def findings(config: Config, settings: Doctor, facts: Facts) -> list[Finding]:
    """Returns the finding of every check; those of a cluster only if it answers."""
    found = [check.judge(config, facts) for check in CHECKS]
    if check_cluster(config, facts).level == OK:
        found += [judge(config, facts, settings) for judge in CLUSTER_CHECKS]
    return found
