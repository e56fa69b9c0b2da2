import dataclasses
import json

import pytest

from trainer import config as configuration
from trainer.exit_codes import UsageError

# What the same command may change from one attempt to the next: it decides no weight that the run
# computes.
MAY_CHANGE = {
    "data_dir",
    "model_dir",
    "rnn_from_cell",
    "epochs",
    "steps",
    "eval_split",
    "eval_steps",
    "save_steps",
    "log_steps",
    "log_epochs",
    "steps_per_loop",
    "keep",
    "strategy",
    "accelerator",
    "devices",
    "num_workers",
    "worker_index",
    "hosts",
    "min_workers",
    "rejoin_seconds",
    "rendezvous_seconds",
    "grace_seconds",
    "hang_seconds",
    "max_restarts",
    "supervise",
}

# {flag: another value than the default} of every flag of `train`.
OTHER = {
    "data_dir": "d",
    "model_dir": "m",
    "batch_size": 64,
    "max_length": 100,
    "truncate": "start",
    "padding": "pre",
    "bucket": False,
    "cell": "gru",
    "units": (8, 8),
    "rnn_from_cell": True,
    "bidirectional": True,
    "pooling": "max",
    "embedding_size": 8,
    "one_hot": True,
    "dropout": 0.5,
    "word_dropout": 0.5,
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "momentum": 0.5,
    "weight_decay": 0.1,
    "schedule": "cosine",
    "warmup_steps": 10,
    "clip_norm": 1.0,
    "accumulate": 2,
    "ema": 0.9,
    "label_smoothing": 0.1,
    "class_weights": "balanced",
    "seed": 1,
    "epochs": 2,
    "steps": 7,
    "eval_split": "train",
    "eval_steps": 5,
    "save_steps": 7,
    "log_steps": 7,
    "log_epochs": 5,
    "steps_per_loop": 9,
    "keep": 1,
    "best_metric": "loss",
    "early_stop_patience": 2,
    "precision": "bfloat16",
    "jit": "off",
    "strategy": "mirrored",
    "accelerator": "cpu",
    "devices": 2,
    "shards": 2,
    "threads": 1,
    "fuse": "on",
    "deterministic": False,
    "num_workers": 2,
    "worker_index": 1,
    "hosts": "a-{index}:2222",
    "min_workers": 1,
    "rejoin_seconds": 5.0,
    "rendezvous_seconds": 5.0,
    "grace_seconds": 5.0,
    "hang_seconds": 5.0,
    "max_restarts": 1,
    "supervise": "off",
}


def config(**flags) -> configuration.Config:
    return configuration.from_flat(flags)


# --- values ---------------------------------------------------------------------------------------


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
    ],
)
def test_a_value_outside_its_rule_is_refused_with_value_rule_and_default(flag, value, rule):
    with pytest.raises(UsageError) as refusal:
        config(**{flag: value})
    assert rule in str(refusal.value)


@pytest.mark.parametrize(
    "flags, told",
    [
        ({"batch_size": 4, "accumulate": 5}, "--accumulate=5"),
        ({"batch_size": 3, "devices": 2, "accumulate": 2}, "4 parts"),
        ({"batch_size": 7, "devices": 2, "shards": 4}, "--shards=4"),
        (
            {"strategy": "tpu", "batch_size": 30, "accumulate": 4},
            "--batch_size=30: must be a multiple",
        ),
        ({"strategy": "tpu", "num_workers": 2}, "TPUs of one host"),
        ({"devices": 2, "strategy": "one_device"}, "Use --strategy=mirrored"),
        ({"early_stop_patience": 2, "eval_steps": -1}, "--eval_steps=-1"),
        ({"early_stop_patience": 2, "eval_split": "test"}, "Use --eval_split=validation"),
    ],
)
def test_values_that_contradict_each_other_are_refused(flags, told):
    with pytest.raises(UsageError, match=told):
        config(**flags)


@pytest.mark.parametrize(
    "flags",
    [
        {"batch_size": 4, "devices": 2, "accumulate": 2},
        {"devices": 2, "strategy": "auto"},
        {"dropout": 0.0},
        {"eval_steps": -1},
        {"early_stop_patience": 2, "eval_split": "train"},
    ],
)
def test_values_at_the_edge_of_a_rule_are_accepted(flags):
    config(**flags)


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"source": "csv"}, "--raw_data is empty"),
        ({"source": "movie_reviews", "raw_data": "a.csv"}, "brings its own data"),
        ({"raw_data": "a.csv", "validation_fraction": 0.5, "test_fraction": 0.5}, "below 1"),
        ({"raw_data": "a.csv", "split_column": "split", "test_fraction": 0.1}, "not both"),
    ],
)
def test_prepare_refuses_what_contradicts_itself(settings, told):
    with pytest.raises(UsageError, match=told):
        configuration.Prepare(**settings)


