import dataclasses
import gzip
import itertools
import os
import pathlib
import random
import subprocess
import sys
import unicodedata

import pytest
import tensorflow as tf

from tests import datasets
from trainer.data import text
from trainer.exit_codes import UsageError
from trainer.flags.prepare import Prepare

SHARED = pathlib.Path(__file__).resolve().parents[2] / "../shared/data"

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


MARKS = [
    # Text; its tokens, with ~ for the joiner.
    ("It's <br />GREAT!", "It ~'~ s <~ br / ~>~ GREAT ~!"),
    ("Pi is 3.14, not 1,000.", "Pi is 3 ~.~ 14 ~, not 1 ~,~ 000 ~."),
    ("don't don’t", "don ~'~ t don ~’~ t"),
    ("“Oh,” 'he' said...", "“~ Oh ~, ~” '~ he ~' said ~. ~. ~."),
    ("https://a.org/b?c=d", "https ~: ~/ ~/~ a ~.~ org ~/~ b ~?~ c ~=~ d"),
    ("a - b --c", "a - b - ~-~ c"),
    ("a_b", "a ~_~ b"),
    ("😀👍🏽 ok😀", "😀 ~👍 ~🏽 ok ~😀"),
    ("cafe\u0301 é", "cafe\u0301 é"),  # Combining accents are part of the word.
    ("❤\ufe0f!", "❤\ufe0f ~!"),  # What combines with a mark stays with it.
    ("\u0301a", "\u0301a"),
    ("नमस्ते, दुनिया", "नमस्ते ~, दुनिया"),
    ("你好，世界", "你好 ~，~ 世界"),
    ("  several   spaces\tand\u00a0\u202f\u2009others\r\n", "several spaces and others"),
    ("\x0b.\x1c.\x85.\u2028.\u3000", ". . . ."),
    ("\ufeffbom", "\ufeff~ bom"),
    ("", ""),
    (" \n", ""),
    ("!", "!"),
    # The joiner itself: a mark with U+FE0E after it.
    ("\uffed", "~\ufe0e"),
    ("a\uffed \uffedb c\uffedd", "a ~~\ufe0e ~\ufe0e~ b c ~~\ufe0e~ d"),
    ("\uffed\uffed! \uffed\ufe0e", "~\ufe0e ~~\ufe0e ~! ~\ufe0e\ufe0e"),
]


def with_joiners(tokens):
    return tokens.replace("~", "\uffed").split(" ") if tokens else []


def words_and_marks(raw, lowercase=False):
    """The tokens of each text as the op makes them."""
    rows = text.split_words_and_marks(tf.constant(raw, tf.string), lowercase).to_list()
    return [[token.decode() for token in row] for row in rows]


def put_together(rows, name="words_and_marks"):
    tokens = tf.RaggedTensor.from_row_lengths(
        tf.constant([token for row in rows for token in row], tf.string), [len(row) for row in rows]
    )
    return [line.decode() for line in text.joined(text.settings(name), tokens).numpy()]


def with_single_spaces(raw):
    return " ".join(raw.split())


def differences(found, expected):
    """The first few that differ. pytest takes minutes to compare two long lists that do."""
    pairs = zip(found, expected, strict=True)
    return list(itertools.islice((pair for pair in pairs if pair[0] != pair[1]), 5))


def in_plain_python(raw):
    """The same tokens, from the categories of Python's characters."""
    tokens = []
    for chunk in raw.split():
        pieces = []  # [is a mark, characters]
        for character in chunk:
            kind = unicodedata.category(character)[0]
            if pieces and (kind == "M" or kind in "LN" and not pieces[-1][0]):
                pieces[-1][1] += character
            else:
                pieces.append([kind not in "LMN", character])
            if character == "\uffed":
                pieces[-1][1] += "\ufe0e"
        for i, (is_mark, characters) in enumerate(pieces):
            before = "\uffed" if is_mark and i > 0 else ""
            after = "\uffed" if is_mark and i + 1 < len(pieces) and not pieces[i + 1][0] else ""
            tokens.append(before + characters + after)
    return tokens


