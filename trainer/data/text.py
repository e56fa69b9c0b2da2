r"""Turns text into token ids with TensorFlow string ops.

The same ops run when a dataset is prepared and inside an exported model.

Ids, for every tokenizer: 0 padding, 1 start, 2 unknown, 3 unused, then entries from 4 on, as in the
IMDB data of Keras (rank r has id r + 3). Every example begins with the start id, so an empty text
has one token.

    words       "It's <br />GREAT!"  ->  it's, great    runs of letters, marks, digits and
                                                        apostrophes; lower case
    characters  "Ab"                 ->  A, b           Unicode code points, case kept
    bytes       "é"                  ->  0xc3, 0xa9     byte b has id b + 4; the vocabulary is
                                                        always the same

In a text that is not valid UTF-8 each bad sequence becomes U+FFFD. Bytes need no encoding and stay
as they are.
"""

from collections.abc import Mapping, Sequence

import tensorflow as tf

from trainer.data import store
from trainer.exit_codes import UsageError

PADDING, START, UNKNOWN, UNUSED = range(4)
RESERVED = ("[padding]", "[start]", "[unknown]", "[unused]")
FIRST_ID = len(RESERVED)
VERSION = 1
BYTE_NAMES = tuple(f"0x{byte:02x}" for byte in range(256))

# ICU lowers by the locale of the environment: under tr_TR "I" becomes a dotless i, under lt_LT
# accented i's get a dot. Letters that depend on the locale are lowered before, as the root locale
# does: ASCII by a byte-wise op, and these.
_LOWERED_FIRST = (("İ", "i̇"), ("Ì", "ì"), ("Í", "í"), ("Ĩ", "ĩ"), ("Į", "į"))
# A plain space is not matched, since it ends a word anyway: most gaps are one space, and each match
# costs 0.25 microseconds.
_BETWEEN_WORDS = r"[^\pL\pM\pN' ]+"


def valid_utf8(texts: tf.Tensor) -> tf.Tensor:
    """Returns texts with U+FFFD for every ill-formed sequence: string [n] -> string [n].

    It replaces exactly what `bytes.decode(errors="replace")` replaces.
    """
    return tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")


def lower(texts: tf.Tensor) -> tf.Tensor:
    """Returns texts in lower case, the same under every locale: string [n] -> string [n].

    The texts must be valid UTF-8.
    """
    # ICU takes a C string, which would end at a NUL.
    texts = tf.strings.lower(tf.strings.regex_replace(texts, r"\x00", " "))
    for upper, lowered in _LOWERED_FIRST:
        texts = tf.strings.regex_replace(texts, upper, lowered)
    return tf.strings.lower(texts, encoding="utf-8")


def split_words(texts: tf.Tensor) -> tf.RaggedTensor:
    """Returns the words of texts, which must be valid UTF-8: string [n] -> string [n, words]."""
    texts = tf.strings.regex_replace(lower(texts), r"<br\s*/?>", " ")
    texts = tf.strings.regex_replace(texts, "’", "'")
    return tf.strings.split(tf.strings.regex_replace(texts, _BETWEEN_WORDS, " "))


def split_characters(texts: tf.Tensor) -> tf.RaggedTensor:
    """Returns the code points of texts: string [n] -> int32 [n, characters]."""
    return tf.strings.unicode_decode(texts, "UTF-8", errors="replace")


def split_bytes(texts: tf.Tensor) -> tf.RaggedTensor:
    """Returns the bytes of texts: string [n] -> int32 [n, bytes]."""
    flat = tf.io.decode_raw(tf.strings.reduce_join(texts), tf.uint8)
    return tf.RaggedTensor.from_row_lengths(
        tf.cast(flat, tf.int32), tf.strings.length(texts), validate=False
    )


def with_start(ids: tf.RaggedTensor, start: int) -> tf.RaggedTensor:
    """Returns rows that begin with `start`: int32 [n, length] -> int32 [n, 1 + length]."""
    starts = tf.fill([ids.nrows(), 1], tf.constant(start, tf.int32))
    return tf.concat([starts, ids], axis=1)


class Tokenizer(tf.Module):
    """Encodes texts with the vocabulary of a dataset.

    As an attribute of a tf.Module it is saved with the SavedModel.
    """

    def __init__(self, settings: Mapping, vocabulary: Sequence[str]):
        """
        Args:
          settings: `Dataset.tokenizer`.
          vocabulary: `Dataset.vocabulary`, reserved entries included.

        Raises:
          UsageError: the dataset was prepared from ids alone, or by another version of the
            tokenizer.
        """
        super().__init__()
        name = settings["name"]
        if name == "none":
            raise UsageError(
                "this dataset was prepared from an imdb.npz without imdb_word_index.json beside "
                "it, so it has ids and no words: no text can be encoded. Put the file there and "
                "prepare again."
            )
        if settings.get("version") != VERSION:
            raise UsageError(
                f"this dataset was prepared by version {settings.get('version')} of the tokenizer, "
                f"but this is version {VERSION}. Prepare it again, or use the version that "
                "prepared it."
            )
        self._units, lookup = _TOKENIZERS[name]
        self._lookup = lookup(vocabulary[FIRST_ID:])

    def encode(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Returns the ids of texts: string [n] -> int32 [n, 1 + tokens]; works in graphs."""
        units = self._units(texts)
        return with_start(units.with_flat_values(self._lookup(units.flat_values)), START)


class _Table(tf.Module):
    """Maps entries to ids from FIRST_ID on, and anything else to UNKNOWN."""

    def __init__(self, entries: tf.Tensor):
        super().__init__()
        ids = tf.range(FIRST_ID, FIRST_ID + tf.size(entries, tf.int64), dtype=tf.int64)
        self._table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(entries, ids), UNKNOWN
        )

    def __call__(self, units: tf.Tensor) -> tf.Tensor:
        return tf.cast(self._table.lookup(tf.cast(units, self._table.key_dtype)), tf.int32)


def _word_table(entries: Sequence[str]) -> _Table:
    return _Table(tf.constant(entries, tf.string, [len(entries)]))


def _character_table(entries: Sequence[str]) -> _Table:
    return _Table(tf.constant([ord(entry) for entry in entries], tf.int64, [len(entries)]))


def _byte_ids(entries: Sequence[str]):
    return lambda units: units + FIRST_ID


_TOKENIZERS = {
    "words": (lambda texts: split_words(valid_utf8(texts)), _word_table),
    "characters": (split_characters, _character_table),
    "bytes": (split_bytes, _byte_ids),
}


def settings(name: str) -> dict:
    """Returns a tokenizer's entry in dataset.json; `name`: words, characters, bytes or none."""
    return {"name": name, "version": VERSION}


def tokenizer_of(dataset: store.Dataset) -> Tokenizer:
    """Returns the tokenizer that `dataset` was prepared with."""
    return Tokenizer(dataset.tokenizer, dataset.vocabulary)
