"""The flags of `train`: one dataclass per concern, and `Config`, which holds a whole run."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.exit_codes import UsageError
from trainer.flags import places
from trainer.flags.knobs import (
    ONE_PER_LAYER,
    POSITIVE,
    SHARE,
    SPLIT_OR_DEFAULT,
    Checked,
    as_text,
    at_least,
    knob,
    one_of,
    within,
)
from trainer.flags.places import PLACE, PLACE_OR_BUCKET
from trainer.flags.tasks import METRIC_OR_DEFAULT


@dataclasses.dataclass(frozen=True)
class Folders(Checked):
    """The folders that a run reads and writes."""

    data_dir: str = knob("", "Folder of the prepared dataset.", PLACE_OR_BUCKET, result=False)
    model_dir: str = knob(
        "",
        "Folder of the run: its configuration, checkpoints, journal and TensorBoard files.",
        PLACE_OR_BUCKET,
        result=False,
    )
    init_from: str = knob(
        "",
        "Folder of another run: a new run takes its embedding and recurrent layers, but no "
        "decoder. A resume does not read it any more.",
        PLACE,
        later=True,
    )

    def refuse_addresses(self) -> None:
        """Raises UsageError if a folder is a bucket, which only a Cloud TPU VM copies."""
        for name in ("data_dir", "model_dir"):
            places.refuse_addresses(name, getattr(self, name))


@dataclasses.dataclass(frozen=True)
class Input(Checked):
    """How examples are put into batches."""

    batch_size: int = knob(
        32, "Rows per optimizer update: all workers, replicas and parts together.", at_least(1)
    )
    max_length: int = knob(
        256, "Longest example, in tokens or frames; longer ones are cut.", at_least(1)
    )
    truncate: str = knob("end", "The side that is cut off a long example.", one_of("start", "end"))
    padding: str = knob(
        "post",
        "The side of a short example that is padded. 'post' is masked exactly; 'pre' is not masked "
        "and always pads to --max_length.",
        one_of("pre", "post"),
    )
    bucket: bool = knob(
        True, "Batch examples of similar length together (only with --padding=post)."
    )


@dataclasses.dataclass(frozen=True)
class Model(Checked):
    """The network."""

    cell: str = knob("lstm", "The recurrent cell.", one_of("simple_rnn", "lstm", "gru"))
    units: tuple[int, ...] = knob(
        (64,), "Width of each recurrent layer, separated by commas.", ONE_PER_LAYER
    )
    rnn_from_cell: bool = knob(
        False, "Build the layer as keras.layers.RNN(cell); the results are equal.", result=False
    )
    bidirectional: bool = knob(False, "Read each sequence in both directions.")
    pooling: str = knob(
        "last",
        "How the states of the last layer are combined for the output layer.",
        one_of("last", "mean", "max"),
    )
    embedding_size: int = knob(
        64, "Width of the embedding, or of the layer of --frame_encoder.", at_least(1)
    )
    frame_encoder: str = knob(
        "none",
        "Of frames: what the first recurrent layer reads. none: their numbers as they are; dense: "
        "a layer over them, as wide as --embedding_size; convolution: two convolutions over frames "
        "that are pictures, then that layer.",
        one_of("none", "dense", "convolution"),
        later=True,
    )
    one_hot: bool = knob(
        False, "Fixed one-hot embedding, as wide as the vocabulary; --embedding_size is not used."
    )
    tied_embedding: bool = knob(
        False,
        "The output layer of a language model or a translation uses the embedding of its words as "
        "its weights; in a language model after a projection if their widths differ.",
        later=True,
    )
    attention: str = knob(
        "general",
        "How a translation weighs the words of its source: by the product of the states (dot), "
        "with a matrix between them (general), or not at all (none).",
        one_of("general", "dot", "none"),
        later=True,
    )
    dropout: float = knob(
        0.0,
        "Share of values dropped after the embedding or the frame encoder, between layers and "
        "before the output.",
        within(0, 1),
    )
    variational_dropout: bool = knob(
        False,
        "Between layers the same values of a row are dropped at all of its steps (Gal and "
        "Ghahramani 2016), which is faster, too.",
        later=True,
    )
    word_dropout: float = knob(
        0.0, "Share of tokens whose whole embedding is dropped.", within(0, 1)
    )


@dataclasses.dataclass(frozen=True)
class Optimizer(Checked):
    """How gradients change the weights."""

    optimizer: str = knob("adam", "The optimizer.", one_of("adam", "adamw", "sgd"))
    learning_rate: float = knob(
        1e-3, "Step size, after the warm-up and before any decay.", POSITIVE
    )
    momentum: float = knob(0.9, "Momentum of sgd.", within(0, 1))
    weight_decay: float = knob(0.01, "Decoupled weight decay of adamw.", at_least(0))
    schedule: str = knob(
        "constant",
        "How the learning rate changes: cosine falls to 0 at the last step, exponential to a "
        "hundredth.",
        one_of("constant", "cosine", "exponential"),
    )
    warmup_steps: int = knob(0, "Steps over which the learning rate rises from 0.", at_least(0))
    clip_norm: float = knob(
        0.0, "Largest global norm of a gradient; 0 means no clipping.", at_least(0)
    )
    accumulate: int = knob(
        1, "Parts of a batch that are computed one after the other, to save memory.", at_least(1)
    )
    ema: float = knob(
        0.0,
        "Decay of an exponential average of the weights, which evaluate, predict and export use; 0 "
        "means no average.",
        within(0, 1),
    )
    regression_loss: str = knob(
        "squared",
        "Of a regression: the squared error of standardised values, or huber, which grows no "
        "faster than the error where that is above one deviation.",
        one_of("squared", "huber"),
        later=True,
    )
    label_smoothing: float = knob(
        0.0, "Share of each label's probability that is spread over all classes.", within(0, 1)
    )
    class_weights: str = knob(
        "none",
        "'balanced' weights each class by the inverse of its share of the examples.",
        one_of("none", "balanced"),
    )
    frozen_steps: int = knob(
        0,
        "Updates during which everything that was taken from --init_from stays as it is.",
        at_least(0),
        later=True,
    )
    layer_decay: float = knob(
        1.0,
        "Factor of the learning rate from each layer to the one below it: the output layer and a "
        "decoder have the whole rate, the embedding the lowest.",
        SHARE,
        later=True,
    )


@dataclasses.dataclass(frozen=True)
class Run(Checked):
    """How long a run takes, how often it saves and logs, and on which devices it computes."""

    seed: int = knob(
        0, "Seed of initial weights, order of the examples and dropout.", within(0, 2**63)
    )
    epochs: int = knob(1, "Passes over the training split.", at_least(1), result=False)
    steps: int = knob(
        0, "Optimizer updates; if above 0, --epochs is not used.", at_least(0), result=False
    )
    eval_split: str = knob(
        "",
        "Split to evaluate during training; default: validation if there is one, else test.",
        SPLIT_OR_DEFAULT,
        result=False,
    )
    eval_steps: int = knob(
        0,
        "Steps between evaluations; the last step is always evaluated. 0: evaluate at the end of "
        "each epoch. -1: never.",
        at_least(-1),
        result=False,
    )
    translate_examples: int = knob(
        200,
        "Of a translation: while it trains, this many of the evaluated split, the first ones, are "
        "translated and compared with their references, by BLEU and chrF; 0: none.",
        at_least(0),
        result=False,
        later=True,
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
        "Steps per call of the compiled loop; 0: as many as take about half a second.",
        at_least(0),
        result=False,
    )
    keep: int = knob(3, "Checkpoints to keep; 0 keeps all.", at_least(0), result=False)
    best_metric: str = knob(
        "",
        "Metric of the evaluated split by which the best checkpoint is chosen; default: accuracy, "
        "perplexity of a language model, macro_f1 of tagging, rmse of regression.",
        METRIC_OR_DEFAULT,
    )
    early_stop_patience: int = knob(
        0, "Stop after this many evaluations without an improvement; 0: never.", at_least(0)
    )
    precision: str = knob(
        "float32",
        "Number format of the arithmetic. Weights stay float32, except with float64.",
        one_of("float32", "bfloat16", "float16", "float64"),
    )
    matmul_precision: str = knob(
        "default",
        "How an accelerator multiplies float32 matrices. default: fast, in TF32 on a GPU and in "
        "one bfloat16 pass on a TPU; highest: in full float32. A CPU always uses full float32.",
        one_of("default", "highest"),
    )
    jit: str = knob(
        "auto",
        "Compile the step with XLA; auto: on CPU and TPU, not on GPU, because cuDNN is faster.",
        one_of("auto", "on", "off"),
    )
    strategy: str = knob(
        "auto",
        "How the batch is distributed. auto: chosen by the number of workers and devices; "
        "multi_worker: requires several workers; tpu: all TPU cores of this host.",
        one_of("auto", "one_device", "mirrored", "multi_worker", "tpu"),
        result=False,
    )
    accelerator: str = knob(
        "auto",
        "Kind of device to train on; if none is visible, the run stops. auto: GPUs if there are "
        "any, else the CPU.",
        one_of("auto", "cpu", "gpu", "tpu"),
        result=False,
    )
    devices: int = knob(
        0,
        "Replicas in this process (on CPU they are logical devices); 0: all GPUs, or one CPU.",
        at_least(0),
        result=False,
    )
    shards: int = knob(
        0,
        "Slices of a replica's rows that are computed in parallel; 0: chosen at the first start, "
        "then kept.",
        at_least(0),
    )
    threads: int = knob(
        0,
        "Threads that TensorFlow computes with; 0: one per core (with --fuse only one), chosen at "
        "the first start, then kept.",
        at_least(0),
    )
    fuse: str = knob(
        "auto",
        "Run many steps inside one XLA program, on one CPU: faster if steps are small. auto: "
        "chosen at the first start, then kept. On a TPU this is always on.",
        one_of("auto", "on", "off"),
    )
    deterministic: bool = knob(True, "Use only GPU operations that repeat bit for bit.")


@dataclasses.dataclass(frozen=True)
class Gang(Checked):
    """How many workers train together, which one this process is, and how long workers wait."""

    num_workers: int = knob(
        0, "Workers that train together; 0: as in TF_CONFIG, else 1.", at_least(0), result=False
    )
    worker_index: int = knob(
        -1,
        "Number of this worker, from 0; -1: as in TF_CONFIG or JOB_COMPLETION_INDEX.",
        at_least(-1),
        result=False,
    )
    hosts: str = knob(
        "",
        "Addresses of the workers, HOST:PORT: a pattern with {index}, or a list with commas.",
        result=False,
    )
    chief_address: str = knob(
        "",
        "Another address of worker 0, HOST:PORT, which is tried first: that of a Kubernetes "
        "Service, whose name is known before the pod has one.",
        result=False,
    )
    gang_token_file: str = knob(
        "",
        "File with a secret that all workers of the job share, of mode 0600. Without it, any "
        "program that reaches a worker can take part.",
        PLACE,
        result=False,
    )
    local_network: str = knob(
        "own",
        "Network of several workers that submit or chaos starts on this machine. own: only these "
        "workers reach it; host: that of the machine, where TensorFlow's port is open to others.",
        one_of("own", "host"),
        result=False,
    )
    min_workers: int = knob(
        0,
        "Fewest workers to continue with if a lost one does not return; 0: all of them.",
        at_least(0),
        result=False,
    )
    rejoin_seconds: float = knob(
        60.0, "Seconds to wait for a lost worker to return.", POSITIVE, result=False
    )
    rendezvous_seconds: float = knob(
        300.0, "Seconds that workers wait for each other at the start.", POSITIVE, result=False
    )
    grace_seconds: float = knob(
        30.0,
        "Seconds that the cluster allows between SIGTERM and SIGKILL; a stop must fit into it.",
        POSITIVE,
        result=False,
    )
    hang_seconds: float = knob(
        0.0,
        "End a worker after this many seconds without a sign of life; 0: 60 s or 10 loops, "
        "whichever is longer.",
        at_least(0),
        result=False,
    )
    max_restarts: int = knob(
        10,
        "Restarts without a new checkpoint after which the job fails.",
        at_least(0),
        result=False,
    )
    supervise: str = knob(
        "auto",
        "Train in a child process with a supervisor; auto: with several workers, or as process 1.",
        one_of("auto", "on", "off"),
        result=False,
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole training run: one object per concern."""

    folders: Folders
    input: Input
    model: Model
    optimizer: Optimizer
    run: Run
    gang: Gang

    @property
    def rows_at_once(self) -> int:
        """Rows of the global batch that are computed at the same time, on all replicas together.

        `--accumulate` splits a batch into parts that are computed one after the other.
        """
        return self.input.batch_size // self.optimizer.accumulate

    def __post_init__(self):
        parts = max(1, self.run.devices) * self.optimizer.accumulate * max(1, self.run.shards)
        if self.input.batch_size < parts:
            raise UsageError(
                f"--batch_size={self.input.batch_size}: --devices={self.run.devices}, "
                f"--accumulate={self.optimizer.accumulate} and --shards={self.run.shards} split it "
                f"into {parts} parts, and each needs a row. Raise it, or lower one of them."
            )
        if self.model.tied_embedding and self.model.one_hot:
            raise UsageError(
                "--tied_embedding: the embedding must be trained, so --one_hot cannot go with it. "
                "Leave out one of the two."
            )
        if self.run.devices > 1 and self.run.strategy == "one_device":
            raise UsageError(
                f"--devices={self.run.devices}: --strategy=one_device uses one. Use "
                "--strategy=mirrored."
            )
        if (self.run.accelerator == "tpu") != (
            self.run.strategy == "tpu"
        ) and self.run.accelerator != "auto":
            raise UsageError(
                f"--accelerator={self.run.accelerator}: --strategy={self.run.strategy} does not "
                "train on it. --strategy=tpu trains on TPUs, the others do not. Make them agree."
            )
        on_tpu = "tpu" in (self.run.strategy, self.run.accelerator)
        if on_tpu and self.run.precision not in ("float32", "bfloat16"):
            raise UsageError(
                f"--precision={self.run.precision}: a TPU computes in float32 and bfloat16. Use "
                "one of them."
            )
        if self.run.strategy == "tpu" and self.input.batch_size % parts:
            raise UsageError(
                f"--batch_size={self.input.batch_size}: must be a multiple of --devices x "
                f"--accumulate x --shards, here {parts}, because a TPU program takes arrays of one "
                "size. Use another --batch_size, or lower --accumulate."
            )
        if self.run.strategy == "tpu" and self.gang.num_workers > 1:
            raise UsageError(
                f"--num_workers={self.gang.num_workers}: --strategy=tpu trains on the TPUs of one "
                "host, because TensorFlow cannot join TPU hosts as workers. Leave out "
                "--num_workers."
            )
        if self.optimizer.frozen_steps and not self.folders.init_from:
            raise UsageError(
                f"--frozen_steps={self.optimizer.frozen_steps}: freezes what was taken from "
                "--init_from, which is not given. Name a folder of `train`, or leave out "
                "--frozen_steps."
            )
        if self.run.early_stop_patience and self.run.eval_split == "test":
            raise UsageError(
                f"--early_stop_patience={self.run.early_stop_patience}: must not use "
                "--eval_split=test, or the metrics that judge the model would also choose it. Use "
                "--eval_split=validation."
            )
        if self.run.early_stop_patience and self.run.eval_steps == -1:
            raise UsageError(
                f"--early_stop_patience={self.run.early_stop_patience}: needs evaluations, and "
                "--eval_steps=-1 turns them off. Leave out one of the two."
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
    """Returns the Config of {flag name: value}; absent flags take their defaults."""
    sections = {}
    for name, section in TRAIN_SECTIONS.items():
        known = {field.name for field in dataclasses.fields(section)}
        sections[name] = section(**{key: value for key, value in values.items() if key in known})
    return Config(**sections)


def to_flat(config: Config) -> dict[str, Any]:
    """Returns {flag name: value} of all sections, in the order of their definition."""
    return {
        key: value
        for section in TRAIN_SECTIONS
        for key, value in dataclasses.asdict(getattr(config, section)).items()
    }


def fields() -> dict[str, dataclasses.Field]:
    """Returns {flag name: field} of `train`."""
    return {
        field.name: field
        for section in TRAIN_SECTIONS.values()
        for field in dataclasses.fields(section)
    }


def replace(config: Config, **changes) -> Config:
    """Returns the same configuration with some flags changed."""
    return from_flat({**to_flat(config), **changes})


def as_flags(config: Config, without: Sequence[str] = ()) -> list[str]:
    """Returns the flags that differ from their defaults, except `without`: a command line."""
    defaults = {name: field.default for name, field in fields().items()}
    return [
        f"--{name}={as_text(value)}"
        for name, value in to_flat(config).items()
        if value != defaults[name] and name not in without
    ]


def as_markdown(config: Config) -> str:
    """Returns a table of all flags and their values."""
    rows = [f"| {name} | {as_text(value)} |" for name, value in to_flat(config).items()]
    return "\n".join(["| flag | value |", "|---|---|", *rows])
