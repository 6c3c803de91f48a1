import cv2
import numpy as np
import pytest

from lightning_samseg.errors import UserError
from lightning_samseg.prompts.objects import find_objects


def test_components_smallest_first():
    mask = np.zeros((60, 80), np.uint8)
    mask[5:25, 5:45] = 2  # 800 px
    mask[30:50, 50:70] = 1  # 400 px
    mask[55, 3] = 7
    objects = find_objects(mask)
    assert [item.area for item in objects] == [1, 400, 800]
    assert [item.box for item in objects] == [(3, 55, 4, 56), (50, 30, 70, 50), (5, 5, 45, 25)]
    assert objects[0].point() == objects[0].point("deepest") == (3, 55)
    assert objects[1].point() == (59.5, 39.5)


def test_equal_areas_come_row_by_row():
    mask = np.zeros((30, 30), np.uint8)
    for y, x in [(20, 2), (3, 20), (3, 4)]:
        mask[y : y + 2, x : x + 2] = 1
    assert [(item.box.y0, item.box.x0) for item in find_objects(mask)] == [(3, 4), (3, 20), (20, 2)]


def test_corners_join_and_an_object_larger_than_the_background_is_one():
    mask = np.zeros((20, 20), bool)
    mask[:10, :10] = mask[10:, 10:] = True
    assert len(find_objects(mask)) == 1
    mask[:] = True
    mask[0, 0] = False
    assert [item.area for item in find_objects(mask)] == [399]


def test_sixteen_pixel_rule_holds_for_both_sides():
    mask = np.zeros((100, 100), np.uint8)
    mask[0:16, 0:16] = 1
    mask[30:45, 0:60] = 1
    mask[60:90, 80:95] = 1
    assert [item.box for item in find_objects(mask, min_side=16)] == [(0, 0, 16, 16)]
    assert len(find_objects(mask)) == 3


def test_same_boxes_areas_and_centroids_as_opencv():
    rng = np.random.default_rng(3)
    mask = (cv2.GaussianBlur(rng.random((120, 150)), (0, 0), 4) > 0.51).astype(np.uint8)
    count, _, stats, centroids = cv2.connectedComponentsWithStats(mask, connectivity=8)
    objects = find_objects(mask)
    assert len(objects) == count - 1 > 3
    expected = sorted(
        (int(a), int(y), int(x), int(x + w), int(y + h), *c)
        for (x, y, w, h, a), c in zip(stats[1:], centroids[1:], strict=True)
    )
    for item, (area, y0, x0, x1, y1, cx, cy) in zip(objects, expected, strict=True):
        assert (item.area, item.box) == (area, (x0, y0, x1, y1))
        assert item.point() == pytest.approx((cx, cy))


def test_instances_touching_apart_and_with_large_numbers():
    ids = np.zeros((40, 40), np.int32)
    ids[5:10, 5:15] = 3_000_000  # touches the next one
    ids[10:20, 5:15] = 12
    ids[30, 30] = ids[35, 38] = 4  # in two parts
    objects = find_objects(ids, instances=True)
    assert [item.area for item in objects] == [2, 50, 100]
    assert objects[0].box == (30, 30, 39, 36)
    assert len(find_objects(ids)) == 3  # two touching instances are one component, the parts are two
    assert [item.area for item in find_objects(np.full((4, 5), 9), instances=True)] == [20]  # no background at all


def test_deepest_point_is_on_the_object_where_the_centroid_is_not():
    mask = np.zeros((60, 60), np.uint8)
    cv2.ellipse(mask, (30, 30), (25, 25), 0, 0, 270, 1, thickness=7)
    (ring,) = find_objects(mask)
    x, y = ring.point("centroid")
    assert mask[round(y), round(x)] == 0
    x, y = ring.point("deepest")
    assert mask[int(y), int(x)] == 1
    mask[:] = 0
    mask[10:21, 20:41] = 1
    (bar,) = find_objects(mask)
    assert bar.point("deepest") == (25, 15)  # first of the pixels on the middle line that are 6 px deep


def test_no_object_no_prompt():
    assert find_objects(np.zeros((10, 10), np.uint8)) == []
    assert find_objects(np.zeros((10, 10), np.uint8), instances=True) == []


@pytest.mark.parametrize("mask", [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.float32)])
def test_not_a_mask(mask):
    with pytest.raises(UserError, match=r"a\.png: not a mask"):
        find_objects(mask, name="a.png")
