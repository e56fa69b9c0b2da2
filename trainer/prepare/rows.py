"""Rows as a source gives them: in batches, each row with the place to name in an error."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from trainer.exit_codes import DataError

BATCH_BYTES = 1 << 20
BATCH_ROWS = 8192
_REPLACEMENT = "\ufffd".encode()

# Where a row begins: (file, line), or (file, record) for TFRecord.
Place = tuple[str, int]


class TargetText(NamedTuple):
    """A text that is to be learned about a row, and where it begins."""

    place: Place
    text: bytes


# What is to be learned about a row: a label, the tag of each token, values, a text, or nothing.
Label = str | int | Sequence[str | int | float] | TargetText | None
# One row as a format reads it: place, text, label, value of the split column (None without one).
Row = tuple[Place, bytes, Label, str | None]


@dataclasses.dataclass
class Rows:
    """A batch of rows.

    Attributes:
      split: "train", "validation" or "test"; None if the column `splits` names it for each row.
      places: where each row begins.
      texts: bytes, as read; int32 ids (rank + 3, as Keras numbers words) if the source has no text.
      labels: str, or int if the format has numbers; a list of them for each row of a tagged
        sentence or of values; None if there is nothing to be learned but the text.
      splits: the value of the split column for each row, or None.
      continues: whether each row continues the text of the row before it. None if no row does;
        otherwise the rows are whole lines of a file.
      targets: the rows of the target texts, if those are to be learned; then `labels` has none.
    """

    split: str | None
    places: Sequence[Place]
    texts: Sequence[bytes] | Sequence[np.ndarray]
    labels: Sequence[Label]
    splits: Sequence[str] | None = None
    continues: Sequence[bool] | None = None
    targets: "Rows | None" = None

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def label_places(self) -> Sequence[Place]:
        """Where the label of each row lies: with its text."""
        return self.places


@dataclasses.dataclass(frozen=True)
class Source:
    """Where the rows of a dataset come from, and what is known before they are read.

    Attributes:
      paths: {split: the files that its rows come from}.
      read: returns the rows. It takes a function and calls it with the number of bytes of each
        piece that it reads.
      entries: what the ids from 4 on stand for if the rows are ids; None if the rows are texts.
      has_words: whether `entries` are words.
    """

    paths: dict[str, list[str]]
    read: Callable[[Callable[[int], None]], Iterator[Rows]]
    entries: Sequence[str] | None = None
    has_words: bool = False

    @property
    def size(self) -> int:
        """Bytes of all files; a file that several splits share counts once."""
        files = {path for paths in self.paths.values() for path in paths}
        return sum(map(os.path.getsize, files))


def batches(rows: Iterable[Row], split: str | None) -> Iterator[Rows]:
    """Returns `rows` in batches of about BATCH_BYTES of text and at most BATCH_ROWS rows."""
    pending, size = [], 0
    for row in rows:
        pending.append(row)
        size += len(row[1])
        if isinstance(row[2], TargetText):
            size += len(row[2].text)
        if size >= BATCH_BYTES or len(pending) == BATCH_ROWS:
            yield _joined(pending, split)
            pending, size = [], 0
    if pending:
        yield _joined(pending, split)


def _joined(rows: Sequence[Row], split: str | None) -> Rows:
    places, texts, labels, splits = zip(*rows)
    joined = Rows(split, places, texts, labels, splits if split is None else None)
    if isinstance(labels[0], TargetText):
        nothing = [None] * len(labels)
        target_places, target_texts = zip(*labels)
        targets = Rows(split, target_places, target_texts, nothing, joined.splits)
        joined = dataclasses.replace(joined, labels=nothing, targets=targets)
    return joined


def at(place: Place) -> str:
    """Returns a place as error messages name it, for example 'reviews.csv:17'."""
    return f"{place[0]}:{place[1]}"


def clean(rows: Rows, encoding_errors: str) -> int:
    """Makes the texts of `rows` valid UTF-8 without NUL; returns how many sequences it replaced.

    Args:
      encoding_errors: "strict" or "replace" (each ill-formed sequence becomes U+FFFD).

    Raises:
      DataError: a text holds a NUL, or bad UTF-8 under "strict".
    """
    joined = b"\n".join(rows.texts)
    if b"\0" in joined:
        row = next(i for i, text in enumerate(rows.texts) if b"\0" in text)
        place = _place(rows, row, rows.texts[row].index(0))
        raise DataError(
            f"{at(place)}: the text holds a NUL byte, which UTF-8 text files never have. The file "
            "is damaged or binary: copy it again, remove the row, or take the NULs out "
            "(tr -d '\\000' < FILE > NEW)."
        )
    try:
        joined.decode("utf-8")
    except UnicodeDecodeError:
        rows.texts, replaced = _mended(rows, encoding_errors)
        return replaced
    return 0


def _mended(rows: Rows, encoding_errors: str) -> tuple[list[bytes], int]:
    texts, replaced = [], 0
    for row, text in enumerate(rows.texts):
        try:
            text.decode("utf-8")
        except UnicodeDecodeError as problem:
            if encoding_errors == "strict":
                place, offset = _place(rows, row, problem.start), problem.start
                if rows.continues is not None:
                    offset -= text.rfind(b"\n", 0, offset) + 1
                raise DataError(
                    f"{at(place)}: the text is not valid UTF-8 (byte 0x{text[problem.start]:02x} "
                    f"at offset {offset}). Convert the file from the encoding that it has, for "
                    "example iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW, or use "
                    "--encoding_errors=replace."
                ) from None
            mended = text.decode("utf-8", "replace").encode()
            replaced += mended.count(_REPLACEMENT) - text.count(_REPLACEMENT)
            text = mended
        texts.append(text)
    return texts, replaced


def _place(rows: Rows, row: int, offset: int) -> Place:
    """Returns the place of a byte of a row: that of the row, or its line in whole lines."""
    path, line = rows.places[row]
    lines = 0 if rows.continues is None else rows.texts[row].count(b"\n", 0, offset)
    return path, line + lines
