"""A loss that is no longer a number stops the run instead of ruining it silently."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_samseg.errors import UserError


class StopOnNonFinite(Callback):
    """Stops with a message when the training loss is NaN or infinite, before any checkpoint of that state is written.

    The check costs no synchronisation in a step: the first bad iteration is remembered on the device and read back
    every ``every`` iterations (every one on a CPU), and before each checkpoint.

    Args:
        last: Checkpoint to go on from, which may not be written yet.
        every: Iterations between two readings.
    """

    def __init__(self, last: str | Path | None = None, every: int = 50) -> None:
        self.last = None if last is None else Path(last)
        self.every = every
        self._first_bad: Tensor | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Remember a bad loss; look at the memory now and then."""
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if not isinstance(loss, Tensor):
            return
        step = trainer.global_step - 1
        if self._first_bad is None:
            self._first_bad = torch.full((), -1, dtype=torch.long, device=loss.device)
        bad_now = (self._first_bad < 0) & ~torch.isfinite(loss.detach())
        self._first_bad = torch.where(bad_now, step, self._first_bad)
        if loss.device.type == "cpu" or step % self.every == 0:
            self._check(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse to write weights that a bad loss has touched."""
        self._check(trainer)

    def _check(self, trainer: Trainer) -> None:
        step = -1 if self._first_bad is None else int(self._first_bad)
        if step >= 0:
            good = f"; {self.last} holds the last good state" if self.last is not None and self.last.is_file() else ""
            raise UserError(
                f"The training loss is not a number since iteration {step}; the run stops.",
                expected="a finite loss",
                found=f"NaN or infinity, with trainer.precision {trainer.precision}",
                fix=f"lower --model.optimizer.lr, or use --trainer.precision 32-true{good}",
            )
