"""How a picture becomes network input: grey or colour, normalised, resized. Pure functions of NumPy arrays."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from lightning_samseg.io.geometry import resize_image, resize_labels
from lightning_samseg.io.images import to_grey
from lightning_samseg.types import Geometry

Normalise = Literal["minmax", "sam", "percentile", "stored"]
Resize = Literal["squash", "longest_side"]

_SAM_MEAN = np.array([123.675, 116.28, 103.53], dtype=np.float32)
_SAM_STD = np.array([58.395, 57.12, 57.375], dtype=np.float32)


@dataclass(frozen=True)
class View:
    """The fixed part of the way from file to network input; the same for training, evaluation and prediction.

    Args:
        size: Side S of the network input in pixels.
        resize: ``squash`` changes the aspect ratio (CPC-SAM); ``longest_side`` keeps it and pads right and bottom
            (SAM).
        normalise: ``minmax`` maps each image's minimum..maximum to 0..1 (CPC-SAM). ``sam`` subtracts SAM's mean and
            divides by its standard deviation on 0..255; images of more than 8 bits are first stretched to 0..255.
            ``percentile`` clips each image to its percentiles 0.5 and 99.5 and maps them to 0..1. ``stored`` leaves
            the values as they are in the file, integers divided by their type's maximum: for slices of volumes that
            were normalised as a whole, where each slice's own minimum and maximum mean nothing.
        grey: Turn colour pictures into grey ones; the three channels are then equal.
        geometry: How the pixels of picture and input lie on each other: ``half_pixel``, or ``corner_aligned`` with
            a cubic B-spline, as ``scipy.ndimage.zoom`` (CPC-SAM's published code).
    """

    size: int
    resize: Resize = "squash"
    normalise: Normalise = "minmax"
    grey: bool = False
    geometry: Geometry = "half_pixel"

    def normalised(self, image: np.ndarray) -> np.ndarray:
        """Normalise a picture at its own size.

        Args:
            image: ``(H, W)`` or ``(H, W, 3)`` as read from the file.

        Returns:
            float32, ``(H, W)`` or ``(H, W, 3)``; a constant image becomes 0 (with ``minmax`` and ``percentile``).
        """
        values = (to_grey(image) if self.grey else image).astype(np.float32)
        if self.normalise == "stored":
            return values / np.float32(np.iinfo(image.dtype).max) if image.dtype.kind in "iu" else values
        if self.normalise == "percentile":
            low, high = (float(bound) for bound in np.percentile(values, (0.5, 99.5)))
            return np.asarray((values.clip(low, high) - low) * _inverse(high - low), dtype=np.float32)
        if self.normalise == "minmax" or image.dtype != np.uint8:
            low, high = float(values.min()), float(values.max())
            values = (values - low) * _inverse(high - low)
        if self.normalise == "sam":
            scale = 1.0 if image.dtype == np.uint8 else 255.0
            values = values[..., None] if values.ndim == 2 else values
            values = (values * scale - _SAM_MEAN) / _SAM_STD
        return np.asarray(values, dtype=np.float32)

    def fit_image(self, image: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
        """Resize a normalised picture to the network input by cubic interpolation; overshoots are not clipped.

        Args:
            image: float32 ``(H, W)`` or ``(H, W, 3)``.

        Returns:
            float32 ``(3, S, S)``, and ``(h, w)`` of its top-left part that shows the picture.
        """
        content = self.content_size(image.shape[:2])
        resized = resize_image(image, content, self.geometry)
        padded = np.zeros((3, self.size, self.size), dtype=np.float32)
        padded[:, : content[0], : content[1]] = resized if resized.ndim == 2 else resized.transpose(2, 0, 1)
        return padded, content

    def fit_mask(self, mask: np.ndarray) -> np.ndarray:
        """Resize a mask to the network input by nearest neighbour, under the picture's geometry.

        Args:
            mask: uint8 ``(H, W)``.

        Returns:
            uint8 ``(S, S)``; padding is background.
        """
        content = self.content_size(mask.shape[:2])
        padded = np.zeros((self.size, self.size), dtype=np.uint8)
        padded[: content[0], : content[1]] = resize_labels(mask, content, self.geometry)
        return padded

    def content_size(self, size: tuple[int, ...]) -> tuple[int, int]:
        """Give the size ``(h, w)`` in the network input of a picture of ``(H, W)`` pixels."""
        if self.resize == "squash":
            return self.size, self.size
        scale = self.size / max(size)
        return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _inverse(extent: float) -> float:
    return 1.0 / extent if extent > 0 else 0.0
