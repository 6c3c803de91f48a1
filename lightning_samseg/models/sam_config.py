"""Which SAM a method stands on, and how it is adapted: the arguments under ``sam:`` and ``adapter:``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lightning_samseg.models.backbones import BackboneName
from lightning_samseg.models.frozen_sam import Preprocessing

AdapterKind = Literal["lora", "msa"]
"""``lora``: low-rank updates of queries and values. ``msa``: Medical-SAM-Adapter's bottlenecks in every block."""
DecoderInit = Literal["random", "pretrained"]
Upsampling = Literal["full", "sam"]


@dataclass(frozen=True)
class PretrainedSam:
    """A SAM that is the start of a training.

    Args:
        backbone: Which SAM.
        checkpoint: Its weights in official SAM's names instead of the cached ones.
        pretrained: False leaves its weights at random, for where a checkpoint's are loaded afterwards.
    """

    backbone: BackboneName = "sam_vit_b"
    checkpoint: str | None = None
    pretrained: bool = True


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


@dataclass(frozen=True)
class SamConfig:
    """A frozen SAM, its weights, and how it sees images.

    Args:
        backbone: Which SAM. AuxOL's paper: SAM-H and MedSAM.
        checkpoint: Its weights in official SAM's names instead of the cached ones. For points the authors of AuxOL give
            MedSAM the weights ``medsam_point_prompt_flare22.pth`` of its repository.
        adapter: What SAMed or CpcSam has trained makes it a SAM adapted to a task: an adapter file, or ``best.ckpt`` of
            the run. It sees images as in its training and answers without prompts; see ``adapters.adapted_sam``.
            ``preprocessing`` and ``size`` are the adapter's then.
        preprocessing: ``own``: as the backbone's authors publish it; ``sam``: as SAM's predictor, which the authors of
            AuxOL use for MedSAM, too.
        size: Side of its square input in pixels, a multiple of 16; None for what it was trained at.
    """

    backbone: BackboneName = "sam_vit_h"
    checkpoint: str | None = None
    adapter: str | None = None
    preprocessing: Preprocessing = "own"
    size: int | None = None
