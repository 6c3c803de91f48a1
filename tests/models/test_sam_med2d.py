"""SAM-Med2D's encoder: one block written out in plain functions, its names, its preparation."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_samseg.errors import UserError
from lightning_samseg.models.backbones import BACKBONES, ViTShape
from lightning_samseg.models.frozen_sam import FrozenSam
from lightning_samseg.models.image_encoders import build_image_encoder
from lightning_samseg.transforms import View, prepare_image


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published encoder has 271 million parameters."""
    narrow = BACKBONES["sam_med2d"]._replace(shape=ViTShape(24, 3, (1,)), attention_blocks=2, image_size=64)
    monkeypatch.setitem(BACKBONES, "sam_med2d", narrow)


def encoder(size: int = 64) -> nn.Module:
    torch.manual_seed(0)
    module = build_image_encoder("sam_med2d", size).eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def adapter(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """``Adapter_Layer`` of the published code, ``(B, E, E, dim)``."""
    maps = x.permute(0, 3, 1, 2)
    gate = F.adaptive_avg_pool2d(maps, 1).flatten(1)
    gate = torch.sigmoid(F.relu(gate @ state["channel.0.weight"].T) @ state["channel.2.weight"].T)
    spatial = F.relu(F.conv2d(maps * gate[:, :, None, None], state["spatial.0.weight"], stride=2, padding=1))
    spatial = F.relu(F.conv_transpose2d(spatial, state["spatial.2.weight"], stride=2, padding=1))
    summed = (maps + spatial).permute(0, 2, 3, 1)
    return F.layer_norm(summed, x.shape[-1:], state["norm.weight"], state["norm.bias"])


@pytest.mark.parametrize("number", [0, 1], ids=["windowed", "global"])
def test_a_block_by_hand(number: int) -> None:
    module = encoder(256)  # 16 cells: two windows a side, padded
    block = module.get_submodule(f"blocks.{number}")
    x = torch.randn(2, 16, 16, 24, generator=torch.Generator().manual_seed(1))
    state = block.state_dict()
    with torch.no_grad():
        normalised = F.layer_norm(x, (24,), state["norm1.weight"], state["norm1.bias"], eps=1e-6)
        if number == 0:
            padded = F.pad(normalised, (0, 0, 0, 12, 0, 12))
            attended = torch.zeros_like(padded)
            for i in (0, 14):
                for j in (0, 14):
                    attended[:, i : i + 14, j : j + 14] = block.get_submodule("attn")(padded[:, i : i + 14, j : j + 14])
            attended = attended[:, :16, :16]
        else:
            attended = block.get_submodule("attn")(normalised)
        middle = x + attended
        normalised = F.layer_norm(middle, (24,), state["norm2.weight"], state["norm2.bias"], eps=1e-6)
        hidden = F.gelu(normalised @ state["mlp.lin1.weight"].T + state["mlp.lin1.bias"])
        mlp = hidden @ state["mlp.lin2.weight"].T + state["mlp.lin2.bias"]
        of_adapter = {k.removeprefix("Adapter."): v for k, v in state.items() if k.startswith("Adapter.")}
        expected = middle + mlp + adapter(of_adapter, normalised)
        torch.testing.assert_close(block(x), expected, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(block(x), middle + mlp, atol=0.1)  # the adapter matters


def test_names_are_sams_and_the_adapters() -> None:
    added = set(encoder().state_dict()) - set(build_image_encoder_of_sam())
    names = ("norm.weight", "norm.bias", "channel.0.weight", "channel.2.weight", "spatial.0.weight", "spatial.2.weight")
    assert added == {f"blocks.{block}.Adapter.{name}" for block in range(2) for name in names}
    shapes = {name: tuple(value.shape) for name, value in encoder().state_dict().items()}
    assert shapes["blocks.0.Adapter.channel.0.weight"] == (6, 24)
    assert shapes["blocks.0.Adapter.spatial.0.weight"] == (24, 24, 3, 3)
    assert shapes["blocks.0.Adapter.spatial.2.weight"] == (24, 24, 4, 4)


def build_image_encoder_of_sam() -> dict[str, Tensor]:
    entry = BACKBONES["sam_med2d"]._replace(encoder=BACKBONES["sam_vit_b"].encoder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "sam_vit_b", entry)
        return build_image_encoder("sam_vit_b", 64).state_dict()


def test_the_published_parameters() -> None:
    entry = BACKBONES["sam_med2d"]._replace(shape=BACKBONES["sam_vit_b"].shape, attention_blocks=12)
    with pytest.MonkeyPatch.context() as patch, torch.device("meta"):
        patch.setitem(BACKBONES, "sam_med2d", entry)
        module = build_image_encoder("sam_med2d", 256)
    adapters = sum(p.numel() for name, p in module.named_parameters() if ".Adapter." in name)
    assert adapters == 12 * (2 * 768 * 192 + 768 * 768 * (9 + 16) + 2 * 768)


def test_prepared_as_the_published_predictor(tmp_path: Path) -> None:
    """``SammedPredictor``: mean and deviation at the picture's size, then OpenCV's nearest neighbour to a square."""
    picture = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    values = (picture - np.float32([123.675, 116.28, 103.53])) / np.float32([58.395, 57.12, 57.375])
    expected = cv2.resize(values, (64, 64), interpolation=cv2.INTER_NEAREST).transpose(2, 0, 1)
    frame = prepare_image(picture, View(64, **BACKBONES["sam_med2d"].preparation))
    np.testing.assert_array_equal(frame.image, expected)
    assert frame.case.content_size == (64, 64)


def test_a_file_as_its_training_saves_it(tmp_path: Path) -> None:
    """Weights under ``model``, the optimizer itself beside them."""
    made = FrozenSam("sam_med2d", checkpoint=plain_file(tmp_path / "plain.pth"))
    optimizer = torch.optim.Adam(nn.Linear(2, 2).parameters())
    torch.save({"model": made.state_dict(), "optimizer": optimizer}, tmp_path / "sam-med2d_b.pth")
    read = FrozenSam("sam_med2d", checkpoint=tmp_path / "sam-med2d_b.pth")
    picture = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    point = np.array([[30.0, 20.0]])
    found, case = read.predict(picture, points=point)
    assert torch.equal(found, made.predict(picture, points=point)[0])
    assert read.restore(found, case).shape == (1, 50, 90)
    with pytest.raises(UserError, match=r"--model\.sam\.checkpoint FILE"):
        FrozenSam("sam_med2d")


def plain_file(path: Path) -> Path:
    from tests.official import write_tiny_sam

    state = torch.load(write_tiny_sam(path), weights_only=True)
    rest = {name: value for name, value in state.items() if not name.startswith("image_encoder.")}
    own = {
        f"image_encoder.{name.replace('q_proj', 'qkv')}": value
        for name, value in encoder().state_dict().items()
        if not any(part in name for part in ("k_proj", "v_proj"))
    }
    own = {name: torch.cat([value] * 3) if ".qkv." in name else value for name, value in own.items()}
    torch.save(own | rest, path)
    return path


def test_sizes_that_the_adapters_cannot_halve() -> None:
    with pytest.raises(UserError, match=r"multiple of 32[\s\S]*found: 240"):
        build_image_encoder("sam_med2d", 240)
