"""A run that begins with weights of another one: what it takes, how it goes on, what is refused."""

import json
import re
import shutil
import signal

import numpy as np
import pytest
import tensorflow as tf

from tests import commands, datasets, workers_test
from trainer import resuming, sealed
from trainer.data import store
from trainer.flags import run as configuration
from trainer.model_folder import checkpoint, journal, lock
from trainer.models import networks

MODEL = ["--cell=gru", "--units=6", "--embedding_size=4"]
SMALL = [
    *MODEL,
    "--max_length=8",
    "--batch_size=8",
    "--dropout=0.2",
    "--learning_rate=0.01",
    "--jit=off",
    "--threads=2",
    "--shards=1",
]
BODY = ["embedding/embeddings", "rnn_0/bias", "rnn_0/kernel", "rnn_0/recurrent_kernel"]
OUTPUT = ["logits/bias", "logits/kernel"]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """FOLDER/source is a run on FOLDER/three, of 3 classes; FOLDER/five has the same vocabulary and
    5 classes; FOLDER/words has another one of the same size. The best checkpoint of the source is
    not its newest one, and it keeps averages.
    """
    folder = tmp_path_factory.mktemp("fine_tuning")
    splits = datasets.random_splits(train=60)
    splits["validation"] = datasets.random_splits(seed=1)["test"]
    datasets.write(folder / "three", splits, vocabulary_size=30, classes=3)
    splits = datasets.random_splits(seed=2, classes=5, train=60)
    splits["validation"] = datasets.random_splits(seed=3, classes=5)["test"]
    datasets.write(folder / "five", splits, vocabulary_size=30, classes=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "RESERVED", [*datasets.RESERVED[:3], "[other]"])
        datasets.write(folder / "words", splits, vocabulary_size=30, classes=5)
    answer = commands.call(
        "train",
        f"--data_dir={folder / 'three'}",
        f"--model_dir={folder / 'source'}",
        *SMALL,
        "--ema=0.5",
        "--learning_rate=0.2",
        "--steps=12",
        "--eval_steps=3",
    )
    assert answer.code == 0, answer.err
    return folder


def tuned(places, model, *flags, data="five", source="source") -> commands.Answer:
    """The answer of a run of 6 steps that begins with the source, and has saved every step."""
    return commands.call(*command(places, model, *flags, data=data, source=source))


def command(places, model, *flags, data="five", source="source") -> list[str]:
    return [
        "train",
        f"--data_dir={places / data}",
        f"--model_dir={model}",
        f"--init_from={places / source}",
        *SMALL,
        "--steps=6",
        "--save_steps=1",
        "--steps_per_loop=1",
        "--keep=0",
        "--eval_steps=-1",
        *flags,
    ]


