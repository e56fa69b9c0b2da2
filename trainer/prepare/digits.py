"""The 1,797 handwritten digits that the package scikit-learn brings: 8 rows of 8 pixels each.

They are the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak,
1998, UCI Machine Learning Repository, https://doi.org/10.24432/C50P49). The file is read as it is,
so neither the package nor what it needs is imported.
"""

import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from trainer.exit_codes import DataError
from trainer.prepare import raw_files
from trainer.prepare.sequences import Sequences

FILE = ("sklearn", "datasets/data/digits.csv.gz", "pip install --no-deps scikit-learn")
SIDE = 8


def read(
    path: pathlib.Path, max_expansion: int, advance: Callable[[int], None]
) -> Iterator[Sequences]:
    """Returns all digits as one batch; the label is "0" to "9".

    Raises DataError if the file is not the one that is known.
    """
    with raw_files.Stream(str(path), max_expansion, advance) as stream:
        lines = stream.read(1 << 24).decode("ascii", "replace").splitlines()
    try:
        table = np.array([line.split(",") for line in lines], np.float32)
        images = table[:, :-1].reshape(len(table) * SIDE, SIDE)
    except ValueError:
        raise DataError(
            f"{path}: its rows must have {SIDE * SIDE} pixels and a label, as in scikit-learn 1.9. "
            "Install the package again."
        ) from None
    yield Sequences(
        "train",
        [(str(path), number) for number in range(1, len(table) + 1)],
        images,
        np.full(len(table), SIDE, np.int64),
        [str(int(label)) for label in table[:, -1]],
    )
