"""Errors of the system in words that a user can act on."""

import errno
import os

import pytest

from trainer import failures
from trainer.exit_codes import DataError, StorageError


def refused(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(
    "number", [errno.EACCES, errno.ENOTDIR, errno.EIO, errno.ELOOP, errno.ENAMETOOLONG]
)
def test_a_file_that_cannot_be_read_is_bad_data_and_is_named(number):
    problem = failures.of(refused(number, "/data/tokens.npy"))
    assert isinstance(problem, DataError)
    assert str(problem).startswith(f"/data/tokens.npy: {os.strerror(number)}. ")


@pytest.mark.parametrize("path", [None, "/data/out"])
def test_a_full_disk_is_a_storage_error(path):
    problem = failures.of(refused(errno.ENOSPC, path))
    assert isinstance(problem, StorageError) and "No space left" in str(problem)
    assert path is None or path in str(problem)


@pytest.mark.parametrize("path, error", [
    (None, StorageError),
    ("model/journal.jsonl", StorageError),
    ("model2/tokens.npy", DataError),
    ("data/tokens.npy", DataError),
])  # fmt: skip
def test_only_a_file_of_the_model_folder_is_blamed_on_the_model_folder(
    path, error, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    problem = failures.of_run(refused(errno.EACCES, path), tmp_path / "model")
    assert type(problem) is error
    assert ("the model folder" in str(problem)) == (error is StorageError)
