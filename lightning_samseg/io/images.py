"""Files of pictures, and masks written as such. TIFF is decoded by tifffile, colours of over 8 bits by imagecodecs.

Pillow decodes all the rest, and encodes.
"""

import re
import struct
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from lightning_samseg.errors import UserError
from lightning_samseg.io import tiff
from lightning_samseg.io.file_kinds import (
    JPEG,
    JPEG_2000,
    PICTURES,
    PNG,
    TIFF,
    Kind,
    check_is_file,
    kind_of,
    not_decoded,
    not_wanted,
)
from lightning_samseg.io.files import atomic_write
from lightning_samseg.io.picture import TAG, Picture, as_float, check_pixels, to_displayed, to_stored, too_large

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2", ".j2k", ".jpx")
"""Lower-case endings of the files that are taken for pictures when a folder is listed."""
MOST_PIXELS = 2 * 89478485
"""Pixels of the largest picture that is read: Pillow's limit."""

_WANTED = "one picture, such as png, jpg or tif; volumes are .nii, .nii.gz, .mha or .mhd"
# Pillow's names for colours, or grey with transparency, of 16 bits a channel, of which it gives the upper 8 alone.
_DEEP = re.compile(r"\b(RGB[AaXx]*|LA);16[BLN]")
_NARROW = {"L;2": 3, "L;4": 15}  # its names for grey of 2 and 4 bits, which it stretches to 255
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # given from half of the limit on


def read_image(path: str | Path) -> np.ndarray:
    """Read a picture the way a viewer shows it: EXIF orientation is applied, grey that is stored inverted is not.

    Args:
        path: A file of one picture.

    Returns:
        ``(H, W)`` for grey pictures, ``(H, W, 3)`` for all others (palettes are resolved, transparency is dropped).
        uint8; deeper ones keep their values and types: integers of 8 to 32 bits, float32, or float64 where float32
        would lose the picture.

    Raises:
        UserError: See :func:`read_picture`.
    """
    return read_picture(path).colours()


def read_picture(path: str | Path) -> Picture:
    """Decode a file of one picture, told by its content; of the several views in a phone's MPO file, the first.

    Raises:
        UserError: If the file is missing, empty, damaged or cut off, something else than a picture (the message says
            what it is and what to do), too large, of several pages, or holds values that are not finite.
    """
    path = Path(path)
    check_is_file(path, "image file")
    kind = kind_of(path)
    if kind is not None and kind not in PICTURES:
        raise not_wanted(path, kind, _WANTED)
    try:
        picture = tiff.decode(path, MOST_PIXELS) if kind is TIFF else _by_pillow(path, kind)
        if picture is None:
            picture = _converted_tiff(path)
    except UserError:
        raise
    except (MemoryError, Image.DecompressionBombError) as error:
        pixels = re.search(r"\d+", str(error))
        raise too_large(path, f"{int(pixels[0]):,} pixels" if pixels else "no memory left", MOST_PIXELS) from error
    except Exception as error:  # decoders raise all sorts of things for damaged files
        raise not_decoded(path, kind, _WANTED, error) from error
    check_pixels(picture.values, path)
    return picture


def orientation_of(path: str | Path) -> int:
    """Tell the EXIF orientation of a picture, 1..8, without decoding more than is needed.

    Raises:
        UserError: If the file is missing or damaged.
    """
    path = Path(path)
    check_is_file(path, "image file")
    try:
        if kind_of(path) is TIFF:
            return tiff.read_orientation(path)
        with Image.open(path) as image:
            return _orientation(image)
    except Exception as error:
        raise not_decoded(path, kind_of(path), _WANTED, error) from error


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


def _converted_tiff(path: Path) -> Picture:
    """A TIFF that tifffile leaves to Pillow, which turns its colours into RGB."""
    try:
        return _by_pillow(path, TIFF)
    except (ValueError, KeyError, UnidentifiedImageError) as error:
        raise tiff.unsupported(path, f"its colour space, or its depth; the decoder says: {error}") from error


