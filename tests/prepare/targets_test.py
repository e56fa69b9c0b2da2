"""The table of recipes: each task has one, and it says in dataset.json what it is."""

import dataclasses

import numpy as np
import pytest

from trainer.data import fields
from trainer.exit_codes import DataError, UsageError
from trainer.flags.prepare import Prepare
from trainer.prepare import layout, rows, targets


def test_every_value_of_the_flag_has_a_recipe():
    (flag,) = (field for field in dataclasses.fields(Prepare) if field.name == "task")
    choices = flag.metadata["rule"].text.removeprefix("must be one of ").split(" | ")
    assert sorted(task for task, lines in targets.RECIPES if not lines) == sorted(choices)
    assert [task for task, lines in targets.RECIPES if lines] == ["language_model"]


@pytest.mark.parametrize("key", targets.RECIPES)
def test_a_recipe_is_described_as_the_store_reads_it(key):
    recipe = targets.RECIPES[key]
    assert fields.TARGETS[recipe.target.kind] is recipe.target and recipe.order in fields.ORDERS
    described = recipe.described(key[0])
    if recipe.target is fields.LABEL:
        assert described == {}  # Format 1.
    else:
        assert described["target"] == recipe.target.kind and described["order"] == recipe.order
        assert described["task"] == key[0] and described["input"] == {"kind": "tokens"}


def of_splits(**tokens):
    """A layout with one example per split, and the start id in front of its tokens."""
    numbers = [("train", "validation", "test").index(name) for name in tokens]
    lengths = np.array([1 + count for count in tokens.values()])
    ones = np.ones(len(tokens), bool)
    return layout.Layout(lengths, np.array(numbers), ones, ~ones, {})


SOURCE = rows.Source({"train": ["a.txt", "b.txt"], "test": ["t.txt"]}, read=None)


@pytest.mark.parametrize(
    "tokens, fractions, error, message",
    [
        ({"train": 1}, {}, DataError, "a.txt:1: the text of the train split has 1 tokens"),
        ({"test": 5}, {}, DataError, "a.txt:1: the text of the train split has 0 tokens"),
        ({"train": 2, "test": 1}, {}, DataError, "t.txt:1: the text of the test split has 1"),
        ({"train": 1}, {"test": 0.5}, DataError, "a.txt:1: the text of the train split has 1"),
        ({"train": 9, "test": 1}, {"test": 0.1}, UsageError, "--test_fraction=0.1: the test split"),
        (
            {"train": 9, "test": 1, "validation": 2},
            {"test": 0.1, "validation": 0.2},
            UsageError,
            "--test_fraction=0.1: the test split has 1 of 12 tokens",
        ),
        (
            {"train": 0, "test": 9},
            {"test": 0.9},
            UsageError,
            "--test_fraction=0.9: the train split has 0 of 9 tokens",
        ),
    ],
)
def test_every_split_of_a_text_needs_two_tokens(tokens, fractions, error, message):
    settings = Prepare(
        raw_data="x", **{f"{name}_fraction": share for name, share in fractions.items()}
    )
    with pytest.raises(error, match=message):
        targets.NextTokens(settings).check(of_splits(**tokens), SOURCE)


def test_two_tokens_are_enough():
    targets.NextTokens(Prepare(raw_data="x")).check(of_splits(train=2, test=2), SOURCE)
