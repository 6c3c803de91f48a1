"""What tensors cost while real code runs, be they real or fake: bytes that are alive, floating point operations."""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

_CPU_ATTENTION = "_scaled_dot_product_flash_attention_for_cpu"


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches every operation of PyTorch while it is entered, those of backward passes and optimizers included.

    Memory is that of storages: a view adds nothing, and a storage counts until the last tensor of it is gone. What a
    kernel takes for itself while it computes is not seen. Operations are those of matrix products, convolutions and
    attention, a multiplication and an addition being two, by the formulas of ``torch.utils.flop_counter``.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive = 0
        """Bytes of the storages that are alive now."""
        self.peak = 0
        """Most bytes that have been alive at a time."""
        self.flops = 0
        """Floating point operations so far."""
        self._sizes: dict[int, int] = {}
        self._watched: dict[int, weakref.ref[Any]] = {}
        registry = dict(flop_registry)
        for name, formula in ((_CPU_ATTENTION, sdpa_flop), (f"{_CPU_ATTENTION}_backward", sdpa_backward_flop)):
            if (operation := getattr(torch.ops.aten, name, None)) is not None and operation not in registry:
                registry[operation] = formula
        self._formulas = registry

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, count it, and watch what it makes."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if (formula := self._formulas.get(func.overloadpacket)) is not None:
            self.flops += formula(*args, **kwargs, out_val=result)
        for each in tree_iter(result):
            if isinstance(each, Tensor):
                self.watch(each)
        return result

    def watch(self, tensor: Tensor) -> None:
        """Count a tensor's storage from now on, if it is not counted yet."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        self.alive += size - self._sizes.get(key, 0)
        self._sizes[key] = size
        if key not in self._watched:
            self._watched[key] = weakref.ref(storage, lambda _: self._forget(key))
        self.peak = max(self.peak, self.alive)

    def start_anew(self) -> None:
        """Let the peak be what is alive now."""
        self.peak = self.alive

    def _forget(self, key: int) -> None:
        self.alive -= self._sizes.pop(key)
        del self._watched[key]
