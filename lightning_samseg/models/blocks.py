"""The blocks of an image encoder, one after the other; in training they can be recomputed to save memory."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Blocks(nn.ModuleList):
    """A list of blocks that is called; entries of the state dict are those of a plain ``nn.ModuleList``.

    With ``recompute`` the backward pass knows of each block only its input and computes the rest anew (Chen et al.
    2016, "Training deep nets with sublinear memory cost"): the same gradients, drawn dropout included, for the memory
    of one block at a time and the time of a second forward pass.
    """

    recompute = False

    def forward(self, x: Tensor) -> Tensor:
        """Send ``x`` through every block."""
        for block in self:
            x = checkpoint(block, x, use_reentrant=False) if self.recompute and _learns(block, x) else block(x)
        return x


def _learns(block: nn.Module, x: Tensor) -> bool:
    """Whether a backward pass will come through: there is nothing to keep of frozen blocks before the first adapted."""
    return torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in block.parameters()))
