"""The best and the worst cases of a test, in every logger."""

from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from lightning_samseg.callbacks.logger_images import log_image
from lightning_samseg.callbacks.overlays import draw_overlay, picture_name
from lightning_samseg.callbacks.validation_overlays import PANEL, shrink
from lightning_samseg.types import IGNORED, Batch, Case


class Shown(NamedTuple):
    """A case and the image that stands for it."""

    dsc: float
    """Mean over the classes that reference or prediction have, of the whole case; 1 where neither has any."""
    case: Case
    image: np.ndarray
    reference: np.ndarray
    prediction: np.ndarray


class CaseGallery(Callback):
    """Keeps the cases of a test with the lowest and highest DSC, and shows them when it is over.

    Loggers get ``test/worst_1``, ``test/best_1`` and so on; W&B gets the table ``test/cases`` instead, with masks to
    switch on and off. A volume is scored as a whole and shown by the slice with most foreground in the reference.

    Args:
        limit: Cases on either end.
    """

    def __init__(self, limit: int = 4) -> None:
        self.limit = limit
        self._worst: list[Shown] = []
        self._best: list[Shown] = []
        self._open: dict[str, _Open] = {}

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier test."""
        self._worst, self._best, self._open = [], [], {}

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take the images of the batch; keep those of the cases at either end."""
        if outputs is None or "original" not in batch or not trainer.loggers:
            return
        entries = zip(batch["cases"], batch["original"], batch["reference"], outputs, strict=True)
        for case, image, reference, prediction in entries:
            gathered = self._open.setdefault(case.case_id, _Open())
            gathered.add(case, image, reference, prediction)
            if gathered.slices == case.num_slices:
                shown = self._open.pop(case.case_id).shown()
                self._worst = sorted([*self._worst, shown], key=_order)[: self.limit]
                self._best = sorted([*self._best, shown], key=_order)[-self.limit :]

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show them; with several processes the cases of all."""
        found = _gather({picture_name(shown.case): shown for shown in (*self._worst, *self._best)}, trainer.world_size)
        if not trainer.is_global_zero or not found:
            return
        ordered = sorted(found.values(), key=_order)
        half = min(self.limit, -(-len(ordered) // 2))  # few cases are not shown on both ends
        best = ordered[half:][::-1][: self.limit]
        step = trainer.global_step
        for kind, cases in (("worst", ordered[:half]), ("best", best)):
            for rank, shown in enumerate(cases, start=1):
                picture = draw_overlay(shown.image, shown.reference, shown.prediction, shown.case)
                log_image(trainer, f"test/{kind}_{rank}", picture, step, wandb=False)
        names = getattr(getattr(trainer, "datamodule", None), "class_names", ())
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                rows = [table_row(shown, names) for shown in (*ordered[:half], *best[::-1])]
                logger.log_table("test/cases", columns=["case", "slice", "dsc", "masks"], data=rows, step=step)


def table_row(shown: Shown, class_names: Any) -> list[Any]:
    """A row of W&B's table: case, slice, DSC, and the picture with the masks of reference and prediction."""
    import wandb

    labels = {0: "background"} | dict(enumerate(class_names, start=1))
    if (shown.reference == IGNORED).any():
        labels[IGNORED] = "ignored"
    masks = {
        name: {"mask_data": mask, "class_labels": labels}
        for name, mask in (("reference", shown.reference), ("prediction", shown.prediction))
    }
    return [shown.case.case_id, shown.case.slice_index, shown.dsc, wandb.Image(shown.image, masks=masks)]


class _Open:
    """A case while its slices arrive."""

    def __init__(self) -> None:
        self.slices, self._area = 0, -1
        self._same, self._sizes = np.zeros(256, np.int64), np.zeros(256, np.int64)

    def add(self, case: Case, image: np.ndarray, reference: np.ndarray, prediction: np.ndarray) -> None:
        self.slices += 1
        known = reference != IGNORED
        expected, predicted = reference[known], prediction[known]
        self._same += np.bincount(expected[expected == predicted], minlength=256)
        self._sizes += np.bincount(expected, minlength=256) + np.bincount(predicted, minlength=256)
        area = int(np.count_nonzero(expected))
        if area > self._area:
            self._area, self._case, self._picture = area, case, small(image, reference, prediction)

    def shown(self) -> Shown:
        there = self._sizes[1:] > 0
        scores = 2 * self._same[1:][there] / self._sizes[1:][there]
        return Shown(float(scores.mean()) if there.any() else 1.0, self._case, *self._picture)


def small(
    image: np.ndarray, reference: np.ndarray, prediction: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image and masks with their longest side at most ``PANEL`` pixels."""
    scale = min(1.0, PANEL / max(image.shape[:2]))
    size = (max(1, round(scale * image.shape[0])), max(1, round(scale * image.shape[1])))
    reference, prediction = (shrink(mask, size, cv2.INTER_NEAREST) for mask in (reference, prediction))
    return shrink(image, size, cv2.INTER_AREA), reference, prediction


def _order(shown: Shown) -> tuple[float, str]:
    return shown.dsc, shown.case.case_id


def _gather(found: dict[str, Shown], world_size: int) -> dict[str, Shown]:
    if world_size == 1:
        return found
    parts: list[dict[str, Shown]] = [{}] * world_size
    torch.distributed.all_gather_object(parts, found)
    return {name: shown for part in parts for name, shown in part.items()}
