"""Dice and cross-entropy over softmax channels, the only two terms in every loss of CPC-SAM."""

from typing import Any

import torch
from torch import Tensor

SMOOTH = 1e-5
"""Added to numerator and denominator of each class's Dice, as in the authors' code."""


def dice_ce_loss(logits: Tensor, target: Tensor, dice_weight: float) -> Tensor:
    """Weighted sum of Dice loss and cross-entropy, ``w * Dice + (1 - w) * CE``.

    CPC-SAM (Eqs. 1 to 3) uses ``w = 0.8`` for unprompted outputs of labelled images and ``w = 0.5`` elsewhere. Softmax
    is computed once for both terms, in float32 for any lower precision of the logits.

    Args:
        logits: Float ``(B, K, H, W)``, channel 0 = background.
        target: int64 ``(B, H, W)``, class ids 0..K-1.
        dice_weight: ``w`` in [0, 1].

    Returns:
        Scalar of the precision computed in.
    """
    log_p, hits = _log_softmax_and_hits(logits, target)
    # Not F.nll_loss: its 2-D form has no deterministic CUDA implementation and refuses `trainer.deterministic: true`.
    cross_entropy = -log_p.gather(1, target.unsqueeze(1)).mean()
    return dice_weight * _dice(log_p.exp(), hits) + (1 - dice_weight) * cross_entropy


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Multi-class soft Dice loss with squared denominators, mean over all classes including background.

    Per class, over the pixels of the whole batch together, on all ranks:
    ``1 - (2 sum(p t) + s) / (sum(p^2) + sum(t^2) + s)`` with ``p`` the softmax, ``t`` the one-hot target and
    ``s = 1e-5``. A class without a target pixel costs almost 1.

    Args:
        logits: Float ``(B, K, H, W)``.
        target: int64 ``(B, H, W)``, class ids 0..K-1.

    Returns:
        Scalar of the precision computed in.
    """
    log_p, hits = _log_softmax_and_hits(logits, target)
    return _dice(log_p.exp(), hits)


def _log_softmax_and_hits(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities in at least float32, and the one-hot target as bool: one byte where int64 takes eight."""
    log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(1)
    classes = torch.arange(logits.shape[1], device=target.device).view(1, -1, 1, 1)
    return log_p, target.unsqueeze(1) == classes


def _dice(p: Tensor, hits: Tensor) -> Tensor:
    over = (0, 2, 3)
    sums = torch.stack([p.masked_fill(~hits, 0).sum(over), p.square().sum(over) + hits.sum(over)])
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        sums = _SumOverRanks.apply(sums)
    overlap, size = sums
    return (1 - (2 * overlap + SMOOTH) / (size + SMOOTH)).mean()


class _SumOverRanks(torch.autograd.Function):
    """Sum over processes, so that the Dice of a step is that of the whole batch, on however many GPUs it lies.

    Every rank then holds the whole loss, and the gradients that DDP averages are those of one process.
    """

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        total = local.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        torch.distributed.all_reduce(total)
        return total
