"""The image encoders of MobileSAM and LiteMedSAM: a TinyViT.

TinyViT (Wu et al., ECCV 2022) is one stage of inverted bottlenecks, then three of windowed attention with a depthwise
convolution between attention and MLP. MobileSAM lets the last merging keep the resolution; LiteMedSAM changes the patch
embedding, too, to two 1x1 convolutions of stride 1. The parameters are those under ``image_encoder.`` in their
checkpoints, except that the fused ``qkv`` of each attention is held as three Linears, which peft can target one by one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_samseg.errors import UserError
from lightning_samseg.models.sam_vit import Blocks


class TinyViT(nn.Module):
    """Image encoder of LiteMedSAM, or with ``patch_stride`` 2 of MobileSAM.

    Works on every square input whose side ``S`` is a multiple of 16; LiteMedSAM was trained at 256 on images scaled to
    [0, 1]. At multiples of 112 its windows fit without padding, which is cheapest per pixel. BatchNorm statistics
    never move, in ``train()`` as in ``eval()``: see :class:`ConvBN`. Feature maps are kept in channels-last memory,
    the layout in which convolutions and attention windows are both cheap.

    Args:
        dims: Channels of the four stages; the first is convolutional, the others use attention.
        depths: Blocks per stage.
        heads: Attention heads of the three attention stages.
        windows: Window sides of the three attention stages, in tokens.
        strides: Strides of the three mergings between the stages.
        out_channels: Channels of the embedding.
        patch_stride: Stride of each of the two convolutions of the patch embedding.
    """

    embedding_stride: int
    """Pixels of the input per token of the embedding, along each side."""

    def __init__(
        self,
        dims: tuple[int, int, int, int] = (64, 128, 160, 320),
        depths: tuple[int, int, int, int] = (2, 2, 6, 2),
        heads: tuple[int, int, int] = (4, 5, 10),
        windows: tuple[int, int, int] = (7, 14, 7),
        strides: tuple[int, int, int] = (2, 2, 1),
        out_channels: int = 256,
        patch_stride: int = 1,
    ) -> None:
        super().__init__()
        self.embedding_stride = patch_stride**2 * strides[0] * strides[1] * strides[2]
        self.patch_embed = PatchEmbed(dims[0], patch_stride)
        stages = [Stage([MBConv(dims[0]) for _ in range(depths[0])], PatchMerging(dims[0], dims[1], strides[0]))]
        for i in (1, 2, 3):
            blocks = [TinyViTBlock(dims[i], heads[i - 1], windows[i - 1]) for _ in range(depths[i])]
            stages.append(Stage(blocks, PatchMerging(dims[i], dims[i + 1], strides[i]) if i < 3 else None))
        self.layers = nn.ModuleList(stages)
        self.neck = nn.Sequential(
            nn.Conv2d(dims[3], out_channels, kernel_size=1, bias=False),
            LayerNorm2d(out_channels, eps=1e-6),
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(out_channels, eps=1e-6),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Encode images.

        Args:
            image: Float ``(B, 3, S, S)``.

        Returns:
            Embedding ``(B, out_channels, E, E)``, ``E`` = ``S / embedding_stride``.

        Raises:
            UserError: If the input is not square or its side is not a multiple of 16.
        """
        height, width = image.shape[-2:]
        if height != width or height % 16 != 0:
            raise UserError(
                "This image encoder, a TinyViT, cannot take this input size",
                expected="a square whose side is a multiple of 16 pixels",
                found=f"{height} x {width}",
                fix=f"set image_size to {max(16, round(height / 16) * 16)}",
            )
        x = self.patch_embed(image.contiguous(memory_format=torch.channels_last))
        for layer in self.layers:
            x = layer(x)
        return self.neck(x)

    def attention_blocks(self) -> list["TinyViTBlock"]:
        """The blocks with attention (those that can carry LoRA), from the input to the embedding."""
        return [module for module in self.modules() if isinstance(module, TinyViTBlock)]


def lite_medsam(*_: Any) -> TinyViT:
    """LiteMedSAM's encoder, for inputs of any size."""
    return TinyViT()


def mobile_sam(*_: Any) -> TinyViT:
    """MobileSAM's encoder, for inputs of any size."""
    return TinyViT(patch_stride=2)


def fuse_qkv_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo the split of q, k and v: the layout in which LiteMedSAM publishes its checkpoint.

    Args:
        state: State dict of a :class:`TinyViT`, or of a model that contains one under any prefix. The number of heads
            is read off the ``attention_biases`` of each attention; projections of other attentions are left alone.

    Returns:
        A new dict with the other entries untouched and in the same order; loading it again gives the same bits.
    """
    fused: dict[str, Tensor] = {}
    for key, value in state.items():
        prefix, _, rest = key.rpartition("attn.")
        part, _, name = rest.partition(".")
        if part not in ("q_proj", "k_proj", "v_proj") or f"{prefix}attn.attention_biases" not in state:
            fused[key] = value
        elif part == "q_proj":
            heads = state[f"{prefix}attn.attention_biases"].shape[0]
            parts = [state[f"{prefix}attn.{p}.{name}"] for p in ("q_proj", "k_proj", "v_proj")]
            fused[f"{prefix}attn.qkv.{name}"] = torch.stack(
                [p.reshape(heads, -1, *p.shape[1:]) for p in parts], dim=1
            ).flatten(0, 2)
    return fused


class WindowAttention(nn.Module):
    """Multi-head attention inside a window, with a learned bias per head and absolute offset between two tokens.

    Args:
        dim: Channels, a multiple of ``heads``.
        heads: Attention heads.
        window: Side of the window in tokens; the number of biases depends on it alone, not on the size of the image.
    """

    attention_bias_index: Tensor

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        # The checkpoint numbers offsets (|dy|, |dx|) row by row, which is the order in which a scan first meets them.
        y, x = torch.arange(window).repeat_interleave(window), torch.arange(window).repeat(window)
        index = (y[:, None] - y[None]).abs() * window + (x[:, None] - x[None]).abs()
        self.register_buffer("attention_bias_index", index, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of each window: ``(windows, N, dim)`` to the same shape, ``N`` = window side squared."""
        x = self.norm(x)
        q, k, v = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        bias = self.attention_biases[:, self.attention_bias_index].to(q.dtype)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
        return self.proj(x.transpose(1, 2).flatten(2))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # The fused rows are ordered (head, q|k|v, channel): each head's q, k and v lie together, unlike in SAM's ViT.
        for name in ("weight", "bias"):
            qkv = state_dict.pop(f"{prefix}qkv.{name}", None)
            if qkv is not None:
                parts = qkv.unflatten(0, (self.heads, 3, -1)).unbind(1)
                for part, value in zip(("q_proj", "k_proj", "v_proj"), parts, strict=True):
                    state_dict[f"{prefix}{part}.{name}"] = value.flatten(0, 1)
        super()._load_from_state_dict(state_dict, prefix, *args)


