r"""Turns text into token ids, and tokens back into text, with TensorFlow string ops.

The same ops run when a dataset is prepared and inside an exported model.

Ids, for every tokenizer: 0 padding, 1 start, 2 unknown, 3 unused, then entries from 4 on, as in the
IMDB data of Keras (rank r has id r + 3). Every example begins with the start id, so an empty text
has one token.

    words            "It's <br />GREAT!"  ->  it's, great      runs of letters, combining marks,
                                                              digits and apostrophes; lower case
    words_and_marks  "3.14 (pi)!"         ->  3 J.J 14 (J pi J) J!
                                                              runs of letters, combining marks and
                                                              digits; any other character is a
                                                              token of its own; case kept or lowered
    spaces           "the <unk> of N"     ->  the, <unk>, of, N
                                                              what lies between white space
    characters       "Ab"                 ->  A, b            Unicode code points, case kept
    bytes            "é"                  ->  0xc3, 0xa9      byte b has id b + 4; the vocabulary
                                                              is always the same

J stands for the joiner U+FFED. It says on which side a mark touched its neighbour, so `joined`
returns the text, with each run of white space as one space. A U+FFED of the text itself also comes
back: its token has U+FE0E after it.

With `spaces` the token <unk> is the unknown id, as Penn Treebank and WikiText mean it. All other
tokens are ordinary, also <pad>, <s>, <eos> and the names of the reserved ids.

In a text that is not valid UTF-8 each bad sequence becomes U+FFFD. Bytes need no encoding and stay
as they are.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf

from trainer.data import store
from trainer.exit_codes import DataError, UsageError

PADDING, START, UNKNOWN, UNUSED = range(4)
RESERVED = ("[padding]", "[start]", "[unknown]", "[unused]")
FIRST_ID = len(RESERVED)
VERSION = 1
UNKNOWN_TOKEN = "<unk>"  # Of pre-tokenized text. No other tokenizer makes a token with a "<" in it.
BYTE_NAMES = tuple(f"0x{byte:02x}" for byte in range(256))

# ICU lowers by the locale of the environment: under tr_TR "I" becomes a dotless i, under lt_LT
# accented i's get a dot. Letters that depend on the locale are lowered before, as the root locale
# does: ASCII by a byte-wise op, and these.
_LOWERED_FIRST = (("İ", "i̇"), ("Ì", "ì"), ("Í", "í"), ("Ĩ", "ĩ"), ("Į", "į"))
# A plain space is not matched, since it ends a word anyway: most gaps are one space, and each match
# costs 0.25 microseconds.
_BETWEEN_WORDS = r"[^\pL\pM\pN' ]+"
# What Python's `str.split` takes for white space, and NUL, which `lower` makes a space. RE2's \s is
# ASCII only. A plain space is not matched, for the reason above.
_WHITE_SPACE = (
    r"[\x00\t-\r\x1c-\x1f\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}"
    r"\x{205f}\x{3000}]"
)
# A mark keeps the combining characters after it, so that none of them begins a token right after a
# joiner.
_MARK = r"[^\pL\pM\pN ]\pM*"
JOINER = "\uffed"
# Behind a U+FFED of the text, which is a mark like others. It is a combining character without a
# look of its own, and never follows a joiner.
_OWN = "\ufe0e"


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


def split_words_and_marks(texts: tf.Tensor, lowercase: bool = False) -> tf.RaggedTensor:
    """Returns words, numbers and marks of texts, from which `joined` makes the text again.

    Args:
      texts: string [n], valid UTF-8.
      lowercase: whether to lower the case first.

    Returns:
      string [n, tokens].
    """
    if lowercase:
        texts = lower(texts)
    replace = tf.strings.regex_replace
    texts = replace(texts, JOINER, JOINER + _OWN)
    texts = replace(texts, _WHITE_SPACE, " ")
    texts = replace(texts, _MARK, rf" {JOINER}\0{JOINER} ")
    texts = tf.strings.join([" ", texts, " "])
    texts = replace(texts, f"{JOINER}  {JOINER}", f" {JOINER}")  # Two marks in touch: one joiner.
    texts = replace(texts, f"{JOINER}  ", " ")  # White space, or the end, came after the mark.
    texts = replace(texts, f"  {JOINER}", " ")  # White space, or the start, came before it.
    return tf.strings.split(texts)


def split_spaces(texts: tf.Tensor) -> tf.RaggedTensor:
    """Returns what lies between ASCII white space: string [n] -> string [n, tokens]."""
    return tf.strings.split(texts)


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
          DataError: there is no such tokenizer.
        """
        super().__init__()
        name = settings["name"]
        if name == "none":
            raise UsageError(
                "this dataset was prepared from an imdb.npz without imdb_word_index.json beside "
                "it, so it has ids and no words: no text can be encoded. Put the file there and "
                "prepare again."
            )
        if name not in _TOKENIZERS:
            raise DataError(
                f"dataset.json has the tokenizer {str(name)[:200]!r}, but this version knows "
                f"{', '.join(NAMES)}. Use the version that prepared the dataset, or restore the "
                "file."
            )
        if settings.get("version") != VERSION:
            raise UsageError(
                f"this dataset was prepared by version {settings.get('version')} of the tokenizer, "
                f"but this is version {VERSION}. Prepare it again, or use the version that "
                "prepared it."
            )
        kind = _TOKENIZERS[name]
        self._settings = settings
        self._tokens = tf.constant(kind.tokens(vocabulary))
        self._mended = valid_utf8 if kind.reads_utf8 else tf.identity
        self._split = splitter(settings)
        self._lookup = kind.lookup(vocabulary[FIRST_ID:])

    def encode(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Returns the ids of texts: string [n] -> int32 [n, 1 + tokens]; works in graphs."""
        units = self._split(self._mended(texts))
        return with_start(units.with_flat_values(self._lookup(units.flat_values)), START)

    def encode_tokens(self, tokens: tf.Tensor) -> tf.Tensor:
        """Returns the ids of tokens of any shape, each by itself; works in graphs."""
        return self._lookup(self._mended(tokens))

    def written(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Returns the tokens of texts themselves, known or not: string [n] -> string [n, tokens].

        Not those of bytes, all of which are known.
        """
        units = self._split(self._mended(texts))
        if units.dtype == tf.string:
            return units
        return units.with_flat_values(
            tf.strings.unicode_encode(units.flat_values[:, None], "UTF-8")
        )

    def tokens(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns the tokens that ids of any shape stand for, as strings; works in graphs."""
        return tf.gather(self._tokens, ids)

    def decode(self, ids: tf.RaggedTensor) -> tf.Tensor:
        """Returns the texts that ids stand for: int32 [n, length] -> string [n]; works in graphs.

        Put together as `joined` does it; of bytes the text itself.
        """
        return joined(self._settings, ids.with_flat_values(self.tokens(ids.flat_values)))


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


def _with_spaces(tokens: tf.RaggedTensor) -> tf.Tensor:
    return tf.strings.reduce_join(tokens, axis=-1, separator=" ")


def _without_spaces(tokens: tf.RaggedTensor) -> tf.Tensor:
    return tf.strings.reduce_join(tokens, axis=-1)


def _without_joiners(tokens: tf.RaggedTensor) -> tf.Tensor:
    # The start of a token: after a space, which goes, and maybe a joiner of the token before, or at
    # the start of the text. Neither may be in front of a U+FFED of the text itself.
    before = rf"(?:{JOINER}? |^){JOINER}([^{_OWN}])"
    after = rf"{JOINER}(?: |$)"
    texts = tf.strings.regex_replace(_with_spaces(tokens), f"{before}|{after}", r"\1")
    return tf.strings.regex_replace(texts, JOINER + _OWN, JOINER)


def _bytes(vocabulary: Sequence[str]) -> list[bytes]:
    reserved = [entry.encode() for entry in vocabulary[:FIRST_ID]]
    return reserved + [bytes([byte]) for byte in range(len(vocabulary) - FIRST_ID)]


class _Kind(NamedTuple):
    """What a tokenizer is made of.

    Attributes:
      split: string [n] -> units [n, units]; takes the options of `settings` as keywords.
      lookup: the vocabulary from FIRST_ID on -> a function from units to ids.
      joined: string [n, tokens] -> string [n], the text.
      reads_utf8: whether `split` must be given valid UTF-8.
      tokens: the vocabulary -> what each id stands for in a text.
    """

    split: Callable[..., tf.RaggedTensor]
    lookup: Callable[[Sequence[str]], Callable[[tf.Tensor], tf.Tensor]]
    joined: Callable[[tf.RaggedTensor], tf.Tensor]
    reads_utf8: bool = False
    tokens: Callable[[Sequence[str]], list[bytes]] = lambda vocabulary: [
        entry.encode() for entry in vocabulary
    ]


_TOKENIZERS = {
    "words": _Kind(split_words, _word_table, _with_spaces, reads_utf8=True),
    "words_and_marks": _Kind(split_words_and_marks, _word_table, _without_joiners, reads_utf8=True),
    "spaces": _Kind(split_spaces, _word_table, _with_spaces, reads_utf8=True),
    "characters": _Kind(split_characters, _character_table, _without_spaces),
    "bytes": _Kind(split_bytes, _byte_ids, _without_spaces, tokens=_bytes),
}
NAMES = tuple(_TOKENIZERS)


def settings(name: str, lowercase: bool = False) -> dict:
    """Returns a tokenizer's entry in dataset.json.

    Args:
      name: one of NAMES, or none.
      lowercase: of words_and_marks, which alone has the choice.
    """
    options = {"lowercase": lowercase} if name == "words_and_marks" else {}
    return {"name": name, "version": VERSION, **options}


def lowers(settings: Mapping) -> bool:
    """Returns whether a tokenizer takes texts in lower case; `settings`: `Dataset.tokenizer`."""
    return settings.get("lowercase", settings["name"] == "words")


def splitter(settings: Mapping) -> Callable[[tf.Tensor], tf.RaggedTensor]:
    """Returns the function from texts to units: string [n] -> [n, units].

    The texts must be valid UTF-8, except for characters and bytes.
    """
    options = {key: value for key, value in settings.items() if key not in ("name", "version")}
    return functools.partial(_TOKENIZERS[settings["name"]].split, **options)


def joined(settings: Mapping, tokens: tf.Tensor | tf.RaggedTensor) -> tf.Tensor:
    """Returns the texts that tokens stand for; works in graphs.

    Args:
      settings: `Dataset.tokenizer`.
      tokens: string [n, tokens], entries of the vocabulary.

    Returns:
      string [n]. With words_and_marks the text, with each run of white space as one space and none
      at its ends. A joiner without a neighbour is left out. Tokens of words and of spaces have one
      space between them, others none.
    """
    kind = _TOKENIZERS.get(settings["name"])
    return (kind.joined if kind else _without_spaces)(tokens)


def tokenizer_of(dataset: store.Dataset) -> Tokenizer:
    """Returns the tokenizer that `dataset` was prepared with."""
    return Tokenizer(dataset.tokenizer, dataset.vocabulary)


def target_tokenizer_of(dataset: store.Dataset) -> Tokenizer:
    """Returns the tokenizer of the targets of a dataset whose target is a text."""
    return Tokenizer(dataset.tokenizer, dataset.target_vocabulary)
