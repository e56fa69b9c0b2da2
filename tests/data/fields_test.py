"""Targets and orders: the words that dataset.json uses are those of the files that lie there."""

import re

import numpy as np

from trainer.data import fields, store


def test_every_kind_of_target_has_a_word_and_an_array_that_a_split_can_hold():
    assert set(fields.TARGETS) == {"label", "tags", "next_token", "text", "values"}
    for kind, target in fields.TARGETS.items():
        assert kind == target.kind and re.fullmatch("[a-z_]+", kind)
        assert not target.array or target.array in store.ARRAYS


def test_a_target_without_an_array_is_one_for_each_token():
    assert [target for target in fields.TARGETS.values() if not target.array] == [fields.NEXT_TOKEN]
    assert fields.NEXT_TOKEN.per_step and fields.TAGS.per_step and not fields.LABEL.per_step


def test_the_values_of_a_target_are_classes_or_ids():
    assert fields.LABEL.classes and fields.TAGS.classes
    assert not fields.NEXT_TOKEN.classes and not fields.TEXT.classes
    assert [target for target in fields.TARGETS.values() if target.sequence] == [fields.TEXT]
    assert not fields.TEXT.per_step
    assert [target for target in fields.TARGETS.values() if target.numbers] == [fields.VALUES]
    assert not fields.VALUES.classes and not fields.VALUES.per_step


def test_every_kind_of_input_has_a_word_and_an_array_that_a_split_can_hold():
    assert set(fields.INPUTS) == {"tokens", "frames"}
    for kind, read in fields.INPUTS.items():
        assert kind == read.kind and read.array in store.ARRAYS
        assert read.numbers == (store.ARRAYS[read.array].kind == "f")


def test_a_scale_gives_numbers_mean_0_and_deviation_1_and_takes_it_back():
    values = np.float32([[1, 10], [3, 30], [5, 20]])
    scale = fields.Scale(values.mean(0), values.std(0))
    seen = scale.applied(values)
    np.testing.assert_allclose(seen.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(seen.std(0), 1, rtol=1e-6)
    np.testing.assert_allclose(scale.undone(seen), values, rtol=1e-6)


def test_an_order_has_a_word():
    assert fields.ORDERS == ("shuffled", "streams")