def tensors(folder) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(folder / "tensors"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def at(model, step: int) -> dict[str, np.ndarray]:
    return tensors(model / f"checkpoints/step-{step:08d}")


def best_of(model) -> dict[str, np.ndarray]:
    [folder] = (model / "best").glob("step-????????")
    return tensors(folder)


def written(model) -> dict:
    return json.loads((model / "config.json").read_text())


def rewrite(model, document: dict) -> None:
    """Writes a config.json of our own making, with its seal."""
    (model / "config.json").write_text(json.dumps(sealed.seal(document)))


def copied(places, tmp_path):
    """A copy of the source, to change or to delete, beside the datasets."""
    for name in ("three", "five"):
        (tmp_path / name).symlink_to(places / name)
    shutil.copytree(places / "source", tmp_path / "source")
    return tmp_path


def made_by_hand(folder, dataset, weights=None, **flags) -> None:
    """Writes the folder of a run with a checkpoint of step 7 that has only `weights`."""
    config = configuration.from_flat({"data_dir": str(dataset.folder), **flags})
    folder.mkdir()
    (folder / "config.json").write_text(resuming.to_json(config))
    if weights is None:
        network = networks.of_run(config, 30, 3, "CPU")
        weights = {
            name: np.full(weight.shape, 0.1, np.float32) for name, weight in network.weights.items()
        }
    commit(folder, dataset.digest, weights)


def commit(folder, dataset_digest: str, weights, **others) -> None:
    """Writes a checkpoint of step 7 with `weights` and `others`."""
    with lock.hold(folder) as held:
        held.began(0)
        checkpoint.commit(
            folder / "checkpoints",
            7,
            {**{f"model/{name}": value for name, value in weights.items()}, **others},
            held=held,
            config_digest="any",
            dataset_digest=dataset_digest,
        )


def by_hand(places, tmp_path, **changes):
    """A folder with the datasets and a `source` with these flags, made by hand."""
    flags = {"cell": "gru", "units": (6,), "embedding_size": 4, **changes}
    weights = flags.pop("weights", None)
    for name in ("three", "five"):
        (tmp_path / name).symlink_to(places / name)
    made_by_hand(tmp_path / "source", store.open_dataset(tmp_path / "three"), weights, **flags)
    return tmp_path


# --- what is taken --------------------------------------------------------------------------------


def test_embedding_and_recurrent_layers_begin_as_the_averages_of_the_best_checkpoint(
    places, tmp_path
):
    """They are frozen for a step, so that the first checkpoint has them as they were taken."""
    answer = tuned(places, tmp_path / "model", "--frozen_steps=1", "--ema=0.9", "--save_steps=1")
    assert answer.code == 0, answer.err
    source, first = best_of(places / "source"), at(tmp_path / "model", 1)
    assert int(source["step"]) < 12
    for name in BODY:
        average = source[f"optimizer/{name}/average"]
        assert average.tobytes() != source[f"model/{name}"].tobytes()
        assert first[f"model/{name}"].tobytes() == average.tobytes()
        assert first[f"optimizer/{name}/average"].tobytes() == average.tobytes()
    assert first["model/logits/kernel"].shape == (6, 5)


def test_the_log_lists_what_was_taken_and_what_was_left(places, tmp_path):
    answer = tuned(places, tmp_path / "model", "--units=6,5")
    assert answer.code == 0, answer.err
    for line in (
        "no checkpoint yet: initial weights from seed 0",
        ": embedding/embeddings, rnn_0/kernel, rnn_0/recurrent_kernel, rnn_0/bias",
        "left as the seed made them: logits/kernel, logits/bias (output layer); rnn_1/kernel, "
        "rnn_1/recurrent_kernel, rnn_1/bias (not in the source)",
    ):
        assert line in answer.err
    assert f"of {places / 'source' / 'best'}" in answer.err


def test_a_translation_begins_with_the_encoder_of_another_one_and_a_decoder_of_its_own(tmp_path):
    splits, words = datasets.random_pairs(train=16, test=4), [f"w{i}" for i in range(26)]
    datasets.write_pairs(tmp_path / "pairs", splits, words=words, target_words=words[::-1])
    small = [*SMALL, "--steps=1", "--save_steps=1", "--eval_steps=-1"]
    flags = ["train", f"--data_dir={tmp_path / 'pairs'}", *small]
    answer = commands.call(*flags, f"--model_dir={tmp_path / 'source'}")
    assert answer.code == 0, answer.err
    answer = commands.call(
        *flags,
        f"--model_dir={tmp_path / 'model'}",
        f"--init_from={tmp_path / 'source'}",
        "--frozen_steps=1",
    )
    assert answer.code == 0, answer.err
    assert ": embedding/embeddings, rnn_0/kernel, rnn_0/recurrent_kernel, rnn_0/bias" in answer.err
    [left] = re.findall("left as the seed made them: (.*)", answer.err)
    decoder, output = left.split("; ")
    assert "target_embedding/embeddings" in decoder and "decoder_0/kernel" in decoder
    assert decoder.endswith(" (decoder)")
    assert output == "logits/kernel, logits/bias (output layer)"
    assert sorted(written(tmp_path / "model")["origin"]["taken"]) == BODY


def test_layers_that_only_the_source_has_are_listed(places, tmp_path):
    folder = by_hand(places, tmp_path, units=(6, 5))
    answer = tuned(folder, tmp_path / "model")
    assert answer.code == 0, answer.err
    assert "not used of the source: rnn_1/bias, rnn_1/kernel, rnn_1/recurrent_kernel" in answer.err
    assert "the vocabulary of" not in answer.err  # Known, because the dataset is the source's.


def test_a_language_model_gives_its_layers_and_keeps_its_own_output(places, tmp_path):
    """Made by hand: weights and flags as a language model has them that reads in one direction."""
    folder = by_hand(places, tmp_path)
    settings = configuration.from_flat({"cell": "gru", "units": (6,), "embedding_size": 4})
    weights = networks.of_run(settings, 30, 3, "CPU").initial_weights()
    body = {name: weights[name].numpy() + 0.5 for name in BODY}
    shutil.rmtree(folder / "source/checkpoints")
    output = {name: np.ones((6, 30), np.float32) for name in ("logits/kernel", "projection/kernel")}
    commit(folder / "source", "any", {**body, **output}, **{"carry/rnn_0/hidden": np.ones((8, 6))})
    document = written(folder / "source")
    document |= {"flags": {**document["flags"], "tied_embedding": True}, "vocabulary_sha256": "00"}
    rewrite(folder / "source", document)
    assert "another token" in refusal(folder, tmp_path)
    document["vocabulary_sha256"] = written(places / "source")["vocabulary_sha256"]
    rewrite(folder / "source", document)
    answer = tuned(folder, tmp_path / "model", "--frozen_steps=6")
    assert answer.code == 0, answer.err
    assert "logits/kernel, logits/bias (output layer)" in answer.err
    last = at(tmp_path / "model", 6)
    for name, value in body.items():
        assert last[f"model/{name}"].tobytes() == value.tobytes()


def test_config_json_says_where_the_run_began_and_with_which_vocabulary(places, tmp_path):
    tuned(places, tmp_path / "model")
    [best] = (places / "source/best").glob("step-????????")
    manifest = json.loads((best / "MANIFEST.json").read_text())
    document, source = written(tmp_path / "model"), written(places / "source")
    origin = document["origin"]
    assert (origin["state_digest"], origin["step"]) == (manifest["state_digest"], manifest["step"])
    assert sorted(origin["taken"]) == BODY
    description = json.loads((places / "five/dataset.json").read_text())
    vocabulary = description["files"]["vocabulary.txt"]["sha256"]
    assert document["vocabulary_sha256"] == source["vocabulary_sha256"] == vocabulary
    assert "origin" not in source


# --- frozen steps and rates per layer -------------------------------------------------------------


@pytest.mark.parametrize(
    "flags", [["--optimizer=adamw", "--weight_decay=0.5"], ["--devices=2", "--batch_size=10"]]
)
def test_frozen_weights_keep_their_bits_for_n_steps_and_move_in_the_next(places, tmp_path, flags):
    answer = tuned(places, tmp_path / "model", "--frozen_steps=3", *flags)
    assert answer.code == 0, answer.err
    states = {step: at(tmp_path / "model", step) for step in range(1, 7)}
    source = best_of(places / "source")
    for name in BODY:
        for step in (1, 2, 3):
            state = states[step]
            taken = source[f"optimizer/{name}/average"]
            assert state[f"model/{name}"].tobytes() == taken.tobytes()
            assert not state[f"optimizer/{name}/m"].any()
            assert not state[f"optimizer/{name}/v"].any()
        for step in (4, 5, 6):
            before, after = (states[each][f"model/{name}"] for each in (step - 1, step))
            assert before.tobytes() != after.tobytes()
    for name in OUTPUT:
        for step in range(2, 7):
            before, after = (states[each][f"model/{name}"] for each in (step - 1, step))
            assert before.tobytes() != after.tobytes()


def test_without_a_source_the_first_step_of_each_layer_has_the_size_of_its_rate(places, tmp_path):
    """Adam's first step moves a weight by its rate, whatever the gradient: Kingma and Ba, 2.1."""
    flags = [flag for flag in command(places, "", "--layer_decay=0.5") if "init_from" not in flag]
    models = {}
    for name, more in (("two", []), ("one", ["--learning_rate=1e-30"])):
        models[name] = tmp_path / name
        answer = commands.call(*flags, f"--model_dir={models[name]}", *more, "--steps=1")
        assert answer.code == 0, answer.err
    moved, start = at(models["two"], 1), at(models["one"], 1)
    for name, factor in (
        ("logits/bias", 1),
        ("rnn_0/recurrent_kernel", 0.5),
        ("embedding/embeddings", 0.25),
    ):
        change = np.abs(moved[f"model/{name}"] - start[f"model/{name}"]).max()
        np.testing.assert_allclose(change, 0.01 * factor, rtol=1e-2)


def test_fused_steps_are_those_taken_one_by_one(places, tmp_path):
    flags = ["--frozen_steps=2", "--layer_decay=0.3", "--precision=float64", "--jit=on"]
    flags += ["--threads=2", "--save_steps=100", "--padding=pre", "--steps_per_loop=0"]
    found = []
    for fuse in ("on", "off"):
        answer = tuned(places, tmp_path / fuse, *flags, f"--fuse={fuse}", "--clip_norm=0.1")
        assert answer.code == 0, answer.err
        found.append(at(tmp_path / fuse, 6))
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        np.testing.assert_allclose(value, found[1][name], rtol=1e-9, atol=1e-12, err_msg=name)


# --- resume ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), signal.SIGTERM]
)
def test_a_run_that_was_stopped_ends_with_the_same_bits_without_its_source(places, tmp_path, how):
    """It is stopped while its weights are frozen, and the source is deleted meanwhile."""
    flags = ["--frozen_steps=60", "--layer_decay=0.5", "--ema=0.9", "--steps=90"]
    folder = copied(places, tmp_path)
    whole = tuned(folder, tmp_path / "whole", *flags, "--save_steps=100")
    assert whole.code == 0, whole.err
    model = tmp_path / "model"
    process = commands.start(*command(folder, model, *flags))

    def saved() -> int:
        events = journal.read(model / "journal.jsonl")
        return sum(event["event"] == "save" for event in events)

    commands.wait_for(lambda: saved() >= 5, process)
    process.send_signal(how)
    stopped = commands.finish(process)
    assert stopped.code == (-9 if how == signal.SIGKILL else 143)
    shutil.rmtree(folder / "source")
    ended = tuned(folder, model, *flags)
    assert ended.code == 0, ended.err
    [step] = re.findall(r"restored step (\d+) of 90", ended.err)
    assert int(step) < 60 and ended.digest == whole.digest
    assert written(model)["origin"] == written(tmp_path / "whole")["origin"]


