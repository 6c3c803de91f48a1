"""Mask files as numbers, and these as labels once it is known what they mean (``mask_rules``).

A label is uint8: 0 background, classes 1..C, and ``types.IGNORED`` where nobody says what a pixel shows.
"""

from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np

from lightning_samseg.errors import UserError
from lightning_samseg.io.images import read_picture
from lightning_samseg.types import IGNORED

Form = Literal["levels", "bits", "unsure", "lossy", "colours"]


class StoredMask(NamedTuple):
    """A picture's or a slice's numbers."""

    values: np.ndarray
    """``(H, W)``, bool, integers, or float32."""
    form: Form = "levels"
    """``levels``: numbers as they were written. ``bits``: foreground or not; ``unsure``: or the other way round.
    ``lossy``: numbers with the noise of compression. ``colours``: of several colours, each pixel's brightest channel.
    """
    colour: str = ""
    """Of the brightest pixels, such as #ff0000; empty for grey."""


class MaskRule(NamedTuple):
    """What the numbers in the masks of a data set mean."""

    kind: Literal["binary", "soft", "indexed", "instances"]
    """``binary``: the one level beside 0 is the foreground; a mask of more levels, which are the noise or the softened
    edges of two, is cut as a soft one. ``soft``: what is above half of the range is the foreground. ``indexed``: class
    ids. ``instances``: numbers of objects of one class."""
    classes: int = 1
    """C."""
    ignore: int | None = None
    """Number of pixels that count for nothing."""
    halves: tuple[tuple[str, float], ...] = ()
    """Half of the range of each type of numbers that is soft or lossy."""
    indices: bool = False
    """Whether the indices of every palette count, not its greys, and grey of few bits as it is."""


def read_stored_mask(path: str | Path, indices: bool = False) -> StoredMask:
    """Read the numbers of a mask that is a picture.

    Alpha is not a mask and is dropped. Of a palette the indices count, unless it holds greys that are no ramp, or two
    colours of which one is black: these are levels. Grey of less than 8 bits is stretched to 0..255, as by all readers.
    Of colours the brightest channel counts.

    Args:
        path: A picture.
        indices: Take the indices of every palette, and grey of less than 8 bits as it is.

    Returns:
        The numbers.

    Raises:
        UserError: If the file is missing or damaged.
    """
    picture = read_picture(path)
    values = picture.values
    if values.dtype == bool:
        return StoredMask(values, "unsure" if picture.unsure else "bits")
    if picture.palette is not None:
        return _of_palette(values, picture.palette, indices)
    values = values if indices else picture.colours()
    if picture.lossy:
        return _lossy(values)
    if values.ndim == 2:
        return StoredMask(values, "levels")
    brightest = values.max(axis=2)
    if (values == values[..., :1]).all():
        return StoredMask(brightest, "levels")
    lead = values.reshape(-1, 3)[int(brightest.argmax())].astype(np.float64)
    # Softened edges of one colour are darker shades of it.
    shades = np.abs(values - brightest[..., None] * (lead / lead.max())).max() <= 2
    return StoredMask(brightest, "levels" if shades else "colours", _hex(lead / lead.max()))


def as_label(stored: StoredMask, rule: MaskRule, path: str | Path) -> np.ndarray:
    """Turn the numbers of a mask into class ids.

    Args:
        stored: The numbers.
        rule: What they mean.
        path: The file, for messages.

    Returns:
        uint8 ``(H, W)``: 0, 1..C, or ``IGNORED``.

    Raises:
        UserError: If the numbers do not fit the rule.
    """
    values, ignored = without_ignored(stored, rule.ignore)
    if stored.form == "unsure":
        raise either_way_round(path)
    if stored.form == "bits":
        label = values.astype(np.uint8)
    elif rule.kind == "indexed":
        label = _as_ids(values, rule.classes, path)
    elif rule.kind == "instances" or (rule.kind == "binary" and stored.form != "lossy" and _one_level(values)):
        label = (values > 0).astype(np.uint8)
    else:
        half = dict(rule.halves).get(str(values.dtype))
        if half is None:
            raise _changed(path, rule, values)
        label = (values > half).astype(np.uint8)
    label[ignored] = IGNORED
    return label


