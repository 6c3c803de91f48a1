"""Encoders against the package segment-anything, with generated weights under official names."""

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from segment_anything import build_sam_vit_b
from segment_anything.modeling import ImageEncoderViT
from torch import nn

from lightning_samseg.errors import UserError
from lightning_samseg.models.backbones import BACKBONES
from lightning_samseg.models.image_encoders import (
    build_image_encoder,
    load_image_encoder,
    load_pretrained,
    resize_positions,
)


def generated(module: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights that keep activations of order one: unit norms, small tables, scaled matrices."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, value in module.state_dict().items():
        scale = 0.1 if value.ndim == 1 or "pos" in key else value[0].numel() ** -0.5
        state[key] = torch.randn(value.shape, generator=generator) * scale
        if re.search(r"(norm\d|neck\.[13])\.weight", key):
            state[key] += 1
    return state


def package_encoder(shape: str, image_size: int) -> ImageEncoderViT:
    dim, heads, blocks = BACKBONES[shape].shape
    depth = BACKBONES[shape].attention_blocks
    return ImageEncoderViT(
        img_size=image_size,
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=14,
        global_attn_indexes=blocks,
        out_chans=256,
    )


@pytest.mark.parametrize("image_size", [64, 240, 512, 1024])
def test_encoder_equals_the_package(image_size: int) -> None:
    official = package_encoder("tiny", image_size).eval()
    state = generated(official)
    official.load_state_dict(state)
    ours = build_image_encoder("tiny", image_size).eval()
    load_image_encoder(ours, state, "test")
    image = torch.rand(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(image), official(image), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("image_size", [512, 1024])
def test_vit_b_equals_the_package(image_size: int) -> None:
    official = package_encoder("sam_vit_b", image_size).eval()
    state = generated(official)
    official.load_state_dict(state)
    ours = build_image_encoder("sam_vit_b", image_size).eval()
    load_image_encoder(ours, state, "test")
    image = torch.rand(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(image), official(image), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("shape", "global_blocks"),
    [(name, BACKBONES[name].shape.global_blocks) for name in ("sam_vit_b", "sam_vit_l", "sam_vit_h")],
)
def test_positions_are_resized_in_the_global_blocks_only(shape: str, global_blocks: tuple[int, ...]) -> None:
    with torch.device("meta"):
        official, ours = package_encoder(shape, 1024), build_image_encoder(shape, 512)  # type: ignore[arg-type]
    state = {k: torch.rand(v.shape, dtype=torch.float64) for k, v in official.state_dict().items() if "pos" in k}
    resized = resize_positions(ours, dict(state))
    changed = {int(m[1]) for k in state if (m := re.search(r"blocks\.(\d+)", k)) and resized[k].shape != state[k].shape}
    assert changed == set(global_blocks)
    assert resized["pos_embed"].shape == (1, 32, 32, BACKBONES[shape].shape.dim)
    # Halving with align_corners=False averages the two middle entries of every four... of a line, exactly:
    old, new = state[f"blocks.{global_blocks[0]}.attn.rel_pos_h"], resized[f"blocks.{global_blocks[0]}.attn.rel_pos_h"]
    position = (torch.arange(63, dtype=torch.float64) + 0.5) * 127 / 63 - 0.5
    low = position.floor().long()
    expected = torch.lerp(old[low], old[low + 1], (position - low)[:, None])
    torch.testing.assert_close(new, expected, atol=1e-12, rtol=0)


def test_an_official_checkpoint_file_loads(tmp_path: Path) -> None:
    official = package_encoder("tiny", 1024)
    state = generated(official)
    path = tmp_path / "sam.pth"
    torch.save({f"image_encoder.{key}": value for key, value in state.items()}, path)
    ours = build_image_encoder("tiny", 256)
    load_image_encoder(ours, load_pretrained("tiny", path).image_encoder, str(path))
    assert torch.equal(ours.get_parameter("blocks.0.attn.v_proj.weight"), state["blocks.0.attn.qkv.weight"][96:])


def test_a_checkpoint_of_another_backbone_is_explained() -> None:
    state = generated(package_encoder("tiny", 64))
    state["patch_embed.proj.weight"] = torch.zeros(32, 3, 16, 16)
    with pytest.raises(UserError, match="does not fit the backbone"):
        load_image_encoder(build_image_encoder("tiny", 64), state, "other.pth")


@pytest.mark.parametrize("image_size", [0, 100, -16])
def test_impossible_image_size(image_size: int) -> None:
    with pytest.raises(UserError, match="multiple of 16"):
        build_image_encoder("tiny", image_size)


def test_the_package_agrees_on_the_shape_of_vit_b() -> None:
    with torch.device("meta"):
        official = build_sam_vit_b().image_encoder
        ours = build_image_encoder("sam_vit_b", 1024)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in official.parameters()) == 89_670_912
