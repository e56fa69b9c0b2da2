"""Which checkpoint of a run is opened, and with which weights."""

import dataclasses
import logging

import numpy as np
import pytest
import tensorflow as tf

from tests import datasets
from trainer import resuming, trained_model
from trainer.data import excerpt
from trainer.devices.placement import Placement
from trainer.exit_codes import DataError, UsageError
from trainer.flags import run as configuration
from trainer.flags.use import Evaluate, Export, Predict
from trainer.model_folder import checkpoint, lock
from trainer.models import networks
from trainer.trained_model import Examples

FLAGS = {"units": (2,), "embedding_size": 3, "max_length": 8, "jit": "off", "threads": 1}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "small"
    return datasets.write(folder, datasets.random_splits(), vocabulary_size=30, classes=3)


@pytest.fixture
def placed(monkeypatch) -> list[tuple[int, int]]:
    """[(devices, rows)] that placements were asked for; all of them are on the first CPU."""
    asked = []

    def place(run, rows):
        asked.append((run.devices, rows))
        on_cpu = tf.distribute.OneDeviceStrategy("CPU:0")
        return Placement(on_cpu, "CPU", ("/device:CPU:0",))

    monkeypatch.setattr(trained_model.strategy, "place", place)
    return asked


@pytest.fixture
def model(dataset, tmp_path, placed):
    """The folder of a run that has its configuration and no checkpoint yet."""
    config = configuration.from_flat({**FLAGS, "data_dir": str(dataset.folder), "devices": 4})
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(resuming.to_json(config))
    return tmp_path / "model"


def commit(model, part, step, dataset, *, averages=False) -> None:
    """Commits a state whose weights all are `step`, and its averages -`step`."""
    network = networks.of_run(configuration.from_flat(FLAGS), 30, 3, "CPU")
    tensors = {"step": np.array(step)}
    for name, weight in network.weights.items():
        full = np.full(weight.shape, step, np.float32)
        tensors[f"model/{name}"] = full
        tensors |= {f"optimizer/{name}/average": -full} if averages else {}
    with lock.hold(model) as held:
        held.began(step - 10)  # Each attempt continues from the one before it.
        checkpoint.commit(
            model / part,
            step,
            tensors,
            held=held,
            config_digest="any",
            dataset_digest=dataset.digest,
        )


def opened(
    model, which="auto", *arguments, data_dir="", examples=Examples.NEEDED
) -> trained_model.TrainedModel:
    settings = Evaluate(model_dir=str(model), checkpoint=which, data_dir=str(data_dir))
    return trained_model.open_model(settings, *arguments, examples=examples)


@pytest.mark.parametrize("which, step", [("auto", 10), ("best", 10), ("newest", 20)])
def test_the_best_checkpoint_is_opened_unless_the_newest_is_asked_for(model, dataset, which, step):
    commit(model, "best", 10, dataset)
    commit(model, "checkpoints", 20, dataset)
    found = opened(model, which)
    assert found.checkpoint_step == step
    assert all((weight.numpy() == step).all() for weight in found.weights.values())
    assert list(found.weights) == list(found.network.weights)


def test_the_newest_checkpoint_is_opened_if_there_is_no_best_one(model, dataset):
    commit(model, "checkpoints", 20, dataset)
    assert opened(model).checkpoint_step == 20
    with pytest.raises(UsageError, match="has no best checkpoint"):
        opened(model, "best")


def test_averaged_weights_are_used_if_the_run_keeps_them(model, dataset):
    commit(model, "checkpoints", 20, dataset, averages=True)
    assert all((weight.numpy() == -20).all() for weight in opened(model).weights.values())


def test_a_run_without_a_checkpoint_cannot_be_opened(model):
    with pytest.raises(UsageError, match="holds no checkpoint yet"):
        opened(model)


def test_another_dataset_than_that_of_the_run_is_refused(model, dataset, tmp_path):
    commit(model, "checkpoints", 20, dataset)
    splits = datasets.random_splits(seed=5)
    datasets.write(tmp_path / "other", splits, vocabulary_size=30, classes=3)
    with pytest.raises(UsageError, match="its inputs would mean something else"):
        opened(model, data_dir=tmp_path / "other")


