"""Rectangles of pixels, and the one that AuxOL crops for a prompt (Sec. 3.2 of the paper)."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lightning_samseg.errors import BadValueError, UserError
from lightning_samseg.prompts.components import largest_component as find_largest_component


class Box(NamedTuple):
    """Pixels in columns ``x0 .. x1 - 1`` and rows ``y0 .. y1 - 1``: half open, so that ``x1 - x0`` is the width."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def width(self) -> int:
        """Columns."""
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        """Rows."""
        return self.y1 - self.y0

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of the box's pixels in an array whose last two axes are row and column."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)


def crop_of_box(box: Sequence[float], image_size: tuple[int, int], name: str = "box prompt") -> Box:
    """Crop for a box prompt: the box itself, grown to whole pixels and clipped to the image.

    A box that reaches over the border is clipped; a box of one pixel is a crop of one pixel.

    Args:
        box: ``(x0, y0, x1, y1)`` in pixels of the image, half open.
        image_size: ``(H, W)``.
        name: What to call the box in messages, such as the file and row it came from.

    Returns:
        At least one pixel inside the image.

    Raises:
        UserError: The box holds a number that is not finite, is empty or upside down, or shares no pixel with the
            image.
    """
    height, width = image_size
    found = ", ".join(f"{value:g}" for value in box)
    if len(box) != 4 or not all(math.isfinite(value) for value in box) or box[2] <= box[0] or box[3] <= box[1]:
        raise UserError(
            f"{name}: not a box",
            expected="four finite numbers x0, y0, x1, y1 in pixels with x0 < x1 and y0 < y1",
            found=found,
            fix="correct the box; a box given as x, y, width, height has to be converted first",
        )
    clipped = Box(
        max(0, math.floor(box[0])),
        max(0, math.floor(box[1])),
        min(width, math.ceil(box[2])),
        min(height, math.ceil(box[3])),
    )
    if clipped.width <= 0 or clipped.height <= 0:
        raise UserError(
            f"{name}: the box lies outside the image",
            expected=f"a box that shares pixels with the image, x in 0..{width}, y in 0..{height}",
            found=found,
            fix="give the box in pixels of the original image, as x0, y0, x1, y1",
        )
    return clipped


def check_points(points: NDArray[Any], size: tuple[int, int], name: str) -> None:
    """Raise BadValueError unless points lie on the image: ``0 <= x < W`` and ``0 <= y < H``.

    Args:
        points: ``(m, 2)``, (x, y) in pixels of the image.
        size: ``(H, W)``.
        name: What to call them in the message.
    """
    height, width = size
    for x, y in points:
        if not (0 <= x < width and 0 <= y < height):
            raise BadValueError(
                f"{name}: the point lies outside the image.",
                expected=f"pixels of the image at its own size, 0 <= x < {width}, 0 <= y < {height}",
                found=f"{x:g}, {y:g}",
                fix="give (x, y) = (column, row); where a tool has shown the image smaller or larger, scale it",
            )


def crop_of_point(
    sam_logits: NDArray[np.floating[Any]],
    *,
    largest_component: bool = True,
    margin: float = 0.10,
    min_side: int = 16,
) -> Box:
    """Crop for a point prompt: bounding box of the convex hull of SAM's mask ``{logits > 0}``.

    The bounding box of a convex hull equals that of the set itself, so no hull is computed. The paper takes the whole
    mask without a margin (``largest_component=False, margin=0, min_side=1``). The authors' code widens the box by 10 %
    of its sides on each side, rounded down, and takes the whole image where the hull is less than 16 px wide or high;
    its search for the largest component has no effect, because it comes after the hull, which is one component
    (``largest_component=False, margin=0.10, min_side=16``). With the largest component alone, a speck far from the
    object does not blow the crop up.

    Args:
        sam_logits: ``(H, W)`` logits of SAM for one prompt at the image's size.
        largest_component: Consider only the largest 8-connected component of the mask.
        margin: Added on each side, as a fraction of the box's side, before clipping to the image.
        min_side: Where the mask's box is narrower or lower than this many pixels, the crop is the whole image.

    Returns:
        A box inside the image; the whole image also where SAM's mask is empty.
    """
    height, width = sam_logits.shape
    mask = np.ascontiguousarray(sam_logits > 0).view(np.uint8)
    if largest_component and (component := find_largest_component(mask)) is not None:
        x, y = component.x, component.y
        box_height, box_width = component.mask.shape
    else:
        x, y, box_width, box_height = cv2.boundingRect(mask)  # zeros for an empty mask
    if min(box_width, box_height) < max(1, min_side):
        return Box(0, 0, width, height)
    dx, dy = margin * box_width, margin * box_height
    return Box(
        max(0, math.floor(x - dx)),
        max(0, math.floor(y - dy)),
        min(width, math.floor(x + box_width + dx)),
        min(height, math.floor(y + box_height + dy)),
    )
