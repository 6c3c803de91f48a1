"""SAM-Med2D's image encoder: SAM's Vision Transformer with a convolutional adapter in every block (Cheng et al. 2023).

The adapters are part of its published weights and frozen like the rest; LoRA may come on top, as on any backbone.
"""

from typing import Any

from segment_anything.modeling.image_encoder import window_partition, window_unpartition
from torch import Tensor, nn

from lightning_samseg.errors import UserError
from lightning_samseg.models.backbones import Backbone
from lightning_samseg.models.sam_vit import Blocks, SamViT, sam_vit


def sam_med2d(backbone: Backbone, image_size: int) -> SamViT:
    """SAM-Med2D's encoder, ``(B, 3, S, S) -> (B, 256, S / 16, S / 16)``.

    Raises:
        UserError: If ``image_size`` is not a multiple of 32.
    """
    if image_size % 32:
        raise UserError(
            "SAM-Med2D's adapters halve the embedding and double it again, which an odd side does not survive.",
            expected="image_size, a multiple of 32",
            found=str(image_size),
            fix=f"set image_size to {max(32, round(image_size / 32) * 32)}",
        )
    encoder = sam_vit(backbone, image_size)
    encoder.blocks = Blocks(AdaptedBlock(block, encoder.pos_embed.shape[-1]) for block in encoder.blocks)
    return encoder


class AdaptedBlock(nn.Module):
    """A block of SAM's Vision Transformer with an adapter beside the MLP.

    ``x = x + attention(norm1(x))``, then ``x = x + mlp(norm2(x)) + Adapter(norm2(x))``.

    Args:
        block: SAM's, whose parts are taken over.
        dim: Its channels.
    """

    def __init__(self, block: Any, dim: int) -> None:
        super().__init__()
        self.window_size: int = block.window_size
        self.norm1, self.attn, self.norm2, self.mlp = block.norm1, block.attn, block.norm2, block.mlp
        self.Adapter = AdapterLayer(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``(B, E, E, dim)`` to the same shape."""
        if self.window_size:
            windows, padded = window_partition(self.norm1(x), self.window_size)
            attended = window_unpartition(self.attn(windows), self.window_size, padded, x.shape[1:3])
        else:
            attended = self.attn(self.norm1(x))
        x = x + attended
        normalised = self.norm2(x)
        return x + self.mlp(normalised) + self.Adapter(normalised)


class AdapterLayer(nn.Module):
    """A gate for every channel, then a convolution to half the resolution and back: ``norm(x + spatial(gate(x) x))``.

    Names of the parts are those of the published weights.

    Args:
        dim: Channels.
        ratio: Inner channels of the gate as a fraction of them.
    """

    def __init__(self, dim: int, ratio: float = 0.25) -> None:
        super().__init__()
        inner = int(dim * ratio)
        self.norm = nn.LayerNorm(dim)
        self.channel = nn.Sequential(
            nn.Linear(dim, inner, bias=False), nn.ReLU(), nn.Linear(inner, dim, bias=False), nn.Sigmoid()
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(dim, dim, 3, stride=2, padding=1, bias=False),
            nn.ReLU(),
            nn.ConvTranspose2d(dim, dim, 4, stride=2, padding=1, bias=False),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``(B, E, E, dim)`` to the same shape."""
        gated = x * self.channel(x.mean((1, 2), keepdim=True))
        return self.norm(x + self.spatial(gated.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
