"""DirectOL: the comparison of AuxOL's section 4.3, in which the adapter of an adapted SAM learns online itself."""

import copy
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NoReturn

from lightning_samseg.adapters.adapted_sam import AdaptedSam
from lightning_samseg.errors import UserError
from lightning_samseg.methods.aux_ol import AuxOl
from lightning_samseg.models.sam_config import SamConfig
from lightning_samseg.models.unet import AuxiliaryConfig
from lightning_samseg.online.adapted_network import AdaptedNetwork
from lightning_samseg.online.batch import OnlineBatch
from lightning_samseg.online.crop_network import CropConfig
from lightning_samseg.online.fusion import Fusion, FusionConfig
from lightning_samseg.online.learner import OnlineLearner
from lightning_samseg.online.learning import LOSSES, LearningConfig
from lightning_samseg.online.updates import Updates


class DirectOl(AuxOl):
    """A stream in which LoRA or bottlenecks of an adapted SAM are updated, predict then learn.

    Stream, prompts, crops, expert, online batch and files are AuxOL's, so that the tables stand side by side: the
    columns ``sam`` and ``sam_clipped`` are the adapted SAM as it was before the stream, ``direct_ol`` is what has
    become of it, inside the same crops; nothing is fused: the weight ``alpha`` of the former is 0. The paper tells no
    more of DirectOL than that it updates the added layers; it "can degrade segmentation performance in some cases".

    Args:
        sam: The SAM and its ``adapter``: an adapter file, or ``best.ckpt`` of the run of SAMed that trained it.
        trained: ``adapter``: LoRA or the bottlenecks in the encoder (paper). ``all``: with the mask decoder.
        at_once: Images of the online batch in one forward and backward pass: more is faster where memory allows.
        crop_size: Side in pixels at which masks and answers are compared, as in AuxOL.
        aux_ol: Arguments of :class:`AuxOl`.

    Raises:
        UserError: If there is no adapter, it does not fit, or it has nothing to train.
    """

    column = "direct_ol"
    held_by_checkpoint: ClassVar[Mapping[str, Any]] = {"prompter.file": None, "cache_gb": 0}

    def __init__(
        self,
        sam: SamConfig = SamConfig(),
        trained: Literal["adapter", "all"] = "adapter",
        at_once: int = 1,
        crop_size: int = 128,
        **aux_ol: Any,
    ) -> None:
        if sam.adapter is None:
            raise UserError(
                "DirectOl lets the adapter of an adapted SAM learn, and there is none.",
                fix="set --model.sam.adapter to an adapter file, or to best.ckpt of the run of SAMed that trained it",
            )
        # Named here, the arguments of the auxiliary network and of the fusion are none of this method's.
        super().__init__(
            sam=sam,
            auxiliary=AuxiliaryConfig(),
            crop=CropConfig(crop_size, "none"),
            fusion=FusionConfig("fixed", 0.0),
            sam_alone="sum",
            **aux_ol,
        )

    @classmethod
    def from_checkpoint(cls, checkpoint: Any, path: Any, weights: str | None = None) -> NoReturn:
        """Refuse: the paper compares how it learns, and keeps nothing.

        Raises:
            UserError: Always.
        """
        raise UserError(
            f"{path} is of DirectOl, which is a comparison and predicts while it learns only.",
            fix="use a checkpoint of AuxOl, or that of the SAMed run that its adapter came from",
        )

    def _build_learner(
        self, crop: CropConfig, fusion: Fusion, batch: OnlineBatch, learning: LearningConfig
    ) -> OnlineLearner:
        h: Any = self.hparams
        # Not a submodule: what was trained is in the learner's part of the checkpoint, the rest is frozen.
        module: AdaptedSam = copy.deepcopy(self.generalist)  # type: ignore[assignment]
        network = AdaptedNetwork(
            module,
            trained=h.trained,
            at_once=h.at_once,
            loss=LOSSES[learning.loss],
            lr=learning.lr,
            weight_decay=learning.weight_decay,
            crop_size=crop.size,
        )
        return OnlineLearner(
            network,
            fusion,
            batch,
            sam_alone="largest",
            step_per=learning.step_per,
            replay_without_feedback=learning.replay_without_feedback,
            updates=Updates(learning, self.seed),
        )

    def on_fit_start(self) -> None:
        """As AuxOl's.

        Raises:
            UserError: If there are several processes, too.
        """
        if self.trainer.world_size > 1:
            raise UserError("DirectOl walks through the stream in one process.", fix="set --trainer.devices 1")
        self.learner.network.module.to(self.device)
        super().on_fit_start()
