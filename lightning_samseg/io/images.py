"""Two-dimensional pictures and masks as NumPy arrays."""

from pathlib import Path

import numpy as np
from PIL import Image

from lightning_samseg.errors import UserError
from lightning_samseg.io.decoding import IMAGE_SUFFIXES, orientation_of, read_picture
from lightning_samseg.io.files import atomic_write
from lightning_samseg.io.orientation import TAG, to_stored
from lightning_samseg.io.picture import as_float

__all__ = [
    "IMAGE_SUFFIXES",
    "read_image",
    "read_indexed_mask",
    "read_mask",
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


def read_mask(path: str | Path) -> np.ndarray:
    """Read a binary mask of any mode: 1-bit, grey, palette, RGB, RGBA, 16-bit.

    Where a lossless mask has a single level beside 0, such as 0/1, 0/255 or black/dark red, that level is foreground;
    else a pixel is foreground where its largest colour channel exceeds 127, so that the noise of a JPEG mask does not
    count. Alpha is not a mask and is ignored; palettes are resolved to colours, for an index is neither light nor dark.

    Args:
        path: An image file.

    Returns:
        bool ``(H, W)``.

    Raises:
        UserError: If the file is missing or cannot be read.
    """
    picture = read_picture(path)
    if picture.values.dtype == bool:
        return picture.values
    values = picture.colours()
    if values.ndim == 3:
        values = values.max(axis=2)
    if not picture.lossy and np.isin(values, (0, values.max(initial=0))).all():
        return values > 0
    return values > 127


def read_indexed_mask(path: str | Path) -> np.ndarray:
    """Read a mask whose pixel values (or palette indices) are class ids.

    Args:
        path: An image file: 1-bit, grey, palette, 16-bit, or RGB(A) with equal colour channels.

    Returns:
        uint8 ``(H, W)``, the values as they are in the file.

    Raises:
        UserError: If the file cannot be read, is in colour, or holds a value outside 0..255.
    """
    values = read_picture(path).values
    if values.ndim == 3:
        if (values != values[..., :1]).any():
            raise UserError(
                f"{path}: a mask of class ids cannot be in colour.",
                expected="one value per pixel: grey or palette",
                found="colour channels that differ",
                fix="save the mask as a grey or palette PNG whose values are the class ids",
            )
        values = values[..., 0]
    low, high = values.min(initial=0), values.max(initial=0)
    if low < 0 or high > 255:
        raise UserError(
            f"{path}: class ids of a mask must lie in 0..255.",
            found=f"values from {low} to {high}",
            fix="renumber the classes of this mask",
        )
    return values.astype(np.uint8)


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
