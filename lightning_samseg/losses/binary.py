"""Losses of one foreground class, one value per entry: the online batch of AuxOL remembers each entry's last loss.

Targets are 1 on the foreground, 0 on the background and ``UNKNOWN`` where nobody says: such pixels count for nothing.
"""

import torch.nn.functional as F
from torch import Tensor

SMOOTH = 1.0
"""Added to numerator and denominator of every Dice of AuxOL, as in the authors' code."""

UNKNOWN = -1.0
"""Target of a pixel whose label is ``types.IGNORED``."""


def soft_dice(probability: Tensor, target: Tensor) -> Tensor:
    """Soft Dice coefficient of each entry, ``(2 sum(p y) + 1) / (sum(p) + sum(y) + 1)``.

    Args:
        probability: ``(N, ...)`` in [0, 1].
        target: Broadcastable to the same shape, in {0, 1, UNKNOWN}.

    Returns:
        ``(N,)`` in (0, 1]; 1 for an empty prediction of an empty target.
    """
    probability, target = probability.masked_fill(target < 0, 0), target.clamp(min=0)
    overlap = (probability * target).flatten(1).sum(1)
    size = probability.flatten(1).sum(1) + target.flatten(1).sum(1)
    return (2 * overlap + SMOOTH) / (size + SMOOTH)


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """``1 - soft_dice``, the loss that AuxOL names as its example (Eq. 2).

    Args:
        logits: Float ``(N, 1, h, w)``.
        target: Float ``(N, 1, h, w)`` in {0, 1, UNKNOWN}.

    Returns:
        ``(N,)``; 0 for an entry of which nothing is known.
    """
    return 1 - soft_dice(logits.float().sigmoid(), target)


def bce_dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Sum of the binary cross-entropy, mean over pixels, and the Dice loss.

    Args:
        logits: Float ``(N, 1, h, w)``.
        target: Float ``(N, 1, h, w)`` in {0, 1, UNKNOWN}.

    Returns:
        ``(N,)``; 0 for an entry of which nothing is known.
    """
    return mean_cross_entropy(logits, target) + dice_loss(logits, target)


def mean_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of each entry, mean over its known pixels.

    Args:
        logits: Float ``(N, 1, h, w)``.
        target: Float ``(N, 1, h, w)`` in {0, 1, UNKNOWN}.

    Returns:
        ``(N,)``.
    """
    losses = F.binary_cross_entropy_with_logits(logits.float(), target.clamp(min=0), reduction="none")
    known = target >= 0
    return losses.masked_fill(~known, 0).flatten(1).sum(1) / known.flatten(1).sum(1).clamp(min=1)
