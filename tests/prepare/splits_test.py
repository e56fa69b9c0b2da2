import hashlib

import numpy as np
import pytest

from trainer.exit_codes import UsageError
from trainer.prepare import splits
from trainer.prepare.splits import DROPPED, TEST, TRAIN, VALIDATION


def texts(count):
    return [b"text %d" % i for i in range(count)]


def assign(contents, labels=None, given=None, validation=0.0, test=0.0, seed=0):
    given = np.full(len(contents), TRAIN, np.int8) if given is None else np.array(given, np.int8)
    labels = np.zeros(len(contents), np.int32) if labels is None else np.array(labels, np.int32)
    return splits.assign(splits.keys(contents, seed), given, labels, validation, test)


def test_splits_have_their_fractions_up_to_chance():
    found = assign(texts(20_000), validation=0.1, test=0.2).splits
    for split, share in ((TRAIN, 0.7), (VALIDATION, 0.1), (TEST, 0.2)):
        # Five standard deviations of a binomial.
        assert abs((found == split).mean() - share) < 5 * (share * (1 - share) / 20_000) ** 0.5


def test_a_row_stays_in_its_split_when_the_data_grows_or_is_reordered():
    few, many = texts(500), texts(5000)[::-1]
    of_text = dict(zip(many, assign(many, validation=0.1, test=0.2).splits))
    assert [of_text[text] for text in few] == assign(few, validation=0.1, test=0.2).splits.tolist()


def test_another_fraction_or_validation_split_keeps_the_test_rows():
    small, large = (assign(texts(2000), validation=v, test=0.2).splits == TEST for v in (0.0, 0.3))
    assert (small == large).all()


def test_the_split_depends_on_the_seed():
    one, same, other = (
        assign(texts(500), test=0.3, seed=seed).splits.tolist() for seed in (1, 1, 2)
    )
    assert one == same != other


def test_the_hash_is_that_of_the_text_under_the_seed():
    expected = hashlib.blake2b(b"a", digest_size=16, key=(7).to_bytes(16, "little")).digest()
    assert splits.keys([b"b", b"a"], 7)[1].tobytes() == expected


def test_the_first_of_equal_rows_is_kept_and_a_text_is_kept_with_each_of_its_labels():
    contents = [b"a", b"b", b"a", b"a", b"c", b"a", b"b"] + texts(100)
    labels = [0, 0, 1, 0, 0, 1, 0] + [0] * 100
    found = assign(contents, labels, test=0.5)
    assert (found.splits[:7] == DROPPED).tolist() == [False, False, False, True, False, True, True]
    assert found.duplicates == 3 and found.ambiguous == 1
    assert found.splits[0] == found.splits[2]
    assert found.overlaps == {}


def test_given_splits_stay_whole_and_common_texts_are_counted_once():
    contents = [b"a", b"a", b"b", b"a", b"a", b"c", b"c", b"d"]
    given = [TRAIN, TRAIN, TRAIN, TEST, TEST, TEST, VALIDATION, TRAIN]
    found = assign(contents, given=given)
    assert found.splits.tolist() == given and found.duplicates == 0
    assert found.overlaps == {"train+test": 1, "validation+test": 1}


def test_without_fractions_repeated_and_ambiguous_rows_are_counted_and_kept():
    """Those of the training split: given splits are measured as they are."""
    contents = [b"a", b"a", b"b", b"b", b"c", b"c", b"a"]
    given = [TRAIN] * 4 + [TEST] * 3
    found = assign(contents, [0, 1, 0, 0, 0, 0, 2], given)
    assert found.splits.tolist() == given
    assert (found.duplicates, found.repeated, found.ambiguous) == (0, 1, 1)


def test_a_carved_validation_split_leaves_a_given_test_split_whole():
    contents = texts(1000) + texts(10) + texts(10)
    given = [TRAIN] * 1000 + [TEST] * 20
    found = assign(contents, given=given, validation=0.2)
    assert (found.splits[1000:] == TEST).all() and found.duplicates == 0
    assert sum(found.overlaps.values()) == 10


@pytest.mark.parametrize(
    "count, validation, test, flag",
    [
        (3, 0.0, 0.000001, "test_fraction"),
        (3, 0.000001, 0.0, "validation_fraction"),
        (2, 0.0, 0.999999, "leave nothing to train on"),
    ],
)
def test_a_fraction_that_leaves_a_split_empty_is_a_usage_error(count, validation, test, flag):
    with pytest.raises(UsageError, match=flag):
        assign(texts(count), validation=validation, test=test)
