"""How a picture becomes network input (grey or colour, normalised, resized), and how an answer comes back to its size.

``prepare_image`` is the one way from pixels to network input: for training, test and prediction, and for a frozen SAM,
whose published recipe (``models.backbones``) is a ``View``, too. The ``View`` of a training is part of the DataModule's
hyper-parameters and thus of every checkpoint, from which ``View.stored_in`` reads it. The ``Case`` that comes with the
input is the geometry: ``on_input`` takes prompts there, ``to_original_size`` brings logits back.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from lightning_samseg.errors import UserError
from lightning_samseg.io.geometry import resize_image, resize_labels
from lightning_samseg.io.images import to_grey
from lightning_samseg.io.picture import as_float
from lightning_samseg.types import Case, Geometry

Normalise = Literal["minmax", "sam", "percentile", "stored"]
Resize = Literal["squash", "longest_side"]
Interpolation = Literal["cubic", "bilinear", "bicubic", "area", "nearest"]

SAM_MEAN = np.array([123.675, 116.28, 103.53], dtype=np.float32)
SAM_STD = np.array([58.395, 57.12, 57.375], dtype=np.float32)

Move = Callable[[np.ndarray, np.ndarray | None], tuple[np.ndarray, np.ndarray | None]]
"""An augmentation: takes and gives a normalised picture and its label (or None), moved alike."""


class Frame(NamedTuple):
    """One picture as the network sees it."""

    image: np.ndarray
    """float32 ``(3, S, S)``, normalised."""
    case: Case
    """Where it comes from and how a prediction goes back to its size."""
    mask: np.ndarray | None = None
    """uint8 ``(S, S)`` class ids where a label was given."""


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
        interpolation: ``cubic`` resizes the normalised picture, see :meth:`fit_image`. The others resize an 8-bit
            picture before it is normalised, as the published programs of the SAM family do: ``bilinear`` is Pillow's,
            antialiased and rounded (SAM); ``bicubic`` PyTorch's, antialiased and clipped to 0..255 (MedSAM); ``area``
            (LiteMedSAM) and ``nearest`` (SAM-Med2D) are OpenCV's.
    """

    size: int
    resize: Resize = "squash"
    normalise: Normalise = "minmax"
    grey: bool = False
    geometry: Geometry = "half_pixel"
    interpolation: Interpolation = "cubic"

    STORED: ClassVar[tuple[str, ...]] = ("resize", "normalise", "grey", "geometry")
    """Arguments of a data module that say how its images become network input, beside ``image_size``."""

    @classmethod
    def stored_in(cls, hyper_parameters: Mapping[str, Any], path: str | Path = "the checkpoint") -> "View":
        """Give the view of a training, from a Lightning checkpoint's entry ``datamodule_hyper_parameters``.

        Args:
            hyper_parameters: The entry.
            path: Of the checkpoint, for messages.

        Raises:
            UserError: If they are not those of a ``SegmentationDataModule``.
        """
        names = ("image_size", *cls.STORED)
        if missing := [name for name in names if name not in hyper_parameters]:
            raise UserError(
                f"{path} does not say how its training images were prepared.",
                expected="the hyper-parameters of a DataModule of data_modules",
                found=f"no {', no '.join(missing)}",
                fix="use a checkpoint that `python -m lightning_samseg fit` has written",
            )
        return cls(*(hyper_parameters[name] for name in names))

    def channels(self, picture: np.ndarray) -> int:
        """Tell how many channels of the network input of a picture differ: 1 for grey ones, else 3."""
        return 1 if (self.grey or picture.ndim == 2) and self.normalise != "sam" else 3

    def normalised(self, image: np.ndarray) -> np.ndarray:
        """Normalise a picture at its own size.

        Args:
            image: ``(H, W)`` or ``(H, W, 3)`` as read from the file.

        Returns:
            float32, ``(H, W)`` or ``(H, W, 3)``; a constant image becomes 0 (with ``minmax`` and ``percentile``).
        """
        values = as_float(to_grey(image) if self.grey else image)
        if self.normalise == "stored":
            largest = np.iinfo(image.dtype).max if image.dtype.kind in "iu" else 1
            return np.asarray(values / values.dtype.type(largest), dtype=np.float32)
        if self.normalise == "percentile":
            low, high = (float(bound) for bound in np.percentile(values, (0.5, 99.5)))
            return np.asarray((values.clip(low, high) - low) * _inverse(high - low), dtype=np.float32)
        if self.normalise == "minmax" or image.dtype != np.uint8:
            low, high = float(values.min()), float(values.max())
            if self.interpolation == "cubic":
                values = (values - low) * _inverse(high - low)
            else:  # MedSAM's program divides, which other last bits come of
                values = (values - np.float32(low)) / np.float32(max(high - low, 1e-8))
        if self.normalise == "sam":
            scale = 1.0 if image.dtype == np.uint8 else 255.0
            values = values[..., None] if values.ndim == 2 else values
            values = (values * scale - SAM_MEAN) / SAM_STD
        return np.asarray(values, dtype=np.float32)

    def fit_image(self, image: np.ndarray, out: np.ndarray | None = None) -> tuple[np.ndarray, tuple[int, int]]:
        """Resize a normalised picture to the network input by cubic interpolation; overshoots are not clipped.

        Args:
            image: float32 ``(H, W)`` or ``(H, W, 3)``.
            out: Where to write: float32 ``(3, S, S)``, or ``(1, S, S)`` for ``(H, W)``; a new array if None.

        Returns:
            float32 ``(3, S, S)`` or ``out``, and ``(h, w)`` of its top-left part that shows the picture.
        """
        content = self.content_size(image.shape[:2])
        return self._framed(resize_image(image, content, self.geometry), out), content

    def _framed(self, resized: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Put what has its size already into the top-left part of the input; the rest is 0."""
        height, width = resized.shape[:2]
        frame = np.empty((3, self.size, self.size), dtype=np.float32) if out is None else out
        frame[:, height:] = 0
        frame[:, :height, width:] = 0
        frame[:, :height, :width] = resized if resized.ndim == 2 else resized.transpose(2, 0, 1)
        return frame

    def _resized_first(self, picture: np.ndarray) -> np.ndarray:
        """Resize an 8-bit picture to its size in the network input, and normalise it."""
        height, width = self.content_size(picture.shape[:2])
        if self.interpolation == "bilinear":
            resized = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))
        elif self.interpolation == "bicubic":
            pixels = torch.tensor(picture, dtype=torch.float32).permute(2, 0, 1)[None]
            pixels = F.interpolate(pixels, (height, width), mode="bicubic", align_corners=False, antialias=True)
            resized = pixels[0].clamp(0, 255).permute(1, 2, 0).numpy()
        else:
            how = cv2.INTER_AREA if self.interpolation == "area" else cv2.INTER_NEAREST
            resized = cv2.resize(picture, (width, height), interpolation=how)
        return self.normalised(resized)

    def fit_mask(self, mask: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Resize a mask to the network input by nearest neighbour, under the picture's geometry.

        Args:
            mask: uint8 ``(H, W)``.
            out: Where to write: uint8 ``(S, S)``; a new array if None.

        Returns:
            uint8 ``(S, S)``; padding is background.
        """
        content = self.content_size(mask.shape[:2])
        frame = np.empty((self.size, self.size), dtype=np.uint8) if out is None else out
        frame[content[0] :] = 0
        frame[: content[0], content[1] :] = 0
        frame[: content[0], : content[1]] = resize_labels(mask, content, self.geometry)
        return frame

    def content_size(self, size: tuple[int, ...]) -> tuple[int, int]:
        """Give the size ``(h, w)`` in the network input of a picture of ``(H, W)`` pixels."""
        if self.resize == "squash":
            return self.size, self.size
        scale = self.size / max(size)
        if self.interpolation == "cubic":
            return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
        return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))  # SAM rounds halves up

    def case(self, size: tuple[int, ...], case_id: str = "", source: str = "", **place: Any) -> Case:
        """Say how a picture of ``(H, W)`` pixels lies in the network input; the other arguments are the case's own."""
        return Case(case_id, source, (size[0], size[1]), self.content_size(size[:2]), geometry=self.geometry, **place)


