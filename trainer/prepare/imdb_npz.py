"""Reads Keras' imdb.npz with Keras' own restricted reader, which can make only arrays.

The arrays in the file are pickled, and a pickle may run any code. The file holds word ranks (1 is
the most frequent word) and no words; those are in imdb_word_index.json, {word: rank}. Keras'
`load_data` refuses any file without the hash of Google's copy; this module takes any path.
"""

import json
import os
import zipfile

import keras
import numpy as np

from trainer.exit_codes import DataError, UsageError
from trainer.prepare import raw_files


def read(path: str, max_expansion: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns {"train": (ranks, labels), "test": ...}.

    `ranks` is an object array of lists, one for each row; `labels` is int64 [rows], 0 or 1.

    Raises:
      DataError: the file is damaged, holds something else, or would expand too far.
      UsageError: this version of Keras has no such reader.
    """
    try:
        from keras.src.datasets import npz_utils
    except ImportError:
        raise UsageError(
            f"--raw_data={path}: this Keras ({keras.__version__}) has no restricted reader for "
            "pickled arrays. Install a newer one, or use the text: aclImdb_train.tsv.xz, "
            "aclImdb_test.tsv.xz."
        ) from None
    try:
        with zipfile.ZipFile(path) as archive:
            expanded = sum(member.file_size for member in archive.infolist())
        if expanded > max(raw_files.FREE_EXPANSION, max_expansion * os.path.getsize(path)):
            raise DataError(
                f"{path}: would expand to {expanded} bytes: this may be a decompression bomb "
                f"(--max_expansion={max_expansion}). Raise --max_expansion if you trust the file."
            )
        arrays = npz_utils.load_npz(path)
        return {split: (arrays[f"x_{split}"], arrays[f"y_{split}"]) for split in ("train", "test")}
    except DataError:
        raise
    except Exception as problem:  # A damaged zip or pickle may raise nearly anything.
        raise DataError(
            f"{path}: not an imdb.npz as Keras ships it ({type(problem).__name__}: {problem}). "
            "Copy it again."
        ) from None


def words(path: str) -> list[str]:
    """Returns the words of an imdb_word_index.json by rank: the first has rank 1.

    Raises:
      DataError: the file is damaged, or the ranks are not 1, 2, 3, ...
    """
    try:
        with open(path, encoding="utf-8") as file:
            by_rank = sorted(json.load(file).items(), key=lambda entry: entry[1])
        ranks = [rank for _, rank in by_rank]
    except (OSError, ValueError, TypeError, AttributeError) as problem:
        raise DataError(
            f"{path}: not valid JSON of words and ranks ({problem}). Copy it again, or remove it."
        ) from None
    if ranks != list(range(1, len(ranks) + 1)):
        raise DataError(
            f"{path}: the ranks are not 1, 2, 3, ... without gaps. Copy it again, or remove it."
        )
    return [word for word, _ in by_rank]
