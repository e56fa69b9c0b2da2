"""Datasets that several test files of export share."""

import dataclasses

import pytest

from tests.export import small_models
from trainer.data import text


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return small_models.a_dataset(tmp_path_factory.mktemp("words"), "words")


@pytest.fixture(scope="module")
def a_text(tmp_path_factory):
    return small_models.a_text(tmp_path_factory.mktemp("text"), "words")


@pytest.fixture(scope="module")
def tagged(tmp_path_factory):
    return small_models.a_tagged_text(tmp_path_factory.mktemp("tagged"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return small_models.some_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    return small_models.some_frames(tmp_path_factory.mktemp("frames"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return small_models.some_frames(tmp_path_factory.mktemp("pictures"), (4, 5))


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    return small_models.some_frames(tmp_path_factory.mktemp("values"), (3,), ("mean", "rest"))


@pytest.fixture
def without_words(words):
    return dataclasses.replace(
        words, description={**words.description, "tokenizer": text.settings("none")}
    )
