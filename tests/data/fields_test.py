"""Targets and orders: the words that dataset.json uses are those of the files that lie there."""

import re

from trainer.data import fields, store


def test_every_kind_of_target_has_a_word_and_an_array_that_a_split_can_hold():
    assert set(fields.TARGETS) == {"label", "tags", "next_token", "text"}
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


def test_an_order_has_a_word():
    assert fields.ORDERS == ("shuffled", "streams")