def test_a_model_runs_on_the_devices_it_is_opened_for_and_not_on_those_of_the_run(
    model, dataset, placed
):
    commit(model, "checkpoints", 20, dataset)
    opened(model)
    opened(model, "auto", 2, 64)
    assert placed == [(1, 1), (2, 64)]


# --- which dataset --------------------------------------------------------------------------------


@pytest.fixture
def moved(dataset, model, monkeypatch):
    """A function that keeps the excerpt in the model folder or not, and lets the data vanish."""

    def move(kept=True):
        commit(model, "checkpoints", 20, dataset)
        if kept:
            excerpt.keep(dataset, model)
        config = configuration.from_flat({**FLAGS, "data_dir": "/nowhere/data"})
        resuming.write(config, model)
        monkeypatch.setattr(logging.getLogger("trainer"), "propagate", True)
        return dataset.digest

    return move


@pytest.mark.parametrize("examples", [Examples.UNUSED, Examples.WELCOME])
def test_a_model_folder_stands_alone_for_whoever_needs_no_examples(moved, model, caplog, examples):
    digest = moved()
    found = opened(model, examples=examples).dataset
    assert found.digest == digest and found.splits == {} and len(found.vocabulary) == 30
    missed = "without examples" in caplog.text and "/nowhere/data: no dataset.json" in caplog.text
    assert missed == (examples is Examples.WELCOME)


def test_who_needs_examples_is_told_that_the_model_folder_has_none(moved, model):
    moved()
    with pytest.raises(UsageError, match="/nowhere/data: no dataset.json.*does not hold"):
        opened(model)


@pytest.mark.parametrize("examples", [Examples.UNUSED, Examples.WELCOME])
def test_a_model_of_an_older_version_needs_the_folder_of_its_dataset(moved, model, examples):
    moved(kept=False)
    with pytest.raises(UsageError, match="/nowhere/data: no dataset.json"):
        opened(model, examples=examples)


@pytest.mark.parametrize(
    "examples, splits", [(Examples.NEEDED, 2), (Examples.WELCOME, 2), (Examples.UNUSED, 0)]
)
def test_examples_are_read_only_for_whoever_wants_them(model, dataset, examples, splits):
    commit(model, "checkpoints", 20, dataset)
    excerpt.keep(dataset, model)
    assert len(opened(model, examples=examples).dataset.splits) == splits
    # A folder that is named on the command line is always read.
    named = opened(model, examples=examples, data_dir=dataset.folder).dataset
    assert len(named.splits) == 2


def test_a_damaged_excerpt_is_made_up_for_by_the_dataset(model, dataset, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("trainer"), "propagate", True)
    commit(model, "checkpoints", 20, dataset)
    excerpt.keep(dataset, model)
    (model / "dataset/vocabulary.txt").write_text("other words")
    found = opened(model, examples=Examples.UNUSED)
    assert found.dataset.folder == dataset.folder
    assert f"{model}/dataset/vocabulary.txt: " in caplog.text


def test_a_damaged_excerpt_without_the_dataset_is_bad_data(moved, model):
    moved()
    (model / "dataset/labels.txt").write_text("other names")
    with pytest.raises(DataError, match=f"{model}/dataset/labels.txt: "):
        opened(model, examples=Examples.UNUSED)


@pytest.mark.parametrize(
    "settings, flag",
    [
        (Evaluate(beam=2), "--beam=2"),
        (Evaluate(length_penalty=0.5), "--length_penalty=0.5"),
        (Predict(replace_unknown=True), "--replace_unknown"),
        (Predict(seed=3), "--seed=3"),
        (Export(beam=1), "--beam=1"),
    ],
)
def test_a_flag_that_the_model_would_ignore_is_refused(settings, flag, model, dataset):
    commit(model, "best", 10, dataset)
    settings = dataclasses.replace(settings, model_dir=str(model))
    with pytest.raises(UsageError) as refused:
        trained_model.open_model(settings)
    assert str(refused.value).startswith(f"{flag}: the model was trained for classification")
