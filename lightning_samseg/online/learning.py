"""How a network learns online: the arguments under ``learning:``, AuxOL's and DirectOL's."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from lightning_samseg.errors import UserError
from lightning_samseg.losses.binary import bce_dice_loss, dice_loss
from lightning_samseg.losses.structure import structure_loss
from lightning_samseg.online.crop_network import EntryLoss

LOSSES: dict[str, EntryLoss] = {
    "dice": dice_loss,
    "bce_dice": bce_dice_loss,
    "structure": structure_loss,
    "structure_authors": partial(structure_loss, bce="plain"),
}


@dataclass(frozen=True)
class LearningConfig:
    """Loss, optimizer and order of an online learner.

    Args:
        loss: The paper names Dice as its example; ``structure_authors`` is PraNet's as the authors' code computes it.
        lr: Learning rate of AdamW.
        weight_decay: Of AdamW; not in the paper, the authors' is 5e-4.
        order: ``prompt``: predict and learn prompt by prompt (Listing 1, authors), so that an image's later prompts
            profit from the masks of its earlier ones, where crops overlap also from what these show of the later
            object. ``image``: all of an image's prompts are predicted before any of its masks is used.
        step_per: Updates of the network: one per rectified ``prompt``, or one per ``image``.
        replay_without_feedback: Also update where there is nothing new to learn (authors).

    Raises:
        UserError: If order and step contradict each other.
    """

    loss: Literal["dice", "bce_dice", "structure", "structure_authors"] = "dice"
    lr: float = 5e-4
    weight_decay: float = 5e-4
    order: Literal["prompt", "image"] = "prompt"
    step_per: Literal["prompt", "image"] = "prompt"
    replay_without_feedback: bool = False

    def __post_init__(self) -> None:
        """Check that the step can be made."""
        if self.step_per == "image" and self.order == "prompt":
            raise UserError(
                "One update per image cannot come between the image's prompts.",
                expected="learning.step_per image with learning.order image",
                fix="set --model.learning.order image, or --model.learning.step_per prompt",
            )
