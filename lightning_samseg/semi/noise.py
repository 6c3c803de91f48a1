"""Noise on images and features, each function drawing from the generator that it is given."""

import torch
from torch import Tensor


def clipped_noise(like: Tensor, sigma: float, bound: float, generator: torch.Generator) -> Tensor:
    """``clip(sigma n, -bound, bound)``, n standard normal for each element of ``like`` (UAMT)."""
    normal = torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)
    return (sigma * normal).clamp(-bound, bound)


def drop_elements(features: Tensor, generator: torch.Generator) -> Tensor:
    """Dropout of probability 1/2, element by element, the rest doubled (URPC, 1/8 of the size)."""
    keep = torch.rand(features.shape, generator=generator, device=features.device) >= 0.5
    return features * keep * 2


def drop_channels(features: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Dropout of whole channels of ``(B, channels, h, w)``, the rest scaled up (UniMatch)."""
    keep = torch.rand(features.shape[:2], generator=generator, device=features.device) >= probability
    return features * keep[:, :, None, None] / (1 - probability)


def drop_most_active(features: Tensor, generator: torch.Generator) -> Tensor:
    """Feature dropout (URPC, 1/4 of the size): the most active positions go, in all channels; nothing is scaled.

    A position goes where its mean over channels is not below u times the largest of the image's positions; u is one
    draw from U(0.7, 0.9) for the whole batch.

    Args:
        features: ``(B, channels, h, w)``.
        generator: On its device.
    """
    fraction = 0.7 + 0.2 * torch.rand((), generator=generator, device=features.device)
    return features * below_fraction(features, fraction)


def below_fraction(features: Tensor, fraction: Tensor | float) -> Tensor:
    """Positions that :func:`drop_most_active` keeps, bool ``(B, 1, h, w)``."""
    activity = features.mean(1, keepdim=True)
    return activity < fraction * activity.amax((2, 3), keepdim=True)


def multiply_noise(features: Tensor, generator: torch.Generator) -> Tensor:
    """Multiply by ``1 + n``, n from U(-0.3, 0.3), one map ``(channels, h, w)`` for the whole batch (URPC, 1/2)."""
    noise = torch.rand(features.shape[1:], generator=generator, device=features.device, dtype=features.dtype)
    return features * (1 + (0.6 * noise - 0.3))
