"""Reads the records of a TFRecord stream and checks both checksums of each.

A record is: length (8 bytes, little-endian), masked CRC-32C of those 8 bytes, the data, masked
CRC-32C of the data. TensorFlow's reader takes a file that ends inside a header for a shorter file;
here it is an error. A file cut exactly between two records is a valid shorter file: only a .sha256
file beside it or the end marker of a compressed file reveals the cut.
"""

import itertools
import struct
from collections.abc import Iterator, Sequence

import numpy as np

from trainer.exit_codes import DataError
from trainer.prepare import raw_files

_HEADER = 12
_BATCH_BYTES = 1 << 20
_POLYNOMIAL = 0x82F63B78  # Castagnoli, bit-reversed (RFC 3720, appendix B.4).
_CRC_BLOCK = 256
# What a file written with this compression is, and what helps.
_ZLIB = ("zlib data", "Write it with compression GZIP, and a name that ends in .gz")
# These bytes turn a register of zero into all ones, the start value of a CRC.
_PREFIX = b"\x54\x64\x1f\x64"


def records(stream: raw_files.Stream, max_record_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Returns (number, data) of each record; the first one is number 1.

    Raises:
      DataError: the file ends inside a record or header, a checksum is wrong, or a record is longer
        than allowed.
    """
    pending, size = [], 0
    for number in itertools.count(1):
        stream.number = number
        header = stream.read(_HEADER)
        if not header:
            break
        try:
            body = _body(stream, number, header, max_record_bytes)
        except DataError:
            # A wrong length in an earlier header explains it better.
            _verified(stream.path, pending)
            raise
        pending.append((number, header, body))
        size += len(body)
        if size >= _BATCH_BYTES:
            yield from _verified(stream.path, pending)
            pending, size = [], 0
    yield from _verified(stream.path, pending)


def _body(stream: raw_files.Stream, number: int, header: bytes, max_record_bytes: int) -> bytes:
    """Returns data and checksum of the record that `header` begins."""
    if len(header) < _HEADER:
        raise DataError(
            f"{stream.path}:{number}: the file ends inside the header of record {number} "
            f"({len(header)} of {_HEADER} bytes): it is cut short. Copy or write it again."
        )
    length = struct.unpack_from("<Q", header)[0]
    if length > max_record_bytes or number == 1:
        # A length is believed only if its checksum is right. That of the first header also says
        # whether the file has this format at all.
        _verify_header(stream.path, number, header)
    if length > max_record_bytes:
        raise DataError(
            f"{stream.path}:{number}: record {number} has {length} bytes, more than "
            f"--max_line_bytes={max_record_bytes}. Raise --max_line_bytes."
        )
    body = stream.read(length + 4)
    if len(body) < length + 4:
        _verify_header(stream.path, number, header)
        raise DataError(
            f"{stream.path}:{number}: the file ends inside record {number} ({len(body)} of "
            f"{length + 4} bytes): it is cut short. Copy or write it again."
        )
    return body


def _verify_header(path: str, number: int, header: bytes) -> None:
    """Raises DataError if the checksum of the length of a record is wrong."""
    if _first_wrong([header]) == 0:
        raise _wrong_checksum(path, number, "header", header)


def _wrong_checksum(path: str, number: int, part: str, header: bytes) -> DataError:
    if number == 1 and part == "header":
        is_zlib = header[:2] in (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
        found = _ZLIB if is_zlib else raw_files.foreign(header)
        if found:
            return DataError(f"{path}:1: this is not a TFRecord file but {found[0]}. {found[1]}.")
    return DataError(
        f"{path}:{number}: the checksum of the {part} of record {number} is wrong: the file is "
        "damaged or is not a TFRecord file. Copy or write it again."
    )


def _verified(
    path: str, pending: Sequence[tuple[int, bytes, bytes]]
) -> Sequence[tuple[int, bytes]]:
    """Returns (number, data) of `pending` (number, header, data and checksum).

    Raises:
      DataError: a checksum is wrong; the first wrong record is named.
    """
    if not pending:
        return []
    numbers, headers, bodies = zip(*pending)
    wrong = {part: _first_wrong(pieces) for part, pieces in (("header", headers), ("data", bodies))}
    part = min(wrong, key=wrong.get)
    if wrong[part] < len(pending):
        raise _wrong_checksum(path, numbers[wrong[part]], part, headers[wrong[part]])
    return [(number, body[:-4]) for number, body in zip(numbers, bodies)]


def _first_wrong(pieces: Sequence[bytes]) -> int:
    """Returns the index of the first piece with a wrong checksum at its end; else `len(pieces)`."""
    stored = np.frombuffer(b"".join(piece[-4:] for piece in pieces), "<u4")
    wrong = np.flatnonzero(_masked(crc32c([piece[:-4] for piece in pieces])) != stored)
    return int(wrong[0]) if wrong.size else len(pieces)


def _masked(crc: np.ndarray) -> np.ndarray:
    """Returns CRCs as TFRecord stores them: rotated right by 15 bits, plus a constant."""
    return ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(0xA282EAD8)


def _byte_table() -> np.ndarray:
    """Returns the register after one byte, from a register of zero, uint32 [256]."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> np.uint32(1)) ^ np.where(table & 1, np.uint32(_POLYNOMIAL), np.uint32(0))
    return table


_TABLE = _byte_table()


def _feed(register: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Returns the registers (uint32 [n]) after one more byte each (uint8 [n])."""
    return _TABLE[(register ^ column) & np.uint32(255)] ^ (register >> np.uint32(8))


def _shift_tables() -> np.ndarray:
    """Returns what each byte of a register becomes after _CRC_BLOCK zero bytes, uint32 [4, 256]."""
    registers = (
        np.arange(256, dtype=np.uint32)[None] << np.arange(0, 32, 8, dtype=np.uint32)[:, None]
    ).ravel()
    for _ in range(_CRC_BLOCK):
        registers = _feed(registers, np.zeros(1, np.uint8))
    return registers.reshape(4, 256)


_SHIFT = _shift_tables()


def crc32c(messages: Sequence[bytes]) -> np.ndarray:
    """Returns the CRC-32C of each message, uint32 [n] (RFC 3720).

    A CRC is linear and a register of zero stays zero over zero bytes. So each message is padded
    with zeros in front to whole blocks, all blocks of all messages run side by side, one byte
    column at a time, and the blocks of a message are then joined:

        register(a b) = shift(register(a)) ^ register(b)
    """
    blocks = [-(-(len(message) + len(_PREFIX)) // _CRC_BLOCK) for message in messages]
    ends = np.cumsum(blocks)
    filled = b"".join(
        bytes(count * _CRC_BLOCK - len(message) - len(_PREFIX)) + _PREFIX + message
        for count, message in zip(blocks, messages)
    )
    register = np.zeros(ends[-1], np.uint32)
    for column in np.ascontiguousarray(np.frombuffer(filled, np.uint8).reshape(-1, _CRC_BLOCK).T):
        register = _feed(register, column)
    return ~_join(register, np.asarray(blocks), ends)


def _join(register: np.ndarray, blocks: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Returns the registers of messages from those of their blocks.

    uint32 [all blocks] -> uint32 [messages]; message i has blocks[i] blocks, the last of which is
    block ends[i] - 1.
    """
    joined = np.zeros(len(blocks), np.uint32)
    for back in range(blocks.max(), 0, -1):
        present = np.flatnonzero(blocks >= back)
        before = joined[present, None] >> np.arange(0, 32, 8, dtype=np.uint32) & np.uint32(255)
        shifted = np.bitwise_xor.reduce(_SHIFT[np.arange(4), before], axis=1)
        joined[present] = shifted ^ register[ends[present] - back]
    return joined
