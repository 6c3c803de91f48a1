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
        update_entries: Entries of the online batch that an update learns from; None: all of them (paper, authors). An
            update costs as much as it has entries.
        entries: Which, where ``update_entries`` is less than there are. ``hardest``: those of the largest last loss, of
            equal losses the lower index; an entry's last loss is that of the last update it was in. ``drawn``: the new
            ones, and others at random.
        updates_per_prompt: Updates after each rectified prompt, with ``step_per: image`` after each image; the paper
            makes one.
        seconds_per_image: Once the updates of an image have taken that long, no further one begins for it; the first
            always takes place. Images of one step have their time together. None: no limit (paper). With one, what
            comes of a stream depends on the machine: ``prompts.csv`` has the number of updates, and a resumed run
            repeats those that stand there.

    Raises:
        UserError: If order and step contradict each other, or a number is out of range.
    """

    loss: Literal["dice", "bce_dice", "structure", "structure_authors"] = "dice"
    lr: float = 5e-4
    weight_decay: float = 5e-4
    order: Literal["prompt", "image"] = "prompt"
    step_per: Literal["prompt", "image"] = "prompt"
    replay_without_feedback: bool = False
    update_entries: int | None = None
    entries: Literal["hardest", "drawn"] = "hardest"
    updates_per_prompt: int = 1
    seconds_per_image: float | None = None

    def __post_init__(self) -> None:
        """Check that the step can be made."""
        for name, smallest in (("update_entries", 1), ("updates_per_prompt", 1), ("seconds_per_image", 0)):
            value = getattr(self, name)
            # Zero seconds are one update, too; what is no number compares as false.
            if value is not None and not value >= smallest:
                raise UserError(
                    f"learning: {name} {value}",
                    expected=f"a number of at least {smallest}",
                    fix=f"leave {name} out, as the paper does",
                )
        if self.step_per == "image" and self.order == "prompt":
            raise UserError(
                "One update per image cannot come between the image's prompts.",
                expected="learning.step_per image with learning.order image",
                fix="set --model.learning.order image, or --model.learning.step_per prompt",
            )
