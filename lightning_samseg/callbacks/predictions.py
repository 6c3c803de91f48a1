"""Masks of a prediction as files."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_samseg.callbacks.overlays import picture_name
from lightning_samseg.io.images import IMAGE_SUFFIXES, write_image, write_mask_beside
from lightning_samseg.log import logger
from lightning_samseg.types import Batch


class PredictionWriter(Callback):
    """Writes ``predictions/CASE.png`` during ``predict``: class ids at the original size.

    A mask is stored the way up that its picture is, see ``write_mask_beside``.

    Args:
        folder: Folder of the results.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder) / "predictions"

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the masks of the batch."""
        for case, mask in zip(batch["cases"], outputs, strict=True):
            path = self.folder / f"{picture_name(case)}.png"
            if Path(case.source).suffix.lower() in IMAGE_SUFFIXES:
                write_mask_beside(path, mask, case.source)
            else:
                write_image(path, mask)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say where the masks are."""
        if trainer.is_global_zero:
            logger.info(f"masks     {self.folder}")
