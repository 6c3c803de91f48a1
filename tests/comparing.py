"""One comparison of nested results: checkpoints, optimizer states, gradients, rows."""

from typing import Any

import torch


def assert_equal(one: Any, other: Any, path: str = "", within: float = 0.0) -> None:
    """Equal structure, types and values.

    Args:
        one: Dicts, lists, tuples, tensors, plain values.
        other: What it should be.
        path: Where in a larger thing they are, for the message.
        within: Largest difference of a number that is no integer, relative to the largest magnitude of its tensor
            where that is above 1; 0: the same bits.
    """
    assert type(one) is type(other), f"{path}: {type(one)}, {type(other)}"
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key, value in one.items():
            assert_equal(value, other[key], f"{path}.{key}", within)
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_equal(*pair, f"{path}[{index}]", within)
    elif isinstance(one, torch.Tensor):
        assert (one.dtype, one.shape) == (other.dtype, other.shape), path
        if within and one.is_floating_point() and one.numel():
            difference, scale = (one - other).abs().max().item(), max(1.0, other.abs().max().item())
            assert difference <= within * scale, f"{path}: {difference} apart, magnitudes up to {scale}"
        else:
            assert torch.equal(one, other), path
    elif within and isinstance(one, float):
        assert abs(one - other) <= within * max(1.0, abs(other)), f"{path}: {one}, {other}"
    else:
        assert one == other, path
