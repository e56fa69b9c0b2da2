import collections
import random

import numpy as np
import pytest

from trainer.exit_codes import DataError
from trainer.prepare.classes import Classes
from trainer.prepare.splits import TEST, TRAIN, VALIDATION


def add(classes, labels, given=TRAIN, first=1):
    """Adds labels of the lines from `first` on."""
    places = [("f.csv", first + i) for i in range(len(labels))]
    return classes.add(labels, [given] * len(labels), places)


def test_labels_get_numbers_in_order_of_appearance_over_all_batches():
    classes = Classes()
    first, second = add(classes, ["b", "a", "b"]), add(classes, ["c", "a"], first=4)
    assert first.dtype == second.dtype == np.int32
    assert [first.tolist(), second.tolist()] == [[0, 1, 0], [2, 1]]


@pytest.mark.parametrize(
    "labels, names",
    [
        (["pos", "neg"], ["neg", "pos"]),
        (["10", "9", "-1"], ["-1", "9", "10"]),  # All are whole numbers.
        ([10, 9, -1], ["-1", "9", "10"]),
        (["10", "9", "x"], ["10", "9", "x"]),  # One of them is not.
        (["1.5", "10", "9"], ["1.5", "10", "9"]),
        (["+2", "1", "2"], ["1", "+2", "2"]),  # Equal numbers are sorted by code point.
        (["ä", "b", "B"], ["B", "b", "ä"]),
    ],
)
def test_classes_are_sorted_as_numbers_if_all_are_and_else_by_code_point(labels, names):
    classes = Classes()
    add(classes, labels)
    assert classes.ranked()[0] == names


def test_every_row_finds_its_label_under_its_class_id():
    generator = random.Random(0)
    labels = [generator.choice("zebra") for _ in range(500)]
    classes = Classes()
    numbers = np.concatenate(
        [add(classes, labels[begin : begin + 7], first=begin) for begin in range(0, 500, 7)]
    )
    names, ids = classes.ranked()
    assert ids.dtype == np.int32 and names == sorted(set("zebra"))
    assert [names[i] for i in ids[numbers]] == labels
    counted = collections.Counter(labels)
    assert np.bincount(ids[numbers]).tolist() == [counted[name] for name in names]


@pytest.mark.parametrize(
    "label, what",
    [
        ("", "the label is empty"),
        (" \t", "the label is empty"),
        ("two\nlines", "control character"),
        ("next\x85line", "control character"),
        ("two\u2028lines", "control character"),
        ("bad\udcff", "bad UTF-8"),
        (7, "the label 7 is a number, but 'a' at f.csv:1 is a string"),
    ],
)
def test_a_bad_label_is_refused_with_file_and_line(label, what):
    classes = Classes()
    add(classes, ["a", "b"])
    with pytest.raises(DataError, match=f"f.csv:4: .*{what}"):
        add(classes, ["b", label], first=3)


def test_a_string_among_numbers_is_refused_with_both_places():
    classes = Classes()
    add(classes, [1, 2])
    with pytest.raises(DataError, match="f.csv:3: the label '1' is a string, but 1 at f.csv:1 is"):
        add(classes, ["1"], first=3)


@pytest.mark.parametrize("split, name", [(VALIDATION, "validation"), (TEST, "test")])
def test_a_label_that_training_lacks_is_refused_with_its_first_place(split, name):
    classes = Classes()
    add(classes, ["a", "new", "new"], split)
    add(classes, ["a", "b"], first=4)
    with pytest.raises(DataError, match=f"f.csv:2: the label 'new' of the {name} split is in no"):
        classes.ranked()


def test_a_training_label_may_first_occur_in_another_split():
    classes = Classes()
    add(classes, ["b"], TEST)
    add(classes, ["a", "b"], first=2)
    assert classes.ranked()[0] == ["a", "b"]


def test_a_single_class_is_refused():
    classes = Classes()
    add(classes, ["a", "a"])
    with pytest.raises(DataError, match="f.csv:1: every row has the label 'a'"):
        classes.ranked()
