"""Two real training steps of any method on generated images: the batches, the trainer, and what is around them."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_samseg.methods import Method, SemiSam
from lightning_samseg.types import Batch, Case, Query, Segmentation, SemiBatch, StreamItem

PICTURE = (528, 620)
"""``(H, W)`` of the pictures of a stream in pixels: the mean of Kvasir's."""
STEPS = 2
"""The second has the optimizer's state from its start."""


@dataclass(frozen=True)
class Load:
    """How much goes into a step."""

    labelled: int = 3
    """Labelled images."""
    unlabelled: int = 3
    """Unlabelled images, for methods that use them."""
    predicted: int = 4
    """Images predicted at a time."""


class Steps:
    """A method and what it is fed with.

    The steps are those of the middle of a run (``Method.to_mid_run``), and SemiSAM has embedded its images.

    Args:
        method: Any of this package's that learns.
        load: How much goes into a step.
        precision: ``32-true``, ``bf16-mixed`` or ``16-mixed``.
        accelerator: Lightning's.
        picture: ``(H, W)`` of a stream's pictures.
    """

    def __init__(
        self,
        method: Method,
        load: Load,
        precision: Any = "32-true",
        accelerator: str = "cpu",
        picture: tuple[int, int] = PICTURE,
    ) -> None:
        self.method, self.load, self.precision, self.accelerator = method, load, precision, accelerator
        self.picture = picture
        if isinstance(method, SemiSam):
            method.picture = lambda case: self._picture(case.slice_index)  # type: ignore[method-assign]

    def fit(self, *callbacks: lightning.Callback, steps: int = STEPS) -> lightning.Trainer:
        """Make the steps.

        Args:
            callbacks: Of the trainer.
            steps: How many.
        """
        plugins: list[Any] = []
        precision = self.precision
        if precision == "16-mixed" and self.accelerator == "cpu":  # Lightning would take bfloat16
            plugins, precision = [MixedPrecision("16-mixed", "cpu", _Scaler("cpu"))], None
        batches: Any = [self.batch(number) for number in range(steps)]
        with quiet():
            trainer = lightning.Trainer(
                accelerator=self.accelerator,
                devices=1,
                precision=precision,
                plugins=plugins,
                max_steps=steps,
                max_epochs=-1,
                callbacks=[_AsInARun(), *callbacks],
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
            )
            trainer.fit(self.method, DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch))
        return trainer

    def predict(self) -> list[Segmentation]:
        """Answer pictures as many as are predicted at a time, in the precision of the run, where the method is."""
        kind = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(self.precision)
        self.method.eval()
        with torch.no_grad(), torch.autocast(self.method.device.type, kind, enabled=kind is not None):
            return self.method.answer(self.queries())

    def batch(self, number: int) -> Batch | SemiBatch | StreamItem:
        """What one step takes."""
        if self.method.uses_stream:
            return self.item(number)
        labelled = Batch(image=self._images(self.load.labelled), mask=self._masks(self.load.labelled))
        if not self.method.uses_unlabelled:
            return labelled
        count = self.load.unlabelled
        motion = torch.eye(2, 3).repeat(count, 1, 1)
        cases = [self._case(f"image {image}", image) for image in range(count)]
        return SemiBatch(labelled=labelled, unlabelled=Batch(image=self._images(count), motion=motion, cases=cases))

    def queries(self) -> list[Query]:
        """Pictures to be predicted together; one where each has prompts of its own."""
        if self.method.prompt_kind is None:
            nothing, side = np.zeros((0, 4)), self.method.image_size
            picture = np.zeros((side, side, 3), np.uint8)
            return [Query(image, picture, self._case("image"), nothing) for image in self._images(self.load.predicted)]
        height, width = self.picture
        places = {"box": [[width // 4, height // 4, width // 2, height // 2]], "point": [[width // 3, height // 3]]}
        prompts = np.array(places[self.method.prompt_kind], np.float64)
        picture = self._picture(STEPS)
        return [Query(torch.zeros(()), picture, Case("picture", "picture", self.picture, self.picture), prompts)]

    def item(self, position: int) -> StreamItem:
        """An image of a stream, with one object."""
        height, width = self.picture
        reference = np.zeros(self.picture, np.uint8)
        reference[height // 4 : height // 2, width // 4 : width // 2] = 1
        cases = [Case(f"image {position}", "picture", self.picture, self.picture)]
        original = self._picture(position)
        return StreamItem(position=position, set_name="", cases=cases, original=original, reference=reference)

    def _picture(self, number: int) -> np.ndarray:
        return np.random.default_rng(number).integers(0, 256, (*self.picture, 3), dtype=np.uint8)

    def _case(self, name: str, number: int = 0) -> Case:
        side = self.method.image_size
        return Case(name, name, (side, side), (side, side), slice_index=number)

    def _images(self, count: int) -> Tensor:
        return torch.rand(count, 3, self.method.image_size, self.method.image_size)

    def _masks(self, count: int) -> Tensor:
        """Blocks of all classes."""
        side, cell = self.method.image_size, self.method.image_size // 4
        coarse = torch.randint(0, self.method.num_classes + 1, (count, 5, 5))
        return coarse.repeat_interleave(cell, 1).repeat_interleave(cell, 2)[:, :side, :side].contiguous()


class _Scaler(torch.amp.GradScaler):
    """Steps always: without looking at gradients, which may have no values, for infinite ones."""

    def _maybe_opt_step(self, optimizer: Any, optimizer_state: Any, *args: Any, **kwargs: Any) -> Any:
        return optimizer.step(*args, **kwargs)


class _AsInARun(lightning.Callback):
    """What differs in a run on a GPU, and in its middle."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """The optimizer works on all parameters at a time, and needs room for that."""
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["foreach"] = True

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Begin no step as the first of a run."""
        pl_module.to_mid_run()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's remarks off the screen."""
    names = ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
