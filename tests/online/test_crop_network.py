"""The auxiliary network in bfloat16 beside float32, and who decides."""

from typing import Any

import pytest
import torch

from lightning_samseg.models import precision
from lightning_samseg.models.unet import UNet
from lightning_samseg.online import crop_network
from lightning_samseg.online.crop_network import CropNetwork
from lightning_samseg.prompts.boxes import Box

pytestmark = pytest.mark.usefixtures("one_thread")

ROUNDING = 2.0**-9
"""Largest relative error of one rounding to bfloat16, which has 8 bits with the hidden one."""


def network(kind: Any) -> CropNetwork:
    torch.manual_seed(0)
    return CropNetwork(UNet(4, (8, 16, 16, 16, 16)), crop_size=32, extra_channel="mask", precision=kind)


def course(kind: Any, updates: int = 20) -> tuple[torch.Tensor, CropNetwork]:
    """Losses ``(updates, 4)`` of discs under noise, and the network at the end."""
    generator = torch.Generator().manual_seed(1)
    axis = torch.arange(32.0) - 15.5
    radius = torch.tensor([6.0, 8, 10, 12]).view(4, 1, 1, 1)
    masks = (axis[:, None].hypot(axis)[None, None] < radius).float()
    crops = torch.rand(4, 4, 32, 32, generator=generator) * 0.5 + 0.5 * masks
    learner = network(kind)
    return torch.stack([learner.update(crops, masks) for _ in range(updates)]), learner


def test_bfloat16_learns_as_float32_does() -> None:
    """Each of the 18 convolutions rounds what it reads, its weights and what it writes, each time by up to 2^-9.

    Errors of one sign in a row are none, so they grow with the root of their number: 7.3 roundings, 0.014 of a logit of
    about 1, which moves a probability by a quarter of that and the mean over pixels, of which Dice is one, by no more.
    AdamW's steps are as long whatever the gradient's size, so that 20 of them may triple it. In all 0.01.
    """
    bound = 3 * (18 * 3) ** 0.5 * ROUNDING / 4
    assert 0.009 < bound < 0.011
    full, _ = course("trainer")
    half, learner = course("bf16")
    assert full[-1].mean() < full[0].mean() - 0.05
    difference = (full - half).abs().max()
    assert 0 < difference < bound
    assert {each.dtype for each in learner.module.parameters()} == {torch.float32}
    assert half.dtype == torch.float32
    (look,) = learner.look(torch.rand(3, 40, 40), torch.randn(1, 40, 40), [Box(0, 0, 40, 40)])
    assert look.logits.dtype == torch.float32


def test_the_trainers_precision_is_left_alone_unless_told() -> None:
    """And each update begins with the weights that the one before has left, though autocast remembers its casts."""
    full, _ = course("trainer", 3)
    with torch.autocast("cpu", torch.bfloat16):  # around a whole step, as the trainer has it
        half, _ = course("trainer", 3)
    alone, _ = course("bf16", 3)
    assert not torch.equal(full, half)
    assert torch.equal(half, alone)


@pytest.mark.parametrize(("fast", "says"), [(True, "bfloat16: this cpu multiplies"), (False, "this cpu does not")])
def test_auto_asks_the_processor_once_and_says_so(
    fast: bool, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(crop_network, "multiplies_bf16", lambda device: fast)
    chosen, _ = course("auto", 2)
    assert torch.equal(chosen, course("bf16" if fast else "trainer", 2)[0])
    assert capsys.readouterr().out.count(says) == 1


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("flags : fpu avx512f avx512_bf16 fsrm", True),
        ("flags : fpu avx512f amx_bf16 amx_tile", True),
        ("Features : fp asimd i8mm bf16 dgh", True),
        ("flags : fpu avx2 avx512f avx512vl", False),
        (None, False),
    ],
)
def test_what_the_processor_says(flags: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Cpuinfo:
        def __init__(self, path: str) -> None:
            assert path == "/proc/cpuinfo"

        def read_text(self, encoding: str) -> str:
            if flags is None:
                raise FileNotFoundError
            return flags

    monkeypatch.setattr(precision, "Path", Cpuinfo)
    assert precision.multiplies_bf16(torch.device("cpu")) == expected
    assert not precision.multiplies_bf16(torch.device("meta"))
