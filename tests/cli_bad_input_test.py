"""Bad input, end to end.

The exit code is 3, or 2 if the command itself is wrong. The message names file and line without a
traceback, and nothing is left on the disk.
"""

import shutil

import pytest

from tests import classifier, commands

GOOD = "text,label\na fine film,good\na dull film,bad\n"


def prepare(folder, *flags) -> commands.Answer:
    return commands.call(
        "prepare", f"--raw_data={folder / 'rows.csv'}", f"--data_dir={folder / 'data'}", *flags
    )


@pytest.mark.parametrize(
    "content, place",
    [
        ("", "rows.csv:1: "),
        ("text,label\n", "rows.csv:1: "),
        ("sentence,label\na film,good\n", "rows.csv:1: "),
        ("text,label\na film,good\nb,\n", "rows.csv:3: "),
        ("text,label\na film,good\nanother film,good\n", "rows.csv"),
        (b"text,label\na film,good\nb\xff,bad\n", "rows.csv:3: "),
        (b"text,label\na film,good\na\x00b,bad\n", "rows.csv:3: "),
        ("text,label\na film,good\n" + "b" * 1_000_001 + ",bad\n", "rows.csv:3: "),
    ],
    ids=[
        "empty file",
        "no rows",
        "missing column",
        "empty label",
        "one class",
        "bad UTF-8",
        "NUL",
        "long line",
    ],
)
def test_bad_rows_exit_3_with_file_and_line(tmp_path, content, place):
    (tmp_path / "rows.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    answer = prepare(tmp_path)
    assert (answer.code, answer.out) == (3, "") and place in answer.err
    assert "error: " in answer.err and "Traceback" not in answer.err
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


@pytest.mark.parametrize(
    "content",
    ["\ufeff" + GOOD, GOOD.replace("\n", "\r\n"), GOOD + ",good\n"],
    ids=["BOM", "CRLF", "empty text"],
)
def test_a_bom_crlf_and_an_empty_text_are_accepted(tmp_path, content):
    (tmp_path / "rows.csv").write_bytes(content.encode())
    answer = prepare(tmp_path)
    assert answer.code == 0, answer.err


def test_missing_files_exit_2(tmp_path):
    answer = prepare(tmp_path)
    assert answer.code == 2 and "rows.csv" in answer.err and "Traceback" not in answer.err


@pytest.mark.parametrize(
    "name",
    ["train/tokens.npy", "train/offsets.npy", "train/labels.npy", "vocabulary.txt", "labels.txt"],
)
def test_a_damaged_dataset_exits_3_and_names_the_file(tmp_path, name):
    classifier.write_csv(tmp_path / "rows.csv", classifier.sentences(20, seed=1))
    assert prepare(tmp_path).code == 0
    path = tmp_path / "data" / name
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    train = [
        "train",
        f"--data_dir={tmp_path / 'data'}",
        f"--model_dir={tmp_path / 'model'}",
        "--threads=2",
    ]
    answer = commands.call(*train)
    assert (
        (answer.code, answer.out) == (3, "")
        and str(path) in answer.err
        and "Traceback" not in answer.err
    )
    path.unlink()
    again = commands.call(*train)
    assert again.code == 3 and str(path) in again.err


def test_a_second_prepare_never_replaces_another_dataset(tmp_path):
    (tmp_path / "rows.csv").write_text(GOOD)
    assert prepare(tmp_path).code == prepare(tmp_path).code == 0
    (tmp_path / "rows.csv").write_text(GOOD + "one more,bad\n")
    answer = prepare(tmp_path)
    assert answer.code == 2 and "holds another dataset" in answer.err
    shutil.rmtree(tmp_path / "data")
    assert prepare(tmp_path).code == 0
