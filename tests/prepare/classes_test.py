import collections
import random

import numpy as np
import pytest

from trainer.exit_codes import DataError
from trainer.prepare.classes import Classes, tidied
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
    classes = Classes(keep_odd=True)  # Some of them are alike.
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


@pytest.mark.parametrize(
    "read, label",
    [
        (" good\t", "good"),
        ("\u00a0good\u3000", "good"),
        ("\ufeffgood\u200b\u200e", "good"),
        ("cafe\u0301", "caf\u00e9"),
        ("science  fiction", "science  fiction"),
        ("B-PER", "B-PER"),
        ("\u2060\u00ad ", ""),
    ],
)
def test_a_label_is_taken_without_white_space_around_it_and_in_one_form(read, label):
    assert tidied(read) == label


def test_labels_that_are_equal_once_tidied_are_one_class():
    classes = Classes()
    numbers = add(classes, ["good", "bad ", "good\u00a0", "bad"])
    names, ids = classes.ranked()
    assert [names[i] for i in ids[numbers]] == ["good", "bad", "good", "bad"]


ODD = [
    # Labels, what the message must hold.
    (["good", "bad", "Good", "bad"], "f.csv:3: .*'good' .f.csv:1., 'Good' .f.csv:3."),
    (["stra\u00dfe", "a", "STRASSE"], "f.csv:3: labels that differ only in case"),
    (["1", "0", "1.0"], "f.csv:3: .*how a number is written.*'1' .f.csv:1., '1.0' .f.csv:3."),
    (["01", "2", "1"], "f.csv:3: .*'01' .f.csv:1., '1' .f.csv:3."),
    (["0", "1", "-0.00"], "f.csv:3: .*'0' .f.csv:1., '-0.00' .f.csv:3."),
    (["science fiction", "a", "science \u00a0fiction"], "f.csv:3: .*white space"),
    (["good", "nan", "bad"], "f.csv:2: a label that stands for a missing value: 'nan' .f.csv:2."),
    (["a", "#N/A", "NULL", "None", "NA"], "'#N/A' .f.csv:2., 'NULL' .f.csv:3., 'None' .*'NA'"),
    (["good", "bad", "Stars"], "f.csv:3: the label 'Stars' is the name of its column"),
    ([f"id {i}" for i in range(20)], "f.csv:1: each of the 20 rows has a label of its own.*'id 0'"),
]


@pytest.mark.parametrize("labels, message", ODD)
def test_labels_that_are_probably_mistakes_stop_or_warn(caplog, labels, message):
    classes = Classes(column="stars")
    add(classes, labels)
    with pytest.raises(DataError, match=f"{message}.*--odd_labels=keep"):
        classes.ranked()
    kept = Classes(column="stars", keep_odd=True)
    numbers = add(kept, labels)
    names, ids = kept.ranked()
    assert [names[i] for i in ids[numbers]] == labels
    assert "--odd_labels=keep" in caplog.text


@pytest.mark.parametrize(
    "labels",
    [
        ["1", "2", "10", "-1", "1.5"],
        ["+", "-", ".", ","],  # Tags of punctuation, no numbers.
        ["O", "B-PER", "I-PER", "-NONE-", "0"],
        ["na", "Na", "Nb"][1:],  # A tag of the Sinica treebank is no missing value.
        [1, 10, 100],
        [f"id {i // 2}" for i in range(40)],
    ],
)
def test_labels_that_may_be_meant_so_pass(labels):
    classes = Classes()
    add(classes, labels)
    assert len(classes.ranked()[0]) == len(set(labels))


def test_most_classes_with_a_single_example_are_a_warning(caplog):
    classes = Classes()
    add(classes, ["a", "a", "b", "c", "d"])
    classes.ranked()
    assert "3 of 4 labels have a single example, such as 'b' (f.csv:3), 'c'" in caplog.text


def test_a_label_of_any_length_and_any_number_of_them_make_a_short_message():
    classes = Classes()
    with pytest.raises(DataError) as caught:
        add(classes, ["x" * 100_000 + "\n."])
    assert len(str(caught.value)) < 500
    add(classes, [name for i in range(3000) for name in (f"a{i}", f"A{i}")])
    with pytest.raises(DataError, match="and 2980 more. Write each") as caught:
        classes.ranked()
    assert len(str(caught.value)) < 2000
