"""``weights export``, ``import`` and ``merge`` through the program's own entry point: files, messages, exit status."""

import hashlib
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from lightning_samseg.__main__ import main
from lightning_samseg.adapters.convert import from_authors
from lightning_samseg.adapters.files import load_adapter, read_adapter
from lightning_samseg.methods import BaseMethod, CpcSam, SAMed, UNet
from lightning_samseg.models import weights
from tests.fakes import write_folder
from tests.grouped import grouped
from tests.official import authors_adapter, branched_sam, tiny_sam, write_tiny_sam
from tests.reference.oracle import Oracle

IMAGE = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_sam(tmp_path_factory.mktemp("base") / "sam.pth")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A run folder, as `fit` leaves it."""
    folder = tmp_path_factory.mktemp("run")
    data = write_folder(folder / "data", [f"case{i}" for i in range(10)])
    own = {"root": data, "image_size": 64, "num_labelled": 2, "labelled_batch_size": 1, "unlabelled_batch_size": 1}
    model = {
        "sam.backbone": "tiny",
        "sam.checkpoint": base,
        "adapter.rank": 2,
        "adapter.alpha": 6.0,
        "ssl_start_iter": 1,
    }
    trainer = {"max_steps": 1, "limit_val_batches": 0, "accelerator": "cpu", "default_root_dir": folder / "run"}
    trainer |= {"enable_progress_bar": "false", "enable_model_summary": "false"}
    options = ["--data=data_modules.FolderDataModule", "--model=lightning_samseg.methods.CpcSam"]
    for group, values in (("data", own), ("model", model), ("trainer", trainer)):
        options += [f"--{group}.{name}={value}" for name, value in values.items()]
    assert main(["fit", *options]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def adapter(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("adapter") / "adapter.safetensors"
    assert main(["weights", "export", str(run / "checkpoints" / "last.ckpt"), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def authors(oracle: Oracle) -> dict[str, torch.Tensor]:
    """Every tensor of the authors' tiny CPC-SAM, 3 classes."""
    return oracle.weights()


def write_authors_base(authors: dict[str, torch.Tensor], path: Path) -> Path:
    """The official SAM checkpoint beneath the authors' model."""
    official = {key.removeprefix("sam.").replace(".qkv.qkv.", ".qkv."): value for key, value in authors.items()}
    torch.save({k: v for k, v in official.items() if ".linear_" not in k and "mask_decoder" not in k}, path)
    return path


