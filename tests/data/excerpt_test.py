"""What a model folder keeps of its dataset, through moved data, damage and kills."""

import os
import pathlib
import shutil

import pytest

from tests import datasets
from trainer import durable
from trainer.data import excerpt, store
from trainer.exit_codes import DataError

MADE_BEFORE = pathlib.Path(__file__).parent / "made_before"


@pytest.fixture
def dataset(tmp_path):
    splits = datasets.random_splits()
    return datasets.write(tmp_path / "data", splits, vocabulary_size=30, classes=3)


@pytest.fixture
def model(tmp_path):
    (tmp_path / "model").mkdir()
    return tmp_path / "model"


def test_what_is_kept_is_read_after_the_data_is_gone(dataset, model):
    excerpt.keep(dataset, model)
    shutil.rmtree(dataset.folder)
    found = excerpt.opened(model, dataset.digest)
    assert found.digest == dataset.digest and found.splits == {}
    for part in ("description", "vocabulary", "labels", "tokenizer", "task", "target", "order"):
        assert getattr(found, part) == getattr(dataset, part)
    names = {"dataset.json", "vocabulary.txt", "labels.txt"}
    assert {path.name for path in (model / "dataset").iterdir()} == names


def test_a_dataset_of_an_older_version_is_kept_with_the_same_digest(model):
    dataset = store.open_dataset(MADE_BEFORE / "data")
    excerpt.keep(dataset, model)
    assert excerpt.opened(model, dataset.digest).digest == dataset.digest


def test_a_text_without_classes_has_no_labels(tmp_path, model):
    text = datasets.random_text(100)
    dataset = datasets.write_text(tmp_path / "text", {"train": [text]}, vocabulary_size=30)
    excerpt.keep(dataset, model)
    assert excerpt.opened(model, dataset.digest).labels == ()
    assert not (model / "dataset/labels.txt").exists()


@pytest.mark.parametrize("target_words", [None, ["v4", "v5"]])
def test_a_target_that_is_a_text_keeps_its_vocabulary(tmp_path, model, target_words):
    pairs = {"train": [([4, 5], [5])]}
    dataset = datasets.write_pairs(
        tmp_path / "pairs", pairs, words=["w4", "w5"], target_words=target_words
    )
    excerpt.keep(dataset, model)
    found = excerpt.opened(model, dataset.digest)
    assert found.target_vocabulary == dataset.target_vocabulary and found.outputs == 6
    assert found.shared_vocabulary is (target_words is None)
    assert (model / "dataset/target_vocabulary.txt").exists() is bool(target_words)


def test_a_model_of_an_older_version_keeps_nothing(dataset, model):
    assert excerpt.opened(model, dataset.digest) is None


@pytest.mark.parametrize("name", ["dataset.json", "vocabulary.txt", "labels.txt"])
@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_a_damaged_file_is_named_and_written_again_by_the_next_attempt(
    dataset, model, name, damage
):
    excerpt.keep(dataset, model)
    path = model / "dataset" / name
    content = path.read_bytes()
    path.unlink()
    if damage == "flip":
        path.write_bytes(content[:5] + bytes([content[5] ^ 1]) + content[6:])
    with pytest.raises(DataError, match=f"{path}: .*run the command of the training again"):
        excerpt.opened(model, dataset.digest)
    excerpt.keep(dataset, model)
    assert path.read_bytes() == content


def test_the_excerpt_of_another_dataset_is_refused(dataset, model):
    excerpt.keep(dataset, model)
    with pytest.raises(DataError, match="dataset.json: it is missing or its sha256 is not ab"):
        excerpt.opened(model, "ab")


def test_a_dataset_that_changes_while_it_is_kept_is_bad_data(dataset, model):
    path = dataset.folder / "vocabulary.txt"
    path.write_bytes(path.read_bytes().replace(b"w5", b"w6"))
    with pytest.raises(DataError, match="vocabulary.txt: it has changed since it was opened"):
        excerpt.keep(dataset, model)
    assert not list((model / "dataset").iterdir())


def test_what_is_kept_already_is_not_written_again(dataset, model, monkeypatch):
    excerpt.keep(dataset, model)
    monkeypatch.setattr(durable, "replace_file", lambda *_: pytest.fail("a file was written"))
    excerpt.keep(dataset, model)


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("number", range(1, 4))
def test_a_kill_leaves_no_file_in_part(dataset, model, monkeypatch, call, number):
    """The dataset is opened from its folder then, and the next attempt completes the excerpt."""
    calls, original = [], getattr(os, call)

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == number:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, killed)
        with pytest.raises(KeyboardInterrupt):
            excerpt.keep(dataset, model)
    for path in (model / "dataset").glob("*.*"):
        if path.suffix != ".tmp":
            assert path.read_bytes() == (dataset.folder / path.name).read_bytes()
    excerpt.keep(dataset, model)
    assert excerpt.opened(model, dataset.digest).vocabulary == dataset.vocabulary
