"""Baselines trained on the labelled images alone: SAMed (SAM with LoRA and one decoder) and a U-Net."""

from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_samseg.adapters.files import load_adapter_into
from lightning_samseg.losses.dice_ce import dice_ce_loss
from lightning_samseg.methods.base import BaseMethod
from lightning_samseg.methods.encode_once import look_up_encodings
from lightning_samseg.models.branched_sam import BranchedSam
from lightning_samseg.models.branched_unet import NetworkConfig, build_unet, take_channels
from lightning_samseg.models.compiling import compile_for_training
from lightning_samseg.models.sam_config import AdapterConfig, DecoderInit, PretrainedSam, Upsampling
from lightning_samseg.types import Batch


class SAMed(BaseMethod):
    """SAMed (Zhang and Liu 2023): LoRA on SAM's encoder, prompt encoder and one mask decoder trained, never prompted.

    Args:
        sam: SAM to adapt.
        adapter: What is trained in its image encoder: LoRA as in SAMed, or bottlenecks beside the same decoder.
        decoder_init: ``pretrained`` as SAMed: SAM's decoder but for its mask tokens and hypernetworks.
        upsampling: ``sam`` as SAMed: logits at four times the embedding, compared with the target at that size;
            ``full`` as CPC-SAM.
        embedding_pool: Side of the squares of embedding cells that are averaged before a decoder sees them: 2 makes
            its passes about four times as cheap, and outlines coarser.
        supervised_dice: Share of Dice in the loss (0.8, with 0.2 cross-entropy).
        compile: Whether the encoder's blocks and the decoders are compiled for training (``torch.compile``): minutes at
            the start, fewer seconds per iteration.
        checkpointing: Whether the backward pass computes the encoder's blocks anew: less memory, a third more time.
        encode_once: Whether the encoder's frozen first blocks encode each of ``data.views`` once, and what they make is
            kept in ``$SAMSEG_CACHE/encoded``.
        base: Arguments of :class:`BaseMethod`. SAMed's own learning rate is 5e-3.
    """

    def __init__(
        self,
        sam: PretrainedSam = PretrainedSam(),
        adapter: AdapterConfig = AdapterConfig(),
        decoder_init: DecoderInit = "pretrained",
        upsampling: Upsampling = "sam",
        embedding_pool: int = 1,
        supervised_dice: float = 0.8,
        compile: bool = False,
        checkpointing: bool = False,
        encode_once: bool = False,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.save_hyperparameters()
        self.supervised_dice, self.encode_once = supervised_dice, encode_once
        size = self.image_size, self.num_classes
        self.sam = BranchedSam(sam, *size, 1, decoder_init, upsampling, adapter, embedding_pool)
        if adapter.file is not None:
            load_adapter_into(self.sam, adapter.file)
        self.compiles = compile
        if checkpointing:
            self.sam.recompute_blocks()
        # Without prompts their embeddings never get a gradient.
        for parameter in self.sam.prompt_encoder.prompt_parameters():
            parameter.requires_grad_(False)

    @property
    def weights_sha256(self) -> str | None:
        """Hash of the pretrained weights."""
        return self.sam.weights_sha256

    def on_fit_start(self) -> None:
        """Compile and look up what is asked for."""
        if self.compiles:
            compile_for_training([self.sam], self.device)
        if self.encode_once:
            look_up_encodings(self.sam, self.trainer)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Supervised loss on the logits at their own size."""
        logits = self.sam.decode(self.sam.encode(batch["image"]), 0)
        loss = dice_ce_loss(logits, shrink_labels(batch["mask"], logits.shape[-1]), self.supervised_dice)
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def predict_probabilities(self, image: Tensor) -> Tensor:
        """Softmax ``(B, K, S, S)`` of the logits, interpolated bilinearly where they are smaller."""
        logits = self.sam.decode(self.sam.encode(image), 0).float()
        return F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False).softmax(1)


class UNet(BaseMethod):
    """A U-Net: the small one of the papers' tables, or any from segmentation-models-pytorch.

    Args:
        network: ``paper`` as in CPC-SAM's Table 1, or what else the semi-supervised methods take, as their floor. Here
            also ``smp/ARCHITECTURE/ENCODER``, the whole of a network of segmentation-models-pytorch, for example
            ``smp/deeplabv3plus/resnet34``.
        supervised_dice: Share of Dice in the loss (0.5, with 0.5 cross-entropy, the recipe of SSL4MIS).
        base: Arguments of :class:`BaseMethod`.
    """

    def __init__(
        self,
        network: NetworkConfig = NetworkConfig("smp/unet/resnet34"),
        supervised_dice: float = 0.5,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.save_hyperparameters()
        self.supervised_dice = supervised_dice
        self.in_channels = network.in_channels
        library, _, name = network.name.partition("/")
        self.network: torch.nn.Module
        if library == "smp":
            architecture, _, encoder = name.partition("/")
            self.network = smp.create_model(
                architecture,
                encoder,
                encoder_weights=network.encoder_weights,
                in_channels=network.in_channels,
                classes=self.num_classes + 1,
            )
        else:
            self.network = build_unet(network, self.num_classes)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Supervised loss."""
        loss = dice_ce_loss(self(batch["image"]), batch["mask"], self.supervised_dice)
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def predict_probabilities(self, image: Tensor) -> Tensor:
        """Softmax ``(B, K, S, S)``."""
        return self(image).float().softmax(1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, K, S, S)``."""
        return self.network(take_channels(image, self.in_channels))


def shrink_labels(mask: Tensor, size: int) -> Tensor:
    """Nearest-neighbour resize of int64 ``(B, S, S)`` class ids to ``(B, size, size)``."""
    if mask.shape[-1] == size:
        return mask
    return F.interpolate(mask[:, None].float(), size=size, mode="nearest-exact")[:, 0].long()
