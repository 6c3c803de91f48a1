"""Which part of a segmentation that was made without prompts answers which prompt."""

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

ELSEWHERE = -20.0
"""Logit of a pixel that belongs to another prompt: a probability of 2e-9."""


def share_among_prompts(logits: Tensor, prompts: NDArray[Any]) -> Tensor:
    """Give every pixel of one answer to the prompt it belongs to.

    Together the prompts have the whole answer, so that the union of their masks is the mask that the model made without
    prompts.

    * Boxes: a pixel belongs to every box that it lies in, else to the nearest one.
    * Points: each 8-connected object of the answer belongs to the point on it. If several points are on one object, its
      pixels go to the nearest of these; if none is, the object goes to the point nearest to it. Background goes to the
      nearest point.

    Of equally near prompts the first counts.

    Args:
        logits: Float ``(1, H, W)``.
        prompts: ``(m, 4)`` boxes, (x0, y0, x1, y1) with x1 and y1 behind the last pixel, or ``(m, 2)`` points inside
            the image; in pixels of the image, m at least 1.

    Returns:
        Float ``(m, H, W)`` on the same device: the logits, or ``ELSEWHERE``.
    """
    shape = (int(logits.shape[-2]), int(logits.shape[-1]))
    if prompts.shape[1] == 4:
        owned = _near_boxes(prompts, shape)
    else:
        owned = _near_points(prompts, (logits[0] > 0).cpu().numpy())
    return torch.where(torch.from_numpy(owned).to(logits.device), logits, ELSEWHERE)


def _near_boxes(boxes: NDArray[Any], shape: tuple[int, int]) -> NDArray[np.bool_]:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    x0, y0, x1, y1 = (edge[:, None, None] for edge in np.asarray(boxes, np.float64).T)
    across = np.maximum(0, np.maximum(x0 - columns, columns - (x1 - 1)))
    down = np.maximum(0, np.maximum(y0 - rows, rows - (y1 - 1)))
    distances = across**2 + down**2
    return np.asarray((distances == 0) | _equals(distances.argmin(0), len(boxes)))


def _near_points(points: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
    places = np.asarray(points, np.float64)
    distances = (columns - places[:, 0, None, None]) ** 2 + (rows - places[:, 1, None, None]) ** 2
    owner = distances.argmin(0)
    count, ids = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    if count > 1:
        nearest = np.stack([ndimage.minimum(each, ids, np.arange(1, count)) for each in distances]).argmin(0)
        owner[mask] = nearest[ids[mask] - 1]
        x, y = np.clip(np.floor(places + 0.5), 0, (mask.shape[1] - 1, mask.shape[0] - 1)).astype(int).T
        under = ids[y, x]
        for number in set(under[under > 0].tolist()):
            inside, holders = ids == number, np.flatnonzero(under == number)
            owner[inside] = holders[distances[holders][:, inside].argmin(0)]
    return _equals(owner, len(places))


def _equals(owner: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    return np.asarray(owner == np.arange(count)[:, None, None])
