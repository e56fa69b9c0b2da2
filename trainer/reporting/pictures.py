"""Draws a confusion matrix: a row per true label, a column per prediction."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MOST_CLASSES = 60
LABEL_LENGTH = 16  # characters
MARGIN = 8  # pixels
_PAPER, _INK = (255, 255, 255), (32, 32, 32)
# A full cell on and off the diagonal.
_RIGHT, _WRONG = np.array([35, 120, 70]), np.array([190, 60, 40])


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
    size = int(min(64, max(14, 800 / len(shown))))
    font = ImageFont.load_default(min(16, max(8, size * 0.45)))
    edge = int(max(font.getlength(text) for text in (*names, heading))) + 2 * MARGIN
    picture = Image.new(
        "RGB", (edge + size * len(names) + MARGIN, edge + size * len(names) + MARGIN), _PAPER
    )
    draw = ImageDraw.Draw(picture)
    draw.text((edge - MARGIN, edge - MARGIN), heading, _INK, font, anchor="rs")
    for row, name in enumerate(names):
        draw.text((edge - MARGIN, edge + (row + 0.5) * size), name, _INK, font, anchor="rm")
        _draw_upright(picture, (edge + (row + 0.5) * size, edge - MARGIN), name, font)
        for column in range(len(names)):
            cell = shown[row], shown[column]
            corner = edge + column * size, edge + row * size
            _draw_cell(draw, corner, size, counts[cell], shares[cell], row == column, font)
    return np.asarray(picture)


def _shorten(label: str) -> str:
    return label if len(label) <= LABEL_LENGTH else label[: LABEL_LENGTH - 1] + "…"


def _draw_cell(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    size: int,
    count: int,
    share: float,
    right: bool,
    font: ImageFont.ImageFont,
) -> None:
    full = _RIGHT if right else _WRONG
    colour = np.round(np.array(_PAPER) + share * (full - np.array(_PAPER))).astype(int)
    left, top = corner
    draw.rectangle(
        (left, top, left + size - 1, top + size - 1),
        tuple(colour.tolist()),
        outline=(225, 225, 225),
    )
    texts = (f"{count}", f"{count / 1000:.0f}k") if count >= 1000 else (f"{count}",)
    text = next((text for text in texts if font.getlength(text) < size - 2), "")
    if count:
        draw.text(
            (left + size / 2, top + size / 2),
            text,
            _PAPER if share > 0.5 else _INK,
            font,
            anchor="mm",
        )


def _draw_upright(
    picture: Image.Image, foot: tuple[float, float], text: str, font: ImageFont.ImageFont
) -> None:
    """Draws text from bottom to top, beginning at `foot` and centred on it."""
    width, height = int(font.getlength(text)) + 1, int(font.size * 1.3)
    strip = Image.new("RGB", (width, height), _PAPER)
    ImageDraw.Draw(strip).text((0, height / 2), text, _INK, font, anchor="lm")
    picture.paste(strip.rotate(90, expand=True), (int(foot[0] - height / 2), int(foot[1] - width)))
