"""The two checkpoints of a run: ``best.ckpt`` by validation DSC, ``last.ckpt`` to go on from."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``best.ckpt``, the weights with the highest mean validation DSC so far.

    Args:
        folder: The run's ``checkpoints`` folder.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(
            dirpath=folder, filename="best", monitor="val/dsc", mode="max", save_top_k=1, enable_version_counter=False
        )
        self.CHECKPOINT_EQUALS_CHAR = "-"


class LastCheckpoint(Callback):
    """Writes ``last.ckpt`` every so many iterations and at the end: what a killed run loses is never more than that.

    Lightning writes to a temporary name and renames, so a kill in the middle leaves the previous file.

    Args:
        folder: The run's ``checkpoints`` folder.
        every: Iterations between two writes.
    """

    def __init__(self, folder: str | Path, every: int) -> None:
        self.path = Path(folder) / "last.ckpt"
        self.every = every
        self._saved_step = -1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when the iteration count is a multiple of ``every``."""
        if trainer.global_step % self.every == 0:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what came after the last multiple."""
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if trainer.global_step != self._saved_step:
            self._saved_step = trainer.global_step
            trainer.save_checkpoint(self.path)
