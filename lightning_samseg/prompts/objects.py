"""Objects of a reference mask, from which prompts are simulated: one prompt per object of interest."""

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lightning_samseg.errors import UserError
from lightning_samseg.prompts.boxes import Box
from lightning_samseg.prompts.components import Component, deepest_pixels

PointKind = Literal["centroid", "deepest"]


@dataclass(frozen=True)
class ReferenceObject:
    """One object of a reference mask."""

    box: Box
    """Tight bounding box."""
    mask: NDArray[np.bool_]
    """``(box.height, box.width)``, True on the object's pixels."""
    area: int
    """Pixels of the object."""

    def point(self, kind: PointKind = "centroid") -> tuple[float, float]:
        """Point prompt for the object.

        Args:
            kind: ``centroid``: mean of the object's pixels, as in the authors' code, which may lie outside an object
                that is not convex. ``deepest``: the pixel farthest from everything outside, always on the object; the
                first one row by row where several are.

        Returns:
            ``(x, y)`` in pixels of the image.
        """
        if kind == "deepest":
            component = Component(self.mask.view(np.uint8), self.box.x0, self.box.y0)
            pixels, _ = deepest_pixels(component)
            x, y = component.points(pixels[0])
            return float(x), float(y)
        rows, columns = np.nonzero(self.mask)
        return self.box.x0 + float(columns.mean()), self.box.y0 + float(rows.mean())


def find_objects(
    mask: NDArray[Any], *, instances: bool = False, min_side: int = 1, name: str = "reference mask"
) -> list[ReferenceObject]:
    """List the objects of a reference mask, smallest area first, as the authors' code does.

    Objects of equal area come in the order of their boxes' first row, then first column. A mask without an object
    gives an empty list: such an image gets no prompt and is predicted as background.

    Args:
        mask: ``(H, W)``, bool or integer. Every pixel that is not 0 is foreground.
        instances: False: the objects are the 8-connected components of the foreground. True: the mask is an instance
            map and every value other than 0 is one object, connected or not.
        min_side: Leave out objects whose box is narrower or lower than this many pixels; the authors' rule is 16.
        name: What to call the mask in messages, such as its file.

    Returns:
        The objects.

    Raises:
        UserError: The mask is not two-dimensional, or neither bool nor integer.
    """
    if mask.ndim != 2 or mask.dtype.kind not in "bui":
        raise UserError(
            f"{name}: not a mask",
            expected="two axes (rows, columns), bool or integer",
            found=f"shape {mask.shape}, {mask.dtype}",
            fix="convert the mask to one channel of class or instance numbers",
        )
    if instances:
        values, dense = np.unique(mask, return_inverse=True)
        ids = dense.reshape(mask.shape) + (0 if values[0] == 0 else 1)  # 0 stays background, if there is any
    else:
        _, ids = cv2.connectedComponents((mask != 0).view(np.uint8), connectivity=8)
    objects = []
    for label, found in enumerate(ndimage.find_objects(ids), start=1):
        rows, columns = found
        inside = ids[rows, columns] == label
        box = Box(int(columns.start), int(rows.start), int(columns.stop), int(rows.stop))
        if min(box.width, box.height) >= min_side:
            objects.append(ReferenceObject(box, inside, int(inside.sum())))
    return sorted(objects, key=lambda item: (item.area, item.box.y0, item.box.x0))
