"""Medical-SAM-Adapter's bottlenecks: where they sit, what they compute, that they start as nothing."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_samseg.errors import UserError
from lightning_samseg.models.backbones import BackboneName
from lightning_samseg.models.bottleneck import MSA_KEY, add_msa, find_msa
from lightning_samseg.models.image_encoders import build_image_encoder
from tests.official import branched_sam


def encoder(backbone: BackboneName, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_image_encoder(backbone, 64).eval()


def move(module: nn.Module) -> None:
    torch.manual_seed(5)
    for name, parameter in module.named_parameters():
        if MSA_KEY in name:
            nn.init.normal_(parameter, std=0.2)


@pytest.mark.parametrize("backbone", ["tiny", "lite_medsam"])
def test_starts_as_the_frozen_encoder(backbone: BackboneName) -> None:
    plain, adapted = encoder(backbone), encoder(backbone)
    add_msa(adapted)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(plain(image), adapted(image))
        move(adapted)
        assert not torch.allclose(plain(image), adapted(image), atol=1e-3)
    assert plain.state_dict().keys() == {key for key in adapted.state_dict() if MSA_KEY not in key}
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert trained == {key for key in adapted.state_dict() if MSA_KEY in key}


@pytest.mark.parametrize(("backbone", "blocks"), [("tiny", 4), ("lite_medsam", 10)])
def test_every_adapter_gets_a_gradient(backbone: BackboneName, blocks: int) -> None:
    adapted = encoder(backbone)
    add_msa(adapted)
    move(adapted)
    adapted(torch.rand(1, 3, 64, 64)).square().sum().backward()
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert len(trained) == blocks * 2 * 4
    assert [name for name, p in trained.items() if p.grad is None or not p.grad.any()] == []


def test_a_block_by_hand() -> None:
    """The paper's two places in a Vision Transformer's block, written out, for a windowed and a global one."""
    adapted = encoder("tiny")
    add_msa(adapted, ratio=0.5, scale=0.3)
    move(adapted)

    def bottleneck(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        w = module.state_dict()
        inner = F.gelu(x @ w["bottleneck.down.weight"].T + w["bottleneck.down.bias"])
        return inner @ w["bottleneck.up.weight"].T + w["bottleneck.up.bias"]

    x = torch.randn(1, 14, 14, 48)  # one whole window
    for block in list(adapted.blocks)[:2]:  # type: ignore[arg-type]
        if block.window_size == 0:
            x = x[:, :4, :4]
        with torch.no_grad():
            attention = copy.deepcopy(block.attn)
            attention._forward_hooks.clear()
            a = attention(block.norm1(x))
            h = x + a + bottleneck(block.attn, a)
            z = block.norm2(h)
            expected = h + block.mlp.lin2(F.gelu(block.mlp.lin1(z))) + 0.3 * bottleneck(block.mlp, z)
            torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)
    assert find_msa(adapted) == (0.5, 0.3)
    assert find_msa(encoder("tiny")) is None


def test_beside_tiny_vits_mlp_it_sees_the_normalised_input() -> None:
    adapted = encoder("lite_medsam")
    add_msa(adapted)
    move(adapted)
    mlp = adapted.layers[1].blocks[0].mlp  # type: ignore[index,union-attr]
    x = torch.randn(2, 5, 5, 128)
    with torch.no_grad():
        z = F.layer_norm(x, (128,), mlp.norm.weight, mlp.norm.bias)
        inner = F.gelu(mlp.bottleneck.down(z))
        expected = mlp.fc2(F.gelu(mlp.fc1(z))) + 0.5 * mlp.bottleneck.up(inner)
        torch.testing.assert_close(mlp(x), expected)


def test_a_copy_has_adapters_of_its_own() -> None:
    adapted = encoder("tiny")
    add_msa(adapted)
    other = copy.deepcopy(adapted)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = other(image)
        move(adapted)
        assert torch.equal(other(image), before)
        assert not torch.equal(adapted(image), before)


@pytest.mark.parametrize(
    ("backbone", "depth", "dim"), [("sam_vit_b", 12, 768), ("sam_vit_l", 24, 1024), ("sam_vit_h", 32, 1280)]
)
def test_counts_of_the_published_setting(backbone: BackboneName, depth: int, dim: int) -> None:
    """Two bottlenecks a block of d to d / 4 channels and back, with biases: 7.1 M with ViT-B."""
    with torch.device("meta"):
        vit = build_image_encoder(backbone, 64)
        add_msa(vit)
        assert vit(torch.empty(1, 3, 64, 64)).shape == (1, 256, 4, 4)
    count = sum(p.numel() for p in vit.parameters() if p.requires_grad)
    assert count == depth * 2 * (2 * dim * dim // 4 + dim // 4 + dim)


def test_mistakes() -> None:
    with pytest.raises(UserError, match="impossible width"):
        branched_sam("tiny", 64, 1, adapter_kind="msa", msa_ratio=0.0)
    with pytest.raises(UserError, match="every attention block"):
        branched_sam("tiny", 64, 1, adapter_kind="msa", lora_blocks=[0])
