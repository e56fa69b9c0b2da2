"""Numbers the units of a text while it is read, then ranks them by frequency.

Which units are frequent is known only at the end of a source. So each unit gets a number at once
(words in order of appearance, a character its code point, a byte its value). Afterwards the units
of the training split are counted and ranked, and an array maps numbers to ids. Unit 0 stands for
the start of an example.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data import text

START_UNIT = 0


class Words:
    """Words, numbered in order of appearance.

    A graph looks up the words that are known; only new ones take a step in Python.
    """

    def __init__(self, split: Callable[[tf.Tensor], tf.RaggedTensor] = text.split_words):
        """`split`: texts, which are valid UTF-8, -> words: string [n] -> string [n, words]."""
        self._words_of = split
        self._numbers: dict[bytes, int] = {b"": START_UNIT}
        self._names: list[bytes] = [b""]
        self._table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
        self._split = tf.function(
            self._looked_up, input_signature=[tf.TensorSpec([None], tf.string)]
        )

    def _looked_up(self, texts: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Returns units (-1 if unknown), lengths, the unknown words, and which of them is where."""
        words = self._words_of(texts)
        numbers = tf.ensure_shape(self._table.lookup(words.flat_values), [None])
        unknown, which = tf.unique(tf.boolean_mask(words.flat_values, numbers < 0))
        rows = text.with_start(words.with_flat_values(tf.cast(numbers, tf.int32)), START_UNIT)
        return rows.flat_values, rows.row_lengths(), unknown, which

    def begin(self, texts: Sequence[bytes]) -> list[np.ndarray]:
        """Does the part of the work that may run in any thread and in any order."""
        return [tensor.numpy() for tensor in self._split(tf.constant(texts, tf.string))]

    def finish(self, begun: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Returns units int32 [total] and lengths [texts] from what `begin` returned."""
        units, lengths, unknown, which = begun
        known = len(self._names)
        for word in unknown.tolist():
            if word not in self._numbers:
                self._numbers[word] = len(self._names)
                self._names.append(word)
        if len(self._names) > known:
            self._table.insert(
                tf.constant(self._names[known:]), tf.range(known, len(self._names), dtype=tf.int64)
            )
        if len(unknown):
            units = units.copy()
            units[units < 0] = np.array(
                [self._numbers[word] for word in unknown.tolist()], np.int32
            )[which]
        return units, lengths

    @property
    def size(self) -> int:
        """Number of units so far."""
        return len(self._names)

    def vocabulary(self, counts: np.ndarray, limit: int) -> tuple[list[str], np.ndarray]:
        """Returns the entries of the vocabulary by id from FIRST_ID on, and the id of every unit.

        Args:
          counts: int64 [size], how often each unit occurs in the training split.
          limit: most entries.
        """
        counts = counts.copy()
        # Not counted, so it gets no entry and the unknown id.
        counts[self._numbers.get(text.UNKNOWN_TOKEN.encode(), START_UNIT)] = 0
        ranked, ids = _ranked(counts, limit, self._names.__getitem__)
        return [self._names[unit].decode() for unit in ranked], ids

    def ids_of(self, entries: Sequence[str]) -> np.ndarray:
        """Returns the id of every unit, if `entries` are what the ids from FIRST_ID on stand for.

        int32 [size].
        """
        return _ids(self.size, [self._numbers.get(entry.encode()) for entry in entries])


class Characters:
    """Code points; unit 0 is free, since no text holds a NUL. Methods as in `Words`."""

    size = 0x110000

    def __init__(self, split: Callable[[tf.Tensor], tf.RaggedTensor] = text.split_characters):
        self._split = tf.function(
            lambda texts: text.with_start(split(texts), START_UNIT),
            input_signature=[tf.TensorSpec([None], tf.string)],
        )

    def begin(self, texts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        rows = self._split(tf.constant(texts, tf.string))
        return rows.flat_values.numpy(), rows.row_lengths().numpy()

    def finish(self, begun: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return begun

    def vocabulary(self, counts: np.ndarray, limit: int) -> tuple[list[str], np.ndarray]:
        ranked, ids = _ranked(counts, limit, lambda unit: unit)
        return [chr(unit) for unit in ranked], ids

    def ids_of(self, entries: Sequence[str]) -> np.ndarray:
        return _ids(self.size, list(map(ord, entries)))


class Bytes(Characters):
    """Bytes; the vocabulary is always all of them in order. Methods as in `Words`."""

    size = 256

    def __init__(self, split: Callable[[tf.Tensor], tf.RaggedTensor] = text.split_bytes):
        super().__init__(split)

    def vocabulary(self, counts: np.ndarray, limit: int) -> tuple[list[str], np.ndarray]:
        return list(text.BYTE_NAMES), self.ids_of(text.BYTE_NAMES)

    def ids_of(self, entries: Sequence[str]) -> np.ndarray:
        ids = np.arange(text.FIRST_ID, text.FIRST_ID + 256, dtype=np.int32)
        ids[START_UNIT] = text.START
        return ids


class Given:
    """Ids that a source brings with their vocabulary. Methods as in `Words`."""

    def __init__(self, entries: Sequence[str]):
        """`entries`: what the ids from FIRST_ID on stand for, all that occur."""
        self._entries = list(entries)
        self.size = text.FIRST_ID + len(self._entries)

    def begin(self, rows: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        start = np.array([START_UNIT], np.int32)
        lengths = np.array([1 + len(row) for row in rows])
        return np.concatenate([part for row in rows for part in (start, row)]), lengths

    def finish(self, begun: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return begun

    def vocabulary(self, counts: np.ndarray, limit: int) -> tuple[list[str], np.ndarray]:
        ids = np.arange(self.size, dtype=np.int32)
        ids[text.FIRST_ID + limit :] = text.UNKNOWN
        ids[START_UNIT] = text.START
        return self._entries[:limit], ids

    def ids_of(self, entries: Sequence[str]) -> np.ndarray:
        units = {entry: text.FIRST_ID + i for i, entry in enumerate(self._entries)}
        return _ids(self.size, [units.get(entry) for entry in entries])


# `Bytes` are `Characters` too.
Units = Words | Characters | Given


def units_of(settings: Mapping) -> Units:
    """Returns the units of a tokenizer; `settings`: `text.settings` of one that splits texts."""
    units = {"characters": Characters, "bytes": Bytes}.get(settings["name"], Words)
    return units(text.splitter(settings))


def without_start(
    units: np.ndarray, lengths: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns units and lengths as `Words.finish`, without the start of `rows`, bool [rows]."""
    starts = np.cumsum(lengths) - lengths
    return np.delete(units, starts[rows]), lengths - rows


def _ids(size: int, units: Sequence[int | None]) -> np.ndarray:
    """Returns the id of every unit, int32 [size], from the unit of each id from FIRST_ID on.

    units: None, or START_UNIT, for an entry of the vocabulary that no text holds.
    """
    ids = np.full(size, text.UNKNOWN, np.int32)
    for entry, unit in enumerate(units, text.FIRST_ID):
        if unit is not None:
            ids[unit] = entry
    ids[START_UNIT] = text.START
    return ids


def _ranked(
    counts: np.ndarray, limit: int, name: Callable[[int], Any]
) -> tuple[list[int], np.ndarray]:
    """Returns the most frequent units and the id of every unit.

    Args:
      counts: int64 [units], how often each occurs in the training split.
      limit: most units in the vocabulary.
      name: unit -> its name; of equally frequent units the one with the smaller name comes first.

    Returns:
      Units by (-count, name), without those that never occur; ids int32 [units]: the first of the
      returned units has id FIRST_ID.
    """
    used = np.flatnonzero(counts)
    used = used[used != START_UNIT]
    if len(used) > limit:
        rarest = np.partition(counts[used], len(used) - limit)[len(used) - limit]
        used = used[counts[used] >= rarest]
    ranked = sorted(used.tolist(), key=lambda unit: (-counts[unit], name(unit)))[:limit]
    ids = np.full(len(counts), text.UNKNOWN, np.int32)
    ids[START_UNIT] = text.START
    ids[ranked] = np.arange(text.FIRST_ID, text.FIRST_ID + len(ranked))
    return ranked, ids
