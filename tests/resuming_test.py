"""What a resume may change, and config.json as a file."""

import dataclasses
import json
import pathlib
import shutil

import pytest

from trainer import resuming, sealed
from trainer.exit_codes import DataError, UsageError
from trainer.flags import run as configuration
from trainer.model_folder import commits

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
    "translate_examples",
    "strategy",
    "accelerator",
    "devices",
    "num_workers",
    "worker_index",
    "hosts",
    "chief_address",
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
    "attention": "dot",
    "variational_dropout": True,
    "frame_encoder": "dense",
    "regression_loss": "huber",
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
    "translate_examples": 20,
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
    "chief_address": "a:2222",
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


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_a_resume_must_not_translate_other_examples_if_they_choose_the_best_checkpoint(metric):
    chosen = {"best_metric": metric, "early_stop_patience": 3}
    for was, now in ((200, 20), (20, 200), (20, 30)):
        written = configuration.to_flat(config(**chosen, translate_examples=was))
        for given in (chosen, {"early_stop_patience": 3}):  # A resume need not name the metric.
            with pytest.raises(UsageError, match=f"--translate_examples: was {was}, now {now}"):
                resuming.resumed(config(**given, translate_examples=now), written)
        assert resuming.resumed(config(**chosen, translate_examples=was), written)


def test_the_number_of_translated_examples_leaves_the_digest_if_another_metric_chooses():
    for metric in ("", "perplexity", "bits"):
        digests = {
            resuming.digest(config(best_metric=metric, translate_examples=count))
            for count in (0, 20, 200)
        }
        assert len(digests) == 1


def test_a_flag_that_came_later_counts_in_the_digest_only_if_it_is_not_at_its_default():
    later = {name for name, field in configuration.fields().items() if field.metadata["later"]}
    assert {"init_from", "frozen_steps", "layer_decay"} <= later
    assert not later & set(resuming.affecting(config()))
    changed = {name: OTHER[name] for name in sorted(later)}
    # --translate_examples counts beside a metric of translations.
    affecting = resuming.affecting(config(**changed, best_metric="bleu"))
    assert {name: value for name, value in affecting.items() if name in later} == changed


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


@pytest.mark.parametrize("now, was", [("absolute", "source"), ("source", "absolute")])
def test_a_resume_may_spell_the_source_in_another_way(now, was, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = {"source": "source", "absolute": f"{tmp_path}/source"}
    written = configuration.to_flat(config(init_from=named[was]))
    resumed = resuming.resumed(config(init_from=named[now]), written)
    assert resumed.folders.init_from == named[was]  # It is part of the digest.


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
    "content, error, message",
    [
        (None, UsageError, "holds no config.json"),
        ("", DataError, "cannot be read"),
        ("{}", DataError, "cannot be read"),
        ("[]", DataError, "cannot be read"),
        ("[" * 100_000, DataError, "nested too deep"),
        ('{"format": 1, "flags": 3}', DataError, "cannot be read"),
        ('{"format": "new", "flags": {}}', DataError, "cannot be read"),
        ('{"format": Infinity, "flags": {}}', DataError, "cannot be read"),
        ('{"format": 2, "flags": {}}', DataError, "format 2 without a sha256"),
        ('{"format": 1, "digest": "ab", "flags": {"units": "x"}}', DataError, "cannot be read"),
        ('{"format": 1, "digest": "ab", "flags": {"seed": 3}}', DataError, "its digest ab"),
        (b"\xff", DataError, "cannot be read"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_named(tmp_path, content, error, message):
    if content is not None:
        (tmp_path / "config.json").write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
    with pytest.raises(error, match=message) as refusal:
        resuming.written_in(tmp_path)
    assert str(tmp_path) in str(refusal.value)


def test_a_folder_in_the_place_of_the_configuration_is_bad_data(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(DataError, match="config.json cannot be read .Is a directory"):
        resuming.written_in(tmp_path)


def test_the_configuration_of_a_newer_trainer_is_refused(tmp_path):
    document = {**resuming.document(config()), "format": 2}
    (tmp_path / "config.json").write_text(json.dumps(sealed.seal(document)))
    with pytest.raises(UsageError, match="Use the newer trainer"):
        resuming.written_in(tmp_path)


def test_a_flag_that_only_another_version_knows_is_skipped(tmp_path):
    document = resuming.document(config(seed=3))
    document["flags"]["of_another_version"] = 1
    (tmp_path / "config.json").write_text(json.dumps(sealed.seal(document)))
    assert configuration.from_flat(resuming.written_in(tmp_path)) == config(seed=3)


# --- what the checkpoints know of it --------------------------------------------------------------


def checkpoint_of(folder, step, part="checkpoints", **flags) -> None:
    """Writes the manifest of a checkpoint whose run has these flags."""
    document = resuming.document(config(**flags), {"vocabulary_sha256": "ab"})
    manifest = {
        "format": 1,
        "step": step,
        "attempt": 1,
        "state_digest": "s",
        "config_digest": document["digest"],
        "dataset_digest": "d",
        "files": {"tensors.index": {"size": 0, "sha256": ""}},
        "config": document,
    }
    place = commits.folder_of(folder / part, step)
    place.mkdir(parents=True)
    (place / "MANIFEST.json").write_text(json.dumps(sealed.seal(manifest)))


@pytest.mark.parametrize("part", ["checkpoints", "best"])
def test_the_configuration_of_another_run_is_refused(tmp_path, part):
    checkpoint_of(tmp_path, 7, part, seed=3)
    resuming.write(config(seed=3, epochs=7, data_dir="elsewhere"), tmp_path)  # May change.
    assert resuming.written_in(tmp_path)["epochs"] == 7
    resuming.write(config(seed=4), tmp_path)
    with pytest.raises(DataError, match="of another run. Delete the file, then") as refusal:
        resuming.written_in(tmp_path)
    for name in ("config.json", f"{part}/step-00000007"):
        assert str(tmp_path / name) in str(refusal.value)


def test_a_changed_configuration_can_be_deleted_and_is_read_from_the_checkpoint(tmp_path):
    checkpoint_of(tmp_path, 7, seed=3)
    resuming.write(config(seed=3), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"max_length": 256', '"max_length": 4'))
    with pytest.raises(DataError, match="Delete the file, then it is read from .*step-00000007"):
        resuming.written_in(tmp_path)
    path.unlink()
    assert configuration.from_flat(resuming.written_in(tmp_path)) == config(seed=3)
    assert resuming.facts_in(tmp_path) == {"vocabulary_sha256": "ab"}


def test_a_damaged_manifest_does_not_speak_for_the_run(tmp_path):
    checkpoint_of(tmp_path, 7, seed=3)
    checkpoint_of(tmp_path, 8, seed=4)
    path = tmp_path / "checkpoints/step-00000008/MANIFEST.json"
    path.write_text(path.read_text().replace('"step": 8', '"step": 9'))
    resuming.write(config(seed=3), tmp_path)
    assert resuming.written_in(tmp_path)["seed"] == 3


def test_the_run_of_an_older_version_is_read_also_after_this_version_has_written_its_flags(
    tmp_path,
):
    """Its checkpoint has the digest that its version computed of the same flags."""
    shutil.copytree(MADE_BEFORE / "model", tmp_path, dirs_exist_ok=True)
    flags = resuming.written_in(tmp_path)
    assert flags["cell"] == "lstm" and resuming.facts_in(tmp_path) == {}
    resuming.write(configuration.from_flat(flags), tmp_path)
    assert resuming.written_in(tmp_path).items() >= flags.items()