@pytest.fixture
def begun(places, tmp_path):
    """(folder with a copy of the source, folder of a finished run that began with it)."""
    folder = copied(places, tmp_path)
    assert tuned(folder, tmp_path / "model", "--frozen_steps=3").code == 0
    return folder, tmp_path / "model"


def test_a_resume_with_other_flags_of_the_beginning_is_refused_with_the_difference(begun):
    folder, model = begun
    without = [flag for flag in command(folder, model) if "init_from" not in flag]
    for flags, told in (
        (command(folder, model, "--frozen_steps=3", source="other"), "--init_from: was "),
        (command(folder, model, "--frozen_steps=4"), "--frozen_steps: was 3, now 4"),
        (command(folder, model, "--frozen_steps=3", "--layer_decay=0.5"), "--layer_decay: was 1.0"),
        (without, "--init_from: was "),
    ):
        answer = commands.call(*flags)
        assert answer.code == 2 and told in answer.err, answer.err


def test_a_run_without_a_checkpoint_begins_again_but_not_from_another_state(begun):
    folder, model = begun
    digest = tuned(folder, model, "--frozen_steps=3").digest
    shutil.rmtree(model / "checkpoints")
    again = tuned(folder, model, "--frozen_steps=3")
    assert (again.code, again.digest) == (0, digest)
    shutil.rmtree(model / "checkpoints")
    shutil.rmtree(folder / "source/best")  # Now the newest checkpoint is taken.
    refused = tuned(folder, model, "--frozen_steps=3")
    assert refused.code == 2
    assert "is at step 12" in refused.err and "this run began from step" in refused.err
    assert "Use another --model_dir, or delete" in refused.err
    (model / "config.json").unlink()
    assert tuned(folder, model, "--frozen_steps=3").code == 0