def write_checkpoint(model: BaseMethod, path: Path) -> Path:
    """What a run in Python writes."""
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path)
    return path


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a verb that must exit with status 2 and one message; returns the message."""
    capsys.readouterr()
    assert main(["weights", *map(str, arguments)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert "what to do: " in message
    assert "Traceback" not in message
    return message


class TestExport:
    def test_of_a_run(self, run: Path, base: Path, tmp_path: Path) -> None:
        out = tmp_path / "new" / "adapter.safetensors"
        assert main(["weights", "export", str(run / "checkpoints" / "last.ckpt"), "--out", str(out)]) == 0
        loaded = load_adapter(out, checkpoint=str(base)).state_dict()
        trained = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        assert {f"sam.{key}" for key in loaded} == {key for key in trained if key.startswith("sam.")}
        assert all(torch.equal(value, trained[f"sam.{key}"]) for key, value in loaded.items())
        adapter = read_adapter(out)
        assert adapter.architecture.lora_alpha == 6.0
        assert adapter.method is not None
        assert adapter.method["class_path"] == "lightning_samseg.methods.cpc_sam.CpcSam"
        assert adapter.method["init_args"]["ssl_start_iter"] == 1
        assert adapter.view == {
            "resize": "squash",
            "normalise": "minmax",
            "grey": False,
            "geometry": "half_pixel",
        }
        assert str(base) not in out.read_bytes().decode("latin-1")

    def test_of_a_run_in_python(self, tmp_path: Path) -> None:
        model = grouped(SAMed, backbone="tiny", num_classes=2)
        file, out = write_checkpoint(model, tmp_path / "samed.ckpt"), tmp_path / "samed.safetensors"
        assert main(["weights", "export", str(file), "--out", str(out)]) == 0
        architecture = read_adapter(out).architecture
        assert (architecture.image_size, architecture.upsampling, architecture.branches) == (512, "sam", 1)
        assert architecture.num_classes == 2

    def test_base_weights_that_have_moved(self, base: Path, tmp_path: Path) -> None:
        moved = tmp_path / "moved.pth"
        moved.write_bytes(base.read_bytes())
        model = grouped(CpcSam, backbone="tiny", image_size=64, checkpoint=str(moved), lora_rank=0)
        file, out = write_checkpoint(model, tmp_path / "a.ckpt"), tmp_path / "a.safetensors"
        moved.unlink()
        assert main(["weights", "export", str(file), "--out", str(out)]) == 0
        assert read_adapter(out).base_weights_sha256 == weights.sha256_file(base)

    def test_of_bottlenecks(self, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        model = grouped(SAMed, backbone="tiny", image_size=64, checkpoint=str(base), adapter_kind="msa", msa_scale=0.1)
        file, out = write_checkpoint(model, tmp_path / "msa.ckpt"), tmp_path / "msa.safetensors"
        assert main(["weights", "export", str(file), "--out", str(out)]) == 0
        assert "adapter_kind msa" in capsys.readouterr().out
        loaded = load_adapter(out, checkpoint=str(base)).state_dict()
        assert all(torch.equal(value, loaded[key]) for key, value in model.sam.state_dict().items())
        again = grouped(
            SAMed, backbone="tiny", image_size=64, checkpoint=str(base), adapter_kind="msa", msa_scale=0.1, adapter=out
        )
        assert all(torch.equal(value, loaded[key]) for key, value in again.sam.state_dict().items())
        merging = ("merge", out, "--out", tmp_path / "merged.pth", "--checkpoint", base)
        assert "cannot be merged" in fails(capsys, *merging)

    def test_of_something_else(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "a.safetensors"
        unet = write_checkpoint(UNet(network={"name": "smp/unet/resnet18"}), tmp_path / "unet.ckpt")
        assert "holds no adapter" in fails(capsys, "export", unet, "--out", out)
        two = write_checkpoint(
            grouped(CpcSam, backbone="tiny", image_size=64, architecture="two_models"), tmp_path / "two.ckpt"
        )
        assert "two models that share nothing" in fails(capsys, "export", two, "--out", out)
        samed = write_checkpoint(grouped(SAMed, backbone="tiny"), tmp_path / "samed.ckpt")
        old = {**torch.load(samed, weights_only=True), "hyper_parameters": {"backbone": "tiny", "lora_rank": 4}}
        torch.save(old, tmp_path / "old.ckpt")
        assert "did not stand in groups yet" in fails(capsys, "export", tmp_path / "old.ckpt", "--out", out)
        (tmp_path / "cut.ckpt").write_bytes(two.read_bytes()[:2000])
        assert "not a checkpoint of a run" in fails(capsys, "export", tmp_path / "cut.ckpt", "--out", out)
        assert not out.exists()


class TestImportAuthors:
    def test_logits_are_those_of_the_full_weights(
        self, authors: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        base = write_authors_base(authors, tmp_path / "base.pth")
        torch.save(authors_adapter(authors), tmp_path / "epoch_9.pth")
        options = ["--out", str(tmp_path / "dir"), "--checkpoint", str(base), "--image-size", "64"]
        assert main(["weights", "import", str(tmp_path / "epoch_9.pth"), *options]) == 0
        assert "taken for granted" not in capsys.readouterr().out
        imported = load_adapter(tmp_path / "dir" / "epoch_9.safetensors", checkpoint=str(base)).eval()
        direct = branched_sam("tiny", 64, 3).eval()
        direct.load_state_dict(from_authors(authors, 4), strict=True)
        points, labels = torch.tensor([[[3.0, 5.0], [60.0, 9.0]]] * 2), torch.tensor([[0, 3]] * 2)
        with torch.no_grad():
            embeddings = imported.encode(IMAGE), direct.encode(IMAGE)
            for branch in (0, 1):
                for prompt in ((), (points, labels)):
                    found, expected = (
                        m.decode(e, branch, *prompt) for m, e in zip((imported, direct), embeddings, strict=True)
                    )
                    assert torch.equal(found, expected)

    def test_samed(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """ViT-B by the width of its LoRA, 9 channels, rank 2; the base and the size are the authors' unless given."""
        parts = {k: v for k, v in tiny_sam(64, masks=8).state_dict().items() if not k.startswith("image_encoder.")}
        parts = {k: v for k, v in parts.items() if not k.startswith("pixel_")}
        lora = {f"w_a_{i:03d}": torch.full((2, 768), float(i)) for i in range(24)}
        lora |= {f"w_b_{i:03d}": torch.full((768, 2), float(i)) for i in range(24)}
        torch.save({**lora, **parts}, tmp_path / "samed.pth")
        assert main(["weights", "import", str(tmp_path / "samed.pth"), "--out", str(tmp_path)]) == 0
        assert "taken for granted: --backbone sam_vit_b --image-size 512" in capsys.readouterr().out
        adapter = read_adapter(tmp_path / "samed.safetensors")
        assert vars(adapter.architecture) == {
            "backbone": "sam_vit_b",
            "image_size": 512,
            "num_classes": 8,
            "branches": 1,
            "upsampling": "sam",
            "lora_rank": 2,
            "lora_alpha": 2.0,
            "lora_blocks": None,
            "adapter_kind": "lora",
            "msa_ratio": 0.25,
            "msa_scale": 0.5,
        }
        assert adapter.base_weights_sha256 == weights.CHECKPOINTS["sam_vit_b"].sha256
        assert (adapter.tensors["image_encoder.blocks.5.attn.v_proj.lora_B.default.weight"] == 11).all()
        assert "samed.safetensors exists" in fails(capsys, "import", tmp_path / "samed.pth", "--out", tmp_path)

    def test_mistakes(
        self, authors: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file, state = tmp_path / "epoch_9.pth", authors_adapter(authors)
        torch.save(state, file)
        assert "set --backbone tiny" in fails(capsys, "import", file, "--out", tmp_path, "--backbone", "sam_vit_l")
        assert "8 pairs" in fails(capsys, "import", file, "--out", tmp_path, "--lora-blocks", "1,2")
        assert "multiple of 16" in fails(capsys, "import", file, "--out", tmp_path, "--image-size", "100")
        torch.save({key: value for key, value in state.items() if key != "w_b_003"}, file)
        assert "missing entries: w_b_003" in fails(capsys, "import", file, "--out", tmp_path)
        torch.save(
            {key: value for key, value in state.items() if "decoder2.transformer.layers.0.norm1" not in key}, file
        )
        assert "2 differing entries: mask_decoders.1.tr" in fails(capsys, "import", file, "--out", tmp_path)
        torch.save(state | {"self_attn_q_A_000": torch.zeros(4, 256)}, file)  # LoRA in the decoder: SAMed_s
        assert "self_attn_q_A_000 is unknown" in fails(capsys, "import", file, "--out", tmp_path)
        file.write_bytes(file.read_bytes()[:5000])
        assert "cannot be read as a checkpoint" in fails(capsys, "import", file, "--out", tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["epoch_9.pth"]


class TestImportPublished:
    @pytest.fixture
    def published(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
        content = b"not really weights"
        facts = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "file": "sam_vit_b_01ec64.pth"}
        monkeypatch.setitem(weights.CHECKPOINTS, "sam_vit_b", weights.CHECKPOINTS["sam_vit_b"]._replace(**facts))
        monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path / "cache"))
        (tmp_path / "download").write_bytes(content)
        return content

    def test_into_the_cache(self, published: bytes, tmp_path: Path) -> None:
        for _ in range(2):  # the second time it is there already
            assert main(["weights", "import", str(tmp_path / "download")]) == 0
            assert weights.is_verified("sam_vit_b")
            assert weights.resolve("sam_vit_b").read_bytes() == published

    def test_into_a_folder(self, published: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["weights", "import", str(tmp_path / "download"), "--out", str(tmp_path / "here")]) == 0
        path = tmp_path / "here" / "sam_vit_b_01ec64.pth"
        assert f"--model.sam.backbone sam_vit_b --model.sam.checkpoint {path}" in capsys.readouterr().out
        path.write_bytes(b"something else")
        assert "is another file" in fails(capsys, "import", tmp_path / "download", "--out", tmp_path / "here")
        assert path.read_bytes() == b"something else"

    def test_other_files(
        self, published: bytes, base: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "download").write_bytes(published[:-1] + b"?")
        assert "cannot be read as a checkpoint" in fails(capsys, "import", tmp_path / "download")
        assert "none of the published files" in fails(capsys, "import", base)
        assert "goes to `weights export`" in fails(capsys, "import", run / "checkpoints" / "last.ckpt")
        assert "There is no file" in fails(capsys, "import", tmp_path / "nothing.pth")
        assert not (tmp_path / "cache").exists()


