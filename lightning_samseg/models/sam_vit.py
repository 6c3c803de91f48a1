"""SAM's Vision Transformer, built from the package ``segment_anything``, with q, k and v apart and no N x N tensor.

Two changes to ``segment_anything.modeling.image_encoder.Attention``, neither of which changes what it computes:

* The fused ``qkv`` becomes ``q_proj``, ``k_proj``, ``v_proj``, so that peft can adapt q and v alone. Official
  checkpoints are split while they load; :func:`fuse_qkv` joins them again for export.
* The decomposed relative positions are folded into the dot product. SAM adds ``rel_h[q, row(k)] + rel_w[q, column(k)]``
  to the scores. With ``q' = [q / sqrt(d), rel_h, rel_w]`` and ``k' = [k, onehot(row), onehot(column)]`` the plain
  product ``q' k'`` already is that sum, so a flash kernel, forward and backward, does the rest with memory linear in
  the number of tokens.
"""

from functools import partial
from typing import Any

import torch
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lightning_samseg.models.backbones import EMBED_DIM, Backbone

WINDOW = 14


class RelPosAttention(nn.Module):
    """Multi-head self-attention over a square window with decomposed relative positions.

    Args:
        dim: Channels.
        num_heads: Heads; ``dim`` is a multiple of it.
        side: Side of the token grid (the window, or the whole image in a global block).
    """

    def __init__(self, dim: int, num_heads: int, side: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        head_dim = dim // num_heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, head_dim))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, head_dim))
        self.offsets: Tensor
        self.key_position: Tensor
        steps = torch.arange(side)
        rows = torch.eye(side).repeat_interleave(side, dim=0)
        columns = torch.eye(side).repeat(side, 1)
        self.register_buffer("offsets", steps[:, None] - steps[None, :] + side - 1, persistent=False)
        self.register_buffer("key_position", torch.cat([rows, columns], dim=1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within the grid.

        Args:
            x: ``(B, side, side, dim)``.

        Returns:
            ``(B, side, side, dim)``.
        """
        if x.dtype == torch.float32 and not x.is_meta and torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))  # once; else for each projection, and kept by each LoRA
        batch, height, width, dim = x.shape
        tokens, head_dim = height * width, dim // self.num_heads

        def heads(projected: Tensor) -> Tensor:
            return projected.view(batch, tokens, self.num_heads, head_dim).transpose(1, 2)

        q, k, v = heads(self.q_proj(x)), heads(self.k_proj(x)), heads(self.v_proj(x))
        grid = q.reshape(batch, self.num_heads, height, width, head_dim)
        rel_h = torch.einsum("bnhwc,hkc->bnhwk", grid, self.rel_pos_h[self.offsets]).flatten(2, 3)
        rel_w = torch.einsum("bnhwc,wkc->bnhwk", grid, self.rel_pos_w[self.offsets]).flatten(2, 3)
        position = self.key_position.to(k.dtype).expand(batch, self.num_heads, -1, -1)
        q = torch.cat([q * head_dim**-0.5, rel_h.to(q.dtype), rel_w.to(q.dtype)], dim=-1)
        k = torch.cat([k, position], dim=-1)
        # Flash kernels want one width for q, k and v.
        v = F.pad(v, (0, height + width))
        attended = F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., :head_dim]
        return self.proj(attended.transpose(1, 2).reshape(batch, height, width, dim))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        split_qkv(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


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


class SamViT(ImageEncoderViT):
    """The package's encoder, whose blocks are :class:`Blocks`."""

    blocks: Blocks

    def forward(self, image: Tensor) -> Tensor:
        """Encode ``(B, 3, S, S)``."""
        return self.neck(self.blocks(self.tokens(image)).permute(0, 3, 1, 2))

    def tokens(self, image: Tensor) -> Tensor:
        """Patches and their positions, ``(B, S / 16, S / 16, dim)``."""
        # A convolution puts channels first; without the copy, so would all that is added, and every LayerNorm copies.
        return (self.patch_embed(image) + self.pos_embed).contiguous()


def sam_vit(backbone: Backbone, image_size: int) -> SamViT:
    """A SAM Vision Transformer of the entry's shape, ``(B, 3, S, S) -> (B, 256, S / 16, S / 16)``."""
    shape = backbone.shape
    assert shape is not None
    encoder = SamViT(
        img_size=image_size,
        embed_dim=shape.dim,
        depth=backbone.attention_blocks,
        num_heads=shape.heads,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=WINDOW,
        global_attn_indexes=shape.global_blocks,
        out_chans=EMBED_DIM,
    )
    block: Any
    for block in encoder.blocks:
        block.attn = RelPosAttention(shape.dim, shape.heads, block.window_size or image_size // 16)
    encoder.blocks = Blocks(encoder.blocks)
    return encoder


def split_qkv(state_dict: dict[str, Tensor], prefix: str) -> None:
    """Replace SAM's fused ``{prefix}qkv.*`` (rows q, k, v in this order) by three entries, in place."""
    for kind in ("weight", "bias"):
        fused = state_dict.pop(f"{prefix}qkv.{kind}", None)
        if fused is not None:
            for name, part in zip("qkv", fused.chunk(3), strict=True):
                state_dict[f"{prefix}{name}_proj.{kind}"] = part


def fuse_qkv(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of :func:`split_qkv` for a whole encoder: a copy with official SAM's names.

    Args:
        state_dict: Entries of an encoder; those without ``q_proj`` pass unchanged. LoRA must be merged before.
    """
    fused = {}
    for key, value in state_dict.items():
        if ".q_proj." in key:
            parts = [value, *(state_dict[key.replace(".q_proj.", f".{name}_proj.")] for name in "kv")]
            fused[key.replace(".q_proj.", ".qkv.")] = torch.cat(parts)
        elif ".k_proj." not in key and ".v_proj." not in key:
            fused[key] = value
    return fused
