"""CPC-SAM: cross prompting consistency with SAM (Miao et al., MICCAI 2024), section by section.

Two mask decoders share one image encoder with LoRA and one prompt encoder (section 2.1). The unprompted output of one branch chooses
points that prompt the other (2.2); a centre and a random point give two prompted outputs, whose mean is the pseudo label of the
unprompted output of the first branch (Eq. 1) and of the randomly prompted output itself (Eq. 2). Labelled images supervise every output
(Eq. 3). At test time both branches are unprompted, and averaged.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lightning_samseg.losses.dice_ce import dice_ce_loss
from lightning_samseg.methods.base import BaseMethod
from lightning_samseg.models.dual_branch import BranchedSam
from lightning_samseg.models.sam import BackboneName
from lightning_samseg.prompts.points import class_points
from lightning_samseg.types import SemiBatch

BRANCHES = (0, 1)


class CpcSam(BaseMethod):
    """CPC-SAM with the joint update: one encoder pass, one total loss, one AdamW step.

    Args:
        backbone: Pretrained SAM to adapt.
        checkpoint: Weights in official SAM's names instead of the cached ones.
        decoder_init: ``random`` as in the paper, or ``pretrained`` where SAM's decoder fits.
        lora_rank: Rank of LoRA on the queries and values of the encoder.
        lora_alpha: LoRA's scale numerator.
        lora_blocks: Attention blocks with LoRA; None for all, as in the paper.
        ssl_start_iter: First iteration with prompts and unlabelled images; before it only the unprompted supervised loss acts. None
            for a sixth of the run: the authors' 5,000 of 30,000.
        lambda_cross: lambda_1, weight of the cross prompting loss (0.4).
        lambda_consistency: lambda_2, weight of the prompt consistency loss (0.05).
        supervised_dice: Share of Dice in the supervised loss of unprompted outputs (0.8, with 0.2 cross-entropy).
        prompted_dice: The same for prompted outputs: 0.5 in the paper, 0.8 in the authors' code.
        branch: Which prediction is evaluated: ``ensemble`` (the paper), or one branch.
        base: Arguments of :class:`BaseMethod`.
    """

    uses_unlabelled = True

    def __init__(
        self,
        backbone: BackboneName = "sam_vit_b",
        checkpoint: str | None = None,
        decoder_init: Literal["random", "pretrained"] = "random",
        lora_rank: int = 4,
        lora_alpha: float = 4.0,
        lora_blocks: Sequence[int] | None = None,
        ssl_start_iter: int | None = None,
        lambda_cross: float = 0.4,
        lambda_consistency: float = 0.05,
        supervised_dice: float = 0.8,
        prompted_dice: float = 0.5,
        branch: Literal["ensemble", "1", "2"] = "ensemble",
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.save_hyperparameters()
        self.ssl_start_iter = ssl_start_iter
        self.lambda_cross = lambda_cross
        self.lambda_consistency = lambda_consistency
        self.supervised_dice = supervised_dice
        self.prompted_dice = prompted_dice
        self.branches = {"ensemble": BRANCHES, "1": (0,), "2": (1,)}[branch]
        self.sam = BranchedSam(
            backbone,
            self.image_size,
            self.num_classes,
            branches=2,
            decoder_init=decoder_init,
            lora_rank=lora_rank,
            lora_alpha=lora_alpha,
            lora_blocks=lora_blocks,
            checkpoint=checkpoint,
        )

    @property
    def weights_sha256(self) -> str | None:
        """Hash of the pretrained weights."""
        return self.sam.weights_sha256

    def training_step(self, batch: SemiBatch, batch_idx: int) -> Tensor:
        """One iteration of the total loss ``L_s + lambda_1 L_cross + lambda_2 L_c``."""
        target = batch["labelled"]["mask"]
        if self.ssl_active:
            images = torch.cat([batch["labelled"]["image"], batch["unlabelled"]["image"]])
        else:
            images = batch["labelled"]["image"]  # the unlabelled half would be thrown away
        embedding = self.sam.encode(images)
        unprompted = [self.sam.decode(embedding, branch) for branch in BRANCHES]
        supervised = sum(dice_ce_loss(o[: len(target)], target, self.supervised_dice) for o in unprompted)
        if self.ssl_active:
            prompted, cross, consistency = self.cross_prompting(embedding, unprompted, target)
            loss = supervised + prompted + self.lambda_cross * cross + self.lambda_consistency * consistency
            parts = {"prompted": prompted, "cross": cross, "consistency": consistency}
            self.log_dict({f"train/{name}": value.detach() for name, value in parts.items()})
        else:
            # Under DDP every trained parameter takes part in every backward pass; on_before_optimizer_step takes the zeros away.
            loss = supervised + 0.0 * sum(p.sum() for p in self.sam.prompt_encoder.prompt_parameters())
        self.log("train/supervised", supervised.detach())
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def cross_prompting(
        self, embedding: Tensor, unprompted: Sequence[Tensor], target: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Prompt each branch by the other and compare (sections 2.2 and 2.3).

        Args:
            embedding: ``(B, 256, E, E)``, the L labelled images first.
            unprompted: Logits ``(B, K, S, S)`` of both branches.
            target: int64 ``(L, S, S)``.

        Returns:
            The prompted part of Eq. 3 (on labelled images), ``L_cross`` of Eq. 1 and ``L_c`` of Eq. 2 (on unlabelled images).
        """
        labelled = len(target)
        supervised, cross, consistency = [], [], []
        for branch in BRANCHES:
            other = 1 - branch
            points = class_points(unprompted[other].detach().argmax(1), self.num_classes + 1, self.prompt_rng(branch))
            random = self.sam.decode(embedding, branch, points.random, points.random_labels)
            center = self.sam.decode(embedding[:labelled], branch, points.center[:labelled], points.center_labels[:labelled])
            supervised += [dice_ce_loss(o, target, self.prompted_dice) for o in (center, random[:labelled])]
            with torch.no_grad():  # on unlabelled images the centre only helps to make the pseudo label
                sure = self.sam.decode(
                    embedding[labelled:], branch, points.center[labelled:], points.center_labels[labelled:]
                )
                pseudo = ((sure.float().softmax(1) + random[labelled:].float().softmax(1)) / 2).argmax(1)
            cross.append(dice_ce_loss(unprompted[other][labelled:], pseudo, 0.5))
            consistency.append(dice_ce_loss(random[labelled:], pseudo, 0.5))
        return torch.stack(supervised).sum(), torch.stack(cross).sum(), torch.stack(consistency).sum()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Leave the prompt embeddings alone, decay included, until prompts are used."""
        if not self.ssl_active:
            for parameter in self.sam.prompt_encoder.prompt_parameters():
                parameter.grad = None

    @property
    def ssl_active(self) -> bool:
        """Whether this iteration uses prompts and unlabelled images."""
        start = self.trainer.max_steps // 6 if self.ssl_start_iter is None else self.ssl_start_iter
        return self.global_step >= start

    def prompt_rng(self, branch: int) -> np.random.Generator:
        """The generator of this iteration's draws, keyed by counters alone, so that a resumed run draws the same."""
        return np.random.default_rng((self.seed, self.global_step, self.global_rank, branch))

    def predict_probabilities(self, image: Tensor) -> Tensor:
        """Mean softmax ``(B, K, S, S)`` of the unprompted branches that are evaluated."""
        embedding = self.sam.encode(image)
        return torch.stack([self.sam.decode(embedding, branch).float().softmax(1) for branch in self.branches]).mean(0)
