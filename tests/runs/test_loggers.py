"""What a run leaves in its loggers, and how W&B is set up; with a server: tests/wandb_server."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_samseg.__main__ import main
from lightning_samseg.cli.train import parse
from lightning_samseg.errors import UserError
from lightning_samseg.runs import loggers
from lightning_samseg.runs.loggers import Wandb, build_loggers, default_folder, has_wandb_key, run_id, wandb_mode
from tests.fakes import write_busi

CPC_SAM = """
test_after_fit: true
trainer: {accelerator: cpu, max_steps: 6, val_check_interval: 3, log_every_n_steps: 2, enable_progress_bar: false,
  enable_model_summary: false}
model:
  class_path: lightning_samseg.methods.CpcSam
  init_args: {sam: {backbone: tiny}, ssl_start_iter: 2, optimizer: {lr: 1.0e-3}}
data:
  class_path: data_modules.BusiDataModule
  init_args: {image_size: 32, split: random, num_labelled: 4, labelled_batch_size: 2, unlabelled_batch_size: 2}
"""
AUX_OL = """
trainer: {accelerator: cpu, enable_progress_bar: false, enable_model_summary: false}
model:
  class_path: lightning_samseg.methods.AuxOl
  init_args: {sam: {backbone: tiny}, auxiliary: {width: 0.0625}, crop: {size: 32}, batch: {capacity: 3}}
data:
  class_path: data_modules.BusiDataModule
  init_args: {stream_sets: [malignant]}
