"""Tensors that have a shape and no content: code that reads them gets an answer of the right form all the same."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode


@contextmanager
def shapes_only(num_classes: int) -> Iterator[None]:
    """Let every tensor that is made here be a fake one, on the CPU: it takes no memory, and no time to compute.

    Modules are not moved: there is one device, and fake tensors cannot be exchanged in a module.

    Args:
        num_classes: C, for what stands in for label maps.
    """
    apply, reads = nn.Module._apply, _HostReads(num_classes)
    nn.Module._apply = lambda module, *_, **__: module  # type: ignore[method-assign]
    FakeTensor.numpy = lambda tensor, **_: reads.array(tensor)  # type: ignore[method-assign] # in other threads
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), reads:
            yield
    finally:
        nn.Module._apply = apply  # type: ignore[method-assign]
        del FakeTensor.numpy


def forget_files() -> None:
    """Let go of the files that were read, whose storages PyTorch's cache of operations on fake tensors keeps."""
    FakeTensorMode.cache_clear()


class _HostReads(TorchFunctionMode):
    """Answers code that looks at values.

    Label maps show every class, in stripes, so that points of all classes are found; what is asked for truth is true,
    so that checks pass; numbers are one; a mask that chooses entries chooses all.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.asarray and isinstance(args[0], torch.UntypedStorage):  # safetensors, of a file's bytes
            with unset_fake_temporarily():
                return func(*args, **(kwargs or {}))
        if func in _READS and isinstance(args[0], FakeTensor):
            return _READS[func](self, args[0])
        if func is Tensor.__deepcopy__ and isinstance(args[0], FakeTensor):
            return _copied(args[0], args[1])
        if func in (Tensor.__getitem__, Tensor.__setitem__) and _is_mask(args[1]):
            return args[0].flatten(0, args[1].ndim - 1).clone() if func is Tensor.__getitem__ else None
        return func(*args, **(kwargs or {}))

    def array(self, tensor: Tensor) -> NDArray[Any]:
        """What a tensor would be as an array."""
        shape, kind = tuple(tensor.shape), tensor.dtype
        made: NDArray[Any] = np.ones(shape, _NUMPY[kind])
        if kind != torch.bool and not kind.is_floating_point and len(shape) > 1:
            made[:] = np.arange(shape[-1]) * (self.num_classes + 1) // shape[-1]
        if kind == torch.bool and len(shape) > 1:
            made[..., : shape[-1] // 2] = False
        return made

    def number(self, tensor: Tensor) -> Any:
        """What the only value of a tensor would be."""
        return self.array(tensor).item()

    def truth(self, tensor: Tensor) -> bool:
        """Whether it is true."""
        return True


def _is_mask(index: Any) -> bool:
    return isinstance(index, FakeTensor) and index.dtype == torch.bool


def _copied(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    """A deep copy; torch would copy the storage, which is not there."""
    if id(tensor) not in memo:
        copy = tensor.detach().clone()
        parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(copy, tensor.requires_grad) if parameter else copy
    return memo[id(tensor)]


_NUMPY = {
    **{torch.float32: np.float32, torch.float64: np.float64, torch.float16: np.float16, torch.bool: np.bool_},
    **{torch.uint8: np.uint8, torch.int32: np.int32, torch.int64: np.int64, torch.int8: np.int8},
}
_READS: dict[Any, Any] = {
    Tensor.numpy: _HostReads.array,
    Tensor.__array__: _HostReads.array,
    Tensor.tolist: lambda mode, tensor: mode.array(tensor).tolist(),
    Tensor.item: _HostReads.number,
    Tensor.__float__: lambda mode, tensor: float(mode.number(tensor)),
    Tensor.__int__: lambda mode, tensor: int(mode.number(tensor)),
    Tensor.__index__: lambda mode, tensor: int(mode.number(tensor)),
    Tensor.__bool__: _HostReads.truth,
    torch.equal: _HostReads.truth,
    Tensor.equal: _HostReads.truth,
}
