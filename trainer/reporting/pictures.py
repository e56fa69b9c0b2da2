"""Draws what an evaluation found: tables of cells, values as points, sequences as small plots."""

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
_EDGE = (200, 200, 200)
SCATTER = 400  # Pixels of a side of a picture of points.
# Pixels of a plot of a sequence, and how many lie side by side.
PLOT_WIDTH, PLOT_HEIGHT, PLOTS_IN_A_ROW = 220, 110, 4
MOST_LINES = 6  # Features of a frame that are drawn as lines; more are shades of grey.
MOST_PICTURES = 6  # Of a sequence of pictures, from all over it.
_LINES = ((20, 60, 130), (190, 60, 40), (35, 120, 70), (200, 140, 20), (120, 60, 150), (60, 60, 60))


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


def scatter(true: np.ndarray, predicted: np.ndarray, name: str) -> np.ndarray:
    """Returns the picture, uint8 [height, width, 3]: a point for each example.

    true, predicted: float [examples], in the units of `name`. On the line both are equal. Both axes
    have the range of the true values and a tenth more; points beyond it lie at the edge.
    """
    low, high = float(true.min()), float(true.max())
    room = (high - low) / 10 or 1.0
    font = ImageFont.load_default(12)
    marks = [(value, f"{value:.5g}") for value in (low, high)]
    low, high = low - room, high + room
    left = int(max(font.getlength(words) for _, words in marks)) + 5 * MARGIN
    top = 3 * MARGIN
    picture = Image.new("RGB", (left + SCATTER + 2 * MARGIN, top + SCATTER + 5 * MARGIN), _PAPER)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((left, top, left + SCATTER, top + SCATTER), outline=_EDGE)
    draw.line((left, top + SCATTER, left + SCATTER, top), fill=_EDGE)

    def place(values: np.ndarray) -> np.ndarray:
        return np.clip((np.asarray(values, np.float64) - low) / (high - low), 0, 1) * SCATTER

    for x, y in zip(left + place(true), top + SCATTER - place(predicted)):
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=_LINES[0])
    draw.text((left, top - 4), _shorten(name), _INK, font, anchor="ls")
    middle, foot = left + SCATTER / 2, top + SCATTER + 4
    draw.text((middle, foot + 16), "true", _INK, font, anchor="mt")
    _draw_upright(picture, (2 * MARGIN, top + SCATTER / 2 + 30), "predicted", font)
    for value, words in marks:
        at = float(place(np.array(value)))
        draw.text((left + at, foot), words, _INK, font, anchor="mt")
        draw.text((left - 4, top + SCATTER - at), words, _INK, font, anchor="rm")
    return np.asarray(picture)


def sequences(frames: Sequence[np.ndarray], captions: Sequence[str]) -> np.ndarray:
    """Returns the picture, uint8 [height, width, 3]: a small plot for each sequence.

    frames: float [steps, *shape of a frame] each. A few features are drawn as lines, many as shades
    of grey with the steps from left to right, or downwards if there are no more steps than
    features; of pictures some are drawn side by side. captions: a text below each.
    """
    font, line = ImageFont.load_default(11), 18
    rows = -(-len(frames) // PLOTS_IN_A_ROW)
    columns = min(len(frames), PLOTS_IN_A_ROW)
    size = PLOT_WIDTH + MARGIN, PLOT_HEIGHT + line + MARGIN
    picture = Image.new("RGB", (columns * size[0] + MARGIN, rows * size[1] + MARGIN), _PAPER)
    draw = ImageDraw.Draw(picture)
    for place, (values, caption) in enumerate(zip(frames, captions)):
        row, column = divmod(place, PLOTS_IN_A_ROW)
        left, top = MARGIN + column * size[0], MARGIN + row * size[1]
        picture.paste(_plot(np.asarray(values, np.float64)), (left, top))
        draw.text((left, top + PLOT_HEIGHT + 2), _fitting(caption, font), _INK, font, anchor="lt")
    return np.asarray(picture)


def _fitting(text: str, font: ImageFont.ImageFont) -> str:
    """Returns as much of a text as is as wide as a plot."""
    while font.getlength(text) > PLOT_WIDTH:
        text = text[:-2] + "…"
    return text


def _plot(values: np.ndarray) -> Image.Image:
    """Returns the plot of a sequence of frames."""
    if values.ndim == 2 and values.shape[1] <= MOST_LINES:
        return _line_plot(values)
    if values.ndim == 2:
        # Frames that are as long as their sequence are rows of a picture.
        return _shades(values if values.shape[1] >= len(values) else values.T)
    chosen = np.unique(np.linspace(0, len(values) - 1, MOST_PICTURES).astype(int))
    pictures = values[chosen].reshape(len(chosen), *values.shape[1:3], -1).mean(axis=-1)
    white = np.full((pictures.shape[1], 1), pictures.min())
    return _shades(np.hstack([part for each in pictures for part in (each, white)][:-1]))


def _line_plot(values: np.ndarray) -> Image.Image:
    """Returns a plot with a line for each feature, [steps, features]."""
    plot = Image.new("RGB", (PLOT_WIDTH, PLOT_HEIGHT), _PAPER)
    draw = ImageDraw.Draw(plot)
    draw.rectangle((0, 0, PLOT_WIDTH - 1, PLOT_HEIGHT - 1), outline=_EDGE)
    # Neighbours on one pixel need no line between them.
    steps = np.unique(np.linspace(0, len(values) - 1, min(len(values), 2 * PLOT_WIDTH)).astype(int))
    low, high = values.min(), values.max()
    heights = PLOT_HEIGHT - 4 - (values - low) / ((high - low) or 1.0) * (PLOT_HEIGHT - 7)
    across = 3 + steps / max(1, len(values) - 1) * (PLOT_WIDTH - 7)
    for feature, colour in zip(range(values.shape[1]), _LINES):
        points = list(zip(across.tolist(), heights[steps, feature].tolist()))
        draw.line(points * (2 if len(points) == 1 else 1), fill=colour)
    return plot


def _shades(table: np.ndarray) -> Image.Image:
    """Returns numbers [rows, columns] as shades, the largest dark, as large as fits a plot.

    What is very long and low is made higher, or it would be a line.
    """
    low, high = table.min(), table.max()
    shades = 255 - np.round((table - low) / ((high - low) or 1.0) * 255)
    image = Image.fromarray(shades.astype(np.uint8))
    factor = min(PLOT_WIDTH / image.width, PLOT_HEIGHT / image.height)
    size = [max(PLOT_HEIGHT // 4, int(side * factor)) for side in image.size]
    plot = Image.new("RGB", (PLOT_WIDTH, PLOT_HEIGHT), _PAPER)
    way = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.BOX
    plot.paste(image.resize(size, way), (0, 0))
    return plot


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