def prepare_image(
    picture: np.ndarray,
    view: View,
    case_id: str = "",
    *,
    source: str = "",
    spacing: tuple[float, ...] | None = None,
    slice_index: int = 0,
    num_slices: int = 1,
    label: np.ndarray | None = None,
    move: Move | None = None,
    out: np.ndarray | None = None,
    mask_out: np.ndarray | None = None,
) -> Frame:
    """Turn one picture into network input: normalise, augment, resize; the same for training, test and prediction.

    Args:
        picture: ``(H, W)`` or ``(H, W, 3)``, integers or floating point, as read from a file; uint8 ``(H, W, 3)`` for a
            published recipe (any ``interpolation`` but ``cubic``). With ``normalise: stored``, the slices of a volume
            must have been normalised as a whole before.
        view: Normalisation and geometry.
        case_id: This and ``source``, ``spacing``, ``slice_index`` and ``num_slices`` go into the ``Case``.
        source: The file.
        spacing: Voxel size in mm.
        slice_index: From 0.
        num_slices: Of the volume.
        label: uint8 ``(H, W)`` class ids, or None.
        move: Augmentation between normalising and resizing.
        out: Where to write the image, see ``View.fit_image``.
        mask_out: Where to write the mask, see ``View.fit_mask``.

    Returns:
        Image, case and mask. The case tells the size before any augmentation.

    Raises:
        UserError: If the picture has no pixels or another number of channels.
    """
    if picture.ndim not in (2, 3) or (picture.ndim == 3 and picture.shape[2] != 3) or 0 in picture.shape:
        raise UserError(
            f"{source or case_id or 'A picture'} cannot be brought to the network's size.",
            expected="(height, width) or (height, width, 3)",
            found=f"shape {picture.shape}",
            fix="save it as a grey or an RGB picture",
        )
    if view.interpolation == "cubic":
        image = view.normalised(picture)
        if move is not None:
            image, label = move(image, label)
        frame, _ = view.fit_image(image, out)
    else:
        frame = view._framed(view._resized_first(picture), out)
    place = {"spacing": spacing, "slice_index": slice_index, "num_slices": num_slices}
    case = view.case(picture.shape, case_id, source, **place)
    return Frame(frame, case, None if label is None else view.fit_mask(label, mask_out))


