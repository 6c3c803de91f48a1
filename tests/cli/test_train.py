"""The command line as a user types it, on a handful of images and a tiny backbone."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_samseg.__main__ import main
from lightning_samseg.methods import CpcSam
from tests.comparing import assert_equal
from tests.fakes import write_busi


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_busi(tmp_path_factory.mktemp("busi") / "Dataset_BUSI_with_GT", benign=12, malignant=8)


CONFIG = """
test_after_fit: true
checkpoint_every: 2
trainer:
  accelerator: cpu
  max_steps: 6
  val_check_interval: 3
  enable_progress_bar: false
  enable_model_summary: false
model:
  class_path: lightning_samseg.methods.CpcSam
  init_args: {sam: {backbone: tiny}, ssl_start_iter: 2, optimizer: {lr: 1.0e-3}}
data:
  class_path: data_modules.BusiDataModule
  init_args: {image_size: 32, split: random, num_labelled: 5, labelled_batch_size: 2, unlabelled_batch_size: 2}
"""


class Bench:
    """Types commands."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data = folder, data
        self.config = folder / "config.yaml"
        self.config.write_text(CONFIG)

    def __call__(self, verb: str, run: str, *options: str) -> int:
        common = ["--config", str(self.config), "--data.root", str(self.data)]
        return main([verb, *common, "--trainer.default_root_dir", str(self.folder / run), *options])


@pytest.fixture
def bench(tmp_path: Path, data: Path) -> Bench:
    return Bench(tmp_path, data)


def weights(folder: Path, name: str = "last") -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def assert_equal_states(one: dict[str, Any], other: dict[str, Any]) -> None:
    for name in ("global_step", "state_dict", "optimizer_states", "lr_schedulers"):
        assert_equal(one[name], other[name], name)


