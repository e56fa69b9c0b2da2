"""What a resume may change, and config.json as a file."""

import dataclasses
import json
import pathlib

import pytest

from trainer import config as configuration
from trainer import resuming
from trainer.exit_codes import UsageError

MADE_BEFORE = pathlib.Path(__file__).parent / "data" / "made_before"

# The flags that may change from one attempt to the next: they affect no weight of the run.
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
    "gang_token_file",
    "local_network",
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
    "init_from": "source",
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
    "tied_embedding": True,
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
    "frozen_steps": 10,
    "layer_decay": 0.5,
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
    "matmul_precision": "highest",
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
    "gang_token_file": "token",
    "local_network": "host",
    "min_workers": 1,
    "rejoin_seconds": 5.0,
    "rendezvous_seconds": 5.0,
    "grace_seconds": 5.0,
    "hang_seconds": 5.0,
    "max_restarts": 1,
    "supervise": "off",
}
# Flags that are refused without another one.
NEEDS = {"frozen_steps": {"init_from": "source"}}


def config(**flags) -> configuration.Config:
    return configuration.from_flat(flags)


# --- what a resume may change ---------------------------------------------------------------------


def test_the_tables_of_this_test_have_every_flag():
    assert set(OTHER) == set(configuration.fields()) >= MAY_CHANGE
    assert all(value != configuration.fields()[name].default for name, value in OTHER.items())


@pytest.mark.parametrize("flag", sorted(OTHER))
def test_the_digest_covers_the_flags_that_affect_the_result_and_no_others(flag):
    needs = NEEDS.get(flag, {})
    without, given = config(**needs), config(**needs, **{flag: OTHER[flag]})
    changed = resuming.digest(given) != resuming.digest(without)
    assert changed == (flag not in MAY_CHANGE)


@pytest.mark.parametrize("flag", sorted(OTHER))
def test_a_resume_may_change_only_flags_that_do_not_affect_the_result(flag):
    chosen = {"shards": 1, "threads": 2, **NEEDS.get(flag, {})}
    written = configuration.to_flat(config(**chosen))
    continued = config(**{**chosen, flag: OTHER[flag]})
    if flag in MAY_CHANGE:
        assert resuming.resumed(continued, written) == continued
    else:
        with pytest.raises(UsageError, match=f"--{flag}: was .*, now "):
            resuming.resumed(continued, written)


@pytest.mark.parametrize(
    "why, flags",
    [
        ({"schedule": "cosine"}, {"epochs": 2}),
        ({"schedule": "exponential"}, {"steps": 7}),
        ({"early_stop_patience": 1}, {"eval_steps": 5}),
        ({"early_stop_patience": 1}, {"eval_split": "train"}),
    ],
)
def test_length_and_evaluations_must_not_change_if_the_result_depends_on_them(why, flags):
    resuming.resumed(config(**flags), configuration.to_flat(config()))
    with pytest.raises(UsageError, match="another configuration"):
        resuming.resumed(config(**why, **flags), configuration.to_flat(config(**why)))


def test_a_flag_that_came_later_counts_in_the_digest_only_if_it_is_not_at_its_default():
    later = {name for name, field in configuration.fields().items() if field.metadata["later"]}
    assert {"init_from", "frozen_steps", "layer_decay"} <= later
    assert not later & set(resuming.affecting(config()))
    changed = {name: OTHER[name] for name in sorted(later)}
    assert {
        name: value
        for name, value in resuming.affecting(config(**changed)).items()
        if name in later
    } == changed


def test_later_flags_leave_the_digests_of_older_runs_as_they_are():
    """The digest is the one that commit 8f027f9 computed, before there were later flags."""
    flags = resuming.written_in(MADE_BEFORE / "model")
    assert (
        resuming.digest(configuration.from_flat(flags))
        == "be9db4880f946048090019cc202ab0e636403fb1f4679618f4e500f7dfa4e891"
    )


@pytest.mark.parametrize("now, was", [({}, "source"), ({"init_from": "other"}, "source")])
def test_a_resume_must_name_the_source_that_the_run_began_from(now, was):
    with pytest.raises(UsageError, match=f"--init_from: was {was}, now {now.get('init_from', '')}"):
        resuming.resumed(config(**now), configuration.to_flat(config(init_from=was)))


def test_every_difference_is_shown():
    with pytest.raises(UsageError) as refusal:
        resuming.resumed(config(units=(8, 8), seed=3), configuration.to_flat(config()))
    assert "  --units: was 64, now 8,8\n" in str(refusal.value)
    assert "  --seed: was 0, now 3\n" in str(refusal.value)


def test_a_resume_keeps_what_the_first_start_chose():
    written = configuration.to_flat(config(shards=2, threads=4))
    assert resuming.resumed(config(), written).run == dataclasses.replace(
        config().run, shards=2, threads=4
    )
    for name, value in {"fuse": "on", "best_metric": "loss"}.items():
        kept = resuming.resumed(config(), configuration.to_flat(config(**{name: value})))
        assert configuration.to_flat(kept)[name] == value


def test_a_flag_that_is_newer_than_the_run_counts_as_its_default():
    written = configuration.to_flat(config())
    del written["ema"]
    resuming.resumed(config(), written)
    with pytest.raises(UsageError, match="--ema: was 0.0, now 0.5"):
        resuming.resumed(config(ema=0.5), written)


# --- config.json ----------------------------------------------------------------------------------


def test_what_is_written_is_what_is_read(tmp_path):
    original = config(units=(8, 16), dropout=0.25, bucket=False, data_dir="über")
    resuming.write(original, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert configuration.from_flat(resuming.written_in(tmp_path)) == original


def test_facts_beside_the_flags_are_read_as_they_were_written(tmp_path):
    assert resuming.write(config(), tmp_path) is None and resuming.facts_in(tmp_path) == {}
    facts = {"vocabulary_sha256": "ab", "origin": {"step": 3}}
    resuming.write(config(seed=4), tmp_path, facts)
    assert resuming.facts_in(tmp_path) == facts
    assert configuration.from_flat(resuming.written_in(tmp_path)) == config(seed=4)
    with pytest.raises(UsageError, match="--init_from=.*: holds no config.json"):
        resuming.facts_in(tmp_path / "nothing", "init_from")


@pytest.mark.parametrize(
    "content, message",
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
def test_a_configuration_that_cannot_be_read_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "config.json").write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
    with pytest.raises(UsageError, match=message) as refusal:
        resuming.written_in(tmp_path)
    assert str(tmp_path) in str(refusal.value)


def test_a_flag_that_only_another_version_knows_is_skipped(tmp_path):
    document = json.loads(resuming.to_json(config(seed=3)))
    document["flags"]["of_another_version"] = 1
    (tmp_path / "config.json").write_text(json.dumps(document))
    assert configuration.from_flat(resuming.written_in(tmp_path)) == config(seed=3)
