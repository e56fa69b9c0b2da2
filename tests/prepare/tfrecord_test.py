import bz2
import gzip
import hashlib
import zlib

import numpy as np
import pytest
import tensorflow as tf

from trainer.exit_codes import DataError
from trainer.prepare import raw_files, tfrecord

RECORDS = [b"", b"a", b"some bytes", b"x" * 250, b"y" * 252, b"z" * 253, bytes(range(256)) * 17]


# RFC 3720, appendix B.4, and the check value of the catalogue of parametrised CRCs.
@pytest.mark.parametrize(
    "message, crc",
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_crc32c_gives_the_published_values(message, crc):
    assert tfrecord.crc32c([b"other", message, b"a" * 1000])[1] == crc


def test_crc32c_is_bit_by_bit_division_at_every_length():
    def slow(message):
        register = 0xFFFFFFFF
        for byte in message:
            register ^= byte
            for _ in range(8):
                register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
        return register ^ 0xFFFFFFFF

    generator = np.random.default_rng(0)
    messages = [generator.bytes(length) for length in (*range(12), 251, 252, 253, 508, 509, 1500)]
    assert tfrecord.crc32c(messages).tolist() == [slow(message) for message in messages]


def write(path, records=RECORDS):
    """Writes a file; returns it, and the offsets at which records begin and the last one ends."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    return path, np.cumsum([0, *(len(record) + 16 for record in records)]).tolist()


def read(path, max_record_bytes=10_000):
    with raw_files.Stream(str(path), 200) as stream:
        return list(tfrecord.records(stream, max_record_bytes))


def test_records_that_tensorflow_wrote_are_read(tmp_path):
    path, _ = write(tmp_path / "f")
    assert read(path) == list(enumerate(RECORDS, 1))
    packed = tmp_path / "f.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read(packed) == list(enumerate(RECORDS, 1))


@pytest.mark.parametrize(
    "after, record, where",
    [
        (1, 4, "inside the header of record 4"),
        (11, 4, "inside the header of record 4"),
        (12, 4, "inside record 4"),
        (100, 4, "inside record 4"),
        (265, 4, "inside record 4"),
    ],
)
def test_a_file_that_ends_inside_a_record_is_refused(tmp_path, after, record, where):
    path, begins = write(tmp_path / "f")
    path.write_bytes(path.read_bytes()[: begins[record - 1] + after])
    with pytest.raises(DataError, match=rf"{path}:{record}: the file ends {where} .*cut short"):
        read(path)


def test_a_cut_between_records_is_found_only_by_a_sha256_file(tmp_path):
    path, begins = write(tmp_path / "f")
    (tmp_path / "f.sha256").write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  f\n")
    path.write_bytes(path.read_bytes()[: begins[3]])
    with pytest.raises(DataError, match=f"{path}: its sha256 is"):
        read(path)
    (tmp_path / "f.sha256").unlink()
    # To the format it is a valid shorter file.
    assert read(path) == list(enumerate(RECORDS[:3], 1))


def test_a_cut_between_records_is_found_in_a_compressed_file(tmp_path):
    path, begins = write(tmp_path / "f")
    # Without the end marker, as a cut leaves it.
    half = gzip.compress(path.read_bytes()[: begins[3]])[:-8]
    (tmp_path / "f.gz").write_bytes(half)
    with pytest.raises(DataError, match="cut short"):
        read(tmp_path / "f.gz")


@pytest.mark.parametrize(
    "offset, part",
    [(0, "header"), (9, "header"), (12, "data"), (200, "data"), (262, "data"), (265, "data")],
)
def test_a_flipped_bit_is_found_by_a_checksum(tmp_path, offset, part):
    path, begins = write(tmp_path / "f")
    content = bytearray(path.read_bytes())
    content[begins[3] + offset] ^= 4
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=f"{path}:4: the checksum of the {part} of record 4 is wrong"
    ):
        read(path)


def test_a_record_that_is_too_long_differs_from_a_damaged_header(tmp_path):
    path, begins = write(tmp_path / "f")
    with pytest.raises(
        DataError, match=":7: record 7 has 4352 bytes, more than --max_line_bytes=4000"
    ):
        read(path, 4000)
    content = bytearray(path.read_bytes())
    content[begins[3] + 7] = 0x7F
    path.write_bytes(content)
    with pytest.raises(DataError, match=":4: the checksum of the header of record 4 is wrong"):
        read(path, 4000)


def test_a_text_file_is_not_a_tfrecord_file(tmp_path):
    (tmp_path / "f").write_bytes(b"text,label\nfine,1\nbad,0\n")
    with pytest.raises(DataError, match="is not a TFRecord file"):
        read(tmp_path / "f")


@pytest.mark.parametrize(
    "pack, what",
    [
        (gzip.compress, "gzip data. Give it a name that ends in .gz"),
        (zlib.compress, "zlib data. Write it with compression GZIP"),
        (bz2.compress, "bzip2 data"),
    ],
)
def test_a_compressed_file_without_its_suffix_is_known_by_its_first_bytes(tmp_path, pack, what):
    path, _ = write(tmp_path / "f")
    path.write_bytes(pack(path.read_bytes()))
    with pytest.raises(DataError, match=f"f:1: this is not a TFRecord file but {what}"):
        read(path)


def test_a_length_is_believed_only_with_its_checksum(tmp_path):
    """A damaged length that is allowed but beyond the end of the file is no cut file."""
    path, begins = write(tmp_path / "f")
    content = bytearray(path.read_bytes())
    content[begins[6] + 1] ^= 0x10  # The last record: 4352 bytes become 256 or 8448.
    path.write_bytes(content[:-100])
    with pytest.raises(DataError, match=":7: the checksum of the header of record 7 is wrong"):
        read(path)
