"""The processes that go through one stream together: what each of them finds, all of them know.

Thin functions over ``torch.distributed``'s default group, which all its ranks must call together. A process without
such a group is alone: it gets back what it gave, without waiting for the device.
"""

from collections.abc import Iterable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Thing = TypeVar("Thing")


def rank_and_size() -> tuple[int, int]:
    """Number of this process from 0, and how many there are."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def maxima(*numbers: int) -> list[int]:
    """The largest value over all ranks of each of some integers."""
    if rank_and_size()[1] == 1:
        return list(numbers)
    found = torch.tensor(numbers, device=_device())
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return [int(number) for number in found.tolist()]


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all ranks, one rank's behind the other's.

    Args:
        rows: ``(n, ...)`` on the network's device; n may differ between ranks and be 0, what follows it may not.

    Returns:
        ``(N, ...)``, N the sum of all n; the same on every rank.
    """
    _, size = rank_and_size()
    if size == 1:
        return rows
    own = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.empty_like(own) for _ in range(size)]
    dist.all_gather(counts, own)
    lengths = [int(count) for count in torch.cat(counts).tolist()]
    if max(lengths) == 0:
        return rows
    padded = rows.new_zeros(max(lengths), *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(size)]
    dist.all_gather(parts, padded)
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])


def sum_over_ranks(tensors: Iterable[Tensor]) -> None:
    """Replace tensors, such as gradients, by their sums over all ranks; one exchange for all of them.

    The exchange is of one flat vector, so every rank holds the same bits afterwards.

    Args:
        tensors: As many and of the same shapes on every rank; written to.
    """
    tensors = list(tensors)
    if rank_and_size()[1] == 1 or not tensors:
        return
    flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
    dist.all_reduce(flat)
    totals = torch.split(flat, [tensor.numel() for tensor in tensors])
    for tensor, total in zip(tensors, totals, strict=True):
        tensor.detach().copy_(total.view_as(tensor))


def gather_on_first(things: list[Thing]) -> list[Thing]:
    """The plain objects of all ranks' lists on rank 0, one rank's behind the other's; nothing on the others."""
    rank, size = rank_and_size()
    if size == 1:
        return things
    lists: list[list[Thing]] | None = [[]] * size if rank == 0 else None
    dist.gather_object(things, lists)
    return [thing for each in lists or [] for thing in each]


def _device() -> torch.device:
    """Where the group's backend takes tensors from."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