def _by_pillow(path: Path, kind: Kind | None) -> Picture:
    try:
        # Of a TIFF by its name Pillow 13 garbles what it turns by 90 degrees.
        image = Image.open(BytesIO(path.read_bytes()) if kind is TIFF else path)
    except UnidentifiedImageError:
        if kind is JPEG:  # of 12 bits, or lossless
            return Picture(*_by_imagecodecs("jpeg_decode", path), lossy=True)
        raise
    with image:
        raw = str(image.tile[0][3]) if image.tile else ""  # how pixels are stored; looking for EXIF may load them
        # Pillow has turned a TIFF picture itself.
        orientation = tiff.read_orientation(path) if kind is TIFF else _orientation(image)
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format not in ("MPO", "TIFF"):
            raise UserError(
                f"{path} holds {frames} pages or frames where one picture is expected.",
                found=f"{image.format} with {frames} pictures",
                fix="save the one that is meant, or each, as a file of its own",
            )
        palette = None
        if kind is PNG and _DEEP.search(raw):
            values, white = _by_imagecodecs("png_decode", path)
        elif kind is JPEG_2000 and _jpeg_2000_bits(path) > 8:
            values, white = _by_imagecodecs("jpeg2k_decode", path)
        elif _DEEP.search(raw):
            raise UserError(
                f"{path}: {image.format} with 16 bits a channel cannot be read.", fix="save it as PNG or TIFF"
            )
        else:
            image.load()
            values, white, palette = _pixels(image, raw)
    values = values if kind is TIFF else to_displayed(values, orientation)
    return Picture(values, white, palette, _is_lossy(image, path), orientation)


def _pixels(image: Image.Image, raw: str) -> tuple[np.ndarray, int | None, np.ndarray | None]:
    """Values, the value of white, and the palette of a loaded picture."""
    if image.mode == "1":
        return np.asarray(image.convert("L")) > 0, 1, None
    if image.mode in ("L", "LA", "La"):
        values = np.asarray(image.convert("L"))
        white = _NARROW.get(raw, 255)
        return values // np.uint8(255 // white), white, None
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return np.asarray(image).astype(np.uint16), 65535, None  # native byte order, whatever the file's
    if image.mode == "I":
        return np.asarray(image, dtype=np.int32), None, None
    if image.mode == "F":
        return np.asarray(image, dtype=np.float32), None, None
    if image.mode == "P":
        palette = np.zeros((256, 3), np.uint8)
        stored = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        palette[: len(stored)] = stored
        return np.asarray(image), 255, palette
    return np.asarray(image.convert("RGB")), 255, None


def _by_imagecodecs(decoder: str, path: Path) -> tuple[np.ndarray, int | None]:
    """Values without transparency, and the value of white."""
    import imagecodecs  # late: few pictures need it

    values = np.asarray(getattr(imagecodecs, decoder)(path.read_bytes()))
    if values.ndim == 3:
        values = np.ascontiguousarray(values[..., :3] if values.shape[2] > 2 else values[..., 0])
    return values, int(np.iinfo(values.dtype).max) if values.dtype.kind == "u" else None


def _is_lossy(image: Image.Image, path: Path) -> bool:
    if image.format == "WEBP":
        return b"VP8L" not in path.read_bytes()[:4096]
    if image.format == "JPEG2000":
        content = path.read_bytes()
        at = content.find(b"\xff\x52")  # coding style (ISO 15444-1, A.6.1): its wavelet is 0, irreversible, or 1
        return at < 0 or content[at + 13 : at + 14] != b"\1"
    return image.format in ("JPEG", "MPO") or image.info.get("compression") == "jpeg"


def _jpeg_2000_bits(path: Path) -> int:
    """Bits of the first channel, from the header of the code stream (ISO 15444-1, A.5.1)."""
    with path.open("rb") as file:
        head = file.read(1 << 20)
    return (head[head.index(b"\xff\x4f\xff\x51") + 42] & 0x7F) + 1


def _orientation(image: Any) -> int:
    """EXIF orientation of an opened picture; 1 where there is none, or its EXIF block is damaged, as in viewers."""
    try:
        value = image.getexif().get(TAG, 1)
    except (SyntaxError, ValueError, KeyError, TypeError, OverflowError, struct.error):
        return 1
    return value if value in range(1, 9) else 1
