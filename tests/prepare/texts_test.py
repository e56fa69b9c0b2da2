import pytest

from trainer.exit_codes import DataError
from trainer.prepare import raw_files, rows, texts


def read(path, content, reader):
    path.write_bytes(content)
    with raw_files.Stream(str(path), 200) as stream:
        return [(line, text) for (_, line), text, _, _ in reader(stream, 1000)]


@pytest.mark.parametrize("content", [b"a\n\nb", b"a\n", b"\n", b"ab\n\n\ncde\n", b"a\nb\nc\nd"])
@pytest.mark.parametrize("block", [1, 3, 1 << 20])
def test_pieces_are_whole_lines_and_together_the_file(tmp_path, monkeypatch, content, block):
    monkeypatch.setattr(raw_files, "_BLOCK", block)
    found = read(tmp_path / "f", content, texts.read_pieces)
    assert b"".join(text for _, text in found) == content
    assert all(text.endswith(b"\n") for _, text in found[:-1])
    for line, text in found:
        assert content.split(b"\n")[line - 1 :][0] == text.split(b"\n")[0]


@pytest.mark.parametrize("content", [b"a<br\n/>b\n", b"a<BR\t\n\n \n/>b\n", b"<br\n", b"a<br\n"])
def test_no_piece_ends_within_a_line_break_of_html(tmp_path, monkeypatch, content):
    monkeypatch.setattr(raw_files, "_BLOCK", 1)
    (whole,) = read(tmp_path / "f", content, texts.read_pieces)
    assert whole == (1, content)


def test_lines_keep_their_numbers_without_blank_ones(tmp_path):
    found = read(tmp_path / "f", b"\xef\xbb\xbfa b\r\n\n \t\nc\n", texts.read_lines)
    assert found == [(1, b"a b"), (4, b"c")]


@pytest.mark.parametrize("reader", [texts.read_pieces, texts.read_lines])
@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(tmp_path, reader, content):
    with pytest.raises(DataError, match="f:1: the file is empty"):
        read(tmp_path / "f", content, reader)


def test_all_but_the_first_piece_of_a_file_continue_its_text():
    pieces = [
        (("a", 1), b"x\n", None, None),
        (("a", 2), b"y", None, None),
        (("b", 1), b"z", None, None),
    ]
    (batch,) = rows.batches(pieces, "train")
    assert texts.joined(batch).continues == [False, True, False]
