"""The rows of a proof come from the whole of a held-out split, and are cut if nothing else cuts
them.
"""

import dataclasses

import numpy as np
import pytest

from tests import datasets
from tests.export.small_models import VOCABULARY
from trainer.data import text
from trainer.export import examples


def with_words(dataset):
    return dataclasses.replace(
        dataset, description={**dataset.description, "tokenizer": text.settings("words")}
    )


def test_examples_come_from_the_whole_of_a_held_out_split(tmp_path):
    counts = {"train": 5, "test": 3 * examples.ROWS}
    splits = {
        name: ([[1, 4 + row % 7] for row in range(count)], np.zeros(count))
        for name, count in counts.items()
    }
    dataset = datasets.write(tmp_path / "data", splits, vocabulary_size=VOCABULARY, classes=2)
    texts, rows = examples.texts_of_examples(with_words(dataset))
    assert len(texts) == len(rows) == examples.ROWS + len(examples.CORNER_CASES) + 1
    last = (3 * examples.ROWS - 1) % 7
    assert (texts[0], texts[examples.ROWS - 1]) == (b"w4", f"w{4 + last}".encode())


def test_pieces_of_one_long_document_come_from_all_over_it(tmp_path):
    ids = 4 + np.arange(10_000) % 26
    dataset = datasets.write_text(tmp_path / "data", {"train": [ids]}, vocabulary_size=30)
    texts, rows = examples.texts_of_pieces(dataset)
    pieces = rows[: examples.ROWS]
    assert len(texts) == examples.ROWS + len(examples.CORNER_CASES)
    assert all(row[0] == text.START for row in pieces)
    # The first holds a START of its own, which stands for no text.
    assert {len(row) for row in pieces[1:]} == {1 + examples.STEPS}
    np.testing.assert_array_equal(pieces[-1][1:], ids[-examples.STEPS - 1 : -1])


def test_a_short_text_is_one_piece(tmp_path):
    dataset = datasets.write_text(tmp_path / "data", {"train": [[4, 5]]}, vocabulary_size=30)
    texts, rows = examples.texts_of_pieces(dataset)
    assert texts[0] == b"w4 w5" and rows[0].tolist() == [1, 4, 5]


def test_a_long_text_and_a_long_sentence_are_as_long_as_they_say(tmp_path):
    rows = [([4, 5, 6], [0, 1, 0])]
    dataset = datasets.write_tagged(
        tmp_path / "data", {"train": rows}, words=["a", "b", "c"], labels=["X", "Y"]
    )
    assert len(examples.long_sentence(dataset)) == examples.LONG
    first, *difficult = examples.sentences(dataset)
    assert first == [b"a", b"b", b"c"]
    assert [] in difficult and not any(b"" in sentence for sentence in difficult)
    [row] = examples.long_text(dataset).rows
    assert len(row) == 1 + examples.LONG


def test_without_examples_rows_are_made_of_random_ids(tmp_path):
    """A model folder alone has the vocabulary and no examples."""
    dataset = datasets.write_text(tmp_path / "data", {"train": [[4, 5]]}, vocabulary_size=30)
    texts, rows = examples.texts_of_examples(dataclasses.replace(dataset, splits={}))
    assert len(texts) == len(rows) == examples.ROWS + len(examples.CORNER_CASES) + 1
    made = rows[: examples.ROWS]
    assert [len(row) for row in made[:: examples.ROWS - 1]] == [2, 1 + examples.RANDOM_STEPS]
    assert all(row[0] == text.START and (row[1:] >= text.FIRST_ID).all() for row in made)
    assert len(set(np.concatenate(made))) == 1 + 26


@pytest.mark.parametrize("normalise", [True, False])
def test_without_examples_frames_are_like_those_of_the_dataset(normalise, tmp_path):
    splits = {"train": ([np.float32([[50, -3], [60, 5]])], [0])}
    dataset = datasets.write_numbers(
        tmp_path / "data", splits, shape=(2,), labels=("a",), normalise=normalise
    )
    made = examples.sequences_of_frames(dataclasses.replace(dataset, splits={}), 100)
    assert len(made) == examples.ROWS + 1 and len(made[-1]) == 1
    assert {row.dtype.name for row in made} == {"float32"} and made[0].shape[1] == 2
    frames = np.concatenate(made)
    wanted = ([55, 1], [5, 4]) if normalise else ([0, 0], [1, 1])
    np.testing.assert_allclose(frames.mean(axis=0), wanted[0], atol=1.5)
    np.testing.assert_allclose(frames.std(axis=0), wanted[1], rtol=0.2)


def test_frames_are_cut_a_few_steps_beyond_what_the_model_reads(tmp_path, monkeypatch):
    lengths = [3, 1000, 20, 50] * 20
    frames = [np.arange(2 * steps, dtype=np.float32).reshape(steps, 2) for steps in lengths]
    splits = {"test": (frames, [0] * len(frames))}
    dataset = datasets.write_numbers(tmp_path / "data", splits, shape=(2,), labels=("a",))

    def of(max_length):
        found = examples.sequences_of_frames(dataset, max_length)
        assert found[-1].shape == (1, 2)
        return found[:-1]

    assert len(of(20)) == examples.ROWS
    assert {len(row) for row in of(20)} == {3, 20, 20 + examples.BEYOND}
    assert {len(row) for row in of(2**31 - 1)} == set(lengths)
    # They are padded to the longest, so that is what counts.
    monkeypatch.setattr(examples, "NUMBERS", 10 * 2 * (20 + examples.BEYOND))
    assert [len(of(limit)) for limit in (20, 1000)] == [10, 2]


def test_made_sentences_have_no_start(tmp_path):
    rows = [([4, 5, 6], [0, 1, 0])]
    dataset = datasets.write_tagged(
        tmp_path / "data", {"train": rows}, words=["a", "b", "c"], labels=["X", "Y"]
    )
    made = examples.sentences(dataclasses.replace(dataset, splits={}))[: examples.ROWS]
    assert {token for sentence in made for token in sentence} == {b"a", b"b", b"c"}
