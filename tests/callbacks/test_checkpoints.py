"""``best.ckpt`` stays the best one, wherever the run folder is and whatever the run goes on from."""

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from lightning_samseg.adapters.checkpoints import CheckpointFiles, read_checkpoint
from lightning_samseg.callbacks import BestCheckpoint, LastCheckpoint


class Scripted(LightningModule):
    """Scores what it is told after every step."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.scores = scores

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.layer(batch).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/dsc", self.scores[self.global_step - 1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(run: Path, scores: list[float], resumed: Path | None = None) -> int:
    """Step of ``best.ckpt`` after one iteration for each score."""
    folder = run / "checkpoints"
    trainer = Trainer(
        accelerator="cpu",
        max_steps=len(scores),
        val_check_interval=1,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=run,
        callbacks=[BestCheckpoint(folder), LastCheckpoint(folder, 1)],
        plugins=[CheckpointFiles()],
    )
    loader = DataLoader(torch.ones(8, 1), batch_size=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(num_workers|not resumable|many workers|is not empty).*")
        trainer.fit(Scripted(scores), loader, loader, ckpt_path=resumed, weights_only=True)
    return best_step(run)


def best_step(run: Path) -> int:
    return int(read_checkpoint(run / "checkpoints" / "best.ckpt")["global_step"])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    assert fit(tmp_path / "run", [0.1, 0.8, 0.5]) == 2
    return tmp_path / "run"


def test_a_copied_run_keeps_its_best(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    last = copy / "checkpoints" / "last.ckpt"
    assert fit(copy, [0.1, 0.8, 0.5, 0.7], last) == 2
    assert fit(copy, [0.1, 0.8, 0.5, 0.7, 0.9], last) == 5
    assert best_step(run) == 2
    run.rename(tmp_path / "moved")
    assert fit(tmp_path / "moved", [0.1, 0.8, 0.5, 0.7], tmp_path / "moved" / "checkpoints" / "last.ckpt") == 2


def test_checkpoints_hold_no_path(run: Path) -> None:
    for name in ("best", "last"):
        states = read_checkpoint(run / "checkpoints" / f"{name}.ckpt")["callbacks"]
        assert str(run.parent) not in str(states)
        assert states[next(iter(states))]["best_model_path"] == "best.ckpt"


def test_an_older_last_checkpoint_does_not_forget_it(run: Path, tmp_path: Path) -> None:
    """As where ``previous.ckpt`` stands in: it was written before the best weights were."""
    old = tmp_path / "old"
    fit(old, [0.1])
    assert fit(run, [0.1, 0.6], old / "checkpoints" / "last.ckpt") == 2
    assert read_checkpoint(run / "checkpoints" / "best.ckpt")["callbacks"]
    assert fit(run, [0.1, 0.6, 0.81], run / "checkpoints" / "last.ckpt") == 3


def test_another_runs_state_starts_with_no_best_weights(run: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    assert fit(new, [0.1, 0.8, 0.5, 0.2], run / "checkpoints" / "last.ckpt") == 4
    assert best_step(run) == 2


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04"], ids=["empty", "cut"])
def test_damaged_best_weights_are_replaced(content: bytes, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = run / "checkpoints" / "best.ckpt"
    best.write_bytes(content)
    assert fit(run, [0.1, 0.8, 0.5, 0.2], run / "checkpoints" / "last.ckpt") == 4
    assert "best.ckpt is damaged: the next validation replaces it" in capsys.readouterr().out
