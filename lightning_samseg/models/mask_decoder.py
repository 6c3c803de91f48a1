"""SAM's mask decoder with one mask per class, batched over images, upsampled to the input resolution.

Differences from ``segment_anything.MaskDecoder``:

* Mask token k belongs to class k, background included, and all K masks come out as logits for one softmax.
* B images go with B prompt sets (SAM repeats one image for every prompt set).
* ``upsampling="full"`` goes on doubling until the logits have the size of the input (the progressive upsampling of
  MA-SAM that CPC-SAM uses; its last stage keeps 16 channels as in CPC-SAM's code). ``"sam"`` stops at four times the
  embedding, as SAM and SAMed do.
* There is no head that predicts mask quality: nothing ever supervises it.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from segment_anything.modeling import TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP
from torch import Tensor, nn

Upsampling = Literal["full", "sam"]


class ClassMaskDecoder(nn.Module):
    """Image embedding and prompt tokens to one logit map per class.

    Args:
        num_channels: K, classes with background.
        stride: Input pixels per embedding cell, a power of two.
        upsampling: ``full`` for logits at the input size, ``sam`` for four times the embedding.
        dim: Width of the embedding.
    """

    def __init__(self, num_channels: int, stride: int = 16, upsampling: Upsampling = "full", dim: int = 256) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.transformer = TwoWayTransformer(depth=2, embedding_dim=dim, mlp_dim=2048, num_heads=8)
        self.iou_token = nn.Embedding(1, dim)  # SAM's fifth token; unread, but the others attend to it
        self.mask_tokens = nn.Embedding(num_channels, dim)
        stages = stride.bit_length() - 1 if upsampling == "full" else 2
        widths = [dim // 4, dim // 8, dim // 16, dim // 16][:stages]
        layers: list[nn.Module] = []
        for source, target in zip([dim, *widths], widths, strict=False):
            layers += [nn.ConvTranspose2d(source, target, kernel_size=2, stride=2), LayerNorm2d(target), nn.GELU()]
        del layers[-2]  # the last stage has no normalisation
        self.output_upscaling = nn.Sequential(*layers)
        self.output_hypernetworks_mlps = nn.ModuleList(MLP(dim, dim, widths[-1], 3) for _ in range(num_channels))

    def forward(self, embedding: Tensor, image_pe: Tensor, sparse: Tensor | None, dense: Tensor) -> Tensor:
        """Decode.

        Args:
            embedding: ``(B, 256, E, E)`` from the image encoder.
            image_pe: ``(1, 256, E, E)``.
            sparse: ``(B, N, 256)`` prompt tokens, or None for no prompt.
            dense: ``(1 or B, 256, 1 or E, 1 or E)``.

        Returns:
            Logits ``(B, K, S, S)`` (``full``) or ``(B, K, 4E, 4E)`` (``sam``).
        """
        batch, dim, height, width = embedding.shape
        tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(batch, -1, -1)
        if sparse is not None:
            tokens = torch.cat([tokens, sparse], dim=1)
        hidden, source = self.transformer(embedding + dense, image_pe.expand(batch, -1, -1, -1), tokens)
        mask_tokens = hidden[:, 1 : 1 + self.num_channels]
        pixels = self.output_upscaling(source.transpose(1, 2).view(batch, dim, height, width))
        weights = torch.stack([mlp(mask_tokens[:, k]) for k, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1)
        return torch.einsum("bkc,bchw->bkhw", weights, pixels)

    def load_pretrained(self, state: Mapping[str, Tensor]) -> None:
        """Start from SAM's decoder where name and shape agree; tokens and hypernetworks stay random, as in SAMed."""
        own = self.state_dict()
        fresh = ("mask_tokens", "output_hypernetworks_mlps")
        shared = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape and not k.startswith(fresh)}
        self.load_state_dict(shared, strict=False)
