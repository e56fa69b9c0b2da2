import collections

import numpy as np
import pytest

from trainer.data import text
from trainer.prepare import vocabulary


def units_of(units, batches):
    """Returns all units end to end and the lengths, as the first pass makes them."""
    done = [units.finish(units.begin(batch)) for batch in batches]
    return np.concatenate([u for u, _ in done]), np.concatenate([n for _, n in done])


def test_words_are_numbered_in_order_of_appearance():
    words = vocabulary.Words()
    numbers, lengths = units_of(words, [["b a b", ""], ["a c"], ["c d a"]])
    assert numbers.tolist() == [0, 1, 2, 1, 0, 0, 2, 3, 0, 3, 4, 2] and lengths.tolist() == [
        4,
        1,
        3,
        4,
    ]
    assert words.size == 5


def test_a_batch_begun_before_its_words_were_known_gets_the_same_numbers():
    words = vocabulary.Words()
    begun = [words.begin([line]) for line in ("b a", "a c b", "c a")]
    assert [words.finish(batch)[0].tolist() for batch in begun] == [
        [0, 1, 2],
        [0, 2, 3, 1],
        [0, 3, 2],
    ]


def test_words_are_ranked_by_count_then_by_code_point():
    words = vocabulary.Words()
    numbers, _ = units_of(words, [["z z é é a a q q q rare"]])
    entries, ids = words.vocabulary(np.bincount(numbers, minlength=words.size), limit=4)
    assert entries == ["q", "a", "z", "é"]
    assert ids[numbers].tolist() == [text.START, 6, 6, 7, 7, 5, 5, 4, 4, 4, text.UNKNOWN]


@pytest.mark.parametrize("limit", [1, 7, 50, 300, 1000])
def test_the_vocabulary_is_the_head_of_a_full_ranking(limit):
    generator = np.random.default_rng(limit)
    names = [f"w{i}" for i in generator.permutation(400)]
    lines = [" ".join(generator.choice(names, 40)) for _ in range(30)]
    words = vocabulary.Words()
    numbers, _ = units_of(words, [lines[:10], lines[10:]])
    counted = collections.Counter(" ".join(lines).split())
    expected = sorted(counted, key=lambda word: (-counted[word], word))[:limit]
    assert words.vocabulary(np.bincount(numbers, minlength=words.size), limit)[0] == expected


def test_units_that_never_occur_in_training_have_no_entry():
    words = vocabulary.Words()
    numbers, _ = units_of(words, [["seen", "unseen"]])
    counts = np.zeros(words.size, np.int64)
    counts[numbers[1]] = 1
    assert words.vocabulary(counts, limit=100)[0] == ["seen"]


def test_characters_are_ranked_and_bytes_are_fixed():
    characters = vocabulary.Characters()
    numbers, lengths = units_of(characters, [["bab", "é😀b"]])
    entries, ids = characters.vocabulary(np.bincount(numbers, minlength=characters.size), limit=3)
    assert entries == ["b", "a", "é"] and lengths.tolist() == [4, 4]
    assert ids[numbers].tolist() == [1, 4, 5, 4, 1, 6, 2, 4]
    numbers, _ = units_of(vocabulary.Bytes(), [["bé"]])
    entries, ids = vocabulary.Bytes().vocabulary(np.zeros(256, np.int64), limit=1)
    assert (
        len(entries) == 256
        and entries[0x62] == "0x62"
        and ids[numbers].tolist() == [1, 0x66, 0xC7, 0xAD]
    )


def test_the_unknown_token_of_pre_tokenized_text_gets_no_entry():
    spaces = vocabulary.units_of(text.settings("spaces"))
    numbers, _ = units_of(spaces, [["<unk> <unk> <unk> the <pad>"], ["the <unk>"]])
    entries, ids = spaces.vocabulary(np.bincount(numbers, minlength=spaces.size), limit=10)
    assert entries == ["the", "<pad>"]
    assert ids[numbers].tolist() == [1, 2, 2, 2, 4, 5, 1, 4, 2]


@pytest.mark.parametrize(
    "settings, expected",
    [
        (text.settings("words"), ["don't", "stop"]),
        (text.settings("words_and_marks"), ["Don", "\uffed'\uffed", "t", "STOP", "\uffed!"]),
        (text.settings("words_and_marks", True), ["don", "\uffed'\uffed", "t", "stop", "\uffed!"]),
        (text.settings("spaces"), ["Don't", "STOP!"]),
        (text.settings("characters"), list("Don't STOP!")),
        (text.settings("bytes"), [f"0x{byte:02x}" for byte in b"Don't STOP!"]),
    ],
)
def test_units_are_those_of_the_tokenizer(settings, expected):
    units = vocabulary.units_of(settings)
    numbers, _ = units_of(units, [["Don't STOP!"]])
    entries, ids = units.vocabulary(np.bincount(numbers, minlength=units.size), limit=100)
    assert [entries[i - text.FIRST_ID] for i in ids[numbers[1:]]] == expected


def test_given_ids_keep_the_head_of_their_vocabulary():
    given = vocabulary.Given(["the", "and", "a"])
    numbers, lengths = units_of(given, [[np.array([4, 6, 5]), np.array([], np.int32)]])
    entries, ids = given.vocabulary(np.zeros(given.size), limit=2)
    assert (
        entries == ["the", "and"]
        and ids[numbers].tolist() == [1, 4, 2, 5, 1]
        and lengths.tolist() == [4, 1]
    )
