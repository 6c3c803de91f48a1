"""A Slurm job that is told to make room, in one process: when it saves, and that it goes on as if nothing had been."""

import csv
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_samseg.__main__ import main
from lightning_samseg.methods import CpcSam
from lightning_samseg.runs import requeue
from lightning_samseg.runs.folder import read_status
from tests.comparing import assert_equal
from tests.fake_slurm import SCRIPTS
from tests.fakes import write_busi

pytestmark = pytest.mark.processes

CONFIG = """
test_after_fit: true
checkpoint_every: 100
trainer: {accelerator: cpu, max_steps: 6, val_check_interval: 3, enable_progress_bar: false,
          enable_model_summary: false, log_every_n_steps: 1}
model:
  class_path: lightning_samseg.methods.CpcSam
  init_args: {sam: {backbone: tiny}, ssl_start_iter: 2, optimizer: {lr: 1.0e-3}}
data:
  class_path: data_modules.BusiDataModule
  init_args: {image_size: 32, split: random, num_labelled: 5, labelled_batch_size: 2, unlabelled_batch_size: 2}
"""


class Bench:
    """Types commands, inside a Slurm job that answers from text files."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder = folder
        (folder / "config.yaml").write_text(CONFIG)
        self.common = ["fit", "--config", str(folder / "config.yaml"), "--data.root", str(data)]

    def __call__(self, run: str) -> int:
        return main([*self.common, "--trainer.default_root_dir", str(self.folder / run), "--ckpt_path=last"])

    def checkpoint(self, run: str, name: str = "last") -> dict[str, Any]:
        return torch.load(self.folder / run / "checkpoints" / f"{name}.ckpt", weights_only=True)

    def asked(self) -> list[str]:
        """What scontrol was asked."""
        path = self.folder / "asked"
        return path.read_text().splitlines() if path.is_file() else []


def logged(folder: Path) -> list[tuple[str, ...]]:
    """Step, loss and validation of every row that has any of them; speeds differ from run to run."""
    columns = ("step", "train/loss", "lr-AdamW", "val/dsc", "test/dsc")
    with (folder / "logs" / "metrics.csv").open(newline="") as file:
        rows = [tuple(row[column] for column in columns) for row in csv.DictReader(file)]
    return [row for row in rows if any(row[1:])]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("requeue")
    bench = Bench(folder, write_busi(folder, benign=12, malignant=8))
    assert bench("whole") == 0
    return bench


@pytest.fixture(autouse=True)
def job(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = bench.folder / "bin"
    commands.mkdir(exist_ok=True)
    (commands / "scontrol").write_text(f"#!/bin/bash\nDIR={bench.folder}\n{SCRIPTS['scontrol']}\n")
    (commands / "scontrol").chmod(0o755)
    (bench.folder / "asked").unlink(missing_ok=True)
    monkeypatch.setenv("PATH", f"{commands}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_JOB_ID", "43")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "41")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    monkeypatch.setattr(requeue, "_told", False)
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(monkeypatch: pytest.MonkeyPatch, hook: str, when: Any) -> None:
    """Let the signal come in the middle of a hook of the method."""
    original = getattr(CpcSam, hook)

    def told(self: CpcSam, *args: Any) -> Any:
        if when(self):
            signal.raise_signal(signal.SIGUSR1)
        return original(self, *args)

    monkeypatch.setattr(CpcSam, hook, told)


# A signal in step 1 (from 0) is followed after 2 steps; one in step 2 after the validation that comes then.
CASES = {
    "in a step": ("training_step", lambda m: m.global_step == 1, 2),
    "in a step before a validation": ("training_step", lambda m: m.global_step == 2, 3),
    "in a validation": ("validation_step", lambda m: m.global_step == 3 and m.trainer.training is False, 3),
    "in the test": ("test_step", lambda m: True, 6),
}


@pytest.mark.parametrize("case", CASES)
def test_saves_goes_back_and_ends_as_an_uninterrupted_run(
    case: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook, when, step = CASES[case]
    run = case.replace(" ", "_")
    with monkeypatch.context() as patch:
        send(patch, hook, when)
        with pytest.raises(SystemExit) as ended:
            bench(run)
    assert ended.value.code == 0
    assert bench.asked() == ["requeue 41_2"]
    assert bench.checkpoint(run)["global_step"] == step
    status = read_status(bench.folder / run)
    assert status is not None
    assert (status.state, status.step) == ("requeued", step)
    assert not (bench.folder / run / "metrics.json").exists()

    monkeypatch.setattr(requeue, "_told", False)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert bench(run) == 0
    ours, theirs = bench.checkpoint(run), bench.checkpoint("whole")
    assert ours["global_step"] == theirs["global_step"] == 6
    assert_equal(ours["state_dict"], theirs["state_dict"])
    assert bench.checkpoint(run, "best")["global_step"] == bench.checkpoint("whole", "best")["global_step"]
    assert (bench.folder / run / "cases.csv").read_bytes() == (bench.folder / "whole" / "cases.csv").read_bytes()
    assert logged(bench.folder / run) == logged(bench.folder / "whole")


def test_slurm_refuses(bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    scontrol = bench.folder / "bin" / "scontrol"
    scontrol.write_text("#!/bin/bash\necho Access denied >&2; exit 1\n")
    send(monkeypatch, "training_step", lambda m: m.global_step == 1)
    assert bench("refused") == 2
    message = capsys.readouterr().err
    assert "Slurm did not take job 41_2 back" in message
    assert "Access denied" in message
    assert bench.checkpoint("refused")["global_step"] == 2


def test_sigterm_saves_where_lightning_stops(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm ends a job so that it cancels, or preempts without a signal of its own."""
    original = CpcSam.training_step

    def told(self: CpcSam, *args: Any) -> Any:
        if self.global_step == 1:
            signal.raise_signal(signal.SIGTERM)
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(CpcSam, "training_step", told)
        with pytest.raises(SystemExit) as ended:
            bench("terminated")
    assert ended.value.code == 128 + signal.SIGTERM  # or a grid would take the run for finished
    assert bench.asked() == []
    assert bench.checkpoint("terminated")["global_step"] == 2
    status = read_status(bench.folder / "terminated")
    assert status is not None
    assert status.state == "interrupted"
    assert bench("terminated") == 0
    ours, theirs = bench.checkpoint("terminated"), bench.checkpoint("whole")
    assert_equal(ours["state_dict"], theirs["state_dict"])


def test_outside_slurm_the_signal_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID")
    before = signal.getsignal(signal.SIGUSR1)
    requeue.listen()
    assert signal.getsignal(signal.SIGUSR1) is before
