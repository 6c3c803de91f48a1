"""The same few validation images at every validation: what a run learns, to look at."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_samseg.callbacks.logger_images import log_image
from lightning_samseg.callbacks.overlays import class_colour, draw_contours, draw_overlay, picture_name
from lightning_samseg.io.geometry import resize_labels
from lightning_samseg.methods.cpc_sam import CpcSam
from lightning_samseg.prompts.points import NOT_A_POINT
from lightning_samseg.types import IGNORED, Batch, Case

PANEL = 320
"""Longest side of a panel in pixels: loggers keep every picture."""


class ValidationOverlays(Callback):
    """Gives ``val/CASE`` to every logger: image, reference and prediction of fixed cases, validation by validation.

    The images of the validation set (of the main process's share, where there are several) are cut into ``limit`` runs
    of equal length; the first image with foreground from the middle of each run on is drawn, whatever is predicted.
    For CPC-SAM two more panels show each branch without a prompt, and the points it prompts the other branch with:
    centres as crosses, random points as discs, in the colour of their class and white for the background.

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
        panels: list[np.ndarray] = []
        if isinstance(pl_module, CpcSam):
            # The batch is one image: nothing here may depend on which others were drawn.
            with torch.no_grad(), trainer.precision_plugin.forward_context():
                panels = branch_panels(pl_module, batch["image"][i : i + 1], case, image)
        reference, prediction = (shrink(x, size, cv2.INTER_NEAREST) for x in (batch["reference"][i], prediction))
        text = "".join(f" | branch {n}, its points" for n in range(1, len(panels) + 1))
        picture = draw_overlay(image, reference, prediction, case, panels, text)
        log_image(trainer, f"val/{picture_name(case)}", picture, trainer.global_step)


def branch_panels(method: CpcSam, image: Tensor, case: Case, picture: np.ndarray) -> list[np.ndarray]:
    """What each unprompted branch predicts for an image, with the points chosen from it.

    The random points are drawn alike at every call, so that pictures of a case differ by what was learned alone.

    Args:
        method: In evaluation mode.
        image: ``(1, 3, S, S)``.
        case: Tells which part of the input is image.
        picture: uint8 ``(H, W, 3)`` to draw on, of any size.

    Returns:
        A panel uint8 ``(H, W, 3)`` for each branch.
    """
    embeddings, panels = method.encode(image), []
    for branch in method.branches:
        labels = method.decode(embeddings, branch).argmax(1)
        panel = picture.copy()
        height, width = case.content_size
        content = labels[0, :height, :width].to(torch.uint8).cpu().numpy()
        draw_contours(panel, resize_labels(content, panel.shape[:2], case.geometry))
        if method.cross == "prompted":
            points = method.choose_points(labels, [np.random.default_rng((method.seed, branch))])
            scale = (panel.shape[1] / width, panel.shape[0] / height)
            draw_points(panel, points.center[0], points.center_labels[0], scale, cv2.MARKER_TILTED_CROSS)
            draw_points(panel, points.random[0], points.random_labels[0], scale, None)
        panels.append(panel)
    return panels


def draw_points(panel: np.ndarray, points: Tensor, labels: Tensor, scale: Sequence[float], marker: int | None) -> None:
    """Draw prompts ``(N, 2)`` of classes ``(N,)`` into a panel, as OpenCV's marker, or as discs; with a dark edge.

    Args:
        panel: uint8 ``(H, W, 3)``, drawn into.
        points: (x, y) in pixels of the network's input.
        labels: Class ids; those that stand for no point are left out.
        scale: Pixels of the panel per pixel of the input, in x and y.
        marker: Of OpenCV; None for a disc.
    """
    for point, label in zip(points.tolist(), labels.tolist(), strict=True):
        if label == NOT_A_POINT:
            continue
        at = [round((point[axis] + 0.5) * scale[axis] - 0.5) for axis in (0, 1)]
        if marker is None:
            cv2.circle(panel, at, 5, (0, 0, 0), -1, cv2.LINE_AA)
            cv2.circle(panel, at, 3, class_colour(label), -1, cv2.LINE_AA)
        else:
            cv2.drawMarker(panel, at, (0, 0, 0), marker, 11, 4, cv2.LINE_AA)
            cv2.drawMarker(panel, at, class_colour(label), marker, 9, 2, cv2.LINE_AA)


def shrink(image: np.ndarray, size: tuple[int, int], how: int) -> np.ndarray:
    """Resize to ``(H, W)`` by OpenCV's ``how``."""
    return image if image.shape[:2] == size else cv2.resize(image, (size[1], size[0]), interpolation=how)
