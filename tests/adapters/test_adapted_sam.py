"""An adapted SAM as generalist: the images of its training, its answers, and what tells two of them apart."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lightning_samseg.adapters.adapted_sam import AdaptedSam
from lightning_samseg.adapters.files import read_adapter, save_adapter, write_adapter
from lightning_samseg.errors import UserError
from lightning_samseg.methods import SAMed
from lightning_samseg.models.bottleneck import MSA_KEY
from lightning_samseg.transforms import View, prepare_image
from tests.grouped import grouped
from tests.official import trained_model, write_tiny_sam


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_sam(tmp_path_factory.mktemp("base") / "sam.pth"))


def make(path: Path, base: str, view: dict[str, Any] | None = None, seed: int = 1, **options: Any) -> Path:
    options = {"num_classes": 1, "branches": 1, "upsampling": "sam"} | options
    model = trained_model("tiny", 64, seed=seed, checkpoint=base, **options)
    save_adapter(model, path, "tiny")
    if view is not None:
        adapter = read_adapter(path)
        write_adapter(type(adapter)(**(vars(adapter) | {"view": view})), path)
    return path


def picture(height: int = 50, width: int = 70) -> np.ndarray:
    return np.random.default_rng(0).integers(10, 230, (height, width, 3), dtype=np.uint8)


VIEWS = [
    ("squash", "minmax", False, "half_pixel"),
    ("longest_side", "sam", False, "half_pixel"),
    ("squash", "percentile", True, "corner_aligned"),
    ("squash", "sam", True, "half_pixel"),
    ("longest_side", "stored", True, "half_pixel"),
]


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_it_sees_images_as_in_its_training(base: str, tmp_path: Path, view: tuple[Any, ...]) -> None:
    named = dict(zip(("resize", "normalise", "grey", "geometry"), view, strict=True))
    model = AdaptedSam(make(tmp_path / "a.safetensors", base, named), "tiny", base)
    expected = prepare_image(picture(), View(64, *view))
    pixels, geometry = model.preprocess(picture())
    np.testing.assert_array_equal(pixels[0].numpy(), expected.image)
    assert geometry == expected.case


@pytest.mark.parametrize("options", [{}, {"num_classes": 3, "branches": 2}, {"adapter_kind": "msa"}], ids=str)
def test_its_answer_is_the_probability_of_any_class(base: str, tmp_path: Path, options: dict[str, Any]) -> None:
    model = AdaptedSam(make(tmp_path / "a.safetensors", base, **options), "tiny", base)
    trained = trained_model(
        "tiny", 64, seed=1, checkpoint=base, **({"num_classes": 1, "branches": 1, "upsampling": "sam"} | options)
    )
    low_res, geometry = model.predict(picture(), np.zeros((2, 4)))
    with torch.no_grad():
        embedding = trained.encode(model.preprocess(picture())[0])
        branches = range(options.get("branches", 1))
        softmax = torch.stack([trained.decode(embedding, branch).softmax(1) for branch in branches]).mean(0)
    torch.testing.assert_close(low_res.sigmoid(), softmax[:, 1:].sum(1), atol=1e-5, rtol=1e-5)
    assert geometry.original_size == (50, 70)
    assert not low_res.requires_grad


@pytest.mark.parametrize("view", [VIEWS[0], VIEWS[1]], ids=str)
def test_its_mask_is_what_samed_predicts(base: str, tmp_path: Path, view: tuple[Any, ...]) -> None:
    """From a run's checkpoint; but for the order of softmax and interpolation, which moves a few border pixels."""
    torch.manual_seed(3)
    samed = grouped(SAMed, backbone="tiny", checkpoint=base, image_size=64, adapter_kind="msa").eval()
    with torch.no_grad():
        for parameter in samed.sam.mask_decoders.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(samed)
    trainer.save_checkpoint(tmp_path / "best.ckpt")
    checkpoint = torch.load(tmp_path / "best.ckpt", weights_only=True)
    names = ("resize", "normalise", "grey", "geometry")
    checkpoint["datamodule_hyper_parameters"] = dict(zip(names, view, strict=True))
    torch.save(checkpoint, tmp_path / "best.ckpt")
    frame = prepare_image(picture(), View(64, *view))
    with torch.no_grad():
        (expected,) = samed.predict_labels({"image": torch.from_numpy(frame.image)[None], "cases": [frame.case]})
    model = AdaptedSam(tmp_path / "best.ckpt", "tiny", base)
    found = (model.restore(*model.predict(picture()))[0] > 0).numpy()
    assert 0.1 < expected.mean() < 0.9
    assert (found == expected).mean() > 0.99


