"""TIFF pictures by tifffile: any depth, number type, compression, planes or tiles, BigTIFF, OME and pyramids."""

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np

from lightning_samseg.errors import UserError
from lightning_samseg.io.picture import TAG, Picture, compact, to_displayed, too_large

_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6  # tag 262, PhotometricInterpretation
_JPEG, _FAX = (6, 7), (2, 3, 4)  # tag 259, Compression
_ALPHA = (1, 2)  # tag 338, ExtraSamples; 0 is unspecified


def decode(path: Path, most_pixels: int) -> Picture | None:
    """Decode the one picture of a TIFF file; thumbnails, smaller levels of a pyramid and masks of it do not count.

    ``tifffile.imwrite`` (and with it scikit-image) says of a boolean array that 0 is white, MinIsWhite, and reads it
    back as it was, where viewers and libtiff show it inverted. Here it is as they show it, and ``unsure``.

    Args:
        path: The file.
        most_pixels: A larger picture is refused.

    Returns:
        The picture; None if its colour space (CMYK, YCbCr, Lab) or fax compression is left to another decoder.

    Raises:
        UserError: If there are several pages, channels that are not said to be colours, or too many pixels, or the
            compression is not supported.
        Exception: Whatever tifffile and its codecs raise for a damaged file.
    """
    from tifffile import TIFF, TiffFile  # late: takes a while

    with TiffFile(path) as file:
        page = _only_page(path, file)
        if page.imagewidth * page.imagelength > most_pixels:
            found = f"{page.imagewidth:,} x {page.imagelength:,} pixels (width x height)"
            raise too_large(path, found, most_pixels)
        if page.compression in _FAX and page.compression not in TIFF.DECOMPRESSORS:
            return None  # newer versions of imagecodecs have it
        if page.compression not in TIFF.DECOMPRESSORS:
            raise unsupported(path, f"compression {getattr(page.compression, 'name', page.compression)}")
        photometric = _MIN_IS_BLACK if page.photometric is None else int(page.photometric)
        converted = photometric == _YCBCR and page.compression in _JPEG  # by the codec
        if photometric not in (_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE) and not converted:
            return None
        if len(page.dataoffsets) < math.prod(page.chunked):
            raise ValueError("strips or tiles are missing")
        ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
        if max(ends, default=0) > file.filehandle.size:
            raise ValueError("pixels are said to lie beyond the end of the file")
        colours = _check_channels(path, page, photometric)
        values = page.asarray(maxworkers=1)
        orientation = _orientation(page)
        bits = page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample)
        colormap = page.colormap if photometric == _PALETTE else None
        if "S" in page.axes:
            values = np.moveaxis(values, page.axes.index("S"), -1)
            values = values[..., :3] if colours == 3 else values[..., 0]  # the others are transparency
    white = 2**bits - 1 if values.dtype.kind in "bu" and bits <= 32 else None
    if photometric == _MIN_IS_WHITE:
        values = _inverted(values, white)
    palette = None
    if colormap is not None:
        values = values.astype(np.uint8) if values.dtype == bool else values
        # 16 bits a colour; writers that stored 8 are known, and told apart as libtiff does.
        palette = (colormap >> 8 if colormap.max() > 255 else colormap).astype(np.uint8).T
    lossy = page.compression in _JPEG
    unsure = values.dtype == bool and photometric == _MIN_IS_WHITE and page.software.startswith("tifffile")
    return Picture(compact(to_displayed(values, orientation)), white, palette, lossy, orientation, unsure)


def unsupported(path: Path, found: str) -> UserError:
    """Make the message for a TIFF file that is whole, but of a kind that no decoder at hand reads."""
    return UserError(
        f"{path}: this kind of TIFF cannot be read.",
        expected="grey, RGB, palette, CMYK or YCbCr; without compression, or LZW, deflate, JPEG and the like",
        found=found,
        fix="save it as a grey or RGB TIFF or PNG",
    )


def read_orientation(path: Path) -> int:
    """EXIF orientation of a TIFF file's picture."""
    from tifffile import TiffFile

    with TiffFile(path) as file:
        return _orientation(_only_page(path, file))


def _orientation(page: Any) -> int:
    tag = page.tags.get(TAG)
    return tag.value if tag is not None and tag.value in range(1, 9) else 1


def _only_page(path: Path, file: Any) -> Any:
    whole = [each for each in file.series if not (each.keyframe.is_reduced or each.keyframe.is_mask)]
    if file.is_svs:
        whole = whole[:1]  # the others are a thumbnail, the label and a view of the slide
    series = (whole or file.series)[0]
    page = series.keyframe
    pages = sum(math.prod(each.shape) // math.prod(each.keyframe.shape) for each in whole)
    if pages > 1:
        raise UserError(
            f"{path} holds {pages} pages where one picture is expected.",
            found=", ".join(f"{each.axes} {each.shape}" for each in whole[:4]),
            fix="save the page that is meant, or each, as a file of its own; a stack of slices as .nii.gz or .mha",
        )
    if set(page.axes) - set("SYX"):
        raise UserError(
            f"{path} holds a stack where one picture is expected.",
            found=f"axes {page.axes} of sizes {page.shape}",
            fix="save it as .nii.gz or .mha, or every slice as a file of its own",
        )
    return page


def _check_channels(path: Path, page: Any, photometric: int) -> int:
    """Refuse channels that are not said to be colours; 3 for colour, 1 for grey or a palette."""
    channels, extra = page.samplesperpixel, page.extrasamples
    if photometric in (_RGB, _YCBCR):
        fits = 3 <= channels <= 4 + len(extra)  # some writers do not mention their fourth channel
    else:
        fits = channels == 1 + len(extra) and all(int(each) in _ALPHA for each in extra)
    if not fits:
        raise UserError(
            f"{path} holds {channels} channels that are not said to be colours.",
            expected="grey, or red, green and blue, with or without transparency",
            fix="save the channel that is meant, or red, green and blue, as a picture of its own",
        )
    return 3 if photometric in (_RGB, _YCBCR) else 1


def _inverted(values: np.ndarray, white: int | None) -> np.ndarray:
    """Grey levels of which the smallest is white: the other way round, so that large is bright."""
    if white is not None:
        return ~values if values.dtype == bool else np.asarray(white - values, values.dtype)
    return ~values if values.dtype.kind in "iu" else -values


# What tifffile says about damaged tags is said in our own messages, once.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)
