"""Which SAM a method stands on: the arguments under ``sam:``, of one kind where it learns, of another where not."""

from dataclasses import dataclass

from lightning_samseg.models.backbones import BackboneName
from lightning_samseg.models.frozen_sam import Preprocessing


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
