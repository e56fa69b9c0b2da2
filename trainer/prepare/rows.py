"""Rows as they come from a source, a batch at a time, each with the place to name when something is
wrong with it.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from trainer.exit_codes import DataError

BATCH_BYTES = 1 << 20
BATCH_ROWS = 8192
_REPLACEMENT = "\ufffd".encode()


@dataclasses.dataclass
class Rows:
    """A batch of rows of one given split.

    Attributes:
      split: "train", "validation" or "test"; None where the column `splits` says it. places: where
        each row begins: (file, line), or (file, record) for TFRecord. texts: bytes, as read; int32
        ids (rank + 3 as Keras numbers words) from a source that has no text. labels: str, or int
        where the format has numbers. splits: the value of the split column for each row, or None.
    """

    split: str | None
    places: Sequence[tuple[str, int]]
    texts: Sequence[bytes] | Sequence[np.ndarray]
    labels: Sequence[str | int]
    splits: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.texts)


# One row as a format reads it: place, text, label, value of the split column (None without one).
Row = tuple[tuple[str, int], bytes, str | int, str | None]


def batches(rows: Iterable[Row], split: str | None) -> Iterator[Rows]:
    """Joins rows into batches of about BATCH_BYTES of text, at most BATCH_ROWS rows."""
    pending, size = [], 0
    for row in rows:
        pending.append(row)
        size += len(row[1])
        if size >= BATCH_BYTES or len(pending) == BATCH_ROWS:
            yield _joined(pending, split)
            pending, size = [], 0
    if pending:
        yield _joined(pending, split)


def _joined(rows: Sequence[Row], split: str | None) -> Rows:
    places, texts, labels, splits = zip(*rows)
    return Rows(split, places, texts, labels, splits if split is None else None)


def at(place: tuple[str, int]) -> str:
    """'reviews.csv:17'"""
    return f"{place[0]}:{place[1]}"


def clean(rows: Rows, encoding_errors: str) -> int:
    """Makes the texts of `rows` valid UTF-8 without NUL.

    Args:
      encoding_errors: "strict" or "replace" (each ill-formed sequence becomes U+FFFD).

    Returns:
      How many sequences were replaced.

    Raises:
      DataError: a NUL; bad UTF-8 under "strict".
    """
    joined = b"\n".join(rows.texts)
    if b"\0" in joined:
        row = next(i for i, text in enumerate(rows.texts) if b"\0" in text)
        raise DataError(
            f"{at(rows.places[row])}: the text holds a NUL byte, which no UTF-8 text file has. "
            "The file is damaged, binary or UTF-16; convert it (iconv -t UTF-8) or remove the row."
        )
    try:
        joined.decode("utf-8")
    except UnicodeDecodeError:
        rows.texts, replaced = _mended(rows, encoding_errors)
        return replaced
    return 0


def _mended(rows: Rows, encoding_errors: str) -> tuple[list[bytes], int]:
    texts, replaced = [], 0
    for text, place in zip(rows.texts, rows.places):
        try:
            text.decode("utf-8")
        except UnicodeDecodeError as problem:
            if encoding_errors == "strict":
                raise DataError(
                    f"{at(place)}: byte 0x{text[problem.start]:02x}, number {problem.start} of the "
                    "text, "
                    "is not UTF-8. Convert the file (iconv -t UTF-8), or say "
                    "--encoding_errors=replace."
                ) from None
            mended = text.decode("utf-8", "replace").encode()
            replaced += mended.count(_REPLACEMENT) - text.count(_REPLACEMENT)
            text = mended
        texts.append(text)
    return texts, replaced
