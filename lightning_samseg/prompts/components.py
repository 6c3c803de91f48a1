"""Largest connected component of a region, and the pixels deepest inside it."""

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray


class Component(NamedTuple):
    """One connected component, cropped to its bounding box. Its pixels are named by their flat index in the crop."""

    mask: NDArray[np.uint8]
    """``(h, w)``, 1 inside the component and 0 elsewhere; every border row and column holds a 1."""
    x: int
    """Column of the crop's first pixel in the image."""
    y: int
    """Row of the crop's first pixel in the image."""

    def points(self, pixels: Any) -> NDArray[np.int64]:
        """Place pixels of the crop in the image.

        Args:
            pixels: Flat index or indices into ``mask``, of any shape.

        Returns:
            int64, the shape of ``pixels`` and 2 more: (x, y).
        """
        rows, columns = np.divmod(pixels, self.mask.shape[1])
        return np.stack([columns + self.x, rows + self.y], axis=-1)


def largest_component(region: NDArray[np.uint8] | NDArray[np.bool_]) -> Component | None:
    """Find the 8-connected component with most pixels.

    Of equally large ones it is the one whose first pixel comes last in row-major order, which has the highest id of
    ``skimage.measure.label``, as in the authors' code. The cost hardly depends on the number of components.

    Args:
        region: ``(H, W)``, non-zero inside.

    Returns:
        The component, or None where the region is empty.
    """
    region = region.view(np.uint8)
    x, y, width, height = cv2.boundingRect(region)
    if width == 0:
        return None
    count, ids = cv2.connectedComponents(region[y : y + height, x : x + width], connectivity=8)
    mask = (ids == (1 if count == 2 else _largest_id(ids))).view(np.uint8)
    dx, dy, width, height = cv2.boundingRect(mask)
    return Component(mask[dy : dy + height, dx : dx + width], x + dx, y + dy)


def inner_pixels(component: Component) -> NDArray[np.int64]:
    """List all pixels of a component.

    Args:
        component: A component.

    Returns:
        ``(n,)`` flat indices into its mask, ascending.
    """
    return np.flatnonzero(component.mask)


def deepest_pixels(component: Component) -> tuple[NDArray[np.int64], float]:
    """Find the pixels farthest from everything outside the component; beyond the image's border is outside too.

    Distances are OpenCV's Euclidean approximation with a 5 x 5 mask, as in the authors' code and in the evaluation of
    SAM by Mazurowski et al., which they follow. One pixel of zeros around the crop is enough to get the distances of
    the whole image: no step of the mask leaps over it at a lower cost than landing on it.

    Args:
        component: A component; need not be connected, but not empty.

    Returns:
        ``(n,)`` flat indices, ascending, of the pixels that share the largest distance; and that distance in pixels.
    """
    padded = cv2.copyMakeBorder(component.mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    largest = depth.max()
    return np.flatnonzero(depth == largest), float(largest)


def _largest_id(ids: NDArray[np.int32]) -> int:
    areas = np.bincount(ids.ravel())
    areas[0] = 0
    largest = areas == areas.max()
    if largest.sum() == 1:
        return int(areas.argmax())
    pixels = np.flatnonzero(largest[ids])  # OpenCV's ids follow no documented order, so look for first pixels
    tied, first = np.unique(ids.ravel()[pixels], return_index=True)
    return int(tied[first.argmax()])