def test_a_resume_whose_config_json_lost_the_origin_is_refused(begun):
    folder, model = begun
    document = written(model)
    for origin in (None, {"step": 3}):
        rewrite(model, {**document, "origin": origin})
        answer = tuned(folder, model, "--frozen_steps=3")
        assert answer.code in (2, 3) and f"{model / 'config.json'}" in answer.err, answer.err


def test_a_tuned_model_is_used_without_its_source(begun):
    folder, model = begun
    shutil.rmtree(folder / "source")
    answer = commands.call("evaluate", f"--model_dir={model}", "--split=validation")
    assert answer.code == 0, answer.err


# --- several workers ------------------------------------------------------------------------------


@pytest.mark.slow
def test_workers_begin_with_the_same_source_and_refuse_the_same_way(places, tmp_path):
    flags = [f"--init_from={places / 'source'}", *SMALL, "--steps=6", "--batch_size=9"]
    flags += ["--frozen_steps=2", "--precision=float64"]
    alone = workers_test.run(1, places / "five", tmp_path / "alone", *flags)
    both = workers_test.run(2, places / "five", tmp_path / "both", *flags)
    assert [answer.code for answer in alone + both] == [0, 0, 0], both[0].err
    assert both[0].digest == both[1].digest
    one, two = at(tmp_path / "alone", 6), at(tmp_path / "both", 6)
    for name, value in one.items():
        np.testing.assert_allclose(value, two[name], rtol=1e-9, atol=1e-12, err_msg=name)
    refused = workers_test.run(2, places / "five", tmp_path / "refused", *flags, "--units=9")
    for answer in refused:
        assert answer.code == 2 and "have other shapes" in answer.err


