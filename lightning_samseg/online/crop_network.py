"""What learns in AuxOL: a small network that sees one crop for each prompt (Listing 1, lines 3 to 5 and 16 to 19)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from lightning_samseg.errors import UserError
from lightning_samseg.log import logger
from lightning_samseg.losses.binary import UNKNOWN, dice_loss
from lightning_samseg.models.precision import multiplies_bf16
from lightning_samseg.models.unet import AuxiliaryPrecision
from lightning_samseg.online.distributed import rank_and_size, sum_over_ranks
from lightning_samseg.online.predictions import Look
from lightning_samseg.prompts.boxes import Box
from lightning_samseg.types import IGNORED

ExtraChannel = Literal["mask", "probability", "logits"]
CropResize = Literal["tensor", "pil"]
EntryLoss = Callable[[Tensor, Tensor], Tensor]
"""Logits and targets ``(N, 1, S, S)`` -> losses ``(N,)``."""


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


class CropNetwork:
    """An auxiliary network beside SAM. Predicts in evaluation mode, learns in training mode.

    In evaluation the prompts of an image share one forward pass without influence on each other. Where several
    processes learn together, each computes the loss of every R-th entry, and the gradients add up to those of the mean
    over all entries. Networks in which the entries of a batch meet (BatchNorm) or that draw random numbers (dropout)
    compute all entries on every rank: equal to one process, too, but no faster.

    Args:
        module: Maps crops ``(N, C, S, S)`` to logits ``(N, 1, S, S)``; on its device already.
        loss: One value per entry; the paper names Dice as its example.
        lr: Learning rate of AdamW.
        weight_decay: Of AdamW. The paper does not give it; this is the authors' code's.
        crop_size: ``S`` in pixels, a multiple of 32. The paper does not give it; this is the authors' code's.
        extra_channel: SAM's output as a fourth channel of the crops; the paper's choice for box prompts only.
        crop_resize: How crops are resized, see :func:`network_input`.
        precision: In which the module predicts and learns, see ``models.unet.AuxiliaryConfig``.

    Raises:
        UserError: ``crop_size`` is not a multiple of 32, or ``crop_resize`` does not go with ``extra_channel``.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        loss: EntryLoss = dice_loss,
        lr: float = 5e-4,
        weight_decay: float = 5e-4,
        crop_size: int = 128,
        extra_channel: ExtraChannel | None = None,
        crop_resize: CropResize = "tensor",
        precision: AuxiliaryPrecision = "trainer",
    ) -> None:
        if crop_size < 32 or crop_size % 32:
            raise UserError(f"crop size {crop_size}", expected="a multiple of 32", fix="use 128 as the authors do")
        if crop_resize == "pil" and extra_channel not in (None, "mask"):
            raise UserError(
                f"crop_resize pil makes a picture of 8 bits, which cannot hold SAM's {extra_channel}.",
                expected="extra_channel mask or none, as in the authors' code",
                fix="set --model.crop.extra_channel auto, or --model.crop.resize tensor",
            )
        self.module, self.loss = module, loss
        self.crop_size, self.extra_channel = crop_size, extra_channel
        self.crop_resize: CropResize = crop_resize
        self.in_channels = 3 if extra_channel is None else 4
        self.precision: AuxiliaryPrecision = precision
        # Fused: one pass over the weights and their moments instead of ten.
        self.optimizer = torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=weight_decay, fused=True)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.module.parameters()).device

    @torch.no_grad()
    def look(self, image: Tensor, sam_logits: Tensor, crops: Sequence[Box]) -> list[Look]:
        """Answer the prompts of an image with what has been learned so far.

        Args:
            image: ``(3, H, W)``, uint8, or float in [0, 1].
            sam_logits: Float ``(m, H, W)`` on the network's device.
            crops: ``m`` boxes inside the image, at least one.
        """
        image = image.to(self.device, non_blocking=True)
        image = image.float() / 255 if image.dtype == torch.uint8 else image
        inputs = network_input(image, sam_logits, crops, self.crop_size, self.extra_channel, self.crop_resize)
        self.module.eval()
        answers = self._answers(inputs).float()
        return [
            Look(seen, answer, crop_logits(answer, crop))
            for seen, answer, crop in zip(inputs, answers, crops, strict=True)
        ]

    def target(self, mask: Tensor, crop: Box, image_size: tuple[int, int]) -> Tensor:
        """What is to be answered: the mask at the network's size, float ``(1, S, S)``; see :func:`network_target`."""
        return network_target(mask, self.crop_size)

    def update(self, crops: Tensor, targets: Tensor) -> Tensor:
        """Make one step on the mean loss over a batch; every rank with the same batch.

        Args:
            crops: ``(n, C, S, S)``.
            targets: ``(n, 1, S, S)``.

        Returns:
            Losses ``(n,)`` before the step.
        """
        count = len(crops)
        rank, size = rank_and_size()
        # This rank's entries, and how much of their loss is its share: gradients and losses are summed over the ranks.
        own, share = slice(rank, None, size), 1.0
        if size > 1 and not entries_stay_apart(self.module):
            own, share = slice(None), 1 / size
        elif rank >= count:
            own, share = slice(0, 1), 0.0  # takes part without an entry of its own: gradients of zero
        self.module.train()
        with torch.enable_grad():
            losses = self.loss(self._answers(crops[own]), targets[own])
            latest = losses.new_zeros(count)
            latest[own] = share * losses.detach()
            sum_over_ranks([latest])
            self._step(losses.sum() * (share / count))
        return latest

    def _answers(self, crops: Tensor) -> Tensor:
        """The network's logits.

        Raises:
            UserError: If it normalises over the batch, and there is but one value to normalise.
        """
        try:
            if not self._in_bf16:
                return self.module(crops)
            with torch.autocast(self.device.type, torch.bfloat16):
                return self.module(crops)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UserError(
                "The auxiliary network normalises over the batch, which starts with a single crop.",
                expected="more than one pixel at its deepest level",
                found=str(error),
                fix="set a larger --model.crop.size, or --model.auxiliary.network unet17m, which normalises each crop",
            ) from error

    @cached_property
    def _in_bf16(self) -> bool:
        """Whether the module computes in bfloat16 whatever the trainer does; where the device decides, it says so."""
        if self.precision != "auto":
            return self.precision == "bf16"
        fast = multiplies_bf16(self.device)
        logger.info(
            f"The auxiliary network computes in {'bfloat16' if fast else 'the precision of the trainer'}: this "
            f"{self.device.type} {'multiplies' if fast else 'does not multiply'} bfloat16 itself."
        )
        return fast

    def _step(self, loss: Tensor) -> None:
        """Step on this process's share of the mean loss over the batch."""
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        sum_over_ranks(each.grad for each in self.module.parameters() if each.grad is not None)
        self.optimizer.step()
        torch.clear_autocast_cache()  # in a step of bf16-mixed, casts of the weights as they were would serve on

    def state_dict(self, weights: bool = True) -> dict[str, Any]:
        """Network and optimizer; nothing where the caller saves them itself, as Lightning does."""
        if not weights:
            return {}
        return {"auxiliary": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what of ``state_dict()`` is there."""
        if "auxiliary" in state:
            self.module.load_state_dict(state["auxiliary"])
            self.optimizer.load_state_dict(state["optimizer"])


def entries_stay_apart(network: nn.Module) -> bool:
    """Whether a network in training treats the entries of a batch one by one and without chance.

    True of InstanceNorm, GroupNorm and LayerNorm; not of BatchNorm and dropout. Says nothing of layers that are not
    PyTorch's own.
    """
    return not any(isinstance(each, _BatchNorm | _DropoutNd) for each in network.modules())


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
