"""A teacher: the exponential moving average of a network's weights.

It is a submodule of its method, so it is saved and resumed with it. It is never set to evaluation mode by itself: the
methods here predict with it in training mode, with dropout and the batch's statistics.
"""

from copy import deepcopy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

Network = TypeVar("Network", bound=nn.Module)


def make_teacher(student: Network) -> Network:
    """Copy a network, without gradients; what is frozen in the student is shared instead of copied."""
    frozen = {id(parameter): parameter for parameter in student.parameters() if not parameter.requires_grad}
    teacher = deepcopy(student, dict(frozen))
    return teacher.requires_grad_(False)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, decay: float, buffers: bool = False) -> None:
    """Move the teacher: ``teacher = decay * teacher + (1 - decay) * student``.

    Not ``torch.optim.swa_utils.AveragedModel``: it copies in the first update whatever the decay, and without
    averaging buffers it overwrites them with the student's.

    Args:
        teacher: See :func:`make_teacher`.
        student: The trained network.
        decay: 0 copies the student.
        buffers: Average BatchNorm's statistics, too, and its counters of steps, truncated to integers (BCP). If not,
            the teacher keeps those of its own passes (UAMT).
    """
    pairs: list[tuple[Tensor, Tensor]] = [
        (own, other)
        for own, other in zip(teacher.parameters(), student.parameters(), strict=True)
        if own.data_ptr() != other.data_ptr()
    ]
    if buffers:
        pairs += list(zip(teacher.buffers(), student.buffers(), strict=True))
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    for floating in (True, False):
        chosen = [pair for pair in pairs if pair[0].is_floating_point() == floating]
        if chosen:
            owns, others = (list(tensors) for tensors in zip(*chosen, strict=True))
            average(owns, others, _UNUSED)


_UNUSED: Tensor = torch.tensor(0)
