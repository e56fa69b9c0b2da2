"""The rows on which exported files are compared with their model, from the dataset and difficult.

Every row is a list of ids, and also a text or a sentence if the dataset has words; or a sequence of
frames. Without the dataset's examples, rows of random ids or frames stand in their place.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from trainer.data import fields, store, text
from trainer.export import saved_model

ROWS = 48  # Rows of the dataset that are compared.
# A network that reads many random ids amplifies rounding as no text does.
RANDOM_STEPS = 8
STEPS = 64  # At most, of a row that nothing cuts.
BEYOND = 8  # Steps of a sequence of frames that are cut.
# Of all sequences of frames. They travel as text to the process that reads the files: 90 MB.
NUMBERS = 1 << 24
LONG = 10_000  # Words of the long text, and tokens of the long sentence.

CORNER_CASES = tuple(
    case.encode()
    for case in (
        "",
        " ",
        "\n\t\u2028\u0085",
        "a\0b",
        "\ufeffbom",
        "İstanbul ISPARTA ẞ ǅ ﬁ",
        "It’s <BR/>it's<br >'quoted'",
        "e\u0301 é Ａ",
        "👩\u200d👩\u200d👧 🏳\ufe0f",
        "日本語 שלום नमस्ते",
        "[padding] [unknown] <unk> <pad>",
        "(3.14, 1,000)… don't\u00a0 \uffed a\uffed!",
    )
) + (b"\xff bad \xc3", b"\xed\xa0\x80", b"cut \xe2\x82", b"\xf4\x90\x80\x80")
LONG_TEXT = b"word " * LONG


class Texts(NamedTuple):
    """texts: None if the dataset has no words. rows: the ids of each, int32 arrays."""

    texts: list[bytes] | None
    rows: list[np.ndarray]


def texts_of_examples(dataset: store.Dataset) -> Texts:
    """Returns examples from all over a held-out split and, if it has words, difficult texts."""
    split = _held_out(dataset)
    rows = [_example(split, example) for example in _spread(len(split))]
    return _with(dataset, rows, (*CORNER_CASES, LONG_TEXT))


def sequences_of_frames(dataset: store.Dataset, max_length: int) -> list[np.ndarray]:
    """Returns frames as they were read, float32 [steps, features] each, from all over a held-out
    split, and one of a single step.

    A longer one than `max_length` keeps a few steps more, which the files must cut. They are fewer
    if they are large: padded to the longest they have about NUMBERS numbers, and are two at least.
    """
    split = _held_out(dataset)
    steps = min(max_length + BEYOND, int(np.diff(split.offsets).max()))
    count = min(ROWS, max(2, NUMBERS // (steps * split.inputs.shape[1])))
    rows = [np.array(_example(split, example)[:steps]) for example in _spread(len(split), count)]
    return [*rows, rows[0][:1]]


def texts_of_sources(dataset: store.Dataset) -> Texts:
    """Returns examples from all over a held-out split and difficult texts, none of them long."""
    split = _held_out(dataset)
    rows = [_example(split, example)[:STEPS] for example in _spread(len(split))]
    return _with(dataset, rows, CORNER_CASES)


def texts_of_pieces(dataset: store.Dataset) -> Texts:
    """Returns pieces from all over the text of a held-out split and, if it has words, difficult
    texts.
    """
    tokens = _held_out(dataset).inputs
    begins = _spread(max(1, len(tokens) - STEPS))
    rows = [np.append(np.int32(text.START), tokens[begin : begin + STEPS]) for begin in begins]
    return _with(dataset, rows, CORNER_CASES)


def long_text(dataset: store.Dataset) -> Texts:
    """Returns the long text alone, of a dataset that has words."""
    return _with(dataset, [], (LONG_TEXT,))


def sentences(dataset: store.Dataset) -> list[list[bytes]]:
    """Returns the tokens of sentences from all over a held-out split, and of difficult ones."""
    split = _held_out(dataset)
    vocabulary = [word.encode() for word in dataset.vocabulary]
    rows = [
        [vocabulary[entry] for entry in _example(split, example)[:STEPS]]
        for example in _spread(len(split))
    ]
    difficult = [case for case in CORNER_CASES if case]
    return [*rows, [], difficult, *([token] for token in difficult)]


def long_sentence(dataset: store.Dataset) -> list[bytes]:
    """Returns LONG tokens: all words of the vocabulary in turn."""
    words = [word.encode() for word in dataset.vocabulary]
    return [words[place % len(words)] for place in range(LONG)]


def _held_out(dataset: store.Dataset) -> store.Split:
    names = ("test", "validation", "train")
    found = (dataset.splits[name] for name in names if name in dataset.splits)
    return next(found, None) or _made(dataset)


def _made(dataset: store.Dataset) -> store.Split:
    """Returns ROWS rows of 1 to RANDOM_STEPS random ids, which begin as those of the dataset do;
    or of frames like those of the dataset.
    """
    generator, limit = np.random.default_rng(0), len(dataset.vocabulary)
    if dataset.input.numbers:
        lengths = np.linspace(1, RANDOM_STEPS, ROWS).astype(int)
        frames = generator.normal(size=(lengths.sum(), dataset.form.features)).astype(np.float32)
        frames = dataset.normalise.undone(frames) if dataset.normalise else frames
        return store.Split(frames, np.cumsum([0, *lengths]))
    rows = [
        generator.integers(min(text.FIRST_ID, limit - 1), limit, length, dtype=np.int32)
        for length in np.linspace(1, RANDOM_STEPS, ROWS).astype(int)
    ]
    if dataset.target is not fields.TAGS:
        rows = [np.append(np.int32(text.START), row) for row in rows]
    return store.Split(np.concatenate(rows), np.cumsum([0, *map(len, rows)]))


def _spread(count: int, most: int = ROWS) -> np.ndarray:
    """Returns at most `most` numbers from all over 0 ... count - 1."""
    return np.unique(np.linspace(0, count - 1, most).astype(int))


def _example(split: store.Split, example: int) -> np.ndarray:
    return split.inputs[split.offsets[example] : split.offsets[example + 1]]


def _with(dataset: store.Dataset, rows: list[np.ndarray], difficult: tuple[bytes, ...]) -> Texts:
    if not saved_model.reads_raw_input(dataset):
        return Texts(None, rows)
    texts = [*(_decoded(row, dataset) for row in rows), *difficult]
    encoded = text.tokenizer_of(dataset).encode(tf.constant(texts))
    return Texts(texts, [row.numpy() for row in encoded])


def _decoded(ids: np.ndarray, dataset: store.Dataset) -> bytes:
    """Returns a text made of the tokens of `ids`, without the reserved ones."""
    ids = ids[ids >= text.FIRST_ID]
    if dataset.tokenizer["name"] == "bytes":
        return bytes((ids - text.FIRST_ID).tolist())
    tokens = tf.constant([[dataset.vocabulary[entry] for entry in ids]], tf.string)
    return text.joined(dataset.tokenizer, tokens).numpy()[0]
