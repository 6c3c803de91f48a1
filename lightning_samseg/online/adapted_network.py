"""What learns in DirectOL (AuxOL section 4.3): an adapted SAM's adapter, where AuxOL has a network beside."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_samseg.adapters.adapted_sam import AdaptedSam
from lightning_samseg.errors import UserError
from lightning_samseg.losses.binary import dice_loss
from lightning_samseg.online.crop_network import EntryLoss, network_target
from lightning_samseg.online.predictions import Look
from lightning_samseg.prompts.boxes import Box


class AdaptedNetwork:
    """An adapted SAM that is trained in a stream, one process only.

    What it sees is a whole preprocessed image; its target is the mask inside one prompt's crop at AuxOL's crop size,
    with the places of the mask's pixels in the image beside. The loss is that of the answer at these places, so that
    both methods learn from the same pixels. The paper leaves this open, as it does DirectOL's batch and rate.

    Args:
        module: The adapted SAM that learns; not the one that gives the baseline.
        trained: ``adapter``: LoRA or the bottlenecks in the encoder, as the paper. ``all``: with the decoders.
        at_once: Images in one forward and backward pass; memory grows with it, the result does not depend on it.
        loss: One value per entry.
        lr: Learning rate of AdamW.
        weight_decay: Of AdamW.
        crop_size: ``S``, side in pixels at which masks and answers are compared.

    Raises:
        UserError: If there is nothing to train, or a number is out of range.
    """

    def __init__(
        self,
        module: AdaptedSam,
        *,
        trained: Literal["adapter", "all"] = "adapter",
        at_once: int = 1,
        loss: EntryLoss = dice_loss,
        lr: float = 5e-4,
        weight_decay: float = 5e-4,
        crop_size: int = 128,
    ) -> None:
        if at_once < 1:
            raise UserError(f"at_once {at_once}", expected="at least 1", fix="use 1, or more if the memory allows")
        if crop_size < 32 or crop_size % 32:
            raise UserError(f"crop size {crop_size}", expected="a multiple of 32", fix="use 128 as AuxOL's authors do")
        module.train_only(trained)
        self.module, self.at_once, self.loss, self.crop_size = module, at_once, loss, crop_size
        self.in_channels = 3
        self.trained = {name: each for name, each in module.named_parameters() if each.requires_grad}
        self.optimizer = torch.optim.AdamW(self.trained.values(), lr=lr, weight_decay=weight_decay)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.module.parameters()).device

    @torch.no_grad()
    def look(self, image: Tensor, sam_logits: Tensor, crops: Sequence[Box]) -> list[Look]:
        """Answer the prompts of an image with the adapter as it is.

        Args:
            image: uint8 ``(3, H, W)``.
            sam_logits: Not looked at.
            crops: Boxes inside the image, at least one.
        """
        pixels, geometry = self.module.preprocess(image.permute(1, 2, 0).cpu().numpy())
        pixels = pixels.to(self.device)
        low_res = self.module.foreground(pixels)
        answer = self.module.restore(low_res[0], geometry)[0]
        return [
            Look(
                pixels[0],
                read(low_res, self.places(crop, geometry.original_size)[None])[0],
                answer[crop.slices].clone(),
            )
            for crop in crops
        ]

    def target(self, mask: Tensor, crop: Box, image_size: tuple[int, int]) -> Tensor:
        """The mask, and where its pixels lie: float ``(3, S, S)``, see :meth:`places`."""
        return torch.cat([network_target(mask, self.crop_size), self.places(crop, image_size).permute(2, 0, 1)])

    def update(self, images: Tensor, targets: Tensor) -> Tensor:
        """Make one step on the mean loss of a batch, some entries at a time.

        Args:
            images: ``(n, 3, side, side)``.
            targets: ``(n, 3, S, S)``.

        Returns:
            Losses ``(n,)`` before the step.
        """
        latest = targets.new_zeros(len(images))
        self.optimizer.zero_grad()
        for first in range(0, len(images), self.at_once):
            some = slice(first, first + self.at_once)
            with torch.enable_grad():
                answers = read(self.module.foreground(images[some]), targets[some, 1:].permute(0, 2, 3, 1))
                losses = self.loss(answers, targets[some, :1])
                torch.autograd.backward(losses.sum() / len(images))
            latest[some] = losses.detach()
        self.optimizer.step()
        torch.clear_autocast_cache()  # in a step of bf16-mixed, casts of the weights as they were would serve on
        return latest

    def state_dict(self, weights: bool = True) -> dict[str, Any]:
        """What was trained, which nobody else has, and the optimizer unless the caller saves it itself."""
        state: dict[str, Any] = {"trained": {name: each.detach().clone() for name, each in self.trained.items()}}
        return state | ({"optimizer": self.optimizer.state_dict()} if weights else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what of ``state_dict()`` is there.

        Raises:
            UserError: If it is of another adapter.
        """
        shapes = {name: each.shape for name, each in state.get("trained", {}).items()}
        if shapes != {name: each.shape for name, each in self.trained.items()}:
            raise UserError(
                "The checkpoint was written by a run with another adapter, or with other parts of it trained.",
                expected=f"{len(self.trained)} trained entries",
                found=f"{len(shapes)}, or of other shapes",
                fix="resume with the --model.sam.adapter and --model.trained of that run",
            )
        with torch.no_grad():
            for name, each in self.trained.items():
                each.copy_(state["trained"][name])
        if "optimizer" in state:
            self.optimizer.load_state_dict(state["optimizer"])

    def places(self, crop: Box, image_size: tuple[int, int]) -> Tensor:
        """Where the pixels of a crop, resized to S x S, lie in the network's frame: ``(S, S, 2)``, (x, y) in -1..1."""
        geometry = self.module.view.case(image_size)
        side = self.module.image_size
        corners = geometry.geometry == "corner_aligned"
        steps = (torch.arange(self.crop_size, device=self.device) + 0.5) / self.crop_size
        axes = []
        for start, length, whole, inside in (
            (crop.x0, crop.width, image_size[1], geometry.content_size[1]),
            (crop.y0, crop.height, image_size[0], geometry.content_size[0]),
        ):
            place = start + steps * length  # in pixels of the image, their borders being whole numbers
            if corners:  # the centres of the first and of the last pixels coincide
                place = 0.5 + (place - 0.5) * (inside - 1) / max(whole - 1, 1)
            else:
                place *= inside / whole
            axes.append(2 * place / side - 1)
        return torch.stack(torch.meshgrid(*axes, indexing="xy"), dim=-1)


def read(low_res: Tensor, places: Tensor) -> Tensor:
    """Read logits at given places, bilinear, with gradients.

    Args:
        low_res: Float ``(N, 1, L, L)`` over the network's frame.
        places: ``(N, S, S, 2)``, (x, y), -1 and 1 being the frame's borders.

    Returns:
        Float ``(N, 1, S, S)``.
    """
    return F.grid_sample(low_res, places, mode="bilinear", padding_mode="border", align_corners=False)
