"""Adapter files: what is in them, that they come back whole, and what is said where they do not fit."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import lightning_samseg
from lightning_samseg.adapters.files import (
    Adapter,
    load_adapter,
    load_adapter_into,
    read_adapter,
    save_adapter,
    write_adapter,
)
from lightning_samseg.errors import UserError
from lightning_samseg.models.branched_sam import BranchedSam
from lightning_samseg.models.weights import sha256_file
from tests.official import branched_sam, trained_model, write_tiny_sam

METHOD = {"class_path": "lightning_samseg.methods.CpcSam", "init_args": {"lr": 0.001, "lora_blocks": None}}
TOKENS = "mask_decoders.1.mask_tokens.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_sam(tmp_path_factory.mktemp("base") / "sam.pth")


@pytest.fixture(scope="module")
def model(base: Path) -> BranchedSam:
    return trained_model("tiny", 64, 3, checkpoint=str(base), lora_rank=2, lora_alpha=3.0, lora_blocks=[-1, 1])


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, model: BranchedSam) -> Path:
    path = tmp_path_factory.mktemp("adapter") / "adapter.safetensors"
    save_adapter(model, path, "tiny", METHOD, git_commit="abc")
    return path


def assert_same(found: BranchedSam, expected: BranchedSam) -> None:
    assert found.state_dict().keys() == expected.state_dict().keys()
    assert all(torch.equal(value, found.state_dict()[key]) for key, value in expected.state_dict().items())


def differs(model: BranchedSam, **options: Any) -> BranchedSam:
    """An untrained model like that of the file but for some arguments."""
    arguments = {"lora_rank": 2, "lora_alpha": 3.0, "lora_blocks": [1, 3], "num_classes": 3, "image_size": 64}
    sam = branched_sam("tiny", **(arguments | options))
    sam.weights_sha256 = model.weights_sha256
    return sam


def rewrite(source: Path, target: Path, change: Callable[[dict[str, Tensor], dict[str, str]], object]) -> Path:
    with safe_open(source, "pt") as handle:
        metadata = handle.metadata()
    tensors = load_file(source)
    change(tensors, metadata)
    save_file(tensors, target, metadata)
    return target


def test_file_describes_itself(file: Path, base: Path) -> None:
    adapter = read_adapter(file)
    assert vars(adapter.architecture) == {
        "backbone": "tiny",
        "image_size": 64,
        "num_classes": 3,
        "branches": 2,
        "upsampling": "full",
        "lora_rank": 2,
        "lora_alpha": 3.0,
        "lora_blocks": [1, 3],
        "adapter_kind": "lora",
        "msa_ratio": 0.25,
        "msa_scale": 0.5,
    }
    assert adapter.base_weights_sha256 == sha256_file(base)
    assert (adapter.method, adapter.git_commit) == (METHOD, "abc")
    assert adapter.framework_version == lightning_samseg.__version__


def test_file_holds_the_trained_part_only(file: Path, model: BranchedSam) -> None:
    tensors = load_file(file)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert tensors.keys() - trained == {"prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"}
    assert trained < tensors.keys()


def test_load_builds_the_same_model(file: Path, base: Path, model: BranchedSam) -> None:
    assert_same(load_adapter(file, checkpoint=str(base)), model)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"branches": 1, "upsampling": "sam"},
        {"lora_rank": 0},
        {"lora_rank": 3, "lora_alpha": 7.0},
        {"adapter_kind": "msa"},
        {"adapter_kind": "msa", "msa_ratio": 0.3, "msa_scale": 0.2, "branches": 1},
    ],
    ids=str,
)
def test_every_architecture_comes_back(options: dict[str, Any], base: Path, tmp_path: Path) -> None:
    saved = trained_model("tiny", 64, 1, checkpoint=str(base), **options)
    save_adapter(saved, tmp_path / "a.safetensors", "tiny")
    loaded = load_adapter(tmp_path / "a.safetensors", checkpoint=str(base)).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.decode(loaded.encode(image), 0), saved.decode(saved.encode(image), 0))


def test_bottlenecks_are_named_and_kept(base: Path, tmp_path: Path) -> None:
    saved = trained_model("tiny", 64, 1, checkpoint=str(base), adapter_kind="msa", msa_ratio=0.3, msa_scale=0.2)
    architecture = save_adapter(saved, tmp_path / "a.safetensors", "tiny").architecture
    assert (architecture.adapter_kind, architecture.msa_ratio, architecture.msa_scale) == ("msa", 0.3, 0.2)
    assert (architecture.lora_rank, architecture.lora_alpha, architecture.lora_blocks) == (0, 0.0, None)
    assert sum(".bottleneck." in key for key in load_file(tmp_path / "a.safetensors")) == 4 * 2 * 4
    other = trained_model("tiny", 64, 1, seed=3, checkpoint=str(base), adapter_kind="msa", msa_ratio=0.3, msa_scale=0.2)
    load_adapter_into(other, tmp_path / "a.safetensors")
    assert_same(other, saved)


def test_bottlenecks_are_no_lora(file: Path, model: BranchedSam) -> None:
    other = differs(model, adapter_kind="msa", lora_blocks=None)
    with pytest.raises(UserError, match=r"(?s)adapter_kind lora \(model: msa\).*differing entries"):
        load_adapter_into(other, file)


def test_a_file_from_before_there_were_bottlenecks(file: Path, base: Path, model: BranchedSam, tmp_path: Path) -> None:
    def forget(_: dict[str, Tensor], metadata: dict[str, str]) -> None:
        new = ("adapter_kind", "msa_ratio", "msa_scale")
        known = json.loads(metadata["architecture"])
        metadata["architecture"] = json.dumps({k: v for k, v in known.items() if k not in new})
        del metadata["view"]

    old = rewrite(file, tmp_path / "old.safetensors", forget)
    assert read_adapter(old).architecture == read_adapter(file).architecture
    assert read_adapter(old).view is None
    assert_same(load_adapter(old, checkpoint=str(base)), model)


def test_load_into_a_model(file: Path, base: Path, model: BranchedSam) -> None:
    arguments = {"lora_rank": 2, "lora_alpha": 3.0, "lora_blocks": [1, 3]}
    other = trained_model("tiny", 64, 3, seed=7, checkpoint=str(base), **arguments)
    load_adapter_into(other, file)
    assert_same(other, model)


def test_lite_medsam_numbers_its_attention_blocks(tmp_path: Path) -> None:
    model = branched_sam("lite_medsam", 64, 1, lora_blocks=[0, -1], pretrained=False)
    adapter = save_adapter(model, tmp_path / "a.safetensors", "lite_medsam")
    assert adapter.architecture.lora_blocks == [0, 9]
    assert adapter.architecture.upsampling == "full"


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (
            {"num_classes": 2},
            r"num_classes 3 \(model: 2\); \d+ differing .*mask_tokens.weight is \(4, 256\) instead of",
        ),
        ({"branches": 1}, r"branches 2 \(model: 1\); \d+ differing entries: mask_decoders\.1\..* is unknown"),
        ({"upsampling": "sam"}, r"upsampling full \(model: sam\)"),
        (
            {"lora_blocks": None},
            r"lora_blocks \[1, 3\] \(model: None\); 8 differing .*lora_A.default.weight is missing",
        ),
        ({"lora_rank": 4}, r"lora_rank 2 \(model: 4\); 8 differing entries"),
        ({"lora_alpha": 4.0}, r"lora_alpha 3.0 \(model: 4.0\)\n"),
        ({"image_size": 128}, r"image_size 64 \(model: 128\)\n"),
    ],
)
def test_another_architecture(file: Path, model: BranchedSam, options: dict[str, Any], found: str) -> None:
    other = differs(model, **options)
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(UserError, match=f"(?s)adapter.safetensors is for another model.*{found}"):
        load_adapter_into(other, file)
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())


def test_another_backbone(file: Path) -> None:
    lite = branched_sam("lite_medsam", 64, 3, pretrained=False)
    with pytest.raises(UserError, match=r"(?s)for another backbone.*expected: lite_medsam.*found: tiny"):
        load_adapter_into(lite, file)


class TestOtherBase:
    def test_is_refused(self, file: Path, base: Path, tmp_path: Path) -> None:
        other = write_tiny_sam(tmp_path / "other.pth", seed=5)
        with pytest.raises(UserError, match=f"(?s)other pretrained.*{sha256_file(base)}.*{sha256_file(other)}"):
            load_adapter(file, checkpoint=str(other))

    def test_is_allowed_on_purpose(self, file: Path, model: BranchedSam, tmp_path: Path) -> None:
        other = write_tiny_sam(tmp_path / "other.pth", seed=5)
        loaded = load_adapter(file, checkpoint=str(other), allow_other_base=True).state_dict()
        mine = model.state_dict()
        assert torch.equal(loaded[TOKENS], mine[TOKENS])
        assert not torch.equal(loaded["image_encoder.pos_embed"], mine["image_encoder.pos_embed"])

    def test_random_weights_are_another_base(self, file: Path) -> None:
        with pytest.raises(UserError, match="found: random weights"):
            load_adapter(file)


def _without_tokens(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    del tensors[TOKENS]


def _with_extra(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    tensors["prompt_encoder.extra"] = torch.zeros(1)


def _with_other_shape(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    tensors[TOKENS] = torch.zeros(5, 256)


def _with_nan(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    tensors[TOKENS][1, 2] = torch.nan


def _newer(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    metadata["adapter_format"] = "2"


def _foreign(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    metadata.clear()


def _no_architecture(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    del metadata["architecture"]


def _no_json(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    metadata["method"] = "{"


def _unknown_backbone(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    metadata["architecture"] = metadata["architecture"].replace("tiny", "huge")


def _wrong_type(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    metadata["architecture"] = json.dumps(json.loads(metadata["architecture"]) | {"lora_rank": "two"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_tokens, f"1 differing entries: {TOKENS} is missing"),
        (_with_extra, "1 differing entries: prompt_encoder.extra is unknown"),
        (_with_other_shape, rf"{TOKENS} is \(5, 256\) instead of \(4, 256\)"),
        (_with_nan, f"NaN or infinity in 1 entries: {TOKENS}"),
        (_newer, "found: adapter_format 2"),
        (_foreign, "found: no adapter_format"),
        (_no_architecture, "is damaged.*KeyError: .architecture"),
        (_no_json, "is damaged.*JSONDecodeError"),
        (_unknown_backbone, "is damaged.*unknown backbone huge"),
        (_wrong_type, "is damaged"),
    ],
)
def test_damaged_content(file: Path, tmp_path: Path, change: Any, message: str) -> None:
    changed = rewrite(file, tmp_path / "changed.safetensors", change)
    with pytest.raises(UserError, match=f"(?s)changed.safetensors.*{message}"):
        read_adapter(changed)


@pytest.mark.parametrize("keep", [0, 5, 1000, -1])
def test_cut_file(file: Path, tmp_path: Path, keep: int) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"(?s)cut.safetensors cannot be read as an adapter.*weights import"):
        read_adapter(cut)


def test_file_of_another_kind(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "run.ckpt")
    with pytest.raises(UserError, match=r"(?s)cannot be read as an adapter.*weights export .*run.ckpt"):
        read_adapter(tmp_path / "run.ckpt")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no adapter"):
        read_adapter(tmp_path / "none.safetensors")


def test_a_refused_write_leaves_the_old_file(file: Path, tmp_path: Path) -> None:
    target = tmp_path / "adapter.safetensors"
    target.write_bytes(b"old")
    adapter: Adapter = read_adapter(file)
    broken = adapter.tensors | {TOKENS: torch.full((4, 256), torch.inf)}
    with pytest.raises(UserError, match="not finite"):
        write_adapter(replace(adapter, tensors=broken), target)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter.safetensors"]
    assert target.read_bytes() == b"old"


def test_save_under_a_wrong_backbone(model: BranchedSam, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)does not hold the entries of its model.*blocks.1.attn.q_proj"):
        save_adapter(model, tmp_path / "a.safetensors", "sam_vit_b")
    assert not list(tmp_path.iterdir())
