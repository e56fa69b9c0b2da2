"""Bytes and lines of raw files, plain, .gz or .xz, read front to back in bounded memory.

Damage is an error that names the file and the line. A compressed file must end with its end marker
and may expand only so far. If `FILE.sha256` lies beside FILE (as `sha256sum FILE > FILE.sha256`
writes it), FILE must have that hash. Nothing else can reveal a file that was cut exactly between
two lines or two records, since it looks like a shorter file.
"""

import glob
import gzip
import hashlib
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterator

from trainer.exit_codes import DataError, UsageError

_BLOCK = 1 << 20
BOM = b"\xef\xbb\xbf"
# A small file of one repeated line is not a bomb, however well it compresses.
FREE_EXPANSION = 64 << 20
# (First bytes, what a file is that begins with them, what helps.)
_NOT_TEXT = (
    (rb"\x1f\x8b\x08", "gzip data", "Give it a name that ends in .gz"),
    (rb"\xfd7zXZ\x00", "xz data", "Give it a name that ends in .xz"),
    (rb"BZh[1-9]1AY&SY", "bzip2 data", "Decompress it (bzip2 -dc FILE > NEW)"),
    (rb"\x28\xb5\x2f\xfd", "zstd data", "Decompress it (zstd -dc FILE > NEW)"),
    (
        rb"PK\x03\x04",
        "a zip archive or an Excel workbook",
        "Unpack it (unzip FILE), or save the sheet as CSV in UTF-8",
    ),
    (rb"\xd0\xcf\x11\xe0", "a file of Microsoft Office", "Save the sheet as CSV in UTF-8"),
    (rb"%PDF-", "a PDF file", "Write its text to a file (pdftotext FILE), or remove it"),
    (rb"PAR1\x15", "a Parquet file", "Write its rows as CSV or JSON lines"),
    (rb"\xff\xfe\x00\x00", "UTF-32 text", "Convert it (iconv -f UTF-32 -t UTF-8 FILE > NEW)"),
    (rb"\xff\xfe|\xfe\xff", "UTF-16 text", "Convert it (iconv -f UTF-16 -t UTF-8 FILE > NEW)"),
)
_CR_ONLY = (
    "its lines end in CR without LF, as on old Macs, so that the whole file is one line. Convert "
    "it (tr '\\r' '\\n' < FILE > NEW)."
)
_HEAD = 4096  # Bytes that show what a file is.
_DECOMPRESSED = {".gz": lambda raw: gzip.GzipFile(fileobj=raw, mode="rb"), ".xz": lzma.LZMAFile}


