"""EXIF orientation: which way up the pixels of a picture are stored, and how a viewer turns them.

Numbers as in the EXIF 2.32 standard, tag 0x0112: 1 as stored, 2 mirrored left to right, 3 turned by 180 degrees,
4 mirrored top to bottom, 5 transposed, 6 to be turned clockwise, 7 transposed along the other diagonal, 8 to be turned
anticlockwise.
"""

import numpy as np

TAG = 0x0112


def to_displayed(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels the way a viewer shows them.

    Args:
        pixels: ``(H, W)`` or ``(H, W, C)`` as stored.
        orientation: 1..8; any other number counts as 1, as in PIL.

    Returns:
        ``(H, W)`` or, for 5..8, ``(W, H)``, and the channels; contiguous.
    """
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def to_stored(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo :func:`to_displayed`.

    Args:
        pixels: ``(H, W)`` or ``(H, W, C)`` as displayed.
        orientation: Of the file.

    Returns:
        The pixels as the file stores them; contiguous.
    """
    # 6 and 8 are each other's inverse, all others their own.
    return to_displayed(pixels, {6: 8, 8: 6}.get(orientation, orientation))
