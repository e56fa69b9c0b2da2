"""The picture of a confusion matrix: what each cell shows, and that it stays small."""

import numpy as np
import pytest

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
