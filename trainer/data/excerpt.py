"""What a model needs of its dataset to answer to texts, kept in the model folder.

    MODEL_DIR/dataset/dataset.json    byte for byte, so that its sha256 is the dataset's digest
    MODEL_DIR/dataset/vocabulary.txt
    MODEL_DIR/dataset/labels.txt      absent if there are no classes
    MODEL_DIR/dataset/target_vocabulary.txt  absent if the dataset has none

Every checkpoint has the digest of the dataset, and dataset.json has those of the other files.
So whatever reads them compares every byte. They are there before the first checkpoint is.
"""

import hashlib
import pathlib

from trainer import durable
from trainer.data import store
from trainer.exit_codes import DataError

FOLDER = "dataset"


def keep(dataset: store.Dataset, model_dir: pathlib.Path) -> None:
    """Writes the excerpt of `dataset`, as far as it is not there already.

    When this returns, it survives a kill and a loss of power. Raises DataError if the dataset has
    changed since it was opened.
    """
    folder = model_dir / FOLDER
    durable.make_folder(folder)
    for name, digest in _digests(dataset):
        if _content(folder / name, digest) is not None:
            continue
        content = _content(dataset.folder / name, digest)
        if content is None:
            raise store.Damaged(dataset.folder / name, "it has changed since it was opened")
        durable.replace_file(folder / name, content)


def opened(model_dir: pathlib.Path, digest: str) -> store.Dataset | None:
    """Returns the dataset of this digest without its splits; None if there is no excerpt of it.

    Raises DataError, which names the file, if the excerpt is damaged.
    """
    folder = model_dir / FOLDER
    if not folder.exists():  # An older version trained the model.
        return None
    path = folder / store.DESCRIPTION
    try:
        if _content(path, digest) is None:
            raise DataError(f"{path}: it is missing or its sha256 is not {digest}")
        return store.open_dataset(folder, splits=False)
    except DataError as problem:
        reason = problem.reason if isinstance(problem, store.Damaged) else problem
        raise DataError(
            f"{reason}. {folder} holds what a model needs of its dataset, byte for byte as when "
            "it was trained. Restore it from a copy, name the dataset with --data_dir, or run the "
            "command of the training again, which writes it anew."
        ) from None


def _digests(dataset: store.Dataset) -> list[tuple[str, str]]:
    """Returns (file, sha256) of what is kept, dataset.json last."""
    files = dataset.description["files"]
    names = [name for name in store.NAMES if name in files]
    return [*((name, files[name]["sha256"]) for name in names), (store.DESCRIPTION, dataset.digest)]


def _content(path: pathlib.Path, digest: str) -> bytes | None:
    """Returns the content of a file if it has this sha256, else None."""
    try:
        content = durable.read_bytes(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    return content if hashlib.sha256(content).hexdigest() == digest else None
