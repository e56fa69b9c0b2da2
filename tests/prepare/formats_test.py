import json

import pytest
import tensorflow as tf

from trainer.exit_codes import DataError
from trainer.prepare import formats, raw_files

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
        ("[" * 100_000, "not valid JSON|longer than"),
        ("[" * 900, "not valid JSON"),
    ],
)
def test_an_error_in_jsonl_names_its_line(tmp_path, line, what):
    path = written(tmp_path / "f.jsonl", '{"text": "fine", "label": 1}\n' + line)
    with pytest.raises(DataError, match=f"{path}:2: .*({what})"):
        read(path, "jsonl")


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
