import pytest

from trainer.exit_codes import DataError
from trainer.prepare import rows


def row(number, text, split=None):
    return ("f.csv", number), text, "label", split


def test_batches_are_bounded_in_bytes_and_rows(monkeypatch):
    monkeypatch.setattr(rows, "BATCH_BYTES", 10)
    monkeypatch.setattr(rows, "BATCH_ROWS", 3)
    texts = [b"", b"a", b"b", b"c" * 30, b"d" * 6, b"e" * 6, b"f"]
    made = list(rows.batches((row(i, text) for i, text in enumerate(texts)), "test"))
    assert [list(batch.texts) for batch in made] == [
        [b"", b"a", b"b"],
        [b"c" * 30],
        [b"d" * 6, b"e" * 6],
        [b"f"],
    ]
    assert all(batch.split == "test" and batch.splits is None for batch in made)
    assert rows.at(made[1].places[0]) == "f.csv:3"


def test_target_texts_become_rows_of_their_own_and_count_as_bytes(monkeypatch):
    monkeypatch.setattr(rows, "BATCH_BYTES", 10)
    made = [
        (("f.de", i), b"ab", rows.TargetText(("f.en", i), text), None)
        for i, text in enumerate([b"c" * 8, b"d", b"e"])
    ]
    first, second = rows.batches(made, "train")
    assert first.texts == (b"ab",) and first.labels == [None]
    assert first.targets == rows.Rows("train", (("f.en", 0),), (b"c" * 8,), [None])
    assert second.targets.texts == (b"d", b"e") and second.targets.places[1] == ("f.en", 2)


def test_a_batch_without_a_given_split_holds_the_split_column():
    (batch,) = rows.batches([row(1, b"a", "dev"), row(2, b"b", "test")], None)
    assert batch.split is None and batch.splits == ("dev", "test")


@pytest.mark.parametrize(
    "texts, mended, count",
    [
        # A replacement character that was in the text is not counted.
        ([b"fine", "é\ufffd".encode()], ["fine", "é\ufffd"], 0),
        ([b"fine", b"\xff"], ["fine", "\ufffd"], 1),
        ([b"\xf0\x9f\x98x\x80", b"\xed\xa0\x80"], ["\ufffdx\ufffd", "\ufffd\ufffd\ufffd"], 5),
    ],
)
def test_each_ill_formed_sequence_is_replaced_and_counted(texts, mended, count):
    (batch,) = rows.batches([row(i, text) for i, text in enumerate(texts)], "train")
    assert (
        rows.clean(batch, "replace") == count and [text.decode() for text in batch.texts] == mended
    )


@pytest.mark.parametrize("bad", [b"\xff", b"a\0b"])
def test_the_first_bad_text_is_refused_with_its_place(bad):
    (batch,) = rows.batches([row(5, b"fine"), row(7, bad), row(8, bad)], "train")
    with pytest.raises(DataError, match="f.csv:7: "):
        rows.clean(batch, "strict")
