"""The flags of `train`, one by one and together."""

import pytest

from trainer.exit_codes import UsageError
from trainer.flags import run as configuration


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


def test_the_loss_of_a_regression_has_the_name_that_scripts_rely_on():
    assert config(regression_loss="huber").optimizer.regression_loss == "huber"
    assert "regression_loss" in configuration.fields() and "loss" not in configuration.fields()
