"""SAM with one adapted image encoder, one prompt encoder and a mask decoder per branch (CPC-SAM section 2.1)."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_samseg.errors import UserError
from lightning_samseg.models.backbones import BACKBONES
from lightning_samseg.models.blocks import Blocks
from lightning_samseg.models.bottleneck import add_msa
from lightning_samseg.models.image_encoders import build_image_encoder, load_image_encoder, load_pretrained
from lightning_samseg.models.lora import add_lora
from lightning_samseg.models.mask_decoder import ClassMaskDecoder, Upsampling
from lightning_samseg.models.prompt_encoder import ClassPromptEncoder
from lightning_samseg.models.sam_config import PretrainedSam

AdapterKind = Literal["lora", "msa"]
"""``lora``: low-rank updates of queries and values. ``msa``: Medical-SAM-Adapter's bottlenecks in every block."""

DecoderInit = Literal["random", "pretrained"]


@dataclass(frozen=True)
class AdapterConfig:
    """How SAM's image encoder is adapted: the arguments under ``adapter:``.

    Args:
        file: Trained parameters to start from, as written by ``weights export`` or ``weights import``.
        kind: ``lora``, as in SAMed and CPC-SAM; or ``msa``: Medical-SAM-Adapter's bottlenecks (Wu et al. 2023), of
            which the encoder has 7.1 M with ViT-B where LoRA has 0.15 M.
        rank: Of LoRA on queries and values; 0 freezes the encoder.
        alpha: LoRA's scale numerator.
        blocks: Attention blocks with LoRA; None for all, as in the papers.
        ratio: Width of the bottlenecks as a fraction of the encoder's.
        scale: Factor on the bottleneck beside each MLP.
    """

    file: str | None = None
    kind: AdapterKind = "lora"
    rank: int = 4
    alpha: float = 4.0
    blocks: Sequence[int] | None = None
    ratio: float = 0.25
    scale: float = 0.5


