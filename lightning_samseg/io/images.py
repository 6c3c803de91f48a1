"""Two-dimensional pictures and masks as NumPy arrays, by Pillow: png, jpg, tif, bmp and whatever else it reads."""

import re
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from lightning_samseg.errors import UserError
from lightning_samseg.io.files import atomic_write

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
"""Lower-case endings of the files that are taken for pictures when a folder is listed."""

# Pillow's names for pixels of more than one channel with 16 bits each.
_DEEP = re.compile(r"\b(RGB[AaXx]*|LA);16[BLN]")
# Everything Pillow's decoders are known to raise for a damaged file.
_DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def read_image(path: str | Path) -> np.ndarray:
    """Read a picture.

    Args:
        path: An image file of one page.

    Returns:
        ``(H, W)`` for grey pictures, ``(H, W, 3)`` for all others (palettes are resolved, transparency is dropped).
        uint8; 16 bits a channel and 32-bit integer grey keep their values (uint16, int32), floating point grey is
        float32.

    Raises:
        UserError: If the file is missing, truncated, no image, of several pages, or with values that are not finite.
    """
    image = _open(Path(path))
    if image.mode in ("1", "L", "LA", "La"):
        return np.asarray(image.convert("L"))
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)  # native byte order, whatever the file's
    if image.mode == "I":
        return np.asarray(image, dtype=np.int32)
    if image.mode == "F":
        values = np.asarray(image, dtype=np.float32)
        if not np.isfinite(values).all():
            raise UserError(f"{path}: the image holds values that are not finite.", fix="repair or remove the file")
        return values
    if image.info.get("deep"):
        return _deep_colour(Path(path))
    return np.asarray(image.convert("RGB"))


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
    image = _open(Path(path))
    if image.mode == "1":
        return np.asarray(image, dtype=bool)
    lossy, deep = image.format == "JPEG", image.info.get("deep")
    if image.mode in ("LA", "La"):
        image = image.convert("L")
    elif image.mode not in ("L", "I", "F") and not image.mode.startswith("I;16"):
        image = image.convert("RGB")
    values = _deep_colour(Path(path)) if deep else np.asarray(image)
    if values.ndim == 3:
        values = values.max(axis=2)
    if not lossy and np.isin(values, (0, values.max(initial=0))).all():
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
    image = _open(Path(path))
    values = np.asarray(image.convert("L") if image.mode in ("1", "LA", "La") else image)
    if image.mode == "1":
        values = values // 255
    if image.info.get("deep"):
        values = _deep_colour(Path(path))
    if values.ndim == 3:
        if image.mode not in ("RGB", "RGBA") or (values[..., :3] != values[..., :1]).any():
            raise UserError(
                f"{path}: a mask of class ids cannot be in colour.",
                expected="one value per pixel: grey or palette",
                found=f"mode {image.mode} with channels that differ",
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
        values = image.astype(np.float32)
        low, high = float(values.min()), float(values.max())
        image = np.rint((values - low) * (255.0 / max(high - low, 1e-12))).astype(np.uint8)
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Write a picture or mask; the format follows the name's ending. The file is complete or absent.

    Args:
        path: File to write; missing folders are made.
        image: uint8 ``(H, W)`` or ``(H, W, 3)``, bool ``(H, W)`` (a 1-bit file), or uint16 ``(H, W)``.
    """
    with atomic_write(path) as temporary:
        Image.fromarray(image).save(temporary)


def _deep_colour(path: Path) -> np.ndarray:
    """Colours of 16 bits a channel, of which Pillow gives the upper 8 alone: black for a camera of 8 to 12 bits."""
    import cv2  # late: few pictures need it

    values = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        raise UserError(
            f"{path}: this kind of picture with 16 bits a channel cannot be read.", fix="save it as a PNG of 16 bits"
        )
    return np.ascontiguousarray(values[..., 2::-1])


def _open(path: Path) -> Image.Image:
    if not path.is_file():
        raise UserError(f"There is no image file {path}.", fix="check the path")
    try:
        with Image.open(path) as image:
            pages = getattr(image, "n_frames", 1)
            image.info["deep"] = bool(image.tile) and _DEEP.search(str(image.tile[0][3])) is not None
            image.load()
    except _DECODER_ERRORS as error:
        raise UserError(
            f"{path}: the image cannot be read; the file is damaged, truncated or not an image.",
            expected="a complete image file, such as " + ", ".join(suffix[1:] for suffix in IMAGE_SUFFIXES),
            found=f"{path.stat().st_size} bytes; the decoder says: {error}",
            fix="copy the file again from its source, or remove it from the data set",
        ) from error
    if pages > 1:
        raise UserError(
            f"{path}: the file holds {pages} pages where one image is expected.",
            fix="save every page as a file of its own",
        )
    return image
