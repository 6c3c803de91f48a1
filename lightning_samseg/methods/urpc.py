"""URPC: uncertainty-rectified pyramid consistency (Luo et al., MICCAI 2021), as SSL4MIS trains it in 2-D."""

from typing import Any, Literal

import torch
from torch import Tensor

from lightning_samseg.losses.consistency import probabilities, rectified_pyramid
from lightning_samseg.losses.dice_ce import dice_ce_loss
from lightning_samseg.methods.base import BaseMethod
from lightning_samseg.methods.unused_options import refuse_unused
from lightning_samseg.metrics.on_device import agreement, confidence, empty_fraction
from lightning_samseg.models.branched_unet import NetworkName, build_unet, take_channels
from lightning_samseg.semi.noise import drop_elements, drop_most_active, multiply_noise
from lightning_samseg.semi.ramps import staircase_ramp
from lightning_samseg.types import SemiBatch


class Urpc(BaseMethod):
    """URPC. One U-Net with a prediction at each of four scales, which learn to agree where they are sure.

    Scale 0 is the main head; the others are heads on the decoder's maps at 1/2, 1/4 and 1/8, enlarged by nearest
    neighbour. In front of these heads the maps are perturbed: noise at 1/2, feature dropout at 1/4, dropout at 1/8
    (``semi.noise``). With p_s the softmax of scale s, ``q = mean_s p_s`` and, per pixel,
    ``D_s = sum_k q (log q - log p_s)`` and ``e_s = exp(-D_s)``::

        L = 1/8 sum_s (CE_s + Dice_s) + w(t) C         w(t) = lambda r(t // 150, 200)
        C = 1/4 sum_s [mean((q - p_s)^2 e_s) / (mean(e_s) + 1e-8) + mean(D_s)]     on unlabelled images

    r is the ramp of ``semi.ramps``. No gradient is stopped: q learns, too.

    Args:
        network: See ``NetworkName``.
        in_channels: Channels of the input: 1 for grey images, as in the papers, or 3.
        encoder_weights: ``imagenet`` for a pretrained encoder, where the network has one.
        supervised_dice: Share of Dice in the loss on labelled images; the rest is cross-entropy.
        consistency: lambda, the highest weight of the consistency loss.
        rampup_iters: Iterations of its ramp; None for the length of the run, 0 for no ramp.
        rampup_stairs: In how many stairs it rises: the authors' 200 of 150 iterations.
        base: Arguments of :class:`BaseMethod`. The authors': SGD, lr 0.01, weight decay 1e-4, no warm-up.
    """

    uses_unlabelled = True

    def __init__(
        self,
        network: NetworkName = "paper",
        in_channels: Literal[1, 3] = 3,
        encoder_weights: Literal["imagenet"] | None = None,
        supervised_dice: float = 0.5,
        consistency: float = 0.1,
        rampup_iters: int | None = None,
        rampup_stairs: int = 200,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.save_hyperparameters()
        refuse_unused(self)
        self.in_channels = in_channels
        self.supervised_dice = supervised_dice
        self.consistency = consistency
        self.rampup_iters = rampup_iters
        self.rampup_stairs = rampup_stairs
        self.network = build_unet(
            network, self.num_classes, in_channels, side_heads=True, encoder_weights=encoder_weights
        )

    def training_step(self, batch: SemiBatch, batch_idx: int) -> Tensor:
        """One iteration of ``L``."""
        labelled, target = batch["labelled"]["image"], batch["labelled"]["mask"]
        images = take_channels(torch.cat([labelled, batch["unlabelled"]["image"]]), self.in_channels)
        main, stages = self.network.decode(self.network.encode(images))
        scales = [main, *self.network.side_logits(self.perturb(stages), images.shape[-1])]
        supervised = torch.stack(
            [dice_ce_loss(scale[: len(labelled)], target, self.supervised_dice) for scale in scales]
        ).mean()
        terms = rectified_pyramid([scale[len(labelled) :] for scale in scales])
        consistency = torch.stack(terms).mean()
        rampup = self.schedule_iters if self.rampup_iters is None else self.rampup_iters
        weight = self.consistency * staircase_ramp(self.global_step, rampup, self.rampup_stairs)
        loss = supervised + weight * consistency

        guess = main.detach().argmax(1)
        self.log("train/loss", loss.detach(), prog_bar=True)
        self.log_dict({f"train/consistency_scale{s}": term.detach() for s, term in enumerate(terms)})
        self.log_dict(
            {
                "train/supervised": supervised.detach(),
                "train/consistency": consistency.detach(),
                "train/consistency_weight": weight,
                "train/confidence": confidence(probabilities(main[len(labelled) :].detach())),
                "train/pseudo_dsc": agreement(guess[: len(labelled)], target),
                "train/empty_predictions": empty_fraction(guess),
            }
        )
        return loss

    def perturb(self, stages: list[Tensor]) -> list[Tensor]:
        """Perturb what the side heads see: of the stages, finest first, those at 1/2, 1/4 and 1/8."""
        device = stages[0].device
        own = torch.Generator(device).manual_seed(self.draw_seed("dropout"))
        shared = torch.Generator(device).manual_seed(self.draw_seed("maps", same_on_all_ranks=True))
        half, quarter, eighth = stages[1:4]
        return [
            stages[0],
            multiply_noise(half, shared),
            drop_most_active(quarter, shared),
            drop_elements(eighth, own),
        ]

    def predict_probabilities(self, image: Tensor) -> Tensor:
        """Softmax ``(B, K, S, S)`` of the main head."""
        return probabilities(self.network(take_channels(image, self.in_channels)))
