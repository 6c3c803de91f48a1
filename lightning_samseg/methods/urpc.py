"""URPC: uncertainty-rectified pyramid consistency (Luo et al., MICCAI 2021), as SSL4MIS trains it in 2-D."""

from typing import Any

import torch
from torch import Tensor

from lightning_samseg.losses.consistency import probabilities, rectified_pyramid
from lightning_samseg.losses.dice_ce import dice_ce_loss
from lightning_samseg.methods.base import BaseMethod
from lightning_samseg.metrics.on_device import agreement, confidence, empty_fraction
from lightning_samseg.models.branched_unet import NetworkConfig, build_unet, take_channels
from lightning_samseg.semi.noise import drop_elements, drop_most_active, multiply_noise
from lightning_samseg.semi.ramps import ConsistencyConfig
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
        network: Which.
        supervised_dice: Share of Dice in the loss on labelled images; the rest is cross-entropy.
        consistency: Weight of the consistency loss.
        base: Arguments of :class:`BaseMethod`. The authors': SGD, lr 0.01, weight decay 1e-4, no warm-up.
    """

    uses_unlabelled = True

    def __init__(
        self,
        network: NetworkConfig = NetworkConfig(),
        supervised_dice: float = 0.5,
        consistency: ConsistencyConfig = ConsistencyConfig(),
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.save_hyperparameters()
        self.in_channels = network.in_channels
        self.supervised_dice = supervised_dice
        self.consistency = consistency
        self.network = build_unet(network, self.num_classes, side_heads=True)

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
        weight = self.consistency.at(self.global_step, self.schedule_iters)
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
