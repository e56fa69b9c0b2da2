import json
import re
import subprocess

import pytest
import tensorflow as tf

from trainer.exit_codes import DataError
from trainer.prepare import formats, raw_files, rows

COLUMNS = formats.Columns("text", "label")


def read(path, format, columns=COLUMNS):
    """Returns [(line, text, label, split)] of a file."""
    with raw_files.Stream(str(path), 200) as stream:
        return [(place[1], *row) for place, *row in formats.READERS[format](stream, columns, 1000)]


def written(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


CSV = [
    ("text,label\nfine,1\nbad,0\n", [(2, b"fine", "1"), (3, b"bad", "0")]),
    ("\ufefftext,label\r\nfine,1\r\nbad,0\r\n", [(2, b"fine", "1"), (3, b"bad", "0")]),
    ("id,label,text\n7,1,fine\n", [(2, b"fine", "1")]),
    ('text,label\n"a, ""b""",1\n', [(2, b'a, "b"', "1")]),
    # The first row begins on line 2 and ends on line 5, so the second begins on line 6.
    (
        'text,label\n"one\ntwo\n\nthree",1\nfour,0\n',
        [(2, b"one\ntwo\n\nthree", "1"), (6, b"four", "0")],
    ),
    ('text,label\r\n"one\r\ntwo",1\r\n', [(2, b"one\ntwo", "1")]),
    ("text,label\n\nfine,1\n\n\nbad,0", [(3, b"fine", "1"), (6, b"bad", "0")]),
    ("text,label\n,1\n", [(2, b"", "1")]),  # An empty text is a row.
    (b"text,label\n\xff\xfe,1\n", [(2, b"\xff\xfe", "1")]),  # Checked later, by --encoding_errors.
]


@pytest.mark.parametrize("content, rows", CSV)
def test_csv_rows_begin_at_their_physical_line(tmp_path, content, rows):
    assert [row[:3] for row in read(written(tmp_path / "f.csv", content), "csv")] == rows


@pytest.mark.parametrize(
    "content, line, what",
    [
        ('text,label\nfine,1\n"open,0\nmore,1\n', 3, "is not valid CSV"),
        ('text,label\n"a" b,1\n', 2, "is not valid CSV"),
        ("text,label\nfine,1\na,b,0\n", 3, "3 fields, but the header line has 2"),
        ("text,label\nfine\n", 2, "1 fields, but the header line has 2"),
        (
            "text,stars\nfine,1\n",
            1,
            "no columns 'label'; the header line has 'text', 'stars'. .*--label_column",
        ),
        ("text,text,label\nfine,1,1\n", 1, "2 columns 'text'"),
        ("", 1, "no columns 'text'; the header line has nothing"),
        ('text,label\n"' + "x\n" * 600 + '",1\n', 2, "is not valid CSV .field larger"),
    ],
)
def test_an_error_in_csv_names_its_line(tmp_path, content, line, what):
    path = written(tmp_path / "f.csv", content)
    with pytest.raises(DataError, match=f"{path}:{line}: .*{what}"):
        read(path, "csv")


@pytest.mark.parametrize(
    "format, content, line, remedy",
    [
        ("csv", "text;label\na;1\n", 1, "separated by ';'. Convert it: python3 -c"),
        ("csv", "text|label\na|1\n", 1, "separated by '.'. Convert it: python3 -c"),
        ("csv", "text\tlabel\na\t1\n", 1, "Use --source=tsv."),
        ("tsv", "text,label\na,1\n", 1, "Use --source=csv."),
        ("csv", "sep=,\ntext,label\na,1\n", 1, "This is a line for Excel: remove it"),
        ("csv", "# made in 2024\ntext,label\na,1\n", 1, "Line 2 has the names: remove what is"),
        ("csv", "7,a,1\n8,b,0\n", 1, "It looks like data: write a line with the names of the 3"),
        ("tsv", "it was a very good film\tpos\n", 1, "It looks like data"),
        ("csv", "text,label,text\na,1,b\n", 1, "Rename all but one of them in the header line"),
        ("csv", "\ufeff\ufefftext,label\na,1\n", 1, "begins with two byte order marks"),
        ("csv", "Text,label\na,1\n", 1, "Name the right one with --text_column"),
        ("csv", "text,label\na\rb,1\n", 2, "a CR without LF.*Remove it from line 2"),
        ("csv", "text,label\na,1\ntext,label\nb,1\n", 3, "the header line again"),
        ("csv", "\ufefftext,label\na,1\n\ufefftext,label\nb,1\n", 3, "the header line again"),
        ("csv", "text,label\na,1\n\x1a\n", 3, r"The line has '.x1a'. Repair or remove it"),
        ("csv", "text,label\na,1,\n", 2, "let the header line end in one too"),
        ("csv", 'label,text\n1, "a, b"\n', 2, "remove the space between them"),
    ],
)
def test_the_remedy_for_a_table_fits_what_is_wrong(tmp_path, format, content, line, remedy):
    path = written(tmp_path / "f", content)
    with pytest.raises(DataError, match=f"{path}:{line}: .*{remedy}"):
        read(path, format)


def test_the_command_that_converts_a_table_makes_it_readable(tmp_path):
    """The remedy is followed to the letter."""
    path = written(tmp_path / "f", 'text;label\n"a, b; c";1\nd;0\n')
    with pytest.raises(DataError) as caught:
        read(path, "csv")
    command = re.search("python3 .* NEW", str(caught.value))[0]
    command = command.replace("FILE", str(path)).replace("NEW", str(tmp_path / "g"))
    subprocess.run(["bash", "-c", command], check=True)
    assert [row[1] for row in read(tmp_path / "g", "csv")] == [b"a, b; c", b"d"]


@pytest.mark.parametrize(
    "format, content",
    [
        ("csv", 'n,de,en\n1,"a, b",c\n'),
        ("tsv", "n\tde\ten\n1\ta, b\tc\n"),
        ("jsonl", '\n{"n": 1, "de": "a, b", "en": "c"}\n'),
    ],
)
def test_a_second_column_of_text_is_the_target(tmp_path, format, content):
    path = written(tmp_path / "f", content)
    expected = (2, b"a, b", rows.TargetText((str(path), 2), b"c"), None)
    assert read(path, format, formats.Columns("de", target="en")) == [expected]
    with pytest.raises(DataError, match="no (columns )?'fr'.*--target_column"):
        read(path, format, formats.Columns("de", target="fr"))


def test_one_column_may_repeat_its_own_name(tmp_path):
    path = written(tmp_path / "f", "word\na\nword\n")
    assert [row[1] for row in read(path, "csv", formats.Columns("word"))] == [b"a", b"word"]


def test_a_quote_that_swallows_records_is_refused(tmp_path):
    rows = [f"text {i},{'pos' if i % 2 else 'neg'}" for i in range(9)]
    rows[2] = '"' + rows[2]
    rows[6] = rows[6].replace(",", '",')
    path = written(tmp_path / "f", "text,label\n" + "\n".join(rows) + "\n")
    with pytest.raises(DataError, match=":4: the record that begins here ends in line 8, .*quote"):
        read(path, "csv")
    with pytest.raises(DataError, match=":4: the record that begins here ends in line 8"):
        read(path, "csv", formats.Columns("text", "label", "label"))


def test_without_labels_a_quote_that_may_swallow_records_is_a_warning(tmp_path, caplog):
    path = written(tmp_path / "f", 'text,n\n"a,1\nb,2\nc,3\nd",4\n')
    assert len(read(path, "csv", formats.Columns("text"))) == 1
    assert f"{path}:2: the record that begins here ends in line 5" in caplog.text


def test_line_breaks_and_commas_in_a_quoted_text_are_text(tmp_path, caplog):
    poem = "Roses are red, they say\nViolets, not so much, pos\n\nneg,pos\nand so on"
    content = f'text,label\nfine,pos\n"{poem}",neg\n"two,\nlines, neg",pos\n'
    found = read(written(tmp_path / "f", content), "csv")
    assert [row[1].decode() for row in found] == ["fine", poem, "two,\nlines, neg"]
    assert not caplog.text


def test_a_line_break_in_a_text_behind_its_label_is_text(tmp_path, caplog):
    """The part before the break looks like a record, with its own label."""
    path = written(tmp_path / "f", 'label,text\npos,"two\nlines"\nneg,"and, three,\nparts"\n')
    assert [row[1] for row in read(path, "csv")] == [b"two\nlines", b"and, three,\nparts"]
    assert not caplog.text


def test_a_header_of_any_size_makes_a_short_message(tmp_path):
    path = written(tmp_path / "f", ",".join(f"c{i}" for i in range(200)) + "\n")
    with pytest.raises(DataError, match="'c0', 'c1', .*'c19' and 180 more. Name the") as caught:
        read(path, "csv")
    assert len(str(caught.value)) < 500


def test_tsv_takes_quotes_as_they_are(tmp_path):
    path = written(tmp_path / "f.tsv", '\ufefflabel\ttext\r\n1\tsaid "so\r\n\r\n0\t\r\n')
    assert [row[:3] for row in read(path, "tsv")] == [(2, b'said "so', "1"), (4, b"", "0")]
    with pytest.raises(DataError, match=":2: 3 fields, but the header line has 2"):
        read(written(tmp_path / "g.tsv", "label\ttext\n1\ta\tb\n"), "tsv")


def test_jsonl_labels_are_strings_or_whole_numbers(tmp_path):
    lines = '{"text": "fine", "label": "yes", "more": [1]}\n\n{"label": 0, "text": "h\\u00e9\\n"}\n'
    path = written(tmp_path / "f.jsonl", lines)
    assert [row[:3] for row in read(path, "jsonl")] == [
        (1, b"fine", "yes"),
        (3, "hé\n".encode(), 0),
    ]


@pytest.mark.parametrize(
    "line, what",
    [
        ("{", "not valid JSON"),
        ("[1, 2]", "a list, but each line must be one JSON object"),
        ("7", "a int"),
        ('{"label": 1}', "no 'text'; there are 'label'. .*--text_column"),
        ('{"text": "a"}', "no 'label'; there are 'text'. .*--label_column"),
        ('{"text": null, "label": 1}', "'text' is None, but a text must be a string"),
        ('{"text": 5, "label": 1}', "'text' is 5, but a text must be a string"),
        (
            '{"text": "a", "label": true}',
            "'label' is True, but a label must be a string or a whole number",
        ),
        ('{"text": "a", "label": 1.5}', "'label' is 1.5"),
        ('{"text": "a", "label": NaN}', "'label' is nan"),
        ('{"text": ["a", "b"], "label": 1}', "'text' is .'a', 'b'., but a text must be a string"),
        ('{"text": "a", "label": 1, "text": "b"}', "the key 'text' occurs twice"),
        ('{"text": "a", "label": 1},', "Extra data.* no comma, no second object"),
        ('{"text": "a", "label": 1}{"text": "b", "label": 0}', "jq -c . FILE > NEW"),
        ("[" * 100_000, "not valid JSON|longer than"),
        ("[" * 900, "not valid JSON"),
    ],
)
def test_an_error_in_jsonl_names_its_line(tmp_path, line, what):
    path = written(tmp_path / "f.jsonl", '{"text": "fine", "label": 1}\n' + line)
    with pytest.raises(DataError, match=f"{path}:2: .*({what})"):
        read(path, "jsonl")


@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_of_objects_is_refused_and_the_remedy_helps(tmp_path, indent):
    rows = [{"text": f"text {i}", "label": i} for i in range(100)]
    path = written(tmp_path / "f", json.dumps(rows, indent=indent))
    with pytest.raises(DataError, match=f"{path}:1: the file is one JSON array") as caught:
        read(path, "jsonl")
    command = re.search("python3 .* NEW", str(caught.value))[0]
    command = command.replace("FILE", str(path)).replace("NEW", str(tmp_path / "g"))
    subprocess.run(["bash", "-c", command], check=True)
    assert [row[2] for row in read(tmp_path / "g", "jsonl")] == list(range(100))


def test_a_value_of_any_size_makes_a_short_message(tmp_path):
    for row in ({"text": ["a"] * 200, "label": 1}, {"text": "a", "label": ["b" * 400]}):
        with pytest.raises(DataError) as caught:
            read(written(tmp_path / "f", json.dumps(row)), "jsonl")
        assert len(str(caught.value)) < 500


def test_a_lone_surrogate_in_json_becomes_bytes_that_are_not_valid_utf8(tmp_path):
    (row,) = read(
        written(tmp_path / "f.jsonl", json.dumps({"text": "a\ud800", "label": "x"})), "jsonl"
    )
    with pytest.raises(UnicodeDecodeError):
        row[1].decode()


def feature(value):
    values = value if isinstance(value, list) else [value]
    if values and isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if values and isinstance(values[0], float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return (
        tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        if values
        else tf.train.Feature()
    )


def write_examples(path, *examples):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for example in examples:
            features = tf.train.Features(
                feature={name: feature(value) for name, value in example.items()}
            )
            writer.write(tf.train.Example(features=features).SerializeToString())
    return path


def test_tfrecord_features_are_strings_or_int64_by_name(tmp_path):
    path = write_examples(
        tmp_path / "f", {"body": b"fine", "stars": 5, "id": [1, 2]}, {"body": b"", "stars": 1}
    )
    found = read(path, "tfrecord", formats.Columns("body", "stars"))
    assert [row[:3] for row in found] == [(1, b"fine", 5), (2, b"", 1)]
    path = write_examples(tmp_path / "f", {"text": b"fine", "label": "großartig".encode()})
    assert [row[:3] for row in read(path, "tfrecord")] == [(1, b"fine", "großartig")]


@pytest.mark.parametrize(
    "example, what",
    [
        ({"label": 1}, "no 'text'; there are 'label'"),
        ({"text": b"a"}, "no 'label'; there are 'text'"),
        ({"text": 5, "label": 1}, "'text' is 5, but a text must be a string"),
        ({"text": b"a", "label": 1.5}, "'label' is 1.5"),
        ({"text": [b"a", b"b"], "label": 1}, "'text' has 2 values"),
        ({"text": b"a", "label": []}, "'label' has 0 values"),
    ],
)
def test_an_error_in_a_feature_names_its_record(tmp_path, example, what):
    path = write_examples(tmp_path / "f", {"text": b"fine", "label": 1}, example)
    with pytest.raises(DataError, match=f"{path}:2: .*{what}"):
        read(path, "tfrecord")


def test_a_sequence_example_is_told_from_an_example(tmp_path):
    sequence = tf.train.SequenceExample()
    sequence.context.feature["label"].int64_list.value.append(1)
    sequence.feature_lists.feature_list["text"].feature.add().bytes_list.value.append(b"a")
    with tf.io.TFRecordWriter(str(tmp_path / "f")) as writer:
        writer.write(sequence.SerializeToString())
    with pytest.raises(DataError, match=":1: record 1 is a tf.train.SequenceExample"):
        read(tmp_path / "f", "tfrecord")


def test_a_record_that_is_not_an_example_is_refused(tmp_path):
    with tf.io.TFRecordWriter(str(tmp_path / "f")) as writer:
        writer.write(b"no protocol buffer")
    with pytest.raises(DataError, match=":1: record 1 is not a tf.train.Example"):
        read(tmp_path / "f", "tfrecord")


@pytest.mark.parametrize(
    "format, content",
    [
        ("csv", "part,text,label\ntest,fine,1\n"),
        ("tsv", "part\ttext\tlabel\ntest\tfine\t1\n"),
        ("jsonl", '{"part": "test", "text": "fine", "label": "1"}'),
    ],
)
def test_the_split_column_is_read_with_the_row(tmp_path, format, content):
    columns = formats.Columns("text", "label", "part")
    assert [row[1:] for row in read(written(tmp_path / "f", content), format, columns)] == [
        (b"fine", "1", "test")
    ]


def test_the_split_of_a_tfrecord_row_is_a_feature(tmp_path):
    path = write_examples(tmp_path / "f", {"text": b"fine", "label": 1, "part": b"dev"})
    assert read(path, "tfrecord", formats.Columns("text", "label", "part")) == [
        (1, b"fine", 1, "dev")
    ]
