"""Networks that compute in float64, for tests that reach one result by two ways.

Two orders of summation differ in the last bits of float32, and two things blow these bits up: an argmax whose
candidates are nearly equal, and AdamW. Where the true gradient is zero, as that of a bias in front of a normalisation
is, float32 leaves some 1e-9 of rounding; AdamW divides it by its own size plus 1e-8, which is a step of about the
learning rate in whatever direction. In float64 the rounding is 1e-17 and moves nothing.
"""

from types import MethodType
from typing import Any

import pytest
import torch
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom
from torch import Tensor, nn

from lightning_samseg.losses.binary import soft_dice
from lightning_samseg.methods import aux_ol
from lightning_samseg.online.learning import LOSSES


class Float64(nn.Module):
    """A network whose input is cast to float64, as its weights are."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.double())


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """The project's ``dice_loss`` in float64; the online batch keeps its value in float32."""
    return (1 - soft_dice(logits.double().sigmoid(), target.double())).float()


def in_float64(model: Any) -> Any:
    """A model with SAM in it, cast to float64 with the places that SAM's package encodes, always in float32."""

    def encoded(layer: PositionEmbeddingRandom, coordinates: Tensor) -> Tensor:
        return PositionEmbeddingRandom._pe_encoding(layer, coordinates.double())

    for layer in model.modules():
        if isinstance(layer, PositionEmbeddingRandom):
            layer._pe_encoding = MethodType(encoded, layer)
    return model.double()


def predict_in_float64(patch: pytest.MonkeyPatch, *kinds: type[Any]) -> None:
    """Let methods predict in float64 from now on: a mask does not hang on what else is in the batch."""
    for kind in kinds:
        patch.setattr(kind, "predict_probabilities", _wide(kind.predict_probabilities))


def _wide(ours: Any) -> Any:
    def wide(method: Any, image: Tensor) -> Tensor:
        with torch.inference_mode(False):  # or the weights could not be used outside of it any more
            in_float64(method)
        return ours(method, image.double())

    return wide


def learn_in_float64(patch: pytest.MonkeyPatch) -> None:
    """Let AuxOl's auxiliary networks and its Dice loss compute in float64 from now on."""
    build = aux_ol.build_auxiliary
    patch.setattr(aux_ol, "build_auxiliary", lambda *arguments, **more: Float64(build(*arguments, **more)))
    patch.setitem(LOSSES, "dice", dice_loss)
