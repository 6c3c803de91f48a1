"""A private Slurm for the session, and a place to type grid commands."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_samseg.__main__ import main
from lightning_samseg.runs.folder import Status, read_status
from tests.fakes import write_busi
from tests.slurm.cluster import Cluster, missing, wait_for

PROJECT = Path(__file__).parents[2]

CPC = """
test_after_fit: true
checkpoint_every: 3
trainer:
  accelerator: cpu
  max_steps: 6
  val_check_interval: 3
  log_every_n_steps: 1
  enable_progress_bar: false
  enable_model_summary: false
model:
  class_path: tests.slurm.slow.SlowCpcSam
  init_args: {sam: {backbone: tiny}, ssl_start_iter: 2, optimizer: {lr: 1.0e-3}, pause: 0.0}
data:
  class_path: data_modules.BusiDataModule
  init_args:
    root: ROOT
    image_size: 32
    split: random
    num_labelled: 5
    labelled_batch_size: 2
    unlabelled_batch_size: 2
"""
AUX = """
checkpoint_every: 2
trainer: {accelerator: cpu, log_every_n_steps: 1, enable_progress_bar: false, enable_model_summary: false}
model:
  class_path: tests.slurm.slow.SlowAuxOl
  init_args:
    sam: {backbone: tiny}
    auxiliary: {width: 0.0625}
    crop: {size: 32}
    fusion: {kind: adaptive}
    batch: {capacity: 4}
    learning: {lr: 5.0e-3}
    pause: 0.0
data:
  class_path: data_modules.BusiDataModule
  init_args: {root: ROOT, image_size: 32, split: random}
"""
PROFILE = """
partition: main
time: "0:20:00"
gpus: 0
cpus: 1
at_once: 2
save_ahead: 60
setup: [export MASTER_ADDR=127.0.0.1, export GLOO_SOCKET_IFNAME=lo, export OMP_NUM_THREADS=1]
"""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    problem = missing()
    if problem:
        pytest.skip(f"{problem}; see `make test-slurm`")
    with tempfile.TemporaryDirectory(prefix="slurm") as folder, Cluster(Path(folder)) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_busi(tmp_path_factory.mktemp("busi"), benign=14, malignant=10)


class Desk:
    """Types commands of ``grid`` and looks into run folders."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.runs = folder, folder / "runs"
        for name, text in (("cpc", CPC), ("aux", AUX)):
            (folder / f"{name}.yaml").write_text(text.replace("ROOT", str(data)))
        self.profile()

    def profile(self, **changes: Any) -> None:
        """Write the profile."""
        lines = [line for line in PROFILE.strip().splitlines() if line.split(":")[0] not in changes]
        lines += [f"{key}: {json.dumps(value)}" for key, value in changes.items()]
        (self.folder / "profile.yaml").write_text("\n".join(lines))

    def grid(self, text: str) -> None:
        """Write the grid file."""
        text = text.replace("CPC", str(self.folder / "cpc.yaml")).replace("AUX", str(self.folder / "aux.yaml"))
        (self.folder / "grid.yaml").write_text(f"folder: {self.runs}\n{text}")

    def __call__(self, verb: str, *options: str) -> None:
        """Give a command that must end well."""
        profile = ["--profile", str(self.folder / "profile.yaml")] if verb == "submit" else []
        assert main(["grid", verb, str(self.folder / "grid.yaml"), *profile, *options]) == 0

    def submissions(self) -> list[dict[str, Any]]:
        """What was submitted."""
        return json.loads((self.runs / "submissions.json").read_text())

    def status(self, run: str) -> Status | None:
        """How far a run has come."""
        return read_status(self.runs / run)

    def state(self, run: str) -> str | None:
        """Its state alone."""
        status = self.status(run)
        return status.state if status else None

    def wait_for_state(self, run: str, state: str, seconds: float = 300) -> None:
        """Wait until a run is in a state; a failure ends the waiting."""

        def reached() -> bool:
            found = self.state(run)
            assert state == "failed" or found != "failed", self.log(run)
            return found == state

        wait_for(reached, seconds, f"{state} {run}; it is {self.state(run)}")

    def wait_for_steps(self, run: str, steps: int) -> None:
        """Wait until a run has saved itself after so many steps."""
        path = self.runs / run / "checkpoints" / "last.ckpt"
        wait_for(lambda: path.is_file() and self.weights(run)["global_step"] >= steps, 300, f"step {steps} of {run}")

    def weights(self, run: str) -> dict[str, Any]:
        """Its last checkpoint."""
        return torch.load(self.runs / run / "checkpoints" / "last.ckpt", weights_only=True, mmap=True)

    def log(self, run: str) -> str:
        """What it printed."""
        path = self.runs / run / "output.log"
        return path.read_text() if path.is_file() else ""


@pytest.fixture
def desk(cluster: Cluster, tmp_path: Path, data: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.chdir(PROJECT)
    return Desk(tmp_path, data)
