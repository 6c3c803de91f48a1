"""DCNet: decoupled consistency (Chen et al., MICCAI 2023), the authors' trainer for ACDC."""

from typing import Any

import torch
from torch import Tensor

from lightning_samseg.losses.consistency import attention_distance, directed_mse, probabilities
from lightning_samseg.losses.dice_ce import cross_entropy_loss, dice_loss
from lightning_samseg.losses.distributed import mean_over_ranks
from lightning_samseg.methods.base import BaseMethod
from lightning_samseg.metrics.on_device import agreement, empty_fraction
from lightning_samseg.models.branched_unet import NetworkConfig, build_unet, take_channels
from lightning_samseg.semi.ramps import ConsistencyConfig
from lightning_samseg.types import SemiBatch


class DcNet(BaseMethod):
    """DCNet. Two decoders on one encoder; what both are sure of is treated apart from what they are not.

    With p_i the softmax of decoder i's logits z_i, m_i the mean over pixels of ``max_k p_i``, and sg no gradient::

        tau <- clip(min_i((1 - r) tau + r m_i), 0.25, 0.95),   r = (t + 1) / N,   tau = 1 / K at first
        M = [p_1 > tau] and [p_2 > tau]                                            for each channel
        X = CE(M z_1, sg argmax M p_2) + CE(M z_2, sg argmax M p_1)                without M if min_i m_i >= 0.95
        Q = mean((sg(G_1 s_1) - G_1 s_2)^2) + mean((sg(G_2 s_2) - G_2 s_1)^2)      s_i = softmax(z_i / T)
            G_1 = not M and p_1 > p_2, G_2 the reverse: the surer decoder teaches
        F = sum over levels of mean((at(e) - sg at(d))^2)                          ``losses.consistency.attention``
        L = Dice_1 + Dice_2 + (1 - w(t)) 1000 F + w(t) 1000 Q + 0.3 X              w(t) = lambda r(t // 150, 200)

    F compares the encoder's features e with the second decoder's maps d of the same size, all levels but the coarsest.
    X, Q and F run over all images, labelled ones, too. As published the code does not start, for want of a function
    ``mse_loss``; the mean of squares is what it stands for. The first decoder predicts.

    Args:
        network: Which.
        consistency: Where the weight w ends, and how it rises.
        scale: Factor on F and Q, whose means run over many zeros.
        cross_weight: Factor on X.
        temperature: T.
        lowest_threshold: Of tau.
        highest_threshold: Of tau; also the mean confidence from which X is taken without M.
        base: Arguments of :class:`BaseMethod`. The authors': SGD, lr 0.01, weight decay 1e-4, constant (poly_power 0).
    """

    uses_unlabelled = True
    threshold: Tensor

    def __init__(
        self,
        network: NetworkConfig = NetworkConfig(),
        consistency: ConsistencyConfig = ConsistencyConfig(),
        scale: float = 1000.0,
        cross_weight: float = 0.3,
        temperature: float = 0.5,
        lowest_threshold: float = 0.25,
        highest_threshold: float = 0.95,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.save_hyperparameters()
        self.in_channels = network.in_channels
        self.consistency = consistency
        self.scale = scale
        self.cross_weight = cross_weight
        self.temperature = temperature
        self.lowest_threshold = lowest_threshold
        self.highest_threshold = highest_threshold
        self.network = build_unet(network, self.num_classes, ("bilinear", "transposed"))
        self.register_buffer("threshold", torch.tensor(1 / (self.num_classes + 1)))

    def training_step(self, batch: SemiBatch, batch_idx: int) -> Tensor:
        """One iteration of ``L``."""
        labelled, target = batch["labelled"]["image"], batch["labelled"]["mask"]
        images = take_channels(torch.cat([labelled, batch["unlabelled"]["image"]]), self.in_channels)
        features = self.network.encode(images)
        (z_1, _), (z_2, maps) = (self.network.decode(features, branch) for branch in (0, 1))
        p_1, p_2 = probabilities(z_1), probabilities(z_2)

        confidences = self.raise_threshold(p_1.detach(), p_2.detach())
        both_sure = (p_1 > self.threshold) & (p_2 > self.threshold)
        cross = self.cross_loss((z_1, z_2), (p_1.detach(), p_2.detach()), both_sure, confidences.min())
        directed = directed_mse(p_1, p_2, ~both_sure, self.temperature, (z_1, z_2))
        directed = directed + directed_mse(p_2, p_1, ~both_sure, self.temperature, (z_2, z_1))
        levels = [pair for pair in zip(features[:-1], maps, strict=True) if pair[0].shape[1]]
        distance = torch.stack([attention_distance(*pair) for pair in levels]).sum()
        supervised = dice_loss(z_1[: len(labelled)], target) + dice_loss(z_2[: len(labelled)], target)
        weight = self.consistency.at(self.global_step, self.schedule_iters)
        loss = supervised + self.scale * ((1 - weight) * distance + weight * directed) + self.cross_weight * cross

        guesses = z_1.detach().argmax(1), z_2.detach().argmax(1)
        self.log("train/loss", loss.detach(), prog_bar=True)
        self.log_dict(
            {
                "train/supervised": supervised.detach(),
                "train/features": distance.detach(),
                "train/directed": directed.detach(),
                "train/cross": cross.detach(),
                "train/consistency_weight": weight,
                "train/threshold": self.threshold.clone(),
                "train/confidence": confidences.min(),
                "train/kept": both_sure.any(1).float().mean(),
                "train/pseudo_dsc": agreement(guesses[0][: len(labelled)], target),
                "train/agreement": agreement(guesses[0][len(labelled) :], guesses[1][len(labelled) :]),
                "train/empty_predictions": empty_fraction(guesses[0]),
            }
        )
        return loss

    def raise_threshold(self, *p: Tensor) -> Tensor:
        """Move tau by this step's mean confidences, those of all ranks; they come back, one for each decoder."""
        confidences = mean_over_ranks(torch.stack([each.amax(1).mean() for each in p]))
        share = (self.global_step + 1) / self.schedule_iters
        moved = ((1 - share) * self.threshold + share * confidences).min()
        self.threshold.copy_(moved.clamp(self.lowest_threshold, self.highest_threshold))
        return confidences

    def cross_loss(
        self, z: tuple[Tensor, Tensor], p: tuple[Tensor, Tensor], both_sure: Tensor, confidence: Tensor
    ) -> Tensor:
        """X. A pixel without a kept channel has logits of 0 and label 0: it adds ln K, and no gradient.

        Args:
            z: Logits of both decoders.
            p: Their probabilities.
            both_sure: M.
            confidence: The smaller mean confidence; above the highest threshold everything is kept, decided on the
                device.
        """
        kept = both_sure | (confidence >= self.highest_threshold)
        masked = [logits.masked_fill(~kept, 0) for logits in z]
        labels = [each.masked_fill(~kept, 0).argmax(1) for each in p]
        return cross_entropy_loss(masked[0], labels[1]) + cross_entropy_loss(masked[1], labels[0])

    def predict_probabilities(self, image: Tensor) -> Tensor:
        """Softmax ``(B, K, S, S)`` of the first decoder."""
        return probabilities(self.network(take_channels(image, self.in_channels)))
