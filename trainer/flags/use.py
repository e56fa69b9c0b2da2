"""The flags of the commands that use, disturb or examine a run, or a cluster."""

import dataclasses

from trainer.exit_codes import UsageError
from trainer.flags.knobs import POSITIVE, Checked, Rule, at_least, knob, one_of, within
from trainer.flags.places import NO_PATTERN, OUTPUT, PLACE
from trainer.flags.prepare import READ_AGAIN, SOURCES, TABLES


def _dataset_of_use() -> dataclasses.Field:
    """A field for the dataset of a command that uses a model."""
    return knob(
        "",
        "Folder of the prepared dataset; default: the dataset that the model was trained on.",
        PLACE,
    )


def _checkpoint() -> dataclasses.Field:
    """A field for the checkpoint that a command uses."""
    return knob(
        "auto",
        "The newest checkpoint, or the best one; auto: the best if there is one.",
        one_of("auto", "newest", "best"),
    )


def _accelerator_of_use(default: str, help: str) -> dataclasses.Field:
    """A field for the device of a command that uses a model; a TPU only trains."""
    return knob(default, help, one_of("auto", "cpu", "gpu"))


def _beam() -> dataclasses.Field:
    """A field for the width of a search."""
    return knob(
        5,
        "Of a translation: the unfinished sentences that the search keeps, the likeliest ones; 1: "
        "it takes the likeliest word each time, which is faster.",
        Rule(
            "must lie in [1, 100]: memory and time grow with it, and quality stops at about 10",
            lambda width: 1 <= width <= 100,
        ),
    )


def _length_penalty() -> dataclasses.Field:
    """A field for what the score of a sentence makes of its length."""
    return knob(
        1.0,
        "Of a translation: the search divides the log-probability of a sentence of n words by "
        "((5 + n) / 6) to this power; 0 prefers short ones.",
        at_least(0),
    )


@dataclasses.dataclass(frozen=True)
class Evaluate(Checked):
    """Which model to evaluate, and on which split."""

    data_dir: str = _dataset_of_use()
    model_dir: str = knob("", "Folder of the run.", PLACE)
    split: str = knob("test", "The split to evaluate.", one_of("train", "validation", "test"))
    format: str = knob("text", "Lines and a table, or one JSON object.", one_of("text", "json"))
    checkpoint: str = _checkpoint()
    accelerator: str = _accelerator_of_use(
        "auto", "Kind of device to evaluate on. auto: a GPU if there is one, else the CPU."
    )
    devices: int = knob(0, "Replicas in this process, as in train.", at_least(0))
    beam: int = _beam()
    length_penalty: float = _length_penalty()


