"""A run that goes on: which options may be others, what is recorded of it, and that nothing else changes."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_samseg.__main__ import main
from lightning_samseg.optim import warmup_poly
from lightning_samseg.runs.folder import read_status
from tests.fakes import write_busi
from tests.test_stream_cli import CONFIG as STREAM
from tests.test_stream_cli import write_stream

CONFIG = """
trainer: {accelerator: cpu, max_steps: 4, val_check_interval: 2, enable_progress_bar: false,
          enable_model_summary: false, log_every_n_steps: 1}
model:
  class_path: lightning_samseg.methods.SAMed
  init_args: {sam: {backbone: tiny, pretrained: false}, optimizer: {max_iters: 8}}
data:
  class_path: data_modules.BusiDataModule
  init_args: {image_size: 32, split: random, num_labelled: 5, labelled_batch_size: 2}
"""


class Bench:
    """Types commands."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder = folder
        (folder / "config.yaml").write_text(CONFIG)
        self.common = ["--config", str(folder / "config.yaml"), "--data.root", str(data)]

    def __call__(self, run: str, *options: str, verb: str = "fit") -> int:
        return main([verb, *self.common, "--trainer.default_root_dir", str(self.folder / run), *options])

    def resume(self, run: str, *options: str) -> int:
        return self(run, "--ckpt_path", "last", *options)

    def state(self, run: str) -> dict[str, Any]:
        return torch.load(self.folder / run / "checkpoints" / "last.ckpt", weights_only=True)

    def config(self, run: str) -> dict[str, Any]:
        return yaml.safe_load((self.folder / run / "config.yaml").read_text())

    def logged(self, run: str, column: str) -> dict[int, float]:
        """Step -> value of a column of the log."""
        with (self.folder / run / "logs" / "metrics.csv").open(newline="") as file:
            return {int(row["step"]): float(row[column]) for row in csv.DictReader(file) if row[column]}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # the networks are tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_busi(tmp_path_factory.mktemp("busi"), benign=12, malignant=8)


@pytest.fixture
def bench(tmp_path: Path, data: Path) -> Bench:
    bench = Bench(tmp_path, data)
    assert bench("run") == 0
    return bench


