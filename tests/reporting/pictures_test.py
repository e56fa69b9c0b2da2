"""Pictures: what each cell, point and plot shows, and that they stay small."""

import numpy as np
import pytest

from trainer.reporting import pictures
from trainer.reporting.pictures import attention, confusion_matrix


def cell_colours(counts, labels):
    """Returns the colour in a corner of each cell.

    The picture is square and ends 8 pixels behind the last cell.
    """
    picture = confusion_matrix(np.array(counts), labels)
    assert (
        picture.dtype == np.uint8 and picture.shape[2] == 3 and picture.shape[0] == picture.shape[1]
    )
    size = int(min(64, max(14, 800 / len(labels))))
    corners = picture.shape[0] - 8 - size * np.arange(len(labels), 0, -1) + 2
    return picture[np.ix_(corners, corners)].astype(int)


def test_a_right_cell_is_green_a_wrong_one_red_and_an_empty_one_white():
    colours = cell_colours([[9, 1], [0, 5]], ["negative", "positive"])
    assert colours[1, 0].tolist() == [255, 255, 255]
    assert colours[1, 1].tolist() == [35, 120, 70]
    red, green, blue = colours[0, 1]
    assert 255 > red > green and red > blue


def test_a_cell_is_as_dark_as_its_share_of_its_row():
    colours = cell_colours([[3, 0, 1], [0, 3000, 1000], [0, 0, 0]], ["rare", "frequent", "none"])
    np.testing.assert_array_equal(colours[0, 0], colours[1, 1])
    np.testing.assert_array_equal(colours[0, 2], colours[1, 2])
    assert (colours[2] == 255).all()


@pytest.mark.parametrize("classes", [1, 2, 18, 60, 61, 300])
def test_the_picture_stays_small_for_any_number_of_classes(classes):
    counts = np.random.default_rng(classes).integers(0, 100_000, (classes, classes))
    picture = confusion_matrix(counts, [f"a rather long label {index}" for index in range(classes)])
    assert max(picture.shape) < 1300


def test_only_the_most_frequent_of_many_classes_are_drawn():
    counts = np.diag(np.arange(100))
    few = confusion_matrix(counts, [f"{label}" for label in range(100)])
    most = confusion_matrix(counts[40:, 40:], [f"{label}" for label in range(40, 100)])
    cells = 14 * 60  # 60 classes are drawn, 14 pixels each, and end 8 pixels before the edge.
    np.testing.assert_array_equal(few[-cells - 8 :, -cells - 8 :], most[-cells - 8 :, -cells - 8 :])


def test_attention_is_as_dark_as_its_share_and_need_not_be_square():
    shares = np.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
    picture = attention(shares, ["a", "b"], ["x", "y", "z"])
    # The cells are 24 pixels wide and end 8 pixels before the edge.
    rows, columns = (
        picture.shape[axis] - 8 - 24 * np.arange(cells, 0, -1) + 2
        for axis, cells in ((0, 2), (1, 3))
    )
    colours = picture[np.ix_(rows, columns)].astype(int)
    assert colours[0].tolist() == [[20, 60, 130], [255, 255, 255], [255, 255, 255]]
    np.testing.assert_array_equal(colours[1, 1], colours[1, 2])
    assert colours[0, 0].sum() < colours[1, 1].sum() < 765


def test_accents_are_left_out_since_the_font_has_none():
    shares = np.eye(1)
    plain, accented = (attention(shares, [word], ["ou"]) for word in ("protegerai", "protégerai"))
    np.testing.assert_array_equal(plain, accented)


BLUE, RED = [20, 60, 130], [190, 60, 40]


def blue(picture):
    """Rows and columns of the pixels of points or of the first line."""
    return np.nonzero((picture == BLUE).all(axis=2))


def test_equal_values_lie_on_the_line_and_larger_ones_above_it():
    true = np.array([0.0, 10.0])
    rows, columns = blue(pictures.scatter(true, true, "mass"))
    # From below on the left to above on the right, in a square.
    assert rows[columns == columns.min()].mean() > rows[columns == columns.max()].mean()
    assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=1)
    above, _ = blue(pictures.scatter(true, true + 2, "mass"))
    assert above.mean() < rows.mean()


@pytest.mark.parametrize("true", [[3.0], [5.0, 5.0], [-1e9, 2e9], [1e-9, 2e-9]])
def test_any_values_are_points_inside_the_picture(true):
    picture = pictures.scatter(
        np.array(true), np.array(true) * 100 + 7, "a very long name of a value"
    )
    assert picture.dtype == np.uint8 and max(picture.shape) < 600 and len(blue(picture)[0])


@pytest.mark.parametrize(
    "shape", [(1, 1), (60, 2), (5000, 6), (28, 28), (100, 40), (784, 20), (9, 4, 5), (1, 8, 8, 3)]
)
def test_a_sequence_of_any_shape_is_a_small_plot(shape):
    sequences = [np.random.default_rng(0).normal(size=shape)] * 6
    picture = pictures.sequences(
        sequences, ["a caption that is much too long for a small plot"] * 6
    )
    assert picture.dtype == np.uint8 and picture.shape[2] == 3 and max(picture.shape) < 1000
    assert (picture != 255).any()
    assert pictures.sequences(sequences[:1], ["one"]).shape[1] < picture.shape[1] / 3


def test_a_feature_that_rises_is_a_line_that_rises():
    plot = np.asarray(pictures._plot(np.stack([np.arange(9.0), np.zeros(9)], axis=1)))
    rows, columns = blue(plot)
    assert rows[columns == columns.min()].min() > rows[columns == columns.max()].max()
    flat, _ = np.nonzero((plot == RED).all(axis=2))
    assert np.ptp(flat) == 0


def test_the_largest_number_is_dark_and_steps_go_to_the_right_or_down():
    values = np.zeros((20, 10))
    values[-1, 0] = 1  # At the last of many steps.
    rows, columns = np.nonzero((np.asarray(pictures._plot(values)) == 0).all(axis=2))
    assert rows.min() == 0 and columns.min() > 100
    values = np.zeros((10, 10))
    values[-1, 0] = 1  # The last row of a picture.
    rows, columns = np.nonzero((np.asarray(pictures._plot(values)) == 0).all(axis=2))
    assert columns.min() == 0 and rows.min() > 80
