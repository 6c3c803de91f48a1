import numpy as np
import pytest

from lightning_samseg.prompts.boxes import Box
from lightning_samseg.prompts.noise import distort_mask, shift_box


def test_boxes_shift_in_four_directions_and_keep_their_size():
    box = Box(100, 60, 141, 81)  # 41 x 21: 2.05 and 1.05 px
    found = {shift_box(box, 0.05, (200, 300), np.random.default_rng(seed)) for seed in range(40)}
    assert found == {
        Box(x, y, x + 41, y + 21) for x in (int(100 - 2.05), int(141 + 2.05) - 41) for y in (int(60 - 1.05), 61)
    }


def test_boxes_stop_at_the_border():
    for seed in range(20):
        shifted = shift_box(Box(0, 0, 40, 20), 0.5, (20, 40), np.random.default_rng(seed))
        assert shifted == (0, 0, 40, 20)


def disc(side):
    rows, columns = np.ogrid[:side, :side]
    return (rows - side / 2) ** 2 + (columns - side / 3) ** 2 < (side / 4) ** 2


def extreme(mask, side, of):
    """Minimum or maximum over a window as OpenCV anchors it; what lies outside does not count."""
    out = np.empty_like(mask)
    for r in range(mask.shape[0]):
        for c in range(mask.shape[1]):
            r0, c0 = r - side // 2, c - side // 2
            out[r, c] = of(mask[max(r0, 0) : r0 + side, max(c0, 0) : c0 + side])
    return out


@pytest.mark.parametrize("side", [40, 60])
@pytest.mark.parametrize("fraction", [0.05, 0.10])
def test_erosion_and_dilation_by_a_square(side, fraction):
    mask = disc(side)
    square = int(side * fraction)
    rng = np.random.default_rng(0)
    eroded = distort_mask(mask, "erosion", fraction, rng)
    dilated = distort_mask(mask, "dilation", fraction, rng)
    assert eroded.sum() < mask.sum() < dilated.sum()
    np.testing.assert_array_equal(eroded, extreme(mask, square, np.min))
    np.testing.assert_array_equal(dilated, extreme(mask, square, np.max))


def test_both_is_one_of_the_two_and_the_crops_border_does_not_erode():
    mask = disc(50)
    ways = [distort_mask(mask, way, 0.1, np.random.default_rng(0)).tobytes() for way in ("erosion", "dilation")]
    found = [distort_mask(mask, "both", 0.1, np.random.default_rng(seed)).tobytes() for seed in range(40)]
    assert set(found) == set(ways)
    assert 10 <= found.count(ways[0]) <= 30
    full = np.ones((50, 50), bool)
    assert distort_mask(full, "erosion", 0.1, np.random.default_rng(0)).all()


def test_none_and_squares_below_two_pixels_copy():
    for mask, kind in ((disc(40), "none"), (disc(39), "dilation"), (np.ones((1, 1), bool), "erosion")):
        copy = distort_mask(mask, kind, 0.05, np.random.default_rng(0))
        np.testing.assert_array_equal(copy, mask)
        assert not np.shares_memory(copy, mask)


def test_slices_of_a_larger_mask_are_taken():
    whole = np.zeros((100, 100), bool)
    whole[30:70, 30:70] = True
    part = whole[20:80, 20:60]
    np.testing.assert_array_equal(
        distort_mask(part, "erosion", 0.1, np.random.default_rng(0)), extreme(part, 4, np.min)
    )
