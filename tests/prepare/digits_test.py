"""The digits of scikit-learn's package are read without the package."""

import gzip
import importlib

import numpy as np
import pytest

from trainer.exit_codes import DataError, UsageError
from trainer.flags.prepare import Prepare
from trainer.flags.use import Predict
from trainer.prepare import command, new_frames

IMAGES = np.random.default_rng(0).integers(0, 17, (40, 8, 8))


def write(folder, rows):
    file = folder / "sklearn/datasets/data/digits.csv.gz"
    file.parent.mkdir(parents=True, exist_ok=True)
    (folder / "sklearn/__init__.py").write_text("raise ImportError('must not be imported')")
    file.write_bytes(gzip.compress("".join(f"{','.join(row)}\n" for row in rows).encode()))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A folder of packages with a scikit-learn that cannot be imported."""
    rows = [[*map(str, image.ravel()), str(i % 10)] for i, image in enumerate(IMAGES)]
    write(tmp_path / "packages", rows)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    importlib.invalidate_caches()
    return tmp_path / "packages"


@pytest.fixture
def prepared(tmp_path):
    """Returns a function that prepares the digits."""

    def run(**flags):
        flags = {"source": "digits", "data_dir": str(tmp_path / "d"), **flags}
        return command.prepare(Prepare(**flags))

    return run


def test_digits_are_eight_rows_of_eight_pixels_with_a_label(package, prepared):
    dataset = prepared(test_fraction=0.2)
    assert dataset.frame == (8,) and dataset.labels == tuple("0123456789")
    assert sorted(dataset.splits) == ["test", "train"]
    assert sum(map(len, dataset.splits.values())) == len(IMAGES)
    known = {image.astype(np.float32).tobytes(): i % 10 for i, image in enumerate(IMAGES)}
    for split in dataset.splits.values():
        for image, label in zip(split.inputs.reshape(-1, 8, 8), split.targets):
            assert known[image.tobytes()] == label
    assert dataset.description["input"]["reading"]["source"] == "arrays"


def test_new_digits_are_arrays_and_the_form_of_pixels_in_a_row_is_named(
    package, prepared, tmp_path
):
    dataset, settings = prepared(), Predict(input=f"{tmp_path}/new.npz")
    np.savez(tmp_path / "new.npz", x=IMAGES.reshape(-1, 64))
    with pytest.raises(
        DataError, match=r"\[40, 64\] without .* as \[examples, time, features\]"
    ) as no:
        list(new_frames.unanswered(settings, dataset))
    assert "the model was trained on" not in str(no.value).lower()  # Digits have no lengths.
    np.savez(tmp_path / "new.npz", x=IMAGES)
    found = [each.frames for each in new_frames.unanswered(settings, dataset)]
    np.testing.assert_array_equal(found, IMAGES)


def test_without_the_package_the_command_that_installs_it_is_named(tmp_path, prepared, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="Run: pip install --no-deps scikit-learn"):
        prepared()


def test_another_file_of_that_name_is_refused(package, prepared):
    write(package, [["1", "2"]])
    with pytest.raises(DataError, match="its rows must have 64 pixels and a label"):
        prepared()


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"raw_data": "x"}, "--source=digits brings its own data"),
        ({"test_data": "x"}, "is a built-in set and takes no other"),
        ({"task": "regression"}, "--task=regression --source=digits"),
        ({"tokenizer": "words"}, "--tokenizer=words: sequences of numbers of --source=digits"),
        ({"missing": "zero"}, "--missing=zero: sequences of numbers of --source=digits"),
    ],
)
def test_flags_that_do_not_fit_are_refused(package, prepared, flags, message):
    with pytest.raises(UsageError, match=message):
        prepared(**flags)