class BranchedSam(nn.Module):
    """One encoder pass serves any number of decoder passes: :meth:`encode` once, :meth:`decode` as often as needed.

    Args:
        sam: Which SAM, with which weights.
        image_size: S, a multiple of 16.
        num_classes: C, foreground classes.
        branches: Mask decoders; two for CPC-SAM, one for SAMed. They have one structure and independent initial
            weights.
        decoder_init: ``random`` as in CPC-SAM; ``pretrained`` starts each from SAM's decoder but for the class tokens
            and hypernetworks.
        upsampling: See :class:`ClassMaskDecoder`.
        adapter: How the encoder is adapted; its ``file`` is for who calls this.
        embedding_pool: Side of the squares of embedding cells that are averaged before a decoder sees them; its logits
            are interpolated back. 2 makes a decoder pass about four times as cheap, for a coarser outline.

    Raises:
        UserError: If the image size is impossible, the weights are missing or of another backbone, or the adapter's
            numbers make no sense.
    """

    def __init__(
        self,
        sam: PretrainedSam,
        image_size: int,
        num_classes: int,
        branches: int = 2,
        decoder_init: DecoderInit = "random",
        upsampling: Upsampling = "full",
        adapter: AdapterConfig = AdapterConfig(),
        embedding_pool: int = 1,
    ) -> None:
        super().__init__()
        channels = num_classes + 1
        backbone, checkpoint = sam.backbone, sam.checkpoint
        self.backbone = backbone
        self.embedding_pool = embedding_pool
        side = image_size // BACKBONES[backbone].stride
        if embedding_pool < 1 or side % embedding_pool:
            raise UserError(
                "The image embedding cannot be pooled so.",
                expected=f"a divisor of its side, {side} cells",
                found=str(embedding_pool),
                fix="set --model.embedding_pool 1, or another --data.image_size",
            )
        self.image_encoder = build_image_encoder(backbone, image_size)
        self.prompt_encoder = ClassPromptEncoder(channels, image_size)
        stride = BACKBONES[backbone].stride
        decoders = [ClassMaskDecoder(channels, stride, upsampling) for _ in range(branches)]
        self.mask_decoders = nn.ModuleList(decoders)
        self.weights_sha256: str | None = None
        self._is_compiled = False
        self.encode_by: Callable[[Tensor], Tensor] | None = None
        """What stands in for the image encoder, see ``methods.encode_once``."""
        if sam.pretrained and (BACKBONES[backbone].checkpoint is not None or checkpoint is not None):
            states = load_pretrained(backbone, checkpoint)
            self.weights_sha256 = states.sha256
            load_image_encoder(self.image_encoder, states.image_encoder, checkpoint or backbone)
            self.prompt_encoder.load_pretrained(states.prompt_encoder)
            if decoder_init == "pretrained":
                for decoder in decoders:
                    decoder.load_pretrained(states.mask_decoder)
        if adapter.kind == "lora":
            add_lora(self.image_encoder, adapter.rank, adapter.alpha, adapter.blocks)
            return
        if adapter.blocks is not None:
            raise UserError(
                "Bottleneck adapters sit in every attention block.",
                found=f"blocks {list(adapter.blocks)}",
                fix="leave --model.adapter.blocks out, or set --model.adapter.kind lora",
            )
        add_msa(self.image_encoder, adapter.ratio, adapter.scale)

    def recompute_blocks(self) -> None:
        """Let the backward pass compute the encoder's blocks anew, which saves most of the memory of training."""
        for module in self.image_encoder.modules():
            if isinstance(module, Blocks):
                module.recompute = True

    def compile_parts(self) -> None:
        """Compile each block of the encoder and each decoder, in place; blocks of one shape share what is compiled.

        Names in the state dict stay. In evaluation they run as before: it meets batches of many sizes, and each would
        be compiled for itself.
        """
        if self._is_compiled:
            return
        for module in self.image_encoder.modules():
            for block in module if isinstance(module, Blocks) else ():
                block.compile(dynamic=False)
        for decoder in self.mask_decoders:
            decoder.compile(dynamic=False)
        self._is_compiled = True

    def encode(self, image: Tensor) -> Tensor:
        """Image embedding ``(B, 256, E, E)`` of ``(B, 3, S, S)``, E the pooled side."""
        with self._eager_in_evaluation():
            embedding = self.image_encoder(image) if self.encode_by is None else self.encode_by(image)
        return embedding if self.embedding_pool == 1 else F.avg_pool2d(embedding, self.embedding_pool)

    def decode(
        self,
        embedding: Tensor,
        branch: int = 0,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        train_prompt: bool = True,
    ) -> Tensor:
        """Class logits of one branch, unprompted or prompted by class-wise points.

        Args:
            embedding: ``(B, 256, E, E)``.
            branch: Which decoder, from 0.
            points: ``(B, N, 2)`` as (x, y) in input pixels, or None for no prompt.
            labels: int64 ``(B, N)`` class ids of the points.
            train_prompt: Whether the prompt embeddings of this pass get a gradient.

        Returns:
            Logits ``(B, K, S, S)``, or four times the unpooled embedding with ``upsampling="sam"``.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and train_prompt):
            sparse = None if points is None or labels is None else self.prompt_encoder.sparse(points, labels)
            dense = self.prompt_encoder.dense()
        image_pe = self.prompt_encoder.dense_pe(embedding.shape[-1])
        with self._eager_in_evaluation():
            logits = self.mask_decoders[branch](embedding, image_pe, sparse, dense)
        if self.embedding_pool == 1:
            return logits
        return F.interpolate(logits, scale_factor=self.embedding_pool, mode="bilinear", align_corners=False)

    def _eager_in_evaluation(self) -> AbstractContextManager[object]:
        if not self._is_compiled or self.training:
            return nullcontext()
        return torch.compiler.set_stance("force_eager")