class TinyViTBlock(nn.Module):
    """Windowed attention, depthwise convolution, MLP; the first and the last with a residual connection.

    Args:
        dim: Channels.
        heads: Attention heads.
        window: Side of the attention window in tokens.
    """

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = WindowAttention(dim, heads, window)
        self.mlp = Mlp(dim)
        self.local_conv = ConvBN(dim, dim, 3, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """Transform a feature map ``(B, dim, H, H)`` of any side; it is padded with zeros to whole windows."""
        x = x + self._attend(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = self.local_conv(x)
        return x + self.mlp(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _attend(self, x: Tensor) -> Tensor:
        """Cut ``(B, H, W, dim)`` into windows, attend in each, and put them together again."""
        batch, height, width, dim = x.shape
        w = self.window
        # Zeros enter before the norm and take part as keys, as in the original: the weights were trained that way.
        x = F.pad(x, (0, 0, 0, -width % w, 0, -height % w))
        rows, columns = x.shape[1] // w, x.shape[2] // w
        x = x.reshape(batch, rows, w, columns, w, dim).transpose(2, 3).reshape(-1, w * w, dim)
        x = self.attn(x)
        x = x.reshape(batch, rows, columns, w, w, dim).transpose(2, 3).reshape(batch, rows * w, columns * w, dim)
        return x[:, :height, :width]


class Mlp(nn.Module):
    """Pre-normalised two-layer perceptron over channels, four times as wide inside."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., dim)`` to ``(..., dim)``."""
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class ConvBN(nn.Module):
    """Convolution without bias, then BatchNorm with the statistics of pre-training.

    A pretrained encoder meets batches that are small and unlike its training data, so the running mean and variance are
    constants here, in ``train()`` as in ``eval()``. Gradients still reach the affine parameters where asked for. The
    BatchNorm is not folded into the convolution: that gains a tenth in fp32 on a CPU and nothing in bf16, where it
    makes the error of the embedding 1.7 times as large, because the folded bias is rounded to bf16.
    """

    def __init__(self, dim: int, out_dim: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(dim, out_dim, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``(B, dim, H, H)`` to ``(B, out_dim, H / stride, H / stride)``."""
        bn = self.bn
        return F.batch_norm(self.c(x), bn.running_mean, bn.running_var, bn.weight, bn.bias, training=False, eps=bn.eps)


class PatchEmbed(nn.Module):
    """Two convolutions: 3x3 of stride 2 (TinyViT), or LiteMedSAM's 1x1, so that every pixel is a token."""

    def __init__(self, dim: int, stride: int) -> None:
        super().__init__()
        kernel = 1 if stride == 1 else 3
        first, second = ConvBN(3, dim // 2, kernel, stride), ConvBN(dim // 2, dim, kernel, stride)
        self.seq = nn.Sequential(first, nn.GELU(), second)

    def forward(self, x: Tensor) -> Tensor:
        """Embed ``(B, 3, S, S)`` to ``(B, dim, S / stride^2, S / stride^2)``."""
        return self.seq(x)


class MBConv(nn.Module):
    """Inverted bottleneck of the first stage: 1x1 to four times the channels, depthwise 3x3, 1x1 back, residual."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = ConvBN(dim, 4 * dim)
        self.conv2 = ConvBN(4 * dim, 4 * dim, 3, groups=4 * dim)
        self.conv3 = ConvBN(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``(B, dim, H, H)`` to the same shape."""
        return F.gelu(x + self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x))))))


class PatchMerging(nn.Module):
    """Change of stage: 1x1 to the new channels, depthwise 3x3 with the stride, 1x1."""

    def __init__(self, dim: int, out_dim: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvBN(dim, out_dim)
        self.conv2 = ConvBN(out_dim, out_dim, 3, stride, groups=out_dim)
        self.conv3 = ConvBN(out_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, dim, H, H)`` to ``(B, out_dim, H / stride, H / stride)``."""
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))


class Stage(nn.Module):
    """Blocks at one resolution, then the merging that leads to the next one."""

    def __init__(self, blocks: Sequence[nn.Module], downsample: PatchMerging | None) -> None:
        super().__init__()
        self.blocks = Blocks(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Run the blocks on ``(B, dim, H, H)`` and merge."""
        x = self.blocks(x)
        return x if self.downsample is None else self.downsample(x)


class LayerNorm2d(nn.LayerNorm):
    """Layer normalisation over the channels of ``(B, C, H, W)``."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each pixel."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