class TestMerge:
    def test_the_package_loads_it(
        self, adapter: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "merged.pth"
        assert main(["weights", "merge", str(adapter), "--out", str(out), "--checkpoint", str(base)]) == 0
        assert "note: the decoder is the base's" in capsys.readouterr().out
        official, model = tiny_sam(64), load_adapter(adapter, checkpoint=str(base)).eval()
        official.load_state_dict(torch.load(out, weights_only=True), strict=True)
        with torch.no_grad():
            torch.testing.assert_close(official.image_encoder(IMAGE), model.encode(IMAGE), atol=1e-4, rtol=0)

    def test_mistakes(self, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out, other = tmp_path / "merged.pth", write_tiny_sam(tmp_path / "other.pth", seed=5)
        assert "no published weights" in fails(capsys, "merge", adapter, "--out", out)
        assert "other pretrained" in fails(capsys, "merge", adapter, "--out", out, "--checkpoint", other)
        assert "wrong ending" in fails(capsys, "merge", adapter, "--out", tmp_path / "merged.bin")
        assert "other.pth exists" in fails(capsys, "merge", adapter, "--out", other)
        assert "cannot be read as an adapter" in fails(capsys, "merge", other, "--out", out)
        assert not out.exists()
        inside_a_file = other / "merged.pth"
        allowed = ["--checkpoint", other, "--allow-other-base"]
        assert "read or written" in fails(capsys, "merge", adapter, "--out", inside_a_file, *allowed)
        assert main(["weights", "merge", *map(str, [adapter, "--out", out, *allowed])]) == 0
        assert out.is_file()
