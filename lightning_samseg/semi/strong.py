"""Strong views of a batch, made on its device from the weak ones (UniMatch): brightness, contrast, blur.

Values are those of pictures in [0, 1], as Pillow's operations on 8 bits without the rounding. Of torchvision's
``ColorJitter`` on the authors' grey images saturation and hue do nothing; they are left out for colour images, too.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

JITTER_PROBABILITY, JITTER = 0.8, 0.5
BLUR_PROBABILITY, BLUR_SIGMA = 0.5, (0.1, 2.0)


def strong_view(image: Tensor, generator: torch.Generator) -> Tensor:
    """One strong view of each image; every image has draws of its own.

    With probability 0.8 brightness and contrast, each by U(0.5, 1.5), in random order; then with probability 0.5 a
    Gaussian blur of sigma U(0.1, 2) pixels.

    Args:
        image: ``(B, channels, S, S)`` in [0, 1].
        generator: On the image's device.

    Returns:
        The same shape, in [0, 1].
    """
    draws = torch.rand(6, len(image), 1, 1, 1, generator=generator, device=image.device, dtype=image.dtype)
    brightness, contrast = 1 - JITTER + 2 * JITTER * draws[1:3]
    brighter_first = adjust_contrast(adjust_brightness(image, brightness), contrast)
    contrast_first = adjust_brightness(adjust_contrast(image, contrast), brightness)
    jittered = torch.where(draws[3] < 0.5, brighter_first, contrast_first)
    image = torch.where(draws[0] < JITTER_PROBABILITY, jittered, image)
    low, high = BLUR_SIGMA
    blurred = gaussian_blur(image, (low + (high - low) * draws[5]).flatten())
    return torch.where(draws[4] < BLUR_PROBABILITY, blurred, image)


def adjust_brightness(image: Tensor, factor: Tensor) -> Tensor:
    """``factor * image``, clipped to [0, 1]; one factor ``(B, 1, 1, 1)`` per image."""
    return (image * factor).clamp(0, 1)


def adjust_contrast(image: Tensor, factor: Tensor) -> Tensor:
    """``factor * image + (1 - factor) * m``, clipped to [0, 1]; m the image's mean grey value (ITU-R 601)."""
    grey = image
    if image.shape[1] == 3:
        weights = image.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
        grey = (image * weights).sum(1, keepdim=True)
    return (image * factor + (1 - factor) * grey.mean((1, 2, 3), keepdim=True)).clamp(0, 1)


def gaussian_blur(image: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of each image, its border pixels repeated outwards.

    Args:
        image: ``(B, channels, S, S)``, S above 8.
        sigma: ``(B,)``, in pixels, at most 2.

    Returns:
        The same shape.
    """
    batch, channels, height, width = image.shape
    reach = 4 * round(BLUR_SIGMA[1])
    places = torch.arange(-reach, reach + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (places / sigma[:, None].clamp(min=1e-3)).square())
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None]
    flat = F.pad(image.reshape(1, batch * channels, height, width), [reach] * 4, mode="replicate")
    rows = F.conv2d(flat, kernel[:, :, None, :], groups=batch * channels)
    return F.conv2d(rows, kernel[:, :, :, None], groups=batch * channels).view_as(image)
