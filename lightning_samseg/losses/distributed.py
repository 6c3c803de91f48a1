"""Sums inside a loss that run over the whole batch, on however many GPUs it lies."""

from typing import Any

import torch
from torch import Tensor


def sum_over_ranks(local: Tensor) -> Tensor:
    """Sum a tensor over processes, with gradients.

    Every rank then holds the whole loss, and the gradients that DDP averages are those of one process. Without
    processes it is the tensor itself.
    """
    return _SumOverRanks.apply(local) if world_size() > 1 else local


def mean_over_ranks(local: Tensor) -> Tensor:
    """Mean over processes of equally many images each, with gradients."""
    return sum_over_ranks(local) / world_size()


def world_size() -> int:
    """Number of processes."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if distributed else 1


class _SumOverRanks(torch.autograd.Function):
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
