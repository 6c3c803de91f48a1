"""Pictures for every logger: files beside the CSV tables, TensorBoard, Weights & Biases."""

from pathlib import Path

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from numpy.typing import NDArray

from lightning_samseg.io.images import read_image, write_image


def log_image(
    trainer: Trainer, name: str, image: NDArray[np.uint8] | str | Path, step: int, wandb: bool = True
) -> None:
    """Give a picture to every logger of the run, from the main process alone.

    The CSV logger gets ``logs/images/NAME/STEP.png`` (nothing of what is a file), TensorBoard and W&B the picture under
    its name.

    Args:
        trainer: Whose loggers.
        name: Name of the picture, the same at every step; slashes make groups, such as ``val/case_7``.
        image: uint8 ``(H, W, 3)`` or ``(H, W)``, or the image file that holds it.
        step: Iteration that the picture belongs to.
        wandb: Whether W&B gets it, too.
    """
    if not trainer.is_global_zero or not trainer.loggers:
        return
    pixels = image if isinstance(image, np.ndarray) else read_image(image)
    for logger in trainer.loggers:
        if not wandb and isinstance(logger, WandbLogger):
            continue
        if isinstance(logger, CSVLogger) and not isinstance(image, np.ndarray):
            continue  # it is a file already
        _give(logger, name, pixels if pixels.ndim == 3 else np.stack([pixels] * 3, axis=-1), step)


def _give(logger: Logger, name: str, pixels: NDArray[np.uint8], step: int) -> None:
    if isinstance(logger, CSVLogger):
        write_image(Path(logger.root_dir) / "images" / name / f"{step:06d}.png", pixels)
    elif isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(name, pixels, step, dataformats="HWC")
    elif isinstance(logger, WandbLogger):
        logger.log_image(name, [pixels], step=step)
