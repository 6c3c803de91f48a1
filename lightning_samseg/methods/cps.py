"""CPS: cross pseudo supervision (Chen et al., CVPR 2021), as SSL4MIS trains it."""

from typing import Any, Literal

import torch
from torch import Tensor

from lightning_samseg.losses.consistency import probabilities
from lightning_samseg.losses.dice_ce import cross_entropy_loss, dice_ce_loss
from lightning_samseg.methods.base import BaseMethod
from lightning_samseg.metrics.on_device import agreement, confidence, empty_fraction
from lightning_samseg.models.branched_unet import NetworkConfig, take_channels
from lightning_samseg.models.sam_config import AdapterConfig, PretrainedSam
from lightning_samseg.semi.network import SamNetwork, build_network
from lightning_samseg.semi.ramps import ConsistencyConfig
from lightning_samseg.types import SemiBatch


class Cps(BaseMethod):
    """CPS. Two networks of the same kind, from independent random starts, each learning from the other's labels.

    With z_i the logits of network i on the same images, y_j = sg argmax z_j the other's labels and sg no gradient::

        L = sum_i (CE + Dice)(z_i, y) / 2 + w(t) CE(z_i^U, y_j^U)        w(t) = lambda r(t // 150, 200)

    r is the ramp of ``semi.ramps``. No threshold, and no Dice on the unlabelled images. One optimizer over both
    networks makes the authors' two steps.

    Args:
        network: Which; with ``sam_lora`` one encoder with two mask decoders stands for two networks.
        supervised_dice: Share of Dice in the loss on labelled images; the rest is cross-entropy.
        consistency: Weight of the cross supervision.
        branch: The network that predicts, and is validated; which one the published tables show is not said.
        sam: SAM of ``sam_lora``.
        adapter: Its LoRA.
        base: Arguments of :class:`BaseMethod`. The authors': SGD, lr 0.01, weight decay 1e-4, no warm-up, poly_lag 0.
    """

    uses_unlabelled = True

    def __init__(
        self,
        network: NetworkConfig = NetworkConfig(),
        supervised_dice: float = 0.5,
        consistency: ConsistencyConfig = ConsistencyConfig(),
        branch: Literal["1", "2"] = "1",
        sam: PretrainedSam = PretrainedSam(),
        adapter: AdapterConfig = AdapterConfig(),
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.save_hyperparameters()
        self.supervised_dice = supervised_dice
        self.consistency = consistency
        self.branch = int(branch) - 1
        self.networks = torch.nn.ModuleList(
            build_network(network, sam, adapter, self.image_size, self.num_classes, branches=2)
            for _ in range(1 if network.name == "sam_lora" else 2)
        )
        self.in_channels: int = self.networks[0].in_channels  # type: ignore[assignment]

    @property
    def weights_sha256(self) -> str | None:
        """Hash of SAM's weights, where the network is SAM."""
        return self.networks[0].weights_sha256  # type: ignore[return-value]

    def training_step(self, batch: SemiBatch, batch_idx: int) -> Tensor:
        """One iteration of both networks."""
        labelled, target = batch["labelled"]["image"], batch["labelled"]["mask"]
        images = take_channels(torch.cat([labelled, batch["unlabelled"]["image"]]), self.in_channels)
        outputs = self.outputs(images)
        guesses = [output.detach().argmax(1) for output in outputs]
        supervised = [dice_ce_loss(output[: len(labelled)], target, self.supervised_dice) for output in outputs]
        crossed = [
            cross_entropy_loss(output[len(labelled) :], guess[len(labelled) :])
            for output, guess in zip(outputs, reversed(guesses), strict=True)
        ]
        weight = self.consistency.at(self.global_step, self.schedule_iters)
        loss = torch.stack(supervised).sum() + weight * torch.stack(crossed).sum()

        self.log("train/loss", loss.detach(), prog_bar=True)
        for number in range(2):
            unlabelled = probabilities(outputs[number][len(labelled) :].detach())
            self.log_dict(
                {
                    f"train/supervised_{number + 1}": supervised[number].detach(),
                    f"train/cross_{number + 1}": crossed[number].detach(),
                    f"train/confidence_{number + 1}": confidence(unlabelled),
                    f"train/pseudo_dsc_{number + 1}": agreement(guesses[number][: len(labelled)], target),
                }
            )
        self.log_dict(
            {
                "train/consistency_weight": weight,
                "train/agreement": agreement(guesses[0][len(labelled) :], guesses[1][len(labelled) :]),
                "train/empty_predictions": empty_fraction(guesses[self.branch]),
            }
        )
        return loss

    def predict_probabilities(self, image: Tensor) -> Tensor:
        """Softmax ``(B, K, S, S)`` of the network that predicts."""
        return probabilities(self.outputs(take_channels(image, self.in_channels))[self.branch])

    def outputs(self, images: Tensor) -> list[Tensor]:
        """Logits ``(B, K, S, S)`` of both networks, or of both decoders of the one SAM."""
        if len(self.networks) == 2:
            return [network(images) for network in self.networks]
        sam = self.networks[0]
        assert isinstance(sam, SamNetwork)
        features = sam.encode(images)
        return [sam.decode(features, branch).logits for branch in (0, 1)]
