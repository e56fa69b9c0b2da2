import bz2
import gzip
import hashlib
import lzma

import pytest

from trainer.exit_codes import DataError, UsageError
from trainer.prepare import raw_files

PACKED = {
    "": lambda content: content,
    ".gz": gzip.compress,
    ".xz": lambda content: lzma.compress(content, preset=0),
}
LIMIT = 1000


def read_lines(path, max_line_bytes=LIMIT, max_expansion=200):
    with raw_files.Stream(str(path), max_expansion) as stream:
        return list(raw_files.lines(stream, max_line_bytes))


def write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", PACKED)
@pytest.mark.parametrize(
    "content, lines",
    [
        (b"a\nb\n", [b"a", b"b"]),
        (b"a\nb", [b"a", b"b"]),  # The last line end may be missing.
        (b"a\r\nb\r\n", [b"a", b"b"]),
        (b"a\r\nb\r", [b"a", b"b"]),
        (b"\xef\xbb\xbfa\nb\n", [b"a", b"b"]),
        (b"\xef\xbb\xbf", []),
        (b"a\n\nb\n", [b"a", b"", b"b"]),
        # Only the first three bytes are a BOM, only CR LF a line end.
        (b"a\xef\xbb\xbfb\rc\n", [b"a\xef\xbb\xbfb\rc"]),
        (b"", []),
        (b"a", [b"a"]),
        (b"a\n", [b"a"]),  # Not larger than a BOM.
        (b"\n\n", [b"", b""]),
        (b"a\r\n", [b"a"]),
    ],
)
def test_lines_are_read_without_bom_and_line_ends(tmp_path, suffix, content, lines):
    path = write(tmp_path / f"f{suffix}", PACKED[suffix](content))
    assert read_lines(path) == list(enumerate(lines, 1))


@pytest.mark.parametrize("suffix", PACKED)
def test_lines_are_whole_across_pieces(tmp_path, suffix):
    lines = [b"%d " % i * (i % 97) for i in range(30_000)]
    path = write(tmp_path / f"f{suffix}", PACKED[suffix](b"\n".join(lines)))
    assert read_lines(path) == list(enumerate(lines, 1))


def test_gzip_members_and_xz_streams_are_joined(tmp_path):
    for suffix in (".gz", ".xz"):
        path = write(tmp_path / f"f{suffix}", PACKED[suffix](b"a\nb") + PACKED[suffix](b"c\n"))
        assert read_lines(path) == [(1, b"a"), (2, b"bc")]


@pytest.mark.parametrize("length, good", [(LIMIT, True), (LIMIT + 1, False), (10_000_000, False)])
def test_a_long_line_is_refused_with_its_number(tmp_path, length, good):
    path = write(tmp_path / "f", b"a\nb\n" + b"x" * length + b"\nc\n")
    if good:
        assert read_lines(path)[3] == (4, b"c")
    else:
        with pytest.raises(DataError, match=rf"{path}:3: the line is longer than {LIMIT} bytes"):
            read_lines(path)


# Lines that compress badly, so that many of them can be read before a cut.
ROWS = b"\n".join(hashlib.sha256(b"%d" % i).hexdigest().encode() for i in range(5_000))


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
@pytest.mark.parametrize("left", [0.0, 0.00001, 0.5, 0.999999])
def test_a_truncated_file_is_refused_with_the_line_reached(tmp_path, suffix, left):
    packed = PACKED[suffix](ROWS)
    path = write(tmp_path / f"f{suffix}", packed[: int(left * len(packed))])
    with pytest.raises(
        DataError, match=rf"{path}:\d+: .*cut short|{path}:\d+: cannot be .*decompressed"
    ) as caught:
        read_lines(path)
    reached = int(str(caught.value).removeprefix(f"{path}:").split(":")[0])
    assert 0.3 * left * 5_000 < reached <= 5_000


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
@pytest.mark.parametrize("position", [0, 5, 0.5, -5])
def test_flipped_bits_in_compressed_data_are_found(tmp_path, suffix, position):
    packed = bytearray(PACKED[suffix](ROWS))
    packed[int(position * len(packed)) if isinstance(position, float) else position] ^= 0x41
    path = write(tmp_path / f"f{suffix}", packed)
    if (suffix, position) == (".gz", 5):  # Bytes 4 to 7 of a gzip header are a date.
        assert len(read_lines(path)) == 5_000
    else:
        with pytest.raises(DataError, match=str(path)):
            read_lines(path)


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_a_decompression_bomb_is_refused_but_small_and_trusted_files_are_read(
    tmp_path, monkeypatch, suffix
):
    monkeypatch.setattr(raw_files, "FREE_EXPANSION", 1_000_000)
    line = b"y" * 999 + b"\n"
    small = write(tmp_path / f"small{suffix}", PACKED[suffix](line * 900))
    assert len(read_lines(small, max_expansion=1)) == 900
    bomb = write(tmp_path / f"bomb{suffix}", PACKED[suffix](line * 9000))
    with pytest.raises(DataError, match=rf"{bomb}:\d+: .*bomb.*--max_expansion=50"):
        read_lines(bomb, max_expansion=50)
    assert len(read_lines(bomb, max_expansion=100_000)) == 9000