@dataclasses.dataclass(frozen=True)
class Predict(Checked):
    """Which model to use, the texts to predict, and the form of the output."""

    data_dir: str = _dataset_of_use()
    model_dir: str = knob("", "Folder of the run.", PLACE)
    input: str = knob(
        "",
        "File with one text per line, or a table (--source); default: the arguments, or standard "
        "input. Of a model of sequences of numbers: a file or folder as it was prepared from.",
        PLACE,
    )
    source: str = knob(
        "",
        "Format of --input if it is a table, read as `prepare` reads it: csv, tsv or jsonl; "
        "default: lines of text. Of sequences of numbers: arrays, ts, csv or folder; default: that "
        "of the dataset.",
        # A flagfile may serve `prepare`, too, which has more sources.
        Rule(f"must be one of {' | '.join(READ_AGAIN)}", lambda value: value in ("", *SOURCES)),
    )
    x_array: str = knob(
        "",
        "With --source=arrays: the array of the frames; default: the name that `prepare` was "
        "given, so x_test of mnist.npz must be named.",
    )
    lengths_array: str = knob("", "With --source=arrays: the same for the steps of each example.")
    text_column: str = knob("text", "With --source: the column with the text.")
    id_column: str = knob(
        "", "With --source: a column that says which row an answer is for; default: none."
    )
    output: str = knob(
        "",
        "File to write instead of printing: .csv (id, label, probability and a column for each "
        "class) or .jsonl. It appears complete or not at all.",
        OUTPUT,
    )
    max_line_bytes: int = knob(
        1_000_000, "A longer text means that the input is damaged, or no text.", POSITIVE
    )
    format: str = knob(
        "text",
        "text: for a person, such as label, probability and text between tabs; jsonl: one JSON "
        "object per line.",
        one_of("text", "jsonl"),
    )
    checkpoint: str = _checkpoint()
    accelerator: str = _accelerator_of_use(
        "cpu",
        "Kind of device to predict on. The CPU starts faster than a GPU and leaves it to a run "
        "that trains on it.",
    )
    tokens: int = knob(200, "Of a language model: the most tokens to continue with.", at_least(1))
    temperature: float = knob(
        1.0,
        "Of a language model: below 1 likely tokens become likelier; 0 always takes the likeliest.",
        at_least(0),
    )
    top_k: int = knob(
        0, "Of a language model: draw from the k likeliest tokens only; 0: from all.", at_least(0)
    )
    top_p: float = knob(
        1.0,
        "Of a language model: draw from the likeliest tokens only that have this much probability "
        "together.",
        Rule("must lie in (0, 1]", lambda value: 0 < value <= 1),
    )
    seed: int = knob(
        0,
        "Of a language model: another seed draws another continuation, the same seed the same.",
        within(0, 2**63),
    )
    score: bool = knob(False, "Of a language model: print log-probability and perplexity of texts.")
    beam: int = _beam()
    length_penalty: float = _length_penalty()
    replace_unknown: bool = knob(
        False,
        "Of a translation: it may say that it does not know a word, and prints the word of the "
        "source that it attends to most.",
    )

    @property
    def table(self) -> str:
        """The format of the table that is read; "" if lines or arguments are."""
        return self.source if self.input else ""

    def __post_init__(self):
        super().__post_init__()
        if self.table and self.table not in READ_AGAIN:
            raise UsageError(
                f"--source={self.source}: predict reads {' | '.join(READ_AGAIN)}. Name one of "
                "them, or write --source= to take each line of --input for a text."
            )
        if self.id_column and self.table not in TABLES:
            raise UsageError(
                f"--id_column={self.id_column}: only a table has columns. Name it with --input and "
                "its format with --source, or leave out the flag."
            )
        if self.id_column and not self.output and self.format == "text":
            raise UsageError(
                f"--id_column={self.id_column}: --format=text has no place for it. Use "
                "--format=jsonl, or write to a file with --output."
            )


@dataclasses.dataclass(frozen=True)
class Export(Checked):
    """Which model to write to files that load without this program."""

    data_dir: str = _dataset_of_use()
    model_dir: str = knob("", "Folder of the run.", PLACE)
    export_dir: str = knob(
        "",
        "Folder to write; it must be empty or not exist. It appears complete or not at all.",
        NO_PATTERN,
    )
    checkpoint: str = _checkpoint()
    accelerator: str = _accelerator_of_use(
        "cpu", "Kind of device to open the model on; the files are compared on the CPU anyway."
    )
    beam: int = _beam()
    length_penalty: float = _length_penalty()


@dataclasses.dataclass(frozen=True)
class Chaos(Checked):
    """How often to disturb a job, and on how many workers; all other flags are those of train."""

    kills: int = knob(
        3,
        "Number of disturbances, at random moments that follow from --seed. A single process is "
        "killed (SIGKILL); in a gang, one worker is killed, frozen or terminated.",
        at_least(0),
    )
    workers: int = knob(
        1,
        "Processes on this machine that train together as a gang; 1: a single process, no gang.",
        at_least(1),
    )


@dataclasses.dataclass(frozen=True)
class Report(Checked):
    """Which run to report on, and the form of the output."""

    model_dir: str = knob("", "Folder of the run.", PLACE)
    format: str = knob("text", "Lines and tables, or one JSON object.", one_of("text", "json"))


@dataclasses.dataclass(frozen=True)
class Doctor(Checked):
    """Which cluster to check; all other flags are those of train."""

    context: str = knob("", "Context of kubectl; default: its current context.")
    namespace: str = knob("", "Namespace of the job; default: that of the context.")
    queue: str = knob("", "Kueue LocalQueue that would admit the job.")
    cpu: str = knob("2", "CPUs of a worker, as for `submit`.")
    memory: str = knob("4Gi", "Memory of a worker, as for `submit`.")
    cpu_limit: str = knob("", "CPUs that a worker cannot exceed, as for `submit`.")
    priority_class: str = knob(
        "",
        "PriorityClass of the workers, as for `submit`; default: that of the cluster for pods "
        "that name none.",
    )
