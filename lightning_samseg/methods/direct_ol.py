"""DirectOL: the comparison of AuxOL's section 4.3, in which the adapter of an adapted SAM learns online itself."""

import copy
from typing import Any, Literal, NoReturn

from lightning_samseg.adapters.adapted_sam import AdaptedSam
from lightning_samseg.errors import UserError
from lightning_samseg.methods.aux_ol import LOSSES, AuxOl
from lightning_samseg.models.backbones import BackboneName
from lightning_samseg.online.adapted_network import AdaptedNetwork
from lightning_samseg.online.batch import OnlineBatch
from lightning_samseg.online.fusion import Fusion
from lightning_samseg.online.learner import OnlineLearner


class DirectOl(AuxOl):
    """A stream in which LoRA or bottlenecks of an adapted SAM are updated, predict then learn.

    Stream, prompts, crops, expert, online batch and files are AuxOL's, so that the tables stand side by side: the
    columns ``sam`` and ``sam_clipped`` are the adapted SAM as it was before the stream, ``direct_ol`` is what has
    become of it, inside the same crops; nothing is fused: the weight ``alpha`` of the former is 0. The paper tells no
    more of DirectOL than that it updates the added layers; it "can degrade segmentation performance in some cases".

    Args:
        adapter: Adapter file, or ``best.ckpt`` of the run of SAMed that trained it.
        backbone: The SAM it was made on.
        trained: ``adapter``: LoRA or the bottlenecks in the encoder (paper). ``all``: with the mask decoder.
        at_once: Images of the online batch in one forward and backward pass: more is faster where memory allows.
        crop_size: Side in pixels at which masks and answers are compared, as in AuxOL.
        aux_ol: Arguments of :class:`AuxOl`.

    Raises:
        UserError: If the adapter does not fit, or has nothing to train.
    """

    column = "direct_ol"

    def __init__(
        self,
        adapter: str,
        backbone: BackboneName = "sam_vit_h",
        trained: Literal["adapter", "all"] = "adapter",
        at_once: int = 1,
        crop_size: int = 128,
        **aux_ol: Any,
    ) -> None:
        # Named here, the arguments of the auxiliary network and of the fusion are none of this method's.
        super().__init__(
            backbone=backbone,
            adapter=adapter,
            crop_size=crop_size,
            preprocessing="own",
            sam_size=None,
            auxiliary="unet17m",
            encoder_weights=None,
            width=1.0,
            extra_channel="none",
            crop_resize="tensor",
            fusion="fixed",
            alpha=0.0,
            alpha_window=5,
            alpha_grid=0.05,
            alpha_start="half",
            alpha_from="rectified",
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

    def _build_learner(self, h: Any) -> OnlineLearner:
        # Not a submodule: what was trained is in the learner's part of the checkpoint, the rest is frozen.
        module: AdaptedSam = copy.deepcopy(self.generalist)  # type: ignore[assignment]
        network = AdaptedNetwork(
            module,
            trained=h.trained,
            at_once=h.at_once,
            loss=LOSSES[h.loss],
            lr=h.lr,
            weight_decay=h.weight_decay,
            crop_size=h.crop_size,
        )
        return OnlineLearner(
            network,
            Fusion("fixed", 0.0),
            OnlineBatch(h.capacity, h.policy),
            sam_alone="largest",
            step_per=h.step_per,
            replay_without_feedback=h.replay_without_feedback,
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
