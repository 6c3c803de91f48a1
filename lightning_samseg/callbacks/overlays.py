"""Pictures of predictions: the image, the reference's contour, the prediction's contour."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_samseg.io.images import write_image
from lightning_samseg.io.text import file_name
from lightning_samseg.log import logger
from lightning_samseg.metrics.functional import dsc
from lightning_samseg.types import IGNORED, Batch, Case

CLASS_COLOURS = ((255, 176, 0), (0, 158, 255), (220, 60, 220), (0, 200, 120), (240, 80, 60), (150, 110, 255))
"""RGB, told apart by colour-blind readers too; classes beyond the sixth start again."""
REFERENCE_COLOUR = (255, 255, 255)
IGNORED_COLOUR = (128, 128, 128)
CAPTION_HEIGHT = 28


class OverlayWriter(Callback):
    """Writes ``overlays/CASE.png`` during a test, for at most ``limit`` images spread evenly over the test set.

    Args:
        folder: Folder of the results.
        limit: Most pictures to draw; 0 for none.
    """

    def __init__(self, folder: str | Path, limit: int = 24) -> None:
        self.folder = Path(folder) / "overlays"
        self.limit = limit

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the chosen images of the batch."""
        if self.limit == 0 or outputs is None or "original" not in batch:
            return
        batches = int(trainer.num_test_batches[dataloader_idx])
        # Every `stride`-th image: enough batches lie ahead that `limit` pictures cover the whole test set.
        stride = max(1, -(-batches * len(batch["cases"]) * trainer.world_size // self.limit))
        first = batch_idx * len(batch["cases"])
        for i, (case, prediction) in enumerate(zip(batch["cases"], outputs, strict=True)):
            if (first + i) % stride == 0:
                picture = draw_overlay(batch["original"][i], batch["reference"][i], prediction, case)
                write_image(self.folder / f"{picture_name(case)}.png", picture)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say where the pictures are."""
        if trainer.is_global_zero and self.folder.is_dir():
            logger.info(f"overlays  {self.folder}")


def draw_overlay(
    image: np.ndarray,
    reference: np.ndarray,
    prediction: np.ndarray,
    case: Case,
    more: Sequence[np.ndarray] = (),
    more_text: str = "",
) -> np.ndarray:
    """Three panels under a caption: the image, the reference, and the prediction with the reference in white.

    Args:
        image: uint8 ``(H, W, 3)``.
        reference: uint8 ``(H, W)`` class ids or ``IGNORED``.
        prediction: uint8 ``(H, W)`` class ids.
        case: Named in the caption.
        more: Panels uint8 ``(H, W, 3)`` to their right.
        more_text: What the caption says of them.

    Returns:
        uint8 ``(H + 28, (3 + len(more)) W, 3)``.
    """
    expected, predicted = image.copy(), image.copy()
    draw_contours(expected, reference)
    draw_contours(predicted, reference, REFERENCE_COLOUR)
    draw_contours(predicted, prediction)
    panels = np.concatenate([image, expected, predicted, *more], axis=1)
    caption = np.full((CAPTION_HEIGHT, panels.shape[1], 3), 24, np.uint8)
    slice_note = f" slice {case.slice_index}" if case.num_slices > 1 else ""
    score = foreground_dsc(reference, prediction)
    text = f"{case.case_id}{slice_note}: image | reference | prediction (reference white), DSC {score}{more_text}"
    scale = min(0.5, panels.shape[1] / (1400 + 12 * len(more_text)))
    cv2.putText(caption, text, (6, 19), cv2.FONT_HERSHEY_SIMPLEX, scale, (235, 235, 235), 1, cv2.LINE_AA)
    return np.concatenate([caption, panels])


def draw_contours(image: np.ndarray, labels: np.ndarray, colour: tuple[int, int, int] | None = None) -> None:
    """Draw the outline of every class into ``image``, in its own colour or in the one given.

    What is ignored has a grey outline where classes have their own.
    """
    thickness = max(1, round(max(labels.shape) / 350))
    for class_id in np.unique(labels):
        if class_id and (class_id != IGNORED or colour is None):
            contours, _ = cv2.findContours((labels == class_id).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(image, contours, -1, colour or class_colour(int(class_id)), thickness)


def class_colour(class_id: int) -> tuple[int, int, int]:
    """RGB of a class, white for the background 0, grey for what is ignored."""
    if class_id == IGNORED:
        return IGNORED_COLOUR
    return CLASS_COLOURS[(class_id - 1) % len(CLASS_COLOURS)] if class_id else REFERENCE_COLOUR


def foreground_dsc(reference: np.ndarray, prediction: np.ndarray) -> str:
    """DSC in percent of all foreground against background where the reference is known, for the caption."""
    known = reference != IGNORED
    predicted, expected = (prediction > 0) & known, (reference > 0) & known
    if not predicted.any() and not expected.any():
        return "- (both empty)"
    return f"{100 * dsc(predicted, expected):.1f} %"


def picture_name(case: Case) -> str:
    """Name of a picture of a case, without ending; of a volume with the number of the slice, from 0."""
    name = file_name(case.case_id)
    return f"{name}_{case.slice_index:03d}" if case.num_slices > 1 else name
