"""Tagged sentences, as the readers return them."""

import json

import pytest

from trainer.exit_codes import DataError
from trainer.prepare import formats, raw_files, tagged


def read(path, content, reader, columns, max_line_bytes=1000):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with raw_files.Stream(str(path), 200) as stream:
        return [
            (place[1], text.decode(), tags)
            for place, text, tags, _ in reader(stream, columns, max_line_bytes)
        ]


@pytest.fixture
def conll(tmp_path):
    def conll(content, token=0, tag=-1, **limits):
        columns = tagged.Columns(token, tag)
        return read(tmp_path / "f", content, tagged.read_conll, columns, **limits)

    return conll


CONLL_2003 = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O

# # B-NP O
1,000 CD I-NP O


-DOCSTART- -X- -X- O

Peter NNP B-NP B-PER"""


def test_a_blank_line_ends_a_sentence_and_document_lines_are_skipped(conll):
    expected = [
        (3, "EU rejects", ["B-ORG", "O"]),
        (6, "# 1,000", ["O", "O"]),
        (12, "Peter", ["B-PER"]),
    ]
    assert conll(CONLL_2003) == expected
    assert conll("\ufeff" + CONLL_2003.replace("\n", "\r\n")) == expected
    assert conll(CONLL_2003.replace(" ", " \t")) == expected


def test_columns_are_chosen_from_either_end(conll):
    assert conll(CONLL_2003, 0, 1)[0] == (3, "EU rejects", ["NNP", "VBZ"])
    assert conll(CONLL_2003, -1, -4)[0] == (3, "B-ORG O", ["EU", "rejects"])


CONLL_U = """# newdoc
# sent_id = 1
# text = Do not go to it now and no

1	Don't	do	AUX	_	_	0	root	_	_

# text = a b c d e f g h
# 2 3 4 5 6 7 8 9 10
1-2	Don't	_	_	_	_	_	_	_	_
1	Do	do	AUX	_	_	0	root	_	_
2	n't	not	PART	_	_	1	advmod	_	_
2.1	go	go	VERB	_	_	_	_	_	_
3	#	#	SYM	_	_	1	advmod	_	_
"""


def test_comments_and_lines_that_are_no_tokens_of_conll_u_are_skipped(conll):
    assert conll(CONLL_U, 1, 3) == [(5, "Don't", ["AUX"]), (10, "Do n't #", ["AUX", "PART", "SYM"])]


@pytest.mark.parametrize(
    "content, flags, line, what",
    [
        (
            "EU O\nrejects\n",
            {},
            2,
            "1 columns ('rejects'), but --token_column=0 and --tag_column=-1",
        ),
        ("EU\n", {}, 1, "1 columns ('EU')"),
        (
            "EU O\n\nPeter X O\n",
            {"tag": 2, "token": 1},
            1,
            "2 columns ('EU', 'O'), but --token_col",
        ),
        ("EU O\n", {"token": -3}, 1, "2 columns"),
        ("EU X O\nrejects O\n", {}, 2, "2 columns ('rejects', 'O'), but line 1, with which the"),
        ("\tO\nEU\tO\n", {}, 1, "1 columns ('O')"),
        ("a O\nb O\nc O\n", {"max_line_bytes": 7}, 1, "the sentence that begins here is longer"),
        ("a " + "O" * 60, {"max_line_bytes": 50}, 1, "the line is longer than 50"),
    ],
)
def test_a_bad_line_is_refused_with_its_place(conll, tmp_path, content, flags, line, what):
    with pytest.raises(DataError) as caught:
        conll(content, **flags)
    assert str(caught.value).startswith(f"{tmp_path / 'f'}:{line}: ") and what in str(caught.value)


def test_lists_of_json_lines_are_sentences(tmp_path):
    rows = [{"w": ["a", "b\u00a0c"], "t": ["X", "Y"]}, {"w": [], "t": []}, {"w": ["1"], "t": [7]}]
    content = "".join(json.dumps(row) + "\n\n" for row in rows)
    found = read(tmp_path / "f", content, tagged.read_jsonl, formats.Columns("w", "t"))
    assert found == [(1, "a b\u00a0c", ["X", "Y"]), (3, "", []), (5, "1", [7])]


@pytest.mark.parametrize(
    "row, what",
    [
        ({"w": ["a", "b"], "t": ["X"]}, "2 tokens in 'w', but 1 tags in 't'"),
        ({"w": "a b", "t": ["X"]}, "'w' is 'a b', but it must be the list of tokens"),
        ({"w": ["a"], "t": "X"}, "'t' is 'X', but it must be the list of tags"),
        ({"w": ["a b"], "t": ["X"]}, "the token 'a b': must be .* no white space"),
        ({"w": [""], "t": ["X"]}, "the token ''"),
        ({"w": ["a\n"], "t": ["X"]}, "the token 'a.n'"),
        ({"w": [7], "t": ["X"]}, "the token 7"),
        ({"w": ["a"], "t": [None]}, "the tag None: must be a string or a whole number"),
        ({"w": ["a"]}, "no 't'; there are 'w'. Name the right one with --label_column"),
    ],
)
def test_a_bad_object_is_refused_with_its_place(tmp_path, row, what):
    content = '{"w": ["a"], "t": ["X"]}\n' + json.dumps(row)
    with pytest.raises(DataError, match=f"f:2: {what}"):
        read(tmp_path / "f", content, tagged.read_jsonl, formats.Columns("w", "t"))
