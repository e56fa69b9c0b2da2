"""Draws tables of cells: a confusion matrix, and the attention of a translation."""

import unicodedata
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MOST_CLASSES = 60
LABEL_LENGTH = 16  # characters
MARGIN = 8  # pixels
_PAPER, _INK = (255, 255, 255), (32, 32, 32)
# A full cell on and off the diagonal.
_RIGHT, _WRONG = np.array([35, 120, 70]), np.array([190, 60, 40])
_SHARE = np.array([20, 60, 130])


def confusion_matrix(counts: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """Returns the picture, uint8 [height, width, 3].

    `counts`: integers [classes, classes], `counts[true, predicted]`; `labels`: a text per class. A
    cell is as dark as its share of its row, so that rare classes show as clearly as frequent ones:
    green on the diagonal, red off it. If there are more than 60 classes, the 60 with the most
    examples are drawn, and the picture says so.
    """
    counts = np.asarray(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shown = np.sort(np.argsort(-counts.sum(axis=1), kind="stable")[:MOST_CLASSES])
    names = [_shorten(labels[index]) for index in shown]
    heading = "true \\ predicted" + (
        f" ({len(shown)} of {len(labels)} classes)" if len(shown) < len(labels) else ""
    )
    table = _Table(names, names, heading, int(min(64, max(14, 800 / len(shown)))))
    for row in range(len(names)):
        for column in range(len(names)):
            count, share = counts[shown[row], shown[column]], shares[shown[row], shown[column]]
            texts = (f"{count}", f"{count / 1000:.0f}k") if count >= 1000 else (f"{count}",)
            table.fill(row, column, share, _RIGHT if row == column else _WRONG, texts * bool(count))
    return np.asarray(table.picture)


def attention(shares: np.ndarray, targets: Sequence[str], sources: Sequence[str]) -> np.ndarray:
    """Returns the picture, uint8 [height, width, 3]: a row per target word, a column per source's.

    shares: [targets, sources] in [0, 1]; a cell is as dark as its share.
    """
    names = [list(map(_shorten, words)) for words in (targets, sources)]
    table = _Table(*names, "", 24)
    for row, column in np.ndindex(len(targets), len(sources)):
        table.fill(row, column, shares[row, column], _SHARE)
    return np.asarray(table.picture)


class _Table:
    """A picture of cells with a name before each row and above each column."""

    def __init__(self, rows: Sequence[str], columns: Sequence[str], heading: str, size: int):
        """size: pixels of a cell."""
        self._size = size
        self._font = font = ImageFont.load_default(min(16, max(8, size * 0.45)))
        names = [*rows, *columns, heading]
        self._edge = edge = int(max(font.getlength(text) for text in names)) + 2 * MARGIN
        self.picture = Image.new(
            "RGB", (edge + size * len(columns) + MARGIN, edge + size * len(rows) + MARGIN), _PAPER
        )
        self._draw = ImageDraw.Draw(self.picture)
        self._draw.text((edge - MARGIN, edge - MARGIN), heading, _INK, font, anchor="rs")
        for row, name in enumerate(rows):
            middle = edge + (row + 0.5) * size
            self._draw.text((edge - MARGIN, middle), name, _INK, font, anchor="rm")
        for column, name in enumerate(columns):
            _draw_upright(self.picture, (edge + (column + 0.5) * size, edge - MARGIN), name, font)

    def fill(
        self, row: int, column: int, share: float, full: np.ndarray, texts: Sequence[str] = ()
    ) -> None:
        """Fills a cell with a share of the colour `full`, and writes the first text that fits."""
        colour = np.round(np.array(_PAPER) + share * (full - np.array(_PAPER))).astype(int)
        left, top = self._edge + column * self._size, self._edge + row * self._size
        self._draw.rectangle(
            (left, top, left + self._size - 1, top + self._size - 1),
            tuple(colour.tolist()),
            outline=(225, 225, 225),
        )
        text = next((text for text in texts if self._font.getlength(text) < self._size - 2), "")
        middle = (left + self._size / 2, top + self._size / 2)
        self._draw.text(middle, text, _PAPER if share > 0.5 else _INK, self._font, anchor="mm")


def _shorten(label: str) -> str:
    """Returns a label of readable length, without accents: the font of Pillow has none."""
    decomposed = unicodedata.normalize("NFKD", label)
    label = "".join(mark for mark in decomposed if not unicodedata.combining(mark))
    return label if len(label) <= LABEL_LENGTH else label[: LABEL_LENGTH - 1] + "…"


def _draw_upright(
    picture: Image.Image, foot: tuple[float, float], text: str, font: ImageFont.ImageFont
) -> None:
    """Draws text from bottom to top, beginning at `foot` and centred on it."""
    width, height = int(font.getlength(text)) + 1, int(font.size * 1.3)
    strip = Image.new("RGB", (width, height), _PAPER)
    ImageDraw.Draw(strip).text((0, height / 2), text, _INK, font, anchor="lm")
    picture.paste(strip.rotate(90, expand=True), (int(foot[0] - height / 2), int(foot[1] - width)))