# --- what a resume may change ---------------------------------------------------------------------


def test_the_table_of_this_test_has_every_flag():
    assert set(OTHER) == set(configuration.fields())
    assert all(value != configuration.fields()[name].default for name, value in OTHER.items())


@pytest.mark.parametrize("flag", sorted(OTHER))
def test_the_digest_stands_for_what_decides_the_result_and_nothing_else(flag):
    changed = configuration.digest(config(**{flag: OTHER[flag]})) != configuration.digest(config())
    assert changed == (flag not in MAY_CHANGE)


@pytest.mark.parametrize("flag", sorted(OTHER))
def test_a_resume_may_change_what_decides_no_result_and_nothing_else(flag):
    written = configuration.to_flat(config(shards=1, threads=2))
    continued = config(**{"shards": 1, "threads": 2, flag: OTHER[flag]})
    if flag in MAY_CHANGE:
        assert configuration.resumed(continued, written) == continued
    else:
        with pytest.raises(UsageError, match=f"--{flag}: was .*, now "):
            configuration.resumed(continued, written)


@pytest.mark.parametrize(
    "why, flags",
    [
        ({"schedule": "cosine"}, {"epochs": 2}),
        ({"schedule": "exponential"}, {"steps": 7}),
        ({"early_stop_patience": 1}, {"eval_steps": 5}),
        ({"early_stop_patience": 1}, {"eval_split": "train"}),
    ],
)
def test_length_and_evaluations_are_fixed_where_the_result_depends_on_them(why, flags):
    configuration.resumed(config(**flags), configuration.to_flat(config()))
    with pytest.raises(UsageError, match="another configuration"):
        configuration.resumed(config(**why, **flags), configuration.to_flat(config(**why)))


def test_every_difference_is_shown():
    with pytest.raises(UsageError) as refusal:
        configuration.resumed(config(units=(8, 8), seed=3), configuration.to_flat(config()))
    assert "  --units: was 64, now 8,8\n" in str(
        refusal.value
    ) and "  --seed: was 0, now 3\n" in str(refusal.value)


def test_what_the_first_start_chose_is_kept():
    written = configuration.to_flat(config(shards=2, threads=4))
    assert configuration.resumed(config(), written).run == dataclasses.replace(
        config().run, shards=2, threads=4
    )
    written = configuration.to_flat(config(fuse="on"))
    assert configuration.resumed(config(), written).run.fuse == "on"


def test_a_flag_that_is_newer_than_the_run_has_its_default_there():
    written = configuration.to_flat(config())
    del written["ema"]
    configuration.resumed(config(), written)
    with pytest.raises(UsageError, match="--ema: was 0.0, now 0.5"):
        configuration.resumed(config(ema=0.5), written)


# --- config.json ----------------------------------------------------------------------------------


def test_what_is_written_is_what_is_read(tmp_path):
    original = config(units=(8, 16), dropout=0.25, bucket=False, data_dir="über")
    (tmp_path / "config.json").write_text(configuration.to_json(original), encoding="utf-8")
    assert configuration.from_flat(configuration.written_in(tmp_path)) == original


@pytest.mark.parametrize(
    "content, told",
    [
        (None, "holds no config.json"),
        ("", "cannot be read"),
        ("{}", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"format": 1, "flags": 3}', "cannot be read"),
        ('{"format": "new", "flags": {}}', "cannot be read"),
        ('{"format": 2, "flags": {}}', "Use the newer trainer"),
        (b"\xff", "cannot be read"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_named(tmp_path, content, told):
    if content is not None:
        (tmp_path / "config.json").write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
    with pytest.raises(UsageError, match=told) as refusal:
        configuration.written_in(tmp_path)
    assert str(tmp_path) in str(refusal.value)


def test_a_flag_that_was_written_by_another_version_is_skipped(tmp_path):
    document = json.loads(configuration.to_json(config(seed=3)))
    document["flags"]["of_another_version"] = 1
    (tmp_path / "config.json").write_text(json.dumps(document))
    assert configuration.from_flat(configuration.written_in(tmp_path)) == config(seed=3)


@pytest.mark.parametrize("value, text", [((64, 8), "64,8"), (0.5, "0.5"), ("", ""), (True, "True")])
def test_values_are_shown_as_on_the_command_line(value, text):
    assert configuration.as_text(value) == text
