"""MobileSAM: the published file's names and shapes, and its encoder against timm's TinyViT."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

from lightning_samseg.models.backbones import BACKBONES
from lightning_samseg.models.frozen_sam import FrozenSam
from lightning_samseg.models.tiny_vit import mobile_sam
from lightning_samseg.transforms import on_input


def encoder_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of MobileSAM's image encoder, from its repository (``mobile_sam/modeling/tiny_vit_sam.py``)."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv_bn(name: str, out: int, into: int, kernel: int) -> None:
        shapes[f"{name}.c.weight"] = (out, into, kernel, kernel)
        shapes.update({f"{name}.bn.{part}": (out,) for part in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{name}.bn.num_batches_tracked"] = ()

    def affine(name: str, out: int, into: int | None = None) -> None:
        shapes[f"{name}.weight"] = (out,) if into is None else (out, into)
        shapes[f"{name}.bias"] = (out,)

    conv_bn("patch_embed.seq.0", 32, 3, 3)
    conv_bn("patch_embed.seq.2", 64, 32, 3)
    dims = (64, 128, 160, 320)
    for block in range(2):
        conv_bn(f"layers.0.blocks.{block}.conv1", 256, 64, 1)
        conv_bn(f"layers.0.blocks.{block}.conv2", 256, 1, 3)
        conv_bn(f"layers.0.blocks.{block}.conv3", 64, 256, 1)
    for layer, (depth, heads, window) in enumerate([(2, 4, 7), (6, 5, 14), (2, 10, 7)], start=1):
        dim = dims[layer]
        for block in range(depth):
            name = f"layers.{layer}.blocks.{block}"
            shapes[f"{name}.attn.attention_biases"] = (heads, window * window)
            affine(f"{name}.attn.norm", dim)
            affine(f"{name}.attn.qkv", 3 * dim, dim)
            affine(f"{name}.attn.proj", dim, dim)
            affine(f"{name}.mlp.norm", dim)
            affine(f"{name}.mlp.fc1", 4 * dim, dim)
            affine(f"{name}.mlp.fc2", dim, 4 * dim)
            conv_bn(f"{name}.local_conv", dim, 1, 3)
    for layer in range(3):
        dim = dims[layer + 1]
        conv_bn(f"layers.{layer}.downsample.conv1", dim, dims[layer], 1)
        conv_bn(f"layers.{layer}.downsample.conv2", dim, 1, 3)
        conv_bn(f"layers.{layer}.downsample.conv3", dim, dim, 1)
    affine("norm_head", 320)
    affine("head", 1000, 320)
    shapes["neck.0.weight"] = (256, 320, 1, 1)
    affine("neck.1", 256)
    shapes["neck.2.weight"] = (256, 256, 3, 3)
    affine("neck.3", 256)
    return shapes


def generated(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights that keep activations of order one."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        if name.endswith("tracked"):
            state[name] = torch.zeros(shape, dtype=torch.long)
        elif name.endswith(("running_var", "norm.weight", "bn.weight", "neck.1.weight", "neck.3.weight")):
            state[name] = 0.8 + 0.4 * torch.rand(shape, generator=generator)
        else:
            fan_in = int(np.prod(shape[1:])) if len(shape) > 1 and "biases" not in name else 100
            state[name] = torch.randn(shape, generator=generator) * fan_in**-0.5
    return state


def prompt_parts(side: int) -> nn.ModuleDict:
    torch.manual_seed(0)
    prompts = PromptEncoder(
        embed_dim=256,
        image_embedding_size=(side, side),
        input_image_size=(16 * side, 16 * side),
        mask_in_chans=16,
    )
    decoder = MaskDecoder(
        transformer_dim=256, transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    )
    return nn.ModuleDict({"prompt_encoder": prompts, "mask_decoder": decoder})


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the names, shapes and order of magnitude of ``mobile_sam.pt``."""
    encoder = {f"image_encoder.{name}": value for name, value in generated(encoder_shapes()).items()}
    path = tmp_path_factory.mktemp("mobile_sam") / "mobile_sam.pt"
    torch.save(encoder | prompt_parts(64).state_dict(), path)
    return path


def test_the_file_has_the_published_size(file: Path) -> None:
    published = BACKBONES["mobile_sam"].checkpoint
    assert published is not None
    state = torch.load(file, weights_only=True)
    # 10.13 million parameters of four bytes; what the archive adds depends on the version of torch.
    assert sum(value.numel() * value.element_size() for value in state.values()) < published.size
    assert file.stat().st_size == pytest.approx(published.size, rel=2e-3)


def in_timms_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm counts a merging to the stage after it and calls the two parts of a convolution otherwise."""
    renamed = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] in ("neck", "norm_head", "head"):
            continue
        if parts[0] == "layers":
            parts[0], parts[1] = "stages", str(int(parts[1]) + (parts[2] == "downsample"))
        if parts[:2] == ["patch_embed", "seq"]:
            parts[1:3] = ["conv1" if parts[2] == "0" else "conv2"]
        renamed[".".join("conv" if part == "c" else part for part in parts)] = value
    return renamed


def test_encoder_equals_timms() -> None:
    state = generated(encoder_shapes())
    reference = timm.create_model("tiny_vit_5m_224", pretrained=False).eval()
    reference.stages[3].downsample.conv2.conv.stride = (1, 1)  # the one change that MobileSAM makes
    missing, unexpected = reference.load_state_dict(in_timms_names(state), strict=False)
    assert unexpected == []
    assert all(name.startswith("head.") for name in missing)
    ours = mobile_sam().eval()
    ours.load_state_dict({name: value for name, value in state.items() if "head" not in name})
    image = torch.randn(1, 3, 160, 160, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = reference.forward_features(image)
        assert expected.shape == (1, 320, 10, 10)
        first, second = ours.neck[0], ours.neck[2]
        for convolution, norm in ((first, ours.neck[1]), (second, ours.neck[3])):
            expected = nn.functional.conv2d(expected, convolution.weight, padding=convolution.kernel_size[0] // 2)
            expected = nn.functional.layer_norm(
                expected.movedim(1, -1), (256,), norm.weight, norm.bias, eps=1e-6
            ).movedim(-1, 1)
        found = ours(image)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    assert expected.std() > 0.3  # the tolerance means something


def test_it_answers_as_sams_predictor(file: Path) -> None:
    """MobileSAM's predictor is SAM's, with this encoder in it."""
    ours = FrozenSam("mobile_sam", image_size=128, checkpoint=file)
    parts = prompt_parts(8)
    parts.load_state_dict({k: v for k, v in torch.load(file, weights_only=True).items() if "image_encoder" not in k})
    encoder = ours.image_encoder
    encoder.img_size = 128
    official = Sam(encoder, parts["prompt_encoder"], parts["mask_decoder"]).eval()
    picture = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    predictor = SamPredictor(official)
    predictor.set_image(picture)
    box = np.array([[10.0, 20.0, 60.0, 50.0]])
    _, _, expected = predictor.predict(box=box[0], multimask_output=False)
    found, case = ours.predict(picture, boxes=box)
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)
    assert case.content_size == (85, 128)
    point = np.array([[30.0, 40.0]])
    _, _, expected = predictor.predict(point_coords=point, point_labels=np.ones(1), multimask_output=False)
    np.testing.assert_allclose(ours.predict(picture, points=point)[0], expected, atol=1e-4, rtol=1e-4)
    assert on_input(torch.from_numpy(point), case)[0].tolist() == pytest.approx([30 * 128 / 90, 40 * 85 / 60])
