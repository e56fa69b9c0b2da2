"""Sources of sequences are found in files and folders."""

import numpy as np
import pytest

from tests.numeric_files import X, save_wav, tone
from trainer.exit_codes import UsageError


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"source": "folder", "tokenizer": "words"}, "--tokenizer=words: recordings have no use"),
        ({"source": "folder", "task": "language_model"}, "of which a model learns --task=classi"),
        ({"source": "folder", "normalise": "none", "raw_data": "texts"}, "--normalise=none: texts"),
    ],
)
def test_flags_that_do_not_fit_what_lies_in_folders_are_refused(tmp_path, prepared, flags, message):
    for name in ("a", "b"):
        save_wav(tmp_path / f"raw/{name}/1.wav", tone(300))
        (tmp_path / f"texts/{name}").mkdir(parents=True)
        (tmp_path / f"texts/{name}/1.txt").write_text(f"text {name}")
    with pytest.raises(UsageError, match=message):
        prepared(**{"raw_data": "raw", **flags})


def test_an_archive_of_one_split_brings_no_other(tmp_path, prepared):
    np.savez(tmp_path / "raw.npz", x=X, y=[0, 1, 1])
    np.savez(tmp_path / "both.npz", x_train=X, y_train=[0, 1, 1], x_test=X, y_test=[0, 1, 1])
    with pytest.raises(UsageError, match="both.npz holds x_train, which is the train split. Name"):
        prepared("arrays", "raw.npz", test_data="both.npz")
    np.savez(tmp_path / "test.npz", x_test=X + 1, y_test=[0, 1, 1])
    dataset = prepared("arrays", "raw.npz", test_data="test.npz")
    assert (dataset.splits["test"].inputs == (X + 1).reshape(-1, 2)).all()
    with pytest.raises(UsageError, match="--test_fraction=0.1: the test split is given already"):
        prepared("arrays", "both.npz", test_fraction=0.1)


def test_several_archives_are_one_source_in_order_of_their_names(tmp_path, prepared):
    for name, row in (("b", 1), ("a", 0)):
        np.savez(tmp_path / f"{name}.npz", x=X[row : row + 1], y=[row])
    dataset = prepared("arrays", "[ab].npz")
    assert dataset.splits["train"].targets.tolist() == [0, 1]
    assert (dataset.splits["train"].inputs == X[:2].reshape(-1, 2)).all()
