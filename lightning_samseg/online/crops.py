"""From image and logits to what the auxiliary network sees, and back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lightning_samseg.losses.binary import UNKNOWN
from lightning_samseg.prompts.boxes import Box
from lightning_samseg.types import IGNORED

ExtraChannel = Literal["mask", "probability", "logits"]
CropResize = Literal["tensor", "pil"]


@dataclass(frozen=True)
class CropConfig:
    """What the auxiliary network sees: the arguments under ``crop:``.

    Args:
        size: Side of the network's input in pixels, a multiple of 32. The paper does not give it; 128 is the authors'.
        extra_channel: SAM's output as a fourth channel. ``auto``: the ``mask`` for boxes, none for points (Sec. 3.3).
        resize: ``tensor``: every channel of a crop is resized for itself. ``pil`` (authors): as a PIL picture, RGBA
            with SAM's mask, so that the network sees black wherever that mask is 0; see :func:`network_input`.
    """

    size: int = 128
    extra_channel: Literal["auto", "none", "mask", "probability", "logits"] = "auto"
    resize: CropResize = "tensor"


def network_input(
    image: Tensor,
    sam_logits: Tensor,
    crops: Sequence[Box],
    size: int,
    extra_channel: ExtraChannel | None,
    resize: CropResize = "tensor",
) -> Tensor:
    """Cut out the crops and resize them, bilinear with antialiasing.

    Args:
        image: Float ``(3, H, W)`` in [0, 1].
        sam_logits: Float ``(m, H, W)``, one map per prompt.
        crops: ``m`` boxes inside the image.
        size: ``S``, side of the network's input in pixels.
        extra_channel: SAM's output as a fourth channel (Sec. 3.3): its ``mask`` in {0, 1} before resizing (authors'
            code), its ``probability``, or its ``logits`` as they are.
        resize: ``tensor``: every channel for itself, in floating point. ``pil`` (authors' code, ``main.py`` around line
            206): the crop is a PIL picture of 8 bits, RGBA where SAM's mask is the fourth channel. PIL premultiplies
            by alpha, so that RGB is black wherever SAM's mask is 0, unless the crop is ``S x S`` already and nothing is
            resized. With no extra channel, or with the mask.

    Returns:
        Float ``(m, C, S, S)`` with C = 3, or 4 with the extra channel.
    """
    pieces = [image.new_empty(0, 3 if extra_channel is None else 4, size, size)]
    for logits, crop in zip(sam_logits, crops, strict=True):
        rows, columns = crop.slices
        if resize == "pil":
            mask = logits[rows, columns] > 0 if extra_channel == "mask" else None
            pieces.append(_resized_by_pil(image[:, rows, columns], mask, size).unsqueeze(0))
            continue
        piece = image[:, rows, columns]
        if extra_channel is not None:
            sam = logits[rows, columns].unsqueeze(0)
            if extra_channel == "mask":
                sam = (sam > 0).to(image.dtype)
            elif extra_channel == "probability":
                sam = sam.sigmoid()
            piece = torch.cat([piece, sam])
        pieces.append(_resized(piece.unsqueeze(0), (size, size)))
    return torch.cat(pieces)


def network_target(mask: Tensor, size: int) -> Tensor:
    """Resize a mask to the network's output: a pixel is foreground where at least half of it was.

    Args:
        mask: bool or uint8 ``(h, w)``, the mask inside the crop: 0, 1, or ``IGNORED``.
        size: ``S``.

    Returns:
        Float ``(1, S, S)`` in {0, 1}, or ``UNKNOWN`` where less than half of a pixel is known; else its known part
        decides.
    """
    parts = torch.stack([mask == 1, mask != IGNORED]).float()[None]
    foreground, known = _resized(parts, (size, size))[0].unsqueeze(1)
    return torch.where(known < 0.5, UNKNOWN, (foreground >= 0.5 * known).float())


def crop_logits(network_logits: Tensor, crop: Box) -> Tensor:
    """Resize the network's output for one crop to the crop's own size, bilinear.

    Args:
        network_logits: Float ``(1, S, S)``.
        crop: The crop.

    Returns:
        Float ``(crop.height, crop.width)``.
    """
    return F.interpolate(
        network_logits.unsqueeze(0), size=(crop.height, crop.width), mode="bilinear", align_corners=False
    )[0, 0]


def paste(pieces: Sequence[Tensor], crops: Sequence[Box], image_size: tuple[int, int], device: torch.device) -> Tensor:
    """Union of thresholded crops; background outside every crop.

    Args:
        pieces: Logits ``(h, w)`` of every crop.
        crops: Their boxes.
        image_size: ``(H, W)``.
        device: Where the logits are.

    Returns:
        bool ``(H, W)``.
    """
    mask = torch.zeros(image_size, dtype=torch.bool, device=device)
    for logits, crop in zip(pieces, crops, strict=True):
        mask[crop.slices] |= logits > 0
    return mask


def _resized_by_pil(piece: Tensor, mask: Tensor | None, size: int) -> Tensor:
    """A crop, float ``(3, h, w)`` in [0, 1], with its mask, bool ``(h, w)``, as float ``(3 or 4, size, size)``."""
    channels = (piece * 255).round().to(torch.uint8)
    if mask is not None:
        channels = torch.cat([channels, 255 * mask.to(torch.uint8).unsqueeze(0)])
    pixels = np.ascontiguousarray(channels.permute(1, 2, 0).cpu().numpy())
    resized = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))
    return torch.from_numpy(resized.copy()).to(piece.device).permute(2, 0, 1) / 255


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False, antialias=True)
