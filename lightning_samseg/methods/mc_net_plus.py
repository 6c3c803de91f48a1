"""MC-Net+: mutual consistency of three decoders (Wu et al., Medical Image Analysis 2022), the authors' 2-D trainer."""

from itertools import permutations
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_samseg.losses.consistency import probabilities, sharpen
from lightning_samseg.losses.dice_ce import dice_loss
from lightning_samseg.methods.base import BaseMethod
from lightning_samseg.metrics.on_device import agreement, confidence, empty_fraction
from lightning_samseg.models.branched_unet import NetworkConfig, build_unet, take_channels
from lightning_samseg.semi.ramps import ConsistencyConfig
from lightning_samseg.types import SemiBatch


class McNetPlus(BaseMethod):
    """MC-Net+. Three decoders on one encoder, alike but for how they double the size, learn to agree.

    With p_i the softmax of decoder i and ``sh(p) = p^(1/T) / (p^(1/T) + (1 - p)^(1/T))``::

        L = sum_i D(p_i, y) + w(t) sum_{i != j} mean((p_i - sh(p_j))^2)       w(t) = lambda r((t + 1) // 150, 200)

    r is the ramp of ``semi.ramps``. The six pairs are compared on all images, labelled ones, too. The first decoder
    predicts.

    Args:
        network: Which.
        consistency: Weight of the consistency loss.
        temperature: T of the sharpening.
        dice: ``half`` as the authors' code, whose Dice lacks the factor 2: ``1 - sum p y / (sum p^2 + sum y + 1e-10)``,
            from 1/2 to 1 and with half the gradient; the consistency counts twice as much against it. ``full``: Dice.
        stop_gradient: Whether the sharpened maps are targets without gradient, as a reader of the paper expects; in
            the authors' code gradients flow through them.
        base: Arguments of :class:`BaseMethod`. The authors': SGD, lr 0.01, weight decay 1e-4, constant (poly_power 0).
    """

    uses_unlabelled = True

    def __init__(
        self,
        network: NetworkConfig = NetworkConfig(),
        consistency: ConsistencyConfig = ConsistencyConfig(),
        temperature: float = 0.1,
        dice: Literal["half", "full"] = "half",
        stop_gradient: bool = False,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.save_hyperparameters()
        self.in_channels = network.in_channels
        self.consistency = consistency
        self.temperature = temperature
        self.dice = dice
        self.stop_gradient = stop_gradient
        self.network = build_unet(network, self.num_classes, ("bilinear", "transposed", "nearest"))

    def training_step(self, batch: SemiBatch, batch_idx: int) -> Tensor:
        """One iteration of ``L``."""
        labelled, target = batch["labelled"]["image"], batch["labelled"]["mask"]
        images = take_channels(torch.cat([labelled, batch["unlabelled"]["image"]]), self.in_channels)
        features = self.network.encode(images)
        outputs = [self.network.decode(features, branch).logits for branch in range(3)]
        supervised = torch.stack([self.supervised_loss(output[: len(labelled)], target) for output in outputs]).sum()
        maps = [probabilities(output) for output in outputs]
        sharp = [sharpen(p.detach() if self.stop_gradient else p, self.temperature) for p in maps]
        pairs = [(maps[i] - sharp[j]).square().mean() for i, j in permutations(range(3), 2)]
        consistency = torch.stack(pairs).sum()
        weight = self.consistency.at(self.global_step + 1, self.schedule_iters)
        loss = supervised + weight * consistency

        guesses = [output.detach().argmax(1) for output in outputs]
        self.log("train/loss", loss.detach(), prog_bar=True)
        self.log_dict(
            {
                "train/supervised": supervised.detach(),
                "train/consistency": consistency.detach(),
                "train/consistency_weight": weight,
                "train/confidence": confidence(maps[0][len(labelled) :].detach()),
                "train/pseudo_dsc": agreement(guesses[0][: len(labelled)], target),
                "train/agreement": agreement(guesses[0][len(labelled) :], guesses[1][len(labelled) :]),
                "train/empty_predictions": empty_fraction(guesses[0]),
            }
        )
        return loss

    def supervised_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Dice loss of one decoder, or the authors' with half its gradient."""
        if self.dice == "full":
            return dice_loss(logits, target)
        return (1 + dice_loss(logits, target, smooth=1e-10)) / 2

    def predict_probabilities(self, image: Tensor) -> Tensor:
        """Softmax ``(B, K, S, S)`` of the first decoder."""
        return probabilities(self.network(take_channels(image, self.in_channels)))