"""
CURVES = {
    *("lr-AdamW", "train/images_per_second", "train/empty_predictions", "train/agreement", "val/empty_fraction"),
    *("train/confidence_1", "train/confidence_2", "train/pseudo_dsc_1", "train/pseudo_dsc_2", "val/dsc", "test/dsc"),
}


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user without any W&B settings."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_busi(tmp_path_factory.mktemp("busi") / "Dataset_BUSI_with_GT", benign=24, malignant=16)


def run(folder: Path, data: Path, config: str, *options: str) -> Path:
    (folder / "given.yaml").write_text(config)
    command = ["fit", "--config", str(folder / "given.yaml"), "--trainer.default_root_dir", str(folder / "run")]
    assert main([*command, "--data.root", str(data), *options]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def cpc_run(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    return run(tmp_path_factory.mktemp("cpc"), data, CPC_SAM, "--tensorboard", "true", "--wandb.group", "g")


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "logs" / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_curves_of_cpc_sam(cpc_run: Path) -> None:
    logged = rows(cpc_run)
    assert set(logged[0]) >= CURVES
    last = {name: [float(row[name]) for row in logged if row[name]] for name in CURVES}
    for name in CURVES - {"lr-AdamW", "train/images_per_second"}:
        assert last[name], name
        assert all(0 <= value <= 1 for value in last[name]), name
    assert all(value >= 0.5 for value in last["train/confidence_1"])  # of two classes
    assert len(last["train/images_per_second"]) == 3
    assert min(last["train/images_per_second"]) > 0


def test_pictures_over_time_and_of_the_test(cpc_run: Path) -> None:
    pictures = cpc_run / "logs" / "images"
    validated = sorted((pictures / "val").iterdir())
    assert len(validated) == 4
    assert all([path.name for path in sorted(case.iterdir())] == ["000003.png", "000006.png"] for case in validated)
    assert {path.name for path in (pictures / "test").iterdir()} == {
        f"{k}_{i}" for k in ("best", "worst") for i in (1, 2, 3, 4)
    }


def test_tensorboard_has_curves_pictures_and_config(cpc_run: Path) -> None:
    tags: dict[str, Any] = {"scalars": set(), "images": set(), "tensors": set()}
    for path in (cpc_run / "tensorboard").glob("events*"):
        events = EventAccumulator(str(path))
        events.Reload()
        for kind, found in tags.items():
            found.update(events.Tags()[kind])
    assert tags["scalars"] >= CURVES
    assert {"test/best_1", "test/worst_4"} <= tags["images"]
    assert sum(tag.startswith("val/") for tag in tags["images"]) == 4
    assert "config/text_summary" in tags["tensors"]


def test_the_origin_of_a_run_is_in_its_metrics(cpc_run: Path) -> None:
    result = json.loads((cpc_run / "metrics.json").read_text())
    assert len(result["data_fingerprint"]) == 16
    assert result["split"].startswith("random:")
    assert {"git_commit", "weights_sha256", "seed", "versions", "method"} <= set(result)


def test_the_saved_config_repeats_the_numbers(cpc_run: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    command = ["fit", "--config", str(cpc_run / "config.yaml"), "--trainer.default_root_dir", str(again)]
    assert main([*command, "--wandb", "null", "--tensorboard", "false"]) == 0
    first, second = (json.loads((folder / "metrics.json").read_text()) for folder in (cpc_run, again))
    differing = {key for key in first | second if first.get(key) != second.get(key)}
    assert differing <= {"checkpoint"}
    assert (cpc_run / "cases.csv").read_text() == (again / "cases.csv").read_text()
    assert not (again / "tensorboard").exists()


def test_stream_logs_its_end(tmp_path: Path, data: Path) -> None:
    folder = run(tmp_path, data, AUX_OL)
    logged = [row for row in rows(folder) if row["dsc/aux_ol"]]
    result = json.loads((folder / "metrics.json").read_text())
    with (folder / "cases.csv").open(newline="") as file:
        scores = [float(row["aux_ol_dsc"]) for row in csv.DictReader(file)]
    assert float(logged[-1]["dsc/aux_ol"]) == pytest.approx(sum(scores) / len(scores), abs=1e-6)
    assert len(result["data_fingerprint"]) == 16
    assert result["split"].startswith("stream_sorted:")


def test_no_key_is_offline_with_one_line(clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = build_loggers(clean / "r", "name", "fit", Wandb(group="g"), tensorboard=True, is_main_process=True)
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "wandb sync" in said
    assert [type(logger) for logger in made[1:]] == [TensorBoardLogger, WandbLogger]
    settings = made[-1]._wandb_init
    expected = {"mode": "offline", "group": "g", "job_type": "fit", "name": "name", "resume": None}
    assert expected.items() <= settings.items()
    assert settings["id"] == (clean / "r" / "wandb_id").read_text().strip()


def test_only_the_main_process_speaks_and_writes(clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_loggers(clean / "r", "name", "fit", Wandb(), tensorboard=False, is_main_process=False)
    assert capsys.readouterr().out == ""
    assert not (clean / "r" / "wandb_id").exists()


def test_a_key_goes_online(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_wandb_key()
    (clean / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    (clean / "netrc").chmod(0o600)
    assert has_wandb_key()
    assert wandb_mode(None) == "online"
    assert wandb_mode(True) == "offline"
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert not has_wandb_key()
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert wandb_mode(None) == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode(None) is None


def test_a_resumed_run_keeps_its_id(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_id(clean)
    assert run_id(clean) == first
    assert run_id(clean / "other") != first
    monkeypatch.setenv("WANDB_RUN_ID", "fromagent")
    assert run_id(clean) == "fromagent"
    monkeypatch.delenv("WANDB_RUN_ID")
    assert run_id(clean) == "fromagent"


def test_folder_in_a_sweep(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_folder("cpcsam") == "runs/cpcsam"
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    monkeypatch.setenv("WANDB_RUN_ID", "r")
    assert default_folder("cpcsam") == "runs/sweeps/s/r"


@pytest.mark.parametrize("group", ["", "wandb: null\n", "wandb: {project: p, group: h}\n"])
def test_flat_flags_over_any_config(tmp_path: Path, group: str) -> None:
    (tmp_path / "c.yaml").write_text(CPC_SAM.replace("{image_size", "{root: r, image_size") + group)
    config = parse(["fit", "--config", str(tmp_path / "c.yaml"), "--wandb.group", "g", "--wandb.job_type=x"])
    assert (config.wandb.group, config.wandb.job_type) == ("g", "x")
    assert config.wandb.project == ("p" if "project" in group else "lightning_samseg")
    assert config.tensorboard is False


def test_missing_tensorboard_is_a_message(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*args: Any, **kwargs: Any) -> None:
        raise ModuleNotFoundError("no tensorboard")

    monkeypatch.setattr(loggers, "TensorBoardLogger", absent)
    with pytest.raises(UserError, match="pip install tensorboard"):
        build_loggers(clean, "n", "fit", None, tensorboard=True, is_main_process=True)


def test_the_next_run_of_a_process_is_another_one_of_wandb(cpc_run: Path) -> None:
    """What a run has begun in W&B ends with it: in a notebook a second one would go on in the first."""
    import wandb

    assert wandb.run is None
