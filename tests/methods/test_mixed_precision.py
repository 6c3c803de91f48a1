"""The scaled loss of ``16-mixed``, with a CPU's GradScaler: every AdamW step sees true gradients, or none at all."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_samseg.methods import CpcSam
from tests.grouped import grouped

SIDE = 32


class ScaledFloat32(MixedPrecision):
    """The scaler of ``16-mixed`` without its half precision: a power of two takes no bit from a float32 gradient."""

    def __init__(self, scale: float) -> None:
        super().__init__("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))

    def forward_context(self) -> AbstractContextManager[Any]:  # type: ignore[override]
        return nullcontext()


def train(update: str, plugin: MixedPrecision | None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights before and after two iterations."""
    torch.manual_seed(0)
    labelled = {"image": torch.rand(2, 3, SIDE, SIDE), "mask": torch.randint(0, 2, (2, SIDE, SIDE))}
    batch = {"labelled": labelled, "unlabelled": {"image": torch.rand(2, 3, SIDE, SIDE)}}
    model = grouped(CpcSam, backbone="tiny", image_size=SIDE, ssl_start_iter=0, lr_warmup_iters=0, update=update)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=2,
        plugins=plugin,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer.fit(model, DataLoader([batch] * 2, batch_size=None))
    assert trainer.global_step == 2
    return before, model.state_dict()


def changed(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    return [name for name in one if not torch.equal(one[name], other[name])]


@pytest.mark.parametrize("update", ["joint", "sequential"])
def test_a_scaled_loss_trains_as_an_unscaled_one(update: str) -> None:
    before, plain = train(update, None)
    assert len(changed(before, plain)) > 100
    assert changed(plain, train(update, ScaledFloat32(2.0**16))[1]) == []


@pytest.mark.parametrize("update", ["joint", "sequential"])
def test_no_step_is_made_on_gradients_that_overflow(update: str) -> None:
    assert changed(*train(update, ScaledFloat32(float("inf")))) == []