def test_a_sha256_file_finds_a_cut_that_looks_like_a_shorter_file(tmp_path):
    path = write(tmp_path / "f", b"a\nb\nc\n")
    write(tmp_path / "f.sha256", f"{hashlib.sha256(path.read_bytes()).hexdigest()}  f\n".encode())
    assert len(read_lines(path)) == 3
    write(path, b"a\nb\n")
    with pytest.raises(DataError, match="holds .*The file was cut or changed"):
        read_lines(path)
    write(tmp_path / "f.sha256", b"none")
    with pytest.raises(DataError, match="f.sha256: does not begin with a sha256"):
        read_lines(path)


def test_progress_counts_every_byte_of_the_compressed_file(tmp_path):
    path, read = write(tmp_path / "f.gz", gzip.compress(ROWS)), []
    with raw_files.Stream(str(path), 200, read.append) as stream:
        list(raw_files.lines(stream, LIMIT))
    assert sum(read) == path.stat().st_size


def test_a_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="cannot be opened"):
        raw_files.Stream(str(tmp_path / "f"), 200)


def test_globs_are_sorted_and_each_file_comes_once(tmp_path):
    for name in ("b.csv", "a.csv", "c.csv", "a.csv.sha256", "[x].csv"):
        write(tmp_path / name, b"")
    names = ["c.csv", "*.csv*", "[x].csv"]
    found = raw_files.expand(", ".join(f"{tmp_path}/{name}" for name in names), "raw_data")
    assert [path.removeprefix(f"{tmp_path}/") for path in found] == [
        "c.csv",
        "[x].csv",
        "a.csv",
        "b.csv",
    ]


@pytest.mark.parametrize("pattern, hint", [("*.csv", "no such file"), ("", "--source=folder")])
def test_a_glob_without_files_is_a_usage_error(tmp_path, pattern, hint):
    with pytest.raises(UsageError, match=hint):
        raw_files.expand(f"{tmp_path}/{pattern}", "raw_data")


@pytest.mark.parametrize(
    "content, what",
    [
        (gzip.compress(ROWS), "gzip data. Give it a name that ends in .gz"),
        (lzma.compress(ROWS), "xz data. Give it a name that ends in .xz"),
        (bz2.compress(ROWS), "bzip2 data. Decompress it .bzip2 -dc"),
        (b"\x28\xb5\x2f\xfd" + bytes(20), "zstd data. Decompress it .zstd -dc"),
        (b"PK\x03\x04" + bytes(20), "a zip archive or an Excel workbook"),
        (b"PAR1\x15\x04" + bytes(20), "a Parquet file"),
        (b"%PDF-1.4\n", "a PDF file"),
        ("text\na\n".encode("utf-16"), "UTF-16 text. Convert it .iconv -f UTF-16 -t UTF-8"),
        ("text\na\n".encode("utf-16-le"), "UTF-16LE text. Convert it .iconv -f UTF-16LE"),
        ("text\na\n".encode("utf-16-be"), "UTF-16BE text"),
        ("text\na\n".encode("utf-32"), "UTF-32 text"),
    ],
)
def test_a_file_that_is_not_text_is_known_by_its_first_bytes(tmp_path, content, what):
    with pytest.raises(DataError, match=f"{tmp_path}/f:1: this is not text but {what}"):
        read_lines(write(tmp_path / "f", content))
    with pytest.raises(DataError, match="f.gz:1: what was compressed is not text"):
        read_lines(write(tmp_path / "f.gz", gzip.compress(content)))


@pytest.mark.parametrize(
    "content", [b"PK and BZh91 and %PDF", b"a\0bcd", b"\0\0\0\0", "\u4f60\u597d".encode()]
)
def test_what_may_be_text_is_read(tmp_path, content):
    assert read_lines(write(tmp_path / "f", content)) == [(1, content)]


def test_a_name_that_does_not_fit_what_is_compressed_is_told(tmp_path):
    path = write(tmp_path / "f.gz", lzma.compress(ROWS))
    with pytest.raises(DataError, match="f.gz:1: .*it is xz data. Give it a name .*xz"):
        read_lines(path)
    path = write(tmp_path / "f.xz", b"text,label\n")
    with pytest.raises(DataError, match="f.xz:1: .*If it is plain text, take .xz off its name"):
        read_lines(path)
    path = write(tmp_path / "g.gz", gzip.compress(b"a\n") + b"more")
    with pytest.raises(DataError, match="other bytes follow its compressed data .gzip -dc"):
        read_lines(path)
    assert read_lines(write(tmp_path / "F.GZ", gzip.compress(b"abc\n"))) == [(1, b"abc")]


@pytest.mark.parametrize("length", [1, LIMIT])
def test_lines_that_end_in_cr_alone_are_refused(tmp_path, length):
    path = write(tmp_path / "f", b"text\r" + b"a\r" * length)
    with pytest.raises(DataError, match="f:1: its lines end in CR without LF.*tr '.r' '.n'"):
        read_lines(path)
    with raw_files.Stream(str(path), 200) as stream, pytest.raises(DataError, match="end in CR"):
        list(raw_files.pieces(stream, LIMIT))


def test_a_file_name_may_hold_a_comma(tmp_path):
    path = write(tmp_path / "rows, part 1.csv", b"")
    assert raw_files.expand(str(path), "raw_data") == [str(path)]