def test_the_processes_that_lightning_starts_write_beside_the_main_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come when its folder of results is there, which must not send them to the next one."""
    assert bench("fit", "run", "--test_after_fit", "false") == 0
    assert bench("test", "run", "--ckpt_path", "best") == 0
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert bench("test", "run", "--ckpt_path", "best") == 0
    assert [path.name for path in (bench.folder / "run").glob("test-*")] == ["test-1"]


def test_fit_leaves_a_complete_run_folder(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("fit", "run") == 0
    run = bench.folder / "run"
    result = json.loads((run / "metrics.json").read_text())
    assert set(result["summary"]) == {"dsc", "jc", "hd95", "asd"}
    assert 0 <= result["summary"]["dsc"] <= 1
    assert result["convention"] == "strict"
    assert result["seed"] == 42
    assert result["num_cases"] == len(list(csv.DictReader((run / "cases.csv").open()))) == 4
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt", "previous.ckpt"}
    assert len(list((run / "overlays").glob("*.png"))) == 4
    assert "CpcSam" in (run / "config.yaml").read_text()
    assert str(run / "metrics.json") in capsys.readouterr().out.replace("\n", "")

    assert bench("fit", "run") == 2
    assert "holds an earlier run" in capsys.readouterr().err

    for verb in ("test", "validate", "predict"):
        assert bench(verb, "run", "--ckpt_path", "best") == 0
    again = json.loads((run / "test-1" / "metrics.json").read_text())
    assert again["summary"] == result["summary"]
    assert json.loads((run / "metrics.json").read_text()) == result
    assert len(list((run / "predict-1" / "predictions").glob("*.png"))) == 4


def test_the_saved_config_repeats_the_run(bench: Bench) -> None:
    assert bench("fit", "first") == 0
    config, repeated = bench.folder / "first" / "config.yaml", bench.folder / "second"
    assert main(["fit", "--config", str(config), "--trainer.default_root_dir", str(repeated)]) == 0
    assert_equal_states(weights(bench.folder / "first"), weights(repeated))
    first, second = (json.loads((bench.folder / r / "metrics.json").read_text()) for r in ("first", "second"))
    assert first["summary"] == second["summary"]


@pytest.mark.processes
@pytest.mark.parametrize("update", ["joint", "sequential"])
def test_a_killed_run_resumes_bit_for_bit(bench: Bench, monkeypatch: pytest.MonkeyPatch, update: str) -> None:
    options = ["--model.update", update]
    assert bench("fit", "whole", *options) == 0
    step = CpcSam.training_step
    for killed_at in (3, 5):

        def dies(self: CpcSam, batch: Any, batch_idx: int, killed_at: int = killed_at) -> torch.Tensor:
            if self.global_step == killed_at:
                raise MemoryError("killed")
            return step(self, batch, batch_idx)

        run = f"killed_at_{killed_at}"
        monkeypatch.setattr(CpcSam, "training_step", dies)
        recomputed = ["--model.checkpointing", str(killed_at == 5)]  # also where it is not the same before and after
        assert bench("fit", run, *options, *recomputed) == 2
        assert weights(bench.folder / run)["global_step"] == killed_at - 1
        monkeypatch.setattr(CpcSam, "training_step", step)
        torch.manual_seed(99)
        assert bench("fit", run, "--ckpt_path", "last", *options) == 0
        assert_equal_states(weights(bench.folder / "whole"), weights(bench.folder / run))
        results = [json.loads((bench.folder / each / "metrics.json").read_text())["summary"] for each in ("whole", run)]
        assert results[0] == results[1]


def test_resuming_before_the_first_checkpoint_starts_from_the_beginning(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench("fit", "new", "--ckpt_path", "last", "--test_after_fit", "false") == 0
    assert "starts from the beginning" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["SAMed", "UNet"])
def test_baselines_run_on_the_same_config(bench: Bench, method: str) -> None:
    text = CONFIG.replace("CpcSam", method).replace("ssl_start_iter: 2, ", "")
    if method == "UNet":
        text = text.replace("sam: {backbone: tiny}", "network: {name: smp/unet/resnet18}")
    bench.config.write_text(text)
    assert bench("fit", "run") == 0
    assert json.loads((bench.folder / "run" / "metrics.json").read_text())["method"].endswith(method)


BAD_INPUT = {
    "missing root": (["--data.root", "nowhere"], "nowhere"),
    "image size": (["--data.image_size", "100"], "multiple of 16"),
    "too many labelled": (["--data.num_labelled", "400"], "400"),
    "corrupt checkpoint": (["--ckpt_path", "CORRUPT"], "damaged"),
    "pretrained weights as run checkpoint": (["--ckpt_path", "FOREIGN"], "--model.sam.checkpoint"),
    "missing checkpoint": (["--ckpt_path", "no.ckpt"], "no.ckpt"),
    "corrupt weights": (["--model.sam.checkpoint", "CORRUPT"], "corrupt.ckpt"),
    "weights of another model": (["--model.sam.checkpoint", "FOREIGN"], "image encoder"),
    "committed split with files missing": (["--data.split", "committed"], "--data.split random"),
    "lora block": (["--model.adapter.blocks", "[9]"], "attention blocks"),
    "no max_steps": (["--trainer.max_steps", "-1"], "set --trainer.max_steps"),
    "epochs": (["--trainer.max_steps", "-1", "--trainer.max_epochs", "3"], "Epochs are not counted"),
    "least epochs": (["--trainer.min_epochs", "3"], "Epochs are not counted"),
    "validation by epochs": (["--trainer.check_val_every_n_epoch", "3"], "--trainer.val_check_interval"),
    "sampler": (["--trainer.use_distributed_sampler", "true"], "deals images"),
    "any logger": (["--trainer.logger", "true"], "--tensorboard true"),
    "no logger and one": (["--trainer.logger", "false", "--wandb.project", "p"], "leave out --wandb"),
    "another image size": (["--model.image_size", "64"], "set --data.image_size 64"),
    "default image size": (["--model.image_size", "512"], "set --data.image_size 512"),
    "another seed": (["--model.seed", "3"], "set --seed_everything 3"),
    "another seed of the data": (["--data.seed", "3"], "set --seed_everything 3"),
    "any seed": (["--seed_everything", "true"], "set --seed_everything to a number"),
    "another number of classes": (["--model.num_classes", "3"], "expected: model.num_classes 1"),
    "half precision": (["--trainer.precision", "16-true"], "set --trainer.precision bf16-mixed"),
    "double precision": (["--trainer.precision", "64-true"], "found: trainer.precision 64-true"),
    "nan": (["--model.optimizer.lr", "1e30", "--checkpoint_every", "9"], "use --trainer.precision 32-true\n"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_message(bench: Bench, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    options, expected = BAD_INPUT[case]
    corrupt, foreign = bench.folder / "corrupt.ckpt", bench.folder / "foreign.ckpt"
    corrupt.write_bytes(b"PK\x03\x04 this is no checkpoint")
    torch.save({"something": torch.zeros(3)}, foreign)
    places = {"CORRUPT": str(corrupt), "FOREIGN": str(foreign)}
    assert bench("fit", "run", *[places.get(option, option) for option in options]) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert "what to do:" in message
    assert "Traceback" not in message


def test_what_is_filled_in_may_be_said_too(bench: Bench) -> None:
    text = CONFIG.replace("init_args: {sam", "init_args: {seed: 42, image_size: 32, num_classes: 1, sam")
    bench.config.write_text(text)
    assert bench("fit", "run", "--data.seed", "42", "--trainer.max_steps", "2", "--test_after_fit", "false") == 0


def test_a_logger_of_ones_own_is_one_more(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": str(bench.folder / "own")}}
    options = ["--trainer.max_steps", "2", "--trainer.log_every_n_steps", "1", "--test_after_fit", "false"]
    assert bench("fit", "run", "--trainer.logger", json.dumps(logger), *options) == 0
    assert (bench.folder / "run" / "logs" / "metrics.csv").is_file()
    assert list((bench.folder / "own").rglob("metrics.csv"))
    assert bench("fit", "silent", "--trainer.logger", "false", *options) == 0
    assert not (bench.folder / "silent" / "logs").exists()
    assert "shorter than trainer.val_check_interval 3: it is validated once, at its end." in capsys.readouterr().out


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB"), "can't allocate memory"])
def test_without_memory_one_message_names_what_helps(
    error: Any, bench: Bench, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    step = CpcSam.joint_loss

    def needs_more(self: CpcSam, *arguments: Any) -> torch.Tensor:
        if self.global_step == 3:
            raise RuntimeError(f"DefaultCPUAllocator: {error}") if isinstance(error, str) else error
        return step(self, *arguments)

    monkeypatch.setattr(CpcSam, "joint_loss", needs_more)
    assert bench("fit", "run", "--model.checkpointing", "true") == 2
    said = capfd.readouterr().err
    assert "error: There is not enough memory." in said
    assert "Traceback" not in said
    for option in ("--trainer.precision bf16-mixed", "--model.checkpointing true", "a smaller batch"):
        assert option in said
    state = weights(bench.folder / "run")
    assert state["global_step"] == 2
    monkeypatch.setattr(CpcSam, "joint_loss", step)
    assert bench("fit", "run", "--ckpt_path", "last") == 0


def test_nan_keeps_the_last_good_checkpoint(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    step = CpcSam.training_step

    def breaks(self: CpcSam, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = step(self, batch, batch_idx)
        return loss * float("nan") if self.global_step == 4 else loss

    monkeypatch.setattr(CpcSam, "training_step", breaks)
    assert bench("fit", "run") == 2
    state = weights(bench.folder / "run")
    assert state["global_step"] == 4
    assert all(torch.isfinite(value).all() for value in state["state_dict"].values())


def test_unknown_backbone_lists_the_known_ones(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("fit", "run", "--model.sam.backbone", "resnet") == 2
    assert "lite_medsam" in capsys.readouterr().err


def test_a_checkpoint_of_another_model_names_the_difference(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("fit", "run", "--test_after_fit", "false") == 0
    assert bench("test", "run", "--ckpt_path", "last", "--model.adapter.rank", "2") == 2
    assert "lora_A" in capsys.readouterr().err


def test_help_and_unknown_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "fit" in capsys.readouterr().out
    assert main(["trian"]) == 2
    assert "no verb 'trian'" in capsys.readouterr().err
