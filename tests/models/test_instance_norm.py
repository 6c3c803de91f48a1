"""InstanceNorm with channels last, against PyTorch's with channels first in float32."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_samseg.models import instance_norm
from lightning_samseg.models.instance_norm import InstanceNorm
from lightning_samseg.models.unet import AuxiliaryConfig, build_auxiliary

SHAPE = (3, 5, 6, 7)


def draw(seed: int) -> Tensor:
    """Far from mean 0, where a variance from squares alone would be lost."""
    return (torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) + 30).bfloat16()


def both(x: Tensor, gradient: Tensor, norm: nn.Module) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    y = norm(x)
    y.backward(gradient)
    assert x.grad is not None
    return y.detach(), x.grad


@pytest.mark.parametrize("at_once", [1, 300, 2**20])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_values_and_gradients(at_once: int, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the last bit of bfloat16, however many entries are computed at once."""
    monkeypatch.setattr(instance_norm, "AT_ONCE", at_once)
    x, gradient = draw(0), draw(1)
    expected = both(x.float(), gradient.float(), F.instance_norm)
    found = both(
        x.contiguous(memory_format=torch.channels_last), gradient.contiguous(memory_format=layout), InstanceNorm(5)
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.is_contiguous(memory_format=torch.channels_last)
        assert ours.dtype == torch.bfloat16
        assert torch.allclose(ours.float(), theirs, rtol=2**-8, atol=2**-8)


def test_channels_first_and_float32_are_pytorchs_own() -> None:
    x = draw(0)
    for each in (x, x.float(), x.float().contiguous(memory_format=torch.channels_last)):
        assert torch.equal(InstanceNorm(5)(each), F.instance_norm(each))
    assert list(InstanceNorm(5).state_dict()) == list(nn.InstanceNorm2d(5).state_dict())


def test_the_unet_has_channels_last_in_bf16_alone() -> None:
    torch.manual_seed(0)
    network, x = build_auxiliary(AuxiliaryConfig(width=1 / 16), in_channels=4), torch.rand(2, 4, 64, 64)
    last: list[bool] = []

    def look(module: nn.Module, given: tuple[Tensor], answer: Tensor) -> None:
        last.append(answer.is_contiguous(memory_format=torch.channels_last) and not answer.is_contiguous())

    for module in network.modules():
        if isinstance(module, nn.InstanceNorm2d):
            module.register_forward_hook(look)
    plain = network(x)
    assert last == [False] * 18
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(x)
    assert last[18:] == [True] * 18
    assert (rounded.float() - plain).abs().max() < 0.05 * plain.abs().max()
