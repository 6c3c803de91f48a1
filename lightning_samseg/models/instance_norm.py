"""InstanceNorm that leaves channels last, where oneDNN convolves bfloat16 fastest; PyTorch's puts them first.

Per entry and channel of ``(N, C, H, W)``: ``y = (x - mean) / sqrt(variance + eps)`` over ``H x W``, and with
``g = dL/dy`` the gradient ``dL/dx = (g - mean(g) - y mean(g y)) / sqrt(variance + eps)``.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

AT_ONCE = 2**20
"""Numbers that are computed in float32 together, 4 MiB: about what the processor keeps at hand."""


class InstanceNorm(nn.InstanceNorm2d):
    """``nn.InstanceNorm2d`` without weights; of bfloat16 on a CPU with channels last, the result has them last, too."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``(N, C, H, W)``."""
        if input.device.type == "cpu" and input.dtype == torch.bfloat16 and _is_channels_last(input):
            result: Tensor = _ChannelsLast.apply(input, self.eps)
            return result
        return super().forward(input)


class _ChannelsLast(torch.autograd.Function):
    """The formulas above in float32, a few entries at a time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        y = torch.empty_like(x)
        pixels, normalised = _pixels(x), _pixels(y)
        mean = x.new_empty(len(x), 1, x.shape[1], dtype=torch.float32)
        scale = torch.empty_like(mean)
        for part in _parts(pixels):
            values = pixels[part].float()
            mean[part] = values.mean(1, keepdim=True)
            values = values.sub_(mean[part])
            scale[part] = (values.square().mean(1, keepdim=True) + eps).rsqrt()
            normalised[part] = values.mul_(scale[part])
        ctx.save_for_backward(x, mean, scale)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, mean, scale = ctx.saved_tensors
        result = torch.empty_like(x)
        pixels, given, wanted = _pixels(x), _pixels(gradient), _pixels(result)
        for part in _parts(pixels):
            y = pixels[part].float().sub_(mean[part]).mul_(scale[part])
            g = given[part].float()
            along = (g * y).mean(1, keepdim=True)
            wanted[part] = g.sub_(g.mean(1, keepdim=True)).sub_(y.mul_(along)).mul_(scale[part])
        return result, None


def _is_channels_last(x: Tensor) -> bool:
    """And not first as well, as both are with one channel or one pixel."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _pixels(x: Tensor) -> Tensor:
    """``(N, H W, C)``, a view where channels are last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _parts(pixels: Tensor) -> Iterator[slice]:
    count = max(1, AT_ONCE // pixels[0].numel())
    return (slice(first, first + count) for first in range(0, len(pixels), count))
