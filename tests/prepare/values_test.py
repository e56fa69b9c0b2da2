"""Values that are to be learned are read from every source of texts."""

import pytest

from trainer.data import fields
from trainer.exit_codes import DataError


def test_texts_may_have_values_as_their_target(tmp_path, prepared):
    (tmp_path / "raw.jsonl").write_text(
        '{"text": "good film", "stars": 4, "price": 1.5}\n{"text": "bad", "stars": 2, "price": 3}\n'
    )
    flags = {"task": "regression", "label_column": "stars,price"}
    dataset = prepared("jsonl", "raw.jsonl", **flags)
    assert dataset.input is fields.TOKENS and dataset.values == ("stars", "price")
    assert dataset.splits["train"].targets.tolist() == [[4, 1.5], [2, 3]]
    assert dataset.standardise.mean.tolist() == [3, 2.25]
    (tmp_path / "raw.csv").write_text("text,stars,price\ngood film,4,1.5\nbad,2,3\n")
    assert (
        prepared("csv", "raw.csv", data_dir="csv", **flags).description["files"]
        == (dataset.description["files"])
    )
    (tmp_path / "raw.csv").write_text("text,stars,price\ngood film,4,1.5\nbad,two,3\n")
    with pytest.raises(DataError, match=r"raw.csv:3: the value 'two' of 'stars': must be a finite"):
        prepared("csv", "raw.csv", data_dir="bad", **flags)
