"""Pictures of a stream, drawn when it has ended: alpha over time, running DSC, gain per image, chosen cases."""

from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray

from lightning_samseg.callbacks.logger_images import log_image
from lightning_samseg.callbacks.overlays import CAPTION_HEIGHT, draw_contours
from lightning_samseg.io.images import write_image
from lightning_samseg.log import logger
from lightning_samseg.online.columns import CLIPPED, SAM, column_colour, column_label
from lightning_samseg.online.predictions import Prediction, paste
from lightning_samseg.online.row_files import read_prompt_alphas, read_rows
from lightning_samseg.online.scores import ImageRow
from lightning_samseg.online.stream_record import StreamRecord

CHOICES = ("first", "best_gain", "worst_gain")


class Chosen(NamedTuple):
    """A case worth showing."""

    position: int
    gain: float
    masks: torch.Tensor
    """uint8 ``(3, n)``: SAM, auxiliary network, fusion, packed to bits."""
    picture: torch.Tensor
    """uint8 ``(H, W, 3)``."""
    reference: torch.Tensor
    """uint8 ``(H, W)``."""


class StreamFigures(Callback):
    """Keeps three cases in memory and draws ``figures/*.png`` at the end, so that drawing never slows the stream.

    TensorBoard and W&B get the pictures as ``figures/NAME``; the running curves they have as numbers already.

    The cases are the stream's first image with a prompt and those that AuxOL improves and harms most, in DSC over SAM
    clipped to the crops.

    Args:
        folder: Folder of the results.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._chosen: dict[str, Chosen] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the masks of those of a step's images that are one of the three."""
        for done in outputs["records"]:  # of all processes, on rank 0
            self._consider(done)

    def _consider(self, done: StreamRecord) -> None:
        gain = done.image.learned_dsc - done.image.sam_clipped_dsc
        if not done.prompts:
            return
        names = [
            name
            for name, is_better in zip(CHOICES, (False, *self._beaten(gain)), strict=True)
            if name not in self._chosen or is_better
        ]
        if names:
            picture, reference = (torch.from_numpy(each.copy()) for each in (done.picture, done.reference))
            chosen = Chosen(done.image.position, gain, packed_masks(done.prediction), picture, reference)
            self._chosen |= dict.fromkeys(names, chosen)

    def _beaten(self, gain: float) -> tuple[bool, bool]:
        if not self._chosen:
            return True, True
        return gain > self._chosen["best_gain"].gain, gain < self._chosen["worst_gain"].gain

    def state_dict(self) -> dict[str, Any]:
        """The cases so far, as plain values."""
        return {name: tuple(chosen) for name, chosen in self._chosen.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the cases so far."""
        self._chosen = {name: Chosen(*values) for name, values in state_dict.items()}

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw."""
        if not trainer.is_global_zero:
            return
        rows = read_rows(self.folder / "cases.csv")
        if not rows:
            return
        folder = self.folder / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        column: Any = pl_module.column
        draw_curves(rows, read_prompt_alphas(self.folder / "prompts.csv"), folder, column)
        for name, chosen in self._chosen.items():
            row = next(row for row in rows if row.position == chosen.position)
            write_image(folder / f"{name}.png", draw_strip(chosen, row, column_label(column)))
        for path in sorted(folder.glob("*.png")):
            log_image(trainer, f"figures/{path.stem}", path, trainer.global_step)
        logger.info(f"figures   {folder}")


def packed_masks(prediction: Prediction) -> torch.Tensor:
    """SAM's, the auxiliary network's and the fused mask of an image: uint8 ``(3, n)`` bits, row by row."""
    crops = [prompt.crop for prompt in prediction.prompts]
    answers = [prompt.aux_logits for prompt in prediction.prompts]
    device = prediction.mask.device
    auxiliary = paste(answers, crops, (prediction.mask.shape[0], prediction.mask.shape[1]), device)
    masks = torch.stack([prediction.sam, auxiliary, prediction.mask]).flatten(1)
    return torch.from_numpy(np.packbits(masks.cpu().numpy(), axis=1))


def draw_strip(chosen: Chosen, row: ImageRow, label: str) -> NDArray[np.uint8]:
    """Five panels under a caption: image, SAM, auxiliary network, fusion, reference; the reference's outline in white.

    Args:
        chosen: The image, its reference and masks.
        row: Its scores.
        label: What the method is called.

    Returns:
        uint8 ``(H + 28, 5W, 3)``.
    """
    picture, reference = chosen.picture.numpy(), chosen.reference.numpy()
    bits = np.unpackbits(chosen.masks.numpy(), axis=1, count=reference.size)
    panels = [picture]
    for mask in (*bits.reshape(3, *reference.shape), reference):
        panel = picture.copy()
        draw_contours(panel, reference, (255, 255, 255))
        draw_contours(panel, mask)
        panels.append(panel)
    strip = np.concatenate(panels, axis=1)
    caption = np.full((CAPTION_HEIGHT, strip.shape[1], 3), 24, np.uint8)
    text = (
        f"{row.case_id}: image | SAM {100 * row.sam_dsc:.1f} % | auxiliary | {label} {100 * row.learned_dsc:.1f} % "
        f"(clipped SAM {100 * row.sam_clipped_dsc:.1f} %) | reference"
    )
    scale = min(0.6, strip.shape[1] / 1400)
    cv2.putText(caption, text, (6, 19), cv2.FONT_HERSHEY_SIMPLEX, scale, (235, 235, 235), 1, cv2.LINE_AA)
    return np.concatenate([caption, strip])


def draw_curves(rows: list[ImageRow], alphas: list[float], folder: Path, column: str) -> None:
    """Write ``alpha.png`` (as Fig. 6), ``running_dsc.png`` and ``gain.png``.

    Args:
        rows: Images of the stream.
        alphas: Weight of SAM at each prompt of the stream.
        folder: Where to.
        column: What learned, see ``online.columns``.
    """
    from matplotlib.figure import Figure  # late: it takes a second to import

    def start(title: str, x: str, y: str) -> tuple[Figure, Any]:
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        axes = figure.subplots()
        axes.set(title=title, xlabel=x, ylabel=y)
        axes.spines[["top", "right"]].set_visible(False)
        return figure, axes

    figure, axes = start("Weight of SAM in the fusion", "prompt", "alpha")
    axes.plot(alphas, color=column_colour(column), linewidth=1)
    axes.set_ylim(-0.02, 1.02)
    figure.savefig(folder / "alpha.png", dpi=150)

    figure, axes = start("Mean DSC so far", "image", "DSC in %")
    count = np.arange(1, len(rows) + 1)
    for name, field in {SAM: SAM, CLIPPED: CLIPPED, column: "learned"}.items():
        scores = 100 * np.array([getattr(row, f"{field}_dsc") for row in rows])
        axes.plot(count, np.cumsum(scores) / count, color=column_colour(name), label=column_label(name))
    axes.legend(frameon=False)
    _mark_sets(axes, rows)
    figure.savefig(folder / "running_dsc.png", dpi=150)

    figure, axes = start("Gain of each image over clipped SAM", "image", "DSC in points")
    gain = 100 * np.array([row.learned_dsc - row.sam_clipped_dsc for row in rows])
    axes.bar(count, gain, width=1.0, color=np.where(gain >= 0, column_colour(column), column_colour(SAM)))
    axes.axhline(0, color="black", linewidth=0.8)
    _mark_sets(axes, rows)
    figure.savefig(folder / "gain.png", dpi=150)


def _mark_sets(axes: Any, rows: list[ImageRow]) -> None:
    """A line where one set of the stream ends and the next begins."""
    for before, (row, after) in enumerate(pairwise(rows), start=1):
        if row.set_name != after.set_name:
            axes.axvline(before + 0.5, color="black", linewidth=0.5, linestyle=":")
