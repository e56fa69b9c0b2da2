"""Datasets that several test files of export share."""

import dataclasses

import pytest

from tests.export.small_models import a_dataset
from trainer.data import text


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return a_dataset(tmp_path_factory.mktemp("words"), "words")


@pytest.fixture
def without_words(words):
    return dataclasses.replace(
        words, description={**words.description, "tokenizer": text.settings("none")}
    )
