import numpy as np
import pytest

from trainer.prepare import spool


def test_units_have_the_type_that_is_asked_for(tmp_path):
    with spool.Spool(tmp_path / "spool", np.uint8) as rows:
        rows.add(np.frombuffer(b"ab", np.uint8), lengths=np.array([1, 0, 1]))
        ((_, content),) = rows.chunks(rows.read("lengths"))
        assert content.tobytes() == b"ab"


@pytest.mark.parametrize("lengths", [[3], [1] * 50, [40, 1, 1, 40, 2], [7, 8, 9, 10, 11, 12]])
def test_chunks_hold_whole_rows_in_order_however_long_they_are(tmp_path, monkeypatch, lengths):
    monkeypatch.setattr(spool, "_CHUNK", 10)
    lengths = np.array(lengths, np.int32)
    units = np.arange(lengths.sum(), dtype=np.int32)
    with spool.Spool(tmp_path / "spool") as rows:
        for part in np.array_split(np.arange(len(lengths)), min(3, len(lengths))):
            begin, end = lengths[: part[0]].sum(), lengths[: part[-1] + 1].sum()
            keys = np.stack([part, part], axis=1)
            rows.add(
                units[begin:end], lengths=lengths[part], labels=part, splits=part % 3, keys=keys
            )
        assert rows.rows == len(lengths)
        assert (rows.read("lengths") == lengths).all() and (
            rows.read("keys")[:, 1] == np.arange(len(lengths))
        ).all()
        for _ in range(2):  # Each pass begins at the first row.
            chunks = list(rows.chunks(lengths))
            assert np.concatenate([part for _, part in chunks]).tolist() == units.tolist()
            assert [i for rows_of, _ in chunks for i in range(rows_of.start, rows_of.stop)] == list(
                range(len(lengths))
            )
            assert all(len(part) == lengths[rows_of].sum() for rows_of, part in chunks)
            assert all(
                len(part) <= 10 or rows_of.stop - rows_of.start == 1 for rows_of, part in chunks
            )
    assert not (tmp_path / "spool").exists()