@pytest.mark.parametrize("raw, tokens", MARKS)
def test_words_and_marks_tell_on_which_side_a_mark_touched_something(raw, tokens):
    assert words_and_marks([raw]) == [with_joiners(tokens)]
    assert in_plain_python(raw) == with_joiners(tokens)


@pytest.mark.parametrize("raw", [raw for raw, _ in (*MARKS, *WORDS) if "\0" not in raw])
def test_words_and_marks_are_put_back_together_with_single_spaces(raw):
    assert put_together(words_and_marks([raw])) == [with_single_spaces(raw)]


def test_every_character_comes_back_wherever_it_stands():
    # RE2 and Python may know different versions of Unicode, which changes tokens but not the text.
    texts = [
        pattern.format(chr(code))
        for code in (*range(1, 0xD800), *range(0xE000, 0x20000), *range(0xE0000, 0xE0200))
        for pattern in ("a{0}b {0} {0}{0}!{0}\u0301 \uffed{0}",)
    ]
    assert not differences(put_together(words_and_marks(texts)), map(with_single_spaces, texts))


def test_words_and_marks_agree_with_the_character_classes_of_unicode():
    texts = [
        "a{0}b {0} {0}{0}!{0}".format(chr(code))
        for code in range(1, 0x2000)
        if unicodedata.category(chr(code)) != "Cn"
    ]
    assert not differences(words_and_marks(texts), map(in_plain_python, texts))


def test_texts_of_random_characters_come_back():
    generator = random.Random(0)
    alphabet = "ab1É' .,!\u0301\u00a0\ufe0e\uffed\uffed😀\u200d"
    texts = ["".join(generator.choices(alphabet, k=length % 12)) for length in range(20_000)]
    found = words_and_marks(texts)
    assert not differences(found, map(in_plain_python, texts))
    assert not differences(put_together(found), map(with_single_spaces, texts))


def lines_of(name):
    """The lines of real texts; skips the test if they are not beside the project."""
    files = sorted((SHARED / name).glob("*.t*"))
    if not files:
        pytest.skip(f"no {name} beside the project (../shared/data/{name})")
    contents = [
        gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for path in files
    ]
    return [line for content in contents for line in content.decode().split("\n")]


@pytest.mark.parametrize(
    "name, lines", [("names18", 18_000), ("tinyshakespeare", 40_000), ("fra_eng", 100_000)]
)
def test_all_lines_of_real_texts_come_back(name, lines):
    texts = lines_of(name)
    assert len(texts) > lines
    found = words_and_marks(texts)
    assert not differences(put_together(found), map(with_single_spaces, texts))
    assert not differences(found[::7], map(in_plain_python, texts[::7]))


def test_the_case_of_words_and_marks_is_kept_or_lowered():
    assert words_and_marks(["ÀB’S\0 İ!"]) == [["ÀB", "\uffed’\uffed", "S", "İ", "\uffed!"]]
    assert words_and_marks(["ÀB’S\0 İ!"], lowercase=True) == [
        ["àb", "\uffed’\uffed", "s", "i\u0307", "\uffed!"]
    ]


@pytest.mark.parametrize(
    "tokens, expected",
    [
        # A model may write a joiner that has no neighbour, or none where two tokens have one.
        ("~. a", ". a"),
        ("a (~", "a ("),
        ("a (~ ~) b", "a () b"),
        ("a ~- -~ b", "a- -b"),
        ("[unknown] ~, [unknown]", "[unknown], [unknown]"),
        ("(~ ~\ufe0e", "(\uffed"),
        ("~~\ufe0e~", "\uffed"),
        ("~", ""),
        ("", ""),
    ],
)
def test_joiners_without_a_neighbour_are_left_out(tokens, expected):
    assert put_together([with_joiners(tokens)]) == [expected]


