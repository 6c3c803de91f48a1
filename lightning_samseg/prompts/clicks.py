"""Where a click corrects a mask most: SemiSAM's rule, from interactive segmentation."""

import cv2
import numpy as np
from numpy.typing import NDArray


def click_candidates(
    target: NDArray[np.bool_], previous: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.bool_], bool]:
    """Find the pixels for the next click: well inside of what is missing, or of what is too much.

    Distances are Euclidean, to the nearest pixel outside of the region; beyond the image's border is outside. The
    region with the larger maximum is taken, the false positives if both are equal; candidates lie deeper than half of
    it.

    Args:
        target: ``(H, W)``, what should be segmented.
        previous: ``(H, W)``, what is; None for nothing.

    Returns:
        Candidates, bool ``(H, W)``, none where nothing is wrong; and whether the click is positive, on the target.
    """
    previous = np.zeros_like(target) if previous is None else previous
    missing, too_much = depth(target & ~previous), depth(previous & ~target)
    positive = bool(missing.max() > too_much.max())
    chosen = missing if positive else too_much
    return (chosen > chosen.max() / 2) & (chosen > 0), positive


def depth(region: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Exact Euclidean distance of each pixel of ``(H, W)`` to the outside, 0 outside."""
    found = np.zeros(region.shape, np.float32)
    x, y, width, height = cv2.boundingRect(region.view(np.uint8))
    if width:
        cut = np.s_[y : y + height, x : x + width]
        padded = np.pad(region[cut].view(np.uint8), 1)
        found[cut] = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    return found
