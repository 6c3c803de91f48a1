"""Our attention against the package's, with the same generated weights."""

import pytest
import torch
from segment_anything.modeling.image_encoder import Attention

from lightning_samseg.models.attention import RelPosAttention, fuse_qkv, split_qkv


def random_state(module: torch.nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {k: torch.randn(v.shape, generator=generator) * 0.2 for k, v in module.state_dict().items()}


@pytest.mark.parametrize("side", [4, 7, 14])
def test_equals_the_package_with_official_names(side: int) -> None:
    official = Attention(48, num_heads=4, use_rel_pos=True, input_size=(side, side))
    state = random_state(official)
    official.load_state_dict(state)
    ours = RelPosAttention(48, 4, side)
    ours.load_state_dict(state)
    x = torch.randn(3, side, side, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(ours.double()(x), official.double()(x), atol=1e-10, rtol=0)


def test_gradients_equal_the_package() -> None:
    official = Attention(48, num_heads=4, use_rel_pos=True, input_size=(5, 5))
    state = random_state(official)
    official.load_state_dict(state)
    ours = RelPosAttention(48, 4, 5)
    ours.load_state_dict(state)
    x = torch.randn(2, 5, 5, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for module in (official, ours):
        module.double()(x).square().sum().backward()
    torch.testing.assert_close(ours.q_proj.weight.grad, official.qkv.weight.grad[:48], atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(ours.rel_pos_h.grad, official.rel_pos_h.grad, atol=1e-10, rtol=1e-10)


def test_split_and_fuse_are_inverse() -> None:
    state = random_state(Attention(48, num_heads=4, use_rel_pos=True, input_size=(4, 4)))
    split = {f"blocks.0.attn.{key}": value for key, value in state.items()}
    before = dict(split)
    split_qkv(split, "blocks.0.attn.")
    assert "blocks.0.attn.q_proj.weight" in split
    fused = fuse_qkv(split)
    assert fused.keys() == before.keys()
    assert all(torch.equal(fused[key], before[key]) for key in before)