def test_a_run_goes_on_beyond_its_end_as_a_longer_one(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert bench.resume("run", "--trainer.max_steps", "8", "--checkpoint_every", "3") == 0
    said = capsys.readouterr().out
    assert "the run goes on at iteration 4 with trainer.max_steps 4 -> 8; checkpoint_every 200 -> 3\n" in said
    assert bench("longer", "--trainer.max_steps", "8") == 0
    ours, theirs = bench.state("run"), bench.state("longer")
    assert all(torch.equal(value, theirs["state_dict"][name]) for name, value in ours["state_dict"].items())
    assert ours["lr_schedulers"] == theirs["lr_schedulers"]
    for column in ("train/loss", "lr-AdamW", "val/dsc"):
        assert bench.logged("run", column) == bench.logged("longer", column)
    assert list(bench.logged("run", "train/loss")) == list(range(8))
    assert bench.config("run")["trainer"]["max_steps"] == 8
    assert bench.config("run")["ckpt_path"] is None
    text = (bench.folder / "run" / "config.yaml").read_text()
    assert "# changed at iteration 4: trainer.max_steps 4 -> 8; checkpoint_every 200 -> 3\n" in text
    again = ["fit", "--config", str(bench.folder / "run" / "config.yaml")]
    assert main([*again, "--trainer.default_root_dir", str(bench.folder / "again")]) == 0
    repeated = bench.state("again")["state_dict"]
    assert all(torch.equal(value, repeated[name]) for name, value in ours["state_dict"].items())


CHANGED = {
    "lr": ["--model.optimizer.lr", "0.5"],
    "augmentation": ["--data.augment", "none"],
    "batch size": ["--data.labelled_batch_size", "1"],
    "seed": ["--seed_everything", "3"],
    "precision": ["--trainer.precision", "bf16-mixed"],
    "accumulation": ["--trainer.accumulate_grad_batches", "2"],
}


def test_another_experiment_is_refused(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    run = bench.folder / "run"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for options in CHANGED.values():
        assert bench.resume("run", "--trainer.max_steps", "8", *options) == 2
        message = capsys.readouterr().err
        name, value = options[0].removeprefix("--"), options[1]
        assert f"found: {name} " in message
        assert f" -> {value}\n" in message
        assert "--allow_changes" in message
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    status = read_status(run)
    assert status is not None
    assert status.state == "finished"


def test_allowed_changes_act_and_are_recorded(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model.optimizer.lr", "0.25", "--model.optimizer.weight_decay", "0.5", "--data.augment", "none"]
    steps = ["--trainer.max_steps", "6", "--test_after_fit", "true"]
    assert bench.resume("run", *options, *steps, "--allow_changes") == 0
    assert "warning: another experiment from here on" in capsys.readouterr().out
    rates = bench.logged("run", "lr-AdamW")
    for step, rate in rates.items():
        base = 1e-3 if step < 4 else 0.25
        assert rate == pytest.approx(base * warmup_poly(step, 0, 0.9, 8), rel=1e-12), step
    assert list(rates) == list(range(6))
    group = bench.state("run")["optimizer_states"][0]["param_groups"][0]
    assert (group["weight_decay"], group["initial_lr"]) == (0.5, 0.25)

    config = bench.config("run")
    assert (config["model"]["init_args"]["optimizer"]["lr"], config["data"]["init_args"]["augment"]) == (0.25, "none")
    assert config["allow_changes"] is False
    changes = json.loads((bench.folder / "run" / "metrics.json").read_text())["changes"]
    assert {"step": 4, "option": "model.optimizer.lr", "from": 0.001, "to": 0.25} in changes
    assert {each["step"] for each in changes} == {4}
    assert {each["option"] for each in changes} >= {
        "model.optimizer.lr",
        "model.optimizer.weight_decay",
        "data.augment",
    }

    # It goes on as it is now; the old options are the changed ones.
    further = ["--trainer.max_steps", "7", "--test_after_fit", "true"]
    assert bench.resume("run", *further) == 2
    assert "model.optimizer.lr 0.25 -> 0.001" in capsys.readouterr().err
    assert bench.resume("run", *options, *further) == 0
    assert bench.logged("run", "lr-AdamW")[6] == pytest.approx(0.25 * warmup_poly(6, 0, 0.9, 8), rel=1e-12)
    assert bench("run", *options, "--ckpt_path", "last", verb="test") == 0
    tested = json.loads((bench.folder / "run" / "test-1" / "metrics.json").read_text())["changes"]
    assert [each for each in tested if each["step"] == 4] == changes


def test_other_files_under_the_same_names_are_other_data(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = write_busi(tmp_path / "moved", benign=12, malignant=8)
    assert bench.resume("run", "--trainer.max_steps", "5", "--data.root", str(moved)) == 0
    for path in moved.rglob("*.png"):
        path.write_bytes(path.read_bytes() + b"\0")
    assert bench.resume("run", "--trainer.max_steps", "6", "--data.root", str(moved)) == 2
    assert "found: data_fingerprint " in capsys.readouterr().err
    assert bench.config("run")["trainer"]["max_steps"] == 5


def test_a_changed_rate_acts_in_a_stream_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(tmp_path, write_stream(tmp_path / "stream"))
    (tmp_path / "config.yaml").write_text(STREAM)
    assert bench("run", "--trainer.max_steps", "4") == 0
    assert bench.resume("run", "--model.learning.lr", "0.1") == 2
    assert bench.resume("run", "--model.learning.lr", "0.1", "--model.cache_gb", "0", "--allow_changes") == 0
    assert bench.state("run")["optimizer_states"][0]["param_groups"][0]["lr"] == 0.1
    changes = json.loads((tmp_path / "run" / "metrics.json").read_text())["changes"]
    assert [each["option"] for each in changes] == ["trainer.max_steps", "model.learning.lr", "model.cache_gb"]
    capsys.readouterr()
    assert bench("long", "--trainer.max_steps", "100") == 0
    assert "The stream has 8 images: the run ends there, before trainer.max_steps 100." in capsys.readouterr().out
