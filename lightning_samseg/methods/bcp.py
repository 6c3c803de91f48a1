"""BCP: bidirectional copy-paste (Bai et al., CVPR 2023), the authors' two stages for ACDC in one run."""

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lightning_samseg.losses.consistency import probabilities
from lightning_samseg.losses.dice_ce import cross_entropy_loss, dice_loss
from lightning_samseg.methods.base import BaseMethod
from lightning_samseg.metrics.on_device import agreement, confidence, empty_fraction
from lightning_samseg.models.branched_unet import NetworkConfig, build_unet, take_channels
from lightning_samseg.semi.components import largest_components
from lightning_samseg.semi.mixing import copy_paste_box, halves, inside
from lightning_samseg.semi.teacher import make_teacher, update_teacher
from lightning_samseg.types import SemiBatch


class Bcp(BaseMethod):
    """BCP. Labelled and unlabelled images are pasted into each other; a teacher labels the unlabelled ones.

    The mask m is 0 in one box for the whole step and 1 around it. With A, B the halves of the labelled images, UA, UB
    those of the unlabelled ones, y their masks, ~y the teacher's labels, and ``mix(x, y_out, y_in; a, b)`` the sum of
    Dice loss and cross-entropy of the image x, outside the box, times a, and inside it, times b::

        stage 1:  L = mix(A m + B (1 - m), y_A, y_B; 1, 1) / 2
        stage 2:  L = [mix(UA m + A (1 - m), ~y_UA, y_A; 1/2, 1) + mix(B m + UB (1 - m), y_B, ~y_UB; 1, 1/2)] / 2

    A label of the teacher is its argmax, of every class the largest component. After each step of stage 2
    ``theta_T = 0.99 theta_T + 0.01 theta``, BatchNorm's statistics included. The teacher stays in training mode.

    Stage 2 starts, student and teacher, from the weights of stage 1 that did best in validation, with the momentum that
    belongs to them; what stage 1 reached does not count when ``best.ckpt`` is chosen.

    Args:
        network: Which.
        pretrain_iters: Iterations of stage 1; None for a quarter of the run: the authors' 10,000 of 40,000.
        unlabelled_weight: a and b of what the teacher has labelled.
        box_ratio: Side of the box as a fraction of the image's.
        ema_decay: Decay of the teacher.
        component: ``largest`` of every class in the teacher's labels, which loses the smaller one of two lesions; or
            ``none`` of this.
        base: Arguments of :class:`BaseMethod`. The authors': SGD, lr 0.01, weight decay 1e-4, constant (poly_power 0).
    """

    uses_unlabelled = True

    def __init__(
        self,
        network: NetworkConfig = NetworkConfig(),
        pretrain_iters: int | None = None,
        unlabelled_weight: float = 0.5,
        box_ratio: float = 2 / 3,
        ema_decay: float = 0.99,
        component: Literal["largest", "none"] = "largest",
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.save_hyperparameters()
        self.in_channels = network.in_channels
        self.pretrain_iters = pretrain_iters
        self.unlabelled_weight = unlabelled_weight
        self.box_ratio = box_ratio
        self.ema_decay = ema_decay
        self.component = component
        self.network = build_unet(network, self.num_classes)
        self.teacher = make_teacher(self.network)
        self.pretrained: dict[str, Any] | None = None
        """Best of stage 1 so far: ``dsc``, ``network``, ``optimizer``; part of a checkpoint."""

    @property
    def switch(self) -> int:
        """First iteration of stage 2."""
        return self.trainer.max_steps // 4 if self.pretrain_iters is None else self.pretrain_iters

    def to_mid_run(self) -> None:
        """Begin with stage 2."""
        self.pretrain_iters = 0

    def on_train_batch_start(self, batch: SemiBatch, batch_idx: int) -> None:
        """Change to stage 2 where it begins."""
        super().on_train_batch_start(batch, batch_idx)
        if self.global_step == self.switch:
            self.start_self_training()

    def start_self_training(self) -> None:
        """Student and teacher take the best weights of stage 1, and the optimizer their momentum."""
        if self.pretrained is not None:
            self.network.load_state_dict(self.pretrained["network"])
            optimizer: torch.optim.Optimizer = self.optimizers().optimizer  # type: ignore[union-attr]
            state = optimizer.state_dict()
            optimizer.load_state_dict({**state, "state": self.pretrained["optimizer"]})
            self.pretrained = None
            for callback in self.trainer.checkpoint_callbacks:
                if hasattr(callback, "forget_best"):
                    callback.forget_best()
        self.teacher.load_state_dict(self.network.state_dict())

    def training_step(self, batch: SemiBatch, batch_idx: int) -> Tensor:
        """One iteration of the stage that is on."""
        images, target = take_channels(batch["labelled"]["image"], self.in_channels), batch["labelled"]["mask"]
        a, b = halves(images, "labelled")
        y_a, y_b = halves(target, "labelled")
        side = images.shape[-1]
        rng = np.random.default_rng(self.draw_seed("box", same_on_all_ranks=True))
        outside = ~inside([copy_paste_box(side, self.box_ratio, rng)], side, images.device)[0]
        if self.global_step < self.switch:
            terms = mix_loss(self.network(torch.where(outside, a, b)), y_a, y_b, outside, 1, 1)
            self.log("train/stage", 1.0)
        else:
            unlabelled = take_channels(batch["unlabelled"]["image"], self.in_channels)
            u_a, u_b = halves(unlabelled, "unlabelled")
            labels_a, labels_b = self.pseudo_labels(u_a), self.pseudo_labels(u_b)
            weight = self.unlabelled_weight
            first = mix_loss(self.network(torch.where(outside, u_a, a)), labels_a, y_a, outside, weight, 1)
            second = mix_loss(self.network(torch.where(outside, b, u_b)), y_b, labels_b, outside, 1, weight)
            terms = first + second
            self.log_dict({"train/stage": 2.0, "train/unlabelled_outside": first.detach().mean()})
            self.log("train/labelled_outside", second.detach().mean())
            self.log("train/empty_predictions", empty_fraction(torch.cat([labels_a, labels_b])))
        loss = terms.mean()
        self.log("train/loss", loss.detach(), prog_bar=True)
        self.log_dict({"train/dice": terms[0].detach(), "train/cross_entropy": terms[1].detach()})
        return loss

    @torch.no_grad()
    def pseudo_labels(self, images: Tensor) -> Tensor:
        """The teacher's labels, int64 ``(B, S, S)``; a pass of its own for every half, as BatchNorm sees it."""
        predicted = probabilities(self.teacher(images))
        self.log("train/confidence", confidence(predicted))
        labels = predicted.argmax(1)
        if self.component == "none":
            return labels
        filtered = largest_components(labels, self.num_classes)
        self.log("train/component_share", agreement(filtered, labels))
        return filtered

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and let the teacher of stage 2 follow."""
        self_training = self.global_step >= self.switch
        super().optimizer_step(*args, **kwargs)
        if self_training:
            update_teacher(self.teacher, self.network, self.ema_decay, buffers=True)

    def on_validation_epoch_end(self) -> None:
        """In stage 1, keep the best weights."""
        dsc = self.val_scores.compute().summary()["dsc"]
        super().on_validation_epoch_end()
        in_fit = self.trainer.state.fn == "fit" and not self.trainer.sanity_checking
        if not in_fit or self.global_step > self.switch or dsc is None:
            return
        if self.pretrained is None or dsc > self.pretrained["dsc"]:
            optimizer = self.optimizers().optimizer  # type: ignore[union-attr]
            self.pretrained = {
                "dsc": float(dsc),
                "network": copied(self.network.state_dict()),
                "optimizer": copied(optimizer.state_dict()["state"]),
            }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the best of stage 1, too."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["pretrained"] = self.pretrained

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it back."""
        self.pretrained = checkpoint["pretrained"]

    def predict_probabilities(self, image: Tensor) -> Tensor:
        """The student's softmax ``(B, K, S, S)``."""
        return probabilities(self.network(take_channels(image, self.in_channels)))


def mix_loss(
    logits: Tensor, y_outside: Tensor, y_inside: Tensor, outside: Tensor, weight_outside: float, weight_inside: float
) -> Tensor:
    """Dice loss and cross-entropy of a mixed image, each the weighted sum of both regions.

    Args:
        logits: ``(B, K, S, S)`` of the mixed images.
        y_outside: int64 ``(B, S, S)``, labels that count outside the box.
        y_inside: Those that count inside it.
        outside: bool ``(S, S)``.
        weight_outside: a.
        weight_inside: b.

    Returns:
        ``(2,)``. A class without a pixel in a region costs about 1 there, without gradient: its Dice is smoothed by
        1e-10 alone.
    """
    regions = ((y_outside, outside, weight_outside), (y_inside, ~outside, weight_inside))
    dice = sum(weight * dice_loss(logits, y, keep, smooth=1e-10) for y, keep, weight in regions)
    cross_entropy = sum(weight * cross_entropy_loss(logits, y, keep) for y, keep, weight in regions)
    return torch.stack([torch.as_tensor(dice), torch.as_tensor(cross_entropy)])


def copied(state: dict[Any, Any]) -> dict[Any, Any]:
    """Copy nested dictionaries of tensors to the host's memory."""
    return {
        key: copied(value)
        if isinstance(value, dict)
        else value.detach().cpu().clone()
        if isinstance(value, Tensor)
        else value
        for key, value in state.items()
    }