# --- what is refused ------------------------------------------------------------------------------


def refusal(places, tmp_path, *flags, **options) -> str:
    answer = tuned(places, tmp_path / "refused", *flags, **options)
    assert (answer.code, answer.out) == (2, ""), answer.err
    assert "Traceback" not in answer.err
    return answer.err[answer.err.index("error: ") :]


@pytest.mark.parametrize(
    "flags, told",
    [
        (["--units=9"], ["rnn_0/kernel: (4, 18) there, (4, 27) here", "Use --units=6"]),
        (["--embedding_size=5"], ["(30, 4) there, (30, 5) here", "Use --embedding_size=4"]),
        (["--cell=lstm"], ["has --cell=gru", "this run has --cell=lstm", "Use --cell=gru"]),
        (
            ["--bidirectional"],
            ["has --bidirectional=False", "=True", "rnn_0/forward/kernel", "are not in it"],
        ),
        (
            ["--one_hot", "--cell=lstm"],
            ["--cell=gru --one_hot=False", "--cell=lstm --one_hot=True"],
        ),
        (["--frozen_steps=-1"], ["--frozen_steps=-1: must be at least 0"]),
        (["--layer_decay=0"], ["--layer_decay=0.0: must be greater than 0 and at most 1"]),
        (["--layer_decay=1.5"], ["--layer_decay=1.5: must be"]),
        (["--init_from=", "--frozen_steps=3"], ["--frozen_steps=3: freezes what was taken from"]),
    ],
)
def test_flags_that_do_not_fit_are_refused_with_value_rule_and_remedy(
    places, tmp_path, flags, told
):
    said = refusal(places, tmp_path, *flags)
    assert all(part in said for part in told), said


