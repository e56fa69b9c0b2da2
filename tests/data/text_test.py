import os
import subprocess
import sys
import unicodedata

import pytest
import tensorflow as tf

from trainer.data import text
from trainer.exit_codes import UsageError

WORDS = [
    ("It's GREAT!", ["it's", "great"]),
    ("one<br />two<BR>three<br/>four", ["one", "two", "three", "four"]),
    ("don’t", ["don't"]),  # The typographic apostrophe is the same word.
    ("a-b c/d,e.f", ["a", "b", "c", "d", "e", "f"]),
    ("3 idiots, 2009", ["3", "idiots", "2009"]),
    ("ÀÉÎ ẞ ÑANDÚ", ["àéî", "ß", "ñandú"]),
    ("ΟΔΟΣ", ["οδος"]),  # A sigma at the end of a word has a form of its own.
    ("İI", ["i̇i"]),
    ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),  # Vowel signs are marks: they do not end a word.
    ("你好，世界", ["你好", "世界"]),
    ("a\u00a0b\u2003c\td\ne\rf", ["a", "b", "c", "d", "e", "f"]),
    ("\ufeffbom", ["bom"]),
    ("a\0b C", ["a", "b", "c"]),  # Lower-casing by ICU alone would end at the NUL.
    ("😀 smile 👍🏽", ["smile"]),
    ("", []),
    ("?! ...", []),
]


@pytest.mark.parametrize("raw, expected", WORDS)
def test_words_are_lower_case_runs_of_letters_marks_digits_and_apostrophes(raw, expected):
    assert [word.decode() for word in text.split_words(tf.constant([raw])).to_list()[0]] == expected


def test_words_agree_with_the_character_classes_of_unicode():
    # RE2 and Python may know different versions of Unicode, so only characters that were assigned
    # long ago are compared.
    characters = [
        chr(code) for code in range(0x20, 0x2000) if unicodedata.category(chr(code)) != "Cn"
    ]
    lowered = [word.decode() for word in text.lower(tf.constant(characters)).numpy()]
    found = [bool(words) for words in text.split_words(tf.constant(characters)).to_list()]
    expected = [
        any(unicodedata.category(c)[0] in "LMN" or c == "'" for c in lower) for lower in lowered
    ]
    assert found == expected


def test_lower_case_is_that_of_python():
    # U+03A3 depends on its place in a word, which is tested above.
    characters = [
        chr(code)
        for code in range(1, 0x2000)
        if unicodedata.category(chr(code)) != "Cn" and code != 0x3A3
    ]
    assert [c.decode() for c in text.lower(tf.constant(characters)).numpy()] == [
        c.lower() for c in characters
    ]


def test_lower_case_does_not_depend_on_the_locale():
    # ICU reads the locale once per process, so each gets a process of its own.
    sample = "I İ ISTANBUL Ì Í Ĩ Į J Į́ I\u0307"
    program = (
        "import sys, tensorflow as tf; from trainer.data import text; "
        "sys.stdout.buffer.write(text.lower(tf.constant(sys.argv[1])).numpy())"
    )
    common = {**os.environ, "PYTHONUTF8": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    lowered = [
        subprocess.Popen(
            [sys.executable, "-c", program, sample],
            stdout=subprocess.PIPE,
            env={**common, "LC_ALL": name},
        )
        for name in ("tr_TR.UTF-8", "lt_LT.UTF-8")
    ]
    assert [process.communicate()[0].decode() for process in lowered] == [sample.lower()] * 2


BAD_UTF8 = [
    b"a\x80b",
    b"\xff\xfe",
    b"\xe2\x82",
    b"\xf0\x9f\x98x",
    b"\xed\xa0\x80",
    b"\xc0\x80",
    b"\xf4\x90\x80\x80",
    b"ok \xc3\xa9",
]


@pytest.mark.parametrize("raw", BAD_UTF8)
def test_bad_utf8_is_replaced_as_python_does(raw):
    # prepare replaces by Python's rules, an exported model by this op; they must agree.
    assert text.valid_utf8(tf.constant(raw)).numpy().decode() == raw.decode("utf-8", "replace")


def tokenizer(name, entries=()):
    return text.Tokenizer(text.settings(name), [*text.RESERVED, *entries])


def test_every_example_begins_with_the_start_id_and_rare_words_are_unknown():
    ids = tokenizer("words", ["great", "it's"]).encode(tf.constant(["It's great, truly", "", "!"]))
    assert ids.to_list() == [[1, 5, 4, 2], [1], [1]]
    assert ids.dtype == tf.int32


def test_characters_are_code_points_with_their_case():
    ids = tokenizer("characters", ["a", "A", "é", "😀"]).encode(tf.constant(["aAé😀b"]))
    assert ids.to_list() == [[1, 4, 5, 6, 7, 2]]


def test_bytes_need_no_encoding():
    assert tokenizer("bytes").encode(tf.constant([b"\x00\xffa", b"", b"\xc3\xa9"])).to_list() == [
        [1, 4, 259, 101],
        [1],
        [1, 199, 173],
    ]


@pytest.mark.parametrize("name, entries", [("words", ["a"]), ("characters", ["a"]), ("bytes", [])])
def test_no_texts_give_no_rows(name, entries):
    assert tokenizer(name, entries).encode(tf.constant([], tf.string)).to_list() == []


@pytest.mark.parametrize(
    "name, entries", [("words", ["ab", "c"]), ("characters", ["a", "é"]), ("bytes", [])]
)
def test_a_saved_model_encodes_as_the_tokenizer_that_went_into_it(tmp_path, name, entries):
    class Exported(tf.Module):
        def __init__(self):
            super().__init__()
            self.tokenizer = tokenizer(name, entries)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def encode(self, texts):
            return self.tokenizer.encode(texts).to_tensor()

    exported = Exported()
    texts = tf.constant(["ab C é", "", "aé\x00b", b"\xff"])
    expected = exported.encode(texts).numpy()
    tf.saved_model.save(exported, tmp_path / "saved")
    assert (tf.saved_model.load(tmp_path / "saved").encode(texts).numpy() == expected).all()


def test_a_tokenizer_without_words_names_the_missing_file():
    with pytest.raises(UsageError, match="imdb_word_index.json"):
        tokenizer("none")


def test_another_version_of_the_tokenizer_is_refused():
    with pytest.raises(UsageError, match="version 7 of the tokenizer"):
        text.Tokenizer({"name": "words", "version": 7}, text.RESERVED)
