"""Dice and cross-entropy over softmax channels, the only two terms in every loss of CPC-SAM.

Pixels whose class id is ``types.IGNORED`` count for nothing: no sum or mean runs over them, nor does a gradient come
from them.
"""

import torch
from torch import Tensor

from lightning_samseg.losses.distributed import sum_over_ranks, world_size
from lightning_samseg.types import IGNORED

SMOOTH = 1e-5
"""Added to numerator and denominator of each class's Dice, as in the authors' code."""


def dice_ce_loss(logits: Tensor, target: Tensor, dice_weight: float) -> Tensor:
    """Weighted sum of Dice loss and cross-entropy, ``w * Dice + (1 - w) * CE``.

    CPC-SAM (Eqs. 1 to 3) uses ``w = 0.8`` for unprompted outputs of labelled images and ``w = 0.5`` elsewhere. Softmax
    is computed once for both terms, in float32 for any lower precision of the logits.

    Args:
        logits: Float ``(B, K, H, W)``, channel 0 = background.
        target: int64 ``(B, H, W)``, class ids 0..K-1 or ``IGNORED``; or probabilities, float ``(B, K, H, W)``.
        dice_weight: ``w`` in [0, 1].

    Returns:
        Scalar of the precision computed in.
    """
    log_p, shares = _log_softmax_and_shares(logits, target)
    keep = _counting(target, None)
    dice = _dice(log_p.exp(), shares, keep, SMOOTH)
    return dice_weight * dice + (1 - dice_weight) * _mean(_pixel_losses(log_p, target), keep)


def cross_entropy_loss(logits: Tensor, target: Tensor, keep: Tensor | None = None) -> Tensor:
    """Cross-entropy, mean over the pixels that are kept, on all ranks.

    Args:
        logits: Float ``(B, K, H, W)``.
        target: int64 ``(B, H, W)``, class ids 0..K-1 or ``IGNORED``.
        keep: bool ``(B, H, W)`` or ``(H, W)``; None for all.

    Returns:
        Scalar of the precision computed in; 0 where no pixel is kept. With several processes each holds its share,
        W times its sum over the kept pixels of all, so that the mean of their losses and gradients is that of one.
    """
    return _mean(_pixel_losses(_log_softmax(logits), target), _counting(target, keep))


def dice_loss(logits: Tensor, target: Tensor, keep: Tensor | None = None, smooth: float = SMOOTH) -> Tensor:
    """Multi-class soft Dice loss with squared denominators, mean over all classes including background.

    Per class, over the pixels of the whole batch together, on all ranks:
    ``1 - (2 sum(p t) + s) / (sum(p^2) + sum(t^2) + s)`` with ``p`` the softmax, ``t`` the target (one-hot or
    probabilities) and ``s`` the smoothing. A class without a target pixel costs almost 1.

    Args:
        logits: Float ``(B, K, H, W)``.
        target: int64 ``(B, H, W)``, class ids 0..K-1 or ``IGNORED``; or probabilities, float ``(B, K, H, W)``.
        keep: bool ``(B, H, W)`` or ``(H, W)``, the pixels that the sums run over; None for all. Without a pixel the
            loss is 0.
        smooth: ``s``.

    Returns:
        Scalar of the precision computed in.
    """
    log_p, shares = _log_softmax_and_shares(logits, target)
    return _dice(log_p.exp(), shares, _counting(target, keep), smooth)


def _counting(target: Tensor, keep: Tensor | None) -> Tensor | None:
    """Pixels that count, bool ``(B, H, W)`` or as ``keep``; None for all."""
    if target.is_floating_point():
        return keep
    known = target != IGNORED
    return known if keep is None else known & keep


def _log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities in at least float32."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(1)


def _log_softmax_and_shares(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities, and each class's share of the target: of class ids as bool, one byte where int64 takes 8."""
    if target.is_floating_point():
        return _log_softmax(logits), target
    classes = torch.arange(logits.shape[1], device=target.device).view(1, -1, 1, 1)
    return _log_softmax(logits), target.unsqueeze(1) == classes


def _pixel_losses(log_p: Tensor, target: Tensor) -> Tensor:
    if target.is_floating_point():
        return -(target * log_p).sum(1)
    # Not F.nll_loss: its 2-D form has no deterministic CUDA implementation and refuses `trainer.deterministic: true`.
    return -log_p.gather(1, target.masked_fill(target == IGNORED, 0).unsqueeze(1)).squeeze(1)


def _mean(losses: Tensor, keep: Tensor | None) -> Tensor:
    """Mean over the pixels that are kept; see :func:`cross_entropy_loss` for several processes."""
    if keep is None:
        return losses.mean()
    keep = keep.expand_as(losses)
    return losses.masked_fill(~keep, 0).sum() / (sum_over_ranks(keep.sum()).clamp(min=1) / world_size())


def _dice(p: Tensor, shares: Tensor, keep: Tensor | None, smooth: float) -> Tensor:
    over = (0, 2, 3)
    squares = p.square()
    if keep is not None:
        keep = keep.expand_as(shares[:, 0]).unsqueeze(1)
        shares, squares = shares.masked_fill(~keep, 0), squares.masked_fill(~keep, 0)
    if shares.dtype == torch.bool:
        overlap, area = p.masked_fill(~shares, 0), shares
    else:
        overlap, area = p * shares, shares.square()
    # The sums are those of the whole batch, on however many GPUs it lies.
    overlap, size = sum_over_ranks(torch.stack([overlap.sum(over), squares.sum(over) + area.sum(over)]))
    return (1 - (2 * overlap + smooth) / (size + smooth)).mean()
