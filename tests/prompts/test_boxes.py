import cv2
import numpy as np
import pytest

from lightning_samseg.errors import UserError
from lightning_samseg.prompts.boxes import Box, crop_of_box, crop_of_point


def test_box_is_half_open():
    image = np.zeros((20, 30))
    box = Box(3, 5, 10, 9)
    image[box.slices] = 1
    assert (box.width, box.height, image.sum()) == (7, 4, 28)
    assert image[5, 3] == image[8, 9] == 1
    assert image[9, 9] == image[8, 10] == 0


@pytest.mark.parametrize(
    ("box", "crop"),
    [
        ((3, 5, 10, 9), (3, 5, 10, 9)),
        ((3.2, 5.9, 9.1, 8.5), (3, 5, 10, 9)),  # grown to whole pixels
        ((-4, -1, 31, 21), (0, 0, 30, 20)),  # clipped
        ((29, 19, 30, 20), (29, 19, 30, 20)),  # one pixel stays one pixel
    ],
)
def test_crop_of_box(box, crop):
    assert crop_of_box(box, (20, 30)) == crop


@pytest.mark.parametrize(
    ("box", "says"),
    [
        ((30, 0, 40, 10), "outside the image"),
        ((0, -9, 10, 0), "outside the image"),
        ((10, 0, 3, 10), "not a box"),
        ((3, 3, 3, 9), "not a box"),
        ((0, 0, float("nan"), 4), "not a box"),
        ((0, 0, 4), "not a box"),
    ],
)
def test_impossible_boxes_are_named(box, says):
    with pytest.raises(UserError, match=says) as error:
        crop_of_box(box, (20, 30), "boxes.csv, row 7")
    assert "boxes.csv, row 7" in str(error.value)


def test_bounding_box_of_the_hull_without_the_hull():
    rng = np.random.default_rng(0)
    for _ in range(20):
        logits = np.full((60, 80), -1.0)
        logits[rng.integers(0, 60, 7), rng.integers(0, 80, 7)] = 1
        points = np.argwhere(logits > 0)[:, ::-1].astype(np.int32)
        x, y, w, h = cv2.boundingRect(cv2.convexHull(points))
        crop = crop_of_point(logits, largest_component=False, margin=0, min_side=1)
        assert crop == (x, y, x + w, y + h)


def sam_mask(*regions):
    logits = np.full((100, 120), -3.0, np.float32)
    for y0, y1, x0, x1 in regions:
        logits[y0:y1, x0:x1] = 2
    return logits


def test_margin_as_the_authors_round_it():
    logits = sam_mask((20, 53, 40, 77))  # 37 wide, 33 high: 3.7 and 3.3 px
    assert crop_of_point(logits) == (int(40 - 3.7), int(20 - 3.3), int(77 + 3.7), int(53 + 3.3)) == (36, 16, 80, 56)
    assert crop_of_point(logits, margin=0) == (40, 20, 77, 53)


def test_margin_is_clipped_to_the_image():
    assert crop_of_point(sam_mask((0, 95, 5, 118))) == (0, 0, 120, 100)


def test_only_the_largest_component_counts_if_asked():
    logits = sam_mask((20, 50, 40, 80), (90, 92, 2, 4))
    assert crop_of_point(logits, margin=0) == (40, 20, 80, 50)
    assert crop_of_point(logits, margin=0, largest_component=False) == (2, 20, 80, 92)
    diagonal = sam_mask((20, 40, 40, 60), (40, 60, 60, 80))  # joined by a corner: one component of eight neighbours
    assert crop_of_point(diagonal, margin=0) == (40, 20, 80, 60)


@pytest.mark.parametrize("largest", [True, False])
def test_empty_and_small_masks_give_the_whole_image(largest):
    assert crop_of_point(sam_mask(), largest_component=largest) == (0, 0, 120, 100)
    assert crop_of_point(sam_mask(), largest_component=largest, min_side=0) == (0, 0, 120, 100)
    assert crop_of_point(sam_mask((50, 65, 10, 90)), largest_component=largest) == (0, 0, 120, 100)  # 15 px high
    assert crop_of_point(sam_mask((50, 66, 10, 90)), largest_component=largest, margin=0) == (10, 50, 90, 66)
    one_pixel = sam_mask((50, 51, 10, 11))
    assert crop_of_point(one_pixel, largest_component=largest, min_side=1, margin=0) == (10, 50, 11, 51)
