"""Which images are mixed, and the boxes: one for all (BCP), or one for some of them (UniMatch's CutMix)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_samseg.errors import UserError

Box = tuple[int, int, int, int]
"""Rows y0..y1 and columns x0..x1, the ends exclusive: ``(y0, x0, y1, x1)``."""
NO_BOX: Box = (0, 0, 0, 0)


def halves(images: Tensor, contents: str) -> tuple[Tensor, Tensor]:
    """Divide a batch into every other image, so that neighbours are mixed.

    Whatever the number of processes, the same pairs are made: each process has a stretch of the whole batch.

    Args:
        images: ``(B, ...)``.
        contents: ``labelled`` or ``unlabelled``.

    Raises:
        UserError: If B is odd.
    """
    if len(images) % 2:
        raise UserError(
            f"The {contents} images of a step are divided into two halves.",
            expected="an even number",
            found=str(len(images)),
            fix=f"set --data.{contents}_batch_size {len(images) + 1}",
        )
    return images[0::2], images[1::2]


def copy_paste_box(side: int, ratio: float, rng: np.random.Generator) -> Box:
    """BCP's box: ``int(ratio S)`` pixels a side, its place uniform; the last row and column are never inside.

    Args:
        side: S, of the image in pixels.
        ratio: Side of the box as a fraction of the image's, 2/3 in BCP.
        rng: Advanced by two draws.
    """
    size = int(side * ratio)
    row, column = (int(rng.integers(side - size)) for _ in range(2))
    return row, column, row + size, column + size


def cutmix_boxes(
    count: int,
    side: int,
    rng: np.random.Generator,
    probability: float = 0.5,
    area: tuple[float, float] = (0.02, 0.4),
    ratio: tuple[float, float] = (0.3, 1 / 0.3),
) -> list[Box]:
    """UniMatch's boxes, each by itself: with some probability one box that lies in the image, else none.

    Args:
        count: How many.
        side: S, of the image in pixels.
        rng: Source of all draws.
        probability: Of a box.
        area: Range of its area as a fraction of the image's, uniform.
        ratio: Range of its height over its width, uniform; with the place drawn again until the box lies in the image.
    """
    boxes = []
    for _ in range(count):
        if rng.random() >= probability:
            boxes.append(NO_BOX)
            continue
        pixels = rng.uniform(*area) * side * side
        while True:
            shape = rng.uniform(*ratio)
            width, height = int((pixels / shape) ** 0.5), int((pixels * shape) ** 0.5)
            row, column = (int(place) for place in rng.integers(side, size=2))
            if row + height <= side and column + width <= side:
                break
        boxes.append((row, column, row + height, column + width))
    return boxes


def inside(boxes: list[Box] | NDArray[np.int64], side: int, device: torch.device) -> Tensor:
    """Where each of B boxes is: bool ``(B, S, S)``, made on the device."""
    y0, x0, y1, x1 = torch.tensor(np.asarray(boxes).reshape(-1, 4), device=device).T[:, :, None, None]
    rows = torch.arange(side, device=device)[:, None]
    columns = torch.arange(side, device=device)
    return (rows >= y0) & (rows < y1) & (columns >= x0) & (columns < x1)