def as_instances(stored: StoredMask, rule: MaskRule) -> np.ndarray | None:
    """Turn the numbers of a mask into objects.

    Args:
        stored: The numbers.
        rule: What they mean.

    Returns:
        int32 ``(H, W)``, 0 outside of all objects; None where the mask does not tell them apart: the rule is another
        one, or the mask holds a single level that is white or lies in several pieces.
    """
    if rule.kind != "instances" or stored.form == "bits":
        return None
    values, _ = without_ignored(stored, rule.ignore)
    if _one_level(values) and (high := values.max(initial=0)):
        pieces = cv2.connectedComponents((values > 0).view(np.uint8), connectivity=8)[0] - 1
        if high == 255 or high == white_of(values.dtype) or pieces > 1:
            return None
    return values.astype(np.int32)


def without_ignored(stored: StoredMask, ignore: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Give a mask's numbers with 0 in place of the ignored ones, and where these are, bool ``(H, W)``."""
    if ignore is None or stored.values.dtype == bool or stored.colour:
        return stored.values, np.zeros(stored.values.shape, bool)
    ignored = stored.values == ignore
    return np.where(ignored, stored.values.dtype.type(0), stored.values), ignored


def either_way_round(path: str | Path) -> UserError:
    """Make the message for a mask of bits that programs read in two ways."""
    return UserError(
        f"{path} is a boolean array that tifffile or scikit-image has written: they read 1 as the foreground, all "
        "viewers show 0 as white.",
        expected="a mask that all programs read alike",
        found="1 bit a pixel, PhotometricInterpretation MinIsWhite",
        fix="write it again, by tifffile.imwrite(path, mask.astype('uint8') * 255), or with photometric='minisblack'",
    )


def white_of(dtype: np.dtype) -> float:
    """The largest number of a type; 1 for floating point."""
    return float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1.0


def _one_level(values: np.ndarray) -> bool:
    return bool(np.isin(values, (0, values.max(initial=0))).all())


def _as_ids(values: np.ndarray, classes: int, path: str | Path) -> np.ndarray:
    low, high = values.min(initial=0), values.max(initial=0)
    if low < 0 or high > classes or (values.dtype.kind == "f" and (values != np.rint(values)).any()):
        found = ", ".join(f"{value:g}" for value in np.unique(values)[-6:])
        raise UserError(
            f"{path} holds values that are no class.",
            expected=f"whole numbers 0..{classes}",
            found=found,
            fix="write the mask again without interpolation, or name all classes in classes.yaml",
        )
    return values.astype(np.uint8)


def _changed(path: str | Path, rule: MaskRule, values: np.ndarray) -> UserError:
    return UserError(
        f"{path} holds other values than when the masks were looked at.",
        expected=f"{rule.kind} masks",
        found=f"{values.dtype} values {values.min():g}..{values.max():g}",
        fix="start again",
    )


def _of_palette(values: np.ndarray, palette: np.ndarray, indices: bool) -> StoredMask:
    used = np.unique(values)
    colours = palette[used]
    black = (colours.max(axis=1) == 0).tolist()
    grey = bool((colours == colours[:, :1]).all())
    if indices or (len(used) <= 2 and black[0] and used[0] == 0 and used[-1] != 1):
        return StoredMask(values, "levels")
    if len(used) == 1 and grey and used[0] == 0:
        return StoredMask(np.full(values.shape, True), "bits")
    if len(used) == 2 and any(black):
        return StoredMask((palette.max(axis=1) > 0)[values], "bits")
    ramp = not grey or bool((colours[:, 0] == used).all())
    return StoredMask(values if ramp else palette[:, 0][values], "levels")


def _lossy(values: np.ndarray) -> StoredMask:
    if values.ndim == 2:
        return StoredMask(values, "lossy")
    brightest = values.max(axis=2)
    hues, counts = np.unique((values[brightest >= 192] >= 128) @ np.array([4, 2, 1]), return_counts=True)
    if not len(hues):
        return StoredMask(brightest, "lossy")
    hue = int(hues[counts.argmax()])
    several = np.count_nonzero(counts > 0.05 * counts.sum()) > 1
    colour = "" if hue == 7 else _hex(np.array([hue >> 2, hue >> 1, hue]) & 1)
    return StoredMask(brightest, "colours" if several else "lossy", colour)


def _hex(colour: np.ndarray) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour)
