"""Flags that do not apply to a source are refused before anything is read."""

import pytest

from trainer.exit_codes import UsageError
from trainer.flags.prepare import Prepare

ARRAYS = {"source": "arrays", "raw_data": "a.npz"}
STEPS = {"raw_data": "a.csv", "feature_columns": "a,b", "sequence_column": "run"}


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            {**ARRAYS, "tokenizer": "words"},
            "--tokenizer=words: sequences of numbers of --source=ar",
        ),
        ({**ARRAYS, "vocabulary_size": 9}, "--vocabulary_size=9: sequences of numbers"),
        ({**ARRAYS, "mel_bands": 9}, "--mel_bands=9: sequences of numbers of --source=arrays have"),
        ({**ARRAYS, "label_column": "a"}, "--label_column=a: sequences of numbers of --source=arr"),
        ({**ARRAYS, "split_column": "a"}, "--split_column=a: sequences of numbers"),
        ({**ARRAYS, "sequence_column": "a"}, "--sequence_column=a: sequences of numbers"),
        ({**ARRAYS, "task": "tagging"}, "this source serves --task=classification | regression"),
        ({**ARRAYS, "frame_shape": (0,)}, "--frame_shape=0: must be positive numbers"),
        ({**ARRAYS, "missing": "mean"}, "--missing=mean: must be one of error | zero | previous"),
        ({**ARRAYS, "normalise": "all"}, "must be one of features | together | none"),
        ({**STEPS, "sequence_column": ""}, "--feature_columns=a,b: needs --sequence_column"),
        ({**STEPS, "feature_columns": "a,b,a"}, "--feature_columns: names 'a' twice. Name each"),
        ({**STEPS, "text_column": "c"}, "--text_column=c: sequences of numbers of --source=csv"),
        ({**STEPS, "lowercase": False}, "--nolowercase: sequences of numbers"),
        ({**STEPS, "task": "language_model"}, "--task=language_model: of sequences of numbers a"),
        ({**STEPS, "label_column": "b"}, "--feature_columns=b and --label_column=b: must be diff"),
        ({**STEPS, "time_column": "run"}, "--sequence_column=run and --time_column=run: must be"),
        ({**STEPS, "feature_columns": ","}, "--feature_columns=,: names no column. Name the colu"),
        ({**STEPS, "label_column": ""}, "--label_column=: names no column, but --task=classificat"),
        ({"raw_data": "a", "missing": "zero"}, "--missing=zero: texts of --source=csv have no use"),
        ({"raw_data": "a", "sequence_column": "a"}, "use --source=csv with --feature_columns and"),
        ({"raw_data": "a", "frame_shape": (1, 2)}, "--frame_shape=1,2: texts of --source=csv have"),
        (
            {"raw_data": "a", "task": "regression", "label_column": "b,text"},
            "--text_column=text and --label_column=text: must be different columns",
        ),
    ],
)
def test_flags_that_do_not_apply_are_refused(flags, message):
    with pytest.raises(UsageError) as refusal:
        Prepare(**flags)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    "flags",
    [
        {**ARRAYS, "frame_shape": (4, 4), "x_array": "images", "max_expansion": 9},
        {**STEPS, "label_column": "c,d", "task": "regression", "split_column": "e"},
        {**STEPS, "label_column": "c,d"},
        # What a folder holds shows only when it is opened.
        {"source": "folder", "raw_data": "a", "mel_bands": 9},
        {"source": "folder", "raw_data": "a", "tokenizer": "characters"},
    ],
)
def test_flags_that_apply_are_accepted(flags):
    Prepare(**flags)
