"""Losses as functions of logits or probabilities: Dice and cross-entropy, binary ones, consistency, structure."""

from lightning_samseg.lazy import lazily

__getattr__, __all__ = lazily(
    __name__,
    {
        "binary": "bce_dice_loss dice_loss soft_dice",
        "consistency": "masked_mse sharpen",
        "dice_ce": "cross_entropy_loss dice_ce_loss",
        "structure": "structure_loss",
    },
)
