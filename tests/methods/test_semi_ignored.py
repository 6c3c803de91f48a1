"""Pixels of labelled images that nobody knows: no supervised loss has a gradient there, whatever the method."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_samseg.methods.base import BaseMethod
from lightning_samseg.types import IGNORED
from tests.methods.test_semi import SIDE, build

ROWS = 12
"""The first rows of every labelled image are ignored."""
SUPERVISED_ALONE: dict[str, dict[str, Any]] = {
    "uamt": {"consistency": 0.0},
    "cps": {"consistency": 0.0},
    "urpc": {"consistency": 0.0},
    "mc_net_plus": {"consistency": 0.0},
    "dc_net": {"scale": 0.0, "cross_weight": 0.0},
    "bcp": {"pretrain_iters": 0, "unlabelled_weight": 0.0},
    "unimatch": {"strong_weight": 0.0, "perturbed_weight": 0.0},
    "semi_sam": {"consistency": 0.0, "sam_consistency": 0.0},
}
ALSO_ON_LABELLED_IMAGES = ("mc_net_plus", "dc_net", "semi_sam")


def gradients(name: str, monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> list[Tensor]:
    """Of the loss by the logits of every pass over labelled images; for BCP over mixed ones."""
    method = build(name, **arguments)
    kept: list[Tensor] = []
    for network in getattr(method, "networks", None) or [method.network]:
        decode, side_logits = network.decode, network.side_logits

        def decoded(*args: Any, decode: Any = decode) -> Any:
            found = decode(*args)
            return found._replace(logits=keep(found.logits))

        def sides(*args: Any, side_logits: Any = side_logits) -> list[Tensor]:
            return [keep(each) for each in side_logits(*args)]

        monkeypatch.setattr(network, "decode", decoded)
        monkeypatch.setattr(network, "side_logits", sides)

    def keep(logits: Tensor) -> Tensor:
        if logits.requires_grad:
            logits.retain_grad()
            kept.append(logits)
        return logits

    lone(method, monkeypatch).backward()  # type: ignore[no-untyped-call]
    assert kept
    labelled = 2 if name != "bcp" else None
    return [each.grad[:labelled] for each in kept if each.grad is not None]


def lone(method: BaseMethod, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The loss of one iteration, without a trainer."""
    monkeypatch.setattr(type(method), "global_step", 5)
    monkeypatch.setattr(type(method), "schedule_iters", 10)
    for log in ("log", "log_dict"):
        monkeypatch.setattr(method, log, lambda *_, **__: None)
    generator = torch.Generator().manual_seed(0)
    grey = (torch.rand(count, 1, SIDE, SIDE, generator=generator) for count in (2, 4))
    labelled, unlabelled = (each.expand(-1, 3, -1, -1) for each in grey)
    mask = torch.randint(0, 2, (2, SIDE, SIDE), generator=generator)
    mask[:, :ROWS] = IGNORED
    batch: Any = {"labelled": {"image": labelled, "mask": mask}, "unlabelled": {"image": unlabelled}}
    return method.training_step(batch, 0)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", SUPERVISED_ALONE)
def test_ignored_pixels_enter_no_supervised_loss(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = gradients(name, monkeypatch, **SUPERVISED_ALONE[name])
    for gradient in found:
        assert torch.equal(gradient[:, :, :ROWS], torch.zeros_like(gradient[:, :, :ROWS]))
    assert any(gradient[:, :, ROWS:].abs().sum() > 0 for gradient in found)


@pytest.mark.parametrize("name", ALSO_ON_LABELLED_IMAGES)
def test_consistency_that_runs_over_labelled_images_needs_no_label(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There ignored pixels count as those of unlabelled images do."""
    extra = {"sam_consistency": 0.0} if name == "semi_sam" else {}
    found = gradients(name, monkeypatch, **extra)
    assert any(gradient[:, :, :ROWS].abs().sum() > 0 for gradient in found)
