"""The same few validation images at every validation: what a run learns, to look at."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_samseg.callbacks.logger_images import log_image
from lightning_samseg.callbacks.overlays import class_colour, draw_contours, draw_overlay, picture_name
from lightning_samseg.io.geometry import resize_labels
from lightning_samseg.methods.method import Method
from lightning_samseg.types import IGNORED, NOT_A_POINT, Batch, Case, Marks, Panel

PANEL = 320
"""Longest side of a panel in pixels: loggers keep every picture."""


class ValidationOverlays(Callback):
    """Gives ``val/CASE`` to every logger: image, reference and prediction of fixed cases, validation by validation.

    The images of the validation set (of the main process's share, where there are several) are cut into ``limit`` runs
    of equal length; the first image with foreground from the middle of each run on is drawn, whatever is predicted.
    What a method shows beside (``Method.panels``) follows on the right: of CPC-SAM each branch without a prompt, and
    the points it prompts the other branch with: centres as crosses, random points as discs, in the colour of the class
    and white for the background.

    Args:
        limit: Most images.
    """

    def __init__(self, limit: int = 4) -> None:
        self.limit = limit
        self._seen = self._drawn = self._total = 0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count."""
        self._seen = self._drawn = 0

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the chosen images of the batch."""
        if outputs is None or "original" not in batch or not trainer.is_global_zero or not trainer.loggers:
            return
        if batch_idx == 0:
            self._total = int(trainer.num_val_batches[dataloader_idx]) * len(batch["cases"])
        for i, (reference, prediction) in enumerate(zip(batch["reference"], outputs, strict=True)):
            middle = (2 * self._drawn + 1) * self._total // (2 * self.limit)
            if self._drawn < self.limit and self._seen >= middle and ((reference > 0) & (reference != IGNORED)).any():
                self._drawn += 1
                self._draw(trainer, pl_module, batch, i, prediction)
            self._seen += 1

    def _draw(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, i: int, prediction: np.ndarray) -> None:
        case, original = batch["cases"][i], batch["original"][i]
        scale = min(1.0, PANEL / max(original.shape[:2]))
        size = (max(1, round(scale * original.shape[0])), max(1, round(scale * original.shape[1])))
        image = shrink(original, size, cv2.INTER_AREA)
        shown: Sequence[Panel] = ()
        if isinstance(pl_module, Method):
            # The batch is one image: nothing here may depend on which others were drawn.
            with torch.no_grad(), trainer.precision_plugin.forward_context():
                shown = pl_module.panels(batch["image"][i : i + 1], case)
        panels = [draw_panel(panel, case, image) for panel in shown]
        reference, prediction = (shrink(x, size, cv2.INTER_NEAREST) for x in (batch["reference"][i], prediction))
        text = "".join(f" | {panel.title}" for panel in shown)
        picture = draw_overlay(image, reference, prediction, case, panels, text)
        log_image(trainer, f"val/{picture_name(case)}", picture, trainer.global_step)


def draw_panel(panel: Panel, case: Case, picture: np.ndarray) -> np.ndarray:
    """Draw what a method shows of an image.

    Args:
        panel: Of the method.
        case: Tells which part of the network's input is image.
        picture: uint8 ``(H, W, 3)`` to draw on, of any size; stays as it is.

    Returns:
        uint8 ``(H, W, 3)``.
    """
    drawn = picture.copy()
    height, width = case.content_size
    content = panel.labels[:height, :width].to(torch.uint8).cpu().numpy()
    draw_contours(drawn, resize_labels(content, drawn.shape[:2], case.geometry))
    for marks in panel.marks:
        draw_marks(drawn, marks, (drawn.shape[1] / width, drawn.shape[0] / height))
    return drawn


def draw_marks(picture: np.ndarray, marks: Marks, scale: tuple[float, float]) -> None:
    """Draw points into a picture, in the colour of their class and with a dark edge.

    Args:
        picture: uint8 ``(H, W, 3)``, drawn into.
        marks: The points; those that stand for none are left out.
        scale: Pixels of the picture per pixel of the network's input, in x and y.
    """
    for point, label in zip(marks.points.tolist(), marks.labels.tolist(), strict=True):
        if label == NOT_A_POINT:
            continue
        at = [round((point[axis] + 0.5) * scale[axis] - 0.5) for axis in (0, 1)]
        for colour, radius, size, width in (((0, 0, 0), 5, 11, 4), (class_colour(label), 3, 9, 2)):
            if marks.shape == "disc":
                cv2.circle(picture, at, radius, colour, -1, cv2.LINE_AA)
            else:
                cv2.drawMarker(picture, at, colour, cv2.MARKER_TILTED_CROSS, size, width, cv2.LINE_AA)


def shrink(image: np.ndarray, size: tuple[int, int], how: int) -> np.ndarray:
    """Resize to ``(H, W)`` by OpenCV's ``how``."""
    return image if image.shape[:2] == size else cv2.resize(image, (size[1], size[0]), interpolation=how)