def test_another_vocabulary_is_refused_also_if_it_has_the_same_size(places, tmp_path):
    said = refusal(places, tmp_path, data="words")
    assert "another token" in said and "--vocabulary_from=" + str(places / "three") in said


def test_the_vocabulary_of_an_older_run_is_read_from_its_dataset(places, tmp_path):
    (tmp_path / "words").symlink_to(places / "words")
    folder = by_hand(places, tmp_path)
    assert "vocabulary_sha256" not in written(folder / "source")
    assert "another token" in refusal(folder, tmp_path, data="words")
    assert tuned(folder, tmp_path / "same").code == 0
    # Without it there is a warning, because only the shape is known.
    (folder / "three").unlink()
    answer = tuned(folder, tmp_path / "gone", data="words")
    assert answer.code == 0 and "is not known" in answer.err


def test_a_folder_that_is_no_trained_model_is_refused(places, tmp_path):
    assert "holds no config.json" in refusal(places, tmp_path, source="nothing")
    folder = copied(places, tmp_path)
    for part in ("best", "checkpoints"):
        shutil.rmtree(folder / "source" / part)
    said = refusal(folder, tmp_path)
    assert f"--init_from={folder / 'source'}: holds no checkpoint yet" in said


def test_a_source_without_any_weight_of_that_name_is_refused(places, tmp_path):
    weights = {"dense/kernel": np.ones((2, 2), np.float32)}
    said = refusal(by_hand(places, tmp_path, weights=weights), tmp_path)
    assert "nothing can be taken. That model has dense/kernel" in said and "rnn_0/kernel" in said


def test_a_source_whose_checkpoints_are_damaged_is_bad_data(places, tmp_path):
    folder = copied(places, tmp_path)
    for path in (folder / "source").glob("*/step-*/tensors.data*"):
        path.write_bytes(b"damaged")
    answer = tuned(folder, tmp_path / "model")
    assert answer.code == 3 and "Traceback" not in answer.err


# --- frames ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_frames(places):
    """FOLDER/values: a run on frames of 3 features; FOLDER/labels and FOLDER/wide: data of frames
    of 3 and of 4.
    """
    splits = datasets.random_frames(values=1)
    datasets.write_numbers(places / "numbers", splits, shape=(3,), values=("mean",))
    for name, features in (("labels", 3), ("wide", 4)):
        splits = datasets.random_frames(features=features)
        labels = ("a", "b", "c")
        datasets.write_numbers(places / name, splits, shape=(features,), labels=labels)
    answer = commands.call(
        "train",
        f"--data_dir={places / 'numbers'}",
        f"--model_dir={places / 'values'}",
        *SMALL,
        "--frame_encoder=dense",
        "--steps=2",
        "--eval_steps=-1",
    )
    assert answer.code == 0, answer.err
    assert re.search(
        r"40 training examples, \d+ frames of 3 features, 1 values; batches", answer.err
    )
    return places


def test_what_reads_frames_is_taken_whatever_is_told_of_them(of_frames, tmp_path):
    answer = tuned(
        of_frames, tmp_path / "m", "--frame_encoder=dense", data="labels", source="values"
    )
    assert answer.code == 0, answer.err
    assert re.search(
        "taken from step 2 .*: frame_dense/kernel, frame_dense/bias, rnn_0/", answer.err
    )
    assert written(tmp_path / "m")["vocabulary_sha256"] == ""


@pytest.mark.parametrize(
    "source, data, flags, told",
    [
        ("values", "wide", ["--frame_encoder=dense"], "Prepare frames of the shape that"),
        ("values", "labels", [], "Use --frame_encoder=dense"),
        ("source", "labels", [], "that model reads tokens, and the dataset"),
        ("values", "five", [], "Use --frame_encoder=dense"),
    ],
)
def test_frames_of_another_kind_are_refused(source, data, flags, told, of_frames, tmp_path):
    answer = tuned(of_frames, tmp_path / "m", *flags, data=data, source=source)
    assert answer.code == 2 and told in answer.err, answer.err
