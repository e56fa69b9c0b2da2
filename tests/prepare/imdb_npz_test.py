import pathlib
import sys

import numpy as np
import pytest

from trainer.exit_codes import DataError, UsageError
from trainer.prepare import imdb_npz, raw_files


def lists(*rows):
    """Returns an array whose elements are lists, as the ranks in imdb.npz are."""
    array = np.empty(len(rows), object)
    array[:] = rows
    return array


RANKS = {"x_train": lists([1, 2, 3], []), "y_train": [1, 0], "x_test": lists([7]), "y_test": [0]}


def good(path):
    np.savez(path, **RANKS)
    return path


def test_ranks_and_labels_come_by_split_in_the_order_of_the_file(tmp_path):
    read = imdb_npz.read(str(good(tmp_path / "imdb.npz")), 200)
    assert list(read) == ["train", "test"]
    found = {split: (ranks.tolist(), labels.tolist()) for split, (ranks, labels) in read.items()}
    assert found == {"train": ([[1, 2, 3], []], [1, 0]), "test": ([[7]], [0])}


def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (pathlib.Path(tmp_path / "ran").touch, ())

    np.savez(tmp_path / "evil.npz", **RANKS | {"x_test": lists(Evil())})
    with pytest.raises(DataError, match="evil.npz: not an imdb.npz as Keras ships it"):
        imdb_npz.read(str(tmp_path / "evil.npz"), 200)
    assert not (tmp_path / "ran").exists()
    # The file is as dangerous as it looks.
    with np.load(tmp_path / "evil.npz", allow_pickle=True) as arrays:
        arrays["x_test"]
    assert (tmp_path / "ran").exists()


def test_a_file_that_is_cut_or_holds_something_else_is_refused(tmp_path):
    cut = good(tmp_path / "cut.npz")
    cut.write_bytes(cut.read_bytes()[:-30])
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "half.npz", x_train=RANKS["x_train"], y_train=RANKS["y_train"])
    for name in ("cut", "text", "half", "missing"):
        with pytest.raises(DataError, match=f"{tmp_path}/{name}.npz: not an imdb.npz"):
            imdb_npz.read(str(tmp_path / f"{name}.npz"), 200)


def test_a_decompression_bomb_is_refused_unless_it_is_trusted(tmp_path, monkeypatch):
    monkeypatch.setattr(raw_files, "FREE_EXPANSION", 1000)
    packed = tmp_path / "packed.npz"
    np.savez_compressed(packed, **RANKS, zeros=np.zeros(1_000_000, np.int8))
    with pytest.raises(DataError, match=r"packed.npz: would expand to \d+ bytes.*max_expansion=50"):
        imdb_npz.read(str(packed), 50)
    assert imdb_npz.read(str(packed), 100_000)["test"][0].tolist() == [[7]]


def test_a_keras_without_the_restricted_reader_is_named(tmp_path, monkeypatch):
    import keras.src.datasets

    monkeypatch.delattr(keras.src.datasets, "npz_utils", raising=False)
    monkeypatch.setitem(sys.modules, "keras.src.datasets.npz_utils", None)
    with pytest.raises(UsageError, match=f"this Keras .{keras.__version__}. has no restricted"):
        imdb_npz.read(str(good(tmp_path / "imdb.npz")), 200)


def test_words_are_sorted_by_rank(tmp_path):
    (tmp_path / "index.json").write_text('{"of": 3, "the": 1, "d\\u00e9j\\u00e0": 2}')
    assert imdb_npz.words(str(tmp_path / "index.json")) == ["the", "déjà", "of"]


@pytest.mark.parametrize(
    "content, what",
    [
        (b"{", "not valid JSON"),
        (b"[1]", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b'{"a": "x", "b": 1}', "not valid JSON"),
        (b'{"a": 1, "b": 3}', "the ranks are not 1, 2, 3"),
        (b'{"a": 0, "b": 1}', "the ranks are not 1, 2, 3"),
        (b'{"a": 1, "b": 1}', "the ranks are not 1, 2, 3"),
    ],
)
def test_a_damaged_word_index_is_refused(tmp_path, content, what):
    (tmp_path / "index.json").write_bytes(content)
    with pytest.raises(DataError, match=f"index.json: {what}"):
        imdb_npz.words(str(tmp_path / "index.json"))
