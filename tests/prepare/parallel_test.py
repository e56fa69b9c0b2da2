"""Two files line by line."""

import gzip
import os

import pytest

from trainer.exit_codes import DataError, UsageError
from trainer.prepare import parallel, raw_files, rows


def read(folder, text, target, name="en"):
    (folder / "de").write_bytes(text)
    (folder / name).write_bytes(target)
    with (
        raw_files.Stream(str(folder / "de"), 200) as stream,
        raw_files.Stream(str(folder / name), 200) as other,
    ):
        return list(parallel.read_lines(stream, other, 100))


def test_line_i_of_both_files_is_a_row_with_both_places(tmp_path):
    packed = gzip.compress(b"one\n\nthree")
    found = read(tmp_path, b"\xef\xbb\xbfeins\r\nzwei\n\n", packed, "en.gz")
    here, there = str(tmp_path / "de"), str(tmp_path / "en.gz")
    assert found == [
        ((here, i), text, rows.TargetText((there, i), target), None)
        for i, text, target in ((1, b"eins", b"one"), (2, b"zwei", b""), (3, b"", b"three"))
    ]


@pytest.mark.parametrize(
    "text, target, lines, target_lines",
    [
        (b"a\nb\nc\n", b"a\nb\n", 3, 2),
        (b"a\nb\nc\nd", b"a", 4, 1),
        (b"a\n", b"a\nb\n\nd\n", 1, 4),
        (b"", b"a\n", 0, 1),
        (b"a\nb", b"", 2, 0),
    ],
)
def test_files_of_unequal_length_are_bad_data_with_both_numbers(
    tmp_path, text, target, lines, target_lines
):
    with pytest.raises(DataError) as caught:
        read(tmp_path, text, target)
    assert caught.value.code == 3
    message = f"{tmp_path}/de: {lines} lines, but {tmp_path}/en has {target_lines}: line i of one"
    assert message in str(caught.value)


def test_files_are_matched_in_order_and_must_be_as_many(tmp_path):
    names = [str(tmp_path / name) for name in ("1.de", "2.de", "1.en", "2.en")]
    for name in names:
        open(name, "w").close()
    flags = ("raw_data", "target_data")
    assert parallel.matched(names[:2], names[2:], *flags) == [
        (names[0], names[2]),
        (names[1], names[3]),
    ]
    with pytest.raises(UsageError, match="--raw_data and --target_data: 2 files, .*1.de .* but 1"):
        parallel.matched(names[:2], names[2:3], *flags)
    os.link(names[0], tmp_path / "same")
    with pytest.raises(UsageError, match="1.de and .*same are the same file"):
        parallel.matched(names[:1], [str(tmp_path / "same")], *flags)
