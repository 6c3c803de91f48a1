"""SAM with one adapted image encoder, one prompt encoder and a mask decoder per branch (CPC-SAM section 2.1).

Both are made for classes. "We expand the number of point prompt embeddings in the prompt encoder to the number of
semantic classes" (section 3): a point of class c is the Fourier encoding of its place plus embedding c. With pretrained
weights, classes 0 to 3 start from SAM's own embeddings in SAM's order (negative point, positive point, two box
corners), as in the authors' code; further classes start at random.

Differences of the decoder from ``segment_anything.MaskDecoder``:

* Mask token k belongs to class k, background included, and all K masks come out as logits for one softmax.
* B images go with B prompt sets (SAM repeats one image for every prompt set).
* ``upsampling="full"`` goes on doubling until the logits have the size of the input (the progressive upsampling of
  MA-SAM that CPC-SAM uses; its last stage keeps 16 channels as in CPC-SAM's code). ``"sam"`` stops at four times the
  embedding, as SAM and SAMed do.
* There is no head that predicts mask quality: nothing ever supervises it.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from segment_anything.modeling import TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_samseg.errors import UserError
from lightning_samseg.models.backbones import BACKBONES
from lightning_samseg.models.bottleneck import add_msa
from lightning_samseg.models.image_encoders import build_image_encoder, load_image_encoder, load_pretrained
from lightning_samseg.models.lora import add_lora
from lightning_samseg.models.sam_config import AdapterConfig, DecoderInit, PretrainedSam, Upsampling
from lightning_samseg.models.sam_vit import Blocks
from lightning_samseg.types import NOT_A_POINT


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


class ClassPromptEncoder(nn.Module):
    """Points with class ids to sparse tokens, and the dense "no mask" embedding that an unprompted decoder is given.

    Args:
        num_channels: K, classes with background.
        image_size: S; points are in pixels of this frame.
        embed_dim: Width of the embedding.
    """

    def __init__(self, num_channels: int, image_size: int, embed_dim: int = 256) -> None:
        super().__init__()
        self.image_size = image_size
        self.pe_layer = PositionEmbeddingRandom(embed_dim // 2)
        self.class_embeddings = nn.Embedding(num_channels, embed_dim)
        self.not_a_point_embed = nn.Embedding(1, embed_dim)
        self.no_mask_embed = nn.Embedding(1, embed_dim)

    def sparse(self, points: Tensor, labels: Tensor) -> Tensor:
        """Tokens of a set of points per image.

        Args:
            points: ``(B, N, 2)`` as (x, y) in pixels of the network input.
            labels: int64 ``(B, N)``, class ids, or -1 for "not a point".

        Returns:
            ``(B, N + 1, 256)``: SAM closes a set of points without a box with a "not a point" token.
        """
        with torch.autocast(points.device.type, enabled=False):  # bfloat16 cannot tell neighbouring pixels apart
            place = self.pe_layer._pe_encoding((points.float() + 0.5) / self.image_size)
        absent = (labels == NOT_A_POINT)[..., None]
        tokens = torch.where(absent, self.not_a_point_embed.weight, place + self.class_embeddings(labels.clamp(min=0)))
        padding = self.not_a_point_embed.weight.expand(len(points), 1, -1)
        return torch.cat([tokens, padding], dim=1)

    def dense(self) -> Tensor:
        """The embedding ``(1, 256, 1, 1)`` that stands for "no mask given"; it broadcasts over the image embedding."""
        return self.no_mask_embed.weight[:, :, None, None]

    def dense_pe(self, side: int) -> Tensor:
        """Fourier encoding ``(1, 256, E, E)`` of the cells of an image embedding of that side."""
        with torch.autocast(self.no_mask_embed.weight.device.type, enabled=False):
            return self.pe_layer((side, side))[None]

    def prompt_parameters(self) -> list[Tensor]:
        """What receives a gradient only from prompted passes."""
        return [self.class_embeddings.weight, self.not_a_point_embed.weight]

    def load_pretrained(self, state: Mapping[str, Tensor]) -> None:
        """Start from an official SAM prompt encoder; embeddings of classes beyond the fourth stay random."""
        if not state:
            return
        with torch.no_grad():
            self.pe_layer.positional_encoding_gaussian_matrix.copy_(
                state["pe_layer.positional_encoding_gaussian_matrix"]
            )
            self.not_a_point_embed.weight.copy_(state["not_a_point_embed.weight"])
            self.no_mask_embed.weight.copy_(state["no_mask_embed.weight"])
            for index in range(min(4, self.class_embeddings.num_embeddings)):
                self.class_embeddings.weight[index] = state[f"point_embeddings.{index}.weight"][0]


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
        # The transformer gives channels last, and so do the convolutions; to sum over channels first would mix both.
        logits = pixels.permute(0, 2, 3, 1).flatten(1, 2) @ weights.transpose(1, 2)
        return logits.transpose(1, 2).unflatten(2, pixels.shape[2:])

    def load_pretrained(self, state: Mapping[str, Tensor]) -> None:
        """Start from SAM's decoder where name and shape agree; tokens and hypernetworks stay random, as in SAMed."""
        own = self.state_dict()
        fresh = ("mask_tokens", "output_hypernetworks_mlps")
        shared = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape and not k.startswith(fresh)}
        self.load_state_dict(shared, strict=False)
