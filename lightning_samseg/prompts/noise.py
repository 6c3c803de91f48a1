"""Imperfect annotators: shifted boxes, eroded and dilated masks (robustness study of the TMI version of AuxOL)."""

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from lightning_samseg.prompts.boxes import Box

MaskNoise = Literal["none", "erosion", "dilation", "both"]


def shift_box(box: Box, fraction: float, image_size: tuple[int, int], rng: np.random.Generator) -> Box:
    """Shift a box sideways and up or down by a fraction of its sides, each direction by the toss of a coin.

    The size is kept: a box that would leave the image stops at its border. Distances are rounded as in the authors'
    code, to the next whole pixel on the left or above.

    Args:
        box: A box inside the image.
        fraction: Of the box's width and height; the authors use 0.05.
        image_size: ``(H, W)``.
        rng: Source of the two tosses.

    Returns:
        The shifted box, inside the image.
    """
    height, width = image_size
    leftwards, upwards = rng.random(2) < 0.5
    x0 = _shifted(box.x0, box.width, fraction, width, bool(leftwards))
    y0 = _shifted(box.y0, box.height, fraction, height, bool(upwards))
    return Box(x0, y0, x0 + box.width, y0 + box.height)


def _shifted(start: int, side: int, fraction: float, limit: int, towards_zero: bool) -> int:
    if towards_zero:
        return max(0, int(start - fraction * side))
    return min(limit, int(start + side + fraction * side)) - side


def distort_mask(
    mask: NDArray[np.bool_], kind: MaskNoise, fraction: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Erode or dilate an expert's mask inside its crop, once, with a square.

    The square's side is ``fraction`` of the crop's shorter side, rounded down. What lies outside the crop neither
    erodes nor dilates. Squares of less than 2 px change nothing (in the authors' code a square of 0 px becomes OpenCV's
    default of 3 px, so that the smallest crops are distorted most).

    Args:
        mask: ``(h, w)``, the mask inside the crop.
        kind: ``both`` is erosion or dilation by the toss of a coin.
        fraction: The authors use 0.05 and 0.10.
        rng: Source of the toss; advanced for ``both`` only.

    Returns:
        ``(h, w)``, a new array.
    """
    side = int(min(mask.shape) * fraction)
    if kind == "both":
        kind = "erosion" if rng.random() < 0.5 else "dilation"
    if kind == "none" or side < 2:
        return mask.copy()
    square = np.ones((side, side), np.uint8)
    change = cv2.erode if kind == "erosion" else cv2.dilate
    return change(np.ascontiguousarray(mask).view(np.uint8), square).astype(bool)