@pytest.mark.parametrize(
    "name, expected",
    [("words", "a b"), ("spaces", "a b"), ("characters", "ab"), ("bytes", "ab"), ("none", "ab")],
)
def test_other_tokens_are_joined_with_a_space_or_without(name, expected):
    assert put_together([["a", "b"], []], name) == [expected, ""]


@pytest.mark.parametrize(
    "raw, expected",
    [
        (" the <unk> of N \n", ["the", "<unk>", "of", "N"]),
        ("Don't @-@ \\$ a.b\tc", ["Don't", "@-@", "\\$", "a.b", "c"]),
        ("10\u00a0000 \u3000", ["10\u00a0000", "\u3000"]),  # Only ASCII white space separates.
        ("a\x0bb\x0cc\rd", ["a", "b", "c", "d"]),
        ("", []),
    ],
)
def test_pre_tokenized_text_is_split_at_spaces_and_else_unchanged(raw, expected):
    assert [t.decode() for t in text.split_spaces(tf.constant([raw])).to_list()[0]] == expected


def tokenizer(name, entries=()):
    return text.Tokenizer(text.settings(name), [*text.RESERVED, *entries])


def test_the_unknown_token_of_pre_tokenized_text_has_the_unknown_id():
    # The reserved names are tokens like any other: texts that hold them are rare.
    ids = tokenizer("spaces", ["the", "<pad>", "[unknown]"]).encode(
        tf.constant(["the <unk> <pad> [unknown] [padding] The"])
    )
    assert ids.to_list() == [[1, 4, 2, 5, 6, 2, 2]]


def test_the_flag_names_the_tokenizers_that_exist():
    [field] = [f for f in dataclasses.fields(Prepare) if f.name == "tokenizer"]
    assert field.metadata["rule"].text == f"must be one of {' | '.join(text.NAMES)}"


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


@pytest.mark.parametrize("name", text.NAMES)
def test_no_texts_give_no_rows(name):
    assert tokenizer(name, ["a"]).encode(tf.constant([], tf.string)).to_list() == []


@pytest.mark.parametrize(
    "name, entries",
    [
        ("words", ["ab", "c"]),
        ("words_and_marks", ["ab", "C", "é", "\uffed.", "\uffed\ufe0e"]),
        ("spaces", ["ab", "C", "é.", "<unk>"]),
        ("characters", ["a", "é"]),
        ("bytes", []),
    ],
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
    texts = tf.constant(["ab C é.", "", "aé\x00b \uffed <unk>", b"\xff"])
    expected = exported.encode(texts).numpy()
    tf.saved_model.save(exported, tmp_path / "saved")
    assert (tf.saved_model.load(tmp_path / "saved").encode(texts).numpy() == expected).all()


@pytest.mark.parametrize("target_words", [None, ["cat"]])
def test_the_target_of_a_dataset_has_the_same_tokenizer_with_its_own_vocabulary(
    tmp_path, target_words
):
    dataset = datasets.write_pairs(
        tmp_path / "d", {"train": [([5], [4])]}, words=["die", "Katze"], target_words=target_words
    )
    tokenizer = text.target_tokenizer_of(dataset)
    ids = [1, 2, 4] if target_words else [1, 5, 2]
    assert tokenizer.encode(["Katze cat"]).to_list() == [ids]
    assert tokenizer.decode(tf.ragged.constant([[4]])).numpy().tolist() == [
        b"cat" if target_words else b"die"
    ]


def test_a_tokenizer_without_words_names_the_missing_file():
    with pytest.raises(UsageError, match="imdb_word_index.json"):
        tokenizer("none")


def test_another_version_of_the_tokenizer_is_refused():
    with pytest.raises(UsageError, match="version 7 of the tokenizer"):
        text.Tokenizer({"name": "words", "version": 7}, text.RESERVED)