def test_answers_come_back_to_the_image(base: str, tmp_path: Path) -> None:
    """An upright edge at 3/4 of the input is one at 3/4 of the image, whether squashed, padded or corner-aligned."""
    low_res = torch.where(torch.arange(64) < 48, -1.0, 1.0).expand(1, 64, 64)
    for view, edge in (
        (VIEWS[0], 0.75 * 70),
        (VIEWS[1], 0.75 * 70),
        (VIEWS[2], 47.5 * 69 / 63 + 0.5),
    ):
        named = dict(zip(("resize", "normalise", "grey", "geometry"), view, strict=True))
        model = AdaptedSam(make(tmp_path / "a.safetensors", base, named), "tiny", base)
        restored = model.restore(low_res, model.geometry(picture()))
        assert restored.shape == (1, 50, 70)
        crossing = float(np.interp(0, restored[0, 25].numpy(), np.arange(70) + 0.5))
        assert crossing == pytest.approx(edge, abs=0.05)


def test_only_what_was_added_is_thawed(base: str, tmp_path: Path) -> None:
    msa = AdaptedSam(make(tmp_path / "m.safetensors", base, adapter_kind="msa"), "tiny", base)
    assert not any(parameter.requires_grad for parameter in msa.parameters())
    msa.train_only("adapter")
    assert {name for name, p in msa.sam.named_parameters() if p.requires_grad} == {
        name for name, _ in msa.sam.named_parameters() if MSA_KEY in name
    }
    msa.train_only("all")
    parts = {name.split(".")[0] for name, p in msa.sam.named_parameters() if p.requires_grad}
    assert parts == {"image_encoder", "mask_decoders"}
    F.softplus(msa.foreground(torch.rand(1, 3, 64, 64))).sum().backward()
    assert [n for n, p in msa.sam.named_parameters() if p.requires_grad and p.grad is None] == []
    nothing = AdaptedSam(make(tmp_path / "n.safetensors", base, lora_rank=0), "tiny", base)
    with pytest.raises(UserError, match="no layers in the image encoder"):
        nothing.train_only("adapter")


def test_the_cache_tells_adapters_apart(base: str, tmp_path: Path) -> None:
    files = [
        make(tmp_path / "a.safetensors", base),
        make(tmp_path / "same.safetensors", base),
        make(tmp_path / "other.safetensors", base, seed=2),
        make(
            tmp_path / "view.safetensors",
            base,
            dict(zip(("resize", "normalise", "grey", "geometry"), VIEWS[1], strict=True)),
        ),
        make(tmp_path / "scale.safetensors", base, lora_alpha=5.0),
    ]
    identities = [AdaptedSam(file, "tiny", base).identity for file in files]
    assert identities[0] == identities[1]
    assert len(set(identities)) == len(files) - 1


def test_mistakes(base: str, tmp_path: Path) -> None:
    file = make(tmp_path / "a.safetensors", base)
    with pytest.raises(UserError, match=r"(?s)another backbone.*set --model.sam.backbone tiny"):
        AdaptedSam(file, "sam_vit_b")
    other = write_tiny_sam(tmp_path / "other.pth", seed=5)
    with pytest.raises(UserError, match="other pretrained weights"):
        AdaptedSam(file, "tiny", str(other))
    (tmp_path / "run.ckpt").write_bytes(file.read_bytes())
    with pytest.raises(UserError, match=r"run.ckpt is not a checkpoint"):
        AdaptedSam(tmp_path / "run.ckpt", "tiny", base)
