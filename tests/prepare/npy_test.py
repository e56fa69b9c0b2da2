"""Arrays are read in pieces from any file, and damage is found."""

import numpy as np
import pytest

from tests.numeric_files import X
from trainer.exit_codes import DataError


def damaged(content: bytes, where: float) -> bytes:
    """Returns bytes with one of them changed."""
    position = int(len(content) * where)
    return content[:position] + bytes([content[position] ^ 255]) + content[position + 1 :]


@pytest.mark.parametrize("packed", [np.savez, np.savez_compressed])
def test_a_damaged_archive_is_refused_wherever_a_byte_is_wrong(tmp_path, prepared, packed):
    packed(
        tmp_path / "good.npz", x=np.random.default_rng(0).random((40, 3, 2)), y=np.arange(40) % 2
    )
    expected = prepared("arrays", "good.npz", data_dir="good").description["files"]
    content = (tmp_path / "good.npz").read_bytes()
    cut = [content[: int(len(content) * share)] for share in (0.3, 0.9)]
    for number, bad in enumerate([*cut, *(damaged(content, i / 23) for i in range(23)), b"", b"x"]):
        (tmp_path / "bad.npz").write_bytes(bad)
        try:
            found = prepared("arrays", "bad.npz", data_dir=f"bad{number}")
        except DataError as problem:
            assert "bad.npz" in str(problem)
        else:  # A byte of a date or of another part that no reader needs.
            assert found.description["files"] == expected


def test_arrays_are_checked_against_a_hash_beside_them_and_for_bombs(tmp_path, prepared):
    np.savez_compressed(tmp_path / "raw.npz", x=np.zeros((900, 100, 100)), y=np.arange(900) % 2)
    with pytest.raises(DataError, match="bomb. Raise --max_expansion=200 if you trust the file"):
        prepared("arrays", "raw.npz")
    (tmp_path / "raw.npz.sha256").write_text("0" * 64)
    with pytest.raises(DataError, match="raw.npz: its sha256 is"):
        prepared("arrays", "raw.npz")


def test_a_npy_file_by_itself_is_refused_with_what_helps(tmp_path, prepared):
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(DataError, match="It is a .npy file: put it into a folder as x.npy"):
        prepared("arrays", "x.npy")
    (tmp_path / "raw").mkdir()
    np.save(tmp_path / "raw/y.npy", [0, 1, 1])
    content = (tmp_path / "x.npy").read_bytes()
    for bad in (content[:-8], content + b"x", b"text", b""):
        (tmp_path / "raw/x.npy").write_bytes(bad)
        with pytest.raises(DataError, match="raw:x: .*(Copy|Write) "):
            prepared("arrays", "raw")
