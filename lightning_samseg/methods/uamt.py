"""UAMT: uncertainty-aware mean teacher (Yu et al., MICCAI 2019), as SSL4MIS trains it in 2-D."""

from math import log
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_samseg.errors import UserError
from lightning_samseg.losses.consistency import entropy, masked_mse, probabilities
from lightning_samseg.losses.dice_ce import dice_ce_loss
from lightning_samseg.methods.base import BaseMethod
from lightning_samseg.metrics.on_device import agreement, empty_fraction
from lightning_samseg.models.branched_unet import NetworkConfig, take_channels
from lightning_samseg.models.sam_config import AdapterConfig, PretrainedSam
from lightning_samseg.semi.network import build_network
from lightning_samseg.semi.noise import clipped_noise
from lightning_samseg.semi.ramps import ConsistencyConfig, sigmoid_ramp, warmup_decay
from lightning_samseg.semi.teacher import make_teacher, update_teacher
from lightning_samseg.types import SemiBatch


class Uamt(BaseMethod):
    """UAMT. The student learns from its teacher where the teacher is sure of itself.

    The teacher sees ``x_U + e`` with ``e = clip(sigma n, -b, b)``, n standard normal per pixel. With q the mean of its
    softmax over T further noisy passes and ``H = - sum_k q log(q + 1e-6)``::

        tau(t) = (3/4 + 1/4 r(t, N)) ln 2           M = [H < tau]
        C = sum(M sum_k (p - p_T)^2) / (2 sum M)    p_T: softmax of one further noisy pass
        L = (CE + Dice) / 2 + w(t) C                w(t) = lambda r(t // 150, 200)

    r is the ramp of ``semi.ramps``. After each step ``theta_T = a theta_T + (1 - a) theta``, parameters alone, with
    ``a = min(1 - 1 / (t + 1), decay)``. The teacher stays in training mode: dropout, and statistics of its batch. It
    starts as a copy of the student, where the authors draw it by itself; it becomes one after the first step anyway.

    Args:
        network: Which.
        supervised_dice: Share of Dice in the loss on labelled images; the rest is cross-entropy.
        consistency: Weight of the consistency loss.
        ema_decay: Highest decay of the teacher.
        uncertainty_samples: T, noisy predictions that the uncertainty is made from.
        teacher_passes: In how many passes they are made. The authors make 8 in 4, each of twice the unlabelled images;
            fewer passes are faster, but BatchNorm then takes its statistics from more images at once.
        noise: sigma, in the units of the normalised image.
        noise_clip: b.
        entropy_scale: Largest entropy that the threshold refers to. ``ln2`` as the authors' code, which was written for
            two classes and is stricter with more; ``lnK`` the largest of K classes.
        sam: SAM of ``sam_lora``.
        adapter: Its LoRA.
        base: Arguments of :class:`BaseMethod`. The authors': SGD, lr 0.01, weight decay 1e-4, no warm-up.
    """

    uses_unlabelled = True

    def __init__(
        self,
        network: NetworkConfig = NetworkConfig(),
        supervised_dice: float = 0.5,
        consistency: ConsistencyConfig = ConsistencyConfig(),
        ema_decay: float = 0.99,
        uncertainty_samples: int = 8,
        teacher_passes: int = 4,
        noise: float = 0.1,
        noise_clip: float = 0.2,
        entropy_scale: Literal["ln2", "lnK"] = "ln2",
        sam: PretrainedSam = PretrainedSam(),
        adapter: AdapterConfig = AdapterConfig(),
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.save_hyperparameters()
        if uncertainty_samples % teacher_passes:
            raise UserError(
                "The noisy predictions cannot be shared out evenly to the passes.",
                found=f"uncertainty_samples {uncertainty_samples}, teacher_passes {teacher_passes}",
                fix="set --model.teacher_passes to a divisor of uncertainty_samples",
            )
        self.supervised_dice = supervised_dice
        self.consistency = consistency
        self.ema_decay = ema_decay
        self.uncertainty_samples = uncertainty_samples
        self.teacher_passes = teacher_passes
        self.noise = noise
        self.noise_clip = noise_clip
        self.highest_entropy = log(2 if entropy_scale == "ln2" else self.num_classes + 1)
        self.network = build_network(network, sam, adapter, self.image_size, self.num_classes)
        self.in_channels = self.network.in_channels
        self.teacher = make_teacher(self.network)

    @property
    def weights_sha256(self) -> str | None:
        """Hash of SAM's weights, where the network is SAM."""
        return self.network.weights_sha256

    def training_step(self, batch: SemiBatch, batch_idx: int) -> Tensor:
        """One iteration of ``(CE + Dice) / 2 + w(t) C``."""
        labelled, target = batch["labelled"]["image"], batch["labelled"]["mask"]
        images = take_channels(torch.cat([labelled, batch["unlabelled"]["image"]]), self.in_channels)
        unlabelled = images[len(labelled) :]
        logits = self.network(images)
        supervised = dice_ce_loss(logits[: len(labelled)], target, self.supervised_dice)

        taught, uncertainty = self.ask_teacher(unlabelled)
        threshold = (0.75 + 0.25 * sigmoid_ramp(self.global_step, self.schedule_iters)) * self.highest_entropy
        sure = uncertainty < threshold
        consistency = masked_mse(probabilities(logits[len(labelled) :]), taught, sure)
        weight = self.consistency.at(self.global_step, self.schedule_iters)
        loss = supervised + weight * consistency

        guess = logits.detach().argmax(1)
        self.log("train/loss", loss.detach(), prog_bar=True)
        self.log_dict(
            {
                "train/supervised": supervised.detach(),
                "train/consistency": consistency.detach(),
                "train/consistency_weight": weight,
                "train/threshold": threshold,
                "train/kept": sure.float().mean(),
                "train/empty_predictions": empty_fraction(guess),
                "train/agreement": agreement(guess[len(labelled) :], taught.argmax(1)),
            }
        )
        return loss

    @torch.no_grad()
    def ask_teacher(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's target, softmax ``(B, K, S, S)``, and its uncertainty ``(B, S, S)`` in nats."""
        generator = torch.Generator(images.device).manual_seed(self.draw_seed("noise"))
        taught = probabilities(self.teacher(self.noisy(images, generator)))
        repeats = self.uncertainty_samples // self.teacher_passes
        mean = torch.zeros_like(taught)
        for _ in range(self.teacher_passes):
            predicted = probabilities(self.teacher(self.noisy(images.repeat(repeats, 1, 1, 1), generator)))
            mean += predicted.view(repeats, *taught.shape).sum(0) / self.uncertainty_samples
        return taught, entropy(mean)

    def noisy(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Add ``e`` to images."""
        return images + clipped_noise(images, self.noise, self.noise_clip, generator)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and let the teacher follow."""
        step = self.global_step
        super().optimizer_step(*args, **kwargs)
        update_teacher(self.teacher, self.network, warmup_decay(step, self.ema_decay))

    def predict_probabilities(self, image: Tensor) -> Tensor:
        """The student's softmax ``(B, K, S, S)``."""
        return probabilities(self.network(take_channels(image, self.in_channels)))