def on_input(xy: Tensor, case: Case) -> Tensor:
    """Bring coordinates from pixels of the image to pixels of the network input, as SAM's predictor does.

    Args:
        xy: ``(..., 2)`` as (x, y), or ``(..., 4)`` as (x0, y0, x1, y1).
        case: The image's.

    Returns:
        The same shape.
    """
    (height, width), (h, w) = case.original_size, case.content_size
    dtype = torch.promote_types(xy.dtype, torch.float32)  # whole numbers would round the scale to 0
    scale = torch.tensor([w / width, h / height], dtype=dtype, device=xy.device)
    return xy * scale.repeat(xy.shape[-1] // 2)


def to_original_size(maps: Tensor, size: int, case: Case) -> Tensor:
    """Bring maps to the size of the image: enlarged to the input, padding cut off, resized; bilinear.

    Args:
        maps: ``(N, L, L)``, such as SAM's low-resolution logits, or probabilities ``(K, S, S)``.
        size: S, the input's side.
        case: The image's.

    Returns:
        Float ``(N, H, W)``.
    """
    if len(maps) == 0:
        return maps.new_empty(0, *case.original_size)
    maps = maps[:, None]
    if maps.shape[-1] != size:
        maps = F.interpolate(maps, (size, size), mode="bilinear", align_corners=False)
    content = maps[..., : case.content_size[0], : case.content_size[1]]
    corners = case.geometry == "corner_aligned"
    return F.interpolate(content, case.original_size, mode="bilinear", align_corners=corners)[:, 0]


def _inverse(extent: float) -> float:
    return 1.0 / extent if extent > 0 else 0.0
