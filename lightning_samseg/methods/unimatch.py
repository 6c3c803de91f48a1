"""UniMatch: unified perturbations (Yang et al., CVPR 2023), the authors' trainer for medical images."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_samseg.errors import UserError
from lightning_samseg.losses.consistency import probabilities
from lightning_samseg.losses.dice_ce import dice_ce_loss, dice_loss
from lightning_samseg.methods.base import BaseMethod
from lightning_samseg.metrics.on_device import agreement, empty_fraction
from lightning_samseg.models.branched_unet import NetworkConfig, take_channels
from lightning_samseg.models.sam_config import AdapterConfig, PretrainedSam
from lightning_samseg.semi.mixing import Box, cutmix_boxes, halves, inside
from lightning_samseg.semi.network import build_network
from lightning_samseg.semi.noise import drop_channels
from lightning_samseg.semi.strong import strong_view
from lightning_samseg.types import SemiBatch


class UniMatch(BaseMethod):
    """UniMatch. The network's sure labels of weakly augmented images teach it on three perturbed versions of them.

    One half of the unlabelled images is learned from, the other is mixed in. Labels and confidences of the
    first come from the clean pass in training mode, those of the second from evaluation mode. There are two strong
    views of both (``semi.strong``); in a box of its own, each strong view is replaced by the second half's, and so are
    label and confidence (CutMix). The third version is the weak image with half of the channels of every feature map
    dropped. With D the Dice loss over the pixels whose confidence is at least ``threshold``::

        L = [L_x + 1/4 D_s1 + 1/4 D_s2 + 1/2 D_fp] / 2,        L_x = (CE + Dice) / 2 on labelled images

    An image is truncated to 8 bits before it is perturbed, as the authors do with unlabelled ones.

    Args:
        network: Which.
        supervised_dice: Share of Dice in the loss on labelled images; the rest is cross-entropy.
        threshold: Least confidence of a label that is learned from.
        strong_weight: Factor on the loss of each strong view.
        perturbed_weight: Factor on the loss of the perturbed features.
        feature_dropout: Share of the channels that are dropped.
        cutmix_probability: Of a box in a strong view.
        sam: SAM of ``sam_lora``.
        adapter: Its LoRA.
        base: Arguments of :class:`BaseMethod`. The authors': SGD, lr 0.01, weight decay 1e-4, no warm-up; for several
            processes ``trainer.sync_batchnorm``.
    """

    uses_unlabelled = True

    def __init__(
        self,
        network: NetworkConfig = NetworkConfig(),
        supervised_dice: float = 0.5,
        threshold: float = 0.95,
        strong_weight: float = 0.25,
        perturbed_weight: float = 0.5,
        feature_dropout: float = 0.5,
        cutmix_probability: float = 0.5,
        sam: PretrainedSam = PretrainedSam(),
        adapter: AdapterConfig = AdapterConfig(),
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.save_hyperparameters()
        self.supervised_dice = supervised_dice
        self.threshold = threshold
        self.strong_weight = strong_weight
        self.perturbed_weight = perturbed_weight
        self.feature_dropout = feature_dropout
        self.cutmix_probability = cutmix_probability
        self.network = build_network(network, sam, adapter, self.image_size, self.num_classes)
        self.in_channels = self.network.in_channels

    @property
    def weights_sha256(self) -> str | None:
        """Hash of SAM's weights, where the network is SAM."""
        return self.network.weights_sha256

    def on_fit_start(self) -> None:
        """Refuse images whose values are not those of a picture.

        Raises:
            UserError: If they are normalised by a mean and a deviation.
        """
        data = getattr(self.trainer, "datamodule", None)
        if data is not None and data.hparams.get("normalise") == "sam":
            raise UserError(
                "UniMatch changes the brightness of images: their values have to lie in [0, 1].",
                found="data.normalise sam",
                fix="set --data.normalise minmax",
            )

    def training_step(self, batch: SemiBatch, batch_idx: int) -> Tensor:
        """One iteration of ``L``."""
        labelled = take_channels(batch["labelled"]["image"], self.in_channels)
        target = batch["labelled"]["mask"]
        unlabelled = take_channels(batch["unlabelled"]["image"], self.in_channels)
        (weak, weak_mix), *strong = (halves(view, "unlabelled") for view in self.views(unlabelled))
        boxes = self.boxes(len(weak), weak.shape[-1])
        boxed = [inside(each, weak.shape[-1], weak.device) for each in boxes]

        confidence_mix, label_mix = self.label_in_evaluation_mode(weak_mix)
        mixed = [torch.where(box[:, None], other, own) for (own, other), box in zip(strong, boxed, strict=True)]
        clean, perturbed = self.clean_and_perturbed(torch.cat([labelled, weak]))
        on_strong = self.network(torch.cat(mixed)).chunk(2)
        confidence, label = probabilities(clean[len(labelled) :].detach()).max(1)

        supervised = dice_ce_loss(clean[: len(labelled)], target, self.supervised_dice)
        strong_losses = []
        for logits, box in zip(on_strong, boxed, strict=True):
            sure = torch.where(box, confidence_mix, confidence) >= self.threshold
            strong_losses.append(dice_loss(logits, torch.where(box, label_mix, label), sure))
        sure = confidence >= self.threshold
        on_perturbed = dice_loss(perturbed[len(labelled) :], label, sure)
        taught = self.strong_weight * torch.stack(strong_losses).sum() + self.perturbed_weight * on_perturbed
        loss = (supervised + taught) / 2

        self.log("train/loss", loss.detach(), prog_bar=True)
        self.log_dict(
            {
                "train/supervised": supervised.detach(),
                "train/strong_1": strong_losses[0].detach(),
                "train/strong_2": strong_losses[1].detach(),
                "train/perturbed": on_perturbed.detach(),
                "train/confidence": confidence.mean(),
                "train/kept": sure.float().mean(),
                "train/pseudo_dsc": agreement(clean[: len(labelled)].detach().argmax(1), target),
                "train/empty_predictions": empty_fraction(label),
            }
        )
        return loss

    def views(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weak view, truncated to 8 bits, and two strong views of every unlabelled image."""
        weak = (images * 255).floor().clamp(0, 255) / 255
        generator = torch.Generator(images.device).manual_seed(self.draw_seed("strong"))
        return weak, strong_view(weak, generator), strong_view(weak, generator)

    def boxes(self, count: int, side: int) -> tuple[list[Box], list[Box]]:
        """CutMix's boxes of both strong views."""
        rng = np.random.default_rng(self.draw_seed("boxes"))
        probability = self.cutmix_probability
        return cutmix_boxes(count, side, rng, probability), cutmix_boxes(count, side, rng, probability)

    @torch.no_grad()
    def label_in_evaluation_mode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Confidence and label ``(B, S, S)``, by running statistics and without dropout."""
        self.network.eval()
        confidence, label = probabilities(self.network(images)).max(1)
        self.network.train()
        return confidence, label

    def clean_and_perturbed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of clean and of perturbed features: one encoder pass, and one decoder pass of both together."""
        generator = torch.Generator(images.device).manual_seed(self.draw_seed("features"))
        features = self.network.encode(images)
        both = [torch.cat([each, drop_channels(each, self.feature_dropout, generator)]) for each in features]
        clean, perturbed = self.network.decode(both).logits.chunk(2)
        return clean, perturbed

    def predict_probabilities(self, image: Tensor) -> Tensor:
        """Softmax ``(B, K, S, S)``."""
        return probabilities(self.network(take_channels(image, self.in_channels)))
