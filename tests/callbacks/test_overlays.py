import numpy as np

from lightning_samseg.callbacks.overlays import (
    CAPTION_HEIGHT,
    CLASS_COLOURS,
    IGNORED_COLOUR,
    draw_overlay,
    foreground_dsc,
    picture_name,
)
from lightning_samseg.types import IGNORED, Case

CASE = Case("patient/7 (2)", "x.png", (40, 60), (32, 32))


def square(top: int, left: int, value: int = 1) -> np.ndarray:
    labels = np.zeros((40, 60), np.uint8)
    labels[top : top + 10, left : left + 10] = value
    return labels


def test_three_panels_with_contours_in_class_colours() -> None:
    image = np.full((40, 60, 3), 90, np.uint8)
    picture = draw_overlay(image, square(5, 5), square(20, 30, 2), CASE)
    assert picture.shape == (40 + CAPTION_HEIGHT, 180, 3)
    plain, reference, prediction = np.split(picture[CAPTION_HEIGHT:], 3, axis=1)
    assert (plain == 90).all()
    assert (reference[5, 10] == CLASS_COLOURS[0]).all()
    assert (prediction[20, 35] == CLASS_COLOURS[1]).all()
    assert (prediction[5, 10] == 255).all()
    assert (reference[20, 35] == 90).all()


def test_caption_score() -> None:
    assert foreground_dsc(square(5, 5), square(5, 10)) == "50.0 %"
    empty = np.zeros((4, 4), np.uint8)
    assert "both empty" in foreground_dsc(empty, empty)


def test_names_that_a_file_system_takes() -> None:
    assert picture_name(CASE) == "patient_7 (2)"
    assert picture_name(CASE._replace(slice_index=3, num_slices=9)) == "patient_7 (2)_003"


def test_what_is_ignored_is_grey_and_not_scored() -> None:
    image = np.full((40, 60, 3), 90, np.uint8)
    reference = square(5, 5) + square(20, 30, IGNORED)
    _, expected, predicted = np.split(draw_overlay(image, reference, square(5, 5), CASE)[CAPTION_HEIGHT:], 3, axis=1)
    assert (expected[20, 35] == IGNORED_COLOUR).all()
    assert (predicted[20, 35] == 90).all()
    assert foreground_dsc(reference, square(5, 5) + square(20, 30)) == "100.0 %"
    assert "both empty" in foreground_dsc(square(20, 30, IGNORED), square(20, 30))
