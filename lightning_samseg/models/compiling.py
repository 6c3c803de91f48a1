"""Compiling networks for training where a compiler is, and saying so where none is."""

from collections.abc import Iterable

import torch

from lightning_samseg.log import logger
from lightning_samseg.models.branched_sam import BranchedSam


def compile_for_training(sams: Iterable[BranchedSam], device: torch.device) -> None:
    """Compile the parts of networks; where ``torch.compile`` does not work they stay as they are, and a line says why.

    Args:
        sams: The networks.
        device: Where they compute.
    """
    reason = why_not(device)
    if reason is not None:
        logger.warning("Nothing is compiled: torch.compile does not work here (%s).", reason)
        return
    for sam in sams:
        sam.compile_parts()


def why_not(device: torch.device) -> str | None:
    """What ``torch.compile`` says of the smallest program, so of a missing C++ compiler or Triton; None if it works."""
    try:
        torch.compile(_smallest)(torch.zeros(2, device=device))
    except Exception as error:  # whatever a compiler or a driver throws is the reason
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
    return None


def _smallest(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + 1
