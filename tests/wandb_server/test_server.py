"""A real W&B client against a local server: what a run sends arrives, under one id. ``make test-wandb``."""

import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.fakes import write_busi
from tests.foreign_server import environment_of, free_port, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
SERVER = "openwandb==0.5.25"  # takes what a client sends and keeps it in SQLite; has neither sweeps nor groups
ROOT = Path(__file__).parents[2]
CONFIG = """
test_after_fit: true
checkpoint_every: 2
trainer: {accelerator: cpu, max_steps: 4, val_check_interval: 2, log_every_n_steps: 2, enable_progress_bar: false,
  enable_model_summary: false}
model:
  class_path: lightning_samseg.methods.CpcSam
  init_args: {sam: {backbone: tiny}, ssl_start_iter: 0}
data:
  class_path: data_modules.BusiDataModule
  init_args: {image_size: 32, split: random, num_labelled: 4, labelled_batch_size: 2, unlabelled_batch_size: 2}
wandb: {project: samseg, group: a-group}
"""


class Server(NamedTuple):
    url: str
    database: Path

    def query(self, text: str, *values: Any) -> list[tuple[Any, ...]]:
        with sqlite3.connect(self.database) as connection:
            return connection.execute(text, values).fetchall()

    def run(self, run_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Config and summary of the one run with this id, when it has been finished."""
        deadline = time.monotonic() + 30
        found: list[tuple[Any, ...]] = []
        while time.monotonic() < deadline:
            found = self.query("select config_json, summary_json, state from runs where run_id = ?", run_id)
            if found and found[0][2] == "finished":
                break
            time.sleep(0.2)
        assert len(found) == 1, found
        config, summary, state = found[0]
        assert state == "finished"
        return json.loads(config), json.loads(summary)

    def files(self, run_id: str) -> set[str]:
        return {name for (name,) in self.query("select name from files where run_id = ?", run_id)}

    def history(self, run_id: str, name: str, least: int = 1) -> list[float]:
        """Values of a curve; the server may say that a run is finished before it has put the last rows away."""
        text = "select value from metrics where run_id = ? and key = ? order by id"
        deadline = time.monotonic() + 30
        while len(found := self.query(text, run_id, name)) < least and time.monotonic() < deadline:
            time.sleep(0.2)
        return [value for (value,) in found]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("openwandb")
    programs = environment_of(SERVER, "SAMSEG_OPENWANDB_ENV", folder, seconds=400)
    port = free_port()
    command = [programs / "openwandb", "serve", "--host", "127.0.0.1", "--port", str(port), "--data-dir", str(folder)]
    url = f"http://127.0.0.1:{port}"
    with running(command, url, folder, {"OPENWANDB_DATA_DIR": str(folder)}, seconds=90):
        yield Server(url, folder / "openwandb.db")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    data = write_busi(folder / "Dataset_BUSI_with_GT", benign=12, malignant=8)
    (folder / "given.yaml").write_text(CONFIG.replace("{image_size", f"{{root: {data}, image_size"))
    return folder


def environment(server: Server | None) -> dict[str, str]:
    """The tests' own without W&B's settings, with those of the server."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    plain |= {"OMP_NUM_THREADS": "1", "NETRC": "/nonexistent"}
    return plain if server is None else plain | {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "local" + 35 * "0"}


def fit(folder: Path, name: str, server: Server | None, *options: str) -> tuple[Path, str]:
    """A run in a process of its own, online where a server is given, and what it said."""
    command = [sys.executable, "-m", "lightning_samseg", "fit", "--config", str(folder / "given.yaml"), *options]
    command += ["--trainer.default_root_dir", str(folder / name)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(server), capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / name, done.stdout


def check_arrived(server: Server, run: Path) -> str:
    """Config, history, summary and files of a finished run are on the server."""
    run_id = (run / "wandb_id").read_text().strip()
    config, summary = server.run(run_id)
    result = json.loads((run / "metrics.json").read_text())
    assert "git_commit" in config  # its value changes with every edit in the checkout
    for name in ("weights_sha256", "data_fingerprint", "split", "seed"):
        assert config[name]["value"] == result[name], name
    saved = yaml.safe_load((run / "config.yaml").read_text())
    sent, kept = (each["init_args"]["loss"]["lambda_cross"] for each in (config["model"]["value"], saved["model"]))
    assert sent == kept == 0.4
    assert summary["test/dsc"] == pytest.approx(result["summary"]["dsc"], abs=1e-6)
    assert "val/dsc" in summary
    assert len(server.history(run_id, "train/loss", least=2)) >= 2
    files = server.files(run_id)
    assert {"metrics.json", "cases.csv"} <= files
    assert any(re.match(r"media/table/test/cases.*\.table\.json", name) for name in files)
    assert any(name.startswith("media/images/val/") for name in files)
    return run_id


def test_an_online_run_arrives_and_goes_on_under_its_id(server: Server, folder: Path) -> None:
    run, said = fit(folder, "online", server)
    assert "No W&B key" not in said
    run_id = check_arrived(server, run)
    steps = len(server.history(run_id, "train/loss"))
    fit(folder, "online", server, "--ckpt_path", "last", "--trainer.max_steps", "8")
    assert check_arrived(server, run) == run_id
    assert len(server.history(run_id, "train/loss", least=steps + 1)) > steps
    assert max(server.history(run_id, "trainer/global_step")) >= 7


def test_an_offline_run_arrives_by_wandb_sync(server: Server, folder: Path) -> None:
    run, said = fit(folder, "offline", None)
    assert said.count("No W&B key") == 1
    fit(folder, "offline", None, "--ckpt_path", "last", "--trainer.max_steps", "8")
    parts = sorted((run / "wandb").glob("offline-run-*"))
    run_id = (run / "wandb_id").read_text().strip()
    assert len(parts) == 2
    assert all(part.name.endswith(run_id) for part in parts)
    assert server.query("select id from runs where run_id = ?", run_id) == []
    command = [Path(sys.executable).with_name("wandb"), "sync", *parts]
    done = subprocess.run(command, env=environment(server), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert check_arrived(server, run) == run_id
    text = "select step from metrics where run_id = ? and key = 'trainer/global_step' order by id"
    steps = server.query(text, run_id)
    assert steps == sorted(set(steps)), "the parts' rows are numbered one after the other"
    assert server.history(run_id, "restarts") == [1]
