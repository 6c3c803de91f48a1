"""SemiSAM (Zhang et al., BIBM 2024) in two dimensions and with any number of classes."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_samseg.errors import UserError
from lightning_samseg.losses.consistency import probabilities
from lightning_samseg.losses.dice_ce import dice_ce_loss
from lightning_samseg.losses.distributed import sum_over_ranks
from lightning_samseg.methods.base import BaseMethod
from lightning_samseg.metrics.on_device import agreement, empty_fraction
from lightning_samseg.models.backbones import BACKBONES
from lightning_samseg.models.branched_unet import NetworkConfig, build_unet, take_channels
from lightning_samseg.models.frozen_sam import FrozenSam
from lightning_samseg.models.sam_config import SamConfig
from lightning_samseg.semi.noise import clipped_noise
from lightning_samseg.semi.ramps import ConsistencyConfig, staircase_ramp, warmup_decay
from lightning_samseg.semi.sam_teacher import SamTeacher
from lightning_samseg.semi.teacher import make_teacher, update_teacher
from lightning_samseg.types import Case, PromptKind, SemiBatch


class SemiSam(BaseMethod):
    """SemiSAM: a mean teacher, and a frozen SAM as a second teacher that is prompted by the student.

    With p the student's softmax, p_T the teacher's on the image plus noise (as in UAMT), and m the one-hot map that SAM
    makes of one prompt for each class that the student finds in an unlabelled image::

        C = mean((p - p_T)^2) / 2               on all images
        S = mean((p - m)^2)                     on unlabelled images in which the student finds anything
        L = (CE + Dice) / 2 + w_up(t) C + w_down(t) S
        w_up(t) = lambda r(t // 150, 200)       w_down(t) = lambda_S r((N - t) // 150, 200)

    r is the ramp of ``semi.ramps``; the teacher follows as in UAMT. The student alone predicts.

    The published code is three-dimensional, with one class, and appeared after the table that has its row; this is our
    way to two dimensions. That code takes its clicks from the *ground truth* of unlabelled images, too, where the paper
    takes them from the network's prediction; here they come from the student. It clicks ten times, here once. Loss and
    schedule around it are those of the other methods here, so that the row differs from a mean teacher by SAM alone;
    with ``sam_consistency`` 0 it is one.

    Args:
        network: Which.
        supervised_dice: Share of Dice in the loss on labelled images; the rest is cross-entropy.
        consistency: Weight of C, and the ramp of both weights.
        ema_decay: Highest decay of the teacher.
        noise: Deviation of the noise on the teacher's images, in the units of the normalised image.
        noise_clip: Largest noise.
        sam_consistency: lambda_S, the highest weight of S.
        sam: The frozen SAM. It sees the images at their own size, each once; the embeddings stay in memory.
        prompt: ``point`` or ``box``, see ``semi.sam_teacher``; None for what the backbone was trained on.
        mask_threshold: SAM's logit above which a pixel belongs to a class.
        base: Arguments of :class:`BaseMethod`. The recipe of the other rows: SGD, lr 0.01, weight decay 1e-4.
    """

    uses_unlabelled = True
    uses_motion = True

    def __init__(
        self,
        network: NetworkConfig = NetworkConfig(),
        supervised_dice: float = 0.5,
        consistency: ConsistencyConfig = ConsistencyConfig(),
        ema_decay: float = 0.99,
        noise: float = 0.1,
        noise_clip: float = 0.2,
        sam_consistency: float = 0.05,
        sam: SamConfig = SamConfig("sam_vit_b"),
        prompt: PromptKind | None = None,
        mask_threshold: float = 0.5,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.save_hyperparameters()
        self.in_channels = network.in_channels
        self.supervised_dice = supervised_dice
        self.consistency = consistency
        self.ema_decay = ema_decay
        self.noise = noise
        self.noise_clip = noise_clip
        self.sam_consistency = sam_consistency
        self.sam_config = sam
        default: PromptKind = "point" if "point" in BACKBONES[sam.backbone].prompts else "box"
        self.prompt: PromptKind = prompt or default
        self.mask_threshold = mask_threshold
        self.network = build_unet(network, self.num_classes)
        self.teacher = make_teacher(self.network)
        self.sam: SamTeacher | None = None  # is loaded for training, and is in no checkpoint
        self._sam_sha256: str | None = None

    @property
    def weights_sha256(self) -> str | None:
        """Hash of the frozen SAM's weights; None before training."""
        return self._sam_sha256

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember which SAM has taught."""
        self._sam_sha256 = checkpoint["weights_sha256"]

    def frozen_sam(self, pretrained: bool = True) -> FrozenSam | None:
        """The teacher's SAM; None where its weight in the loss is 0."""
        if self.sam_consistency > 0 and self.sam is None:
            sam, checkpoint = self.sam_config, self.sam_config.checkpoint if pretrained else None
            frozen = FrozenSam(sam.backbone, sam.size, checkpoint, sam.preprocessing, pretrained=pretrained)
            self.sam = SamTeacher(frozen, self.prompt, self.mask_threshold)
            self._sam_sha256 = frozen.weights_sha256
        return None if self.sam is None else self.sam.sam

    def on_fit_start(self) -> None:
        """Load SAM.

        Raises:
            UserError: If its weights are missing.
        """
        if (frozen := self.frozen_sam()) is not None:
            frozen.to(self.device)

    def training_step(self, batch: SemiBatch, batch_idx: int) -> Tensor:
        """One iteration of ``L``."""
        labelled, target = batch["labelled"]["image"], batch["labelled"]["mask"]
        images = take_channels(torch.cat([labelled, batch["unlabelled"]["image"]]), self.in_channels)
        logits = self.network(images)
        generator = torch.Generator(images.device).manual_seed(self.draw_seed("noise"))
        with torch.no_grad():
            noisy = images + clipped_noise(images, self.noise, self.noise_clip, generator)
            taught = probabilities(self.teacher(noisy))
        supervised = dice_ce_loss(logits[: len(labelled)], target, self.supervised_dice)
        predicted = probabilities(logits)
        consistency = (predicted - taught).square().mean() / 2
        weight = self.consistency.at(self.global_step, self.schedule_iters)
        loss = supervised + weight * consistency
        guess = logits.detach().argmax(1)
        if self.sam is not None:
            ramp = self.consistency.iters(self.schedule_iters)
            left = staircase_ramp(ramp - self.global_step, ramp, self.consistency.rampup_stairs)
            sam_weight = self.sam_consistency * left
            sam_labels, prompted = self.ask_sam(self.sam, guess[len(labelled) :], batch)
            distance = one_hot_distance(predicted[len(labelled) :], sam_labels, prompted)
            loss = loss + sam_weight * distance
            self.log_dict(
                {
                    "train/sam": distance.detach(),
                    "train/sam_weight": sam_weight,
                    "train/sam_prompted": prompted.float().mean(),
                    "train/sam_agreement": agreement(guess[len(labelled) :], sam_labels),
                }
            )
        self.log("train/loss", loss.detach(), prog_bar=True)
        self.log_dict(
            {
                "train/supervised": supervised.detach(),
                "train/consistency": consistency.detach(),
                "train/consistency_weight": weight,
                "train/pseudo_dsc": agreement(guess[: len(labelled)], target),
                "train/empty_predictions": empty_fraction(guess),
            }
        )
        return loss

    def ask_sam(self, sam: SamTeacher, labels: Tensor, batch: SemiBatch) -> tuple[Tensor, Tensor]:
        """SAM's labels of the unlabelled images, prompted by the student's, and which of them had a prompt.

        Raises:
            UserError: If images are padded, where SAM and the network would see different parts.
        """
        unlabelled = batch["unlabelled"]
        if "padding" in unlabelled:
            raise UserError(
                "SemiSAM's two networks have to see the same part of an image.",
                found="data.resize longest_side, which pads images",
                fix="set --data.resize squash",
            )
        rng = np.random.default_rng(self.draw_seed("clicks"))
        return sam.teach(labels, unlabelled["motion"], unlabelled["cases"], self.picture, self.num_classes, rng)

    def picture(self, case: Case) -> NDArray[np.uint8]:
        """An unlabelled image at its own size, uint8 ``(H, W, 3)``."""
        return self.trainer.train_dataloader["unlabelled"].dataset.picture(case)  # type: ignore[index]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and let the teacher follow."""
        step = self.global_step
        super().optimizer_step(*args, **kwargs)
        update_teacher(self.teacher, self.network, warmup_decay(step, self.ema_decay))

    def predict_probabilities(self, image: Tensor) -> Tensor:
        """The student's softmax ``(B, K, S, S)``."""
        return probabilities(self.network(take_channels(image, self.in_channels)))


def one_hot_distance(p: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
    """S: mean square of ``p - one_hot(labels)`` over classes and pixels of the chosen images; 0 without any.

    Args:
        p: ``(B, K, S, S)``.
        labels: int64 ``(B, S, S)``.
        chosen: bool ``(B,)``.
    """
    target = torch.nn.functional.one_hot(labels, p.shape[1]).movedim(-1, 1)
    distances = (p - target).square().flatten(1).mean(1)
    distance, count = sum_over_ranks(torch.stack([(distances * chosen).sum(), chosen.sum().to(p.dtype)]))
    return distance / count.clamp(min=1)
