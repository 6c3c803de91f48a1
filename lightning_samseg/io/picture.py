"""A decoded picture: the number types that pixels of any file are kept in, and which way up they are.

EXIF orientation as in the EXIF 2.32 standard, tag 0x0112: 1 as stored, 2 mirrored left to right, 3 turned by 180
degrees, 4 mirrored top to bottom, 5 transposed, 6 to be turned clockwise, 7 transposed along the other diagonal, 8 to
be turned anticlockwise.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from lightning_samseg.errors import UserError

TAG = 0x0112


class Picture(NamedTuple):
    """One picture as a viewer shows it: its EXIF orientation is applied, grey that is stored inverted is not."""

    values: np.ndarray
    """``(H, W)`` grey levels or palette indices, or ``(H, W, 3)`` colours, values as stored; transparency is dropped.
    bool for 1-bit files, integers of up to 32 bits, float32, or float64 where float32 would lose the picture (see
    :func:`compact`)."""
    white: int | None = None
    """The value that stands for white: 1 for 1 bit, 15 for 4, 255, 65535; None for signed and floating point values,
    which have none."""
    palette: np.ndarray | None = None
    """uint8 ``(n, 3)``: the colours of palette indices; None where the values are no indices."""
    lossy: bool = False
    """Whether compression has changed the values, as in a JPEG."""
    orientation: int = 1
    """EXIF orientation that has been applied, see :func:`to_displayed`."""
    unsure: bool = False
    """Whether its bits may be meant the other way round, see :func:`lightning_samseg.io.tiff.decode`."""

    def colours(self) -> np.ndarray:
        """Give what is seen: palettes resolved, grey of less than 8 bits stretched to 0..255.

        Returns:
            ``(H, W)`` or ``(H, W, 3)``.
        """
        if self.palette is not None:
            return self.palette[self.values]
        if self.white is not None and self.white < 255:
            return np.rint(self.values * (255 / self.white)).astype(np.uint8)
        return self.values


def compact(values: np.ndarray) -> np.ndarray:
    """Give pixels a type of 4 bytes at most, unless they would suffer by it.

    Args:
        values: Any integer or floating-point type and byte order.

    Returns:
        Native byte order. Integers of 8 bytes become int32 or uint32 where they fit; half, double and longer floating
        point becomes float32 unless its rounding exceeds a 65536th of the range of the values, as for 1e9..1e9 + 1;
        what does not fit is float64.
    """
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind in "iu" and size > 4 and values.size:
        least, greatest = int(values.min()), int(values.max())
        for fit in (np.int32, np.uint32):
            if np.iinfo(fit).min <= least and greatest <= np.iinfo(fit).max:
                return values.astype(fit)
        return values.astype(np.float64)
    if kind == "f" and size > 4 and (finite := values[np.isfinite(values)]).size:
        low, high = float(finite.min()), float(finite.max())
        most, extent = max(-low, high), high - low
        # The rounding of float32 is most / 2^24. Near its own limits, 1e-38 and 3e38, it would be more.
        narrow = low == high == float(np.float32(low)) or (most <= extent * 256 and extent > 1e-30 and most < 1e38)
        return values.astype(np.float32 if narrow else np.float64)
    if kind == "f" and size > 4:
        return values.astype(np.float32)
    if kind == "f" and size < 4:
        return values.astype(np.float32)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def as_float(values: np.ndarray) -> np.ndarray:
    """Give pixels to compute with: float32 where that is exact and differences stay finite, else float64."""
    exact = np.can_cast(values.dtype, np.float32)
    if exact and values.dtype.kind == "f" and values.size:
        exact = max(-float(values.min()), float(values.max())) < 1e37
    return values.astype(np.float32 if exact else np.float64)


def check_pixels(values: np.ndarray, path: Path, where: str = "the picture") -> None:
    """Refuse pixels that are no numbers.

    Args:
        values: Pixels.
        path: File they are from.
        where: The part of the file, for the message.

    Raises:
        UserError: If they are complex, NaN or infinite, or there are none.
    """
    if values.dtype.kind not in "biuf" or not values.size:
        raise UserError(
            f"{path}: {where} is not made of plain numbers.",
            expected="one number, or red, green and blue, a pixel",
            found=f"type {values.dtype}, shape {values.shape}",
            fix="save its magnitude or one of its channels",
        )
    if values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
        raise UserError(
            f"{path}: {where} holds values that are not finite.",
            found=f"NaN or infinity in {np.count_nonzero(~finite)} of {values.size} places",
            fix="replace NaN and infinity in the file, for instance by its smallest value",
        )


def too_large(path: Path, found: str, most_pixels: int) -> UserError:
    """Make the message for a picture that would fill the memory."""
    return UserError(
        f"{path}: the picture is too large.",
        expected=f"at most {most_pixels:,} pixels",
        found=found,
        fix="cut it into tiles, or scale it down; of a whole slide export the region or level that is meant",
    )


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
