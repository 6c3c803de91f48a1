"""Bottleneck adapters in an image encoder's blocks: Medical-SAM-Adapter (Wu et al. 2023, section 3.1).

Two in every attention block. The first takes what the attention gives, before the block's residual connection:
``y = a + U gelu(D a)``. The second lies beside the MLP and sees the same normalised input:
``y = mlp(z) + s U gelu(D z)``. ``D`` narrows d channels to ``ratio d``, ``U`` widens them again; the authors take a
ratio of 0.25 and s = 0.5. ``U`` starts at zero, so that the adapted encoder starts as the frozen one.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from lightning_samseg.errors import UserError
from lightning_samseg.models.lora import attention_names
from lightning_samseg.models.tiny_vit import TinyViTBlock

MSA_KEY = ".bottleneck."
"""Part of the name of every entry of a state dict that belongs to such an adapter."""


class Bottleneck(nn.Module):
    """Narrow, activate, widen.

    Args:
        dim: Channels.
        ratio: Inner channels as a fraction of them; at least one remains.
        scale: Factor on the result.
    """

    def __init__(self, dim: int, ratio: float, scale: float) -> None:
        super().__init__()
        self.ratio, self.scale = ratio, scale
        width = max(1, int(dim * ratio))
        self.down = nn.Linear(dim, width)
        self.up = nn.Linear(width, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """What is added: ``(..., dim)`` of the same shape as ``x``."""
        return self.scale * self.up(F.gelu(self.down(x)))


def add_msa(encoder: nn.Module, ratio: float = 0.25, scale: float = 0.5) -> None:
    """Freeze ``encoder`` and put two adapters into each of its attention blocks, in place.

    Names and values of the encoder's own entries stay: the adapters are submodules ``attn.bottleneck`` and
    ``mlp.bottleneck`` that a hook adds to the result.

    Args:
        encoder: A SAM Vision Transformer or LiteMedSAM's TinyViT.
        ratio: Inner channels as a fraction of the block's.
        scale: ``s`` of the adapter beside the MLP; the one behind the attention has 1.

    Raises:
        UserError: If ``ratio`` is not in (0, 1].
    """
    if not 0 < ratio <= 1:
        raise UserError(
            "A bottleneck adapter has an impossible width.",
            expected="a fraction of the channels in (0, 1]",
            found=str(ratio),
            fix="set --model.adapter.ratio 0.25",
        )
    encoder.requires_grad_(False)
    for name in attention_names(encoder):
        block = encoder.get_submodule(name.rpartition(".")[0])
        attention, mlp = block.get_submodule("attn"), block.get_submodule("mlp")
        dim = attention.get_submodule("q_proj").get_parameter("weight").shape[1]
        attention.add_module("bottleneck", Bottleneck(dim, ratio, 1.0))
        attention.register_forward_hook(_after_attention)
        mlp.add_module("bottleneck", Bottleneck(dim, ratio, scale))
        mlp.register_forward_hook(_beside_normalised_mlp if isinstance(block, TinyViTBlock) else _beside_mlp)


# Functions of the module, not of a particular adapter, so that a copy of the encoder uses its own adapters.
def _after_attention(attention: nn.Module, _: Any, result: Tensor) -> Tensor:
    return result + attention.get_submodule("bottleneck")(result)


def _beside_mlp(mlp: nn.Module, arguments: tuple[Tensor, ...], result: Tensor) -> Tensor:
    return result + mlp.get_submodule("bottleneck")(arguments[0])


def _beside_normalised_mlp(mlp: nn.Module, arguments: tuple[Tensor, ...], result: Tensor) -> Tensor:
    """As above, where the block's normalisation is part of the MLP."""
    return result + mlp.get_submodule("bottleneck")(mlp.get_submodule("norm")(arguments[0]))


def find_msa(encoder: nn.Module) -> tuple[float, float] | None:
    """Ratio and scale that :func:`add_msa` was given for an encoder, or None where it has no such adapters."""
    found = [module for module in encoder.modules() if isinstance(module, Bottleneck)]
    # The second of the block's two has the scale.
    return (found[1].ratio, found[1].scale) if found else None