def expand(patterns: str, flag: str) -> list[str]:
    """Returns the files that comma-separated globs name, sorted within each glob, each once.

    Raises:
      UsageError: a glob matches no file; `flag` is the flag that holds the globs.
    """
    found = []
    # The name of a file may hold a comma.
    parts = [patterns] if os.path.isfile(patterns) else patterns.split(",")
    for pattern in filter(None, (part.strip() for part in parts)):
        matches = (
            [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
        )
        files = [path for path in matches if os.path.isfile(path) and not path.endswith(".sha256")]
        if not files:
            raise UsageError(
                f"--{flag}={pattern}: no such file. Name files or globs, separated by commas"
                f"{' (a folder needs --source=folder)' if os.path.isdir(pattern) else ''}."
            )
        found += files
    return list(dict.fromkeys(found))


def check_hash(path: str) -> None:
    """Raises DataError if `path` has not the hash in PATH.sha256; nothing is read without that."""
    if _expected_hash(path):
        try:
            raw = _Raw(path, lambda _: None)
        except OSError as problem:
            raise DataError(
                f"{path}: cannot be opened ({problem.strerror}). Check its permissions."
            ) from None
        raw.check_hash()
        raw.close()


def foreign(head: bytes) -> tuple[str, str] | None:
    """Returns what a file that begins with `head` is, and what helps; None if it may be text.

    UTF-16 without a byte order mark is known by its NULs: every other byte of plain letters is one.
    """
    for first, what, remedy in _NOT_TEXT:
        if re.match(first, head):
            return what, remedy
    for name, nuls in (("UTF-16LE", head[1::2]), ("UTF-16BE", head[::2])):
        if len(nuls) > 1 and nuls.count(0) > 0.7 * len(nuls) and 2 * nuls.count(0) > head.count(0):
            return f"{name} text", f"Convert it (iconv -f {name} -t UTF-8 FILE > NEW)"
    return None


def refuse_foreign(path: str, head: bytes) -> None:
    """Raises DataError if a file that begins with `head` is not text."""
    if found := foreign(head[:_HEAD]):
        what, remedy = found
        if os.path.splitext(path)[1].lower() in _DECOMPRESSED:
            raise DataError(
                f"{path}:1: what was compressed is not text but {what}. Decompress the file, then: "
                f"{remedy}."
            )
        raise DataError(f"{path}:1: this is not text but {what}. {remedy}.")


class Stream:
    """The decompressed bytes of one file; any damage raises a DataError with file and line.

    The reader of lines or records keeps `number` at the one that it reads.
    """

    def __init__(
        self, path: str, max_expansion: int, advance: Callable[[int], None] = lambda _: None
    ):
        """
        Args:
          path: a file; .gz and .xz are decompressed.
          max_expansion: most bytes that one compressed byte may become, beyond the first 64 MiB.
          advance: called with the size of each piece that is read of the file itself.
        """
        self.path = path
        self.number = 1
        self._max_expansion = max_expansion
        self._size = 0
        try:
            self._raw = _Raw(path, advance)
        except OSError as problem:
            raise DataError(
                f"{path}: cannot be opened ({problem.strerror}). Check its permissions."
            ) from None
        decompressed = _DECOMPRESSED.get(os.path.splitext(path)[1].lower())
        self._bytes = decompressed(self._raw) if decompressed else self._raw

    def read(self, size: int) -> bytes:
        """Returns the next `size` bytes; fewer only at the end of the file."""
        return self._checked(self._bytes.read, size, least=size)

    def piece(self) -> bytes:
        """Returns the next bytes, as many as come at once; b"" at the end of the file.

        A damaged file is so read up to its damage.
        """
        return self._checked(self._bytes.read1, _BLOCK, least=1)

    def _checked(self, read: Callable[[int], bytes], size: int, least: int) -> bytes:
        try:
            content = read(size)
            if len(content) < least:
                self._check_end()
        except EOFError:
            raise self._damaged(
                "the compressed data ends before its end marker: the file is cut short"
            ) from None
        except (OSError, zlib.error, lzma.LZMAError) as problem:
            raise self._unreadable(problem) from None
        self._size += len(content)
        allowed = max(FREE_EXPANSION, self._max_expansion * self._raw.read_so_far)
        if self._bytes is not self._raw and self._size > allowed:
            raise DataError(
                f"{self.path}:{self.number}: {self._raw.read_so_far} compressed bytes became more "
                f"than {allowed}: this may be a decompression bomb. Raise "
                f"--max_expansion={self._max_expansion} if you trust the file."
            )
        return content

    def _check_end(self) -> None:
        """Raises an error if the file is not whole."""
        self._raw.check_hash()
        if self._bytes is not self._raw and not self._raw.read_so_far:
            raise EOFError

    def _unreadable(self, problem: Exception) -> DataError:
        """Returns the error of a file that cannot be read or decompressed."""
        why = f"cannot be read or decompressed ({problem})"
        if self._bytes is self._raw:
            return self._damaged(why)
        suffix = os.path.splitext(self.path)[1]
        what, remedy = foreign(self._raw.head()) or ("not compressed or damaged", "")
        if suffix.lower() in remedy:  # It begins as its name says.
            if "Not a gzipped file" in str(problem):
                why += ": other bytes follow its compressed data (gzip -dc FILE > NEW ignores them)"
            return self._damaged(why)
        return DataError(
            f"{self.path}:1: {why}: its name ends in {suffix}, but it is {what}. "
            f"{remedy or f'If it is plain text, take {suffix} off its name; else copy it again'}."
        )

    def _damaged(self, why: str) -> DataError:
        return DataError(f"{self.path}:{self.number}: {why}. Copy or compress it again.")

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_) -> None:
        self._bytes.close()
        self._raw.close()


class _Raw:
    """A file read front to back: counts its bytes and compares its hash with FILE.sha256."""

    def __init__(self, path: str, advance: Callable[[int], None]):
        self._path = path
        self._file = open(path, "rb")
        self._advance = advance
        self._expected = _expected_hash(path)
        self._digest = hashlib.sha256()
        self.read_so_far = 0

    def read(self, size: int = -1) -> bytes:
        return self._counted(self._file.read(size))

    def read1(self, size: int) -> bytes:
        return self._counted(self._file.read1(size))

    def head(self) -> bytes:
        """Returns the first bytes of the file."""
        return os.pread(self._file.fileno(), _HEAD, 0)

    def _counted(self, content: bytes) -> bytes:
        self.read_so_far += len(content)
        self._advance(len(content))
        if self._expected:
            self._digest.update(content)
        return content

    def check_hash(self) -> None:
        """Reads the rest of the file; raises DataError if the whole has another hash."""
        while self.read(_BLOCK):
            pass
        if self._expected and self._digest.hexdigest() != self._expected:
            raise DataError(
                f"{self._path}: its sha256 is {self._digest.hexdigest()}, but {self._path}.sha256 "
                f"holds {self._expected}. The file was cut or changed: copy it again, or remove "
                "the .sha256 file if it is out of date."
            )

    def close(self) -> None:
        self._file.close()


