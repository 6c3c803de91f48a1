"""Two-dimensional pictures and masks as NumPy arrays."""

from pathlib import Path

import numpy as np
from PIL import Image

from lightning_samseg.io.decoding import IMAGE_SUFFIXES, orientation_of, read_picture
from lightning_samseg.io.files import atomic_write
from lightning_samseg.io.orientation import TAG, to_stored
from lightning_samseg.io.picture import as_float

__all__ = [
    "IMAGE_SUFFIXES",
    "read_image",
    "to_grey",
    "to_rgb_uint8",
    "write_image",
    "write_mask_beside",
]


def read_image(path: str | Path) -> np.ndarray:
    """Read a picture the way a viewer shows it: EXIF orientation is applied, grey that is stored inverted is not.

    Args:
        path: A file of one picture.

    Returns:
        ``(H, W)`` for grey pictures, ``(H, W, 3)`` for all others (palettes are resolved, transparency is dropped).
        uint8; deeper ones keep their values and types: integers of 8 to 32 bits, float32, or float64 where float32
        would lose the picture.

    Raises:
        UserError: See :func:`lightning_samseg.io.decoding.read_picture`.
    """
    return read_picture(path).colours()


def to_grey(image: np.ndarray) -> np.ndarray:
    """Turn a picture of ``read_image`` into one channel.

    Args:
        image: ``(H, W)`` or ``(H, W, 3)``, any dtype.

    Returns:
        ``(H, W)``: grey pictures as they are, colour by the luma weights of ITU-R 601, as in Pillow's mode L; the dtype
        stays.
    """
    if image.ndim == 2 or image.dtype != np.uint8:
        return image if image.ndim == 2 else (image @ np.array([0.299, 0.587, 0.114])).astype(image.dtype)
    return np.asarray(Image.fromarray(image).convert("L"))


def to_rgb_uint8(image: np.ndarray) -> np.ndarray:
    """Turn a picture of ``read_image`` into one to draw on.

    Args:
        image: ``(H, W)`` or ``(H, W, 3)``, any dtype.

    Returns:
        uint8 ``(H, W, 3)``; anything but uint8 is stretched from its minimum..maximum to 0..255.
    """
    if image.dtype != np.uint8:
        values = as_float(image)
        low, high = float(values.min()), float(values.max())
        image = np.rint((values - low) * (255.0 / max(high - low, 1e-12))).astype(np.uint8)
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def write_image(path: str | Path, image: np.ndarray, orientation: int = 1) -> None:
    """Write a picture or mask; the format follows the name's ending. The file is complete or absent.

    Args:
        path: File to write; missing folders are made.
        image: uint8 ``(H, W)`` or ``(H, W, 3)``, bool ``(H, W)`` (a 1-bit file), or uint16 ``(H, W)``, as displayed.
        orientation: EXIF orientation that the file shall have.
    """
    exif = Image.Exif()
    if orientation != 1:
        exif[TAG] = orientation
    with atomic_write(path) as temporary:
        Image.fromarray(to_stored(image, orientation)).save(temporary, exif=exif)


def write_mask_beside(path: str | Path, mask: np.ndarray, image: str | Path) -> None:
    """Write the mask of a picture as a PNG that pairs with the picture's file, whoever reads the two.

    Its pixels are stored the way up that the picture's are, with the same EXIF orientation: programs that apply it show
    both upright, programs that ignore it show both as stored.

    Args:
        path: File to write, ``.png``.
        mask: uint8 ``(H, W)``, as :func:`read_image` shows the picture.
        image: The picture's file.

    Raises:
        UserError: If the picture has gone.
    """
    write_image(path, mask, orientation_of(image))
