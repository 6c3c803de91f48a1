"""Masks as run lengths: how they travel and how the journal keeps them. Needs no torch."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_samseg.errors import UserError


def encode(mask: NDArray[Any]) -> dict[str, list[int]]:
    """Turn a mask into runs, row by row, background first.

    Args:
        mask: ``(H, W)``, foreground where it is not 0.

    Returns:
        ``{"size": [H, W], "counts": [...]}``; the counts add up to ``H * W``. Only the first may be 0.
    """
    flat = np.asarray(mask != 0).ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = [0, *edges.tolist(), flat.size]
    counts = np.diff(bounds).tolist()
    return {"size": [mask.shape[0], mask.shape[1]], "counts": [0, *counts] if flat.size and flat[0] else counts}


def decode(value: Any, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Turn runs into a mask, if that is what they are.

    Args:
        value: What a client sent.
        size: ``(H, W)`` that the mask must have.

    Returns:
        uint8 ``(H, W)``, 0 and 1.

    Raises:
        UserError: If it is no such mask.
    """
    expected = f"{{'size': [{size[0]}, {size[1]}], 'counts': [...]}} with runs that add up to {size[0] * size[1]}"
    if not isinstance(value, dict) or value.get("size") != list(size):
        found = value.get("size") if isinstance(value, dict) else type(value).__name__
        raise _refusal(expected, f"size {found}")
    counts = value.get("counts")
    if not isinstance(counts, list) or len(counts) > size[0] * size[1] + 1:
        raise _refusal(expected, "no list of runs" if not isinstance(counts, list) else f"{len(counts)} runs")
    if not all(type(count) is int and 0 <= count <= size[0] * size[1] for count in counts):
        raise _refusal(expected, "a run that is no whole number, or longer than the picture")
    if sum(counts) != size[0] * size[1]:
        raise _refusal(expected, f"runs that add up to {sum(counts)}")
    values = np.arange(len(counts), dtype=np.int64) % 2
    return np.repeat(values.astype(np.uint8), np.array(counts, np.int64)).reshape(size)


def _refusal(expected: str, found: str) -> UserError:
    return UserError("This is no mask of the image.", expected=expected, found=found, fix="send runs row by row")
