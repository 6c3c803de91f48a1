"""How fast a run is and how much memory of the GPU it takes, as curves."""

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor


class SpeedMonitor(Callback):
    """Logs ``train/images_per_second`` and, on a GPU, ``train/gpu_memory_mib``, whenever the loggers are written.

    Images are those that the loaders of all processes delivered, over the wall time of training: the wait for data and
    the writing of checkpoints count, validation does not. Nothing here waits for the device; the loggers do, each time
    that they are written. The memory is the largest that tensors have taken since the start, on this process's device.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._restart()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start again: validation is no training."""
        self._restart()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count; log at the iterations that Lightning writes."""
        self._images += count_images(batch)
        if trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        seconds = time.perf_counter() - self._start
        values = {"train/images_per_second": self._images * trainer.world_size / seconds}
        if pl_module.device.type == "cuda":
            values["train/gpu_memory_mib"] = torch.cuda.max_memory_allocated(pl_module.device) / 2**20
        pl_module.log_dict(values, batch_size=1)
        self._restart()

    def _restart(self) -> None:
        self._images, self._start = 0, time.perf_counter()


def count_images(batch: Any) -> int:
    """Images of a ``Batch``, a ``SemiBatch``, a ``StreamItem`` or a list of these."""
    if isinstance(batch, list):
        return sum(count_images(item) for item in batch)
    if isinstance(batch.get("image"), Tensor):
        return len(batch["image"])
    if "labelled" in batch:
        return sum(count_images(part) for part in batch.values())
    return len(batch.get("cases", ()))
