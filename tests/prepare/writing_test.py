"""Files of a new dataset are opened for the splits that have rows, and described."""

import numpy as np

from trainer.data import fields, store
from trainer.prepare import layout, writing


def test_only_splits_with_rows_have_files_and_all_files_are_described(tmp_path):
    lengths, ones = np.array([2, 1, 3]), np.ones(3, bool)
    found = layout.Layout(lengths, np.array([0, 2, -1]), ones, ~ones, {})
    form = fields.Form(fields.LABEL, features=2)
    written = writing.split_files(tmp_path, [found], 0, form)
    assert list(written) == [0, 2]
    for split, steps in ((0, 2), (2, 1)):
        written[split].write(np.zeros((steps, 2)))
        written[split].write_targets(np.array([1]))
    described = writing.describe(tmp_path, written, {}, ["a", "b"])
    assert described["classes"] == ["a", "b"]
    assert described["splits"]["train"]["frames"] == 2
    assert described["splits"]["test"]["labels"] == {"a": 0, "b": 1}
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    assert described["files"].keys() == names
    described = writing.describe(tmp_path, {}, {"vocabulary": ["x", "\n"]}, [])
    assert described["vocabulary_size"] == 6 and "classes" not in described
    assert (tmp_path / store.VOCABULARY).read_text().splitlines()[4:] == ["x", r"\x0a"]
