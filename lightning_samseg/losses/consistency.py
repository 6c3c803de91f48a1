"""Consistency losses of the semi-supervised baselines: pure functions, each with its formula.

``p`` are class probabilities ``(B, K, H, W)``. Where a formula divides by a sum over pixels, the sum runs over all
processes; gradients flow wherever the docstring does not say otherwise.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_samseg.losses.distributed import mean_over_ranks, sum_over_ranks


def probabilities(logits: Tensor) -> Tensor:
    """Softmax over channels, in at least float32."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(1)


def entropy(p: Tensor) -> Tensor:
    """Entropy of each pixel, ``- sum_k p log(p + 1e-6)``, in nats: ``(B, H, W)`` of ``(B, K, H, W)``."""
    return -(p * (p + 1e-6).log()).sum(1)


def masked_mse(p: Tensor, q: Tensor, keep: Tensor) -> Tensor:
    """UAMT: ``sum(M sum_k (p - q)^2) / (2 sum M + 1e-16)``; the divisor is 2 for any number of classes.

    Args:
        p: ``(B, K, H, W)``.
        q: The same.
        keep: M, bool ``(B, H, W)``.

    Returns:
        Scalar; 0 where no pixel is kept.
    """
    distance = (p - q).square().sum(1).masked_fill(~keep, 0).sum()
    distance, kept = sum_over_ranks(torch.stack([distance, keep.sum().to(distance.dtype)]))
    return distance / (2 * kept + 1e-16)


def rectified_pyramid(logits: Sequence[Tensor]) -> list[Tensor]:
    """URPC: distance of each scale from the mean over scales, down-weighted where it is uncertain.

    With ``q = mean_s p_s``, ``D_s = sum_k q (log q - log p_s)`` and ``e_s = exp(-D_s)`` per pixel, for each scale
    ``mean((q - p_s)^2 e_s) / (mean(e_s) + 1e-8) + mean(D_s)``; the first mean runs over classes, too. Gradients flow
    into q as well.

    Args:
        logits: Of each scale, ``(B, K, H, W)``.

    Returns:
        A scalar for each scale.
    """
    precise = [each.to(torch.promote_types(each.dtype, torch.float32)) for each in logits]
    log_p = [each.log_softmax(1) for each in precise]
    p = [each.exp() for each in log_p]
    q = torch.stack(p).mean(0)
    # The log of a mean of softmaxes, without a logarithm of zero.
    log_q = torch.stack(log_p).logsumexp(0) - torch.log(torch.tensor(float(len(p)), dtype=q.dtype, device=q.device))
    terms = []
    for own, log_own in zip(p, log_p, strict=True):
        divergence = (q * (log_q - log_own)).sum(1, keepdim=True)
        certainty = (-divergence).exp()
        means = torch.stack([((q - own).square() * certainty).mean(), certainty.mean()])
        distance, certain = mean_over_ranks(means)
        terms.append(distance / (certain + 1e-8) + divergence.mean())
    return terms


def sharpen(p: Tensor, temperature: float) -> Tensor:
    """MC-Net+: ``p^(1/T) / (p^(1/T) + (1 - p)^(1/T))`` for each channel by itself; no distribution for K > 2."""
    power, rest = p.pow(1 / temperature), (1 - p).pow(1 / temperature)
    return power / (power + rest)


def directed_mse(p: Tensor, q: Tensor, surer: Tensor, temperature: float, logits: tuple[Tensor, Tensor]) -> Tensor:
    """DCNet: the surer of two decoders teaches the other, channel by channel.

    ``G = surer and p > q``, ``s = softmax(z / T)``: ``mean((sg(G s_p) - G s_q)^2)``, the mean over all elements, zeros
    included; ``sg`` stops the gradient.

    Args:
        p: Probabilities of the teaching decoder, which decide who is surer.
        q: Of the learning one.
        surer: bool ``(B, K, H, W)``, where anything is compared.
        temperature: T of the compared values.
        logits: Of both, ``(B, K, H, W)``.
    """
    chosen = surer & (p > q)
    teacher, learner = (probabilities(each / temperature).masked_fill(~chosen, 0) for each in logits)
    return (teacher.detach() - learner).square().mean()


def attention(features: Tensor) -> Tensor:
    """Spatial attention of a feature map: mean of the squares over channels, flattened, of length 1 for each image.

    Args:
        features: ``(B, channels, h, w)``; squared in at least float32, as in half precision they overflow.

    Returns:
        ``(B, h w)``.
    """
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    return torch.nn.functional.normalize(features.square().mean(1).flatten(1))


def attention_distance(features: Tensor, target: Tensor) -> Tensor:
    """DCNet: ``mean((at(e) - sg at(d))^2)`` over images and positions; ``sg`` stops the gradient."""
    return (attention(features) - attention(target).detach()).square().mean()