def _expected_hash(path: str) -> str | None:
    try:
        with open(f"{path}.sha256", "rb") as file:
            words = file.read(4096).decode("ascii", "replace").split()
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise DataError(
            f"{path}.sha256: cannot be read ({problem.strerror}). Check its permissions, or remove "
            "it."
        ) from None
    if not words or len(words[0]) != 64:
        raise DataError(
            f"{path}.sha256: does not begin with a sha256 of 64 digits. Write it with sha256sum, "
            "or remove it."
        )
    return words[0].lower()


def lines(
    stream: Stream, max_line_bytes: int, refuse: Callable[[str, bytes], None] = refuse_foreign
) -> Iterator[tuple[int, bytes]]:
    """Returns (number, line) without BOM and line ends; the first line is number 1.

    Args:
      refuse: called with the path and the first bytes; raises DataError if it is no such file.

    Raises:
      DataError: a line is longer than `max_line_bytes`, or the file is not text.
    """
    for number, block, _ in _line_blocks(stream, max_line_bytes, refuse):
        yield from enumerate(block, number)


def pieces(stream: Stream, max_line_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Returns the text of a file in pieces of whole lines, without BOM, CRLF as LF.

    The tokens of a piece do not depend on the text around it, for every tokenizer. So a piece
    never ends within a `<br />`, which `words` takes for a space.

    Returns:
      (number of the first line, text) of each piece; nothing for an empty file.

    Raises:
      DataError: a line is longer than `max_line_bytes`, or the file is not text.
    """
    first, held = 1, b""
    for number, block, end in _line_blocks(stream, max_line_bytes):
        if not held:
            first = number
        held += b"\n".join(block) + end
        if held.rstrip(b"\t\n\f\r ")[-3:].lower() != b"<br":
            yield first, held
            held = b""
    if held:
        yield first, held


def _line_blocks(
    stream: Stream, max_line_bytes: int, refuse: Callable[[str, bytes], None] = refuse_foreign
) -> Iterator[tuple[int, list[bytes], bytes]]:
    """Returns `lines`, many at a time: (number of the first one, lines, end of the last one)."""
    number, head = 1, stream.read(len(BOM))
    rest = b"" if head == BOM else head
    while (piece := stream.piece()) or head:  # A small file is all head.
        if head:
            refuse(stream.path, head.removeprefix(BOM) + piece)
            head = b""
        *lines, rest = (rest + piece).split(b"\n")
        if lines:
            yield number, _without_cr(stream.path, number, lines, max_line_bytes), b"\n"
            number += len(lines)
            stream.number = number
        _check_lengths(stream.path, number, [rest], max_line_bytes)
    if number == 1 and b"\r" in rest[:-1]:
        raise DataError(f"{stream.path}:1: {_CR_ONLY}")
    if rest:
        yield number, _without_cr(stream.path, number, [rest], max_line_bytes), b""


def _without_cr(path: str, number: int, lines: list[bytes], max_line_bytes: int) -> list[bytes]:
    """Checks the lengths of `lines` and takes off the CR of each CRLF."""
    _check_lengths(path, number, lines, max_line_bytes)
    return [line[:-1] if line.endswith(b"\r") else line for line in lines]


def _check_lengths(path: str, number: int, lines: list[bytes], max_line_bytes: int) -> None:
    """Raises DataError if a line is too long; `number` is that of the first line."""
    if max(map(len, lines)) > max_line_bytes:
        long = next(i for i, line in enumerate(lines) if len(line) > max_line_bytes)
        number += long
        if number == 1 and b"\r" in lines[long][:-1]:
            raise DataError(f"{path}:1: {_CR_ONLY}")
        raise DataError(
            f"{path}:{number}: the line is longer than {max_line_bytes} bytes (--max_line_bytes), "
            "as in a damaged file. Remove the line, or raise --max_line_bytes."
        )
