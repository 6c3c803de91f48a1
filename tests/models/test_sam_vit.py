"""Our attention against the package's; blocks that are computed again in the backward pass, and what is kept for it."""

import pytest
import torch
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor, nn

from lightning_samseg.models.backbones import BackboneName
from lightning_samseg.models.branched_sam import BranchedSam
from lightning_samseg.models.sam_vit import Blocks, RelPosAttention, fuse_qkv, split_qkv
from tests.official import branched_sam


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


def adapted(backbone: BackboneName = "tiny", **arguments: object) -> BranchedSam:
    torch.manual_seed(0)
    sam = branched_sam(backbone, 64, 1, pretrained=False, **arguments)
    for name, parameter in sam.named_parameters():
        if "lora_B" in name or ".bottleneck.up" in name:  # zero at the start, which would hide a gradient
            nn.init.normal_(parameter, std=0.1)
    return sam


def picture(batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def gradients(sam: BranchedSam) -> dict[str, Tensor]:
    trained = {name: p for name, p in sam.image_encoder.named_parameters() if p.requires_grad}
    loss = sam.encode(picture()).square().sum()
    return dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True)) | {"": loss.detach()}


def kept_bytes(sam: BranchedSam) -> int:
    """Bytes that a forward pass of the encoder keeps for the backward pass beside the parameters, each once."""
    own = {each.untyped_storage().data_ptr() for each in (*sam.parameters(), *sam.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        sam.encode(picture())
    return sum(tensor.untyped_storage().nbytes() for pointer, tensor in kept.items() if pointer not in own)


@pytest.mark.parametrize(
    ("backbone", "arguments"),
    [("tiny", {}), ("tiny", {"lora_blocks": [2]}), ("tiny", {"adapter_kind": "msa"}), ("lite_medsam", {})],
)
def test_recomputed_gradients_are_equal_to_the_bit(backbone: BackboneName, arguments: dict[str, object]) -> None:
    sam = adapted(backbone, **arguments)
    plain, keys = gradients(sam), list(sam.state_dict())
    sam.recompute_blocks()
    recomputed = gradients(sam)
    assert [name for name in plain if not torch.equal(plain[name], recomputed[name])] == []
    assert list(sam.state_dict()) == keys


def test_only_what_surrounds_the_blocks_is_kept() -> None:
    sam = adapted()
    plain = kept_bytes(sam)
    sam.recompute_blocks()
    assert kept_bytes(sam) < plain / 10


def test_in_mixed_precision_a_block_keeps_its_input_once() -> None:
    """Not a copy for each LoRA: of the attention's normalised input there is one, in half precision."""
    sam = adapted(lora_blocks=[0])
    attention = sam.image_encoder.blocks[0].attn  # type: ignore[index, union-attr]
    kept: list[Tensor] = []
    x = torch.rand(1, 14, 14, 48)
    keep = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t)
    with keep, torch.autocast("cpu", dtype=torch.bfloat16):
        attention(x)
    inputs = {t.untyped_storage().data_ptr(): t.dtype for t in kept if t.numel() == x.numel() and t.shape[-1] == 48}
    assert list(inputs.values()) == [torch.bfloat16]


def test_dropout_is_drawn_once() -> None:
    torch.manual_seed(0)
    blocks = Blocks(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.GELU()) for _ in range(3))
    x, found = torch.rand(64, 8), []
    for blocks.recompute in (False, True):
        torch.manual_seed(7)
        loss = blocks(x).square().sum()
        torch.rand(3)  # what is drawn meanwhile
        found.append([loss, *torch.autograd.grad(loss, list(blocks.parameters()))])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("backbone", ["tiny", "lite_medsam"])
def test_frozen_blocks_before_the_first_adapted_have_no_graph(backbone: BackboneName, recompute: bool) -> None:
    sam = adapted(backbone, lora_blocks=[-1])
    seen: list[bool] = []
    if recompute:
        sam.recompute_blocks()
    for module in sam.image_encoder.modules():
        for block in module if isinstance(module, Blocks) else ():
            block.register_forward_hook(lambda _, given, result: seen.append(result.requires_grad))
    sam.encode(picture())
    learns = seen.index(True)
    assert not any(seen[:learns])
    assert learns == len(seen) - {"tiny": 1, "lite_medsam": 1}[backbone]


def test_nothing_is_recomputed_without_a_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    sam = adapted()
    sam.recompute_blocks()
    monkeypatch.setattr("lightning_samseg.models.sam_vit.checkpoint", None)
    with torch.no_grad():
        sam.encode(picture())
