import cv2
import numpy as np
import pytest
from scipy import ndimage

from lightning_samseg.prompts.components import Component, deepest_pixels, inner_pixels, largest_component


def paint(component: Component, shape: tuple[int, int]) -> np.ndarray:
    canvas = np.zeros(shape, bool)
    canvas[tuple(component.points(inner_pixels(component)).T[::-1])] = True
    return canvas


def picture(text: str) -> np.ndarray:
    return np.array([[character == "#" for character in row] for row in text.split()])


def test_empty_region_has_no_component() -> None:
    assert largest_component(np.zeros((5, 6), np.uint8)) is None


def test_largest_of_two_with_its_place() -> None:
    region = picture("#....  #..##  ...##  .....")
    component = largest_component(region)
    assert component is not None
    assert (component.x, component.y) == (3, 1)
    assert component.mask.tolist() == [[1, 1], [1, 1]]
    assert component.points(inner_pixels(component)).tolist() == [[3, 1], [4, 1], [3, 2], [4, 2]]


def test_diagonal_neighbours_are_connected() -> None:
    component = largest_component(picture("#..#  .#..  ...."))
    assert component is not None
    assert component.points(inner_pixels(component)).tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize(
    ("text", "first_pixel"),
    [
        ("##...  .....  ...##", (3, 2)),  # lower one
        ("##.##  .....", (3, 0)),  # same row: right one
        # The left one reaches further down, but its first pixel comes first; both have 3 pixels.
        ("#..#  #..#  #..#", (3, 0)),
        # Starts one row higher at the right: the left one's first pixel comes last, whatever the rows below.
        (".....#  #....#  #....#  #.....", (0, 1)),
        # A component may begin at the right and reach to the left of the other.
        ("..#....  .#.....  #..###.", (3, 2)),
    ],
)
def test_of_equal_components_the_one_that_begins_last(text: str, first_pixel: tuple[int, int]) -> None:
    component = largest_component(picture(text))
    assert component is not None
    assert tuple(component.points(inner_pixels(component))[0]) == first_pixel


def test_equals_whole_image_procedure_on_random_regions() -> None:
    """scipy numbers components in raster order, so its last of the largest is the rule; ties occur in many of these."""
    rng = np.random.default_rng(0)
    ties = 0
    for _ in range(300):
        region = rng.random(rng.integers(1, 30, 2)) < rng.choice([0.05, 0.2, 0.4, 0.7])
        component = largest_component(region)
        if component is None:
            assert not region.any()
            continue
        ids = ndimage.label(region, np.ones((3, 3)))[0]
        areas = np.bincount(ids.ravel())[1:]
        best = ids == np.flatnonzero(areas == areas.max())[-1] + 1
        ties += int((areas == areas.max()).sum() > 1)
        assert np.array_equal(paint(component, region.shape), best)
        depth = cv2.distanceTransform(np.pad(best.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
        pixels, radius = deepest_pixels(component)
        assert component.points(pixels).tolist() == np.argwhere(depth == depth.max())[:, ::-1].tolist()
        assert radius == depth.max()
    assert ties > 20


def test_image_border_counts_as_outside() -> None:
    component = largest_component(np.ones((5, 9), np.uint8))
    assert component is not None
    pixels, depth = deepest_pixels(component)
    assert component.points(pixels).tolist() == [[x, 2] for x in range(2, 7)]
    assert depth == 3


def test_deepest_pixel_of_a_ring_is_inside_the_ring() -> None:
    ring = np.zeros((21, 21), np.uint8)
    cv2.circle(ring, (10, 10), 9, 1, -1)
    cv2.circle(ring, (10, 10), 4, 0, -1)
    component = largest_component(ring)
    assert component is not None
    x, y = component.points(deepest_pixels(component)[0]).T
    assert ring[y, x].all()
